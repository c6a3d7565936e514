package fusefs

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// hanging is a file system with one file, f, that is never read to the end.
type hanging struct {
	fuse.RawFileSystem
	once    sync.Once
	reached chan struct{}
	let     chan struct{}
}

func (h *hanging) attr(node uint64, out *fuse.Attr) {
	out.Ino, out.Mode, out.Nlink = node, fuse.S_IFDIR|0o755, 1
	if node != 1 {
		out.Mode, out.Size = fuse.S_IFREG|0o644, 4096
	}
}

func (h *hanging) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name != "f" {
		return fuse.ENOENT
	}
	out.NodeId = 2
	h.attr(2, &out.Attr)
	return fuse.OK
}

func (h *hanging) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	h.attr(in.NodeId, &out.Attr)
	return fuse.OK
}

func (h *hanging) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

func (h *hanging) Read(_ <-chan struct{}, _ *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h.once.Do(func() { close(h.reached) })
	<-h.let
	clear(buf)
	return fuse.ReadResultData(buf), fuse.OK
}

// hold has a child list a directory into memory that never comes, so that the directory stays locked in its kernel. release ends that.
func (w *world) hold(dir string) (release func()) {
	w.t.Helper()
	h := &hanging{RawFileSystem: fuse.NewDefaultRawFileSystem(), reached: make(chan struct{}), let: make(chan struct{})}
	top := w.t.TempDir()
	srv, err := fuse.NewServer(h, top, &fuse.MountOptions{DirectMount: true, FsName: "hanging"})
	w.ok(err)
	go srv.Serve()
	w.ok(srv.WaitMount())
	cmd := child(w.t, "hold", nil, dir, filepath.Join(top, "f"))
	cmd.Stderr = os.Stderr
	w.ok(cmd.Start())
	var once sync.Once
	release = func() {
		once.Do(func() {
			close(h.let)
			if err := cmd.Wait(); err != nil {
				w.t.Error(err)
			}
			if err := srv.Unmount(); err != nil {
				w.t.Error(err)
				_ = exec.Command("umount", "-l", top).Run()
			}
		})
	}
	w.t.Cleanup(release)
	select {
	case <-h.reached:
	case <-time.After(generous):
		w.t.Fatal("nothing is listed into the memory that hangs")
	}
	return release
}

// generous is far more than anything here takes.
const generous = 60 * time.Second

func holdChild(t *testing.T, paths []string) {
	f, err := os.Open(paths[1])
	must(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	must(t, err)
	d, err := os.Open(paths[0])
	must(t, err)
	if n, err := unix.Getdents(int(d.Fd()), m); n <= 0 || err != nil {
		t.Errorf("%d %v", n, err)
	}
}

// TestHeldDirectory: a user whose listing of a shared directory hangs, which locks it in his kernel, neither keeps others from their
// work in it nor what is cached for him from being dropped, the first time and the next; and no thread that he holds has the daemon's
// descriptors.
func TestHeldDirectory(t *testing.T) {
	r := newRevocation(t)
	const files = 8
	a, c := r.alice, r.carol
	notes := r.mountOf[a].raw.notes
	notes.names.limit, notes.inodes.limit = 1, 1
	r.bucket("free")
	c.want("put secret/f one", "ok")
	for i := range files {
		c.want(fmt.Sprintf("put secret/x%d one", i), "ok")
		a.want(fmt.Sprintf("stat secret/x%d", i), "ok")
	}
	a.want("open secret/f", "ok")
	a.want("map secret/f", "ok")
	cached := func() {
		t.Helper()
		r.quiet(a, "secret/f")
		a.want("touch secret/f", "o")
		a.want("incore secret/f", "1")
	}
	cached()
	release := r.hold(filepath.Join(r.mountOf[a].Dir(), "secret"))

	began := time.Now()
	for i := range files {
		c.want(fmt.Sprintf("rename secret/x%d secret/y%d", i, i), "ok")
	}
	took := time.Since(began)
	t.Logf("another's %d renames took %v", files, took.Round(time.Millisecond))
	if took > 3*maxWait { // the first may wait that long once; all of them, each of its names, would be 16 times that
		t.Errorf("another's %d renames took %v", files, took)
	}

	onlyTheirOwn(t)
	began = time.Now()
	c.want("put secret/f two", "ok")
	if took := time.Since(began); took > maxWait/2 { // the one worker for names is held
		t.Errorf("a change of another's file took %v", took)
	}
	a.want("read secret/f", "two")
	c.want("put secret/f one", "ok")

	for range 2 {
		a.want("stat free/missing", "ENOENT") // and that is cached
		r.ok(r.principals.Detach("alice", "AmazonS3FullAccess"))
		r.shows(a, "pages", "incore secret/f", "0")
		r.shows(a, "read", "read secret/f", "EACCES")
		r.shows(a, "names", "stat free/missing", "EACCES")
		r.ok(r.principals.Attach("alice", "AmazonS3FullAccess"))
		r.shows(a, "back", "read secret/f", "one")
		cached()
	}
	r.ok(r.keys.PutKeyPolicy(r.call("admin"), r.key, keyPolicy(mayUse(arnCarol, "")), false))
	r.shows(a, "pages", "incore secret/f", "0")
	r.shows(a, "read", "read secret/f", "EACCES")
	t.Logf("dropped within %v, names within %v, refused within %v", r.slowest["pages"], r.slowest["names"], r.slowest["read"])

	release()
	for i := range files { // what was held back is told
		a.within(generous, fmt.Sprintf("stat secret/x%d", i), "ENOENT")
	}
	a.want("close secret/f", "ok")
}

// onlyTheirOwn finds the threads that wait, not to be interrupted, for as long as it looks, and sees to it that they have one descriptor.
func onlyTheirOwn(t *testing.T) {
	t.Helper()
	held := map[string]int{}
	const looks = 20
	for range looks {
		tasks, err := filepath.Glob("/proc/self/task/*")
		must(t, err)
		for _, task := range tasks {
			stat, err := os.ReadFile(filepath.Join(task, "stat"))
			if err == nil && bytes.HasPrefix(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" D ")) {
				held[task]++
			}
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
	n := 0
	for task, times := range held {
		if times < looks {
			continue
		}
		n++
		if fds, err := os.ReadDir(filepath.Join(task, "fd")); err != nil || len(fds) != 1 {
			t.Errorf("a thread that is held has %d descriptors: %v", len(fds), err)
		}
	}
	if n == 0 {
		t.Error("no thread is held")
	}
}

// TestHeldWithoutEpochs: where the kernel can doubt all names at once in no way, a mount whose user holds a directory ends if names are to be
// dropped that he may not see any more. Nobody else's does.
func TestHeldWithoutEpochs(t *testing.T) {
	r := newRevocation(t)
	a, c := r.alice, r.carol
	r.mountOf[a].raw.notes.epochs = false
	c.want("put secret/f one", "ok")
	a.want("stat secret/f", "ok")
	release := r.hold(filepath.Join(r.mountOf[a].Dir(), "secret"))
	r.ok(r.principals.Detach("alice", "AmazonS3FullAccess"))
	select {
	case <-r.mountOf[a].Done():
	case <-time.After(generous):
		t.Error("the mount does not end")
	}
	c.want("cat secret/f", "one")
	release()
}

// TestHeldBackIsBounded: what a kernel is to be told of a directory that its user holds does not grow without end.
func TestHeldBackIsBounded(t *testing.T) {
	var p [2]int
	must(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	defer unix.Close(p[0])
	size, err := unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, 4096)
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	d := newDevice(p[1], func() int { return 0 }, log)
	defer d.close()
	d.write(make([]byte, size)) // from now on it takes nothing
	learned := newInterest(func() int64 { return int64(time.Hour) })
	n := newNotifier(d, learned, func() bool { return false }, log)
	defer n.close()
	aborted := make(chan struct{}, 2)
	n.abort = func() { aborted <- struct{}{} }
	const dir = mount.Ino(2)
	change := func(name string) {
		learned.entry(entryKey{dir, name})
		n.EntryChanged(dir, name)
	}
	change("first")
	n.mu.Lock()
	r := n.jobs[dir][0].current
	if r == nil {
		r = n.jobs[dir][0].next
	}
	n.mu.Unlock()
	n.holdBack(entryKey{dir, "first"}, r)
	for i := range maxHeld / 2 {
		change(fmt.Sprint(i))
	}
	select {
	case <-aborted:
		t.Fatal("the mount ends early")
	default:
	}
	for i := range 2 * maxHeld {
		change(fmt.Sprint("more", i))
	}
	select {
	case <-aborted:
	case <-time.After(generous):
		t.Error("the mount does not end")
	}
}

// TestOverflow: a kernel that takes no notification, and so forgets nothing, does not make the record of its entries grow without end.
func TestOverflow(t *testing.T) {
	var now atomic.Int64
	learned := newInterest(func() int64 { return now.Add(1000) })
	learned.evict = func(int, []entryKey) {} // it hangs
	full := make(chan struct{}, 1)
	learned.overflow = func() { full <- struct{}{} }
	for i := range 2*maxEntries + 1 {
		learned.entry(entryKey{mount.Ino(i % 100), fmt.Sprint(i)})
	}
	select {
	case <-full:
	case <-time.After(generous):
		t.Fatal("nobody minds")
	}
	now.Add(2 * straggle)
	learned.forgotten(now.Load())
	if n := learned.known.Load(); n != 0 {
		t.Errorf("%d entries are still on record", n)
	}
}

// TestDeviceCloses: the end of a mount waits for no notification that its kernel does not take.
func TestDeviceCloses(t *testing.T) {
	var p [2]int
	must(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	defer unix.Close(p[0])
	size, err := unix.FcntlInt(uintptr(p[1]), unix.F_GETPIPE_SZ, 0)
	must(t, err)
	d := newDevice(p[1], nil, slog.New(slog.DiscardHandler))
	wrote := make(chan syscall.Errno)
	go func() { wrote <- d.write(make([]byte, 2*size)) }()
	buf := make([]byte, 1)
	_, err = unix.Read(p[0], buf) // the writer is at it
	must(t, err)
	d.close()
	if errno := d.write(buf); errno != syscall.EBADF {
		t.Errorf("after the end: %v", errno)
	}
	for left := 2*size - 1; left > 0; {
		n, err := unix.Read(p[0], make([]byte, left))
		must(t, err)
		left -= n
	}
	if errno := <-wrote; errno != 0 {
		t.Errorf("what was under way: %v", errno)
	}
	if n, err := unix.Read(p[0], buf); n != 0 || err != nil {
		t.Errorf("the descriptor is still open: %d %v", n, err)
	}
}

// TestSweptAgain: names that are learned while others are being dropped, because a right ended, are dropped when the next one ends.
func TestSweptAgain(t *testing.T) {
	var p [2]int
	must(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	defer unix.Close(p[0])
	size, err := unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, 4096)
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	d := newDevice(p[1], func() int { return 0 }, log)
	learned := newInterest(func() int64 { return int64(time.Hour) })
	n := newNotifier(d, learned, func() bool { return false }, log)
	defer n.close()
	d.write(make([]byte, size)) // it takes nothing for now
	learned.entry(entryKey{2, "first"})
	one := n.dropEntries()
	n.mu.Lock()
	for n.resweep != nil { // until that sweep has begun
		n.mu.Unlock()
		runtime.Gosched()
		n.mu.Lock()
	}
	n.mu.Unlock()
	learned.entry(entryKey{2 + interestShards, "later"})
	learned.entry(entryKey{1, "earlier"}) // in a shard that the sweep may have passed
	two, three := n.dropEntries(), n.dropEntries()
	if two == one || two != three {
		t.Error("it does not follow")
	}
	var told []byte
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			k, err := unix.Read(p[0], buf)
			if k <= 0 || err != nil {
				return
			}
			told = append(told, buf[:k]...)
		}
	}()
	<-one
	<-two
	d.close()
	<-read
	for _, name := range []string{"first", "earlier", "later"} {
		if !bytes.Contains(told, []byte(name+"\x00")) {
			t.Errorf("nothing was said about %q", name)
		}
	}
}
