package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

// TestKeysOfRooms derives the rooms' keys as testdata/keys.json has them, which an independent implementation computed. Another
// derivation would lock every store there is.
func TestKeysOfRooms(t *testing.T) {
	b, err := os.ReadFile("testdata/keys.json")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	root, err := crypto.DataKeyFromBytes(bytes.Repeat([]byte{1}, crypto.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	s := &store{root: root}
	got := map[string]bool{}
	for _, name := range []string{keyRows, keyLedger, keyVolume, keyAnchor, keyAudit, keyKeystore} {
		k := hex.EncodeToString(s.key(name).Expose())
		if k != want[name] || got[k] {
			t.Errorf("%s: %s, want %s, and no two alike", name, k, want[name])
		}
		got[k] = true
	}
	if len(got) != len(want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
