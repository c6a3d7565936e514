package fs

import (
	"errors"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// Rename moves a name inside a bucket. Without flags an existing target is replaced, atomically.
func (v *Volume) Rename(parent Ino, name string, newParent Ino, newName string, flags RenameFlags) (r RenameResult, err error) {
	err = v.withRoom(func() error {
		r, err = v.rename(parent, name, newParent, newName, flags)
		return err
	})
	return r, err
}

func (v *Volume) rename(parent Ino, name string, newParent Ino, newName string, flags RenameFlags) (RenameResult, error) {
	if flags&^(RenameNoReplace|RenameExchange) != 0 || flags == RenameNoReplace|RenameExchange {
		return RenameResult{}, ErrInvalid
	}
	for _, s := range []string{name, newName} {
		if err := checkName(s); err != nil {
			return RenameResult{}, err
		}
	}
	if parent == RootIno || newParent == RootIno {
		if parent == newParent || flags == RenameExchange {
			return RenameResult{}, ErrPermitted
		}
		return RenameResult{}, ErrCrossBucket
	}
	settled, err := v.beforeReplace(parent, name, newParent, newName)
	if err != nil {
		return RenameResult{}, err
	}
	v.ns.Lock()
	defer v.ns.Unlock()
	for _, l := range []meta.Link{{Parent: parent, Name: name}, {Parent: newParent, Name: newName}} {
		if err := v.bearFor(l.Parent, l.Name); err != nil {
			return RenameResult{}, err
		}
	}
	m := move{v: v, name: name, newName: newName, flags: flags, settled: settled}
	defer m.unlock()
	if err := m.lock(parent, newParent); err != nil {
		return RenameResult{}, err
	}
	return m.run()
}

// move is one rename. from and to may be the same directory, and target may be nil.
type move struct {
	v             *Volume
	name, newName string
	flags         RenameFlags
	from, to      *inode
	source        *inode
	target        *inode
	settled       *meta.Inode // the row of the source whose bytes are all durable; nil if that is not known
}

func (m *move) unlock() {
	all := []*inode{m.from, m.to, m.source, m.target}
	locked := all[:0]
	seen := map[*inode]bool{}
	for _, n := range all {
		if n != nil && !seen[n] {
			seen[n] = true
			locked = append(locked, n)
		}
	}
	m.v.unlock(locked...)
}

// holds reports whether the inode is locked already.
func (m *move) holds(ino Ino) *inode {
	for _, n := range []*inode{m.from, m.to, m.source, m.target} {
		if n != nil && n.ino == ino {
			return n
		}
	}
	return nil
}

func (m *move) lock(parent, newParent Ino) (err error) {
	v := m.v
	if m.from, err = v.dir(parent); err != nil {
		return err
	}
	m.to = m.from
	if newParent != parent {
		if m.to, err = v.dir(newParent); err != nil {
			m.to = nil
			return err
		}
	}
	if m.from.row.Bucket != m.to.row.Bucket {
		return ErrCrossBucket
	}
	if m.source, err = m.member(parent, m.name); err != nil {
		return err
	}
	m.target, err = m.member(newParent, m.newName)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return err
}

// member locks the inode behind a name unless this move has it locked.
func (m *move) member(parent Ino, name string) (*inode, error) {
	d, err := m.v.entry(parent, name)
	if err != nil {
		return nil, err
	}
	if n := m.holds(d.Ino); n != nil {
		return n, nil
	}
	return m.v.child(parent, name)
}

func (m *move) run() (RenameResult, error) {
	if err := m.check(); err != nil {
		return RenameResult{}, err
	}
	if m.target == m.source {
		return RenameResult{Moved: m.source.attr()}, nil // two names of one file, or the same name: POSIX wants nothing done
	}
	inodes := []*inode{m.from, m.source}
	if m.to != m.from {
		inodes = append(inodes, m.to)
	}
	if m.target != nil {
		inodes = append(inodes, m.target)
	}
	err := m.v.commit("rename", inodes, func(t *meta.Tx, rows []*meta.Inode) error { return m.write(t, inodes, rows) })
	if err != nil {
		return RenameResult{}, err
	}
	res := RenameResult{Moved: m.source.attr()}
	if m.target != nil {
		res.Replaced = m.target.attr()
		if res.Replaced.Nlink == 0 {
			m.v.unlinked(m.target)
		}
	}
	return res, nil
}

func (m *move) check() error {
	if m.flags == RenameExchange && m.target == nil {
		return ErrNotFound
	}
	if m.flags == RenameNoReplace && m.target != nil {
		return ErrExists
	}
	if m.source == m.to || m.source == m.from {
		return ErrInvalid
	}
	if m.target != nil && m.target == m.from {
		if m.flags == RenameExchange {
			return ErrInvalid
		}
		return ErrNotEmpty // the source lies in it
	}
	if m.from != m.to && m.source.row.Type == Directory {
		if err := m.outside(m.to, m.source.ino); err != nil {
			return err
		}
	}
	if m.flags == RenameExchange {
		if m.from != m.to && m.target.row.Type == Directory {
			return m.outside(m.from, m.target.ino)
		}
		return nil
	}
	if m.target != nil && m.target != m.source {
		return removable(m.target.row, m.source.row.Type == Directory)
	}
	return nil
}

// outside refuses a directory that lies beneath ino. Parents of locked inodes may be locked by nobody else: ns is held.
func (m *move) outside(dir *inode, ino Ino) error {
	v := m.v
	for at := dir.row; at.Ino != RootIno; {
		if at.Ino == ino {
			return ErrInvalid
		}
		if len(at.Links) != 1 {
			return ErrNotFound
		}
		up := at.Links[0].Parent
		if n := m.holds(up); n != nil {
			at = n.row
			continue
		}
		n, err := v.get(up)
		if err != nil {
			return err
		}
		at = n.committed()
		v.put(n)
	}
	return nil
}

func (m *move) write(t *meta.Tx, inodes []*inode, rows []*meta.Inode) error {
	v, now := m.v, m.v.now()
	row := func(n *inode) *meta.Inode {
		for i := range inodes {
			if inodes[i] == n {
				return rows[i]
			}
		}
		return nil
	}
	from, to, src := row(m.from), row(m.to), row(m.source)
	from.Mtime, from.Ctime, to.Mtime, to.Ctime, src.Ctime = now, now, now, now, now
	relink(src, meta.Link{Parent: from.Ino, Name: m.name}, meta.Link{Parent: to.Ino, Name: m.newName})
	moved := meta.Dentry{Name: m.newName, Ino: src.Ino, Type: src.Type}
	if m.settled != nil && m.settled == m.source.row {
		// The new name has all of the content from here on, whatever later writes lose.
		if _, err := t.Settled(v.closed.Load(), v.epoch, src.Ino, src.Size, false); err != nil {
			return err
		}
	}

	if m.flags == RenameExchange {
		dst := row(m.target)
		dst.Ctime = now
		relink(dst, meta.Link{Parent: to.Ino, Name: m.newName}, meta.Link{Parent: from.Ino, Name: m.name})
		if err := t.ReplaceDentry(to, moved); err != nil {
			return err
		}
		if err := t.ReplaceDentry(from, meta.Dentry{Name: m.name, Ino: dst.Ino, Type: dst.Type}); err != nil {
			return err
		}
		moveSubdir(from, to, src)
		moveSubdir(to, from, dst)
		return nil
	}
	if err := t.RemoveDentry(from, m.name); err != nil {
		return err
	}
	moveSubdir(from, to, src)
	if m.target == nil {
		return t.AddDentry(to, moved)
	}
	dst := row(m.target)
	dst.Ctime = now
	if err := t.ReplaceDentry(to, moved); err != nil {
		return err
	}
	v.dropName(t, m.target, dst, meta.Link{Parent: to.Ino, Name: m.newName})
	if dst.Type == Directory {
		to.Nlink--
	}
	return nil
}

func relink(row *meta.Inode, old, now meta.Link) {
	for i := range row.Links {
		if row.Links[i] == old {
			row.Links[i] = now
			return
		}
	}
}

// moveSubdir moves the link that ".." is.
func moveSubdir(from, to, moved *meta.Inode) {
	if moved.Type == Directory && from != to {
		from.Nlink--
		to.Nlink++
	}
}

// beforeReplace makes a file that is about to replace another durable, as far as its bytes are not. Without that a power cut could
// keep the rename and lose the bytes, and neither the old nor the new content would be there. (A file that is put in place of the
// target between this look and the rename is somebody else's race.) It returns the row of the file whose bytes are durable now, nil if
// there is nothing to replace: rows in memory never change, so whoever finds another knows that more was committed.
func (v *Volume) beforeReplace(parent Ino, name string, newParent Ino, newName string) (settled *meta.Inode, err error) {
	target, err := v.entry(newParent, newName)
	if err != nil || target.Type != Regular {
		return nil, nil //nolint:nilerr // the rename itself will say what is wrong
	}
	source, err := v.entry(parent, name)
	if err != nil || source.Type != Regular || source.Ino == target.Ino {
		return nil, nil //nolint:nilerr // likewise
	}
	err = v.with(source.Ino, func(n *inode) error {
		if err := v.flush(n, flushOptions{}); err != nil {
			return err
		}
		n.mu.RLock()
		settled = n.row
		n.mu.RUnlock()
		epoch, err := v.extentEpoch(n)
		if err != nil || epoch <= v.closed.Load() {
			return err
		}
		return v.fault("sync", v.cfg.Extents.Sync())
	})
	return settled, err
}

// extentEpoch is the newest epoch in which the file got an extent in a segment, 0 if it has none.
func (v *Volume) extentEpoch(n *inode) (uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.extentEpoch != unknownEpoch {
		return n.extentEpoch, nil
	}
	var newest uint64
	err := v.db.View(func(r *meta.Reader) error {
		pieces, err := r.Pieces(n.row)
		for _, p := range pieces {
			if !p.Extent.Inline {
				newest = max(newest, p.Extent.Epoch)
			}
		}
		return err
	})
	if err != nil {
		return 0, v.fault("load extent map", err)
	}
	n.extentEpoch = newest
	return newest, nil
}
