package fs

import (
	"errors"
	"fmt"

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

// Unlocked reports whether a data key of the file is in memory: while it is open, or while what was written waits to be committed.
func (v *Volume) Unlocked(ino Ino) (unlocked bool, err error) {
	err = v.with(ino, func(n *inode) error {
		n.mu.RLock()
		defer n.mu.RUnlock()
		if n.data != nil {
			n.data.keyMu.RLock()
			defer n.data.keyMu.RUnlock()
			unlocked = len(n.data.keys) > 0
		}
		return nil
	})
	return unlocked, err
}

// SetExplicit records whether the file's encryption was chosen for it.
func (v *Volume) SetExplicit(ino Ino, explicit bool) error {
	return v.withRoom(func() error { return v.setExplicit(ino, explicit) })
}

func (v *Volume) setExplicit(ino Ino, explicit bool) error {
	return v.with(ino, func(n *inode) error {
		if err := v.bear(n); err != nil {
			return err
		}
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
	return v.withRoom(func() error { return v.setDefault(ino, d) })
}

func (v *Volume) setDefault(ino Ino, d Default) error {
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
	return v.withRoom(func() error { return v.setBucket(ino, fn) })
}

func (v *Volume) setBucket(ino Ino, fn func(*Bucket) error) error {
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
