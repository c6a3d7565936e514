package kv

import (
	"bytes"
	"testing"
)

func TestPrefixEnd(t *testing.T) {
	for _, c := range []struct{ prefix, end string }{
		{"a", "b"}, {"ab", "ac"}, {"a\xff", "b"}, {"a\xff\xff", "b"}, {"\x00", "\x01"}, {"\xfe\xff", "\xff"},
	} {
		prefix := []byte(c.prefix)
		if got := PrefixEnd(prefix); string(got) != c.end || string(prefix) != c.prefix {
			t.Errorf("PrefixEnd(%q) = %q, want %q", c.prefix, got, c.end)
		}
	}
	for _, p := range [][]byte{nil, {}, bytes.Repeat([]byte{0xff}, 3)} {
		if got := PrefixEnd(p); got != nil {
			t.Errorf("PrefixEnd(%q) = %q, want nil", p, got)
		}
	}
}
