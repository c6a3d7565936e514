package meta

import (
	"errors"
	"fmt"
)

// Xattr reads an extended attribute.
func (r *Reader) Xattr(ino Ino, name string) ([]byte, error) {
	v, err := r.get(r.xattrKey(ino, name))
	if err != nil {
		return nil, err
	}
	got, value, err := decodeXattr(v)
	if err == nil && got != name {
		err = fmt.Errorf("%w: attribute names collide on inode %d", ErrCorrupt, ino)
	}
	return value, err
}

func (r *Reader) xattrKey(ino Ino, name string) []byte {
	return xattrKey(ino, r.db.names.sum([]byte{'x'}, []byte(name)))
}

// Xattrs calls fn for every extended attribute of an inode.
func (r *Reader) Xattrs(ino Ino, fn func(name string, value []byte) error) error {
	return r.r.Scan(key1(kindXattr, uint64(ino)), key1(kindXattr, uint64(ino)+1), func(_, v []byte) (bool, error) {
		name, value, err := decodeXattr(v)
		if err == nil {
			err = fn(name, value)
		}
		return err == nil, err
	})
}

// XattrNames lists the names of an inode's attributes and checks that all are there.
func (r *Reader) XattrNames(ino Ino) (names []string, err error) {
	var set Set
	err = r.r.Scan(key1(kindXattr, uint64(ino)), key1(kindXattr, uint64(ino)+1), func(k, v []byte) (bool, error) {
		name, _, err := decodeXattr(v)
		if err != nil {
			return false, err
		}
		set.add(r.db.sets.sum(k, v))
		names = append(names, name)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	n, err := r.Inode(ino)
	if errors.Is(err, ErrNotFound) {
		return names, nil
	}
	if err == nil && n.Xattrs != set {
		err = fmt.Errorf("%w: inode %d has %d attributes and its row names %d", ErrCorrupt, ino, set.Count, n.Xattrs.Count)
	}
	return names, err
}

// SetXattr writes an extended attribute and accounts for it; it reports whether it was there before.
func (t *Tx) SetXattr(n *Inode, name string, value []byte) (existed bool, err error) {
	existed, err = t.RemoveXattr(n, name)
	if err != nil {
		return false, err
	}
	k, v := t.xattrKey(n.Ino, name), encodeXattr(name, value)
	t.t.Set(k, v)
	n.Xattrs.add(t.db.sets.sum(k, v))
	return existed, nil
}

// RemoveXattr deletes an extended attribute and accounts for it; it reports whether it was there.
func (t *Tx) RemoveXattr(n *Inode, name string) (existed bool, err error) {
	if n.Xattrs.Count == 0 {
		return false, nil
	}
	value, err := t.Xattr(n.Ino, name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	k := t.xattrKey(n.Ino, name)
	t.t.Delete(k)
	n.Xattrs.remove(t.db.sets.sum(k, encodeXattr(name, value)))
	return true, nil
}
