package escrow

import (
	"bytes"
	"errors"
	"testing"

	"filippo.io/age"

	"github.com/kmsfs/kmsfs/keystore"
)

// TestPassphrase takes a small work factor: the usual one takes a second, and the race detector ten times as long.
func TestPassphrase(t *testing.T) {
	r, err := age.NewScryptRecipient("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	r.SetWorkFactor(10)
	e := &keystore.Escrow{
		Kind: keystore.EscrowKind, Format: keystore.EscrowFormat, KeyID: "k",
		Materials: []keystore.EscrowMaterial{{ID: "m", Secret: bytes.Repeat([]byte{0x5a}, 32)}},
	}
	file, err := sealFor(e, []age.Recipient{r})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := Open(file, "", []byte("correct horse")); err != nil || len(e.Materials) != 1 || e.Materials[0].Secret[31] != 0x5a {
		t.Errorf("%v %v", e, err)
	}
	if _, err := Open(file, "", []byte("battery")); !errors.Is(err, ErrIdentity) {
		t.Errorf("another passphrase: %v", err)
	}
	if to, err := Recipients(nil, []byte("correct horse")); err != nil || len(to) != 1 {
		t.Errorf("%v %v", to, err)
	}
	if _, err := Recipients(nil, nil); !errors.Is(err, ErrRecipient) {
		t.Errorf("nobody: %v", err)
	}
}
