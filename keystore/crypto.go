package keystore

import (
	"crypto/rand"
	"errors"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/wrap"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

const (
	maxPlaintext  = wrap.MaxPlaintext
	maxCiphertext = 6144
	maxDataKey    = 1024 // bytes
	maxContext    = 8192 // bytes of all names and values
)

var noContext = crypto.Context{}

// checkContext is the syntax of an encryption context. It returns the context to be decided by: never nil.
func checkContext(ctx crypto.Context) (crypto.Context, error) {
	n := 0
	for k, v := range ctx {
		n += len(k) + len(v)
	}
	if n > maxContext {
		return nil, refuse(CodeValidation, "1 validation error detected: Value at 'encryptionContext' failed to satisfy constraint: "+
			"Member must have length less than or equal to %d", maxContext)
	}
	if ctx == nil {
		return noContext, nil
	}
	return ctx, nil
}

func checkCiphertext(blob []byte) error {
	if len(blob) == 0 || len(blob) > maxCiphertext {
		return refuse(CodeValidation, "1 validation error detected: Value at 'ciphertextBlob' failed to satisfy constraint: "+
			"Member must have length between 1 and %d", maxCiphertext)
	}
	return nil
}

// Encrypt seals 1 to 4096 bytes under a key (id, ARN or alias) and returns the key's ARN.
func (s *Service) Encrypt(c *Call, ref string, plaintext []byte, ctx crypto.Context) (crypto.WrappedKey, string, error) {
	if len(plaintext) == 0 || len(plaintext) > maxPlaintext {
		return nil, "", refuse(CodeValidation, "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: "+
			"Member must have length less than or equal to %d", maxPlaintext)
	}
	return s.seal(c, opEncrypt, audit.Parameters{KeyID: ref, EncryptionAlgorithm: Algorithm}, ref, plaintext, ctx)
}

// GenerateDataKey makes a data key and wraps it under a key (id, ARN or alias), whose ARN it returns. The caller wipes the
// data key.
func (s *Service) GenerateDataKey(c *Call, ref string, ctx crypto.Context) (*crypto.DataKey, crypto.WrappedKey, string, error) {
	dk := crypto.NewDataKey()
	wrapped, arn, err := s.seal(c, opGenerateDataKey, audit.Parameters{KeyID: ref, KeySpec: "AES_256"}, ref, dk.Expose(), ctx)
	if err != nil {
		dk.Wipe()
		return nil, nil, "", err
	}
	return dk, wrapped, arn, nil
}

// GenerateDataKeyWithoutPlaintext is GenerateDataKey for who is to keep the wrapped key only.
func (s *Service) GenerateDataKeyWithoutPlaintext(c *Call, ref string, ctx crypto.Context) (crypto.WrappedKey, string, error) {
	dk := crypto.NewDataKey()
	defer dk.Wipe()
	return s.seal(c, opGenerateDataKeyWithoutPlaintext, audit.Parameters{KeyID: ref, KeySpec: "AES_256"}, ref, dk.Expose(), ctx)
}

// GenerateDataKeyBytes is GenerateDataKey for n random bytes (1 to 1024), and GenerateDataKeyWithoutPlaintext if the plaintext is
// not wanted. The caller wipes the plaintext.
func (s *Service) GenerateDataKeyBytes(c *Call, ref string, n int, wanted bool, ctx crypto.Context) ([]byte, crypto.WrappedKey, string, error) {
	op := opGenerateDataKey
	if !wanted {
		op = opGenerateDataKeyWithoutPlaintext
	}
	if n < 1 || n > maxDataKey {
		return nil, nil, "", refuse(CodeValidation, "1 validation error detected: Value '%d' at 'numberOfBytes' failed to satisfy constraint: "+
			"Member must have value between 1 and %d", n, maxDataKey)
	}
	plaintext := make([]byte, n)
	rand.Read(plaintext)
	wrapped, arn, err := s.seal(c, op, audit.Parameters{KeyID: ref, NumberOfBytes: n}, ref, plaintext, ctx)
	if err != nil || !wanted {
		clear(plaintext)
		plaintext = nil
	}
	return plaintext, wrapped, arn, err
}

// seal is the one way into a ciphertext for a caller.
func (s *Service) seal(c *Call, op *operation, p audit.Parameters, ref string, plaintext []byte, ctx crypto.Context) (crypto.WrappedKey, string, error) {
	ctx, err := checkContext(ctx)
	if err != nil {
		return nil, "", err
	}
	p.EncryptionContext = ctx
	t := s.begin(c, op, p)
	k, err := s.usable(t, ref, ctx, op.action)
	if err != nil {
		return nil, "", t.end(err)
	}
	blob, err := s.wrap(k, ctx, plaintext)
	if err := t.end(err); err != nil {
		return nil, "", err
	}
	return blob, k.arn, nil
}

// usable finds the key that a reference names and checks that the caller may do all the actions with it, and that its state
// lets the call's operation happen.
func (s *Service) usable(t *trail, ref string, ctx crypto.Context, actions ...string) (*key, error) {
	if s.closed.Load() {
		return nil, ErrClosed
	}
	if t.c.ViaS3 && s.managed.Load() == nil && (ref == managedS3Alias || ref == s.managedARN) {
		if _, err := s.ManagedS3Key(); err != nil {
			return nil, err
		}
	}
	k, aliasName, err := s.find(ref, true)
	if err != nil {
		return nil, t.missing(actions[0], err)
	}
	return k, s.mayUse(t, k, ctx, &requestKeys{alias: aliasName, crypto: true}, actions...)
}

// mayUse is the gate before key material: authorisation, then state.
func (s *Service) mayUse(t *trail, k *key, ctx crypto.Context, keys *requestKeys, actions ...string) error {
	snap := s.settled(k)
	t.resource(k.arn)
	for _, action := range actions {
		if err := t.allow(action, k, snap, ctx, keys); err != nil {
			return err
		}
	}
	return checkState(t.op, k.arn, snap.rec)
}

// wrap seals under the key's current material.
func (s *Service) wrap(k *key, ctx crypto.Context, plaintext []byte) (crypto.WrappedKey, error) {
	k.use.RLock()
	defer k.use.RUnlock()
	if !k.alive {
		return nil, s.goneError(k)
	}
	snap := k.snapshot()
	material := snap.material()
	if material == nil { // imported, and taken away since the state was checked
		e := refuse(CodeInvalidState, "%s is pending import.", k.arn)
		e.State = PendingImport
		return nil, e
	}
	return s.wrapping.Wrap(material, wrap.Header{Key: k.id, Material: snap.current}, k.arn, ctx, plaintext)
}

// unwrap opens a blob with the material it names.
func (s *Service) unwrap(k *key, h wrap.Header, ctx crypto.Context, blob []byte) ([]byte, error) {
	k.use.RLock()
	defer k.use.RUnlock()
	if !k.alive {
		return nil, s.goneError(k)
	}
	material := k.snapshot().materials[h.Material]
	if material == nil {
		return nil, invalidCiphertext()
	}
	plaintext, err := s.wrapping.Unwrap(material, k.arn, ctx, blob)
	if errors.Is(err, wrap.ErrInvalidCiphertext) {
		return nil, invalidCiphertext()
	}
	return plaintext, err
}

// goneError is for a key whose material was wiped between the checks and its use.
func (s *Service) goneError(k *key) error {
	if s.closed.Load() {
		return ErrClosed
	}
	return doesNotExist(k.arn)
}

// Decrypt opens a wrapped data key. The key is the one that the ciphertext names. The caller wipes the data key.
func (s *Service) Decrypt(c *Call, wrapped crypto.WrappedKey, ctx crypto.Context) (*crypto.DataKey, error) {
	var dk *crypto.DataKey
	_, err := s.decrypt(c, wrapped, ctx, "", func(plaintext []byte) error {
		var err error
		if dk, err = crypto.DataKeyFromBytes(plaintext); err != nil {
			return invalidCiphertext()
		}
		return nil
	})
	if err != nil {
		if dk != nil {
			dk.Wipe()
		}
		return nil, err
	}
	return dk, nil
}

// Decrypted is what DecryptBytes tells.
type Decrypted struct {
	Plaintext  []byte // the caller wipes it
	KeyARN     string
	MaterialID string
}

// DecryptBytes opens any ciphertext of Encrypt or GenerateDataKey. If ref is not empty (id, ARN or alias) it must name the key
// of the ciphertext: IncorrectKeyException.
func (s *Service) DecryptBytes(c *Call, blob []byte, ctx crypto.Context, ref string) (Decrypted, error) {
	var out Decrypted
	arn, err := s.decrypt(c, blob, ctx, ref, func(plaintext []byte) error {
		out.Plaintext = plaintext
		return nil
	})
	if err != nil {
		clear(out.Plaintext)
		return Decrypted{}, err
	}
	out.KeyARN = arn
	out.MaterialID, err = s.MaterialID(blob)
	return out, err
}

// decrypt is the one way from a ciphertext to a plaintext for a caller. The plaintext is taken before the event is written, and
// the caller gets it only if the event was.
func (s *Service) decrypt(c *Call, blob []byte, ctx crypto.Context, ref string, take func(plaintext []byte) error) (string, error) {
	if err := checkCiphertext(blob); err != nil {
		return "", err
	}
	ctx, err := checkContext(ctx)
	if err != nil {
		return "", err
	}
	t := s.begin(c, opDecrypt, audit.Parameters{KeyID: ref, EncryptionAlgorithm: Algorithm, EncryptionContext: ctx})
	k, plaintext, err := s.openBlob(t, blob, ctx, ref, opDecrypt.action)
	if err == nil {
		err = take(plaintext)
	}
	if err := t.end(err); err != nil {
		return "", err
	}
	return k.arn, nil
}

// openBlob finds the key of a ciphertext, passes the gate and unwraps.
func (s *Service) openBlob(t *trail, blob []byte, ctx crypto.Context, ref string, actions ...string) (*key, []byte, error) {
	k, h, keys, err := s.source(t, blob, ref, actions[0])
	if err != nil {
		return nil, nil, err
	}
	if err := s.mayUse(t, k, ctx, keys, actions...); err != nil {
		return nil, nil, err
	}
	plaintext, err := s.unwrap(k, h, ctx, blob)
	return k, plaintext, err
}

// source is the key of a ciphertext. If the request names one as well, that is authorised first and must be the same.
func (s *Service) source(t *trail, blob []byte, ref, action string) (*key, wrap.Header, *requestKeys, error) {
	keys := &requestKeys{crypto: true}
	if s.closed.Load() {
		return nil, wrap.Header{}, nil, ErrClosed
	}
	var named *key
	if ref != "" {
		var err error
		if named, keys.alias, err = s.find(ref, true); err != nil {
			return nil, wrap.Header{}, nil, t.missing(action, err)
		}
	}
	h, err := wrap.ParseHeader(blob)
	if err != nil {
		return nil, h, nil, invalidCiphertext()
	}
	k := s.lookup(h.Key)
	switch {
	case named != nil && (k == nil || k != named):
		return nil, h, nil, refuse(CodeIncorrectKey, "The key ID in the request does not identify a CMK that can perform this operation.")
	case k == nil:
		return nil, h, nil, t.missing(action, doesNotExist(s.keyARN(h.Key)))
	}
	return k, h, keys, nil
}

// The actions of re-encryption. Through S3 it is UpdateObjectEncryption, which asks for more.
const (
	actionReEncryptFrom = "kms:ReEncryptFrom"
	actionReEncryptTo   = "kms:ReEncryptTo"
)

// ReEncrypt opens a ciphertext and seals its plaintext under another key (id, ARN or alias), or the same with another context,
// without showing it. It asks for kms:ReEncryptFrom and kms:ReEncryptTo; through S3, where it is UpdateObjectEncryption, for
// kms:Decrypt on the source and kms:Encrypt and kms:GenerateDataKey on the destination as well.
func (s *Service) ReEncrypt(c *Call, wrapped crypto.WrappedKey, from crypto.Context, ref string, to crypto.Context) (crypto.WrappedKey, string, error) {
	return s.ReEncryptFrom(c, wrapped, from, "", ref, to)
}

// ReEncryptFrom is ReEncrypt where the request names the source key too (id, ARN or alias; "" = not): IncorrectKeyException if
// the ciphertext is not that key's.
func (s *Service) ReEncryptFrom(c *Call, wrapped crypto.WrappedKey, from crypto.Context, source, ref string, to crypto.Context) (crypto.WrappedKey, string, error) {
	if err := checkCiphertext(wrapped); err != nil {
		return nil, "", err
	}
	from, err := checkContext(from)
	if err != nil {
		return nil, "", err
	}
	if to, err = checkContext(to); err != nil {
		return nil, "", err
	}
	t := s.beginReEncrypt(c, from, ref, to)
	t.params.SourceKeyID = source
	blob, arn, err := s.reEncrypt(t, wrapped, from, source, ref, to)
	if err := t.end(err); err != nil {
		return nil, "", err
	}
	return blob, arn, nil
}

func (s *Service) beginReEncrypt(c *Call, from crypto.Context, ref string, to crypto.Context) *trail {
	return s.begin(c, opReEncrypt, audit.Parameters{
		DestinationKeyID: ref, SourceEncryptionContext: from, DestinationEncryptionContext: to,
		SourceEncryptionAlgorithm: Algorithm, DestinationEncryptionAlgorithm: Algorithm,
	})
}

func (s *Service) reEncrypt(t *trail, wrapped crypto.WrappedKey, from crypto.Context, source, ref string, to crypto.Context) (crypto.WrappedKey, string, error) {
	src, h, srcKeys, err := s.source(t, wrapped, source, actionReEncryptFrom)
	if err != nil {
		return nil, "", err
	}
	dst, aliasName, err := s.find(ref, true)
	if err != nil {
		return nil, "", t.missing(actionReEncryptTo, err)
	}
	same := src == dst
	srcKeys.same = &same
	dstKeys := &requestKeys{alias: aliasName, crypto: true, same: &same}
	sourceActions, targetActions := []string{actionReEncryptFrom}, []string{actionReEncryptTo}
	if t.c.ViaS3 {
		sourceActions, targetActions = []string{opDecrypt.action, actionReEncryptFrom}, targetActionsS3
	}
	if err := s.mayUse(t, src, from, srcKeys, sourceActions...); err != nil {
		return nil, "", err
	}
	if err := s.mayUse(t, dst, to, dstKeys, targetActions...); err != nil {
		return nil, "", err
	}
	plaintext, err := s.unwrap(src, h, from, wrapped)
	if err != nil {
		return nil, "", err
	}
	defer clear(plaintext)
	blob, err := s.wrap(dst, to, plaintext)
	return blob, dst.arn, err
}

var targetActionsS3 = []string{opEncrypt.action, opGenerateDataKey.action, actionReEncryptTo}

// MaterialID is the id (64 hex digits) of the material a ciphertext was made with. Nobody is asked for permission.
func (s *Service) MaterialID(wrapped crypto.WrappedKey) (string, error) {
	h, err := wrap.ParseHeader(wrapped)
	if err != nil {
		return "", invalidCiphertext()
	}
	return materialID(h.Material).String(), nil
}

// KeyARN is the ARN of the key a ciphertext names. Nobody is asked for permission, and the key need not exist.
func (s *Service) KeyARN(wrapped crypto.WrappedKey) (string, error) {
	h, err := wrap.ParseHeader(wrapped)
	if err != nil {
		return "", invalidCiphertext()
	}
	return s.keyARN(h.Key), nil
}

// Check says what a call of action ("kms:Decrypt", "kms:GenerateDataKey", …) on a key would come to: nil, or the error it would
// fail with before touching a ciphertext. It does nothing and leaves no audit event. The decision is there in either case.
func (s *Service) Check(c *Call, action, ref string, ctx crypto.Context) (policy.Decision, error) {
	t := &trail{s: s, c: c, op: opCheck, now: s.clock()}
	ctx, err := checkContext(ctx)
	if err == nil {
		_, err = s.usable(t, ref, ctx, action)
	}
	return t.decision, internal(err)
}

// CheckAll is Check for every encryption context at once, where no policy and no grant constraint that decides looks at it. Otherwise alike
// is false, and each context has to be checked.
func (s *Service) CheckAll(c *Call, action, ref string) (alike bool, err error) {
	if s.closed.Load() {
		return true, ErrClosed
	}
	k, aliasName, err := s.find(ref, true)
	if err != nil {
		return true, err
	}
	snap := s.settled(k)
	switch {
	case c.Who == nil:
		return true, errNoCaller
	case snap.deleted():
		return true, doesNotExist(k.arn)
	}
	if err := checkState(opCheck, k.arn, snap.rec); err != nil {
		return true, internal(err)
	}
	asked := false
	d := s.decide(c, action, k, snap, nil, &requestKeys{alias: aliasName, crypto: true, asked: &asked}, nil)
	if asked {
		return false, nil
	}
	if !d.Allowed() {
		return true, accessDenied(&d)
	}
	return true, nil
}
