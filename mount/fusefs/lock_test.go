package fusefs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLocks takes locks of every kind through two mounts.
func TestLocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("locks")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{})
	inChild(t, "locks", filepath.Join(a, "locks"), filepath.Join(b, "locks"))
}

func openRW(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	return f
}

// rangeLock waits on if a signal, which the runtime may send to its own threads, interrupts it.
func rangeLock(f *os.File, cmd int, typ int16, start, length int64) error {
	for {
		err := unix.FcntlFlock(f.Fd(), cmd, &unix.Flock_t{Type: typ, Start: start, Len: length})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func locksChild(t *testing.T, dirs []string) {
	name := filepath.Join(dirs[0], "f")
	fa, fb := openRW(t, name), openRW(t, filepath.Join(dirs[1], "f"))
	t.Run("flock", func(t *testing.T) {
		must(t, unix.Flock(int(fa.Fd()), unix.LOCK_EX))
		wantErr(t, "other mount", unix.Flock(int(fb.Fd()), unix.LOCK_EX|unix.LOCK_NB), syscall.EAGAIN)
		must(t, unix.Flock(int(fa.Fd()), unix.LOCK_SH))
		must(t, unix.Flock(int(fb.Fd()), unix.LOCK_SH|unix.LOCK_NB))
		wantErr(t, "upgrade", unix.Flock(int(fa.Fd()), unix.LOCK_EX|unix.LOCK_NB), syscall.EAGAIN)
		must(t, unix.Flock(int(fa.Fd()), unix.LOCK_UN))
		must(t, unix.Flock(int(fb.Fd()), unix.LOCK_UN))
	})
	for kind, cmds := range map[string][2]int{"posix": {unix.F_SETLK, unix.F_GETLK}, "ofd": {unix.F_OFD_SETLK, unix.F_OFD_GETLK}} {
		t.Run(kind, func(t *testing.T) { rangeLocks(t, fa, fb, cmds[0], cmds[1]) })
	}
	t.Run("deadlock", func(t *testing.T) { deadlock(t, fa, fb) })
	t.Run("independent", func(t *testing.T) {
		must(t, unix.Flock(int(fa.Fd()), unix.LOCK_EX))
		must(t, rangeLock(fb, unix.F_SETLK, unix.F_WRLCK, 0, 0))
		must(t, rangeLock(fb, unix.F_SETLK, unix.F_UNLCK, 0, 0))
		must(t, unix.Flock(int(fa.Fd()), unix.LOCK_UN))
	})
	t.Run("close", func(t *testing.T) {
		must(t, rangeLock(fa, unix.F_SETLK, unix.F_WRLCK, 0, 0))
		again, err := os.Open(name)
		must(t, err)
		must(t, again.Close()) // ends the process's POSIX locks on the file, as POSIX has it
		must(t, rangeLock(fb, unix.F_SETLK, unix.F_WRLCK, 0, 0))
		must(t, rangeLock(fb, unix.F_SETLK, unix.F_UNLCK, 0, 0))

		g := openRW(t, name)
		must(t, rangeLock(g, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 0))
		must(t, g.Close())
		must(t, rangeLock(fb, unix.F_OFD_SETLKW, unix.F_WRLCK, 0, 0)) // released behind close(2)'s back
		must(t, rangeLock(fb, unix.F_OFD_SETLK, unix.F_UNLCK, 0, 0))
	})
	t.Run("waiting", func(t *testing.T) { waitingLocks(t, fa, fb) })
	t.Run("killed waiter", func(t *testing.T) {
		must(t, unix.Flock(int(fa.Fd()), unix.LOCK_EX))
		start := time.Now()
		out, err := exec.CommandContext(t.Context(), "timeout", "0.3", "flock", filepath.Join(dirs[1], "f"), "true").CombinedOutput()
		if err == nil || time.Since(start) > 10*time.Second {
			t.Errorf("flock under a timeout: %v after %v: %s", err, time.Since(start), out)
		}
		must(t, unix.Flock(int(fa.Fd()), unix.LOCK_UN))
		must(t, unix.Flock(int(fb.Fd()), unix.LOCK_EX|unix.LOCK_NB)) // nothing is left of who was killed
		must(t, unix.Flock(int(fb.Fd()), unix.LOCK_UN))
	})
	must(t, fa.Close())
	must(t, fb.Close())
}

// deadlock lets each of two owners, one on each mount, wait for what the other has: one of them is refused, the other gets it then.
func deadlock(t *testing.T, fa, fb *os.File) {
	files := []*os.File{fa, fb}
	for i, f := range files {
		must(t, rangeLock(f, unix.F_SETLK, unix.F_WRLCK, int64(i), 1))
	}
	var refused atomic.Int32
	var waits sync.WaitGroup
	for i, f := range files {
		waits.Go(func() {
			err := rangeLock(f, unix.F_SETLKW, unix.F_WRLCK, int64(1-i), 1)
			if errors.Is(err, syscall.EDEADLK) {
				refused.Add(1)
				err = rangeLock(f, unix.F_SETLK, unix.F_UNLCK, 0, 0)
			}
			if err != nil {
				t.Errorf("waiter %d: %v", i, err)
			}
		})
	}
	waits.Wait()
	if n := refused.Load(); n != 1 {
		t.Errorf("%d waits were refused, want 1", n)
	}
	for _, f := range files {
		must(t, rangeLock(f, unix.F_SETLK, unix.F_UNLCK, 0, 0))
	}
}

func rangeLocks(t *testing.T, fa, fb *os.File, set, get int) {
	must(t, rangeLock(fa, set, unix.F_WRLCK, 0, 100))
	wantErr(t, "overlap", rangeLock(fb, set, unix.F_RDLCK, 99, 1), syscall.EAGAIN)
	must(t, rangeLock(fb, set, unix.F_WRLCK, 100, 0))
	must(t, rangeLock(fa, set, unix.F_UNLCK, 10, 20)) // cuts in two
	must(t, rangeLock(fb, set, unix.F_WRLCK, 10, 20))
	wantErr(t, "left rest", rangeLock(fb, set, unix.F_WRLCK, 9, 1), syscall.EAGAIN)
	wantErr(t, "right rest", rangeLock(fb, set, unix.F_WRLCK, 30, 1), syscall.EAGAIN)
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: 5, Len: 1000}
	must(t, unix.FcntlFlock(fb.Fd(), get, &l))
	if l.Type != unix.F_WRLCK || l.Start != 0 && l.Start != 30 {
		t.Errorf("getlk: %+v", l)
	}
	must(t, rangeLock(fa, set, unix.F_RDLCK, 0, 10)) // a downgrade
	must(t, rangeLock(fb, set, unix.F_RDLCK, 0, 10))
	must(t, rangeLock(fa, set, unix.F_UNLCK, 0, 0))
	must(t, rangeLock(fb, set, unix.F_UNLCK, 0, 0))
	l = unix.Flock_t{Type: unix.F_WRLCK}
	must(t, unix.FcntlFlock(fb.Fd(), get, &l))
	if l.Type != unix.F_UNLCK {
		t.Errorf("getlk of nothing: %+v", l)
	}
}

// waitingLocks hands one lock around between eight waiters on both mounts.
func waitingLocks(t *testing.T, fa, fb *os.File) {
	var wg sync.WaitGroup
	var inside atomic.Int32
	for i := range 8 {
		src := []*os.File{fa, fb}[i%2]
		wg.Go(func() {
			f, err := os.OpenFile(src.Name(), os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			for range 25 {
				for {
					if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR { //nolint:errorlint // a bare errno
						break
					}
				}
				if err != nil {
					t.Error(err)
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d inside", n)
				}
				inside.Add(-1)
				if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
					t.Error(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestLocksEnd sees locks go with the mount of who held them, and waits end with it.
func TestLocksEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bucket("locks")
	dirA, b := t.TempDir(), w.mount("admin", Options{})
	srv := w.mountAt("admin", dirA, Options{})
	cmd := child(t, "holdlock", nil, filepath.Join(dirA, "locks"))
	out, err := cmd.StdoutPipe()
	w.ok(err)
	in, err := cmd.StdinPipe()
	w.ok(err)
	w.ok(cmd.Start())
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "locked") {
			break
		}
	}
	waiting := child(t, "trylock", nil, filepath.Join(b, "locks"))
	w.ok(waiting.Start())
	w.ok(srv.Abort())
	if err := waiting.Wait(); err != nil {
		t.Errorf("who waited on the other mount: %v", err)
	}
	w.ok(in.Close())
	_ = cmd.Wait() // its file is on a dead mount
	select {
	case <-srv.Done():
	case <-time.After(10 * time.Second):
		t.Error("the aborted mount does not end")
	}
}

func holdLockChild(t *testing.T, dirs []string) {
	f := openRW(t, filepath.Join(dirs[0], "f"))
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	must(t, rangeLock(f, unix.F_SETLK, unix.F_WRLCK, 0, 0))
	fmt.Println("\nlocked")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

func tryLockChild(t *testing.T, dirs []string) {
	f := openRW(t, filepath.Join(dirs[0], "f"))
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	must(t, rangeLock(f, unix.F_SETLKW, unix.F_WRLCK, 0, 0))
}

// TestSqlite has two programs write one database through two mounts.
func TestSqlite(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("needs sqlite3")
	}
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("data")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{})
	inChild(t, "sqlite", filepath.Join(a, "data"), filepath.Join(b, "data"))
}

const sqliteRows = 60

func sqlite(t *testing.T, db, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sqlite3", "-bail", db)
	cmd.Stdin = strings.NewReader(".timeout 60000\n" + script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("sqlite3: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func sqliteChild(t *testing.T, dirs []string) {
	sqlite(t, filepath.Join(dirs[0], "db"), "create table t(side int, n int);")
	var wg sync.WaitGroup
	for side, dir := range dirs {
		wg.Go(func() {
			var script strings.Builder
			for n := range sqliteRows {
				fmt.Fprintf(&script, "insert into t values(%d,%d);\n", side, n)
			}
			sqlite(t, filepath.Join(dir, "db"), script.String())
		})
	}
	wg.Wait()
	for _, dir := range dirs {
		got := sqlite(t, filepath.Join(dir, "db"), "pragma integrity_check; select count(*), count(distinct side*1000+n) from t;")
		if want := fmt.Sprintf("ok\n%d|%d", 2*sqliteRows, 2*sqliteRows); got != want {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
	}
}
