package crypto_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var canonical = []struct {
	context crypto.Context
	hex     string
}{
	{nil, "00000000"},
	{crypto.Context{"": ""}, "00000001 00000000 00000000"},
	{crypto.Context{"b": "2", "a": "1"}, "00000002 00000001 61 00000001 31 00000001 62 00000001 32"},
	{crypto.Context{"a": "", "A": "x", "ab": "y"}, "00000003 00000001 41 00000001 78 00000001 61 00000000 00000002 6162 00000001 79"},
	{crypto.Context{"k": "\xff\x00"}, "00000001 00000001 6b 00000002 ff00"},
}

func TestCanonical(t *testing.T) {
	for _, c := range canonical {
		want := unhex(t, c.hex)
		if got := c.context.Canonical(); !bytes.Equal(got, want) {
			t.Errorf("%q: %x, want %x", c.context, got, want)
		}
		back, err := crypto.ParseContext(want)
		if err != nil || !back.Equal(c.context) || back == nil {
			t.Errorf("parse %x: %q, %v", want, back, err)
		}
	}
}

func TestParseContextRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":            "",
		"half a count":       "000000",
		"count too high":     "00000002 00000001 61 00000001 31",
		"huge count":         "ffffffff 00000000 00000000",
		"bytes left over":    "00000000 00",
		"out of order":       "00000002 00000001 62 00000000 00000001 61 00000000",
		"repeated name":      "00000002 00000001 61 00000000 00000001 61 00000001 31",
		"repeated empty":     "00000002 00000000 00000000 00000000 00000000",
		"name too long":      "00000001 000000ff 61 00000000",
		"huge value":         "00000001 00000001 61 ffffffff",
		"value missing":      "00000001 00000001 61",
		"length cut short":   "00000001 00000001 61 0000",
		"count below actual": "00000001 00000001 61 00000000 00000001 62 00000000",
	} {
		if c, err := crypto.ParseContext(unhex(t, in)); !errors.Is(err, crypto.ErrInvalidContext) {
			t.Errorf("%s: %q, %v, want ErrInvalidContext", name, c, err)
		}
	}
}

func FuzzParseContext(f *testing.F) {
	for _, c := range canonical {
		f.Add(unhex(f, c.hex))
	}
	f.Add(unhex(f, "00000002 00000001 62 00000000 00000001 61 00000000"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := crypto.ParseContext(in)
		if err != nil {
			if !errors.Is(err, crypto.ErrInvalidContext) || c != nil {
				t.Fatalf("%v with %q", err, c)
			}
			return
		}
		if out := c.Canonical(); !bytes.Equal(out, in) {
			t.Fatalf("parsed %x, canonical %x", in, out)
		}
	})
}
