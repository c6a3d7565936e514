package crypto

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	hmaclib "crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"testing"
	"unsafe"
)

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// library is the standard library's AES and its GCM under a key.
func library(t *testing.T, key []byte) (cipher.Block, cipher.AEAD) {
	t.Helper()
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		t.Fatal(err)
	}
	return b, g
}

// TestExpanded: the schedule of a cipher lies in locked pages, nowhere else, does what the library's does, and is gone with its last holder.
func TestExpanded(t *testing.T) {
	key, nonce, text, ad := random(KeySize), random(12), random(5000), random(100)
	b, reference := library(t, key)
	before := LiveKeys()
	g := NewGCM(key)
	place := unsafe.Slice((*byte)(unsafe.Pointer(g.place.place)), scheduleSize)
	inLockedPages(t, uintptr(unsafe.Pointer(g.place.place)))
	if !bytes.Contains(place, key) { // the first two round keys
		t.Error("what lies in the locked pages is not the key's schedule")
	}
	if LiveKeys() != before+1 || !LockedMemory() {
		t.Errorf("%d keys, before %d, locked %t", LiveKeys(), before, LockedMemory())
	}
	sealed := g.Seal(nil, nonce, text, ad)
	if !bytes.Equal(sealed, reference.Seal(nil, nonce, text, ad)) || g.NonceSize() != 12 || g.Overhead() != 16 {
		t.Error("it seals otherwise than the library's cipher")
	}
	if opened, err := g.Open(nil, nonce, sealed, ad); err != nil || !bytes.Equal(opened, text) {
		t.Errorf("it does not open what it sealed: %v", err)
	}
	if !g.Hold() {
		t.Fatal("a key that is held cannot be held by one more")
	}
	g.Wipe()
	if opened, err := g.Open(nil, nonce, sealed, ad); err != nil || !bytes.Equal(opened, text) {
		t.Errorf("it is gone although somebody holds it: %v", err)
	}
	g.Wipe()
	if !bytes.Equal(place, make([]byte, scheduleSize)) {
		t.Error("a wiped schedule is still there")
	}
	if g.Hold() {
		t.Error("a wiped key can be held")
	}
	panics(t, "Seal after Wipe", func() { g.Seal(nil, nonce, text, ad) })
	panics(t, "Wipe by nobody", g.Wipe)
	if LiveKeys() != before {
		t.Errorf("%d keys, before %d", LiveKeys(), before)
	}
	(*AEAD)(nil).Wipe()

	block := NewBlock(key)
	place = unsafe.Slice((*byte)(unsafe.Pointer(block.place.place)), scheduleSize)
	inLockedPages(t, uintptr(unsafe.Pointer(block.place.place)))
	var got, want [aes.BlockSize]byte
	b.Encrypt(want[:], text[:16])
	if block.Encrypt(got[:], text[:16]); got != want {
		t.Error("the block cipher is not AES")
	}
	block.Wipe()
	block.Wipe()
	if !bytes.Equal(place, make([]byte, scheduleSize)) || LiveKeys() != before {
		t.Error("a wiped schedule is still there")
	}
	panics(t, "Encrypt after Wipe", func() { block.Encrypt(got[:], text[:16]) })
	panics(t, "a short key", func() { NewGCM(key[:31]) })
}

// scattered has a pointer in it, as a cipher of another library may have.
type scattered struct {
	cipher.AEAD
	more *[KeySize]byte
}

// TestScattered: what cannot be moved works where it is, and is told of.
func TestScattered(t *testing.T) {
	defer func(before int) { schedules.outside = before }(schedules.outside)
	_, g := library(t, random(KeySize))
	before := LiveKeys()
	k := Keep(&scattered{AEAD: g, more: new([KeySize]byte)})
	sealed := k.Seal(nil, make([]byte, 12), []byte("text"), nil)
	if opened, err := k.Open(nil, make([]byte, 12), sealed, nil); err != nil || string(opened) != "text" {
		t.Errorf("%q, %v", opened, err)
	}
	if LockedMemory() || LiveKeys() != before+1 {
		t.Error("a cipher on the heap is not told of")
	}
	if k.Wipe(); LiveKeys() != before {
		t.Error("it is counted although it is wiped")
	}
}

// TestSealOnce: a data key seals and opens as the library's AES-256-GCM under its bytes, and leaves nothing behind.
func TestSealOnce(t *testing.T) {
	k := NewDataKey()
	defer k.Wipe()
	before := LiveKeys()
	_, reference := library(t, k.Expose())
	nonce := random(12)
	sealed := k.Seal(nil, nonce, []byte("text"), []byte("ad"))
	if !bytes.Equal(sealed, reference.Seal(nil, nonce, []byte("text"), []byte("ad"))) {
		t.Error("it seals otherwise than the library's cipher")
	}
	if opened, err := k.Open(nil, nonce, sealed, []byte("ad")); err != nil || string(opened) != "text" {
		t.Errorf("%q, %v", opened, err)
	}
	if _, err := k.Open(nil, nonce, sealed, []byte("da")); err == nil {
		t.Error("it opens what is bound to something else")
	}
	if LiveKeys() != before {
		t.Errorf("%d keys, before %d", LiveKeys(), before)
	}
}

// TestMAC compares with crypto/hmac, for parts of all lengths around a block, and looks whether a pad stays behind.
func TestMAC(t *testing.T) {
	k := NewDataKey()
	defer k.Wipe()
	for n := range 200 {
		parts := [][]byte{random(n), nil, random(n * 7)}
		h := hmaclib.New(sha256.New, k.Expose())
		for _, p := range parts {
			h.Write(p)
		}
		if got := k.MAC(parts...); !bytes.Equal(got[:], h.Sum(nil)) {
			t.Fatalf("parts of %d and %d bytes: %x", n, n*7, got)
		}
	}
	r := macRooms.Get().(*macRoom)
	defer macRooms.Put(r)
	if r.pad != [sha256.BlockSize]byte{} || r.sum != [sha256.Size]byte{} {
		t.Error("something of the key stays where it was computed")
	}
	state, _ := pointee(r.h)
	fresh, _ := pointee(sha256.New())
	if len(state) < sha256.Size || !bytes.Equal(state[:sha256.Size], fresh[:sha256.Size]) {
		t.Error("the hash's state stays")
	}
}

func panics(t *testing.T, what string, fn func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Errorf("%s does not panic", what)
		}
	}()
	fn()
}

func BenchmarkNewGCM(b *testing.B) {
	key := random(KeySize)
	b.ReportAllocs()
	for b.Loop() {
		NewGCM(key).Wipe()
	}
}

func BenchmarkMAC(b *testing.B) {
	k := NewDataKey()
	defer k.Wipe()
	part, name := []byte{'n'}, []byte("a name of a file")
	b.ReportAllocs()
	for b.Loop() {
		k.MAC(part, name)
	}
}
