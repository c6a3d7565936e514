package audit

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/example.hex anew")

// TestExample pins the format: the worked example of FORMAT.md is what this code writes, and this code reads it.
func TestExample(t *testing.T) {
	ks, err := newKeys(testKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	var logID [16]byte
	for i := range logID {
		logID[i] = byte(i + 1)
	}
	var nonce [24]byte
	for i := range nonce {
		nonce[i] = byte(i)
	}
	const line = `{"eventName":"Decrypt"}`
	b := header{logID: logID, index: 1, first: 1, chain: ks.genesis(logID)}.encode(ks)
	b, _ = ks.sealWith(nonce, b, logID, 1, ks.genesis(logID), []byte(line))
	path := filepath.Join("testdata", "example.hex")
	if *update {
		if err := os.WriteFile(path, []byte(hexLines(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Fatal("the format has changed")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName(1)), want, 0o600); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, dir, Options{})
	defer l.Close()
	var names []string
	if err := l.Query(Filter{}, func(e Event) error { names = append(names, e.EventName); return nil }); err != nil || len(names) != 1 || names[0] != "Decrypt" {
		t.Fatal(names, err)
	}
}

func hexLines(b []byte) string {
	var s strings.Builder
	for len(b) > 0 {
		n := min(32, len(b))
		s.WriteString(hex.EncodeToString(b[:n]) + "\n")
		b = b[n:]
	}
	return s.String()
}
