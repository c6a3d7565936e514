package fs

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// checkName refuses what cannot be the name of a directory entry.
func checkName(name string) error {
	switch {
	case len(name) > MaxName:
		return fmt.Errorf("%w: %d bytes", ErrNameTooLong, len(name))
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%w: not a name for an entry", ErrInvalid)
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return fmt.Errorf("%w: a name holds neither slash nor NUL", ErrInvalid)
		}
	}
	return nil
}

// Lookup finds a name in a directory. "." and ".." are not names here.
func (v *Volume) Lookup(parent Ino, name string) (Attr, error) {
	if len(name) > MaxName {
		return Attr{}, ErrNameTooLong
	}
	for range lookupTries {
		d, err := v.lookup(parent, name)
		if err != nil {
			return Attr{}, err
		}
		a, err := v.Attr(d.Ino)
		if !errors.Is(err, ErrNotFound) {
			return a, err
		}
		// The entry was removed between the two reads, or the store has lost an inode row.
	}
	return Attr{}, fmt.Errorf("%w: an entry names an inode that is not there", ErrCorrupt)
}

const lookupTries = 100

// dir pins a directory and locks it for a change; ns is held. The caller unlocks with its return.
func (v *Volume) dir(ino Ino) (*inode, error) {
	n, err := v.get(ino)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	switch {
	case n.row.Type != Directory:
		err = ErrNotDir
	case n.row.Nlink == 0 || n.gone:
		err = ErrNotFound
	}
	if err != nil {
		v.unlock(n)
		return nil, err
	}
	return n, nil
}

// unlock unlocks and unpins; nil and a repeated inode are allowed.
func (v *Volume) unlock(ns ...*inode) {
	for i, n := range ns {
		if n != nil && !slices.Contains(ns[:i], n) {
			n.mu.Unlock()
			v.put(n)
		}
	}
}

// Make makes an inode and its first name. In the root only buckets can be made, by a caller that sets New.Bucket.
func (v *Volume) Make(parent Ino, name string, spec New) (a Attr, err error) {
	err = v.withRoom(func() error {
		a, err = v.makeInode(parent, name, spec)
		return err
	})
	return a, err
}

func (v *Volume) makeInode(parent Ino, name string, spec New) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	if parent == RootIno && (spec.Bucket == nil || spec.Type != Directory) || parent != RootIno && spec.Bucket != nil {
		return Attr{}, fmt.Errorf("%w: the root holds buckets and nothing else", ErrPermitted)
	}
	if len(spec.Target) > MaxTarget {
		return Attr{}, ErrNameTooLong
	}
	if (spec.Type == Regular) != (spec.Sealing.Method != None && len(spec.Sealing.Keys) == 1) {
		return Attr{}, fmt.Errorf("%w: a regular file, and nothing else, has one data key", ErrInvalid)
	}
	v.ns.Lock()
	defer v.ns.Unlock()
	dir, err := v.dir(parent)
	if err != nil {
		return Attr{}, err
	}
	defer v.unlock(dir)
	if v.unborn.find(parent, name) != nil {
		return Attr{}, ErrExists
	}
	if spec.Type == Directory && dir.row.Nlink == 1<<32-1 {
		return Attr{}, ErrTooManyLinks
	}
	ino, err := v.ids.nextIno()
	if err != nil {
		return Attr{}, v.fault("make", err)
	}
	use := v.quotas.of(dir.row.Bucket)
	if err := use.addInodes(1); err != nil {
		return Attr{}, err
	}
	row := v.newRow(ino, dir.row, name, spec)
	if spec.Later && spec.Type == Regular && use == nil && dir.row.Xattrs.Count == 0 {
		tie, err := v.free(dir, name)
		if err != nil {
			return Attr{}, err
		}
		row.Mode &^= spec.Umask & 0o777
		v.conceive(dir, row, tie)
		return attrOf(row), nil
	}
	_, known, lacking := v.look(dir, name)
	err = v.commit("make", []*inode{dir}, func(t *meta.Tx, rows []*meta.Inode) error {
		d, e := rows[0], meta.Dentry{Name: name, Ino: ino, Type: spec.Type}
		if known && lacking != nil {
			t.AddDentryAt(d, e, 0)
		} else if err := t.AddDentry(d, e); err != nil {
			return err
		}
		d.Mtime, d.Ctime = row.Btime, row.Btime
		if spec.Type == Directory {
			d.Nlink++
		}
		if err := begin(t, d, row, &spec); err != nil {
			return err
		}
		t.PutInode(row)
		return nil
	})
	if err != nil {
		_ = use.addInodes(-1)
		return Attr{}, err
	}
	n := v.cache.insert(row)
	if spec.Type == Directory {
		v.names.keep(n, map[uint64]meta.Dentry{})
	}
	v.put(n)
	return attrOf(row), nil
}

func (v *Volume) newRow(ino Ino, dir *meta.Inode, name string, spec New) *meta.Inode {
	now := v.now()
	row := &meta.Inode{
		Ino: ino, Type: spec.Type, Mode: spec.Mode & 0o7777, UID: spec.UID, GID: spec.GID, Nlink: 1, Rdev: spec.Rdev,
		Atime: now, Mtime: now, Ctime: now, Btime: now, Bucket: dir.Bucket, Links: []meta.Link{{Parent: dir.Ino, Name: name}},
	}
	switch spec.Type {
	case Directory:
		row.Nlink, row.Default = 2, spec.Default.Value
		if spec.Bucket != nil {
			b := *spec.Bucket
			b.Name = name
			if b.Created == 0 {
				b.Created = now
			}
			row.BucketInfo, row.Bucket = &b, ino
		}
	case Symlink:
		row.Target, row.Size = spec.Target, uint64(len(spec.Target))
	case Regular:
		row.Sealing = spec.Sealing
		row.Sealing.Keys = []FileKey{{Generation: 1, Wrapped: spec.Sealing.Keys[0].Wrapped}}
		row.NextKey = 2
	case FIFO, Socket, CharDevice, BlockDevice:
	}
	return row
}

// Unlink removes a name of an inode that is no directory and returns the inode's attributes afterwards.
func (v *Volume) Unlink(parent Ino, name string) (Attr, error) {
	return v.removeWithRoom(parent, name, false)
}

// Rmdir removes an empty directory.
func (v *Volume) Rmdir(parent Ino, name string) (Attr, error) {
	return v.removeWithRoom(parent, name, true)
}

func (v *Volume) removeWithRoom(parent Ino, name string, wantDir bool) (a Attr, err error) {
	err = v.withRoom(func() error {
		a, err = v.remove(parent, name, wantDir)
		return err
	})
	return a, err
}

func (v *Volume) remove(parent Ino, name string, wantDir bool) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	v.ns.Lock()
	defer v.ns.Unlock()
	if err := v.bearFor(parent, name); err != nil {
		if errors.Is(err, ErrNoSpace) && !wantDir {
			return v.forsake(parent, name, err)
		}
		return Attr{}, err
	}
	dir, err := v.dir(parent)
	if err != nil {
		return Attr{}, err
	}
	e, alone, err := v.look(dir, name)
	if !alone {
		e, err = v.entry(parent, name)
	}
	var n *inode
	if err == nil {
		n, err = v.behind(e)
	}
	if err != nil {
		v.unlock(dir)
		return Attr{}, err
	}
	defer v.unlock(dir, n)
	if err := removable(n.row, wantDir); err != nil {
		return Attr{}, err
	}
	err = v.commit("remove", []*inode{dir, n}, func(t *meta.Tx, rows []*meta.Inode) error {
		d, x := rows[0], rows[1]
		if alone {
			t.RemoveDentryAlone(d, e)
		} else if err := t.RemoveDentry(d, name); err != nil {
			return err
		}
		now := v.now()
		d.Mtime, d.Ctime, x.Ctime = now, now, now
		v.dropName(t, n, x, meta.Link{Parent: parent, Name: name})
		if wantDir {
			d.Nlink--
		}
		return nil
	})
	if err != nil {
		return Attr{}, err
	}
	a := n.attr()
	if a.Nlink == 0 {
		v.unlinked(n)
	}
	return a, nil
}

// child pins and locks the inode behind a name; ns and the parent's mu are held.
func (v *Volume) child(parent Ino, name string) (*inode, error) {
	d, err := v.entry(parent, name)
	if err != nil {
		return nil, err
	}
	return v.behind(d)
}

// behind pins and locks the inode of an entry; ns and the directory's mu are held.
func (v *Volume) behind(d meta.Dentry) (*inode, error) {
	n, err := v.get(d.Ino)
	if errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("%w: an entry names an inode that is not there", ErrCorrupt)
	} else if err != nil {
		return nil, err
	}
	n.mu.Lock()
	return n, nil
}

// removable says whether a name of this inode may go.
func removable(row *meta.Inode, wantDir bool) error {
	switch isDir := row.Type == Directory; {
	case wantDir && !isDir:
		return ErrNotDir
	case !wantDir && isDir:
		return ErrIsDir
	case isDir && row.Rows.Count != 0:
		return ErrNotEmpty
	}
	return nil
}

// dropName takes one name off a row and buries the inode with the last one.
func (v *Volume) dropName(t *meta.Tx, n *inode, row *meta.Inode, l meta.Link) {
	if i := slices.Index(row.Links, l); i >= 0 {
		row.Links = slices.Delete(row.Links, i, i+1)
	}
	if row.Type == Directory {
		row.Nlink = 0
	} else {
		row.Nlink--
	}
	if row.Nlink == 0 {
		v.bury(t, n, row)
	}
}

// Readlink reads a symbolic link.
func (v *Volume) Readlink(ino Ino) (target string, err error) {
	err = v.with(ino, func(n *inode) error {
		row := n.committed()
		if row.Type != Symlink {
			return ErrInvalid
		}
		target = row.Target
		return nil
	})
	return target, err
}

// ReadDir lists a directory from the entry behind the cookie after (0: from the start) until fn returns false. "." and ".." are
// left out. Entries that are there all the time are seen once, whatever happens to others meanwhile. A listing from the start to
// the end is checked against the fingerprint in the directory's row.
func (v *Volume) ReadDir(dir Ino, after uint64, fn func(Dirent) bool) error {
	return v.with(dir, func(n *inode) error {
		if n.committed().Type != Directory {
			return ErrNotDir
		}
		if v.unborn.in(dir) != nil {
			v.ns.Lock()
			err := v.bearIn(dir)
			v.ns.Unlock()
			if err != nil {
				return err
			}
		}
		row := n.committed() // before the look
		var all listing
		learn := after == 0 && n.names.Load() == nil
		err := v.db.View(func(r *meta.Reader) error {
			return r.Entries(dir, after, func(d meta.Dentry, cookie uint64) bool {
				if learn {
					all.add(d, cookie)
				}
				return fn(Dirent{Name: d.Name, Ino: d.Ino, Type: d.Type, Cookie: cookie})
			})
		})
		if err == nil && learn {
			v.listed(n, row, &all)
		}
		return v.fault("list directory", err)
	})
}

// ParentOf gives the directory that holds a directory; the root holds itself.
func (v *Volume) ParentOf(dir Ino) (parent Ino, err error) {
	err = v.with(dir, func(n *inode) error {
		switch row := n.committed(); {
		case row.Type != Directory:
			return ErrNotDir
		case dir == RootIno:
			parent = RootIno
		case len(row.Links) == 0:
			return ErrNotFound
		default:
			parent = row.Links[0].Parent
		}
		return nil
	})
	return parent, err
}

// Names gives every current name of an inode. The root's is the zero Name; an inode without a name gives ErrNotFound.
func (v *Volume) Names(ino Ino) ([]Name, error) {
	v.ns.RLock()
	defer v.ns.RUnlock()
	n, err := v.get(ino)
	if err != nil {
		return nil, err
	}
	row := n.committed()
	v.put(n)
	if ino == RootIno {
		return []Name{{}}, nil
	}
	if len(row.Links) == 0 {
		return nil, ErrNotFound
	}
	names := make([]Name, 0, len(row.Links))
	for _, l := range row.Links {
		tail := l.Name
		if row.Type == Directory {
			tail += "/"
		}
		name, err := v.path(l.Parent, tail)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// path puts the names of the directories from dir upwards before tail; ns is held.
func (v *Volume) path(dir Ino, tail string) (Name, error) {
	parts := []string{tail}
	for dir != RootIno {
		n, err := v.get(dir)
		if err != nil {
			return Name{}, err
		}
		row := n.committed()
		v.put(n)
		if len(row.Links) != 1 {
			return Name{}, ErrNotFound
		}
		parts = append(parts, row.Links[0].Name+"/")
		dir = row.Links[0].Parent
	}
	slices.Reverse(parts)
	bucket := parts[0][:len(parts[0])-1]
	if len(parts) == 1 {
		bucket = trimSlash(tail)
	}
	size := 0
	for _, p := range parts[1:] {
		size += len(p)
	}
	key := make([]byte, 0, size)
	for _, p := range parts[1:] {
		key = append(key, p...)
	}
	return Name{Bucket: bucket, Key: string(key)}, nil
}

func trimSlash(s string) string {
	if n := len(s); n > 0 && s[n-1] == '/' {
		return s[:n-1]
	}
	return s
}
