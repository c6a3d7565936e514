package meta

import (
	"errors"
	"fmt"

	"github.com/kmsfs/kmsfs/fs/kv"
)

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

// EntryRow is the row that an entry has in a directory in which no other name has its hash.
func (d *DB) EntryRow(parent Ino, e Dentry) RawDentry {
	k, v := dentryKey(parent, d.nameHash(e.Name), 0), encodeDentry(e)
	return RawDentry{Parent: parent, Dentry: e, Placed: true, place: [9]byte(k[9:]), print: d.sets.sum(k, v)}
}

// RestoreEntries writes the rows of entries that a directory accounts for and that are not there, or cannot be read. They must be all that it
// lacks.
func (t *Tx) RestoreEntries(parent Ino, entries []Dentry) error {
	dir, err := t.Inode(parent)
	if err != nil {
		return err
	}
	set := Set{}
	start, end := key1(kindDentry, uint64(parent)), key1(kindDentry, uint64(parent)+1)
	err = kv.ScanDamaged(t.r, start, end, func(k, v []byte, damage error) (bool, error) {
		if damage == nil {
			set.add(t.db.sets.sum(k, v))
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	for _, e := range entries {
		set.Add(t.db.EntryRow(parent, e))
	}
	if set != dir.Rows {
		return fmt.Errorf("directory %d does not lack exactly these %d entries", parent, len(entries))
	}
	for _, e := range entries {
		t.t.Set(dentryKey(parent, t.db.nameHash(e.Name), 0), encodeDentry(e))
	}
	return nil
}
