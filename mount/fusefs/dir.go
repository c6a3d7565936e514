package fusefs

import (
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/kmsfs/kmsfs/mount"
)

// OpenDir opens a directory for listing.
func (m *rawFS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	d, err := m.sess.OpenDir(caller(&in.InHeader), mount.Ino(in.NodeId))
	if err != nil {
		return m.nodeStatus("opendir", in.NodeId, err)
	}
	out.Fh = m.dirs.add(d)
	return fuse.OK
}

// ReleaseDir closes it.
func (m *rawFS) ReleaseDir(in *fuse.ReleaseIn) { m.dirs.remove(in.Fh) }

// Cookies 1 and 2 stand behind "." and ".."; the volume's own are above.
const (
	cookieDot    = 1
	cookieDotDot = 2
)

// ReadDir lists names.
func (m *rawFS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d := m.dir(in.Fh, in.NodeId)
	if d == nil {
		return fuse.EBADF
	}
	more, err := m.dots(d, in.Offset, func(e fuse.DirEntry) bool { return out.AddDirEntry(e) })
	if err == nil && more {
		err = d.Read(after(in.Offset), func(e mount.Dirent) bool { return out.AddDirEntry(dirEntry(&e)) })
	}
	return m.nodeStatus("readdir", in.NodeId, err)
}

func after(offset uint64) uint64 {
	if offset <= cookieDotDot {
		return 0
	}
	return offset
}

func dirEntry(e *mount.Dirent) fuse.DirEntry {
	return fuse.DirEntry{Mode: typeBits(e.Type), Name: e.Name, Ino: uint64(e.Ino), Off: e.Cookie}
}

// dots lists "." and ".." where they are due, and reports whether there is room for more.
func (m *rawFS) dots(d *mount.DirHandle, offset uint64, add func(fuse.DirEntry) bool) (bool, error) {
	if offset < cookieDot && !add(fuse.DirEntry{Mode: syscall.S_IFDIR, Name: ".", Ino: uint64(d.Ino()), Off: cookieDot}) {
		return false, nil
	}
	if offset >= cookieDotDot {
		return true, nil
	}
	parent, err := d.Parent()
	if err != nil {
		parent = d.Ino() // removed while open
	}
	return add(fuse.DirEntry{Mode: syscall.S_IFDIR, Name: "..", Ino: uint64(parent), Off: cookieDotDot}), nil
}

// plusEntry is the size of an entry in a READDIRPLUS reply without its name: attributes, header.
const plusEntry = 128 + 24

// ReadDirPlus lists names with attributes, if the caller is likely to want them: the kernel asks this way for the first piece of every
// listing, and attributes cost more than names. An entry without attributes (node id 0) is legal.
func (m *rawFS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	d := m.dir(in.Fh, in.NodeId)
	if d == nil {
		return fuse.EBADF
	}
	add := func(e fuse.DirEntry) bool { return out.AddDirLookupEntry(e) != nil }
	more, err := m.dots(d, in.Offset, add)
	if err != nil || !more {
		return m.nodeStatus("readdir", in.NodeId, err)
	}
	// Behind the first piece the kernel asks for attributes because somebody has looked at entries of the first.
	if in.Offset == 0 && !m.listers.wants(in.Pid, in.NodeId) {
		err = d.Read(0, func(e mount.Dirent) bool { return add(dirEntry(&e)) })
		return m.nodeStatus("readdir", in.NodeId, err)
	}
	m.interest.beginBlind()
	defer m.interest.endBlind()
	room := int(in.Size) - len(out.Bytes())
	batch := make([]mount.Dirent, 0, room/(plusEntry+16))
	err = d.Read(after(in.Offset), func(e mount.Dirent) bool {
		if room -= plusEntry + (len(e.Name)+7)&^7; room < 0 {
			return false
		}
		batch = append(batch, e)
		return true
	})
	if err != nil {
		return m.nodeStatus("readdir", in.NodeId, err)
	}
	for i := range batch {
		e := &batch[i]
		eo := out.AddDirLookupEntry(dirEntry(e))
		if eo == nil {
			break
		}
		m.interest.entry(entryKey{d.Ino(), e.Name})
		m.sess.Acquire(e.Ino, 1)
		m.interest.learn(e.Ino) // before the attributes are read: who changes them afterwards has somebody to tell
		a, err := d.Attr(e.Ino)
		if err != nil { // gone meanwhile: the name alone
			m.Forget(uint64(e.Ino), 1)
			continue
		}
		m.settled(&a)
		fillEntry(eo, &a)
	}
	return fuse.OK
}

// listers guesses which processes want attributes with their listings: those that looked at an entry of the directory they listed
// last. It is a small table in which collisions only cost a wrong guess.
type listers [256]struct {
	pid    atomic.Uint32
	dir    atomic.Uint64
	credit atomic.Int32 // listings still to be answered with attributes before it is tried without
}

const listerCredit = 64

// wants is asked when a process begins to list a directory.
func (l *listers) wants(pid uint32, dir uint64) bool {
	s := &l[pid%uint32(len(l))]
	if s.pid.Swap(pid) != pid {
		s.credit.Store(0)
	}
	s.dir.Store(dir)
	return s.credit.Load() > 0 && s.credit.Add(-1) >= 0
}

// looked is told when a process looks at an entry.
func (l *listers) looked(pid uint32, dir uint64) {
	s := &l[pid%uint32(len(l))]
	if s.dir.Load() == dir && s.pid.Load() == pid && s.credit.Load() < listerCredit/2 {
		s.credit.Store(listerCredit)
	}
}

// FsyncDir makes all that was changed before durable.
func (m *rawFS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return m.status("fsyncdir", in.NodeId, m.sess.SyncDir())
}
