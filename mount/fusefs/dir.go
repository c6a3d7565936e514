package fusefs

import (
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/kmsfs/kmsfs/mount"
)

// maxDirs is how many directories may be open at a time through one mount.
const maxDirs = 1 << 14

// OpenDir opens a directory for listing.
func (m *rawFS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if m.dirs.used() >= maxDirs {
		return fuse.Status(syscall.ENFILE)
	}
	d, err := m.sess.OpenDir(caller(&in.InHeader), mount.Ino(in.NodeId))
	if err != nil {
		return m.nodeStatus("opendir", in.NodeId, err)
	}
	out.Fh = m.dirs.add(d)
	m.fd.opened()
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

// ReadDirPlus lists names with attributes, if the caller is likely to want them: attributes cost more than names, and a LOOKUP for
// each entry costs more than both. An entry without attributes (node id 0) is legal.
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
	if !m.listers.wants(in.Pid, in.NodeId, in.Offset == 0) {
		err = d.Read(after(in.Offset), func(e mount.Dirent) bool { return add(dirEntry(&e)) })
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
	m.withAttrs(d, in.Pid, batch, out)
	return fuse.OK
}

// withAttrs answers with entries and their attributes.
func (m *rawFS) withAttrs(d *mount.DirHandle, pid uint32, batch []mount.Dirent, out *fuse.DirEntryList) {
	outs := make([]*fuse.EntryOut, 0, len(batch))
	inos := make([]mount.Ino, 0, len(batch))
	for i := range batch {
		e := &batch[i]
		eo := out.AddDirLookupEntry(dirEntry(e))
		if eo == nil {
			break
		}
		if e.Type != mount.Directory && m.listers.sample(pid, uint64(d.Ino())) {
			continue
		}
		m.interest.entry(entryKey{d.Ino(), e.Name})
		m.sess.Acquire(e.Ino, 1)
		m.interest.learn(e.Ino) // before the attributes are read: who changes them afterwards has somebody to tell
		outs, inos = append(outs, eo), append(inos, e.Ino)
	}
	attrs := make([]mount.Attr, len(inos))
	d.Attrs(inos, attrs)
	for i := range attrs {
		a := &attrs[i]
		if a.Ino == 0 { // gone meanwhile: the name alone
			m.Forget(uint64(inos[i]), 1)
			continue
		}
		m.settled(a)
		fillEntry(outs[i], a)
	}
}

// listers guesses which processes want attributes with their listings: all, until one shows that it does not. Once the kernel has an
// entry it asks no more, so a few entries of large directories are given without attributes, as samples. Who lists the next directory
// and has looked at none of them wants names only, for a while. It is a small table in which collisions only cost a wrong guess.
type listers [256]lister

type lister struct {
	mu      sync.Mutex
	pid     uint32
	dir     uint64 // listed last
	given   int    // entries of it
	samples int    // of these, samples
	looked  bool   // at one of them
	bare    int    // listings still to be answered without attributes
}

const (
	sampleEvery  = 128     // entries
	bareListings = 32      // and then it is tried again
	plusAtMost   = 1 << 15 // entries of one directory with attributes for who has not looked at a sample yet
)

func (l *listers) of(pid uint32) *lister {
	s := &l[pid%uint32(len(l))]
	s.mu.Lock()
	return s
}

// wants is asked when a process lists a directory, from its start or further on.
func (l *listers) wants(pid uint32, dir uint64, start bool) bool {
	s := l.of(pid)
	defer s.mu.Unlock()
	if s.pid != pid {
		s.pid, s.bare, s.samples = pid, 0, 0
		start = true
	}
	if start || s.dir != dir {
		switch {
		case s.samples > 0 && !s.looked:
			s.bare = bareListings
		case s.bare > 0:
			s.bare--
		}
		s.dir, s.given, s.samples, s.looked = dir, 0, 0, false
	}
	return s.bare == 0 && (s.given < plusAtMost || s.looked)
}

// sample is told of an entry that is given to a process, and says whether to leave out its attributes.
func (l *listers) sample(pid uint32, dir uint64) bool {
	s := l.of(pid)
	defer s.mu.Unlock()
	if s.pid != pid || s.dir != dir {
		return false
	}
	s.given++
	if s.given%sampleEvery != 0 {
		return false
	}
	s.samples++
	return true
}

// looked is told when a process looks at an entry that is no directory and that the kernel did not know.
func (l *listers) looked(pid uint32, dir uint64) {
	s := l.of(pid)
	defer s.mu.Unlock()
	if s.pid == pid && s.dir == dir {
		s.looked, s.bare = true, 0
	}
}

// FsyncDir makes all that was changed before durable.
func (m *rawFS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return m.status("fsyncdir", in.NodeId, m.sess.SyncDir())
}
