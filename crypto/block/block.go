// Package block is the sealed-extent format: how a run of file content becomes
// ciphertext that can be opened block by block. FORMAT.md beside this file gives
// the bytes and the bounds.
//
// An extent of Length plaintext bytes is cut into blocks of 4,096 bytes, the
// last one possibly shorter, and each becomes its ciphertext followed by a
// 16-byte tag, back to back:
//
//	key    = HKDF-SHA256(data key, salt, "kmsfs-block-v1"), 32 bytes
//	sealed = AES-256-GCM(key, nonce = block index, block, AAD) for every block
//	AAD    = "KXB" | version 1 | length u32 | store 16 | inode u64 | extent u64
//
// The salt is random and drawn anew for every attempt to seal, so each key seals
// one extent once and the block index is a safe nonce. The AAD pins a block to
// its extent, the nonce to its place in it, the length tells where the extent
// ends: blocks can be neither moved, swapped, cut nor taken from another store.
//
// What the format does not do: it hides neither the length nor which blocks were
// rewritten, it does not notice that an old extent was put back in place of a new
// one (the extent's row does: it names salt and extent id), and it compresses
// nothing. Checksums that need no key are the extent row's affair as well.
package block

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/kmsfs/kmsfs/crypto"
)

const (
	// Size is the plaintext length of every block but the last, in bytes.
	Size = 4096
	// Tag is what sealing adds to each block, in bytes.
	Tag = 16
	// Sealed is the stored length of a full block, in bytes.
	Sealed = Size + Tag
	// MaxLength is the longest extent, in plaintext bytes.
	MaxLength = 1 << 30

	info      = "kmsfs-block-v1"
	aadPrefix = "KXB\x01" // magic and format version
	aadSize   = len(aadPrefix) + 4 + 16 + 8 + 8
	nonceSize = 12
)

// ErrAuth says that sealed bytes are not what was sealed for this key, binding
// and position.
var ErrAuth = errors.New("block: authentication failed")

// Salt makes an extent's key. It is not secret, and it must never be used to
// seal twice.
type Salt [16]byte

// NewSalt draws a random salt.
func NewSalt() Salt {
	var s Salt
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// Binding is what an extent's blocks are bound to.
type Binding struct {
	Store  [16]byte // the store's id
	Inode  uint64
	Extent uint64 // unique within the store for all time
	Length uint32 // plaintext bytes, 1 to MaxLength
}

func (b Binding) encode() [aadSize]byte {
	var a [aadSize]byte
	copy(a[:], aadPrefix)
	binary.BigEndian.PutUint32(a[4:], b.Length)
	copy(a[8:], b.Store[:])
	binary.BigEndian.PutUint64(a[24:], b.Inode)
	binary.BigEndian.PutUint64(a[32:], b.Extent)
	return a
}

// Blocks returns how many blocks plain bytes take.
func Blocks(plain int) int { return (plain + Size - 1) / Size }

// SealedLen returns the stored length of plain bytes.
func SealedLen(plain int) int { return plain + Blocks(plain)*Tag }

// Offset returns where block i starts in the sealed extent, in bytes.
func Offset(i int) int64 { return int64(i) * Sealed }

// Key seals or opens the blocks of one extent. It is safe for concurrent use and
// holds no reference to the data key it was made from. It lies in locked memory,
// has one holder to begin with, and is wiped by the last one's Wipe.
type Key struct {
	gcm    *crypto.AEAD
	length int
	aad    [aadSize]byte
}

// NewKey derives the key of one extent. To seal, the salt must be fresh: two
// contents sealed under one salt and data key reveal their difference. It fails
// only for a length of 0 or above MaxLength.
func NewKey(dk *crypto.DataKey, salt Salt, b Binding) (*Key, error) {
	if b.Length == 0 || b.Length > MaxLength {
		return nil, fmt.Errorf("block: extent of %d bytes, want 1 to %d", b.Length, MaxLength)
	}
	var ek [crypto.KeySize]byte
	crypto.HKDF(ek[:], dk.Expose(), salt[:], info)
	defer clear(ek[:])
	return &Key{gcm: crypto.NewGCM(ek[:]), length: int(b.Length), aad: b.encode()}, nil
}

// Hold makes the caller one more holder, unless the key was wiped already.
func (k *Key) Hold() bool { return k.gcm.Hold() }

// Wipe ends the caller's hold; after the last one the key is overwritten, and
// using it panics. A nil Key has no holder.
func (k *Key) Wipe() {
	if k != nil {
		k.gcm.Wipe()
	}
}

// Seal appends to dst the sealed blocks of plain, which starts at block first
// and holds whole blocks, except that it may end with the extent's short last
// one. Each block is sealed at most once per Key; distinct blocks may be sealed
// concurrently. It does not allocate if dst has room. dst and plain must not
// overlap. Blocks outside the extent are a caller's mistake and panic.
func (k *Key) Seal(dst, plain []byte, first int) []byte {
	if !k.fits(len(plain), first) {
		panic(fmt.Sprintf("block: seal of %d bytes at block %d of an extent of %d bytes", len(plain), first, k.length))
	}
	dst = slices.Grow(dst, SealedLen(len(plain)))
	n := getNonce()
	defer nonces.Put(n)
	for i := first; len(plain) > 0; i++ {
		p := plain[:min(Size, len(plain))]
		n.set(i)
		dst = k.gcm.Seal(dst, n[:], p, k.aad[:])
		plain = plain[len(p):]
	}
	return dst
}

// Open appends to dst the plaintext of sealed, which starts at block first and
// holds whole sealed blocks, the extent's last one included where it is reached.
// If anything is off, a length that cannot stand at that position included, it
// returns ErrAuth and no plaintext: what was opened before the bad block is
// wiped from dst's spare room. It does not allocate if dst has room. dst and
// sealed must not overlap.
func (k *Key) Open(dst, sealed []byte, first int) ([]byte, error) {
	plain := len(sealed) - (len(sealed)+Sealed-1)/Sealed*Tag
	if plain < 0 || SealedLen(plain) != len(sealed) || !k.fits(plain, first) {
		return nil, ErrAuth
	}
	dst = slices.Grow(dst, plain)
	n := getNonce()
	defer nonces.Put(n)
	start := len(dst)
	for i := first; len(sealed) > 0; i++ {
		s := sealed[:min(Sealed, len(sealed))]
		n.set(i)
		out, err := k.gcm.Open(dst, n[:], s, k.aad[:])
		if err != nil {
			clear(dst[start:])
			return nil, ErrAuth
		}
		dst = out
		sealed = sealed[len(s):]
	}
	return dst, nil
}

// fits reports whether n plaintext bytes from block first on are blocks of this
// extent: inside it, and short only at its end.
func (k *Key) fits(n, first int) bool {
	if first < 0 || first >= Blocks(k.length) || n <= 0 {
		return false
	}
	rest := k.length - first*Size
	return n <= rest && (n%Size == 0 || n == rest)
}

// nonce is the block index as 96 bits, big-endian.
type nonce [nonceSize]byte

func (n *nonce) set(i int) { binary.BigEndian.PutUint64(n[4:], uint64(i)) }

// nonces saves an allocation per call: what is passed through cipher.AEAD
// escapes to the heap.
var nonces = sync.Pool{New: func() any { return new(nonce) }}

func getNonce() *nonce { return nonces.Get().(*nonce) }
