package audit

import (
	"bufio"
	"bytes"
	"errors"
	"testing"
)

// FuzzRecord: no bytes make the decoders panic, and what they take is what they would write.
func FuzzRecord(f *testing.F) {
	ks, err := newKeys(testKey, nil)
	if err != nil {
		f.Fatal(err)
	}
	logID := [16]byte{1}
	const plain = `{"eventName":"Decrypt"}`
	good, _ := ks.seal(nil, logID, 1, ks.genesis(logID), []byte(plain))
	f.Add(good)
	f.Add(good[:20])
	f.Add(header{logID: logID, index: 1, first: 1}.encode(ks))
	f.Add(bytes.Repeat([]byte{0}, 300))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseHeader(ks, b); err == nil && !bytes.Equal(h.encode(ks), b[:headerSize]) {
			t.Fatal("a header that is not what it encodes to")
		}
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		if int(r.size()) > len(b) || len(r.body) < minBody {
			t.Fatal("a record beyond its bytes")
		}
		if line, err := ks.open(logID, r); err == nil && string(line) != plain {
			t.Fatalf("forged: %q", line)
		}
	})
}

// FuzzRecords: whatever a file holds behind its header, the walk ends, and opens nothing that was not sealed.
func FuzzRecords(f *testing.F) {
	ks, err := newKeys(testKey, nil)
	if err != nil {
		f.Fatal(err)
	}
	logID, chain, whole := [16]byte{1}, mac{}, []byte(nil)
	for i := range 3 {
		whole, chain = ks.seal(whole, logID, uint64(i+1), chain, []byte("event"))
	}
	f.Add(whole)
	f.Add(whole[50:])
	f.Add(append(whole[:150:150], whole[160:]...))
	f.Add(append(whole[:115:115], whole...))
	br := bufio.NewReaderSize(nil, maxRecord)
	f.Fuzz(func(t *testing.T, b []byte) {
		w := walk{r: &reader{keys: ks}, logID: logID, haveID: true}
		w.record = func(r record, line []byte) error {
			if string(line) != "event" || r.seq > 3 {
				t.Fatalf("record %d: %q", r.seq, line)
			}
			return nil
		}
		br.Reset(bytes.NewReader(b))
		if err := w.records(br, "x", int64(len(b)), true); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzBeginning(f *testing.F) {
	k, err := newKeys(testKey, nil)
	if err != nil {
		f.Fatal(err)
	}
	good := beginning{logID: [16]byte{1, 2}, index: 3, first: 9, chain: mac{4}}.encode(k)
	f.Add(good)
	f.Add(good[:50])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseBeginning(k, b)
		switch {
		case err == nil && !bytes.Equal(got.encode(k), b):
			t.Fatal("not what it says")
		case err != nil && (!errors.Is(err, ErrBroken) && !errors.Is(err, ErrVersion) || got != beginning{}):
			t.Fatal(got, err)
		}
	})
}
