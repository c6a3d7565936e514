package meta

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math/bits"
	"sync"

	"github.com/kmsfs/kmsfs/crypto"
)

// Set is the fingerprint of an unordered set of rows: their number and the sum, modulo 2^256, of a keyed hash of each.
// Adding and removing cost one hash, whatever the size of the set; without the key nobody can drop, add or replace a row and
// keep the sum (AdHash with a pseudorandom function).
type Set struct {
	Count uint64
	Sum   [4]uint64 // little-endian limbs
}

func (s *Set) add(h [32]byte) {
	var c uint64
	for i := range s.Sum {
		s.Sum[i], c = bits.Add64(s.Sum[i], binary.LittleEndian.Uint64(h[8*i:]), c)
	}
	s.Count++
}

func (s *Set) remove(h [32]byte) {
	var b uint64
	for i := range s.Sum {
		s.Sum[i], b = bits.Sub64(s.Sum[i], binary.LittleEndian.Uint64(h[8*i:]), b)
	}
	s.Count--
}

// hasher computes keyed hashes; it is safe for concurrent use.
type hasher struct{ pool sync.Pool }

func newHasher(key *crypto.DataKey) *hasher {
	secret := append([]byte(nil), key.Expose()...)
	h := &hasher{}
	h.pool.New = func() any { return hmac.New(sha256.New, secret) }
	return h
}

func (h *hasher) sum(parts ...[]byte) (out [32]byte) {
	m := h.pool.Get().(hash.Hash)
	m.Reset()
	for _, p := range parts {
		m.Write(p)
	}
	m.Sum(out[:0])
	h.pool.Put(m)
	return out
}
