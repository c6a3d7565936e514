package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount/fusefs"
)

// A supervisor is a tiny child of the daemon that holds the read end of a
// pipe. When the daemon leaves in order it says goodbye; when it is killed the
// pipe just ends, and then the supervisor ends the mounts that it left behind.
// It holds no key, no FUSE descriptor and no lock while the daemon lives; but it
// keeps the rights that the daemon gives up, and mounts and unmounts for it (see
// Deputy).
//
// A killed daemon may be unable to die: one of its threads is telling a kernel
// of a changed name and waits, not to be interrupted, for a directory that some
// process holds locked until the daemon answers it. Such a daemon keeps its
// pipe, its lock and its FUSE descriptors. So the supervisor also looks, a few
// times a second, whether the daemon's first thread is dead, and then ends the
// mounts at once.
//
// Nor would the memory of such a daemon be freed before its last thread ends, with
// keys and plaintext in it; so the supervisor has the kernel take it back. It stays
// for that until a daemon that left in order has ended.

const (
	goodbye = "bye"
	look    = 250 * time.Millisecond // how often it looks after the daemon
	parting = 5 * time.Second
)

// Supervise runs in a child of the daemon, the process pid (0 if that has ended): it waits for the end of pipe and cleans up
// after the daemon of the store in dir if that was not in order. Should a new
// daemon have the store by then, it has cleaned up itself.
//
// Meanwhile it answers the daemon's requests on the socket (see Deputy). letGo is called when it has nothing more to do with the store.
func Supervise(ctx context.Context, pid int, pipe io.Reader, socket *os.File, dir, storeID string, letGo func()) error {
	daemon, closeDaemon := watchDaemon(pid)
	defer closeDaemon()
	answered := make(chan error, 1)
	go func() { answered <- ServeDeputy(ctx, socket, storeID) }()
	said, err := lastWords(ctx, pipe, storeID, daemon)
	// What the daemon asked for last comes first, or a mount might be made behind our back.
	finish := time.NewTimer(time.Second)
	defer finish.Stop()
	select {
	case aerr := <-answered:
		err = errors.Join(err, aerr)
	case <-finish.C: // it hangs on the daemon's mounts, which are ended now
	}
	if said == goodbye {
		letGo()
		return errors.Join(err, daemon.outlive(ctx))
	}
	if err = errors.Join(err, daemon.takeMemory()); err != nil {
		return err
	}
	const patience, pause = 10 * time.Second, 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		lock, err := tryLock(dir, "supervisor", 0)
		switch {
		case err == nil:
			_, err = EndDead(context.WithoutCancel(ctx), storeID)
			lock.Release()
			return err
		case errors.Is(err, os.ErrNotExist) && isDir(dir): // somebody is removing the store, and shall not find it filled again
			_, err = EndDead(context.WithoutCancel(ctx), storeID)
			return err
		}
		// The kernel may end the pipe before it takes the lock back: then the daemon that seems to serve is the dying one.
		served := errors.Is(err, ErrServed)
		if !served && !errors.Is(err, ErrBusy) {
			// The store's disk is gone, or its directory: then no other daemon can have it either.
			abort(storeID)
			_, dead := EndDead(context.WithoutCancel(ctx), storeID)
			return errors.Join(err, dead)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if served {
				return nil
			}
			return err
		}
	}
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// lastWords reads the pipe to its end and helps a daemon that cannot die.
func lastWords(ctx context.Context, pipe io.Reader, storeID string, daemon daemonProcess) (string, error) {
	type end struct {
		said []byte
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		said, err := io.ReadAll(io.LimitReader(pipe, 64))
		ended <- end{said, err}
	}()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case e := <-ended:
			return string(e.said), e.err
		case <-tick.C:
			if isDying(daemon.pid) { // it has the store's lock, so the mounts are its own
				_ = daemon.takeMemory() // tried again at the pipe's end
				abort(storeID)
				_, _ = EndDead(context.WithoutCancel(ctx), storeID) // tried again at the pipe's end
			}
		}
	}
}

// daemonProcess is the process whose supervisor this one is.
type daemonProcess struct{ pid, fd int } // fd is a pidfd, or -1

func watchDaemon(pid int) (daemonProcess, func()) {
	d := daemonProcess{pid: pid, fd: -1}
	fd, err := unix.PidfdOpen(d.pid, 0)
	if err != nil || pid == 0 { // it has ended, or the kernel is older than 5.3
		return d, func() {}
	}
	d.fd = fd
	return d, func() { _ = unix.Close(fd) }
}

// takeMemory frees the memory of the daemon, if that is dying but for threads that cannot end (Linux 5.15; locked pages since 5.18). Older
// kernels free it when the last thread has ended.
func (d daemonProcess) takeMemory() error {
	if d.fd < 0 {
		return nil
	}
	const tries, pause = 100, 10 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for range tries {
		_, _, errno := unix.Syscall(unix.SYS_PROCESS_MRELEASE, uintptr(d.fd), 0, 0)
		switch errno {
		case 0, unix.ESRCH, unix.ENOSYS: // done; it has none any more; no such call
			return nil
		case unix.EINVAL: // it has closed the pipe, and lives
			return nil
		case unix.EAGAIN, unix.EINTR:
		default:
			return fmt.Errorf("free the memory of a daemon that cannot end: %w", errno)
		}
		<-tick.C
	}
	return errors.New("the memory of a daemon that cannot end is not free")
}

// outlive returns when the daemon, which has said goodbye, has ended, and has taken its memory if that cannot end.
func (d daemonProcess) outlive(ctx context.Context) error {
	if d.fd < 0 {
		return nil
	}
	for ctx.Err() == nil {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, int(look.Milliseconds()))
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for the daemon's end: %w", err)
		case ready > 0:
			return nil
		case isDying(d.pid):
			return d.takeMemory()
		}
	}
	return ctx.Err()
}

// isDying reports whether a process is dead but for threads that cannot end.
func isDying(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, tail, ok := strings.Cut(string(b[max(0, bytes.LastIndexByte(b, ')')):]), ") ")
	return ok && strings.HasPrefix(tail, "Z")
}

// abort ends the connections of a store's mounts where the kernel offers that: users other than root cannot force an unmount.
func abort(storeID string) {
	all, err := fusefs.Mounts()
	if err != nil {
		return
	}
	for _, m := range all {
		if _, minor, ok := strings.Cut(m.Device, ":"); ok && m.Source == SourceOf(storeID) {
			_ = os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0o200)
		}
	}
}

// Goodbye tells the supervisor behind pipe that nothing is left to do, and returns when that has let go of the store: it closes the other end of
// parted then, or by ending. One that does not is not waited for longer than parting.
func Goodbye(pipe, parted *os.File) {
	_, _ = pipe.WriteString(goodbye)
	_ = pipe.Close()
	defer time.AfterFunc(parting, func() { _ = parted.Close() }).Stop() // which ends the reading
	_, _ = parted.Read(make([]byte, 1))
	_ = parted.Close()
}
