package fs

import (
	"errors"
	"fmt"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// Sealing says how a regular file's data keys are wrapped.
func (v *Volume) Sealing(ino Ino) (s Sealing, err error) {
	err = v.with(ino, func(n *inode) error {
		row := n.committed()
		if row.Type == Directory {
			return ErrIsDir
		}
		s = row.Sealing
		return nil
	})
	return s, err
}

// Rekey replaces a file's sealing, if it still is from. to.Keys holds the same generations as from.Keys, rewrapped, and one more that
// seals what is written from now on: fresh is its plaintext. A nil fresh adds no generation. If the file is empty, to.Keys may be
// the one new generation alone. The generation numbers in to.Keys behind from's are set here. No data is touched.
func (v *Volume) Rekey(ino Ino, from, to Sealing, fresh *crypto.DataKey) error {
	return v.with(ino, func(n *inode) error {
		n.flushMu.Lock()
		defer n.flushMu.Unlock()
		if fresh != nil {
			// What was written before is sealed under the key that was current then.
			if err := v.flushLocked(n, flushOptions{}); err != nil {
				return err
			}
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		return v.rekeyLocked(n, from, to, fresh)
	})
}

func (v *Volume) rekeyLocked(n *inode, from, to Sealing, fresh *crypto.DataKey) error {
	if n.row.Type != Regular {
		return ErrInvalid
	}
	if !n.row.Sealing.Same(from) {
		return ErrStale
	}
	to.Keys = append([]FileKey(nil), to.Keys...)
	err := v.commit("re-key", []*inode{n}, func(t *meta.Tx, rows []*meta.Inode) error {
		row := rows[0]
		if fresh != nil {
			if len(to.Keys) == 0 || len(to.Keys) != len(from.Keys)+1 && (len(to.Keys) != 1 || row.Rows.Count != 0) {
				return fmt.Errorf("%w: a new generation is added to all that the file has", ErrInvalid)
			}
			to.Keys[len(to.Keys)-1].Generation = row.NextKey
			row.NextKey++
		} else if len(to.Keys) != len(from.Keys) {
			return fmt.Errorf("%w: a re-key keeps the generations", ErrInvalid)
		}
		for i := range len(to.Keys) - 1 {
			if to.Keys[i].Generation != from.Keys[i].Generation {
				return fmt.Errorf("%w: a re-key keeps the generations", ErrInvalid)
			}
		}
		t.DropKeyUse(row)
		row.Sealing = to
		t.AddKeyUse(row)
		row.Ctime = v.now()
		return nil
	})
	if err == nil && fresh != nil && n.data != nil {
		n.data.addKey(to.Current(), fresh)
	}
	return err
}

// SetExplicit records whether the file's encryption was chosen for it.
func (v *Volume) SetExplicit(ino Ino, explicit bool) error {
	return v.with(ino, func(n *inode) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.row.Type != Regular {
			return ErrInvalid
		}
		return v.commit("set sealing", []*inode{n}, func(_ *meta.Tx, rows []*meta.Inode) error {
			rows[0].Sealing.Explicit, rows[0].Ctime = explicit, v.now()
			return nil
		})
	})
}

// KeyFiles calls fn for every file whose data keys are wrapped by the KMS key, until it returns false. fn may change the files.
func (v *Volume) KeyFiles(keyARN string, fn func(Ino) bool) error {
	var batch []Ino
	for first := Ino(0); ; first = batch[len(batch)-1] + 1 {
		batch = batch[:0]
		err := v.db.View(func(r *meta.Reader) error {
			return r.KeyUses(keyARN, first, func(ino Ino) bool {
				batch = append(batch, ino)
				return len(batch) < 1024
			})
		})
		if err != nil {
			return v.fault("list files of key", err)
		}
		for _, ino := range batch {
			if !fn(ino) {
				return nil
			}
		}
		if len(batch) < 1024 {
			return nil
		}
	}
}

// Default gives the encryption that a directory passes on.
func (v *Volume) Default(ino Ino) (d Default, err error) {
	err = v.with(ino, func(n *inode) error {
		row := n.committed()
		if row.Type != Directory {
			return ErrNotDir
		}
		d.Value = row.Default
		return nil
	})
	return d, err
}

// SetDefault sets the encryption that a directory passes on.
func (v *Volume) SetDefault(ino Ino, d Default) error {
	return v.with(ino, func(n *inode) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.row.Type != Directory || ino == RootIno {
			return ErrNotDir
		}
		return v.commit("set default", []*inode{n}, func(_ *meta.Tx, rows []*meta.Inode) error {
			rows[0].Default, rows[0].Ctime = d.Value, v.now()
			return nil
		})
	})
}

// BucketOf gives the bucket that an inode lives in: itself for a bucket, 0 for the root.
func (v *Volume) BucketOf(ino Ino) (b Ino, err error) {
	err = v.with(ino, func(n *inode) error {
		b = n.committed().Bucket
		return nil
	})
	return b, err
}

// Bucket gives a bucket's configuration.
func (v *Volume) Bucket(ino Ino) (b Bucket, err error) {
	err = v.with(ino, func(n *inode) error {
		row := n.committed()
		if row.BucketInfo == nil {
			return fmt.Errorf("%w: not a bucket", ErrInvalid)
		}
		b = *row.BucketInfo
		return nil
	})
	return b, err
}

// SetBucket changes a bucket's configuration; fn may run more than once. The name and the date stay.
func (v *Volume) SetBucket(ino Ino, fn func(*Bucket) error) error {
	err := v.with(ino, func(n *inode) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		return v.commit("set bucket", []*inode{n}, func(_ *meta.Tx, rows []*meta.Inode) error {
			row := rows[0]
			if row.BucketInfo == nil {
				return fmt.Errorf("%w: not a bucket", ErrInvalid)
			}
			name, created := row.BucketInfo.Name, row.BucketInfo.Created
			if err := fn(row.BucketInfo); err != nil {
				return err
			}
			row.BucketInfo.Name, row.BucketInfo.Created = name, created
			row.Ctime = v.now()
			return nil
		})
	})
	if err != nil {
		return err
	}
	return v.quotaChanged(ino)
}

// Buckets lists the buckets.
func (v *Volume) Buckets() (all []Bucket, err error) {
	var inos []Ino
	if err := v.ReadDir(RootIno, 0, func(d Dirent) bool {
		inos = append(inos, d.Ino)
		return true
	}); err != nil {
		return nil, err
	}
	for _, ino := range inos {
		b, err := v.Bucket(ino)
		if errors.Is(err, ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}
