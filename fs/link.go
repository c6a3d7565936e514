package fs

import (
	"fmt"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// Link gives an inode, which is no directory, another name in its bucket.
func (v *Volume) Link(ino, parent Ino, name string) (a Attr, err error) {
	err = v.withRoom(func() error {
		a, err = v.link(ino, parent, name)
		return err
	})
	return a, err
}

func (v *Volume) link(ino, parent Ino, name string) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	if err := v.flushTemp(ino); err != nil {
		return Attr{}, err
	}
	if err := v.with(ino, v.bear); err != nil {
		return Attr{}, err
	}
	v.ns.Lock()
	defer v.ns.Unlock()
	if err := v.bearLocked(v.unborn.find(parent, name)); err != nil {
		return Attr{}, err
	}
	dir, err := v.dir(parent)
	if err != nil {
		return Attr{}, err
	}
	if ino == parent {
		v.unlock(dir)
		return Attr{}, ErrPermitted
	}
	n, err := v.get(ino)
	if err != nil {
		v.unlock(dir)
		return Attr{}, err
	}
	n.mu.Lock()
	defer v.unlock(dir, n)
	switch {
	case n.row.Type == Directory:
		return Attr{}, fmt.Errorf("%w: a directory has one name", ErrPermitted)
	case n.row.Nlink == 0 && !n.linkable || n.gone:
		return Attr{}, ErrNotFound
	case parent == RootIno:
		return Attr{}, ErrPermitted
	case n.row.Bucket != dir.row.Bucket:
		return Attr{}, ErrCrossBucket
	case len(n.row.Links) >= MaxLinks:
		return Attr{}, ErrTooManyLinks
	}
	if n.row.Nlink == 0 {
		if err := v.quotas.of(n.row.Bucket).addInodes(1); err != nil {
			return Attr{}, err
		}
	}
	err = v.commit("link", []*inode{dir, n}, func(t *meta.Tx, rows []*meta.Inode) error {
		d, x := rows[0], rows[1]
		if err := t.AddDentry(d, meta.Dentry{Name: name, Ino: ino, Type: x.Type}); err != nil {
			return err
		}
		now := v.now()
		d.Mtime, d.Ctime, x.Ctime = now, now, now
		x.Nlink++
		x.Links = append(x.Links, meta.Link{Parent: parent, Name: name})
		if x.Nlink == 1 {
			return v.named(t, x)
		}
		return nil
	})
	if err != nil {
		if n.row.Nlink == 0 {
			_ = v.quotas.of(n.row.Bucket).addInodes(-1)
		}
		return Attr{}, err
	}
	if n.linkable {
		n.linkable = false
		v.recount(n)
		v.leftZombies(n)
	}
	return n.attr(), nil
}
