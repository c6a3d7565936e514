package meta

import (
	"encoding/binary"
	"math/bits"

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
type hasher struct{ key *crypto.DataKey }

func newHasher(key *crypto.DataKey) *hasher { return &hasher{key: key.Clone()} }

func (h *hasher) sum(parts ...[]byte) [32]byte { return h.key.MAC(parts...) }
