package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDictionary: the words are those of FORMAT.md, of which none may ever change its place.
func TestDictionary(t *testing.T) {
	text, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "## Dictionary\n")
	if !ok {
		t.Fatal("FORMAT.md has no dictionary")
	}
	var want []string
	for line := range strings.Lines(table) {
		if place, word, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(place, "0x") {
			if place != fmt.Sprintf("%#x", firstWord+len(want)) {
				t.Fatalf("%s is not at its place", line)
			}
			want = append(want, word)
		}
	}
	if len(want) != len(words) || len(words) > packedUUID-firstWord {
		t.Fatalf("%d words, FORMAT.md has %d", len(words), len(want))
	}
	for i, w := range words {
		if w != want[i] {
			t.Errorf("%#x is %s, in FORMAT.md %s", firstWord+i, w, want[i])
		}
	}
	for s, w := range values {
		if words[w-firstWord] != `"`+s+`"` {
			t.Errorf("%s stands for %s", s, words[w-firstWord])
		}
	}
}

func FuzzUnpack(f *testing.F) {
	e := Event{EventName: "Decrypt", RequestParameters: &Parameters{KeyID: "arn:aws:kms:r:a:key/01234567-89ab-cdef-0123-456789abcdef"}, UserAgent: "ümläut"}
	e.complete()
	packed, err := e.appendPacked(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add([]byte(`{"eventName":"Decrypt"}`))
	f.Add([]byte{packedMark, packedUUID, 1, 2})
	f.Fuzz(func(t *testing.T, line []byte) {
		out, err := unpack(line)
		if err != nil {
			if !errors.Is(err, errPacked) || out != nil {
				t.Fatalf("%q, %v", out, err)
			}
			return
		}
		e, err := ParseEvent(out)
		if err != nil {
			return
		}
		// What can be read can be packed again, and says the same.
		again, err := e.appendPacked(nil)
		if err != nil {
			return // a value that came in an any
		}
		text, err := e.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if unpacked, err := unpack(again); err != nil || !bytes.Equal(unpacked, text) {
			t.Fatalf("%s, %v, want %s", unpacked, err, text)
		}
	})
}

// TestPackedIsShort: an event of the filesystem takes a third of the room of its JSON.
func TestPackedIsShort(t *testing.T) {
	e := event(1)
	e.complete()
	text, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	packed, err := e.appendPacked(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, packed %d", len(text), len(packed))
	if 5*len(packed) > 2*len(text) {
		t.Errorf("%d bytes, packed %d", len(text), len(packed))
	}
}

// TestOlderFileIsNotContinued: what an older program has begun it can read to the end; events go on in a file of today, in the same chain.
func TestOlderFileIsNotContinued(t *testing.T) {
	ks, err := newKeys(testKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	logID := [16]byte{1}
	dir := t.TempDir()
	b := header{logID: logID, index: 1, first: 1, chain: ks.genesis(logID)}.encode(ks)
	b, _ = ks.seal(b, logID, 1, ks.genesis(logID), []byte(`{"eventName":"Decrypt"}`))
	path := filepath.Join(dir, fileName(1))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l := mustOpen(t, dir, Options{})
		if err := l.Append(&Event{EventName: "Encrypt"}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, b) {
		t.Errorf("the older file was changed (%v)", err)
	}
	l := mustOpen(t, dir, Options{})
	defer l.Close()
	var names []string
	if err := l.Query(Filter{}, func(e Event) error { names = append(names, e.EventName); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names, " "); got != "Decrypt Encrypt Encrypt" {
		t.Error(got)
	}
	report, err := l.Verify()
	if err != nil || len(report.Breaks) != 0 || report.Files != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}
