package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The files of a store that belong to the process which holds it.
const (
	LockFile   = "lock"
	SocketFile = "control.sock"
	LogFile    = "daemon.log"
)

// Errors of taking a store.
var (
	ErrBusy   = errors.New("another kmsfs process holds the store")
	ErrServed = errors.New("a daemon serves this store already")
)

// Lock is the right to open a store: one process at a time has it. The kernel
// takes it back when the process ends, however it ends.
type Lock struct{ f *os.File }

// TryLock takes the store's lock or says ErrBusy, ErrServed if the holder is a
// daemon. what is written into the lock for others to read: "daemon" or
// "command".
func TryLock(dir, what string) (*Lock, error) { return tryLock(dir, what, os.O_CREATE) }

// tryLock makes the file if it is missing and create is os.O_CREATE; with 0 it says os.ErrNotExist.
func tryLock(dir, what string, create int) (*Lock, error) {
	f, err := os.OpenFile(filepath.Join(dir, LockFile), os.O_RDWR|create, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 64))
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the store: %w", err)
		}
		kind, pid, _ := strings.Cut(strings.TrimSpace(string(holder)), " ")
		if kind == "daemon" {
			return nil, fmt.Errorf("%w (process %s)", ErrServed, pid)
		}
		return nil, ErrBusy
	}
	l := &Lock{f: f}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%s %d\n", what, os.Getpid()), 0)
	}
	if err != nil {
		l.Release()
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	return l, nil
}

// Release gives the store free. The file stays, so that everyone locks the
// same one.
func (l *Lock) Release() {
	_ = l.f.Truncate(0)
	_ = l.f.Close()
}
