package crypto

import (
	"bytes"
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

// The test cases of RFC 5869 for SHA-256.
func TestHKDFVectors(t *testing.T) {
	seq := func(from, n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(from + i)
		}
		return b
	}
	for _, c := range []struct {
		secret, salt, info []byte
		want               string
	}{
		{
			bytes.Repeat([]byte{0x0b}, 22), seq(0, 13), seq(0xf0, 10),
			"3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
		},
		{
			seq(0, 80), seq(0x60, 80), seq(0xb0, 80),
			"b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
		},
		{
			bytes.Repeat([]byte{0x0b}, 22), nil, nil,
			"8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
		},
	} {
		got := make([]byte, len(c.want)/2)
		HKDF(got, c.secret, c.salt, string(c.info))
		if hex.EncodeToString(got) != c.want {
			t.Errorf("%x, want %s", got, c.want)
		}
	}
}

// It is the standard library's, whatever the lengths.
func TestHKDFIsHKDF(t *testing.T) {
	for _, secret := range []int{0, 16, 32, 64, 65, 700} {
		for _, salt := range []int{0, 1, 32, 63, 64, 65, 200} {
			for _, info := range []int{0, 1, 55, 100, 480, 3000} {
				for _, n := range []int{1, 32, 33, 64} {
					s, sa, in, got := make([]byte, secret), make([]byte, salt), strings.Repeat("i", info), make([]byte, n)
					rand.Read(s)
					rand.Read(sa)
					HKDF(got, s, sa, in[:info/3], in[info/3:])
					want, err := hkdf.Key(sha256.New, s, sa, in, n)
					if err != nil || !bytes.Equal(got, want) {
						t.Fatalf("secret %d, salt %d, info %d, %d bytes: %v", secret, salt, info, n, err)
					}
				}
			}
		}
	}
	most, want := make([]byte, 255*32), []byte(nil)
	HKDF(most, []byte("s"), []byte("t"), "i")
	if want, _ = hkdf.Key(sha256.New, []byte("s"), []byte("t"), "i", len(most)); !bytes.Equal(most, want) {
		t.Error("all there is")
	}
	defer func() {
		if recover() == nil {
			t.Error("more than there is")
		}
	}()
	HKDF(make([]byte, 255*32+1), nil, nil, "")
}

func TestHKDFAllocatesNothing(t *testing.T) {
	if fips140.Enabled() {
		t.Skip("in FIPS mode it is the standard library's")
	}
	var out, secret, salt [32]byte
	info := strings.Repeat("x", 100)
	if n := testing.AllocsPerRun(100, func() { HKDF(out[:], secret[:], salt[:], info) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHKDF(b *testing.B) {
	var out, secret, salt [32]byte
	info := strings.Repeat("x", 86)
	for b.Loop() {
		HKDF(out[:], secret[:], salt[:], info)
	}
}
