package keystore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/wrap"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
)

// Slot is a shred key as a backup keeps it: its place in the slot file, the id of its key (a UUID's bytes), and its 32 bytes.
type Slot struct {
	Index  uint32
	Owner  [16]byte
	Secret []byte // secret; the caller wipes it
}

// Freeze keeps all keys as they are until thaw is called, and returns their shred keys: a copy of the ledger that is begun before thaw
// goes together with them. Changes of keys wait meanwhile, so the caller makes haste.
func (s *Service) Freeze() (slots []Slot, thaw func(), err error) {
	s.manage.Lock()
	thaw = sync.OnceFunc(s.manage.Unlock)
	if s.closed.Load() {
		thaw()
		return nil, nil, ErrClosed
	}
	if slots, err = s.shred.copies(); err != nil {
		thaw()
		return nil, nil, internal(err)
	}
	return slots, thaw, nil
}

// copies reads and authenticates all used slots.
func (s *shredFile) copies() ([]Slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return nil, ErrClosed
	}
	var out []Slot
	b := make([]byte, slotSize)
	defer clear(b)
	for i, id := range s.slots {
		if id == (keyID{}) {
			continue
		}
		if _, err := s.f.ReadAt(b, slotOffset(uint32(i))); err != nil {
			return nil, fmt.Errorf("keystore: read shred slot %d: %w", i, err)
		}
		owner, secret, err := s.parseSlot(uint32(i), b)
		if err != nil {
			return nil, err
		}
		if owner == id {
			out = append(out, Slot{uint32(i), id, slices.Clone(secret)})
		}
	}
	return out, nil
}

// WriteShred makes the slot file of a store that is being restored. path must not exist; slots without a secret stay free.
func WriteShred(path string, root *crypto.DataKey, slots []Slot) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keystore: restore shred file: %s is there", filepath.Base(path))
	}
	s := &shredFile{macKey: root.Derive(nil, shredInfo)}
	defer s.macKey.Wipe()
	if err := s.create(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("keystore: restore shred file: %w", err)
	}
	write := func() error {
		for _, slot := range slots {
			if len(slot.Secret) == 0 {
				continue
			}
			if len(slot.Secret) != crypto.KeySize || slot.Index >= 1<<20 {
				return fmt.Errorf("%w: shred slot %d", ErrCorrupt, slot.Index)
			}
			b := append(make([]byte, 0, slotSize), slotUsed, 0, 0, 0, 0, 0, 0, 0)
			b = append(append(b, slot.Owner[:]...), slot.Secret...)
			b = append(b, s.mac("slot", slot.Index, b)...)[:slotSize]
			_, err := f.WriteAt(b, slotOffset(slot.Index))
			clear(b)
			if err != nil {
				return err
			}
		}
		end, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		return errors.Join(f.Truncate((end+4095)&^4095), f.Sync())
	}
	if err := errors.Join(write(), f.Close()); err != nil {
		return fmt.Errorf("keystore: restore shred file: %w", err)
	}
	return nil
}

// forgetLost removes the keys whose shred key is not there: no one can open what lies under them any more. It is done for Config.AcceptLost
// alone, before anything is loaded; otherwise such a store is refused.
func (s *Service) forgetLost() error {
	now := s.clock()
	lost := map[string]record{}
	err := s.ledger.Each(kindKey, func(id string, doc []byte) error {
		var r record
		if err := decode(doc, &r); err != nil {
			return fmt.Errorf("keystore: key %s: %w", id, err)
		}
		if kid, ok := parseKeyID(id); ok && r.Manager != storeManager && !s.shred.holds(r.Slot, kid) {
			lost[id] = r
		}
		return nil
	})
	if err != nil || len(lost) == 0 {
		return err
	}
	err = s.ledger.Update(func(tx *ledger.Tx) error {
		for id, r := range lost {
			tx.Delete(kindKey, id)
			tx.Put(kindDeleted, id, encode(tombstone{Format: recordFormat, ID: id, Deleted: now, Policy: r.Policy}))
		}
		err := tx.Each(kindAlias, func(name string, doc []byte) error {
			var a aliasRecord
			err := decode(doc, &a)
			if _, gone := lost[a.Target]; gone {
				tx.Delete(kindAlias, name)
			}
			return err
		})
		if err != nil {
			return err
		}
		return tx.Each(kindGrant, func(id string, _ []byte) error {
			if owner, _, _ := strings.Cut(id, "/"); lost[owner].ID != "" {
				tx.Delete(kindGrant, id)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("keystore: forget keys without a shred key: %w", err)
	}
	for id := range lost {
		kid, _ := parseKeyID(id)
		s.lost = append(s.lost, s.keyARN(kid))
		s.serviceEvent("DeleteKey", &key{id: kid, arn: s.keyARN(kid)}, now, map[string]any{"keyId": id, "reason": "its shred key is gone"})
	}
	slices.Sort(s.lost)
	return nil
}

// holds says whether a slot is that key's.
func (s *shredFile) holds(index uint32, id keyID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(index) < int64(len(s.slots)) && s.slots[index] == id
}

// Lost are the ARNs of the keys that Open removed, because of Config.AcceptLost.
func (s *Service) Lost() []string { return slices.Clone(s.lost) }

// Inspect opens a data key for who checks that stored bytes are authentic and lets none of them out: no caller is asked for, no policy
// consulted, no event written; data keys under the store key (SSE-S3) are opened too. Where the material is gone the error is
// NotFoundException (the key was deleted, or never was) or KMSInvalidStateException (its imported material is not there); what cannot
// be opened though it is there is InvalidCiphertextException.
func (s *Service) Inspect(wrapped crypto.WrappedKey, ctx crypto.Context) (*crypto.DataKey, error) {
	outer, inner, local := SplitLocal(wrapped)
	h, err := wrap.ParseHeader(outer)
	if err != nil {
		return nil, invalidCiphertext()
	}
	k := s.store
	if keyID(h.Key) != k.id {
		if k = s.lookup(h.Key); k == nil {
			return nil, doesNotExist(s.keyARN(h.Key))
		}
		if err := standing(k); err != nil {
			return nil, err
		}
	}
	plaintext, err := s.unwrap(k, h, ctx, outer)
	if err != nil {
		return nil, err
	}
	dk, err := crypto.DataKeyFromBytes(plaintext)
	if err != nil || !local {
		return dk, err
	}
	defer dk.Wipe()
	return UnwrapLocal(dk, inner)
}

// Standing is nil if what the KMS key wrapped can be opened, whether or not anybody may; else it is the error that Inspect gives.
// Nobody is asked for permission.
func (s *Service) Standing(arn string) error {
	k, _, err := s.find(arn, false)
	if err != nil {
		return err
	}
	return standing(k)
}

func standing(k *key) error {
	switch snap := k.snapshot(); {
	case snap.deleted():
		return doesNotExist(k.arn)
	case snap.rec.State == PendingImport:
		return &Error{Code: CodeInvalidState, Message: k.arn + " is pending import.", State: PendingImport}
	}
	return nil
}
