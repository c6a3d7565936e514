package keystore

import (
	"encoding/binary"
	"fmt"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/wrap"
)

// Bucket keys. A file under one has its data key wrapped by a key that KMS wrapped, and that many files share: few calls of KMS make
// and open many files. Both wrappings are stored together, so that a file needs nothing but its own row:
//
//	"KL1\x00" | length of the next as uint16, big-endian | bucket key, wrapped by KMS | data key, wrapped by the bucket key
//
// The second wrapping is crypto/wrap's with a zero header, no context and the ARN below. It does not depend on the first: to move the
// file to another KMS key, the bucket key alone is wrapped anew.

const (
	localMagic = "KL1\x00"
	localARN   = "kmsfs bucket key"
)

// WrapLocal wraps a data key under a bucket key, whose own wrapping goes along.
func WrapLocal(bucketKey *crypto.DataKey, wrapped crypto.WrappedKey, dk *crypto.DataKey) (crypto.WrappedKey, error) {
	if len(wrapped) == 0 || len(wrapped) > 1<<16-1 {
		return nil, fmt.Errorf("wrap under a bucket key: its wrapping has %d bytes", len(wrapped))
	}
	inner, err := wrap.Wrap(bucketKey, wrap.Header{}, localARN, nil, dk.Expose())
	if err != nil {
		return nil, fmt.Errorf("wrap under a bucket key: %w", err)
	}
	return joinLocal(wrapped, inner), nil
}

func joinLocal(outer crypto.WrappedKey, inner []byte) crypto.WrappedKey {
	b := append(make([]byte, 0, len(localMagic)+2+len(outer)+len(inner)), localMagic...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(outer)))
	return append(append(b, outer...), inner...)
}

// SplitLocal finds the bucket key's wrapping in that of a data key. ok is false for a data key that KMS itself wrapped, which is then
// what outer is.
func SplitLocal(w crypto.WrappedKey) (outer crypto.WrappedKey, inner []byte, ok bool) {
	const head = len(localMagic) + 2
	if len(w) < head || string(w[:len(localMagic)]) != localMagic {
		return w, nil, false
	}
	n := int(binary.BigEndian.Uint16(w[len(localMagic):]))
	if n == 0 || len(w) <= head+n {
		return w, nil, false
	}
	return w[head : head+n], w[head+n:], true
}

// UnwrapLocal opens a data key with its bucket key.
func UnwrapLocal(bucketKey *crypto.DataKey, inner []byte) (*crypto.DataKey, error) {
	plain, err := wrap.Unwrap(bucketKey, localARN, nil, inner)
	if err != nil {
		return nil, fmt.Errorf("unwrap with a bucket key: %w", err)
	}
	dk, err := crypto.DataKeyFromBytes(plain)
	if err != nil {
		return nil, fmt.Errorf("unwrap with a bucket key: %w", err)
	}
	return dk, nil
}

// Rewrap gives the wrapping of a data key to fn, or, of one under a bucket key, the bucket key's, and puts what fn returns in its place.
func Rewrap(w crypto.WrappedKey, fn func(crypto.WrappedKey) (crypto.WrappedKey, error)) (crypto.WrappedKey, error) {
	outer, inner, ok := SplitLocal(w)
	out, err := fn(outer)
	if err != nil || !ok {
		return out, err
	}
	if len(out) == 0 || len(out) > 1<<16-1 {
		return nil, fmt.Errorf("re-wrap a bucket key: %d bytes", len(out))
	}
	return joinLocal(out, inner), nil
}
