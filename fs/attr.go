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

// attr is what stat shows: the committed row, and what writes have changed since. n.mu is held.
func (n *inode) attr() Attr {
	a := attrOf(n.row)
	if d := n.data; d != nil {
		d.mu.RLock()
		a.Size, a.Mtime, a.Ctime = d.size, d.mtime, max(a.Ctime, d.ctime)
		a.Blocks = (n.row.Alloc + uint64(d.dirty.bytes+d.flushing.bytes) + 511) / 512
		d.mu.RUnlock()
	}
	return a
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

// SetAttr changes attributes; ctime follows. The size is changed by File.Truncate.
func (v *Volume) SetAttr(ino Ino, c Change) (a Attr, err error) {
	err = v.with(ino, func(n *inode) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		now := v.now()
		err := v.commit("set attributes", []*inode{n}, func(_ *meta.Tx, rows []*meta.Inode) error {
			row := rows[0]
			if c.Mode != nil {
				row.Mode = *c.Mode & 0o7777
			}
			if c.UID != nil {
				row.UID = *c.UID
			}
			if c.GID != nil {
				row.GID = *c.GID
			}
			if c.KillPriv {
				row.Mode = KillPriv(row.Mode)
			}
			if c.Atime != nil {
				row.Atime = *c.Atime
			}
			if c.Mtime != nil {
				row.Mtime = *c.Mtime
			}
			row.Ctime = now
			return nil
		})
		if err != nil {
			return err
		}
		if d := n.data; d != nil {
			d.mu.Lock()
			if c.Mtime != nil {
				d.mtime = *c.Mtime
			}
			d.ctime = now
			d.mu.Unlock()
		}
		a = n.attr()
		return nil
	})
	return a, err
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
