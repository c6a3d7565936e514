package model

import (
	"encoding/gob"
	"errors"
	"io"
	"os"
	"runtime/debug"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary a child that executes operations; its value is the directory they are in.
const childEnv = "KMSFS_MODEL_CHILD"

// TestMain is also the door of the children.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		unix.Umask(0)
		switch os.Getenv(roleEnv) {
		case "":
			serveChild(os.Stdin, os.Stdout)
		default:
			os.Exit(worker(os.Getenv(roleEnv), dir))
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child executes operations. All its files are its handles.
type child struct {
	root string
	fds  map[int]*open
}

type open struct {
	fd int
	m  []byte // a shared mapping
}

func serveChild(r io.Reader, w io.Writer) {
	c := &child{fds: map[int]*open{}}
	dec, enc := gob.NewDecoder(r), gob.NewEncoder(w)
	for {
		var req request
		if err := dec.Decode(&req); err != nil {
			return
		}
		c.root = req.Root
		if err := enc.Encode(c.do(&req.Op)); err != nil {
			return
		}
	}
}

// request is one operation on the tree at a directory.
type request struct {
	Root string
	Op   op
}

func (c *child) path(p string) string {
	if p == "" {
		return c.root
	}
	return c.root + "/" + p
}

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	if err != nil {
		return syscall.EDOM // cannot be mistaken for an answer of the program
	}
	return 0
}

func (c *child) do(o *op) *reply {
	r := &reply{}
	if needsHandle(o.Kind) {
		if c.fds[o.H] == nil {
			r.Errno = syscall.EBADFD
			return r
		}
		c.doHandle(o, c.fds[o.H], r)
		return r
	}
	var err error
	path := c.path(o.Path)
	switch o.Kind {
	case opMkdir:
		err = unix.Mkdir(path, o.Mode)
	case opRmdir:
		err = unix.Rmdir(path)
	case opOpen:
		err = c.open(o, r)
	case opTruncate:
		err = unix.Truncate(path, o.N)
	case opRename:
		r.Again, err = c.rename(path, c.path(o.Path2), uint(o.Flags))
	case opLink:
		err = unix.Link(path, c.path(o.Path2))
	case opSymlink:
		err = unix.Symlink(o.Path2, path)
	case opReadlink:
		buf := make([]byte, unix.PathMax)
		var n int
		n, err = unix.Readlink(path, buf)
		r.Data = buf[:max(n, 0)]
	case opUnlink:
		err = unix.Unlink(path)
	case opChmod:
		err = unix.Fchmodat(unix.AT_FDCWD, path, o.Mode, 0)
	case opChown:
		err = unix.Fchownat(unix.AT_FDCWD, path, int(o.N), int(o.N), unix.AT_SYMLINK_NOFOLLOW)
	case opUtimens:
		err = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{unix.NsecToTimespec(o.Mtime), unix.NsecToTimespec(o.Mtime)}, 0)
	case opSetxattr:
		err = unix.Setxattr(path, o.Name, []byte(o.Value), o.Flags)
	case opGetxattr:
		r.Data, err = getxattr(path, o.Name)
	case opRemovexattr:
		err = unix.Removexattr(path, o.Name)
	case opStatfs:
		var s unix.Statfs_t
		err = unix.Statfs(path, &s)
		if err == nil && (s.Bsize != 4096 || s.Blocks == 0 || s.Bfree > s.Blocks || s.Namelen != 255 || s.Files == 0) {
			r.Errno = syscall.EDOM
		}
	case opLook:
		for i := range o.Looks {
			r.Views = append(r.Views, c.look(&o.Looks[i]))
		}
	default: // for the test itself
	}
	if err != nil {
		r.Errno = errnoOf(err)
	}
	return r
}

// rename tries again if the answer is ESTALE. A kernel that knows a directory by a name of before, because another mount has moved it,
// cannot follow it while it holds the lock of all renames; looking at it first helps.
func (c *child) rename(from, to string, flags uint) (again bool, err error) {
	err = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	if !errors.Is(err, unix.ESTALE) {
		return false, err
	}
	var st unix.Stat_t
	_ = unix.Lstat(from, &st)
	_ = unix.Lstat(to, &st)
	return true, unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
}

func needsHandle(k kind) bool {
	switch k {
	case opClose, opPread, opPwrite, opWrite, opFtruncate, opFsync, opFallocate, opSeekEnd, opCopy, opMap, opMapRead, opMapWrite:
		return true
	default:
		return false
	}
}

func (c *child) open(o *op, r *reply) error {
	fd, err := unix.Open(c.path(o.Path), o.Flags|unix.O_CLOEXEC, o.Mode)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		r.N = 1
		return unix.Close(fd)
	}
	c.fds[o.ID] = &open{fd: fd}
	return nil
}

func (c *child) doHandle(o *op, h *open, r *reply) {
	var err error
	var n int
	switch o.Kind {
	case opClose:
		delete(c.fds, o.H)
		if h.m != nil {
			err = unix.Munmap(h.m)
		}
		err = errors.Join(err, unix.Close(h.fd))
	case opPread:
		r.Data = make([]byte, o.N)
		n, err = unix.Pread(h.fd, r.Data, o.Off)
		r.Data = r.Data[:max(n, 0)]
	case opPwrite:
		n, err = unix.Pwrite(h.fd, o.data(), o.Off)
	case opWrite:
		n, err = unix.Write(h.fd, o.data())
	case opFtruncate:
		err = unix.Ftruncate(h.fd, o.N)
	case opFsync:
		if o.Flags != 0 {
			err = unix.Fdatasync(h.fd)
		} else {
			err = unix.Fsync(h.fd)
		}
	case opFallocate:
		err = unix.Fallocate(h.fd, uint32(o.Flags), o.Off, o.N)
	case opSeekEnd:
		r.N, err = unix.Seek(h.fd, 0, unix.SEEK_END)
	case opCopy:
		to := c.fds[o.H2]
		if to == nil {
			r.Errno = syscall.EBADFD
			return
		}
		from, at := o.Off, o.Off2
		n, err = unix.CopyFileRange(h.fd, &from, to.fd, &at, int(o.N), 0)
	case opMap:
		err = h.mmap(o)
	case opMapRead, opMapWrite:
		r.Bus, err = h.mapped(o, r)
	default:
	}
	r.N += int64(max(n, 0))
	r.Errno = errnoOf(err)
}

func (h *open) mmap(o *op) (err error) {
	if h.m != nil {
		if err := unix.Munmap(h.m); err != nil {
			return err
		}
		h.m = nil
	}
	prot := unix.PROT_READ
	if o.Flags != 0 {
		prot |= unix.PROT_WRITE
	}
	h.m, err = unix.Mmap(h.fd, 0, int(o.N), prot, unix.MAP_SHARED)
	return err
}

// mapped reads or writes through a mapping. The file's size is asked for first: a fault believes what the kernel last heard of it.
func (h *open) mapped(o *op, r *reply) (bus bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return false, err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			bus = true
		}
	}()
	end := o.Off + o.N
	if o.Kind == opMapRead {
		r.Data = append([]byte(nil), h.m[o.Off:end]...)
		return false, nil
	}
	copy(h.m[o.Off:end], o.data())
	const page = 4096
	return false, unix.Msync(h.m[o.Off/page*page:end], unix.MS_SYNC)
}

func getxattr(path, name string) ([]byte, error) {
	buf := make([]byte, 1<<16)
	n, err := unix.Getxattr(path, name, buf)
	return buf[:max(n, 0)], err
}
