package block

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

type vector struct {
	Length, Seed           int
	DataKey, Salt, Store   string
	Inode, Extent          uint64
	ExtentKey, AAD, Sealed string
	SealedLength           int
	SHA256                 string
	Tags                   []string
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func dataKey(t testing.TB, b []byte) *crypto.DataKey {
	t.Helper()
	k, err := crypto.DataKeyFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newKey(t testing.TB, dk *crypto.DataKey, s Salt, b Binding) *Key {
	t.Helper()
	k, err := NewKey(dk, s, b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// pattern is the content that testdata/generate.py seals.
func pattern(seed, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*i + i/256 + seed)
	}
	return b
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

func (v vector) binding(t testing.TB) Binding {
	t.Helper()
	return Binding{Store: [16]byte(unhex(t, v.Store)), Inode: v.Inode, Extent: v.Extent, Length: uint32(v.Length)}
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(fmt.Sprint(v.Length), func(t *testing.T) {
			dk, salt, b := dataKey(t, unhex(t, v.DataKey)), Salt(unhex(t, v.Salt)), v.binding(t)
			if got := hex.EncodeToString(dk.Derive(salt[:], info).Expose()); got != v.ExtentKey {
				t.Errorf("extent key %s, want %s", got, v.ExtentKey)
			}
			if aad := b.encode(); hex.EncodeToString(aad[:]) != v.AAD {
				t.Errorf("AAD %x, want %s", aad, v.AAD)
			}
			k, plain := newKey(t, dk, salt, b), pattern(v.Seed, v.Length)
			sealed := k.Seal(nil, plain, 0)
			if len(sealed) != v.SealedLength || len(sealed) != SealedLen(v.Length) || Blocks(v.Length) != len(v.Tags) {
				t.Fatalf("%d bytes in %d blocks, want %d in %d", len(sealed), Blocks(v.Length), v.SealedLength, len(v.Tags))
			}
			if sum := sha256.Sum256(sealed); hex.EncodeToString(sum[:]) != v.SHA256 {
				t.Error("sealed bytes differ")
			}
			if v.Sealed != "" && hex.EncodeToString(sealed) != v.Sealed {
				t.Errorf("sealed %x, want %s", sealed, v.Sealed)
			}
			for i, tag := range v.Tags {
				end := min(int(Offset(i+1)), len(sealed))
				if got := hex.EncodeToString(sealed[end-Tag : end]); got != tag {
					t.Errorf("block %d: tag %s, want %s", i, got, tag)
				}
			}
			if got, err := k.Open(nil, sealed, 0); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("open: %v", err)
			}
		})
	}
}

// TestRanges opens every run of blocks of extents of several lengths, and seals
// them in pieces.
func TestRanges(t *testing.T) {
	for _, n := range []int{1, 4095, 4096, 4097, 5*4096 - 1, 5 * 4096, 5*4096 + 1} {
		k := newKey(t, crypto.NewDataKey(), NewSalt(), Binding{Length: uint32(n)})
		plain := pattern(n, n)
		whole := k.Seal(nil, plain, 0)
		for first := range Blocks(n) {
			for last := first + 1; last <= Blocks(n); last++ {
				p := plain[first*Size : min(last*Size, n)]
				s := whole[Offset(first):min(int(Offset(last)), len(whole))]
				prefix := []byte("prefix")
				if got := k.Seal(bytes.Clone(prefix), p, first); !bytes.Equal(got, append(bytes.Clone(prefix), s...)) {
					t.Fatalf("length %d: blocks [%d,%d) seal differently alone", n, first, last)
				}
				got, err := k.Open(bytes.Clone(prefix), s, first)
				if err != nil || !bytes.Equal(got, append(bytes.Clone(prefix), p...)) {
					t.Fatalf("length %d: open [%d,%d): %v", n, first, last, err)
				}
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	const n = 3*Size + 100
	dk, salt, b := crypto.NewDataKey(), NewSalt(), Binding{Store: [16]byte{1}, Inode: 2, Extent: 3, Length: n}
	k := newKey(t, dk, salt, b)
	sealed := k.Seal(nil, pattern(0, n), 0)
	refuse := func(what string, k *Key, sealed []byte, first int) {
		t.Helper()
		dst := make([]byte, 5, 5+n)
		out, err := k.Open(dst, sealed, first)
		if !errors.Is(err, ErrAuth) || out != nil {
			t.Errorf("%s: %d bytes, %v, want ErrAuth", what, len(out), err)
		}
		if !bytes.Equal(dst[:cap(dst)], make([]byte, cap(dst))) {
			t.Errorf("%s: plaintext left in the buffer", what)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		bad := bytes.Clone(sealed)
		bad[rnd.IntN(len(bad))] ^= 1 << rnd.IntN(8)
		refuse("a flipped bit", k, bad, 0)
	}
	for _, cut := range []int{0, 1, Tag - 1, Tag, 100 + Tag - 1, Sealed - 1, Sealed + 1, Sealed + Tag, len(sealed) - 1} {
		refuse(fmt.Sprintf("cut to %d", cut), k, sealed[:cut], 0)
	}
	refuse("one byte more", k, append(bytes.Clone(sealed), 0), 0)
	refuse("a block more", k, append(bytes.Clone(sealed), sealed[:Sealed]...), 0)
	refuse("moved", k, sealed[:Sealed], 1)
	refuse("the short block as first", k, sealed[Offset(3):], 0)
	refuse("before the start", k, sealed[:Sealed], -1)
	refuse("behind the end", k, sealed[:Sealed], 4)
	refuse("far behind the end", k, sealed[:Sealed], 1<<62)
	swapped := append(bytes.Clone(sealed[Sealed:2*Sealed]), sealed[:Sealed]...)
	refuse("swapped", k, swapped, 0)
	for what, change := range map[string]func(*Binding){
		"another store":  func(b *Binding) { b.Store[15] ^= 1 },
		"another inode":  func(b *Binding) { b.Inode++ },
		"another extent": func(b *Binding) { b.Extent++ },
		"another length": func(b *Binding) { b.Length++ },
	} {
		other := b
		change(&other)
		refuse(what, newKey(t, dk, salt, other), sealed[:2*Sealed], 0)
	}
	refuse("another salt", newKey(t, dk, NewSalt(), b), sealed, 0)
	refuse("another data key", newKey(t, crypto.NewDataKey(), salt, b), sealed, 0)
}

func TestSealPanicsOutsideTheExtent(t *testing.T) {
	k := newKey(t, crypto.NewDataKey(), NewSalt(), Binding{Length: 2*Size + 10})
	for _, c := range []struct{ n, first int }{{0, 0}, {1, 0}, {Size + 1, 0}, {2*Size + 11, 0}, {11, 2}, {9, 2}, {Size, 2}, {Size, 3}, {Size, -1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("sealed %d bytes at block %d", c.n, c.first)
				}
			}()
			k.Seal(nil, make([]byte, c.n), c.first)
		}()
	}
	for _, n := range []uint32{0, MaxLength + 1} {
		if _, err := NewKey(crypto.NewDataKey(), Salt{}, Binding{Length: n}); err == nil {
			t.Errorf("a key for an extent of %d bytes", n)
		}
	}
}

// TestKeyOutlivesDataKey: the holder of the data key may wipe it at once.
func TestKeyOutlivesDataKey(t *testing.T) {
	dk := crypto.NewDataKey()
	k := newKey(t, dk, NewSalt(), Binding{Length: 10})
	dk.Wipe()
	if _, err := k.Open(nil, k.Seal(nil, make([]byte, 10), 0), 0); err != nil {
		t.Error(err)
	}
}

func TestSizes(t *testing.T) {
	for _, c := range []struct{ plain, blocks, sealed int }{
		{0, 0, 0}, {1, 1, 17}, {4096, 1, 4112}, {4097, 2, 4129}, {1 << 20, 256, 1<<20 + 4096}, {MaxLength, 1 << 18, 1<<30 + 1<<22},
	} {
		if Blocks(c.plain) != c.blocks || SealedLen(c.plain) != c.sealed {
			t.Errorf("%d bytes: %d blocks, %d sealed, want %d and %d", c.plain, Blocks(c.plain), SealedLen(c.plain), c.blocks, c.sealed)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector sync.Pool drops items at random")
	}
	const n = 1 << 20
	k := newKey(t, crypto.NewDataKey(), NewSalt(), Binding{Length: n})
	plain, sealed := make([]byte, n), make([]byte, 0, SealedLen(n))
	opened := make([]byte, 0, n)
	if got := testing.AllocsPerRun(100, func() { sealed = k.Seal(sealed[:0], plain, 0) }); got != 0 {
		t.Errorf("Seal allocates %v times", got)
	}
	if got := testing.AllocsPerRun(100, func() {
		var err error
		if opened, err = k.Open(opened[:0], sealed, 0); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("Open allocates %v times", got)
	}
}

func FuzzOpen(f *testing.F) {
	for _, v := range vectors(f) {
		if v.Length > 20_000 {
			continue
		}
		dk, salt, b := dataKey(f, unhex(f, v.DataKey)), Salt(unhex(f, v.Salt)), v.binding(f)
		k := newKey(f, dk, salt, b)
		sealed := k.Seal(nil, pattern(v.Seed, v.Length), 0)
		f.Add(unhex(f, v.DataKey), salt[:], v.Inode, v.Extent, uint32(v.Length), sealed, 0)
		if v.Length > Size {
			f.Add(unhex(f, v.DataKey), salt[:], v.Inode, v.Extent, uint32(v.Length), sealed[Sealed:], 1)
		}
	}
	f.Fuzz(func(t *testing.T, dk, salt []byte, inode, extent uint64, length uint32, sealed []byte, first int) {
		if len(dk) != crypto.KeySize || len(salt) != len(Salt{}) {
			return
		}
		k, err := NewKey(dataKey(t, bytes.Clone(dk)), Salt(salt), Binding{Inode: inode, Extent: extent, Length: length})
		if err != nil {
			return
		}
		plain, err := k.Open(nil, sealed, first)
		if err != nil {
			if !errors.Is(err, ErrAuth) || plain != nil {
				t.Fatalf("%d bytes, %v", len(plain), err)
			}
			return
		}
		if again := k.Seal(nil, plain, first); !bytes.Equal(again, sealed) {
			t.Fatal("what opened does not seal to the same bytes")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, n := range []int{Size, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			k := newKey(b, crypto.NewDataKey(), NewSalt(), Binding{Length: uint32(n)})
			plain, dst := make([]byte, n), make([]byte, 0, SealedLen(n))
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				k.Seal(dst, plain, 0)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{Size, 128 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			k := newKey(b, crypto.NewDataKey(), NewSalt(), Binding{Length: uint32(n)})
			sealed, dst := k.Seal(nil, make([]byte, n), 0), make([]byte, 0, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Open(dst, sealed, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewKey(b *testing.B) {
	dk, salt := crypto.NewDataKey(), NewSalt()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewKey(dk, salt, Binding{Length: 1}); err != nil {
			b.Fatal(err)
		}
	}
}
