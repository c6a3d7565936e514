package keystore

import (
	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/wrap"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

const managedS3Description = "Default key that protects my S3 objects when no other key is defined"

// makeStoreKey makes the hidden key of SSE-S3. Its record is like any other; its policy allows nobody anything, and no call
// finds it.
func (s *Service) makeStoreKey() error {
	s.manage.Lock()
	defer s.manage.Unlock()
	doc, err := policy.Parse(policy.KeyPolicy, policy.DefaultKeyPolicy(s.account))
	if err != nil {
		return internal(err)
	}
	id, now := newKeyID(), s.clock()
	r := &record{
		Format: recordFormat, ID: id.String(), Manager: storeManager, Origin: originAWS, Created: now, State: Enabled, Policy: string(doc.Text()),
	}
	s.store, err = s.addKey(id, r, doc, "", now)
	return err
}

// ManagedS3Key is the ARN of alias/aws/s3, which is made on first need. Nobody is asked for permission.
func (s *Service) ManagedS3Key() (string, error) {
	if k := s.managed.Load(); k != nil {
		return k.arn, nil
	}
	k, err := s.makeManagedS3Key()
	if err != nil {
		return "", internal(err)
	}
	s.notify(k.arn)
	return k.arn, nil
}

func (s *Service) makeManagedS3Key() (*key, error) {
	s.manage.Lock()
	defer s.manage.Unlock()
	if s.closed.Load() {
		return nil, ErrClosed
	}
	if k := s.managed.Load(); k != nil {
		return k, nil
	}
	doc, err := policy.Parse(policy.KeyPolicy, policy.ManagedS3KeyPolicy(s.account, s.region))
	if err != nil {
		return nil, err
	}
	id, now := newKeyID(), s.clock()
	r := &record{
		Format: recordFormat, ID: id.String(), Manager: AWSManager, Origin: originAWS, Description: managedS3Description,
		Created: now, State: Enabled, Policy: string(doc.Text()),
		Rotation: rotation{Enabled: true, Days: defaultRotationDays, Next: now.Add(defaultRotationDays * day)},
	}
	k, err := s.addKey(id, r, doc, managedS3Alias, now)
	if err != nil {
		return nil, err
	}
	s.managed.Store(k)
	s.serviceEvent("CreateKey", k, now, map[string]any{"keyId": r.ID, "aliasName": managedS3Alias})
	return k, nil
}

// GenerateStoreKey makes a data key under the hidden store key (SSE-S3): no policy, no event.
func (s *Service) GenerateStoreKey(ctx crypto.Context) (*crypto.DataKey, crypto.WrappedKey, error) {
	dk := crypto.NewDataKey()
	wrapped, err := s.wrap(s.store, ctx, dk.Expose())
	if err != nil {
		dk.Wipe()
		return nil, nil, internal(err)
	}
	return dk, wrapped, nil
}

// DecryptStoreKey opens a data key that GenerateStoreKey made.
func (s *Service) DecryptStoreKey(wrapped crypto.WrappedKey, ctx crypto.Context) (*crypto.DataKey, error) {
	plaintext, err := s.openStore(wrapped, ctx)
	if err != nil {
		return nil, internal(err)
	}
	dk, err := crypto.DataKeyFromBytes(plaintext)
	if err != nil {
		return nil, invalidCiphertext()
	}
	return dk, nil
}

func (s *Service) openStore(wrapped crypto.WrappedKey, ctx crypto.Context) ([]byte, error) {
	h, err := wrap.ParseHeader(wrapped)
	if err != nil || keyID(h.Key) != s.store.id {
		return nil, invalidCiphertext()
	}
	return s.unwrap(s.store, h, ctx, wrapped)
}

// RewrapToStoreKey takes a data key from a KMS key to the store key (SSE-KMS to SSE-S3): kms:Decrypt is asked for, and a Decrypt
// event written.
func (s *Service) RewrapToStoreKey(c *Call, wrapped crypto.WrappedKey, from, to crypto.Context) (crypto.WrappedKey, error) {
	dk, err := s.Decrypt(c, wrapped, from)
	if err != nil {
		return nil, err
	}
	defer dk.Wipe()
	out, err := s.wrap(s.store, to, dk.Expose())
	return out, internal(err)
}

// RewrapFromStoreKey takes a data key from the store key to a KMS key (SSE-S3 to SSE-KMS): kms:Encrypt, kms:GenerateDataKey and
// kms:ReEncryptTo are asked for on the target, and a ReEncrypt event written.
func (s *Service) RewrapFromStoreKey(c *Call, wrapped crypto.WrappedKey, from crypto.Context, ref string, to crypto.Context) (crypto.WrappedKey, string, error) {
	to, err := checkContext(to)
	if err != nil {
		return nil, "", err
	}
	t := s.begin(c, opReEncrypt, audit.Parameters{
		DestinationKeyID: ref, DestinationEncryptionContext: to, DestinationEncryptionAlgorithm: Algorithm,
	})
	blob, arn, err := func() (crypto.WrappedKey, string, error) {
		k, err := s.usable(t, ref, to, targetActionsS3...)
		if err != nil {
			return nil, "", err
		}
		plaintext, err := s.openStore(wrapped, from)
		if err != nil {
			return nil, "", err
		}
		defer clear(plaintext)
		blob, err := s.wrap(k, to, plaintext)
		return blob, k.arn, err
	}()
	if err := t.end(err); err != nil {
		return nil, "", err
	}
	return blob, arn, nil
}

// StoreKey tells whether a ciphertext was made under the hidden store key.
func (s *Service) StoreKey(wrapped crypto.WrappedKey) bool {
	h, err := wrap.ParseHeader(wrapped)
	return err == nil && keyID(h.Key) == s.store.id
}
