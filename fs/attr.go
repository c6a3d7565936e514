package fs

import (
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// committed is the row as it was last committed. It must not be changed.
func (n *inode) committed() *meta.Inode {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.row
}

func attrOf(row *meta.Inode) Attr {
	return Attr{
		Ino: row.Ino, Type: row.Type, Mode: row.Mode, Nlink: row.Nlink, UID: row.UID, GID: row.GID, Rdev: row.Rdev,
		Size: row.Size, Blocks: (row.Alloc + 511) / 512, Atime: row.Atime, Mtime: row.Mtime, Ctime: row.Ctime, Btime: row.Btime,
	}
}

// attr is what stat shows: the committed row, and what has changed since in an open file. n.mu is held.
func (n *inode) attr() Attr {
	a := attrOf(n.row)
	if d := n.data; d != nil {
		d.mu.RLock()
		d.pending.apply(&a)
		a.Size, a.Mtime, a.Ctime = d.size, d.mtime, max(a.Ctime, d.ctime)
		a.Blocks = (n.row.Alloc + uint64(d.dirty.bytes+d.flushing.bytes) + 511) / 512
		d.mu.RUnlock()
	}
	return a
}

// pendingAttr are attributes that were set on an open file with writes to commit: they are committed with them.
type pendingAttr struct {
	set            bool
	mode, uid, gid uint32
	atime          int64
}

func (p *pendingAttr) apply(a *Attr) {
	if p.set {
		a.Mode, a.UID, a.GID, a.Atime = p.mode, p.uid, p.gid, p.atime
	}
}

func (p *pendingAttr) write(row *meta.Inode) {
	if p.set {
		row.Mode, row.UID, row.GID, row.Atime = p.mode, p.uid, p.gid, p.atime
	}
}

// to applies a change.
func (c Change) to(a *Attr) {
	if c.Mode != nil {
		a.Mode = *c.Mode & 0o7777
	}
	if c.UID != nil {
		a.UID = *c.UID
	}
	if c.GID != nil {
		a.GID = *c.GID
	}
	if c.KillPriv {
		a.Mode = KillPriv(a.Mode)
	}
	if c.Atime != nil {
		a.Atime = *c.Atime
	}
	if c.Mtime != nil {
		a.Mtime = *c.Mtime
	}
}

// Attr gives an inode's attributes, writes that are not sealed yet included.
func (v *Volume) Attr(ino Ino) (a Attr, err error) {
	err = v.with(ino, func(n *inode) error {
		n.mu.RLock()
		defer n.mu.RUnlock()
		a = n.attr()
		return nil
	})
	return a, err
}

const (
	setUID = 0o4000
	setGID = 0o2000
	xGroup = 0o010
)

// KillPriv is the mode without set-id bits, as a write by an ordinary user leaves it: set-group-id stays where it means mandatory
// locking (no group execute).
func KillPriv(mode uint32) uint32 {
	mode &^= setUID
	if mode&xGroup != 0 {
		mode &^= setGID
	}
	return mode
}

// SetAttr changes attributes; ctime follows. The size is changed by File.Truncate. On an open file with writes to commit the change is
// committed with them; otherwise it is committed before SetAttr returns.
func (v *Volume) SetAttr(ino Ino, c Change) (a Attr, err error) {
	err = v.withRoom(func() error {
		a, err = v.setAttr(ino, c)
		return err
	})
	return a, err
}

func (v *Volume) setAttr(ino Ino, c Change) (a Attr, err error) {
	err = v.with(ino, func(n *inode) error {
		n.mu.Lock()
		if n.unborn.Load() && n.data == nil {
			n.mu.Unlock()
			if err := v.bear(n); err != nil {
				return err
			}
			n.mu.Lock()
		}
		defer n.mu.Unlock()
		if n.gone {
			return ErrNotFound
		}
		a = n.attr()
		c.to(&a)
		a.Ctime = v.now()
		withACL := c.Mode != nil && n.row.Xattrs.Count != 0
		if n.data != nil && !withACL && n.data.postpone(a, n.unborn.Load()) {
			return nil
		}
		err := v.commit("set attributes", []*inode{n}, func(t *meta.Tx, rows []*meta.Inode) error {
			row := rows[0]
			row.Mode, row.UID, row.GID, row.Atime, row.Mtime, row.Ctime = a.Mode, a.UID, a.GID, a.Atime, a.Mtime, a.Ctime
			if withACL {
				return chmodACL(t, row)
			}
			return nil
		})
		if err == nil && n.data != nil {
			n.data.mu.Lock()
			n.data.mtime, n.data.ctime, n.data.pending = a.Mtime, a.Ctime, pendingAttr{}
			n.data.mu.Unlock()
		}
		return err
	})
	return a, err
}

// postpone leaves new attributes to the next flush, if there is one to come: for an unborn file there is.
func (d *fileData) postpone(a Attr, unborn bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.isDirty() && !d.pending.set && !unborn {
		return false
	}
	d.pending = pendingAttr{set: true, mode: a.Mode, uid: a.UID, gid: a.GID, atime: a.Atime}
	d.mtime, d.ctime = a.Mtime, a.Ctime
	d.changed = true
	return true
}

// StatFS measures the file system that holds the store.
func (v *Volume) StatFS() (StatFS, error) {
	if v.cfg.Dir == "" {
		return StatFS{BlockSize: 4096}, nil
	}
	var s unix.Statfs_t
	if err := unix.Statfs(v.cfg.Dir, &s); err != nil {
		return StatFS{}, err
	}
	return StatFS{
		BlockSize: uint32(s.Bsize), Blocks: s.Blocks, BlocksFree: s.Bfree, BlocksAvail: s.Bavail,
		Files: 1 << 40, FilesFree: 1<<40 - uint64(v.inodesMade()),
	}, nil
}

func (v *Volume) inodesMade() Ino {
	v.ids.mu.Lock()
	defer v.ids.mu.Unlock()
	return v.ids.ino
}
