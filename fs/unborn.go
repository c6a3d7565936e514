package fs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// A file that is made to be written at once gets its rows (inode and entry) in the transaction of its first flush, not in one of
// their own: a small file is then one transaction. Until then it is unborn: in memory it is like every other, pinned, listed in
// the table below and with the flusher, and its directory shows its times; a crash forgets it, as it may forget any file that was
// never closed. Whatever works on rows calls bear first: a listing, a rename, an unlink or a link in its directory, a change of attributes
// of the inode, every fsync. A directory with an access control list and a bucket with a quota have no unborn files.

// unborn is the table of the files that have no rows yet. It changes under Volume.ns.
type unborn struct {
	count atomic.Int64

	mu    sync.RWMutex // a leaf
	names map[Ino]map[string]birth
}

// birth is what a file without rows holds: one pin on itself and one on its directory. As long as the directory's row is shown, nothing
// else was made in it, and the file's entry has its place at tie.
type birth struct {
	n, dir *inode
	shown  *meta.Inode
	tie    byte
}

// absence says that a directory had no entry of a name while it had this row, and where one would go. Whatever makes an entry gives
// the directory another row.
type absence struct {
	name string
	tie  byte
	row  *meta.Inode
}

// lookup is entry, and remembers what is not there. No mu is held.
func (v *Volume) lookup(parent Ino, name string) (meta.Dentry, error) {
	n := v.cache.pin(parent)
	if n == nil {
		return v.entry(parent, name)
	}
	defer v.cache.unpin(n)
	row := n.committed() // before the look
	d, free, err := v.findIn(n, parent, name)
	if errors.Is(err, ErrNotFound) {
		n.absent.Store(&absence{name: name, tie: free, row: row})
	}
	return d, err
}

// free says where a name would go in a directory that is locked; ErrExists.
func (v *Volume) free(dir *inode, name string) (tie byte, err error) {
	if a := dir.absent.Load(); a != nil && a.row == dir.row && a.name == name {
		return a.tie, nil
	}
	if _, known, err := v.look(dir, name); known {
		if err == nil {
			err = ErrExists
		} else {
			err = nil
		}
		return 0, err
	}
	err = v.db.View(func(r *meta.Reader) (err error) {
		tie, err = r.Free(dir.ino, name)
		return err
	})
	return tie, v.fault("make", err)
}

func (u *unborn) init() { u.names = map[Ino]map[string]birth{} }

// find returns the unborn file of a name, or nil.
func (u *unborn) find(parent Ino, name string) *inode {
	if u.count.Load() == 0 {
		return nil
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.names[parent][name].n
}

// in lists the unborn files of a directory.
func (u *unborn) in(parent Ino) []birth {
	if u.count.Load() == 0 {
		return nil
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	return slices.Collect(maps.Values(u.names[parent]))
}

// all lists the unborn files.
func (u *unborn) all() (ns []*inode) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	for _, names := range u.names {
		for _, b := range names {
			ns = append(ns, b.n)
		}
	}
	return ns
}

func (u *unborn) add(l meta.Link, b birth) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.names[l.Parent] == nil {
		u.names[l.Parent] = map[string]birth{}
	}
	u.names[l.Parent][l.Name] = b
	u.count.Add(1)
}

// of returns what the file with this link holds.
func (u *unborn) of(l meta.Link) birth {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.names[l.Parent][l.Name]
}

func (u *unborn) remove(l meta.Link) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if delete(u.names[l.Parent], l.Name); len(u.names[l.Parent]) == 0 {
		delete(u.names, l.Parent)
	}
	u.count.Add(-1)
}

// conceive makes an unborn file in a directory; ns and dir.mu are held, and the name is free.
func (v *Volume) conceive(dir *inode, row *meta.Inode, tie byte) {
	row0 := *dir.row // what it refers to is not changed by anybody
	shown := &row0
	shown.Mtime, shown.Ctime = row.Btime, row.Btime
	dir.row = shown // goes with the next commit of the directory
	n := v.cache.insert(row)
	n.unborn.Store(true)
	v.cache.mu.Lock()
	v.cache.hold(dir)
	v.cache.mu.Unlock()
	v.unborn.add(row.Links[0], birth{n, dir, shown, tie})
	v.flusher.add(n)
}

// lockRow locks an inode's mu for commitRow. If it is unborn, ns and its directory, which is returned, are locked as well.
func (v *Volume) lockRow(n *inode) (dir *inode, unlock func(), err error) {
	if n.unborn.Load() {
		v.ns.Lock()
		if n.unborn.Load() {
			dir, unlock, err := v.lockUnborn(n)
			if err != nil {
				v.ns.Unlock()
				return nil, nil, err
			}
			return dir, func() { unlock(); v.ns.Unlock() }, nil
		}
		v.ns.Unlock()
	}
	n.mu.Lock()
	return nil, n.mu.Unlock, nil
}

// lockUnborn locks an unborn inode and its directory; ns is held.
func (v *Volume) lockUnborn(n *inode) (dir *inode, unlock func(), err error) {
	dir, err = v.dir(n.committed().Links[0].Parent)
	if err != nil {
		return nil, nil, fmt.Errorf("directory of inode %d: %w", n.ino, err)
	}
	n.mu.Lock()
	return dir, func() { n.mu.Unlock(); v.unlock(dir) }, nil
}

// commitRow is commitBy for one inode that lockRow has locked, together with its birth if there is a directory. A birth that failed and was
// applied all the same is taken back in the same transaction: what it wrote is not what is written now.
func (v *Volume) commitRow(update func(func(*meta.Tx) error) error, what string, n, dir *inode, fn func(*meta.Tx, *meta.Inode) error) error {
	if dir == nil {
		return v.commitBy(update, what, []*inode{n}, func(t *meta.Tx, rows []*meta.Inode) error { return fn(t, rows[0]) })
	}
	b := v.unborn.of(n.row.Links[0])
	alone, tie := b.shown == dir.row, b.tie
	if !alone {
		_, known, err := v.look(dir, n.row.Links[0].Name)
		alone, tie = known && err != nil, 0
	}
	n.bearing = true
	err := v.commitBy(update, what, []*inode{n, dir}, func(t *meta.Tx, rows []*meta.Inode) error {
		row, d := rows[0], rows[1]
		e := meta.Dentry{Name: row.Links[0].Name, Ino: row.Ino, Type: row.Type}
		if alone {
			t.AddDentryAt(d, e, tie)
		} else if err := t.AddDentryOwn(d, e); err != nil {
			return err
		}
		return fn(t, row)
	})
	n.bearing = false
	if err != nil {
		return err
	}
	n.unborn.Store(false)
	v.unborn.remove(n.row.Links[0])
	v.put(b.n)
	v.put(b.dir)
	return nil
}

// bear gives an inode its rows if it has none yet. Of all locks flushMu may be held.
func (v *Volume) bear(n *inode) error {
	if !n.unborn.Load() {
		return nil
	}
	v.ns.Lock()
	defer v.ns.Unlock()
	return v.bearLocked(n)
}

// bearLocked is bear under ns; nil is allowed.
func (v *Volume) bearLocked(n *inode) error {
	if n == nil || !n.unborn.Load() {
		return nil
	}
	dir, unlock, err := v.lockUnborn(n)
	if err != nil {
		return err
	}
	defer unlock()
	return v.commitRow(v.db.Update, "make", n, dir, func(*meta.Tx, *meta.Inode) error { return nil })
}

// bearIn bears the files of a directory; ns is held.
func (v *Volume) bearIn(dir Ino) error {
	for _, b := range v.unborn.in(dir) {
		if err := v.bearLocked(b.n); err != nil {
			return err
		}
	}
	return nil
}

// bearFor bears what a removal or a replacement of a name has to find in the rows: the file of that name, or what is in the directory of
// that name. ns is held.
func (v *Volume) bearFor(parent Ino, name string) error {
	if v.unborn.count.Load() == 0 {
		return nil
	}
	d, err := v.entry(parent, name)
	if err != nil {
		return nil //nolint:nilerr // the operation itself will find it
	}
	if d.Type == Directory {
		return v.bearIn(d.Ino)
	}
	return v.bearLocked(v.unborn.find(parent, name))
}

// forsake removes an unborn file that cannot be born, for which a full disk is the reason: its writer was told so and has closed it. One
// that is open cannot go, because what has no name needs a tombstone. ns is held.
func (v *Volume) forsake(parent Ino, name string, why error) (Attr, error) {
	n := v.unborn.find(parent, name)
	if n == nil {
		return Attr{}, why
	}
	_, unlock, err := v.lockUnborn(n)
	if err != nil {
		return Attr{}, err
	}
	defer unlock()
	if n.data != nil && n.data.opens > 0 {
		return Attr{}, why
	}
	l := n.row.Links[0]
	row := n.row.Clone()
	row.Nlink, row.Links, row.Ctime = 0, nil, v.now()
	n.row = row
	if n.data != nil {
		v.endData(n, n.data)
	}
	b := v.unborn.of(l)
	v.unborn.remove(l)
	n.unborn.Store(false)
	n.gone = true
	v.cache.drop(n)
	v.put(b.n)
	v.put(b.dir)
	return attrOf(row), nil
}

// bearAll bears every file that was made before the call.
func (v *Volume) bearAll() error { return v.bearOthers(nil) }

// bearOthers is bearAll but for one file, whose own flush follows.
func (v *Volume) bearOthers(but *inode) error {
	if v.unborn.count.Load() == 0 {
		return nil
	}
	v.ns.Lock()
	defer v.ns.Unlock()
	return v.bearAllLocked(but)
}

func (v *Volume) bearAllLocked(but *inode) error {
	for _, n := range v.unborn.all() {
		if n == but {
			continue
		}
		if err := v.bearLocked(n); err != nil {
			return err
		}
	}
	return nil
}
