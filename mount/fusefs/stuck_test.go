package fusefs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
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
// work in it nor what is cached for him from being dropped, the first time and the next.
func TestHeldDirectory(t *testing.T) {
	r := newRevocation(t)
	const files = 8
	a, c := r.alice, r.carol
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

	r.ok(r.principals.Detach("alice", "AmazonS3FullAccess"))
	r.shows(a, "pages", "incore secret/f", "0")
	r.shows(a, "read", "read secret/f", "EACCES")
	r.ok(r.principals.Attach("alice", "AmazonS3FullAccess"))
	r.shows(a, "back", "read secret/f", "one")
	cached()
	r.ok(r.keys.PutKeyPolicy(r.call("admin"), r.key, keyPolicy(mayUse(arnCarol, "")), false))
	r.shows(a, "pages", "incore secret/f", "0")
	r.shows(a, "read", "read secret/f", "EACCES")
	t.Logf("dropped within %v, refused within %v", r.slowest["pages"], r.slowest["read"])

	release()
	for i := range files { // what was held back is told
		a.within(generous, fmt.Sprintf("stat secret/x%d", i), "ENOENT")
	}
	a.want("close secret/f", "ok")
}

// TestDeviceCloses: the end of a mount waits for no notification that its kernel does not take.
func TestDeviceCloses(t *testing.T) {
	var p [2]int
	must(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
	defer unix.Close(p[0])
	size, err := unix.FcntlInt(uintptr(p[1]), unix.F_GETPIPE_SZ, 0)
	must(t, err)
	d := &device{fd: p[1]}
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
