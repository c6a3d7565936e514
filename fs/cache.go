package fs

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// inode is an inode in memory.
//
// row is the committed row, replaced as a whole by whoever holds mu; a row that a reader got stays as it is. data exists while the
// file is open or has unsealed writes.
type inode struct {
	ino Ino

	flushMu sync.Mutex // taken before mu by whoever changes the extent map: flush, truncate, re-key

	mu   sync.RWMutex
	row  *meta.Inode
	data *fileData
	gone bool // its row was removed, or has to be read again

	linkable bool // it was made without a name and may get one

	unborn  atomic.Bool // it has no rows yet; changes under Volume.ns and mu
	bearing bool        // it gets them now; guarded by mu

	absent atomic.Pointer[absence] // of a directory: what was looked for last and is not there
	names  atomic.Pointer[names]   // of a directory: all its entries; nil: they are in the rows only

	lone *lone // of a file: its only piece, when it was closed last

	extentEpoch uint64 // the newest epoch of an extent in a segment; unknownEpoch if it was not looked up

	// Guarded by inodeCache.mu.
	pins         int
	idle         bool // in the list of those that nobody has pinned
	older, newer *inode
}

const unknownEpoch = math.MaxUint64

func (n *inode) wipe() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.data != nil {
		n.data.wipe()
	}
}

// inodeCache keeps inodes that are in use (pinned) and, up to a limit, those used lately.
type inodeCache struct {
	mu    sync.Mutex
	max   int
	table map[Ino]*inode
	idle  idleList

	// loading[i] is held from the look into the table until a row just read is in it: without it a row that was read before a
	// commit could enter the table after the committed inode had left it.
	loading [64]sync.Mutex
}

func (c *inodeCache) init(limit int) {
	c.max, c.table = limit, map[Ino]*inode{}
}

// pin returns the inode, if it is here, and keeps it here until unpin.
func (c *inodeCache) pin(ino Ino) *inode {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.table[ino]
	if n != nil {
		c.hold(n)
	}
	return n
}

func (c *inodeCache) hold(n *inode) {
	n.pins++
	c.idle.remove(n)
}

// insert adds a row just read or made and pins it; the inode that was there first wins.
func (c *inodeCache) insert(row *meta.Inode) *inode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.insertLocked(row)
}

func (c *inodeCache) insertLocked(row *meta.Inode) *inode {
	n := c.table[row.Ino]
	if n == nil {
		n = &inode{ino: row.Ino, row: row}
		if row.Type == meta.Regular && row.Rows.Count > 0 {
			n.extentEpoch = unknownEpoch
		}
		c.table[row.Ino] = n
	}
	c.hold(n)
	return n
}

func (c *inodeCache) unpin(n *inode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release(n)
}

func (c *inodeCache) release(n *inode) {
	n.pins--
	if n.pins > 0 || c.table[n.ino] != n {
		return
	}
	c.idle.pushBack(n)
	c.evict(c.max)
}

// evict keeps at most n inodes that nobody uses; mu is held.
func (c *inodeCache) evict(n int) {
	for c.idle.len > n {
		old := c.idle.oldest
		c.idle.remove(old)
		delete(c.table, old.ino)
	}
}

// DropCaches forgets the names and attributes of inodes that nobody uses. Dirty data is flushed first; what cannot be stays.
func (v *Volume) DropCaches() {
	_ = v.flusher.flushAll() // who syncs or closes is told
	v.names.drop()
	v.cache.mu.Lock()
	defer v.cache.mu.Unlock()
	v.cache.evict(0)
}

// idleList lists the inodes that nobody has pinned, the longest unused first. Its links are in the inodes, since each use of an
// inode takes it out and puts it back.
type idleList struct {
	oldest, newest *inode
	len            int
}

func (l *idleList) pushBack(n *inode) {
	n.idle = true
	n.older, n.newer = l.newest, nil
	if l.newest != nil {
		l.newest.newer = n
	} else {
		l.oldest = n
	}
	l.newest = n
	l.len++
}

func (l *idleList) remove(n *inode) {
	if !n.idle {
		return
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		l.oldest = n.newer
	}
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		l.newest = n.older
	}
	n.older, n.newer, n.idle = nil, nil, false
	l.len--
}

// drop forgets the inode, so that the next use reads its row again. Whoever has it pinned sees gone.
func (c *inodeCache) drop(n *inode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table[n.ino] == n {
		delete(c.table, n.ino)
	}
	c.idle.remove(n)
}

func (c *inodeCache) each(fn func(*inode)) {
	c.mu.Lock()
	all := make([]*inode, 0, len(c.table))
	for _, n := range c.table {
		all = append(all, n)
	}
	c.mu.Unlock()
	for _, n := range all {
		fn(n)
	}
}

// get pins the inode, reading its row if need be.
func (v *Volume) get(ino Ino) (*inode, error) {
	for {
		n := v.cache.pin(ino)
		if n == nil {
			var err error
			if n, err = v.read(ino); err != nil {
				return nil, err
			}
		}
		n.mu.RLock()
		gone := n.gone
		n.mu.RUnlock()
		if !gone {
			return n, nil
		}
		v.cache.drop(n)
		v.cache.unpin(n)
	}
}

func (v *Volume) read(ino Ino) (*inode, error) {
	l := &v.cache.loading[ino%Ino(len(v.cache.loading))]
	l.Lock()
	defer l.Unlock()
	if n := v.cache.pin(ino); n != nil {
		return n, nil
	}
	var row *meta.Inode
	err := v.db.View(func(r *meta.Reader) (err error) {
		row, err = r.Inode(ino)
		return err
	})
	if err != nil {
		return nil, v.fault("read inode", err)
	}
	return v.cache.insert(row), nil
}

func (v *Volume) put(n *inode) { v.cache.unpin(n) }

// with calls fn with the inode pinned.
func (v *Volume) with(ino Ino, fn func(*inode) error) error {
	n, err := v.get(ino)
	if err != nil {
		return err
	}
	defer v.put(n)
	return fn(n)
}

// commit runs one metadata transaction, which belongs to the current epoch (v.epoch does not change while fn runs), over the given inodes, whose mu the caller holds. fn gets copies of the rows, in the same
// order, changes them and writes what else belongs to the change; the copies are written and become the rows in memory. If the
// commit fails nobody knows whether it was applied, so the inodes are read again at next use.
func (v *Volume) commit(what string, inodes []*inode, fn func(t *meta.Tx, rows []*meta.Inode) error) error {
	return v.commitBy(v.db.Update, what, inodes, fn)
}

// commitBy is commit by one of the ways that the rows have.
func (v *Volume) commitBy(update func(func(*meta.Tx) error) error, what string, inodes []*inode, fn func(t *meta.Tx, rows []*meta.Inode) error) error {
	var rows []*meta.Inode
	var refused error
	var changes []meta.NameChange
	for _, n := range inodes {
		if n.unborn.Load() && !n.bearing {
			return fmt.Errorf("%s: inode %d has no rows yet", what, n.ino)
		}
	}
	v.epochMu.RLock()
	defer v.epochMu.RUnlock()
	err := update(func(t *meta.Tx) error {
		rows = rows[:0]
		for _, n := range inodes {
			rows = append(rows, n.row.Clone())
		}
		if refused = fn(t, rows); refused != nil {
			return refused
		}
		for _, row := range rows {
			if row.Nlink != 0 {
				t.PutInode(row)
			}
		}
		changes = t.NameChanges()
		return nil
	})
	if err == nil {
		for i, n := range inodes {
			n.row = rows[i]
			for _, c := range changes {
				if c.Dir == n.ino {
					v.names.apply(n, c)
				}
			}
		}
		v.changed.Store(true)
		return nil
	}
	applied := !errors.Is(err, kv.ErrNoSpace) // or may be
	if applied && (refused == nil || !errors.Is(err, refused)) {
		for _, n := range inodes {
			v.names.forget(n)
			if n.data == nil && !n.bearing {
				n.gone = true
				v.cache.drop(n)
			}
		}
	}
	return v.fault(what, err)
}
