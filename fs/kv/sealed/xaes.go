package sealed

import (
	"crypto/aes"
	"crypto/subtle"
	"errors"

	"github.com/kmsfs/kmsfs/crypto"
)

const (
	nonceSize  = 24
	prefixSize = 12 // the part of a nonce from which a key is derived; the rest is the nonce under that key
	tagSize    = 16
)

// xaes is XAES-256-GCM (c2sp.org/XAES-256-GCM): AES-256-GCM under a key that is derived, with a CMAC-like construction, from
// the first half of a 192-bit nonce. The nonce is long enough to be drawn at random for every row, for ever. Safe for
// concurrent use.
type xaes struct {
	block *crypto.Block       // AES-256 under the key
	k1    [aes.BlockSize]byte // CMAC's first subkey
}

// derived is the AEAD for the nonces that begin with prefix. Immutable but for its holders.
type derived struct {
	prefix [prefixSize]byte
	aead   *crypto.AEAD
}

// newXAES does not keep key.
func newXAES(key []byte) (*xaes, error) {
	if len(key) != 32 {
		return nil, errors.New("sealed: the key must have 32 bytes")
	}
	x := &xaes{block: crypto.NewBlock(key)}
	x.block.Encrypt(x.k1[:], x.k1[:])
	msb := byte(0)
	for i := len(x.k1) - 1; i >= 0; i-- {
		msb, x.k1[i] = x.k1[i]>>7, x.k1[i]<<1|msb
	}
	x.k1[len(x.k1)-1] ^= msb * 0b10000111
	return x, nil
}

// derive makes the caller the holder of what it returns.
func (x *xaes) derive(prefix [prefixSize]byte) *derived {
	key := make([]byte, 0, 2*aes.BlockSize)
	key = append(key, 0, 1, 'X', 0)
	key = append(key, prefix[:]...)
	key = append(key, 0, 2, 'X', 0)
	key = append(key, prefix[:]...)
	subtle.XORBytes(key[:aes.BlockSize], key[:aes.BlockSize], x.k1[:])
	subtle.XORBytes(key[aes.BlockSize:], key[aes.BlockSize:], x.k1[:])
	x.block.Encrypt(key[:aes.BlockSize], key[:aes.BlockSize])
	x.block.Encrypt(key[aes.BlockSize:], key[aes.BlockSize:])
	defer clear(key)
	return &derived{prefix: prefix, aead: crypto.NewGCM(key)}
}

func (x *xaes) wipe() {
	x.block.Wipe()
	clear(x.k1[:])
}
