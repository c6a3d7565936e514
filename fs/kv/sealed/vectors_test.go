package sealed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorsFile = "testdata/vectors.json"

// vector has all its bytes in hex. DataKey is what New gets, CipherKey what is derived from it.
type vector struct {
	DataKey, CipherKey, Nonce, RowKey, Value, Sealed string
}

func makeVectors(t *testing.T) []vector {
	t.Helper()
	key := testKey(t, 1)
	derived := key.Derive(nil, keyInfo)
	x, err := newXAES(derived.Expose())
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	for _, c := range []struct{ row, value []byte }{
		{[]byte("i\x00\x00\x00\x00\x00\x00\x00\x07"), []byte("inode")},
		{[]byte("i\x00\x00\x00\x00\x00\x00\x00\x08"), []byte("inode")},
		{[]byte("d"), nil},
		{[]byte("x"), bytes.Repeat([]byte("0123456789abcdef"), 16)},
	} {
		nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
		sealed, err := x.seal(append([]byte{Version}, nonce...), nonce, c.value, c.row)
		if err != nil {
			t.Fatal(err)
		}
		vs = append(vs, vector{
			hex.EncodeToString(key.Expose()), hex.EncodeToString(derived.Expose()), hex.EncodeToString(nonce),
			hex.EncodeToString(c.row), hex.EncodeToString(c.value), hex.EncodeToString(sealed),
		})
	}
	return vs
}

// TestVectors opens the stored rows through the store.
func TestVectors(t *testing.T) {
	if *update {
		b, err := json.MarshalIndent(makeVectors(t), "", "  ")
		if err == nil {
			err = os.WriteFile(vectorsFile, append(b, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	if made := makeVectors(t); !slices.Equal(made, vs) {
		t.Errorf("what is sealed now differs from %s: %v", vectorsFile, made)
	}
	bin := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i, v := range vs {
		key, err := crypto.DataKeyFromBytes(bin(v.DataKey))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(key.Derive(nil, keyInfo).Expose(), bin(v.CipherKey)) {
			t.Errorf("vector %d: derived another key", i)
		}
		inner := memkv.New()
		set(t, inner, string(bin(v.RowKey)), string(bin(v.Sealed)))
		s := New(inner, key)
		if got, err := get(s, string(bin(v.RowKey))); err != nil || !bytes.Equal(got, bin(v.Value)) {
			t.Errorf("vector %d: %x, %v", i, got, err)
		}
		err = s.View(func(r kv.Reader) error {
			return r.Scan(nil, nil, func(_, got []byte) (bool, error) {
				if !bytes.Equal(got, bin(v.Value)) {
					t.Errorf("vector %d: scanned %x", i, got)
				}
				return true, nil
			})
		})
		if err != nil {
			t.Errorf("vector %d: %v", i, err)
		}
	}
}
