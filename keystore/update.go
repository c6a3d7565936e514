package keystore

import (
	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/wrap"
	"github.com/kmsfs/kmsfs/keystore/audit"
)

// Updated is a file's data keys under another key.
type Updated struct {
	Wrapped []crypto.WrappedKey // those that there were, in the same order
	Fresh   *crypto.DataKey     // a new one for what is written from now on; the caller wipes it
	Sealed  crypto.WrappedKey   // the new one, wrapped
	KeyARN  string
}

// UpdateEncryption does to all data keys of a file what ReEncrypt does to one, and draws a fresh one, as S3 does in UpdateObjectEncryption:
// one request, one decision about each right (kms:Decrypt and kms:ReEncryptFrom on the source, kms:Encrypt, kms:GenerateDataKey and
// kms:ReEncryptTo on the target), one ReEncrypt event. Data keys under a bucket key keep it, and the bucket key is re-encrypted.
func (s *Service) UpdateEncryption(c *Call, wrapped []crypto.WrappedKey, from crypto.Context, ref string, to crypto.Context) (Updated, error) {
	for _, w := range wrapped {
		outer, _, _ := SplitLocal(w)
		if err := checkCiphertext(outer); err != nil {
			return Updated{}, err
		}
	}
	if len(wrapped) == 0 {
		return Updated{}, invalidCiphertext()
	}
	from, err := checkContext(from)
	if err != nil {
		return Updated{}, err
	}
	if to, err = checkContext(to); err != nil {
		return Updated{}, err
	}
	t := s.begin(c, opReEncrypt, audit.Parameters{
		DestinationKeyID: ref, SourceEncryptionContext: from, DestinationEncryptionContext: to,
		SourceEncryptionAlgorithm: Algorithm, DestinationEncryptionAlgorithm: Algorithm,
	})
	out, err := s.updateEncryption(t, wrapped, from, ref, to)
	if err := t.end(err); err != nil {
		if out.Fresh != nil {
			out.Fresh.Wipe()
		}
		return Updated{}, err
	}
	return out, nil
}

func (s *Service) updateEncryption(t *trail, wrapped []crypto.WrappedKey, from crypto.Context, ref string, to crypto.Context) (Updated, error) {
	outer, _, _ := SplitLocal(wrapped[0])
	src, _, srcKeys, err := s.source(t, outer, "", actionReEncryptFrom)
	if err != nil {
		return Updated{}, err
	}
	dst, aliasName, err := s.find(ref, true)
	if err != nil {
		return Updated{}, t.missing(actionReEncryptTo, err)
	}
	same := src == dst
	srcKeys.same = &same
	if err := s.mayUse(t, src, from, srcKeys, opDecrypt.action, actionReEncryptFrom); err != nil {
		return Updated{}, err
	}
	if err := s.mayUse(t, dst, to, &requestKeys{alias: aliasName, crypto: true, same: &same}, targetActionsS3...); err != nil {
		return Updated{}, err
	}
	out := Updated{Wrapped: make([]crypto.WrappedKey, len(wrapped)), KeyARN: dst.arn}
	for i, w := range wrapped {
		outer, inner, local := SplitLocal(w)
		h, err := wrap.ParseHeader(outer)
		if err != nil || keyID(h.Key) != src.id { // a file's data keys are all under one key
			return Updated{}, invalidCiphertext()
		}
		plaintext, err := s.unwrap(src, h, from, outer)
		if err != nil {
			return Updated{}, err
		}
		blob, err := s.wrap(dst, to, plaintext)
		clear(plaintext)
		if err != nil {
			return Updated{}, err
		}
		if local {
			blob = joinLocal(blob, inner)
		}
		out.Wrapped[i] = blob
	}
	out.Fresh = crypto.NewDataKey()
	if out.Sealed, err = s.wrap(dst, to, out.Fresh.Expose()); err != nil {
		return out, err
	}
	return out, nil
}
