package crypto_test

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

// marked returns a key whose bytes are easy to find in any rendering, at an address that does not look like them: of a pointer in
// somebody's unexported field fmt prints the address.
func marked(t *testing.T) *crypto.DataKey {
	t.Helper()
	for {
		k, err := crypto.DataKeyFromBytes(bytes.Repeat([]byte{0xc5}, crypto.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		if at := reflect.ValueOf(k).Pointer(); !leaks(fmt.Sprintf("%x %d %o %b", at, at, at, at)) {
			return k
		}
	}
}

// leaks reports whether text shows the marked key in a form that fmt can make.
func leaks(text string) bool {
	text = strings.ToLower(text)
	for _, form := range []string{"c5c5", "c5 c5", "0xc5, 0xc5", "197 197", "197, 197", "305 305", "0o305", "11000101 1", "\xc5\xc5", "\\xc5", "xcxf", "å"} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

func TestDataKeyIsRedacted(t *testing.T) {
	k := marked(t)
	type nested struct {
		Public  *crypto.DataKey
		private *crypto.DataKey
		value   crypto.DataKey
		list    []*crypto.DataKey
		named   map[string]*crypto.DataKey
	}
	holders := map[string]any{
		"pointer":  k,
		"value":    *k,
		"slice":    []crypto.DataKey{*k},
		"nested":   nested{k, k, *k, []*crypto.DataKey{k}, map[string]*crypto.DataKey{"k": k}},
		"indirect": &nested{k, k, *k, []*crypto.DataKey{k}, map[string]*crypto.DataKey{"k": k}},
		"error":    fmt.Errorf("with %v", k),
	}
	for name, h := range holders {
		for _, verb := range strings.Fields("%v %+v %#v %s %q %x %X %#x %d %o %b %c %U %t %e %g %10v %-10s %.3s %z % x") {
			text := fmt.Sprintf(verb, h)
			if leaks(text) {
				t.Errorf("%s prints the key under %q: %s", name, verb, text)
			}
		}
	}
	for _, verb := range []string{"%v", "%#v", "%x", "%s", "%d"} {
		if got := fmt.Sprintf(verb, k); got != "[redacted]" {
			t.Errorf("%s: %q, want [redacted]", verb, got)
		}
	}
	if got := k.String() + k.GoString(); got != "[redacted][redacted]" {
		t.Errorf("String and GoString: %q", got)
	}
	var text, js bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("m", "key", k, "holder", holders["nested"])
	slog.New(slog.NewJSONHandler(&js, nil)).Info("m", "key", k, "value", *k)
	for _, out := range []string{text.String(), js.String()} {
		if leaks(out) || !strings.Contains(out, "[redacted]") {
			t.Errorf("slog: %s", out)
		}
	}
}

func TestDataKeyIsNeverMarshalled(t *testing.T) {
	k := marked(t)
	for name, v := range map[string]any{"pointer": k, "value": *k, "field": struct{ K *crypto.DataKey }{k}} {
		if reflect.DeepEqual(v, v) && name == "value" {
			t.Error("DeepEqual looks into keys")
		}
		if out, err := json.Marshal(v); err == nil || leaks(string(out)) {
			t.Errorf("json %s: %s, %v", name, out, err)
		}
		var buf bytes.Buffer
		if err := gob.NewEncoder(&buf).Encode(v); err == nil || leaks(buf.String()) {
			t.Errorf("gob %s: no error", name)
		}
		if out, err := xml.Marshal(v); err == nil || leaks(string(out)) {
			t.Errorf("xml %s: %s, %v", name, out, err)
		}
	}
	var into crypto.DataKey
	for name, err := range map[string]error{
		"json":   json.Unmarshal([]byte(`"x"`), &into),
		"text":   into.UnmarshalText(nil),
		"binary": into.UnmarshalBinary(nil),
		"gob":    into.GobDecode(nil),
	} {
		if !errors.Is(err, crypto.ErrSecret) {
			t.Errorf("unmarshal %s: %v, want ErrSecret", name, err)
		}
	}
	if reflect.TypeOf(into).Comparable() {
		t.Error("DataKey is comparable")
	}
}

func TestDataKeyLife(t *testing.T) {
	raw := bytes.Repeat([]byte{7}, crypto.KeySize)
	k, err := crypto.DataKeyFromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, make([]byte, crypto.KeySize)) {
		t.Error("DataKeyFromBytes left its input")
	}
	short := []byte{1, 2, 3}
	if _, err := crypto.DataKeyFromBytes(short); err == nil || !bytes.Equal(short, make([]byte, 3)) {
		t.Errorf("a short key: %v, input left as %v", err, short)
	}
	c, bytesOfK := k.Clone(), k.Expose()
	if !c.Equal(k) || &c.Expose()[0] == &bytesOfK[0] {
		t.Error("Clone is not an independent copy")
	}
	k.Wipe()
	k.Wipe()
	if !bytes.Equal(bytesOfK, make([]byte, crypto.KeySize)) || !k.Wiped() || c.Wiped() {
		t.Error("Wipe left the key, or reached the clone")
	}
	for name, use := range map[string]func(){
		"wiped Expose": func() { k.Expose() },
		"wiped Clone":  func() { k.Clone() },
		"wiped Derive": func() { k.Derive(nil, "") },
		"zero Expose":  func() { new(crypto.DataKey).Expose() },
		"nil Expose":   func() { (*crypto.DataKey)(nil).Expose() },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			use()
		}()
	}
	(*crypto.DataKey)(nil).Wipe()
	if crypto.NewDataKey().Equal(crypto.NewDataKey()) {
		t.Error("two random keys are equal")
	}
}

// TestDerive compares with HKDF written out over Python's hmac, as in
// crypto/block's generator of vectors.
func TestDerive(t *testing.T) {
	k, err := crypto.DataKeyFromBytes(bytes.Repeat([]byte{0x0b}, crypto.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ salt, info, want string }{
		{"", "", "27488977d7c845fa17e618b4e225651a0a417521175396f455da2c465679eea8"},
		{"000102030405060708090a0b0c", "kmsfs", "64a77326dac294055ca4367be9662ce001afcbc452604a97abad8ec2ebfa4bf6"},
	} {
		salt, err := hex.DecodeString(c.salt)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(k.Derive(salt, c.info).Expose()); got != c.want {
			t.Errorf("derive(%s, %q) = %s, want %s", c.salt, c.info, got, c.want)
		}
	}
}
