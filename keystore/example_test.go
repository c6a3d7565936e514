package keystore

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

var update = flag.Bool("update", false, "write the vectors in testdata anew")

// TestExample pins the formats: the worked examples of FORMAT.md.
func TestExample(t *testing.T) {
	dk, err := crypto.DataKeyFromBytes(bytes.Repeat([]byte{7}, 32))
	must(t, err)
	id, ok := parseKeyID("00112233-4455-6677-8899-aabbccddeeff")
	if !ok {
		t.Fatal("key id")
	}
	s := &shredFile{macKey: dk.Derive(nil, shredInfo)}
	b := append([]byte{slotUsed, 0, 0, 0, 0, 0, 0, 0}, id[:]...)
	b = append(b, bytes.Repeat([]byte{0x55}, 32)...)
	b = append(b, s.mac("slot", 0, b)...)
	b = append(b, make([]byte, slotSize-len(b))...)
	slot := vector(t, "shred.hex", b)
	owner, salt, err := s.parseSlot(0, slot)
	must(t, err)
	if owner != id {
		t.Errorf("the slot is %s's", owner)
	}
	if _, _, err := s.parseSlot(1, slot); err == nil {
		t.Error("the slot opens at another place")
	}

	wrapping := dk.Derive(salt, materialInfo+id.String())
	mid := materialID(bytes.Repeat([]byte{0x77}, 32))
	nonce := bytes.Repeat([]byte{0x88}, 12)
	sealed := vector(t, "material.hex", wrapping.Seal(bytes.Clone(nonce), nonce, bytes.Repeat([]byte{0x66}, 32), materialAD(id, mid)))
	m, err := openMaterial(wrapping, id, mid, sealed)
	must(t, err)
	if !bytes.Equal(m.Expose(), bytes.Repeat([]byte{0x66}, 32)) {
		t.Error("another material")
	}
}

// vector compares with a file in testdata and returns what the file holds.
func vector(t *testing.T, name string, b []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(path, []byte(hex.EncodeToString(b)+"\n"), 0o644))
	}
	text, err := os.ReadFile(path)
	must(t, err)
	want, err := hex.DecodeString(strings.TrimSpace(string(text)))
	must(t, err)
	if !bytes.Equal(b, want) {
		t.Fatalf("%s: the format has changed", name)
	}
	return want
}
