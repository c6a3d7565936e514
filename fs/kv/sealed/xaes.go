package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
)

const (
	nonceSize = 24
	tagSize   = 16
)

// xaes is XAES-256-GCM (c2sp.org/XAES-256-GCM): AES-256-GCM under a key that is derived, with a CMAC-like construction, from
// the first half of a 192-bit nonce. The nonce is long enough to be drawn at random for every row, for ever. Safe for
// concurrent use.
type xaes struct {
	block cipher.Block        // AES-256 under the key
	k1    [aes.BlockSize]byte // CMAC's first subkey
}

var errOpen = errors.New("sealed: message authentication failed")

// newXAES does not keep key.
func newXAES(key []byte) (*xaes, error) {
	if len(key) != 32 {
		return nil, errors.New("sealed: the key must have 32 bytes")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	x := &xaes{block: block}
	x.block.Encrypt(x.k1[:], x.k1[:])
	msb := byte(0)
	for i := len(x.k1) - 1; i >= 0; i-- {
		msb, x.k1[i] = x.k1[i]>>7, x.k1[i]<<1|msb
	}
	x.k1[len(x.k1)-1] ^= msb * 0b10000111
	return x, nil
}

// gcm returns the AEAD for nonces that begin with prefix (12 bytes).
func (x *xaes) gcm(prefix []byte) (cipher.AEAD, error) {
	key := make([]byte, 0, 2*aes.BlockSize)
	key = append(key, 0, 1, 'X', 0)
	key = append(key, prefix...)
	key = append(key, 0, 2, 'X', 0)
	key = append(key, prefix...)
	subtle.XORBytes(key[:aes.BlockSize], key[:aes.BlockSize], x.k1[:])
	subtle.XORBytes(key[aes.BlockSize:], key[aes.BlockSize:], x.k1[:])
	x.block.Encrypt(key[:aes.BlockSize], key[:aes.BlockSize])
	x.block.Encrypt(key[aes.BlockSize:], key[aes.BlockSize:])
	block, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal appends the sealed plaintext (its length plus tagSize) to dst.
func (x *xaes) seal(dst, nonce, plaintext, additional []byte) ([]byte, error) {
	aead, err := x.gcm(nonce[:12])
	if err != nil {
		return nil, err
	}
	return aead.Seal(dst, nonce[12:], plaintext, additional), nil
}

// open appends the plaintext to dst, or returns errOpen.
func (x *xaes) open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	aead, err := x.gcm(nonce[:12])
	if err != nil {
		return nil, err
	}
	out, err := aead.Open(dst, nonce[12:], ciphertext, additional)
	if err != nil {
		return nil, errOpen
	}
	return out, nil
}
