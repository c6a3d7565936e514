// Package wrap seals short secrets, above all data keys, under the key material
// of a KMS key. Its output is the ciphertext blob that KMS's Encrypt and
// GenerateDataKey hand out; FORMAT.md beside this file gives the bytes.
//
//	header = "KB1\0" | key uuid 16 | material id 32 | salt 32 | commit 32
//	         "KB2\0" | the same                                            | nonce 12
//	blob   = header | AES-256-GCM(wrapkey, nonce, plaintext, AAD)
//	wrapkey, commit = HKDF-SHA256(material, salt, "kms-wrap-v1" or -v2 | key ARN), 32 + 32 bytes
//	AAD    = header | key ARN | canonical encryption context
//
// In version 1 every call derives a wrapping key of its own from a random
// 256-bit salt, so its nonce can be constant. Version 2 is for who wraps much:
// one wrapping key serves up to 4,096 calls with random nonces, and stays
// derived (Cache), for deriving it and expanding it is most of the work. Either
// way the number of calls under one material is not bounded by nonces. AES-GCM
// commits to no key: one could build a blob that opens under two materials with
// different plaintexts. The commit field, compared in constant time before
// anything is decrypted, rules that out.
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
	// HeaderSize is the length in bytes of what precedes the ciphertext in version 1.
	HeaderSize = len(magic1) + keySize + materialSize + saltSize + commitSize
	// Overhead is what wrapping adds to a plaintext in version 1, in bytes. In version 2 it is NonceSize more.
	Overhead = HeaderSize + tagSize
	// NonceSize is the length in bytes of the nonce of version 2.
	NonceSize = 12

	magic1       = "KB1\x00"
	magic2       = "KB2\x00"
	infoPrefix1  = "kms-wrap-v1"
	infoPrefix2  = "kms-wrap-v2"
	keySize      = 16
	materialSize = 32
	saltSize     = 32
	commitSize   = 32
	tagSize      = 16

	offKey      = len(magic1)
	offMaterial = offKey + keySize
	offSalt     = offMaterial + materialSize
	offCommit   = offSalt + saltSize
	offNonce    = offCommit + commitSize
)

// zero is version 1's nonce: every wrapping key seals once there.
var zero [NonceSize]byte

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
// ErrInvalidCiphertext for what cannot be a blob of a version that is known.
func ParseHeader(blob []byte) (Header, error) {
	h, _, err := parse(blob)
	return h, err
}

// parse is ParseHeader and says where the ciphertext begins.
func parse(blob []byte) (h Header, size int, err error) {
	size = HeaderSize
	if len(blob) > len(magic2) && string(blob[:len(magic2)]) == magic2 {
		size += NonceSize
	} else if len(blob) < len(magic1) || string(blob[:len(magic1)]) != magic1 {
		return Header{}, 0, ErrInvalidCiphertext
	}
	if n := len(blob) - size - tagSize; n < 1 || n > MaxPlaintext {
		return Header{}, 0, ErrInvalidCiphertext
	}
	copy(h.Key[:], blob[offKey:])
	copy(h.Material[:], blob[offMaterial:])
	return h, size, nil
}

// Wrap seals 1 to MaxPlaintext bytes, in version 1. The blob is Overhead bytes longer than
// the plaintext. keyARN and ctx must be given again to Unwrap.
func Wrap(material *crypto.DataKey, h Header, keyARN string, ctx crypto.Context, plaintext []byte) (crypto.WrappedKey, error) {
	var salt [saltSize]byte
	_, _ = rand.Read(salt[:]) // never fails
	return wrapWithSalt(material, h, keyARN, ctx, plaintext, salt)
}

// wrapWithSalt is Wrap with the randomness given, for the test vectors. One salt
// must never serve two plaintexts.
func wrapWithSalt(material *crypto.DataKey, h Header, keyARN string, ctx crypto.Context, plaintext []byte, salt [saltSize]byte) (crypto.WrappedKey, error) {
	d := derive(material, salt, keyARN, infoPrefix1)
	defer d.aead.Wipe()
	return d.seal(h, nil, keyARN, ctx, plaintext)
}

// Unwrap opens a blob of either version. Whatever is wrong, the error is
// ErrInvalidCiphertext. The caller wipes the plaintext.
func Unwrap(material *crypto.DataKey, keyARN string, ctx crypto.Context, blob []byte) ([]byte, error) {
	_, size, err := parse(blob)
	if err != nil {
		return nil, err
	}
	info := infoPrefix1
	if size != HeaderSize {
		info = infoPrefix2
	}
	d := derive(material, [saltSize]byte(blob[offSalt:offCommit]), keyARN, info)
	defer d.aead.Wipe()
	return d.open(size, keyARN, ctx, blob)
}

// derived is a wrapping key.
type derived struct {
	salt   [saltSize]byte
	commit [commitSize]byte
	aead   *crypto.AEAD
}

func derive(material *crypto.DataKey, salt [saltSize]byte, keyARN, info string) *derived {
	var keys [32 + commitSize]byte
	defer clear(keys[:])
	crypto.HKDF(keys[:], material.Expose(), salt[:], info, keyARN)
	return &derived{salt: salt, commit: [commitSize]byte(keys[32:]), aead: crypto.NewGCM(keys[:32])}
}

// seal makes a blob, of version 1 without a nonce.
func (d *derived) seal(h Header, nonce *[NonceSize]byte, keyARN string, ctx crypto.Context, plaintext []byte) (crypto.WrappedKey, error) {
	if len(plaintext) == 0 || len(plaintext) > MaxPlaintext {
		return nil, fmt.Errorf("wrap: plaintext of %d bytes, want 1 to %d", len(plaintext), MaxPlaintext)
	}
	magic := magic1
	if nonce != nil {
		magic = magic2
	}
	blob := make([]byte, 0, Overhead+NonceSize+len(plaintext))
	blob = append(append(append(append(append(blob, magic...), h.Key[:]...), h.Material[:]...), d.salt[:]...), d.commit[:]...)
	if nonce != nil {
		blob = append(blob, nonce[:]...)
	} else {
		nonce = &zero
	}
	room := rooms.Get().(*[]byte)
	*room = associated((*room)[:0], blob, keyARN, ctx)
	blob = d.aead.Seal(blob, nonce[:], plaintext, *room)
	giveBack(room)
	return blob, nil
}

// open opens a blob with a header of so many bytes.
func (d *derived) open(size int, keyARN string, ctx crypto.Context, blob []byte) ([]byte, error) {
	header, sealed := blob[:size], blob[size:]
	if subtle.ConstantTimeCompare(d.commit[:], header[offCommit:offNonce]) != 1 {
		return nil, ErrInvalidCiphertext
	}
	nonce := header[offNonce:]
	if len(nonce) == 0 {
		nonce = zero[:]
	}
	room := rooms.Get().(*[]byte)
	*room = associated((*room)[:0], header, keyARN, ctx)
	plaintext, err := d.aead.Open(nil, nonce, sealed, *room)
	giveBack(room)
	if err != nil {
		return nil, ErrInvalidCiphertext
	}
	return plaintext, nil
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
