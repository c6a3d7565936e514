package meta

import "errors"

// AddDentryOwn is AddDentry for an inode that has no rows, as far as the caller knows. If the entry is there and is the inode's own, an earlier
// transaction was applied though it was said to have failed: what it left is removed first.
func (t *Tx) AddDentryOwn(dir *Inode, d Dentry) error {
	err := t.AddDentry(dir, d)
	if !errors.Is(err, ErrExists) {
		return err
	}
	if there, ferr := t.Dentry(dir.Ino, d.Name); ferr != nil || there.Ino != d.Ino {
		return errors.Join(err, ferr)
	}
	if err := t.RemoveDentry(dir, d.Name); err != nil {
		return err
	}
	for _, kind := range []byte{kindPiece, kindInline, kindXattr} {
		err := t.r.Scan(key1(kind, uint64(d.Ino)), key1(kind, uint64(d.Ino)+1), func(k, _ []byte) (bool, error) {
			t.t.Delete(k)
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return t.AddDentry(dir, d)
}
