package fusefs

import (
	"errors"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// table gives open files and directories the numbers by which the kernel knows them. Numbers start at 1.
type table[T any] struct {
	mu   sync.RWMutex
	slot []*T
	free []uint64
}

func (t *table[T]) add(v *T) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.free); n > 0 {
		fh := t.free[n-1]
		t.free = t.free[:n-1]
		t.slot[fh-1] = v
		return fh
	}
	t.slot = append(t.slot, v)
	return uint64(len(t.slot))
}

// used is how many there are.
func (t *table[T]) used() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.slot) - len(t.free)
}

func (t *table[T]) get(fh uint64) *T {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if fh == 0 || fh > uint64(len(t.slot)) {
		return nil
	}
	return t.slot[fh-1]
}

func (t *table[T]) remove(fh uint64) *T {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fh == 0 || fh > uint64(len(t.slot)) || t.slot[fh-1] == nil {
		return nil
	}
	v := t.slot[fh-1]
	t.slot[fh-1] = nil
	t.free = append(t.free, fh)
	return v
}

// file is the open file that a request names, nil if there is none or if it is not the node's. A kernel makes no such request; but what
// an open file may do was decided for its own inode and for no other.
func (m *rawFS) file(fh, node uint64) *mount.Handle {
	if h := m.files.get(fh); h != nil && h.Ino() == mount.Ino(node) {
		return h
	}
	return nil
}

// dir is likewise for open directories.
func (m *rawFS) dir(fh, node uint64) *mount.DirHandle {
	if d := m.dirs.get(fh); d != nil && d.Ino() == mount.Ino(node) {
		return d
	}
	return nil
}

func openFlags(flags, more uint32) mount.OpenFlags {
	acc := flags & syscall.O_ACCMODE
	return mount.OpenFlags{
		Read: acc != syscall.O_WRONLY, Write: acc != syscall.O_RDONLY,
		Append: flags&syscall.O_APPEND != 0, Truncate: flags&syscall.O_TRUNC != 0, Exclusive: flags&syscall.O_EXCL != 0,
		KillPriv: more&fuse.OPEN_KILL_SUIDGID != 0,
	}
}

// opened gives a handle its number and says how the kernel is to use its cache. What is written through a handle that cannot read goes
// past it: nobody needs the pages, and the kernel does not ask for security.capability before the first write.
func (m *rawFS) opened(h *mount.Handle, out *fuse.OpenOut) {
	m.interest.opens(h.Ino(), 1)
	out.Fh = m.files.add(h)
	switch {
	case h.Direct():
		out.OpenFlags = fuse.FOPEN_DIRECT_IO
	case past(h):
		out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_KEEP_CACHE
	default:
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
}

// past reports whether what is written through a handle goes past the kernel's cache.
func past(h *mount.Handle) bool { return h.Direct() || !h.Flags().Read }

// Open opens a file.
func (m *rawFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	ino := mount.Ino(in.NodeId)
	m.opens.enter(ino)
	if in.Flags&syscall.O_TRUNC != 0 {
		defer m.notes.sets(ino)()
	}
	h, err := m.sess.Open(caller(&in.InHeader), ino, openFlags(in.Flags, in.Mode))
	if err != nil {
		m.opens.leave(ino)
		return m.nodeStatus("open", in.NodeId, err)
	}
	m.preload(h, in.Flags, in.Pid)
	m.opened(h, out)
	return fuse.OK
}

// Create makes a file and opens it.
func (m *rawFS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer m.changing(in.NodeId)()
	a, h, err := m.sess.Create(maker(&in.InHeader, in.Umask), mount.Ino(in.NodeId), name, in.Mode&0o7777, openFlags(in.Flags, in.OpenFlags))
	if err != nil {
		return m.status("create", in.NodeId, err)
	}
	m.interest.entry(entryKey{mount.Ino(in.NodeId), name})
	m.opens.enter(a.Ino)
	m.entry(&out.EntryOut, &a)
	m.opened(h, &out.OpenOut)
	return fuse.OK
}

// Tmpfile makes a file without a name and opens it.
func (m *rawFS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	a, h, err := m.sess.Tmpfile(maker(&in.InHeader, in.Umask), mount.Ino(in.NodeId), in.Mode&0o7777, openFlags(in.Flags, in.OpenFlags))
	if err != nil {
		return m.status("tmpfile", in.NodeId, err)
	}
	m.opens.enter(a.Ino)
	m.entry(&out.EntryOut, &a)
	m.opened(h, &out.OpenOut)
	return fuse.OK
}

// data is the reply to a READ, in the room that the request came with.
type data struct{ b []byte }

var dataPool = sync.Pool{New: func() any { return new(data) }}

// Bytes implements fuse.ReadResult.
func (d *data) Bytes([]byte) ([]byte, fuse.Status) { return d.b, fuse.OK }

// Readv puts the data into the reply, where it is already.
func (d *data) Readv(dst [][]byte) (int, fuse.Status) {
	n := 0
	for _, p := range dst {
		if len(p) > 0 && n < len(d.b) && &p[0] != &d.b[n] {
			copy(p, d.b[n:])
		}
		n += min(len(p), len(d.b)-n)
	}
	return n, fuse.OK
}

// Size implements fuse.ReadResult.
func (d *data) Size() int { return len(d.b) }

// Done implements fuse.ReadResult.
func (d *data) Done() {
	d.b = nil
	dataPool.Put(d)
}

// Read reads into the buffer of the reply.
func (m *rawFS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h := m.file(in.Fh, in.NodeId)
	if h == nil {
		return nil, fuse.EBADF
	}
	if in.Offset > 1<<63-1 {
		return nil, fuse.EINVAL
	}
	m.reads.Add(1)
	m.copiers.read(in.Pid)
	key := h.Key()
	m.interest.content(h.Ino(), int64(in.Offset), int64(in.Size), key)
	n, err := h.ReadAt(buf[:in.Size], int64(in.Offset))
	if now := h.Key(); now != key { // re-keyed meanwhile
		m.interest.content(h.Ino(), int64(in.Offset), int64(in.Size), now)
	}
	if err != nil {
		return nil, m.nodeStatus("read", in.NodeId, err)
	}
	d := dataPool.Get().(*data)
	d.b = buf[:n]
	return d, fuse.OK
}

// Write writes. The offset of an appending handle is the kernel's guess and is not used.
func (m *rawFS) Write(_ <-chan struct{}, in *fuse.WriteIn, p []byte) (uint32, fuse.Status) {
	h := m.file(in.Fh, in.NodeId)
	if h == nil {
		return 0, fuse.EBADF
	}
	ino := h.Ino()
	m.notes.begin(ino, false)
	defer m.notes.end(ino, false)
	kill := in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0
	if h.Flags().Append && in.WriteFlags&fuse.WRITE_CACHE == 0 {
		// Pages around the true end may be cached here as well, with what was there before, and so from where the kernel believes the end.
		_, err := h.Append(p, kill, func(off int64) func() {
			return m.notes.dropping(ino, min(off, int64(min(in.Offset, 1<<62))), off+int64(len(p)))
		})
		if err != nil {
			return 0, m.nodeStatus("write", in.NodeId, err)
		}
		return uint32(len(p)), fuse.OK
	}
	if in.Offset > 1<<63-1 {
		return 0, fuse.Status(syscall.EFBIG)
	}
	if !past(h) || in.WriteFlags&fuse.WRITE_CACHE != 0 {
		m.interest.content(ino, int64(in.Offset), int64(len(p)), h.Key())
	}
	n, err := h.WriteAt(p, int64(in.Offset), kill)
	if err != nil && n == 0 {
		return 0, m.nodeStatus("write", in.NodeId, err)
	}
	if past(h) && m.interest.caches(ino) {
		m.notes.InodeChanged(ino, int64(in.Offset), int64(n)) // kernels before 6.6 leave the pages of other handles as they are
	}
	return uint32(n), fuse.OK
}

// Writev is left to Write.
func (m *rawFS) Writev(_ <-chan struct{}, _ *fuse.WriteIn, _ [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// Flush is close(2): what was written is safe from a crash of the process when it returns, and the closing process has no POSIX locks
// on the file any more. Locks of open file descriptions end with Release.
func (m *rawFS) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h := m.file(in.Fh, in.NodeId)
	if h == nil {
		return fuse.EBADF
	}
	err := h.Flush()
	h.UnlockOwner(in.LockOwner) // whatever became of the data
	return m.nodeStatus("flush", in.NodeId, err)
}

const fsyncDataOnly = 1

// Fsync makes a file durable.
func (m *rawFS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := m.file(in.Fh, in.NodeId)
	if h == nil {
		return fuse.EBADF
	}
	return m.nodeStatus("fsync", in.NodeId, h.Sync(in.FsyncFlags&fsyncDataOnly != 0))
}

// Release ends a handle.
func (m *rawFS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if h := m.files.remove(in.Fh); h != nil {
		m.interest.opens(h.Ino(), -1)
		defer m.opens.leave(h.Ino())
		if err := h.Close(); err != nil {
			m.log.Error("close", "inode", in.NodeId, "err", err)
		}
	}
}

// Lseek finds data and holes.
func (m *rawFS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := m.file(in.Fh, in.NodeId)
	if h == nil {
		return fuse.EBADF
	}
	if in.Offset > 1<<63-1 || in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	at, err := h.SeekData(int64(in.Offset), in.Whence == unix.SEEK_DATA)
	if errors.Is(err, mount.ErrNotFound) {
		return fuse.Status(syscall.ENXIO)
	}
	out.Offset = uint64(at)
	return m.nodeStatus("lseek", in.NodeId, err)
}

// Fallocate sees to it that there is room, and grows the file unless told to keep its size. It cannot reserve: content is always
// written to new places. Punching holes and zeroing ranges are done; other modes are not supported.
func (m *rawFS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := m.file(in.Fh, in.NodeId)
	if h == nil || !h.Flags().Write {
		return fuse.EBADF
	}
	end := in.Offset + in.Length
	if in.Length == 0 {
		return fuse.EINVAL
	}
	if end < in.Offset || end > 1<<63-1 {
		return fuse.Status(syscall.EFBIG)
	}
	m.notes.begin(h.Ino(), false)
	defer m.notes.end(h.Ino(), false)
	killPriv := in.Uid != 0 // the kernel leaves it to us, and does not say who may keep set-id bits
	keepSize := in.Mode&unix.FALLOC_FL_KEEP_SIZE != 0
	var err error
	switch in.Mode &^ unix.FALLOC_FL_KEEP_SIZE {
	case 0:
		if !m.room(in.Length) {
			return fuse.Status(syscall.ENOSPC)
		}
	case unix.FALLOC_FL_PUNCH_HOLE:
		if !keepSize {
			return fuse.Status(syscall.EOPNOTSUPP)
		}
		err = h.Punch(int64(in.Offset), int64(in.Length), killPriv)
	case unix.FALLOC_FL_ZERO_RANGE:
		err = h.Punch(int64(in.Offset), int64(in.Length), killPriv)
	default:
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	if err == nil && !keepSize {
		err = m.grow(caller(&in.InHeader), h, end, killPriv)
	}
	return m.nodeStatus("fallocate", in.NodeId, err)
}

// room reports whether n more bytes have room now.
func (m *rawFS) room(n uint64) bool {
	s, err := m.sess.StatFS(mount.RootIno) // a quota answers for itself, where the file grows
	return err != nil || s.Blocks == 0 || n/uint64(s.BlockSize) <= s.BlocksAvail
}

func (m *rawFS) grow(c mount.Caller, h *mount.Handle, end uint64, killPriv bool) error {
	a, err := m.sess.GetAttr(c, h.Ino())
	if err != nil || end <= a.Size {
		return err
	}
	return h.Truncate(int64(end), killPriv)
}

const (
	copyBuffer = 1 << 20
	copyAtOnce = 1 << 30 // bytes one call copies at most; programs call again
)

var copyPool = sync.Pool{New: func() any {
	b := make([]byte, copyBuffer)
	return &b
}}

// CopyFileRange copies inside the daemon: the data does not pass through the kernel.
func (m *rawFS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, to := m.file(in.FhIn, in.NodeId), m.file(in.FhOut, in.NodeIdOut)
	if from == nil || to == nil {
		return 0, fuse.EBADF
	}
	if in.Flags != 0 || in.OffIn > 1<<62 || in.OffOut > 1<<62 {
		return 0, fuse.EINVAL
	}
	buf := copyPool.Get().(*[]byte)
	defer copyPool.Put(buf)
	m.copiers.copied(in.Pid)
	n, err := mount.Copy(from, int64(in.OffIn), to, int64(in.OffOut), int64(min(in.Len, copyAtOnce)), *buf, in.Uid != 0)
	if err != nil {
		return 0, m.nodeStatus("copy_file_range", in.NodeId, err)
	}
	return uint32(n), fuse.OK
}

// Ioctl knows none.
func (m *rawFS) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}
