package crypto

import (
	"bytes"
	"crypto/cipher"
	"crypto/sha256"
)

// Vault has keys in locked memory for as long as the process lives. It is where the daemon's audit log has its own (audit.Vault).
type Vault struct{}

// AEAD takes over a cipher that nobody else has.
func (Vault) AEAD(c cipher.AEAD) cipher.AEAD { return Keep(c) }

// MAC is HMAC-SHA256 under a copy of a data key's 32 bytes, of its arguments one after the other. It panics if the key has another length.
func (Vault) MAC(key []byte) func(parts ...[]byte) [sha256.Size]byte {
	k, err := DataKeyFromBytes(bytes.Clone(key))
	if err != nil {
		panic("crypto: " + err.Error())
	}
	return k.MAC
}
