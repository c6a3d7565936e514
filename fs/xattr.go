package fs

import (
	"errors"
	"slices"
	"sort"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// GetXattr reads an extended attribute.
func (v *Volume) GetXattr(ino Ino, name string) (value []byte, err error) {
	err = v.with(ino, func(n *inode) error {
		if n.committed().Xattrs.Count == 0 {
			return ErrNoAttr
		}
		err := v.db.View(func(r *meta.Reader) (err error) {
			value, err = r.Xattr(ino, name)
			return err
		})
		if errors.Is(err, meta.ErrNotFound) {
			return ErrNoAttr
		}
		return v.fault("read attribute", err)
	})
	return value, err
}

// SetXattr writes an extended attribute. ErrExists and ErrNoAttr answer the modes XattrCreate and XattrReplace.
func (v *Volume) SetXattr(ino Ino, name string, value []byte, mode XattrMode) error {
	switch {
	case name == "":
		return ErrInvalid
	case len(name) > MaxName:
		return ErrNameTooLong
	case len(value) > MaxXattr:
		return ErrTooBig
	}
	return v.changeXattrs(ino, func(t *meta.Tx, row *meta.Inode) error {
		existed, err := t.SetXattr(row, name, value)
		switch {
		case err != nil:
			return err
		case existed && mode == XattrCreate:
			return ErrExists
		case !existed && mode == XattrReplace:
			return ErrNoAttr
		case existed:
			return nil
		}
		size := 0
		err = t.Xattrs(ino, func(name string, _ []byte) error {
			size += len(name) + 1
			return nil
		})
		if err == nil && size > MaxXattr {
			err = errXattrsFull
		}
		return err
	})
}

// RemoveXattr removes an extended attribute.
func (v *Volume) RemoveXattr(ino Ino, name string) error {
	return v.changeXattrs(ino, func(t *meta.Tx, row *meta.Inode) error {
		existed, err := t.RemoveXattr(row, name)
		if err == nil && !existed {
			err = ErrNoAttr
		}
		return err
	})
}

func (v *Volume) changeXattrs(ino Ino, fn func(*meta.Tx, *meta.Inode) error) error {
	return v.withRoom(func() error { return v.changeXattrsOnce(ino, fn) })
}

func (v *Volume) changeXattrsOnce(ino Ino, fn func(*meta.Tx, *meta.Inode) error) error {
	return v.with(ino, func(n *inode) error {
		if err := v.bear(n); err != nil {
			return err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		err := v.commit("change attributes", []*inode{n}, func(t *meta.Tx, rows []*meta.Inode) error {
			if n.data != nil {
				n.data.pending.write(rows[0]) // set under n.mu only
			}
			rows[0].Ctime = v.now()
			return fn(t, rows[0])
		})
		if err == nil && n.data != nil {
			n.data.mu.Lock()
			n.data.pending, n.data.ctime = pendingAttr{}, n.row.Ctime
			n.data.mu.Unlock()
		}
		return err
	})
}

// ListXattr lists the names of the extended attributes, sorted, and checks them against the inode's fingerprint.
func (v *Volume) ListXattr(ino Ino) (names []string, err error) {
	err = v.with(ino, func(n *inode) error {
		if n.committed().Xattrs.Count == 0 {
			return nil
		}
		err := v.db.View(func(r *meta.Reader) error {
			names, err = r.XattrNames(ino)
			names = slices.DeleteFunc(names, hidden)
			return err
		})
		return v.fault("list attributes", err)
	})
	sort.Strings(names)
	return names, err
}
