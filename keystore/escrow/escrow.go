// Package escrow seals a key that is given into somebody's keeping, in the format of age (age-encryption.org): for recipients,
// who have an identity file, or under a passphrase (scrypt). What is inside is keystore.Escrow as JSON; it is never on disk or on the
// wire in any other form.
//
// The package knows no policy: package keystore decides who may have a key out or in.
package escrow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/kmsfs/kmsfs/keystore"
)

// MaxSize is the longest file that Open takes, in bytes.
const MaxSize = 2 << 20

const (
	workFactor    = 18 // log2 of scrypt's N: about a second
	maxWorkFactor = 22
)

// The errors of this package.
var (
	// ErrRecipient: what is to be sealed for is no recipient, or nobody.
	ErrRecipient = errors.New("no recipient of age")
	// ErrIdentity: none of the identities, and no passphrase that was given, opens the file.
	ErrIdentity = errors.New("the key in escrow cannot be opened with this")
	// ErrFormat: the file is not a key in escrow.
	ErrFormat = errors.New("not a key in escrow")
)

// Seal gives the bytes of a file, in age's armor. Either recipients ("age1…") or a passphrase: a file has one kind of key. It does not
// wipe e.
func Seal(e *keystore.Escrow, recipients []string, passphrase []byte) ([]byte, error) {
	to, err := Recipients(recipients, passphrase)
	if err != nil {
		return nil, err
	}
	return sealFor(e, to)
}

func sealFor(e *keystore.Escrow, to []age.Recipient) ([]byte, error) {
	plain, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode a key for escrow: %w", err)
	}
	defer clear(plain)
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, to...)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = a.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("seal a key for escrow: %w", err)
	}
	return append(out.Bytes(), '\n'), nil
}

// Recipients reads what a key is to be sealed for: ErrRecipient if that is nobody.
func Recipients(recipients []string, passphrase []byte) ([]age.Recipient, error) {
	switch {
	case len(recipients) > 0 && len(passphrase) > 0:
		return nil, fmt.Errorf("%w: recipients and a passphrase exclude each other", ErrRecipient)
	case len(passphrase) > 0:
		r, err := age.NewScryptRecipient(string(passphrase))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRecipient, err)
		}
		r.SetWorkFactor(workFactor)
		return []age.Recipient{r}, nil
	case len(recipients) == 0:
		return nil, fmt.Errorf("%w: none is given", ErrRecipient)
	}
	to, err := age.ParseRecipients(strings.NewReader(strings.Join(recipients, "\n")))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecipient, err)
	}
	return to, nil
}

// Open opens a file that Seal made, with the text of an age identity file or a passphrase. The caller wipes what it gets.
func Open(file []byte, identities string, passphrase []byte) (*keystore.Escrow, error) {
	if len(file) > MaxSize {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrFormat, len(file))
	}
	with, err := parseIdentities(identities, passphrase)
	if err != nil {
		return nil, err
	}
	var in io.Reader = bytes.NewReader(file)
	if bytes.HasPrefix(bytes.TrimSpace(file), []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	r, err := age.Decrypt(in, with...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, ErrIdentity
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, MaxSize))
	defer clear(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	e := new(keystore.Escrow)
	dec := json.NewDecoder(bytes.NewReader(plain))
	if err := dec.Decode(e); err != nil || e.Kind != keystore.EscrowKind {
		e.Wipe()
		return nil, ErrFormat // without the reason, which could quote a secret
	}
	return e, nil
}

func parseIdentities(identities string, passphrase []byte) ([]age.Identity, error) {
	if len(passphrase) > 0 {
		i, err := age.NewScryptIdentity(string(passphrase))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrIdentity, err)
		}
		i.SetMaxWorkFactor(maxWorkFactor)
		return []age.Identity{i}, nil
	}
	with, err := age.ParseIdentities(strings.NewReader(identities))
	if err != nil {
		return nil, fmt.Errorf("%w: the identity file is malformed", ErrIdentity) // age's own message could quote a line of it
	}
	return with, nil
}
