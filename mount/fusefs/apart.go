package fusefs

import (
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// Threads that are apart. Who tells a kernel of an entry waits for the lock of its directory, not to be interrupted, not even by the end of
// the process; and the kernel's user can hold that lock for as long as he likes (held.go). Such a thread would keep what it shares with the others:
// the table of descriptors, and with it the store's locks, the sockets and the ports, so that after the death of the daemon no other could
// take its place until that user lets go.
//
// So entries are told from threads that have no descriptor but their own of the connection, as long as the kernel has a directory open: no
// other can be listed. Who tells of one while none is open does so in any thread, which is quicker; and the answer to OPENDIR waits for
// him, so that nobody is still at it when a listing begins.

const restless = time.Second // how long a thread that is apart waits for an errand

// errand is a message to be written.
type errand struct {
	msg   []byte
	errno chan<- syscall.Errno
}

// entry implements addressee.
func (d *device) entry(parent mount.Ino, name string, expire bool) syscall.Errno {
	msg := entryMessage(parent, name, expire)
	if errno, ok := d.writeTogether(msg); ok {
		return errno
	}
	answer := make(chan syscall.Errno, 1)
	e := errand{msg, answer}
	select {
	case d.errands <- e:
	default:
		if !d.apart(func(to addressee) { d.run(to.(privately), e) }) {
			return syscall.EBADF
		}
	}
	return <-answer
}

// writeTogether writes if no directory is open, nor is about to be.
func (d *device) writeTogether(msg []byte) (errno syscall.Errno, ok bool) {
	if !d.together.TryRLock() {
		return 0, false
	}
	defer d.together.RUnlock()
	if d.dirs() > 0 {
		return 0, false
	}
	return d.write(msg), true
}

// opened returns when nobody tells of entries who did not know of a directory that is open now.
func (d *device) opened() {
	d.together.Lock()
	d.together.Unlock() //nolint:staticcheck // SA2001: waiting is all that is wanted
}

// run does errands until there is none for a while.
func (d *device) run(to privately, e errand) {
	t := time.NewTimer(restless)
	defer t.Stop()
	for {
		e.errno <- writeTo(to.fd, e.msg)
		t.Reset(restless)
		select {
		case e = <-d.errands:
		case <-t.C:
			return
		case <-d.over:
			return
		}
	}
}

// apart calls fn in a thread that is apart, and does not wait for it. ok is false if the connection has ended.
func (d *device) apart(fn func(to addressee)) (ok bool) {
	if !d.begin() {
		return false
	}
	fd := d.fd
	inThread(func() {
		if err := keepOnly(fd); err != nil {
			d.log.Warn("a thread that a user may hold shares the daemon's descriptors", "err", err)
			defer d.end()
		} else {
			d.end()
		}
		fn(privately{fd})
	})
	return true
}

// inThread calls fn in a thread that it has for itself and that ends, with what it has, when fn returns. It is not the process's first one, which does not
// end, and whose descriptors are those that /proc/self/fd shows.
func inThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		other := make(chan struct{})
		go func() { // this thread is taken
			runtime.LockOSThread()
			close(other)
			fn()
		}()
		<-other
		runtime.UnlockOSThread()
	}()
}

// keepOnly gives the thread a table of descriptors of its own, with nothing in it but one.
func keepOnly(fd int) error {
	if fd > 0 {
		if err := unix.CloseRange(0, uint(fd-1), unix.CLOSE_RANGE_UNSHARE); err != nil { // Linux 5.9
			return err
		}
	}
	return unix.CloseRange(uint(fd+1), 1<<32-1, unix.CLOSE_RANGE_UNSHARE)
}

// privately is a addressee for one thread.
type privately struct{ fd int }

func (p privately) inode(ino mount.Ino, off, end int64) syscall.Errno {
	buf := inodeMessage(ino, off, end)
	return writeTo(p.fd, buf[:])
}

func (p privately) entry(parent mount.Ino, name string, expire bool) syscall.Errno {
	return writeTo(p.fd, entryMessage(parent, name, expire))
}
