package fusefs

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// forever is how long the kernel may believe what it is told: until a notification, in fact.
const forever = 3600 // s

const blockSize = 4096

func caller(h *fuse.InHeader) mount.Caller {
	return mount.Caller{UID: h.Uid, GID: h.Gid, PID: h.Pid}
}

// maker is the caller of an operation that makes something.
func maker(h *fuse.InHeader, umask uint32) mount.Caller {
	c := caller(h)
	c.Umask = umask
	return c
}

func typeBits(t mount.FileType) uint32 {
	switch t {
	case mount.Regular:
		return syscall.S_IFREG
	case mount.Directory:
		return syscall.S_IFDIR
	case mount.Symlink:
		return syscall.S_IFLNK
	case mount.FIFO:
		return syscall.S_IFIFO
	case mount.Socket:
		return syscall.S_IFSOCK
	case mount.CharDevice:
		return syscall.S_IFCHR
	case mount.BlockDevice:
		return syscall.S_IFBLK
	}
	return 0
}

func typeOf(mode uint32) (mount.FileType, bool) {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG, 0:
		return mount.Regular, true
	case syscall.S_IFIFO:
		return mount.FIFO, true
	case syscall.S_IFSOCK:
		return mount.Socket, true
	case syscall.S_IFCHR:
		return mount.CharDevice, true
	case syscall.S_IFBLK:
		return mount.BlockDevice, true
	}
	return 0, false
}

func split(ns int64) (sec uint64, nsec uint32) {
	s, n := ns/1e9, ns%1e9
	if n < 0 {
		s, n = s-1, n+1e9
	}
	return uint64(s), uint32(n)
}

func fillAttr(out *fuse.Attr, a *mount.Attr) {
	*out = fuse.Attr{
		Ino: uint64(a.Ino), Size: a.Size, Blocks: a.Blocks, Mode: typeBits(a.Type) | a.Mode, Nlink: a.Nlink,
		Owner: fuse.Owner{Uid: a.UID, Gid: a.GID}, Rdev: a.Rdev, Blksize: blockSize,
	}
	out.Atime, out.Atimensec = split(a.Atime)
	out.Mtime, out.Mtimensec = split(a.Mtime)
	out.Ctime, out.Ctimensec = split(a.Ctime)
}

func fillEntry(out *fuse.EntryOut, a *mount.Attr) {
	out.NodeId, out.EntryValid, out.AttrValid = uint64(a.Ino), forever, forever
	fillAttr(&out.Attr, a)
}

// entry answers with an entry that the kernel will keep, and counts it. The attributes are read again once it is on record that the
// kernel knows them: who changed them before that had nobody to tell.
func (m *rawFS) entry(out *fuse.EntryOut, a *mount.Attr) {
	m.sess.Acquire(a.Ino, 1)
	m.interest.learn(a.Ino)
	if now, err := m.sess.Attr(a.Ino); err == nil {
		a = &now
	}
	m.settled(a)
	fillEntry(out, a)
}

// settled is called between reading attributes and answering with them: the kernel must not hear of a size before it has dropped what
// it cached behind the end of before.
func (m *rawFS) settled(a *mount.Attr) {
	if a.Type != mount.Regular {
		return
	}
	if m.interest.caches(a.Ino) {
		m.sess.Settled(a.Ino)
	}
	m.notes.settle(a.Ino)
}

// Lookup finds a name. That there is none is an answer that the kernel keeps too.
func (m *rawFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	k := entryKey{mount.Ino(h.NodeId), name}
	m.interest.beginBlind()
	m.interest.asking(k)
	defer func() {
		m.interest.told(k)
		m.interest.endBlind()
	}()
	a, err := m.sess.Lookup(caller(h), k.parent, name)
	if err != nil {
		s := m.status("lookup", h.NodeId, err)
		if s == fuse.ENOENT {
			out.EntryValid = forever
			return fuse.OK
		}
		return s
	}
	if a.Type != mount.Directory {
		m.listers.looked(h.Pid, h.NodeId)
	}
	m.entry(out, &a)
	return fuse.OK
}

// Forget takes back what the kernel was told. The volume's count is of all kernels together, so none may take back more than its own.
func (m *rawFS) Forget(nodeid, n uint64) {
	if n = m.interest.forget(mount.Ino(nodeid), n); n > 0 {
		m.sess.Forget(mount.Ino(nodeid), n)
	}
}

// attr gives an inode's attributes. The root belongs to whose mount it is: with default_permissions he could not make buckets otherwise.
func (m *rawFS) attr(h *fuse.InHeader) (mount.Attr, error) {
	ino := mount.Ino(h.NodeId)
	m.interest.attrs(ino)
	a, err := m.sess.GetAttr(caller(h), ino)
	if ino == mount.RootIno {
		a.UID, a.GID = m.opts.UID, m.opts.GID
	}
	return a, err
}

// GetAttr gives attributes.
func (m *rawFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a, err := m.attr(&in.InHeader)
	if err != nil {
		return m.nodeStatus("getattr", in.NodeId, err)
	}
	m.settled(&a)
	fillAttr(&out.Attr, &a)
	out.AttrValid = forever
	return fuse.OK
}

// Statx is GetAttr with the time of birth.
func (m *rawFS) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	a, err := m.attr(&in.InHeader)
	if err != nil {
		return m.nodeStatus("statx", in.NodeId, err)
	}
	m.settled(&a)
	out.AttrValid = forever
	out.Statx = fuse.Statx{
		Mask: unix.STATX_BASIC_STATS | unix.STATX_BTIME, Blksize: blockSize, Nlink: a.Nlink, Uid: a.UID, Gid: a.GID,
		Mode: uint16(typeBits(a.Type) | a.Mode), Ino: uint64(a.Ino), Size: a.Size, Blocks: a.Blocks,
		RdevMajor: unix.Major(uint64(a.Rdev)), RdevMinor: unix.Minor(uint64(a.Rdev)),
	}
	out.Atime.Sec, out.Atime.Nsec = split(a.Atime)
	out.Btime.Sec, out.Btime.Nsec = split(a.Btime)
	out.Ctime.Sec, out.Ctime.Nsec = split(a.Ctime)
	out.Mtime.Sec, out.Mtime.Nsec = split(a.Mtime)
	return fuse.OK
}

// SetAttr changes attributes and sizes.
func (m *rawFS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	var ch mount.Change
	var h *mount.Handle
	if fh, ok := in.GetFh(); ok {
		if h = m.file(fh, in.NodeId); h == nil {
			return fuse.EBADF
		}
	}
	if v, ok := in.GetMode(); ok {
		ch.Mode = &v
	}
	if v, ok := in.GetUID(); ok {
		ch.UID = &v
	}
	if v, ok := in.GetGID(); ok {
		ch.GID = &v
	}
	if v, ok := in.GetSize(); ok {
		if v > 1<<63-1 {
			return fuse.Status(syscall.EFBIG)
		}
		size := int64(v)
		ch.Size = &size
	}
	ch.Atime = timeOf(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec)
	ch.Mtime = timeOf(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec)
	ch.KillPriv = in.Valid&fuse.FATTR_KILL_SUIDGID != 0
	c := caller(&in.InHeader)
	if ch.GID != nil && c.UID != 0 {
		c.Groups = groupsOf(c.PID)
	}
	if ch.Size != nil {
		defer m.notes.sets(mount.Ino(in.NodeId))()
	}
	m.interest.attrs(mount.Ino(in.NodeId))
	a, err := m.sess.SetAttr(c, mount.Ino(in.NodeId), h, ch)
	if err != nil {
		return m.nodeStatus("setattr", in.NodeId, err)
	}
	// Unlike other answers, the kernel believes this one even if it was notified while the answer was on its way: let it ask again.
	m.settled(&a)
	fillAttr(&out.Attr, &a)
	out.AttrValid = 0
	return fuse.OK
}

func timeOf(valid, bit, now uint32, sec uint64, nsec uint32) *int64 {
	if valid&bit == 0 {
		return nil
	}
	t := mount.Now
	if valid&now == 0 {
		t = int64(sec)*int64(time.Second) + int64(nsec)
	}
	return &t
}

// made ends an operation that put a name into a directory.
func (m *rawFS) made(op string, parent uint64, name string, a *mount.Attr, err error, out *fuse.EntryOut) fuse.Status {
	if err != nil {
		return m.status(op, parent, err)
	}
	m.interest.entry(entryKey{mount.Ino(parent), name})
	m.entry(out, a)
	return fuse.OK
}

// changing announces an operation in a directory and returns what ends it.
func (m *rawFS) changing(dir uint64) func() {
	m.interest.beginBlind()
	m.notes.begin(mount.Ino(dir), true)
	return func() {
		m.notes.end(mount.Ino(dir), true)
		m.interest.endBlind()
	}
}

// Mknod makes a file of any kind.
func (m *rawFS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	defer m.changing(in.NodeId)()
	t, ok := typeOf(in.Mode)
	if !ok {
		return fuse.EINVAL
	}
	a, err := m.sess.Mknod(maker(&in.InHeader, in.Umask), mount.Ino(in.NodeId), name, t, in.Mode&0o7777, in.Rdev)
	return m.made("mknod", in.NodeId, name, &a, err, out)
}

// Mkdir makes a directory or, in the root, a bucket.
func (m *rawFS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	defer m.changing(in.NodeId)()
	a, err := m.sess.Mkdir(maker(&in.InHeader, in.Umask), mount.Ino(in.NodeId), name, in.Mode&0o7777)
	return m.made("mkdir", in.NodeId, name, &a, err, out)
}

// Symlink makes a symbolic link.
func (m *rawFS) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	defer m.changing(h.NodeId)()
	a, err := m.sess.Symlink(caller(h), mount.Ino(h.NodeId), name, target)
	return m.made("symlink", h.NodeId, name, &a, err, out)
}

// Link makes another name.
func (m *rawFS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	defer m.changing(in.NodeId)()
	a, err := m.sess.Link(caller(&in.InHeader), mount.Ino(in.Oldnodeid), mount.Ino(in.NodeId), name)
	s := m.made("link", in.NodeId, name, &a, err, out)
	out.AttrValid = 0 // as in SetAttr
	return s
}

// Unlink removes a name.
func (m *rawFS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	defer m.changing(h.NodeId)()
	err := m.sess.Unlink(caller(h), mount.Ino(h.NodeId), name)
	if err == nil {
		m.interest.dropped(entryKey{mount.Ino(h.NodeId), name})
	}
	return m.status("unlink", h.NodeId, err)
}

// Rmdir removes a directory or bucket.
func (m *rawFS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	defer m.changing(h.NodeId)()
	err := m.sess.Rmdir(caller(h), mount.Ino(h.NodeId), name)
	if err == nil {
		m.interest.dropped(entryKey{mount.Ino(h.NodeId), name})
	}
	return m.status("rmdir", h.NodeId, err)
}

// Rename moves a name.
func (m *rawFS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	var flags mount.RenameFlags
	switch in.Flags {
	case 0:
	case unix.RENAME_NOREPLACE:
		flags = mount.RenameNoReplace
	case unix.RENAME_EXCHANGE:
		flags = mount.RenameExchange
	default:
		return fuse.EINVAL
	}
	defer m.changing(in.NodeId)()
	if in.Newdir != in.NodeId {
		defer m.changing(in.Newdir)()
	}
	from, to := entryKey{mount.Ino(in.NodeId), oldName}, entryKey{mount.Ino(in.Newdir), newName}
	m.interest.entry(to) // the kernel moves its dentry there by itself
	_, err := m.sess.Rename(caller(&in.InHeader), from.parent, oldName, to.parent, newName, flags)
	if err == nil && flags != mount.RenameExchange {
		m.interest.dropped(from)
	}
	return m.status("rename", in.NodeId, err)
}

// Readlink gives a symbolic link's target.
func (m *rawFS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := m.sess.Readlink(caller(h), mount.Ino(h.NodeId))
	return []byte(target), m.nodeStatus("readlink", h.NodeId, err)
}

// Access answers access(2) on mounts where the kernel does not decide.
func (m *rawFS) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	return m.nodeStatus("access", in.NodeId, m.sess.Access(caller(&in.InHeader), mount.Ino(in.NodeId), in.Mask))
}

// StatFs measures the volume, as the bucket may use it.
func (m *rawFS) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s, err := m.sess.StatFS(mount.Ino(in.NodeId))
	if err != nil {
		return m.status("statfs", in.NodeId, err)
	}
	*out = fuse.StatfsOut{
		Blocks: s.Blocks, Bfree: s.BlocksFree, Bavail: s.BlocksAvail, Files: s.Files, Ffree: s.FilesFree,
		Bsize: s.BlockSize, Frsize: s.BlockSize, NameLen: mount.MaxName,
	}
	return fuse.OK
}
