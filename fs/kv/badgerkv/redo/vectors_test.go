package redo

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorsFile = "testdata/vectors.json"

// vectors is the begin of a segment, in hex: the header's bytes that are used, and what follows the header's block.
type vectors struct {
	Header, Records string
}

// TestVectors decodes a stored header and stored records, and encodes the same ones.
func TestVectors(t *testing.T) {
	h := header{size: 1 << 20, number: 3, live: true, first: 9, applied: 8}
	copy(h.id[:], "0123456789abcdef")
	var records []byte
	for i, payload := range []string{"first", "the second record"} {
		b := pad(append(make([]byte, RecordHeader), payload...))
		putRecord(b, len(payload), h.number, h.first+uint64(i), 7)
		records = append(records, b...)
	}
	v := vectors{hex.EncodeToString(h.encode()[:headerLength]), hex.EncodeToString(records)}
	b, err := json.MarshalIndent(v, "", "  ")
	check(t, err)
	b = append(b, '\n')
	if *update {
		check(t, os.WriteFile(vectorsFile, b, 0o644))
	}
	stored, err := os.ReadFile(vectorsFile)
	check(t, err)
	if !bytes.Equal(stored, b) {
		t.Fatalf("what is written now differs from %s", vectorsFile)
	}
	if got, err := decodeHeader(h.encode()); err != nil || got != h {
		t.Errorf("header %+v, %v", got, err)
	}
	r, ok := decodeRecord(records, 3)
	if !ok || r.seq != 9 || r.durable != 7 || string(r.payload) != "first" {
		t.Errorf("record %+v, %t", r, ok)
	}
	r, ok = decodeRecord(records[r.length:], 3)
	if !ok || r.seq != 10 || string(r.payload) != "the second record" {
		t.Errorf("record %+v, %t", r, ok)
	}
	if _, ok := decodeRecord(records, 2); ok {
		t.Error("a record of another life of the segment was accepted")
	}
}
