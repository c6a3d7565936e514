package segment

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

type layoutVectors struct {
	Headers []struct {
		Number     uint64
		Store, Hex string
		Size       int64
	}
	Unknown []struct{ Why, Hex string }
	Marks   []struct {
		Number uint64
		End    int64
		Hex    string
	}
}

func loadVectors(t testing.TB) layoutVectors {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v layoutVectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Headers) == 0 || len(v.Unknown) == 0 || len(v.Marks) == 0 {
		t.Fatal("vectors are missing")
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLayoutVectors(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.Headers {
		want := header{number: c.Number, store: [16]byte(unhex(t, c.Store)), size: c.Size}
		block := want.encode()
		if got := hex.EncodeToString(block[:headerLen]); got != c.Hex || len(block) != headerSize {
			t.Errorf("segment %d: header %s, want %s", c.Number, got, c.Hex)
		}
		if !bytes.Equal(block[headerLen:], make([]byte, headerSize-headerLen)) {
			t.Errorf("segment %d: the rest of the header block is not zero", c.Number)
		}
		if got, err := parseHeader(unhex(t, c.Hex)); err != nil || got != want {
			t.Errorf("parse header %d: %+v, %v", c.Number, got, err)
		}
	}
	for _, c := range v.Unknown {
		if _, err := parseHeader(unhex(t, c.Hex)); !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v, want ErrVersion", c.Why, err)
		}
	}
	for _, c := range v.Marks {
		if got := hex.EncodeToString(encodeMark(c.Number, c.End)); got != c.Hex {
			t.Errorf("mark %s, want %s", got, c.Hex)
		}
		if end, ok := parseMark(unhex(t, c.Hex), c.Number); !ok || end != c.End {
			t.Errorf("parse mark: %d, %v", end, ok)
		}
		if _, ok := parseMark(unhex(t, c.Hex), c.Number+1); ok {
			t.Error("a mark of another segment is taken")
		}
	}
}

func TestDamage(t *testing.T) {
	v := loadVectors(t)
	h, m := unhex(t, v.Headers[0].Hex), unhex(t, v.Marks[0].Hex)
	for bit := range len(h) * 8 {
		bad := bytes.Clone(h)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := parseHeader(bad); !errors.Is(err, errDamaged) {
			t.Errorf("header with bit %d flipped: %v", bit, err)
		}
	}
	for bit := range len(m) * 8 {
		bad := bytes.Clone(m)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, ok := parseMark(bad, v.Marks[0].Number); ok {
			t.Errorf("mark with bit %d flipped is taken", bit)
		}
	}
	for _, end := range []int64{0, 4095, 4097, -4096, maxSegmentSize + 4096} {
		if _, ok := parseMark(encodeMark(1, end), 1); ok {
			t.Errorf("a mark with end %d is taken", end)
		}
	}
}

func TestNames(t *testing.T) {
	for _, n := range []uint64{1, 255, 1 << 63} {
		if got, ok := parseName(segmentName(n)); !ok || got != n {
			t.Errorf("segment %d is named %s, which parses as %d, %v", n, segmentName(n), got, ok)
		}
	}
	for _, bad := range []string{"", ".seg", "1.seg", "0000000000000000.seg", "000000000000000A.seg", "00000000000000001.seg", "0000000000000001.tmp", "+000000000000001.seg"} {
		if n, ok := parseName(bad); ok {
			t.Errorf("%q parses as %d", bad, n)
		}
	}
}

func FuzzParseHeader(f *testing.F) {
	v := loadVectors(f)
	for _, c := range v.Headers {
		f.Add(unhex(f, c.Hex))
	}
	for _, c := range v.Unknown {
		f.Add(unhex(f, c.Hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader(b)
		if err != nil {
			if !errors.Is(err, errDamaged) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(h.encode()[:headerLen], b[:headerLen]) {
			t.Fatalf("%x parses as %+v", b, h)
		}
	})
}

func FuzzParseMark(f *testing.F) {
	for _, c := range loadVectors(f).Marks {
		f.Add(unhex(f, c.Hex), c.Number)
	}
	f.Fuzz(func(t *testing.T, b []byte, number uint64) {
		end, ok := parseMark(b, number)
		if ok && !bytes.Equal(encodeMark(number, end)[:24], b[:24]) {
			t.Fatalf("%x parses as %d", b, end)
		}
	})
}
