package fusefs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// raw is a file system as the kernel calls it, without a kernel.
func (w *world) raw(name string) *rawFS {
	w.t.Helper()
	s := w.session(name, mount.Options{})
	m := &rawFS{sess: s, fd: newDevice(-1, func() int { return 0 }, w.log)}
	m.logTo(w.log)
	m.interest = newInterest(func() int64 { return 4 * straggle })
	m.notes = newNotifier(m.fd, m.interest, func() bool { return false }, m.log)
	m.interest.evict = m.notes.evict
	w.t.Cleanup(m.end)
	return m
}

func head(node uint64) fuse.InHeader {
	return fuse.InHeader{NodeId: node, Caller: fuse.Caller{Owner: fuse.Owner{Uid: 1, Gid: 1}, Pid: 1}}
}

// TestMadeUpRequests drives the file system as no kernel does: with node ids and handles that are stale, made up, or another file's.
// Nothing is read, changed or told by them that the principal may not reach by name.
func TestMadeUpRequests(t *testing.T) {
	w := newWorld(t)
	w.bucket("open")
	w.bucket("closed")
	w.user("alice")
	w.ok(w.principals.PutPolicy("open-only", []byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":["arn:aws:s3:::open","arn:aws:s3:::open/*"]}]}`)))
	w.ok(w.principals.Attach("alice", "open-only"))
	admin := w.session("admin", mount.Options{})
	put := func(bucket, name string) mount.Ino {
		b, err := admin.Lookup(mount.Caller{}, mount.RootIno, bucket)
		w.ok(err)
		a, h, err := admin.Create(mount.Caller{}, b.Ino, name, 0o644, mount.OpenFlags{Write: true})
		w.ok(err)
		_, err = h.WriteAt([]byte("content of "+bucket), 0, false)
		w.ok(err)
		w.ok(h.Close())
		return a.Ino
	}
	mine, other, secret, gone := uint64(put("open", "mine")), uint64(put("open", "other")), uint64(put("closed", "secret")), uint64(put("open", "gone"))
	openDir, err := admin.Lookup(mount.Caller{}, mount.RootIno, "open")
	w.ok(err)
	closedDir, err := admin.Lookup(mount.Caller{}, mount.RootIno, "closed")
	w.ok(err)
	w.ok(admin.Unlink(mount.Caller{}, openDir.Ino, "gone"))
	m := w.raw("alice")

	status := func(what string, got fuse.Status, want ...syscall.Errno) {
		t.Helper()
		for _, e := range want {
			if got == fuse.Status(e) {
				return
			}
		}
		t.Errorf("%s: %v, want %v", what, got, want)
	}
	// Node ids: what alice may not see, what is gone, what never was.
	for node, want := range map[uint64]syscall.Errno{secret: syscall.EACCES, gone: syscall.ESTALE, 1 << 40: syscall.ESTALE, 0: syscall.ESTALE, 1<<64 - 1: syscall.ESTALE} {
		_, s := m.GetXAttr(nil, ptr(head(node)), "user.s3.sse", make([]byte, 100))
		status("getxattr", s, want)
		status("open", m.Open(nil, &fuse.OpenIn{InHeader: head(node)}, &fuse.OpenOut{}), want)
		status("open to write", m.Open(nil, &fuse.OpenIn{InHeader: head(node), Flags: syscall.O_WRONLY | syscall.O_TRUNC}, &fuse.OpenOut{}), want)
		status("getattr", m.GetAttr(nil, &fuse.GetAttrIn{InHeader: head(node)}, &fuse.AttrOut{}), want)
		status("statx", m.Statx(nil, &fuse.StatxIn{InHeader: head(node)}, &fuse.StatxOut{}), want)
		status("setxattr", m.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: head(node)}, "user.x", []byte("x")), want)
		status("chmod", m.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: head(node), Valid: fuse.FATTR_MODE, Mode: 0o777}}, &fuse.AttrOut{}), want)
		status("truncate", m.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: head(node), Valid: fuse.FATTR_SIZE}}, &fuse.AttrOut{}), want)
		_, s = m.Readlink(nil, ptr(head(node)))
		status("readlink", s, want, syscall.EINVAL)
		status("lookup below", m.Lookup(nil, ptr(head(node)), "x", &fuse.EntryOut{}), want, syscall.ENOTDIR, syscall.ENOENT, 0)
		status("create below", m.Create(nil, &fuse.CreateIn{InHeader: head(node)}, "x", &fuse.CreateOut{}), want, syscall.ENOTDIR, syscall.ENOENT, syscall.EPERM)
		status("link", m.Link(nil, &fuse.LinkIn{InHeader: head(uint64(openDir.Ino)), Oldnodeid: node}, "stolen", &fuse.EntryOut{}), want, syscall.EXDEV, syscall.ENOENT)
		m.Forget(node, 1<<63)
	}
	status("opendir of a bucket that is closed", m.OpenDir(nil, &fuse.OpenIn{InHeader: head(uint64(closedDir.Ino))}, &fuse.OpenOut{}), syscall.EACCES)
	status("lookup in it", m.Lookup(nil, ptr(head(uint64(closedDir.Ino))), "secret", &fuse.EntryOut{}), syscall.EACCES)
	status("rename out of it", m.Rename(nil, &fuse.RenameIn{InHeader: head(uint64(closedDir.Ino)), Newdir: uint64(openDir.Ino)}, "secret", "x"), syscall.EXDEV)
	status("rename into it", m.Rename(nil, &fuse.RenameIn{InHeader: head(uint64(openDir.Ino)), Newdir: uint64(closedDir.Ino)}, "mine", "x"), syscall.EXDEV)

	// Names that a kernel never sends.
	for _, name := range []string{"..", ".", "../closed/secret", "a/b", "/", "", "a\x00b", strings.Repeat("n", 256), strings.Repeat("n", 1<<20)} {
		var out fuse.EntryOut
		if s := m.Lookup(nil, ptr(head(uint64(openDir.Ino))), name, &out); s == fuse.OK && out.NodeId != 0 {
			t.Errorf("lookup %.20q found node %d", name, out.NodeId)
		}
		for what, s := range map[string]fuse.Status{
			"create":  m.Create(nil, &fuse.CreateIn{InHeader: head(uint64(openDir.Ino)), Flags: syscall.O_RDWR}, name, &fuse.CreateOut{}),
			"mkdir":   m.Mkdir(nil, &fuse.MkdirIn{InHeader: head(uint64(openDir.Ino))}, name, &out),
			"symlink": m.Symlink(nil, ptr(head(uint64(openDir.Ino))), "/", name, &out),
			"link":    m.Link(nil, &fuse.LinkIn{InHeader: head(uint64(openDir.Ino)), Oldnodeid: mine}, name, &out),
			"rename":  m.Rename(nil, &fuse.RenameIn{InHeader: head(uint64(openDir.Ino)), Newdir: uint64(openDir.Ino)}, "other", name),
		} {
			if s == fuse.OK {
				t.Errorf("%s %.20q went through", what, name)
			}
		}
	}

	// Handles: one that is open, used for other nodes; stale; made up.
	var opened fuse.OpenOut
	status("open", m.Open(nil, &fuse.OpenIn{InHeader: head(mine), Flags: syscall.O_RDWR}, &opened), 0)
	buf := make([]byte, 100)
	if r, s := m.Read(nil, &fuse.ReadIn{InHeader: head(mine), Fh: opened.Fh, Size: 100}, buf); s != fuse.OK || string(bytesOf(r)) != "content of open" {
		t.Fatalf("read: %v", s)
	}
	try := func(what string, node, fh uint64) {
		t.Helper()
		_, s := m.Read(nil, &fuse.ReadIn{InHeader: head(node), Fh: fh, Size: 100}, buf)
		status(what+": read", s, syscall.EBADF)
		_, s = m.Write(nil, &fuse.WriteIn{InHeader: head(node), Fh: fh}, []byte("x"))
		status(what+": write", s, syscall.EBADF)
		status(what+": flush", m.Flush(nil, &fuse.FlushIn{InHeader: head(node), Fh: fh}), syscall.EBADF)
		status(what+": fsync", m.Fsync(nil, &fuse.FsyncIn{InHeader: head(node), Fh: fh}), syscall.EBADF)
		status(what+": lseek", m.Lseek(nil, &fuse.LseekIn{InHeader: head(node), Fh: fh, Whence: unix.SEEK_DATA}, &fuse.LseekOut{}), syscall.EBADF)
		status(what+": fallocate", m.Fallocate(nil, &fuse.FallocateIn{InHeader: head(node), Fh: fh, Length: 10}), syscall.EBADF)
		status(what+": lock", m.SetLk(nil, &fuse.LkIn{InHeader: head(node), Fh: fh, Lk: fuse.FileLock{Typ: syscall.F_WRLCK}}), syscall.EBADF)
		status(what+": truncate", m.SetAttr(nil, &fuse.SetAttrIn{SetAttrInCommon: fuse.SetAttrInCommon{InHeader: head(node), Valid: fuse.FATTR_SIZE | fuse.FATTR_FH, Fh: fh}}, &fuse.AttrOut{}), syscall.EBADF)
		_, s = m.CopyFileRange(nil, &fuse.CopyFileRangeIn{InHeader: head(node), FhIn: fh, NodeIdOut: mine, FhOut: opened.Fh, Len: 10})
		status(what+": copy", s, syscall.EBADF)
		list := fuse.NewDirEntryList(make([]byte, 4096), 0)
		status(what+": readdir", m.ReadDir(nil, &fuse.ReadIn{InHeader: head(node), Fh: fh, Size: 4096}, list), syscall.EBADF)
		status(what+": readdirplus", m.ReadDirPlus(nil, &fuse.ReadIn{InHeader: head(node), Fh: fh, Size: 4096}, list), syscall.EBADF)
	}
	for _, node := range []uint64{other, secret, gone, uint64(openDir.Ino), 1, 0, 1 << 50} {
		try("the handle of another file", node, opened.Fh)
	}
	for _, fh := range []uint64{0, opened.Fh + 1, 1 << 32, 1<<64 - 1} {
		try("a handle that is none", mine, fh)
	}
	m.Release(nil, &fuse.ReleaseIn{InHeader: head(mine), Fh: 1 << 40})
	m.ReleaseDir(&fuse.ReleaseIn{InHeader: head(mine), Fh: 1 << 40})
	m.Release(nil, &fuse.ReleaseIn{InHeader: head(mine), Fh: opened.Fh})
	try("a handle that was released", mine, opened.Fh)
	m.Release(nil, &fuse.ReleaseIn{InHeader: head(mine), Fh: opened.Fh})

	// Offsets and sizes out of all bounds.
	status("open again", m.Open(nil, &fuse.OpenIn{InHeader: head(mine), Flags: syscall.O_RDWR}, &opened), 0)
	for _, off := range []uint64{1<<63 - 1, 1 << 63, 1<<64 - 1} {
		_, s := m.Read(nil, &fuse.ReadIn{InHeader: head(mine), Fh: opened.Fh, Offset: off, Size: 100}, buf)
		status("read far out", s, 0, syscall.EINVAL, syscall.EFBIG)
		_, s = m.Write(nil, &fuse.WriteIn{InHeader: head(mine), Fh: opened.Fh, Offset: off}, []byte("x"))
		status("write far out", s, syscall.EFBIG, syscall.EINVAL)
		status("fallocate far out", m.Fallocate(nil, &fuse.FallocateIn{InHeader: head(mine), Fh: opened.Fh, Offset: off, Length: 1<<64 - 1}), syscall.EFBIG, syscall.EINVAL, syscall.ENOSPC)
	}
	for name, value := range map[string][]byte{
		"user." + strings.Repeat("n", 300): nil, "user.big": make([]byte, 1<<20), "": nil, "user.": nil, "trusted.x": nil, "security.capability": nil, "user.s3.nonsense": nil,
	} {
		if s := m.SetXAttr(nil, &fuse.SetXAttrIn{InHeader: head(mine)}, name, value); s == fuse.OK {
			t.Errorf("xattr %.30q of %d bytes was set", name, len(value))
		}
	}
}

// TestDirectoryStreams: who holds all the open directories that a mount may have is refused one more; others are not.
func TestDirectoryStreams(t *testing.T) {
	w := newWorld(t)
	w.bucket("shared")
	w.user("greedy", "AmazonS3FullAccess")
	w.user("modest", "AmazonS3FullAccess")
	greedy, modest := w.raw("greedy"), w.raw("modest")
	dir, err := modest.sess.Lookup(mount.Caller{}, mount.RootIno, "shared")
	w.ok(err)
	in := &fuse.OpenIn{InHeader: head(uint64(dir.Ino))}
	list := func(m *rawFS) fuse.Status {
		var out fuse.OpenOut
		if s := m.OpenDir(nil, in, &out); s != fuse.OK {
			return s
		}
		defer m.ReleaseDir(&fuse.ReleaseIn{InHeader: in.InHeader, Fh: out.Fh})
		return m.ReadDir(nil, &fuse.ReadIn{InHeader: in.InHeader, Fh: out.Fh, Size: 4096}, fuse.NewDirEntryList(make([]byte, 4096), 0))
	}
	held := make([]fuse.OpenOut, maxDirs)
	for i := range held {
		if s := greedy.OpenDir(nil, in, &held[i]); s != fuse.OK {
			t.Fatalf("directory %d: %v", i, s)
		}
	}
	if s := list(greedy); s != fuse.Status(syscall.ENFILE) {
		t.Errorf("one more: %v", s)
	}
	if s := list(modest); s != fuse.OK {
		t.Errorf("another principal: %v", s)
	}
	for _, out := range held {
		greedy.ReleaseDir(&fuse.ReleaseIn{InHeader: in.InHeader, Fh: out.Fh})
	}
	if s := list(greedy); s != fuse.OK {
		t.Errorf("afterwards: %v", s)
	}
}

func ptr[T any](v T) *T { return &v }

func bytesOf(r fuse.ReadResult) []byte {
	b, _ := r.Bytes(nil)
	return b
}

// TestCrossingBuckets goes from one bucket to another by all the ways that a path offers.
func TestCrossingBuckets(t *testing.T) {
	w := newWorld(t)
	w.bucket("open")
	w.bucket("closed")
	w.user("alice")
	w.ok(w.principals.PutPolicy("open-only", []byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":["arn:aws:s3:::open","arn:aws:s3:::open/*"]}]}`)))
	w.ok(w.principals.Attach("alice", "open-only"))
	admin, alice := w.mount("admin", Options{}), w.mount("alice", Options{})
	inChild(t, "cross", admin, alice)
}

func crossChild(t *testing.T, dirs []string) {
	admin, alice := dirs[0], dirs[1]
	must(t, os.WriteFile(filepath.Join(admin, "closed", "secret"), []byte("secret"), 0o644))
	must(t, os.WriteFile(filepath.Join(admin, "open", "f"), []byte("open"), 0o644))
	refused := func(what string, err error) {
		t.Helper()
		for _, e := range []error{syscall.EACCES, syscall.EXDEV, syscall.EPERM} {
			if errors.Is(err, e) {
				return
			}
		}
		t.Errorf("%s: %v", what, err)
	}
	dot, err := os.Open(filepath.Join(alice, "open"))
	must(t, err)
	defer dot.Close()
	read := func(path string) error {
		fd, err := unix.Openat(int(dot.Fd()), path, unix.O_RDONLY, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	must(t, read("f"))
	must(t, read("../open/f"))
	for _, path := range []string{"../closed/secret", "./../closed/./secret", "../open/../closed/secret", "/proc/self/fd/" + itoa(dot.Fd()) + "/../closed/secret"} {
		refused(path, read(path))
	}
	must(t, os.Symlink("../closed/secret", filepath.Join(alice, "open", "up")))
	must(t, os.Symlink("/proc/self/root"+alice+"/closed", filepath.Join(alice, "open", "round")))
	refused("through a symbolic link", read("up"))
	refused("through another", read("round/secret"))
	refused("hard link", os.Link(filepath.Join(alice, "closed", "secret"), filepath.Join(alice, "open", "hard")))
	refused("rename", os.Rename(filepath.Join(alice, "closed", "secret"), filepath.Join(alice, "open", "moved")))
	refused("rename the other way", os.Rename(filepath.Join(alice, "open", "f"), filepath.Join(alice, "closed", "f")))
	refused("exchange", unix.Renameat2(unix.AT_FDCWD, filepath.Join(alice, "open", "f"), unix.AT_FDCWD, filepath.Join(alice, "closed", "secret"), unix.RENAME_EXCHANGE))
	refused("list", func() error { _, err := os.ReadDir(filepath.Join(alice, "closed")); return err }())
	refused("stat", func() error { _, err := os.Stat(filepath.Join(alice, "closed", "secret")); return err }())
	refused("stat of what is not there", func() error { _, err := os.Stat(filepath.Join(alice, "closed", "absent")); return err }())
	refused("make", os.WriteFile(filepath.Join(alice, "closed", "new"), nil, 0o644))
	long := strings.Repeat("n", 256)
	wantErr(t, "long name", os.WriteFile(filepath.Join(alice, "open", long), nil, 0o644), syscall.ENAMETOOLONG)
	wantErr(t, "long xattr", unix.Setxattr(filepath.Join(alice, "open", "f"), "user."+long, nil, 0), syscall.ERANGE)
	wantErr(t, "large xattr", unix.Setxattr(filepath.Join(alice, "open", "f"), "user.x", make([]byte, 1<<17), 0), syscall.E2BIG)
}
