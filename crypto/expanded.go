package crypto

import (
	"crypto/aes"
	"crypto/cipher"
	"reflect"
	"sync"
	"sync/atomic"
	"unsafe"
)

// What the standard library makes of a key is worth as much as the key: the first two round keys of AES-256 are the key itself. It
// makes them on the heap. AEAD and Block move them to where keys lie. Whether a value may be moved is seen from its type: it must be of
// one piece, without a pointer in it, and fit. One of another version of the library, or for another processor, that does not stays where
// it is, and LockedMemory says so.

// scheduleSize is the size of a place for a cipher: GCM's has 760 bytes where it has a table of products, as on amd64 and arm64. It is a
// multiple of 64, so that places are aligned at least as the heap would align them.
const scheduleSize = 768

// expanded is what a moved cipher lies in.
type expanded struct {
	place  *[scheduleSize]byte // nil: it was not moved
	inside bool
}

// move moves what v points to into a place of the arena, and overwrites it where it was. v is an interface.
func move[T any](v T) (T, expanded) {
	old, t := pointee(v)
	if old == nil || len(old) > scheduleSize {
		schedules.without()
		return v, expanded{}
	}
	var e expanded
	e.place, e.inside = schedules.take()
	copy(e.place[:], old)
	wipe(old)
	return reflect.NewAt(t, unsafe.Pointer(e.place)).Interface().(T), e
}

// end overwrites the place, if there is one, and gives it back.
func (e expanded) end() {
	if e.place != nil {
		wipe(e.place[:])
	}
	schedules.give(e.place, e.inside)
}

// pointee gives the bytes of the value that v points to, and its type. nil: it has pointers in it, or v is none.
func pointee(v any) ([]byte, reflect.Type) {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || !movable(p.Type().Elem()) {
		return nil, nil
	}
	t := p.Type().Elem()
	return unsafe.Slice((*byte)(p.UnsafePointer()), t.Size()), t
}

// pieces remembers what inOnePiece said of a type.
var pieces sync.Map

func movable(t reflect.Type) bool {
	if known, ok := pieces.Load(t); ok {
		return known.(bool)
	}
	is := inOnePiece(t)
	pieces.Store(t, is)
	return is
}

// inOnePiece reports whether values of a type have no pointer in them.
func inOnePiece(t reflect.Type) bool {
	kind := t.Kind()
	if kind == reflect.Array {
		return inOnePiece(t.Elem())
	}
	if kind != reflect.Struct {
		return kind >= reflect.Bool && kind <= reflect.Uint64 // the whole numbers
	}
	for i := range t.NumField() {
		if !inOnePiece(t.Field(i).Type) {
			return false
		}
	}
	return true
}

// AEAD is a cipher.AEAD with its key in locked memory. It has a holder to begin with, and one more for each Hold. Each of them calls Wipe
// when he is done with it, and the last call overwrites the key. Methods may be called concurrently.
type AEAD struct {
	aead    cipher.AEAD
	place   expanded
	holders atomic.Int32
}

// Keep takes over an AEAD that nobody else has.
func Keep(a cipher.AEAD) *AEAD {
	k := new(AEAD)
	k.aead, k.place = move(a)
	k.holders.Store(1)
	return k
}

// NewGCM is AES-256-GCM under a key of KeySize bytes, which it does not keep. A key of another length panics.
func NewGCM(key []byte) *AEAD {
	b := newCipher(key)
	g, err := cipher.NewGCM(b)
	if err != nil {
		panic("crypto: " + err.Error()) // AES has the block size that GCM asks for
	}
	if old, _ := pointee(b); old != nil {
		wipe(old) // GCM has a copy
	}
	return Keep(g)
}

// Seal is AES-256-GCM's Seal under the key, for once: who seals or opens much makes a GCM.
func (k *DataKey) Seal(dst, nonce, plaintext, additional []byte) []byte {
	g := NewGCM(k.Expose())
	defer g.Wipe()
	return g.Seal(dst, nonce, plaintext, additional)
}

// Open is AES-256-GCM's Open under the key, for once.
func (k *DataKey) Open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	g := NewGCM(k.Expose())
	defer g.Wipe()
	return g.Open(dst, nonce, ciphertext, additional)
}

func newCipher(key []byte) cipher.Block {
	if len(key) != KeySize {
		panic("crypto: an AES key of another length than 32 bytes")
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		panic("crypto: " + err.Error())
	}
	return b
}

// Hold makes the caller one more holder, unless the key was wiped already.
func (k *AEAD) Hold() bool {
	for {
		n := k.holders.Load()
		if n <= 0 {
			return false
		}
		if k.holders.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Wipe ends the caller's hold. A nil AEAD has none.
func (k *AEAD) Wipe() {
	if k == nil {
		return
	}
	switch n := k.holders.Add(-1); {
	case n == 0:
		k.place.end()
	case n < 0:
		panic("crypto: a cipher is wiped that nobody holds")
	}
}

// NonceSize is that of the cipher.
func (k *AEAD) NonceSize() int { return k.held().NonceSize() }

// Overhead is that of the cipher.
func (k *AEAD) Overhead() int { return k.held().Overhead() }

// Seal is that of the cipher. It panics if the key is wiped.
func (k *AEAD) Seal(dst, nonce, plaintext, additional []byte) []byte {
	return k.held().Seal(dst, nonce, plaintext, additional)
}

// Open is that of the cipher. It panics if the key is wiped.
func (k *AEAD) Open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	return k.held().Open(dst, nonce, ciphertext, additional)
}

func (k *AEAD) held() cipher.AEAD {
	if k.holders.Load() <= 0 {
		panic("crypto: use of a wiped cipher")
	}
	return k.aead
}

// Block is AES-256 itself, with its key in locked memory. Its methods may be called concurrently.
type Block struct {
	block cipher.Block
	place expanded
	wiped atomic.Bool
}

// NewBlock does not keep key, which has KeySize bytes.
func NewBlock(key []byte) *Block {
	b := new(Block)
	b.block, b.place = move(newCipher(key))
	return b
}

// Encrypt is that of cipher.Block. It panics if the key is wiped.
func (b *Block) Encrypt(dst, src []byte) {
	if b.wiped.Load() {
		panic("crypto: use of a wiped cipher")
	}
	b.block.Encrypt(dst, src)
}

// Wipe overwrites the key. The caller knows that nobody uses it any more.
func (b *Block) Wipe() {
	if !b.wiped.Swap(true) {
		b.place.end()
	}
}
