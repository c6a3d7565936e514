package fs

import (
	"errors"
	"sync"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// Who makes or removes many files looks each of them up, and a search in the rows costs as much as the rest of such a look. So all
// entries of a directory are kept in memory where they are known anyway: from when it was made, or from a listing of all of it. Then
// what is not there is not in the rows either. All changes of entries pass through commit, which carries them over; files that are unborn
// have no entries yet and are in their own table.
//
// An entry's place is its name's hash. Of a directory in which two names have one hash nothing is kept.
const (
	namesOfOne = 1 << 15 // entries of a directory that are kept, at most; one with more is searched in the rows
	namesInAll = 1 << 17 // of all directories; the directory that has been kept for the longest time is let go first
	namesDir   = 16      // entries that a directory counts for, beside those it has
)

// names is all entries of a directory, by the hash of their names. They change under nameTable.mu and mu.
type names struct {
	mu sync.RWMutex // a leaf
	m  map[uint64]meta.Dentry
}

// nameTable knows the directories of which names are kept, the oldest first. It counts what is kept.
type nameTable struct {
	mu    sync.Mutex // before names.mu
	dirs  []*inode   // some of which may be let go already
	count int
}

// keep begins to keep the names of a directory, if nobody does: m is all there are while the row stays what it is, and n.mu is held.
func (t *nameTable) keep(n *inode, m map[uint64]meta.Dentry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(m) > namesOfOne || !n.names.CompareAndSwap(nil, &names{m: m}) {
		return
	}
	t.dirs = append(t.dirs, n)
	t.count += namesDir + len(m)
	t.trim(namesInAll)
}

// trim lets directories go until no more than limit entries are kept; mu is held.
func (t *nameTable) trim(limit int) {
	for t.count > limit && len(t.dirs) > 0 {
		n := t.dirs[0]
		t.dirs[0] = nil
		t.dirs = t.dirs[1:]
		t.count -= namesDir
		t.forgetLocked(n)
	}
}

// drop lets all directories go.
func (t *nameTable) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.trim(0)
}

// forget lets one directory go: what is in the rows is not what is kept, or nobody knows, or it is gone.
func (t *nameTable) forget(n *inode) {
	if n.names.Load() == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(n)
}

func (t *nameTable) forgetLocked(n *inode) {
	if old := n.names.Swap(nil); old != nil {
		t.count -= len(old.m)
	}
}

// apply carries over what a transaction did to a directory, whose mu is held.
func (t *nameTable) apply(n *inode, c meta.NameChange) {
	if n.names.Load() == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	d := n.names.Load()
	if d == nil {
		return
	}
	before := len(d.m)
	whole := d.apply(c)
	t.count += len(d.m) - before
	if !whole || len(d.m) > namesOfOne {
		t.forgetLocked(n)
	}
	t.trim(namesInAll)
}

// apply reports whether all names are there and no two have one hash.
func (d *names) apply(c meta.NameChange) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, there := d.m[c.Hash]
	switch {
	case c.Tie != 0 || there && old.Name != c.Name || c.Removed && !there:
		return false
	case c.Removed:
		delete(d.m, c.Hash)
	default:
		d.m[c.Hash] = c.Dentry
	}
	return true
}

// look searches a directory in memory; known is false where the rows have to be searched. The error is ErrNotFound or nil.
func (v *Volume) look(n *inode, name string) (d meta.Dentry, known bool, err error) {
	all := n.names.Load()
	if all == nil {
		return d, false, nil
	}
	h := v.db.NameHash(name)
	all.mu.RLock()
	d, there := all.m[h]
	all.mu.RUnlock()
	switch {
	case !there:
		return meta.Dentry{}, true, ErrNotFound
	case d.Name != name:
		return meta.Dentry{}, false, nil
	}
	return d, true, nil
}

// listing is what a listing has shown so far.
type listing struct {
	entries []meta.Dentry
	cookies []uint64
}

func (l *listing) add(d meta.Dentry, cookie uint64) {
	if len(l.entries) <= namesOfOne {
		l.entries, l.cookies = append(l.entries, d), append(l.cookies, cookie)
	}
}

// listed is told of a listing from the start on, of entries as they were while the directory had this row. It keeps the names if these
// are all.
func (v *Volume) listed(n *inode, row *meta.Inode, all *listing) {
	if uint64(len(all.entries)) != row.Rows.Count || n.names.Load() != nil {
		return
	}
	m := make(map[uint64]meta.Dentry, len(all.entries))
	for i, d := range all.entries {
		if i > 0 && all.cookies[i]-all.cookies[i-1] < 2 { // names with one hash have neighbouring cookies
			return
		}
		m[all.cookies[i]] = d
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.row == row && !n.gone {
		v.names.keep(n, m)
	}
}

// entry finds a name in a directory.
func (v *Volume) entry(parent Ino, name string) (meta.Dentry, error) {
	d, _, err := v.find(parent, name)
	return d, err
}

// find is entry, and says where an absent entry would go.
func (v *Volume) find(parent Ino, name string) (d meta.Dentry, free byte, err error) {
	n := v.cache.pin(parent)
	if n != nil {
		defer v.cache.unpin(n)
	}
	return v.findIn(n, parent, name)
}

// findIn is find in a directory that is pinned, or nil if it is not in memory.
func (v *Volume) findIn(n *inode, parent Ino, name string) (d meta.Dentry, free byte, err error) {
	if x := v.unborn.find(parent, name); x != nil {
		return meta.Dentry{Name: name, Ino: x.ino, Type: Regular}, 0, nil
	}
	if n != nil {
		if d, known, err := v.look(n, name); known {
			return d, 0, err
		}
	}
	err = v.db.View(func(r *meta.Reader) (err error) {
		d, free, err = r.Find(parent, name)
		return err
	})
	if errors.Is(err, meta.ErrNotFound) {
		return d, free, ErrNotFound
	}
	return d, 0, v.fault("look up", err)
}
