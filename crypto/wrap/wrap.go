// Package wrap seals short secrets, above all data keys, under the key material
// of a KMS key. Its output is the ciphertext blob that KMS's Encrypt and
// GenerateDataKey hand out; FORMAT.md beside this file gives the bytes.
//
//	header = "KB1\0" | key uuid 16 | material id 32 | salt 32 | commit 32
//	blob   = header | AES-256-GCM(wrapkey, nonce 0, plaintext, AAD)
//	wrapkey, commit = HKDF-SHA256(material, salt, "kms-wrap-v1" | key ARN), 32 + 32 bytes
//	AAD    = header | key ARN | canonical encryption context
//
// Every call derives a fresh wrapping key from a random 256-bit salt, so the
// nonce can be constant and the number of calls under one material is not
// bounded by random nonces. AES-GCM commits to no key: one could build a blob
// that opens under two materials with different plaintexts. The commit field,
// compared in constant time before anything is decrypted, rules that out.
//
// The package is not a KMS: it knows nothing of key states, policies or where
// material is kept, and it does not tell why a blob was refused. Whoever holds
// the blob must not learn whether the context, the key or the bytes were wrong.
package wrap

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"

	"github.com/kmsfs/kmsfs/crypto"
)

const (
	// MaxPlaintext is the longest plaintext in bytes, as in KMS's Encrypt.
	MaxPlaintext = 4096
	// HeaderSize is the length in bytes of what precedes the ciphertext.
	HeaderSize = len(magic) + keySize + materialSize + saltSize + commitSize
	// Overhead is what wrapping adds to a plaintext, in bytes.
	Overhead = HeaderSize + tagSize

	magic        = "KB1\x00"
	infoPrefix   = "kms-wrap-v1"
	keySize      = 16
	materialSize = 32
	saltSize     = 32
	commitSize   = 32
	tagSize      = 16

	offKey      = len(magic)
	offMaterial = offKey + keySize
	offSalt     = offMaterial + materialSize
	offCommit   = offSalt + saltSize
)

// nonce is always zero: every wrapping key seals once.
var nonce [12]byte

// ErrInvalidCiphertext says that a blob does not open: damaged, of another
// format version, or made with another material, key ARN or context. It never
// says which.
var ErrInvalidCiphertext = errors.New("wrap: invalid ciphertext")

// Header names the key and the material a blob was made with, so that a key
// store can find both. It is not authenticated until Unwrap succeeds.
type Header struct {
	Key      [16]byte // the KMS key's UUID
	Material [32]byte // the key material's id
}

// ParseHeader reads the header of a blob without a key. It returns
// ErrInvalidCiphertext for what cannot be a blob of this version.
func ParseHeader(blob []byte) (Header, error) {
	if len(blob) < Overhead+1 || len(blob) > Overhead+MaxPlaintext || string(blob[:len(magic)]) != magic {
		return Header{}, ErrInvalidCiphertext
	}
	var h Header
	copy(h.Key[:], blob[offKey:])
	copy(h.Material[:], blob[offMaterial:])
	return h, nil
}

// Wrap seals 1 to MaxPlaintext bytes. The blob is Overhead bytes longer than
// the plaintext. keyARN and ctx must be given again to Unwrap.
func Wrap(material *crypto.DataKey, h Header, keyARN string, ctx crypto.Context, plaintext []byte) (crypto.WrappedKey, error) {
	var salt [saltSize]byte
	_, _ = rand.Read(salt[:]) // never fails
	return wrapWithSalt(material, h, keyARN, ctx, plaintext, salt)
}

// wrapWithSalt is Wrap with the randomness given, for the test vectors. One salt
// must never serve two plaintexts.
func wrapWithSalt(material *crypto.DataKey, h Header, keyARN string, ctx crypto.Context, plaintext []byte, salt [saltSize]byte) (crypto.WrappedKey, error) {
	if len(plaintext) == 0 || len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("wrap: plaintext of %d bytes, want 1 to %d", len(plaintext), MaxPlaintext)
	}
	var keys [32 + commitSize]byte
	defer clear(keys[:])
	derive(&keys, material, salt[:], keyARN)

	blob := make([]byte, HeaderSize, Overhead+len(plaintext))
	copy(blob, magic)
	copy(blob[offKey:], h.Key[:])
	copy(blob[offMaterial:], h.Material[:])
	copy(blob[offSalt:], salt[:])
	copy(blob[offCommit:], keys[32:])
	room := rooms.Get().(*[]byte)
	*room = associated((*room)[:0], blob, keyARN, ctx)
	key := crypto.NewGCM(keys[:32])
	defer key.Wipe()
	blob = key.Seal(blob, nonce[:], plaintext, *room)
	giveBack(room)
	return blob, nil
}

// Unwrap opens what Wrap sealed. Whatever is wrong, the error is
// ErrInvalidCiphertext. The caller wipes the plaintext.
func Unwrap(material *crypto.DataKey, keyARN string, ctx crypto.Context, blob []byte) ([]byte, error) {
	if _, err := ParseHeader(blob); err != nil {
		return nil, err
	}
	header, sealed := blob[:HeaderSize], blob[HeaderSize:]
	var keys [32 + commitSize]byte
	defer clear(keys[:])
	derive(&keys, material, header[offSalt:offCommit], keyARN)
	if subtle.ConstantTimeCompare(keys[32:], header[offCommit:]) != 1 {
		return nil, ErrInvalidCiphertext
	}
	room := rooms.Get().(*[]byte)
	*room = associated((*room)[:0], header, keyARN, ctx)
	key := crypto.NewGCM(keys[:32])
	defer key.Wipe()
	plaintext, err := key.Open(nil, nonce[:], sealed, *room)
	giveBack(room)
	if err != nil {
		return nil, ErrInvalidCiphertext
	}
	return plaintext, nil
}

// derive gives the wrapping key followed by the commitment.
func derive(keys *[32 + commitSize]byte, material *crypto.DataKey, salt []byte, keyARN string) {
	crypto.HKDF(keys[:], material.Expose(), salt, infoPrefix, keyARN)
}

// rooms are buffers for associated data, which is not secret. Those that an unusual context made large are not kept.
var rooms = sync.Pool{New: func() any { return new(make([]byte, 0, HeaderSize+512)) }}

func giveBack(room *[]byte) {
	if cap(*room) <= 4096 {
		rooms.Put(room)
	}
}

// associated appends the AAD to dst. The ARN needs no length before it: it is already
// bound, unambiguously, as the tail of the derivation's info.
func associated(dst, header []byte, keyARN string, ctx crypto.Context) []byte {
	aad := append(dst, header...)
	aad = append(aad, keyARN...)
	return ctx.AppendCanonical(aad)
}
