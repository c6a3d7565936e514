package wrap

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

type vector struct {
	Name, Material, Key, MaterialID, Salt, Nonce, KeyARN string
	Context                                              crypto.Context
	Canonical, Plaintext, Blob                           string
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func key(t testing.TB, b []byte) *crypto.DataKey {
	t.Helper()
	k, err := crypto.DataKeyFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func vectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v []vector
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if len(v) == 0 {
		t.Fatal("no vectors")
	}
	return v
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			material, plaintext, blob := key(t, unhex(t, v.Material)), unhex(t, v.Plaintext), unhex(t, v.Blob)
			h := Header{Key: [16]byte(unhex(t, v.Key)), Material: [32]byte(unhex(t, v.MaterialID))}
			if got := hex.EncodeToString(v.Context.Canonical()); got != v.Canonical {
				t.Errorf("canonical context %s, want %s", got, v.Canonical)
			}
			got, err := wrapAs(material, h, v.KeyARN, v.Context, plaintext, [saltSize]byte(unhex(t, v.Salt)), unhex(t, v.Nonce))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, blob) {
				t.Errorf("blob %x\nwant %x", got, blob)
			}
			if len(blob) != Overhead+len(plaintext)+len(v.Nonce)/2 {
				t.Errorf("blob of %d bytes for %d", len(blob), len(plaintext))
			}
			if got, err := ParseHeader(blob); err != nil || got != h {
				t.Errorf("header %x, %v, want %x", got, err, h)
			}
			if got, err := Unwrap(material, v.KeyARN, v.Context, blob); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("unwrap: %x, %v", got, err)
			}
		})
	}
}

// wrapAs is Wrap with the randomness given; of version 2 if there is a nonce.
func wrapAs(m *crypto.DataKey, h Header, arn string, ctx crypto.Context, plaintext []byte, salt [saltSize]byte, nonce []byte) ([]byte, error) {
	if len(nonce) == 0 {
		return wrapWithSalt(m, h, arn, ctx, plaintext, salt)
	}
	d := derive(m, salt, arn, infoPrefix2)
	defer d.aead.Wipe()
	return d.seal(h, (*[NonceSize]byte)(nonce), arn, ctx, plaintext)
}

// wraps are the ways to wrap, by version.
func wraps() map[string]func(*crypto.DataKey, Header, string, crypto.Context, []byte) (crypto.WrappedKey, error) {
	return map[string]func(*crypto.DataKey, Header, string, crypto.Context, []byte) (crypto.WrappedKey, error){"version 1": Wrap, "version 2": NewCache().Wrap}
}

func TestWrapIsRandomised(t *testing.T) {
	m := crypto.NewDataKey()
	for version, wrap := range wraps() {
		a, err := wrap(m, Header{}, "arn", nil, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := wrap(m, Header{}, "arn", nil, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(a[offSalt:], b[offSalt:]) || bytes.Equal(a[offNonce:], b[offNonce:]) || bytes.Equal(a[len(a)-22:], b[len(b)-22:]) {
			t.Errorf("%s: two wraps of one secret agree", version)
		}
		for _, blob := range [][]byte{a, b} {
			if p, err := Unwrap(m, "arn", crypto.Context{}, blob); err != nil || string(p) != "secret" {
				t.Errorf("%s: unwrap: %q, %v", version, p, err)
			}
		}
	}
}

func TestWrapRefusesSizes(t *testing.T) {
	m := crypto.NewDataKey()
	for _, n := range []int{0, MaxPlaintext + 1} {
		for version, wrap := range wraps() {
			if _, err := wrap(m, Header{}, "arn", nil, make([]byte, n)); err == nil {
				t.Errorf("%s: wrapped %d bytes", version, n)
			}
		}
	}
}

// TestUnwrapRefuses changes every bit, cuts at every length and gives wrong
// companions: always the one error, never a plaintext.
func TestUnwrapRefuses(t *testing.T) {
	for version, wrap := range wraps() {
		t.Run(version, func(t *testing.T) { unwrapRefuses(t, wrap, Unwrap) })
		t.Run(version+", with a cache", func(t *testing.T) { unwrapRefuses(t, wrap, NewCache().Unwrap) })
	}
	c := NewCache()
	t.Run("with the wrapping key in the cache", func(t *testing.T) { unwrapRefuses(t, c.Wrap, c.Unwrap) })
}

func unwrapRefuses(t *testing.T, wrap func(*crypto.DataKey, Header, string, crypto.Context, []byte) (crypto.WrappedKey, error),
	unwrap func(*crypto.DataKey, string, crypto.Context, []byte) ([]byte, error),
) {
	t.Helper()
	m, ctx := crypto.NewDataKey(), crypto.Context{"aws:s3:arn": "arn:aws:s3:::b/k"}
	plaintext := bytes.Repeat([]byte{9}, 32)
	blob, err := wrap(m, Header{Key: [16]byte{1}, Material: [32]byte(crypto.NewDataKey().Expose())}, "arn", ctx, plaintext)
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(what string, m *crypto.DataKey, arn string, ctx crypto.Context, blob []byte) {
		t.Helper()
		if p, err := unwrap(m, arn, ctx, blob); !errors.Is(err, ErrInvalidCiphertext) || p != nil || err.Error() != ErrInvalidCiphertext.Error() {
			t.Errorf("%s: %x, %v, want ErrInvalidCiphertext alone", what, p, err)
		}
	}
	if p, err := unwrap(m, "arn", ctx, blob); err != nil || !bytes.Equal(p, plaintext) {
		t.Fatalf("%x, %v", p, err)
	}
	for bit := range len(blob) * 8 {
		bad := bytes.Clone(blob)
		bad[bit/8] ^= 1 << (bit % 8)
		refuse("a flipped bit", m, "arn", ctx, bad)
	}
	for n := range len(blob) {
		refuse("a cut blob", m, "arn", ctx, blob[:n])
	}
	refuse("a longer blob", m, "arn", ctx, append(bytes.Clone(blob), 0))
	refuse("an endless blob", m, "arn", ctx, append(bytes.Clone(blob), make([]byte, 5000)...))
	refuse("another ARN", m, "arn2", ctx, blob)
	refuse("no context", m, "arn", nil, blob)
	refuse("another context", m, "arn", crypto.Context{"aws:s3:arn": "arn:aws:s3:::b/l"}, blob)
	refuse("a longer context", m, "arn", crypto.Context{"aws:s3:arn": "arn:aws:s3:::b/k", "x": ""}, blob)
	if p, err := Unwrap(crypto.NewDataKey(), "arn", ctx, blob); !errors.Is(err, ErrInvalidCiphertext) || p != nil {
		t.Errorf("another material: %x, %v", p, err)
	}
}

// TestCommitmentIsChecked swaps in a commitment of another material: the blob
// must fail although its ciphertext is untouched.
func TestCommitmentIsChecked(t *testing.T) {
	m := crypto.NewDataKey()
	for version, wrap := range wraps() {
		blob, err := wrap(m, Header{}, "arn", nil, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		_, size, _ := parse(blob)
		info, nonce := infoPrefix1, zero[:]
		if size != HeaderSize {
			info, nonce = infoPrefix2, blob[offNonce:size]
		}
		// A forger who knows the material can build a body that authenticates under
		// a header with a wrong commitment; only the comparison stops it.
		forged := bytes.Clone(blob[:size])
		clear(forged[offCommit:offNonce])
		d := derive(m, [saltSize]byte(forged[offSalt:offCommit]), "arn", info)
		forged = append(forged, d.aead.Seal(nil, nonce, []byte("x"), associated(nil, forged, "arn", nil))...)
		for what, unwrap := range map[string]func(*crypto.DataKey, string, crypto.Context, []byte) ([]byte, error){"alone": Unwrap, "with a cache": NewCache().Unwrap} {
			if p, err := unwrap(m, "arn", nil, forged); !errors.Is(err, ErrInvalidCiphertext) {
				t.Errorf("%s, %s: a wrong commitment opens: %q, %v", version, what, p, err)
			}
		}
	}
}

func FuzzUnwrap(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(unhex(f, v.Material), v.KeyARN, unhex(f, v.Canonical), unhex(f, v.Blob))
	}
	f.Fuzz(func(t *testing.T, material []byte, arn string, canonical, blob []byte) {
		ctx, err := crypto.ParseContext(canonical)
		if err != nil || len(material) != crypto.KeySize {
			return
		}
		m := key(t, bytes.Clone(material))
		p, err := Unwrap(m, arn, ctx, blob)
		if err != nil {
			if !errors.Is(err, ErrInvalidCiphertext) || p != nil {
				t.Fatalf("%x, %v", p, err)
			}
			return
		}
		// What opens must be exactly what would be sealed.
		h, err := ParseHeader(blob)
		if err != nil {
			t.Fatal(err)
		}
		_, size, _ := parse(blob)
		again, err := wrapAs(m, h, arn, ctx, p, [saltSize]byte(blob[offSalt:offCommit]), blob[offNonce:size])
		if err != nil || !bytes.Equal(again, blob) {
			t.Fatalf("sealed again: %x, %v", again, err)
		}
	})
}

func FuzzParseHeader(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(unhex(f, v.Blob))
	}
	f.Add([]byte(magic1))
	f.Add([]byte(magic2))
	f.Fuzz(func(t *testing.T, blob []byte) {
		h, err := ParseHeader(blob)
		if err != nil {
			if !errors.Is(err, ErrInvalidCiphertext) || h != (Header{}) {
				t.Fatalf("%x, %v", h, err)
			}
			return
		}
		if !bytes.Equal(h.Key[:], blob[offKey:offMaterial]) || !bytes.Equal(h.Material[:], blob[offMaterial:offSalt]) {
			t.Fatalf("header %x of %x", h, blob)
		}
	})
}

func BenchmarkWrap(b *testing.B) {
	m, dk := crypto.NewDataKey(), crypto.NewDataKey()
	ctx := crypto.Context{"aws:s3:arn": "arn:aws:s3:::bucket/some/object"}
	for version, wrap := range wraps() {
		b.Run(version, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wrap(m, Header{}, "arn:aws:kms:us-east-1:000000000000:key/01234567-89ab-cdef-0123-456789abcdef", ctx, dk.Expose()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnwrap(b *testing.B) {
	m, dk := crypto.NewDataKey(), crypto.NewDataKey()
	c := NewCache()
	for version, wrap := range wraps() {
		b.Run(version, func(b *testing.B) {
			blob, err := wrap(m, Header{}, "arn", nil, dk.Expose())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Unwrap(m, "arn", nil, blob); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
