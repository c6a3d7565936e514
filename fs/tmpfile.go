package fs

import (
	"fmt"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// MakeTemp makes a regular file without a name in the directory's bucket, as O_TMPFILE does. It begins like a file that was just
// removed: no inode row, a tombstone for what it will get, and it ends when nobody knows it and nobody has it open. If linkable, Link
// can give it a name. Forget(ino, 0) ends one that was never opened.
func (v *Volume) MakeTemp(parent Ino, spec New, linkable bool) (a Attr, err error) {
	err = v.withRoom(func() error {
		a, err = v.makeTemp(parent, spec, linkable)
		return err
	})
	return a, err
}

func (v *Volume) makeTemp(parent Ino, spec New, linkable bool) (Attr, error) {
	if parent == RootIno {
		return Attr{}, fmt.Errorf("%w: the root holds buckets and nothing else", ErrPermitted)
	}
	if spec.Type != Regular || spec.Sealing.Method == None || len(spec.Sealing.Keys) != 1 {
		return Attr{}, fmt.Errorf("%w: a file without a name is a regular one and has one data key", ErrInvalid)
	}
	v.ns.Lock()
	defer v.ns.Unlock()
	dir, err := v.dir(parent)
	if err != nil {
		return Attr{}, err
	}
	defer v.unlock(dir)
	ino, err := v.ids.nextIno()
	if err != nil {
		return Attr{}, v.fault("make", err)
	}
	row := v.newRow(ino, dir.row, "", spec)
	row.Nlink, row.Links = 0, nil
	err = v.commit("make", nil, func(t *meta.Tx, _ []*meta.Inode) error {
		if err := begin(t, dir.row, row, &spec); err != nil {
			return err
		}
		t.Bury(row, v.epoch, true)
		return nil
	})
	if err != nil {
		return Attr{}, err
	}
	n := v.cache.insert(row) // stays pinned until it ends
	n.mu.Lock()
	n.linkable = linkable
	n.mu.Unlock()
	v.zombies.add(n)
	return attrOf(row), nil
}

// flushTemp commits what was written to a file that is about to get its first name: its closes did not.
func (v *Volume) flushTemp(ino Ino) error {
	return v.with(ino, func(n *inode) error {
		n.mu.RLock()
		temp := n.linkable
		n.mu.RUnlock()
		if !temp {
			return nil
		}
		return v.flush(n, flushOptions{})
	})
}

// named takes back in a transaction what MakeTemp did, for a row that just got its first name.
func (v *Volume) named(t *meta.Tx, row *meta.Inode) error {
	t.Unbury(row)
	// Extents that it got while it had no row were not recorded for recovery.
	return t.Touch(v.epoch, row.Ino, 0)
}

// leftZombies takes an inode that got a name out of the table of those without.
func (v *Volume) leftZombies(n *inode) {
	if v.zombies.remove(n.ino) {
		v.put(n)
	}
}
