package crypto

import (
	"crypto/fips140"
	hmaclib "crypto/hmac"
	"crypto/sha256"
	"hash"
	"sync"
)

// macRoom is what computing one MAC takes. Nothing of the key stays in it.
type macRoom struct {
	h   hash.Hash
	pad [sha256.BlockSize]byte
	sum [sha256.Size]byte
}

var macRooms = sync.Pool{New: func() any { return &macRoom{h: sha256.New()} }}

// MAC is HMAC-SHA256 under the key of the parts one after the other; that where one ends and the next begins can be told is the caller's
// affair. Unlike crypto/hmac, which keeps two hash states that are worth the key, it leaves nothing on the heap. In FIPS 140-3 mode it is
// crypto/hmac, which belongs to the validated module.
func (k *DataKey) MAC(parts ...[]byte) [sha256.Size]byte {
	if fips140.Enabled() {
		m := hmaclib.New(sha256.New, k.Expose())
		for _, p := range parts {
			m.Write(p)
		}
		return [sha256.Size]byte(m.Sum(nil))
	}
	r := macRooms.Get().(*macRoom)
	copy(r.pad[:], k.Expose())
	mask(&r.pad, 0x36)
	r.h.Write(r.pad[:])
	for _, p := range parts {
		r.h.Write(p)
	}
	r.h.Sum(r.sum[:0])
	r.h.Reset()
	mask(&r.pad, 0x36^0x5c)
	r.h.Write(r.pad[:])
	r.h.Write(r.sum[:])
	r.h.Sum(r.sum[:0])
	r.h.Reset()
	out := r.sum
	clear(r.pad[:])
	clear(r.sum[:])
	macRooms.Put(r)
	return out
}
