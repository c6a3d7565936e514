package mount

import (
	"errors"
	"fmt"
	"maps"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
)

// bucketDoc is the stored configuration of a bucket.
type bucketDoc = fs.Bucket

// setOfFile changes a file's encryption, as user.s3.sse asks. No data is touched: the data keys are wrapped anew, in a time that does
// not depend on the size, and what is written later gets a fresh one.
func (s *Session) setOfFile(t *xattrTarget, ch choice) error {
	for range openTries {
		err := s.rekeyOnce(t, ch)
		if !errors.Is(err, ErrStale) {
			return err
		}
	}
	return fmt.Errorf("re-key inode %d: its keys keep changing: %w", t.ino, ErrStale)
}

func (s *Session) rekeyOnce(t *xattrTarget, ch choice) error {
	now, err := s.vol.Sealing(t.ino)
	if err != nil {
		return err
	}
	a, err := s.vol.Attr(t.ino)
	if err != nil {
		return err
	}
	same, err := s.inForce(t, now, ch)
	if err != nil {
		return err
	}
	if same {
		if now.Explicit {
			return nil
		}
		if err := t.v.object(t.b, actPut, t.keys, allNames, putRequest{s, ch}); err != nil {
			return err
		}
		return s.setExplicit(t.ino, true)
	}
	if a.Size == 0 {
		err := s.rekeyEmpty(t, now, ch)
		if !errors.Is(err, ErrInvalid) {
			return err
		}
		// Somebody wrote meanwhile, or the request itself is wrong, which shows again below.
	}
	var to fs.Sealing
	var fresh *crypto.DataKey
	switch {
	case ch.method == fs.SSES3 && now.Method == fs.SSES3:
		return s.setExplicit(t.ino, ch.explicit)
	case ch.method == fs.SSES3:
		to, fresh, err = s.toStoreKey(t, now)
	default:
		to, fresh, err = s.toKey(t, now, ch)
	}
	if err != nil {
		return err
	}
	defer fresh.Wipe()
	to.Explicit = ch.explicit
	return s.rekeyed(t, now, to, fresh)
}

func (s *Session) rekeyed(t *xattrTarget, now, to fs.Sealing, fresh *crypto.DataKey) error {
	if err := s.vol.Rekey(t.ino, now, to, fresh); err != nil {
		return err
	}
	s.hub.Resealed()
	s.hub.InodeChanged(nil, t.ino, 0, 0) // who may not use the new key, perhaps ourselves, keeps no pages
	return nil
}

// inForce reports whether the file is already what the choice asks for. The state of the key does not matter.
func (s *Session) inForce(t *xattrTarget, now fs.Sealing, ch choice) (bool, error) {
	if now.Method != ch.method {
		return false, nil
	}
	if ch.method == fs.SSES3 {
		return true, nil
	}
	key, err := s.keyOf(ch)
	if err != nil {
		return false, err
	}
	arn, err := s.cfg.Keystore.Resolve(key)
	if err != nil {
		return false, kmsError("key", err)
	}
	if arn != now.KeyARN || ch.bucketKey != now.BucketKey {
		return false, nil
	}
	had := choiceOf(now)
	delete(ch.context, contextARN)
	return len(ch.context) == 0 && len(had.context) == 0 || maps.Equal(ch.context, had.context), nil
}

// rekeyEmpty gives a file without content a new data key: the headers of a PutObject.
func (s *Session) rekeyEmpty(t *xattrTarget, now fs.Sealing, ch choice) error {
	if err := t.v.object(t.b, actPut, t.keys, allNames, putRequest{s, ch}); err != nil {
		return err
	}
	to, fresh, err := s.birth(t.v, t.c, "setxattr", t.b, ch, t.keys, t.ino)
	if err != nil {
		return err
	}
	defer fresh.Wipe()
	return s.rekeyed(t, now, to, fresh)
}

// toKey wraps a file's data keys under a KMS key: UpdateObjectEncryption.
func (s *Session) toKey(t *xattrTarget, now fs.Sealing, ch choice) (fs.Sealing, *crypto.DataKey, error) {
	var none fs.Sealing
	if err := t.v.object(t.b, actUpdateEncryption, t.keys, allNames, nil); err != nil {
		return none, nil, err
	}
	keys, err := t.keys()
	if err != nil {
		return none, nil, err
	}
	var object string
	var ctx crypto.Context
	switch {
	case len(keys) > 0:
		object = keys[0]
		ctx, err = contextFor(t.b, object, ch)
	case now.Method == fs.SSEKMS: // without a name it keeps the context that it was born with
		ctx = now.Context
	default:
		err = fmt.Errorf("re-key a file without a name: %w", ErrNotFound)
	}
	if err != nil {
		return none, nil, err
	}
	call, err := s.call(t.v, t.c, "setxattr", t.b, object, t.ino)
	if err != nil {
		return none, nil, err
	}
	key, err := s.keyOf(ch)
	if err != nil {
		return none, nil, err
	}
	to := fs.Sealing{Method: fs.SSEKMS, Context: ctx, BucketKey: ch.bucketKey}
	if now.Method == fs.SSEKMS {
		return s.updated(call, now, key, to)
	}
	for _, k := range now.Keys {
		wrapped, err := keystore.Rewrap(k.Wrapped, func(w crypto.WrappedKey) (out crypto.WrappedKey, err error) {
			out, to.KeyARN, err = s.cfg.Keystore.RewrapFromStoreKey(call, w, now.Context, key, ctx)
			return out, err
		})
		if err != nil {
			return none, nil, kmsError("re-key", err)
		}
		to.Keys = append(to.Keys, fs.FileKey{Generation: k.Generation, Wrapped: wrapped})
	}
	fresh, wrapped, arn, err := s.cfg.Keystore.GenerateDataKey(call, to.KeyARN, ctx)
	if err != nil {
		return none, nil, kmsError("re-key", err)
	}
	to.KeyARN = arn
	to.Keys = append(to.Keys, fs.FileKey{Generation: now.Current() + 1, Wrapped: wrapped})
	return to, fresh, nil
}

// updated completes a sealing whose data keys go from one KMS key to another.
func (s *Session) updated(call *keystore.Call, now fs.Sealing, key string, to fs.Sealing) (fs.Sealing, *crypto.DataKey, error) {
	old := make([]crypto.WrappedKey, len(now.Keys))
	for i, k := range now.Keys {
		old[i] = k.Wrapped
	}
	u, err := s.cfg.Keystore.UpdateEncryption(call, old, now.Context, key, to.Context)
	if err != nil {
		return fs.Sealing{}, nil, kmsError("re-key", err)
	}
	to.KeyARN = u.KeyARN
	to.Keys = make([]fs.FileKey, 0, len(old)+1)
	for i, k := range now.Keys {
		to.Keys = append(to.Keys, fs.FileKey{Generation: k.Generation, Wrapped: u.Wrapped[i]})
	}
	to.Keys = append(to.Keys, fs.FileKey{Generation: now.Current() + 1, Wrapped: u.Sealed})
	return to, u.Fresh, nil
}

// toStoreKey wraps a file's data keys under the hidden store key: a copy onto itself, by who may read and write it.
func (s *Session) toStoreKey(t *xattrTarget, now fs.Sealing) (fs.Sealing, *crypto.DataKey, error) {
	var none fs.Sealing
	err := t.v.object(t.b, actGet, t.keys, anyName, nil)
	if err == nil {
		err = t.v.object(t.b, actPut, t.keys, allNames, putRequest{s, choice{method: fs.SSES3, header: true}})
	}
	if err != nil {
		return none, nil, err
	}
	call, err := s.callOn(t.v, t.c, "setxattr", t.b, t.ino)
	if err != nil {
		return none, nil, err
	}
	to := fs.Sealing{Method: fs.SSES3}
	for _, k := range now.Keys {
		wrapped, err := keystore.Rewrap(k.Wrapped, func(w crypto.WrappedKey) (crypto.WrappedKey, error) {
			return s.cfg.Keystore.RewrapToStoreKey(call, w, now.Context, nil)
		})
		if err != nil {
			return none, nil, kmsError("re-key", err)
		}
		to.Keys = append(to.Keys, fs.FileKey{Generation: k.Generation, Wrapped: wrapped})
	}
	fresh, wrapped, err := s.cfg.Keystore.GenerateStoreKey(nil)
	if err != nil {
		return none, nil, kmsError("re-key", err)
	}
	to.Keys = append(to.Keys, fs.FileKey{Generation: now.Current() + 1, Wrapped: wrapped})
	return to, fresh, nil
}

// removeOfFile takes a file's own choice back: an empty file gets what a new one would get, any other just loses the mark.
func (s *Session) removeOfFile(t *xattrTarget) error {
	now, err := s.vol.Sealing(t.ino)
	if err != nil {
		return err
	}
	if err := t.v.object(t.b, actPut, t.keys, allNames, nil); err != nil {
		return err
	}
	if !now.Explicit {
		return nil
	}
	a, err := s.vol.Attr(t.ino)
	if err != nil {
		return err
	}
	if a.Size == 0 {
		now.Explicit = false
		ch, err := s.reorder(t.b, t.ino, now)
		if err != nil {
			return err
		}
		ch.explicit = false
		same, err := s.inForce(t, now, ch)
		if err != nil {
			return err
		}
		if !same {
			if err := s.rekeyEmpty(t, now, ch); !errors.Is(err, ErrInvalid) {
				return err
			}
		}
	}
	return s.setExplicit(t.ino, false)
}

// setExplicit marks a file's encryption as its own choice, or not.
func (s *Session) setExplicit(ino Ino, explicit bool) error {
	if err := s.vol.SetExplicit(ino, explicit); err != nil {
		return err
	}
	s.hub.InodeChanged(s, ino, -1, 0) // ctime
	return nil
}
