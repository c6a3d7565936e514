package host

import (
	"fmt"

	"github.com/kmsfs/kmsfs/keystore/escrow"
)

// Keys into and out of escrow. The material is sealed and opened here, so that it never crosses the socket in clear.
const (
	CmdKeyExport = "key.export"
	CmdKeyImport = "key.import"
)

// KeyExportArgs name a key and for whom it is sealed: recipients of age, or a passphrase.
type KeyExportArgs struct {
	Key        string   `json:"key"`
	Recipients []string `json:"recipients,omitempty"`
	Passphrase []byte   `json:"passphrase,omitempty"` // secret
}

// KeyEscrow is a key in escrow.
type KeyEscrow struct {
	KeyID     string `json:"KeyId"`
	ARN       string `json:"Arn"`
	Materials int    `json:"Materials"`
	File      string `json:"Escrow"` // age's armor
}

// KeyImportArgs hold a key in escrow and what opens it.
type KeyImportArgs struct {
	File       []byte   `json:"file"`
	Identities string   `json:"identities,omitempty"` // secret: the text of an age identity file
	Passphrase []byte   `json:"passphrase,omitempty"` // secret
	Policy     Document `json:"policy"`               // for a key that is made again, instead of the one it had
}

// KeyImported says what came of it.
type KeyImported struct {
	KeyInfo
	Made  bool `json:"Made"`  // the key was not there
	Added int  `json:"Added"` // materials
}

func (c *call) keyExport(a KeyExportArgs) (any, error) {
	defer clear(a.Passphrase)
	// What is wrong with the recipients is said before a secret is touched.
	if _, err := escrow.Recipients(a.Recipients, a.Passphrase); err != nil {
		return nil, fmt.Errorf("%w: %w", errArguments, err)
	}
	e, err := c.d.cfg.Keystore.ExportKey(c.keys(), a.Key)
	if err != nil {
		return nil, err
	}
	defer e.Wipe()
	file, err := escrow.Seal(e, a.Recipients, a.Passphrase)
	if err != nil {
		return nil, err
	}
	return KeyEscrow{KeyID: e.KeyID, ARN: e.ARN, Materials: len(e.Materials), File: string(file)}, nil
}

func (c *call) keyImport(a KeyImportArgs) (any, error) {
	defer clear(a.Passphrase)
	e, err := escrow.Open(a.File, a.Identities, a.Passphrase)
	if err != nil {
		return nil, err
	}
	defer e.Wipe()
	var policy []byte
	if a.Policy.Set {
		policy = []byte(a.Policy.Text)
	}
	k, err := c.d.cfg.Keystore.ImportKey(c.keys(), e, policy)
	if err != nil {
		return nil, err
	}
	return KeyImported{KeyInfo: keyInfo(k.Metadata), Made: k.Made, Added: k.Materials}, nil
}
