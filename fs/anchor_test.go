package fs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

func anchorKey(t testing.TB) *crypto.DataKey {
	t.Helper()
	k, err := crypto.DataKeyFromBytes(bytes.Repeat([]byte{9}, crypto.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openAnchor(t testing.TB, path string) *FileAnchor {
	t.Helper()
	a, err := OpenFileAnchor(path, anchorKey(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// TestAnchorVector writes and reads the slot in testdata, which an independent implementation computed.
func TestAnchorVector(t *testing.T) {
	text, err := os.ReadFile("testdata/epoch.hex")
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "epoch")
	a := openAnchor(t, path)
	states := []AnchorState{{Epoch: 5}, {Epoch: 6}, {Epoch: 7, Clean: true}}
	for _, s := range states {
		if err := a.Store(s); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	slot := b[anchorSlot:] // the third is odd
	if !bytes.Equal(slot[:len(want)], want) || len(bytes.Trim(slot[len(want):], "\x00")) != 0 {
		t.Errorf("wrote %x, want %x", slot[:len(want)], want)
	}
	if s, err := openAnchor(t, path).Load(); err != nil || s != states[2] {
		t.Errorf("read %+v, %v", s, err)
	}
}

// FuzzAnchor reads arbitrary epoch files: no panic, and nothing is believed that was not written with the key.
func FuzzAnchor(f *testing.F) {
	path := filepath.Join(f.TempDir(), "epoch")
	a := openAnchor(f, path)
	for i := range 3 {
		if err := a.Store(AnchorState{Epoch: uint64(i) + 5}); err != nil {
			f.Fatal(err)
		}
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{nil, good, good[:anchorSlot], good[anchorSlot:], []byte(anchorMagic), make([]byte, 2*anchorSlot)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openAnchor(t, path).Load()
		switch {
		case err != nil && !errors.Is(err, ErrCorrupt):
			t.Error(err)
		case err == nil && len(b) > 0 && (s.Epoch < 5 || s.Epoch > 7 || s.Clean):
			t.Errorf("believed %+v", s)
		}
	})
}
