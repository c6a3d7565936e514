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

func slotVector(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAnchorVector writes and reads the slots in testdata, which an independent implementation computed: the present one, and the
// one of old stores.
func TestAnchorVector(t *testing.T) {
	want := slotVector(t, "epoch.hex")
	path := filepath.Join(t.TempDir(), "epoch")
	a := openAnchor(t, path)
	var w Witness
	for i := range w {
		w[i] = byte(i)
	}
	last := AnchorState{Epoch: 7, Clean: true}
	for _, err := range []error{a.Store(AnchorState{Epoch: 5}), a.SetWitness(w), a.Store(last)} {
		if err != nil {
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
	old := filepath.Join(t.TempDir(), "epoch")
	if err := os.WriteFile(old, append(slotVector(t, "epoch1.hex"), make([]byte, anchorSlot)...), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]Witness{path: w, old: {}} {
		a := openAnchor(t, path)
		s, err := a.Load()
		got, werr := a.Witness()
		if err != nil || werr != nil || s != last || got != want {
			t.Errorf("read %+v %x, %v, %v", s, got, err, werr)
		}
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
	for _, seed := range [][]byte{nil, good, good[:anchorSlot], good[anchorSlot:], []byte(anchorMagic), []byte(anchorMagicOld), make([]byte, 2*anchorSlot)} {
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
