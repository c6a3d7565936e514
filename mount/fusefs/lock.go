package fusefs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/kmsfs/kmsfs/mount"
)

// Advisory locks are kept by the Hub, so that they hold across mounts. (flock of a directory is not: the kernel keeps that one to itself.)

func lockOf(in *fuse.LkIn) (l mount.Lock, ok bool) {
	l = mount.Lock{Owner: in.Owner, Start: in.Lk.Start, End: in.Lk.End, PID: in.Lk.Pid}
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		l.Kind = mount.FlockLock
	}
	switch in.Lk.Typ {
	case syscall.F_RDLCK:
		l.Mode = mount.LockRead
	case syscall.F_WRLCK:
		l.Mode = mount.LockWrite
	case syscall.F_UNLCK:
		l.Mode = mount.Unlock
	default:
		return l, false
	}
	return l, true
}

// GetLk finds who excludes a lock.
func (m *rawFS) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	h := m.file(in.Fh, in.NodeId)
	if h == nil {
		return fuse.EBADF
	}
	l, ok := lockOf(in)
	if !ok {
		return fuse.EINVAL
	}
	found, ok, err := h.GetLock(l)
	if err != nil {
		return m.nodeStatus("getlk", in.NodeId, err)
	}
	out.Lk = in.Lk
	out.Lk.Typ = syscall.F_UNLCK
	if ok {
		out.Lk = fuse.FileLock{Start: found.Start, End: found.End, Typ: syscall.F_RDLCK, Pid: found.PID}
		if found.Mode == mount.LockWrite {
			out.Lk.Typ = syscall.F_WRLCK
		}
	}
	return fuse.OK
}

// SetLk locks or unlocks at once.
func (m *rawFS) SetLk(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return m.setLock(cancel, in, false)
}

// SetLkw waits for a lock; a signal ends the wait, and so does the end of the connection.
func (m *rawFS) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	either, done := make(chan struct{}), make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-cancel:
		case <-m.ended:
		case <-done:
			return
		}
		close(either)
	}()
	return m.setLock(either, in, true)
}

func (m *rawFS) setLock(cancel <-chan struct{}, in *fuse.LkIn, wait bool) fuse.Status {
	h := m.file(in.Fh, in.NodeId)
	if h == nil {
		return fuse.EBADF
	}
	l, ok := lockOf(in)
	if !ok {
		return fuse.EINVAL
	}
	return m.nodeStatus("setlk", in.NodeId, h.SetLock(cancel, l, wait))
}
