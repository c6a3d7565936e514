package fusefs

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// addressee takes notifications to a kernel.
type addressee interface {
	// inode makes the kernel forget attributes and, if off >= 0, pages up to end.
	inode(ino mount.Ino, off, end int64) syscall.Errno
	// entry makes the kernel ask again about an entry before it believes it; expire: and do nothing more.
	entry(parent mount.Ino, name string, expire bool) syscall.Errno
}

// hasEnded reports whether an errno says that there is no such mount any more.
func hasEnded(errno syscall.Errno) bool {
	return errno == syscall.ENODEV || errno == syscall.EBADF || errno == syscall.ENOTCONN || errno == syscall.EPERM
}

// device is our own descriptor of the FUSE connection. go-fuse's calls set no flags on INVAL_ENTRY, so the messages are written here.
//
// A write takes as long as the kernel has a lock that it needs; close does not wait for it: the last one closes the descriptor.
type device struct {
	fd       int        // -1: none
	dirs     func() int // how many directories the kernel has open
	log      *slog.Logger
	errands  chan errand // for threads that are apart: see there
	over     chan struct{}
	together sync.RWMutex // held for reading by who tells of an entry in a thread that is not apart

	mu    sync.Mutex // held by none who writes
	users int        // who write
	ended bool       // nobody begins to
}

func newDevice(fd int, dirs func() int, log *slog.Logger) *device {
	return &device{fd: fd, dirs: dirs, log: log, errands: make(chan errand), over: make(chan struct{})}
}

func (d *device) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended || d.fd < 0 {
		return false
	}
	d.users++
	return true
}

func (d *device) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users--; d.ended {
		d.closeUnused()
	}
}

// closeUnused closes the descriptor if nobody is using it. d.mu is held, and d has ended.
func (d *device) closeUnused() {
	if d.users == 0 && d.fd >= 0 {
		_ = unix.Close(d.fd)
		d.fd = -1
	}
}

func (d *device) write(msg ...[]byte) syscall.Errno {
	if !d.begin() {
		return syscall.EBADF
	}
	defer d.end()
	return writeTo(d.fd, msg...)
}

func writeTo(fd int, msg ...[]byte) syscall.Errno {
	for {
		var err error
		if len(msg) == 1 {
			_, err = unix.Write(fd, msg[0])
		} else {
			_, err = unix.Writev(fd, msg)
		}
		var errno syscall.Errno
		if err == nil || errors.As(err, &errno) && errno != syscall.EINTR {
			return errno
		}
	}
}

func (d *device) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended {
		close(d.over)
	}
	d.ended = true
	d.closeUnused()
}

const outHeader = 16 // bytes of struct fuse_out_header

func header(buf []byte, code int32) {
	binary.NativeEndian.PutUint32(buf[0:], uint32(len(buf)))
	binary.NativeEndian.PutUint32(buf[4:], uint32(code))
	binary.NativeEndian.PutUint64(buf[8:], 0)
}

// store puts content into the kernel's cache, without a request for it.
func (d *device) store(ino mount.Ino, off int64, content []byte) syscall.Errno {
	var buf [outHeader + 24]byte
	header(buf[:], -fuse.NOTIFY_STORE_CACHE)
	binary.NativeEndian.PutUint32(buf[0:], uint32(len(buf)+len(content)))
	binary.NativeEndian.PutUint64(buf[outHeader:], uint64(ino))
	binary.NativeEndian.PutUint64(buf[outHeader+8:], uint64(off))
	binary.NativeEndian.PutUint32(buf[outHeader+16:], uint32(len(content)))
	return d.write(buf[:], content)
}

func (d *device) inode(ino mount.Ino, off, end int64) syscall.Errno {
	buf := inodeMessage(ino, off, end)
	return d.write(buf[:])
}

func inodeMessage(ino mount.Ino, off, end int64) (buf [outHeader + 24]byte) {
	header(buf[:], -fuse.NOTIFY_INVAL_INODE)
	size := end - off
	if off < 0 || end == 1<<63-1 {
		size = 0 // to the end
	}
	binary.NativeEndian.PutUint64(buf[outHeader:], uint64(ino))
	binary.NativeEndian.PutUint64(buf[outHeader+8:], uint64(off))
	binary.NativeEndian.PutUint64(buf[outHeader+16:], uint64(size))
	return buf
}

func entryMessage(parent mount.Ino, name string, expire bool) []byte {
	buf := make([]byte, outHeader+16+len(name)+1)
	header(buf, -fuse.NOTIFY_INVAL_ENTRY)
	binary.NativeEndian.PutUint64(buf[outHeader:], uint64(parent))
	binary.NativeEndian.PutUint32(buf[outHeader+8:], uint32(len(name)))
	if expire {
		binary.NativeEndian.PutUint32(buf[outHeader+12:], fuse.EXPIRE_ONLY)
	}
	copy(buf[outHeader+16:], name)
	return buf
}

// epoch makes the kernel ask again about every name that it knows. It waits for nothing.
func (d *device) epoch() syscall.Errno {
	var buf [outHeader]byte
	header(buf[:], -fuse.NOTIFY_INC_EPOCH)
	return d.write(buf[:])
}
