package badgerkv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
)

// The crash tests run this test binary again as a child that commits until it is killed.
const childEnv = "KMSFS_BADGERKV_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := crashChild(dir, os.Getenv(childEnv+"_SYNC") != ""); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

const crashWorkers = 4

func crashRow(worker int, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{'r', byte('0' + worker)}, n)
}

func crashLast(worker int) []byte { return []byte{'l', byte('0' + worker)} }

// crashChild commits for ever. Each commit of a worker adds one row, replaces the row that says how many there are, and removes
// the row before the last hundred. It says "worker n" when commit n was acknowledged (and synced, if asked).
func crashChild(dir string, sync bool) error {
	s, err := Open(dir, tiny())
	if err != nil {
		return err
	}
	failed := make(chan error)
	for w := range crashWorkers {
		go func() {
			for {
				commit := s.Update
				if sync && w > 0 { // the first worker's records are in the way of the others' deferred ones, or not
					commit = s.UpdateDeferred
				}
				n, err := crashCommit(commit, w)
				if err == nil && sync {
					err = s.Sync()
				}
				if err != nil {
					failed <- err
					return
				}
				// One short write: it arrives as a whole.
				if _, err := fmt.Fprintf(os.Stdout, "%d %d\n", w, n); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

const crashKeep = 100

func crashCommit(commit func(func(kv.Txn) error) error, w int) (n uint64, err error) {
	err = commit(func(tx kv.Txn) error {
		n = 1
		last, err := tx.Get(crashLast(w))
		if err == nil {
			n = binary.BigEndian.Uint64(last) + 1
		} else if !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		tx.Set(crashLast(w), binary.BigEndian.AppendUint64(nil, n))
		tx.Set(crashRow(w, n), make([]byte, 50+int(n%300)))
		if n > crashKeep {
			tx.Delete(crashRow(w, n-crashKeep))
		}
		return nil
	})
	return n, err
}

// crashCheck checks that acknowledged commits are there, and that what is there is a state that existed.
func crashCheck(t *testing.T, s *Store, acked [crashWorkers]uint64) {
	t.Helper()
	for w := range crashWorkers {
		var last uint64
		if b, err := get(s, string(crashLast(w))); err == nil {
			last = binary.BigEndian.Uint64(b)
		} else if !errors.Is(err, kv.ErrNotFound) {
			t.Fatal(err)
		}
		if last < acked[w] {
			t.Errorf("worker %d: commit %d was acknowledged, the last one there is %d", w, acked[w], last)
		}
		next := uint64(1)
		if last > crashKeep {
			next = last - crashKeep + 1
		}
		prefix := []byte{'r', byte('0' + w)}
		err := s.View(func(r kv.Reader) error {
			return r.Scan(prefix, kv.PrefixEnd(prefix), func(key, value []byte) (bool, error) {
				n := binary.BigEndian.Uint64(key[2:])
				if n != next || len(value) != 50+int(n%300) {
					return false, fmt.Errorf("worker %d, last %d: row %d with %d bytes; want row %d", w, last, n, len(value), next)
				}
				next++
				return true, nil
			})
		})
		if err != nil {
			t.Error(err)
		} else if next != last+1 {
			t.Errorf("worker %d, last %d: rows end before %d", w, last, next)
		}
	}
}

// crashRun runs the child until it has acknowledged some commits and a random time has gone, calls crash, kills it, and adds what
// was acknowledged.
func crashRun(t *testing.T, dir string, sync bool, acked *[crashWorkers]uint64, atLeast int, crash func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	if sync {
		cmd.Env = append(cmd.Env, childEnv+"_SYNC=1")
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	count := 0
	note := func() {
		var w int
		var n uint64
		if _, err := fmt.Sscanf(lines.Text(), "%d %d", &w, &n); err != nil {
			t.Errorf("child said %q", lines.Text())
			return
		}
		acked[w] = max(acked[w], n)
		count++
	}
	for count < atLeast && lines.Scan() {
		note()
	}
	if count < atLeast {
		_ = cmd.Wait()
		t.Fatalf("the child ended by itself: %s", stderr.String())
	}
	crash()
	_ = cmd.Process.Kill()
	for lines.Scan() { // what it had said before it died
		note()
	}
	_ = cmd.Wait()
	t.Logf("%d commits acknowledged", count)
}

// TestKill kills a committing process with SIGKILL, again and again, in the middle of rotations and movements.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(kvtest.Seed(t), 2))
	var acked [crashWorkers]uint64
	for range 8 {
		crashRun(t, dir, false, &acked, 1+rng.IntN(8000), func() {})
		s := openTest(t, dir, tiny())
		crashCheck(t, s, acked)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openTest(t, dir, tiny())
		crashCheck(t, s, acked)
		if rng.IntN(2) == 0 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		// Leave with commits in the log, as if killed, so that a replay follows a replay.
		for w := range crashWorkers {
			if n, err := crashCommit(s.Update, w); err != nil {
				t.Fatal(err)
			} else {
				acked[w] = n
			}
		}
		abandon(t, s)
	}
}

// abandon lets go of a store without moving anything, as far as that is possible within a process.
func abandon(t *testing.T, s *Store) {
	t.Helper()
	close(s.quit)
	<-s.applierDone
	if err := s.db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.redo.Close(); err != nil {
		t.Fatal(err)
	}
}

// disk is an ext4 filesystem in a file.
type disk struct {
	t           *testing.T
	device, dir string
}

func newDisk(t *testing.T, size int64) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a filesystem in a file")
	}
	for _, tool := range []string{"mkfs.ext4", "mount", "umount", "losetup"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	tmp := t.TempDir()
	d := &disk{t: t, dir: filepath.Join(tmp, "mnt")}
	image := filepath.Join(tmp, "image")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close(), os.Mkdir(d.dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	device, err := d.run("losetup", "--find", "--show", image)
	if err != nil {
		t.Skipf("cannot make a device of a file: %v: %s", err, device)
	}
	d.device = strings.TrimSpace(string(device))
	t.Cleanup(func() { _, _ = d.run("losetup", "--detach", d.device) })
	if out, err := d.run("mount", d.device, d.dir); err != nil {
		t.Skipf("cannot mount a filesystem in a file: %v: %s", err, out)
	}
	t.Cleanup(func() { _, _ = d.run("umount", "-l", d.dir) })
	return d
}

func (d *disk) run(name string, args ...string) ([]byte, error) {
	return exec.Command(name, args...).CombinedOutput()
}

// cut is a power cut: from now on nothing reaches the image any more, not even the journal.
func (d *disk) cut() {
	const fsIOCShutdown, noLogFlush = 0x8004587d, 2
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	how := uint32(noLogFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), fsIOCShutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		d.t.Fatalf("FS_IOC_SHUTDOWN: %v", errno)
	}
}

// restart mounts the filesystem again, when nobody has anything of the old one any more; the journal is replayed. The kernel says when
// that is: the dead child's mappings go away on their own.
func (d *disk) restart() {
	d.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		d.t.Fatal(err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	if _, err := unix.InotifyAddWatch(fd, d.dir, unix.IN_DELETE_SELF); err != nil { // and, without being asked, the end of its filesystem
		d.t.Fatal(err)
	}
	if out, err := d.run("umount", "-l", d.dir); err != nil {
		d.t.Fatalf("umount: %v: %s", err, out)
	}
	if err := events.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		d.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := events.Read(buf)
	if err != nil || n < unix.SizeofInotifyEvent || binary.NativeEndian.Uint32(buf[4:])&unix.IN_UNMOUNT == 0 {
		d.t.Fatalf("the filesystem stays in use: %v, %x", err, buf[:max(n, 0)])
	}
	if out, err := d.run("mount", d.device, d.dir); err != nil {
		d.t.Fatalf("mount: %v: %s", err, out)
	}
}

// TestPowerCut cuts the power of a process that commits and syncs: what was synced is there.
func TestPowerCut(t *testing.T) {
	d := newDisk(t, 512<<20)
	dir := filepath.Join(d.dir, "store")
	rng := rand.New(rand.NewPCG(kvtest.Seed(t), 3))
	var acked [crashWorkers]uint64
	for range 6 {
		crashRun(t, dir, true, &acked, 1+rng.IntN(3000), d.cut)
		d.restart()
		s := openTest(t, dir, tiny())
		crashCheck(t, s, acked)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPowerCutUnsynced cuts the power of a process that only commits: what is there is a state that existed, though perhaps an
// older one, and the store opens.
func TestPowerCutUnsynced(t *testing.T) {
	d := newDisk(t, 512<<20)
	dir := filepath.Join(d.dir, "store")
	s := openTest(t, dir, tiny())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(kvtest.Seed(t), 4))
	for range 6 {
		var acked [crashWorkers]uint64
		crashRun(t, dir, false, &acked, 1+rng.IntN(20_000), d.cut)
		d.restart()
		s := openTest(t, dir, tiny())
		crashCheck(t, s, [crashWorkers]uint64{})
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDisk fills a small filesystem with rows until they are refused: nothing acknowledged is lost, deleting works, and when
// space is there again, so does writing.
func TestFullDisk(t *testing.T) {
	d := newDisk(t, 192<<20)
	dir := filepath.Join(d.dir, "store")
	opt := Options{Overlay: 4 << 20, Batch: 1 << 20}
	s := openTest(t, dir, opt)
	value := make([]byte, 4000)
	written := 0
	for ; ; written++ {
		err := s.Update(func(tx kv.Txn) error { tx.Set(key8('f', uint64(written)), value); return nil })
		if errors.Is(err, kv.ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if written > 100_000 {
			t.Fatal("a filesystem of 192 MiB took 400 MB")
		}
	}
	t.Logf("%d rows; %+v", written, s.Stats())
	// An ordinary program takes the rest, down to where only deleting is possible.
	fill, err := os.Create(filepath.Join(d.dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	// Badger moves rows and merges tables meanwhile, and takes or gives room: the program has what is left each time.
	filled := int64(0)
	hold := func() {
		t.Helper()
		st := s.Stats()
		filled = max(1<<20, filled+st.Free-st.Reserve*5/8-2*st.Pending)
		if err := errors.Join(fill.Truncate(filled), syscall.Fallocate(int(fill.Fd()), 0, 0, filled)); err != nil {
			t.Fatal(err)
		}
	}
	hold()
	for i := range 100 {
		var err error
		for range 100 {
			err = s.Update(func(tx kv.Txn) error {
				tx.Delete(key8('f', uint64(i)))
				tx.Set([]byte("parent"), []byte("its time changes"))
				return nil
			})
			if !errors.Is(err, kv.ErrNoSpace) {
				break
			}
			hold()
		}
		if err != nil {
			t.Fatalf("deleting on a full filesystem: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, dir, opt)
	for i := range written {
		_, err := get(s, string(key8('f', uint64(i))))
		if i < 100 && !errors.Is(err, kv.ErrNotFound) || i >= 100 && err != nil {
			t.Fatalf("row %d: %v", i, err)
		}
	}
	if err := errors.Join(fill.Close(), os.Remove(fill.Name())); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(tx kv.Txn) error { tx.Set([]byte("x"), value); return nil }); err != nil && !errors.Is(err, kv.ErrNoSpace) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
