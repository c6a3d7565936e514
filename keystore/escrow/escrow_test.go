package escrow_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/escrow"
)

func sample() *keystore.Escrow {
	return &keystore.Escrow{
		Kind: keystore.EscrowKind, Format: keystore.EscrowFormat, KeyID: "k", Exported: time.Unix(1, 0).UTC(),
		Materials: []keystore.EscrowMaterial{{ID: "m", Secret: bytes.Repeat([]byte{0x5a}, 32)}},
	}
}

func identity(t testing.TB) *age.X25519Identity {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func same(e *keystore.Escrow) bool {
	return e != nil && e.KeyID == "k" && len(e.Materials) == 1 && bytes.Equal(e.Materials[0].Secret, bytes.Repeat([]byte{0x5a}, 32))
}

func TestRecipients(t *testing.T) {
	a, b, c := identity(t), identity(t), identity(t)
	file, err := escrow.Seal(sample(), []string{a.Recipient().String(), b.Recipient().String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(file), armor.Header) || bytes.Contains(file, []byte("WlpaWlpa")) {
		t.Errorf("the file is %s", file)
	}
	for _, i := range []*age.X25519Identity{a, b} {
		if e, err := escrow.Open(file, "# a comment\n"+i.String()+"\n", nil); err != nil || !same(e) {
			t.Errorf("%v %v", e, err)
		}
	}
	if e, err := escrow.Open(file, c.String(), nil); !errors.Is(err, escrow.ErrIdentity) || e != nil {
		t.Errorf("another identity: %v", err)
	}
	if _, err := escrow.Open(file, "", []byte("phrase")); !errors.Is(err, escrow.ErrIdentity) {
		t.Errorf("a passphrase: %v", err)
	}
	// age itself opens it, also without its armor.
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(file)), a)
	if err != nil || r == nil {
		t.Fatal(err)
	}
	for i := 0; i < len(file); i += 1 + len(file)/40 {
		bad := bytes.Clone(file)
		bad[i] ^= 1
		if e, err := escrow.Open(bad, a.String(), nil); err == nil && !same(e) {
			t.Errorf("byte %d changed: %+v", i, e)
		} else if err != nil && !errors.Is(err, escrow.ErrFormat) && !errors.Is(err, escrow.ErrIdentity) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	if _, err := escrow.Open(file[:len(file)/2], a.String(), nil); !errors.Is(err, escrow.ErrFormat) {
		t.Errorf("half of it: %v", err)
	}
}

func TestWrongInput(t *testing.T) {
	for what, to := range map[string][]string{"nobody": nil, "nonsense": {"age1nonsense"}, "an identity": {identity(t).String()}} {
		if _, err := escrow.Seal(sample(), to, nil); !errors.Is(err, escrow.ErrRecipient) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := escrow.Seal(sample(), []string{identity(t).Recipient().String()}, []byte("p")); !errors.Is(err, escrow.ErrRecipient) {
		t.Errorf("both: %v", err)
	}
	i := identity(t)
	secret := "AGE-SECRET-KEY-1NOTREALLY"
	_, err := escrow.Open(nil, secret, nil)
	if !errors.Is(err, escrow.ErrIdentity) || strings.Contains(fmt.Sprint(err), "NOTREALLY") {
		t.Errorf("a malformed identity: %v", err)
	}
	var other bytes.Buffer
	w, err := age.Encrypt(&other, i.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(`{"kind":"something else","secret":"hunter2"}`)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := escrow.Open(other.Bytes(), i.String(), nil); !errors.Is(err, escrow.ErrFormat) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("another file of age: %v", err)
	}
	if _, err := escrow.Open(make([]byte, escrow.MaxSize+1), i.String(), nil); !errors.Is(err, escrow.ErrFormat) {
		t.Errorf("too long: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	i := identity(f)
	file, err := escrow.Seal(sample(), []string{i.Recipient().String()}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add([]byte("age-encryption.org/v1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := escrow.Open(b, i.String(), nil); err != nil && !errors.Is(err, escrow.ErrFormat) && !errors.Is(err, escrow.ErrIdentity) {
			t.Fatal(err)
		}
	})
}
