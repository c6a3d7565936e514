package mount

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Bucket keys as a session uses them: one kms:GenerateDataKey serves all files that a principal makes in a bucket under a key for some
// minutes, and one kms:Decrypt opens all that were made with one bucket key. Unlike S3, nothing outlives a right: a key that was kept is
// used only while the principal's identity and everything about the KMS key are what they were when KMS gave it, and is wiped when that
// ends.

const (
	bucketKeyTTL = 300 * time.Second
	maxKept      = 256 // keys of one session
)

// keptKey is a bucket key in memory.
type keptKey struct {
	key     *crypto.DataKey
	wrapped crypto.WrappedKey
	arn     string
	who     *policy.Identity
	epoch   uint64 // of the KMS key
	until   time.Time
}

// keptID names what a bucket key is kept for: making files (what the caller asked KMS for) or opening them (the wrapped key).
type keptID struct {
	making bool
	hash   [sha256.Size]byte
}

// valid reports whether nothing that the key rests on has changed. v may be a session's newest view only.
func (e *keptKey) valid(s *Session, v *view) bool {
	return e.who == v.who && e.epoch == s.hub.keyEpoch(e.arn) && s.cfg.Clock().Before(e.until)
}

// keptKeys are a session's bucket keys. mu is a leaf.
type keptKeys struct {
	mu sync.Mutex
	m  map[keptID]*keptKey
}

// get gives a clone of a key that may still be used.
func (k *keptKeys) get(s *Session, v *view, id keptID) (*keptKey, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.m[id]
	if e == nil || !e.valid(s, v) {
		return nil, false
	}
	c := *e
	c.key = e.key.Clone()
	return &c, true
}

// put keeps a clone of a key, in place of all if there are too many.
func (k *keptKeys) put(id keptID, e keptKey) {
	e.key = e.key.Clone()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.m) >= maxKept {
		k.wipeLocked()
	}
	if k.m == nil {
		k.m = map[keptID]*keptKey{}
	}
	if old := k.m[id]; old != nil {
		old.key.Wipe()
	}
	k.m[id] = &e
}

// prune wipes the keys that may not be used any more.
func (k *keptKeys) prune(s *Session) {
	v := s.view()
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, e := range k.m {
		if !e.valid(s, v) {
			e.key.Wipe()
			delete(k.m, id)
		}
	}
}

func (k *keptKeys) wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wipeLocked()
}

func (k *keptKeys) wipeLocked() {
	for _, e := range k.m {
		e.key.Wipe()
	}
	clear(k.m)
}

// keep remembers a bucket key that KMS gave just now, unless something about its KMS key changed since epoch.
func (s *Session) keep(v *view, id keptID, key *crypto.DataKey, wrapped crypto.WrappedKey, arn string, epoch uint64) {
	s.kept.put(id, keptKey{key: key, wrapped: wrapped, arn: arn, who: v.who, epoch: epoch, until: s.cfg.Clock().Add(bucketKeyTTL)})
}

// underBucketKey draws a data key for a file, wrapped by the bucket key.
func (s *Session) underBucketKey(v *view, call *keystore.Call, key string, ctx crypto.Context) (*crypto.DataKey, crypto.WrappedKey, string, error) {
	arn, err := s.cfg.Keystore.Resolve(key)
	if err != nil {
		return nil, nil, "", err
	}
	id := keptID{making: true, hash: sha256.Sum256(append([]byte(arn+"\x00"+key+"\x00"), ctx.Canonical()...))}
	e, ok := s.kept.get(s, v, id)
	if !ok {
		epoch := s.hub.keyEpoch(arn)
		bk, wrapped, got, err := s.cfg.Keystore.GenerateDataKey(call, key, ctx)
		if err != nil {
			return nil, nil, "", err
		}
		if got == arn { // else the alias has just moved
			s.keep(v, id, bk, wrapped, arn, epoch)
		}
		e = &keptKey{key: bk, wrapped: wrapped, arn: got}
	}
	defer e.key.Wipe()
	dk := crypto.NewDataKey()
	w, err := keystore.WrapLocal(e.key, e.wrapped, dk)
	if err != nil {
		dk.Wipe()
		return nil, nil, "", err
	}
	return dk, w, e.arn, nil
}

// openKey opens one wrapped data key of a file; call is asked for only if KMS has to be.
func (s *Session) openKey(v *view, sealing fs.Sealing, w crypto.WrappedKey, call func() (*keystore.Call, error)) (*crypto.DataKey, error) {
	outer, inner, local := keystore.SplitLocal(w)
	id := keptID{hash: sha256.Sum256(outer)}
	if local && sealing.Method == fs.SSEKMS && sealing.BucketKey {
		if e, ok := s.kept.get(s, v, id); ok {
			defer e.key.Wipe()
			return keystore.UnwrapLocal(e.key, inner)
		}
	}
	epoch := s.hub.keyEpoch(sealing.KeyARN)
	var dk *crypto.DataKey
	var err error
	if sealing.Method == fs.SSEKMS {
		c, cerr := call()
		if cerr != nil {
			return nil, cerr
		}
		dk, err = s.cfg.Keystore.Decrypt(c, outer, sealing.Context)
	} else {
		dk, err = s.cfg.Keystore.DecryptStoreKey(outer, sealing.Context)
	}
	if err != nil || !local {
		return dk, err
	}
	defer dk.Wipe()
	if sealing.Method == fs.SSEKMS && sealing.BucketKey {
		s.keep(v, id, dk, outer, sealing.KeyARN, epoch)
	}
	return keystore.UnwrapLocal(dk, inner)
}
