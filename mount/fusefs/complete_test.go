package fusefs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRanges goes through fallocate, holes and copies inside the daemon, and looks through a second mount each time.
func TestRanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bucket("ranges")
	a, b := w.mount("admin", Options{}), w.mount("admin", Options{})
	inChild(t, "ranges", filepath.Join(a, "ranges"), filepath.Join(b, "ranges"))
}

// TestWriteOnly writes through handles that cannot read, which goes past the kernel's cache, and looks through a mapping and an open file
// that have the old pages, on the same mount and on another.
func TestWriteOnly(t *testing.T) {
	w := newWorld(t)
	w.bucket("past")
	a, b := w.mount("admin", Options{}), w.mount("admin", Options{})
	inChild(t, "writeonly", filepath.Join(a, "past"), filepath.Join(b, "past"))
}

func writeOnlyChild(t *testing.T, dirs []string) {
	path := filepath.Join(dirs[0], "f")
	want := bytes.Repeat([]byte("old page"), 8*kib)
	must(t, os.WriteFile(path, want, 0o644))
	var maps [][]byte
	for _, dir := range dirs {
		f, err := os.Open(filepath.Join(dir, "f"))
		must(t, err)
		defer func() { must(t, f.Close()) }()
		m, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ, unix.MAP_SHARED)
		must(t, err)
		defer func() { must(t, unix.Munmap(m)) }()
		maps = append(maps, m)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	for i, at := range []int{0, 4090, 8192, 40000, len(want) - 3} {
		for side, m := range maps {
			if !bytes.Equal(m, want) {
				t.Fatalf("before write %d: mapping on mount %d is not the file", i, side)
			}
		}
		n := copy(want[at:], "this is new")
		_, err := w.WriteAt(want[at:at+n], int64(at))
		must(t, err)
		for side, dir := range dirs {
			if !bytes.Equal(maps[side], want) {
				t.Fatalf("after write %d: mapping on mount %d is not the file", i, side)
			}
			wantBytes(t, filepath.Join(dir, "f"), want)
		}
	}
	must(t, w.Close())
}

const kib = 1 << 10

func wantBytes(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		t.Fatalf("%s: %d bytes, want %d; they differ at %d", path, len(got), len(want), at)
	}
}

func rangesChild(t *testing.T, dirs []string) {
	f, other := openRW(t, filepath.Join(dirs[0], "f")), filepath.Join(dirs[1], "f")
	want := bytes.Repeat([]byte("0123456789abcdef"), 16*kib)
	_, err := f.Write(want)
	must(t, err)
	wantBytes(t, other, want)
	fd := int(f.Fd())

	must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 10*kib+5, 40*kib))
	clear(want[10*kib+5 : 50*kib+5])
	wantBytes(t, other, want)
	wantBytes(t, f.Name(), want)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 250*kib, 20*kib)) // over the end
	clear(want[250*kib:])
	want = append(want, make([]byte, 14*kib)...)
	wantBytes(t, other, want)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 260*kib, 100*kib))
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1024*kib))
	clear(want[260*kib:])
	wantBytes(t, other, want)
	must(t, unix.Fallocate(fd, 0, 300*kib, 100*kib))
	want = append(want, make([]byte, 400*kib-len(want))...)
	wantBytes(t, other, want)
	for _, mode := range []uint32{unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_INSERT_RANGE, unix.FALLOC_FL_PUNCH_HOLE} {
		wantErr(t, "mode", unix.Fallocate(fd, mode, 0, 4*kib), syscall.EOPNOTSUPP)
	}
	wantErr(t, "huge", unix.Fallocate(fd, 0, 0, 1<<60), syscall.ENOSPC)

	seek := func(off int64, whence int, at int64) {
		t.Helper()
		if got, err := unix.Seek(fd, off, whence); err != nil || got != at {
			t.Errorf("seek %d from %d: %d %v, want %d", whence, off, got, err, at)
		}
	}
	seek(0, unix.SEEK_DATA, 0)
	seek(0, unix.SEEK_HOLE, 10*kib+5)
	seek(20*kib, unix.SEEK_DATA, 50*kib+5)
	seek(60*kib, unix.SEEK_HOLE, 250*kib)
	seek(260*kib, unix.SEEK_HOLE, 260*kib)
	_, err = unix.Seek(fd, 260*kib, unix.SEEK_DATA)
	wantErr(t, "no data", err, syscall.ENXIO)
	must(t, f.Close())
	copied(t, dirs, want)
}

func copied(t *testing.T, dirs []string, want []byte) {
	src, err := os.Open(filepath.Join(dirs[0], "f"))
	must(t, err)
	dst := openRW(t, filepath.Join(dirs[0], "copy"))
	before, err := os.Stat(filepath.Join(dirs[1], "copy"))
	must(t, err)
	for done := 0; done < len(want); {
		n, err := unix.CopyFileRange(int(src.Fd()), nil, int(dst.Fd()), nil, len(want)-done, 0)
		must(t, err)
		if n == 0 {
			t.Fatal("copy_file_range ends early")
		}
		done += n
	}
	wantBytes(t, filepath.Join(dirs[1], "copy"), want)
	after, err := os.Stat(filepath.Join(dirs[1], "copy"))
	must(t, err)
	if !after.ModTime().After(before.ModTime()) {
		t.Error("a copy leaves mtime")
	}
	// Inside one file, and over what another mount has cached.
	in, out := int64(0), int64(len(want))
	n, err := unix.CopyFileRange(int(dst.Fd()), &in, int(dst.Fd()), &out, 8*kib, 0)
	if err != nil || n != 8*kib {
		t.Errorf("inside one file: %d %v", n, err)
	}
	wantBytes(t, filepath.Join(dirs[1], "copy"), slices.Concat(want, want[:8*kib]))
	in, out = 0, 4*kib
	_, err = unix.CopyFileRange(int(dst.Fd()), &in, int(dst.Fd()), &out, 8*kib, 0)
	wantErr(t, "overlap", err, syscall.EINVAL)
	ro, err := os.Open(dst.Name())
	must(t, err)
	_, err = unix.CopyFileRange(int(src.Fd()), nil, int(ro.Fd()), nil, 8, 0)
	wantErr(t, "not for writing", err, syscall.EBADF)
	for _, f := range []*os.File{src, dst, ro} {
		must(t, f.Close())
	}
}

// TestTimes looks at the time of birth.
func TestTimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bucket("times")
	inChild(t, "times", filepath.Join(w.mount("admin", Options{}), "times"))
}

func timesChild(t *testing.T, dirs []string) {
	f := filepath.Join(dirs[0], "f")
	before := time.Now()
	must(t, os.WriteFile(f, []byte("x"), 0o644))
	must(t, os.Chtimes(f, time.Unix(1, 2), time.Unix(3, 4)))
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, f, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st))
	if st.Mask&unix.STATX_BTIME == 0 {
		t.Skip("this kernel does not pass STATX on")
	}
	if b := time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)); b.Before(before.Add(-time.Second)) || b.After(time.Now()) {
		t.Errorf("born %v", b)
	}
	if st.Mtime.Sec != 3 || st.Mtime.Nsec != 4 || st.Atime.Sec != 1 || st.Size != 1 {
		t.Errorf("%+v", st)
	}
	d, err := os.Open(dirs[0])
	must(t, err)
	must(t, d.Sync())
	must(t, d.Close())
}

// TestQuota fills a bucket to its quota.
func TestQuota(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bucket("quota")
	a, b := w.mount("admin", Options{}), w.mount("admin", Options{})
	inChild(t, "quota", filepath.Join(a, "quota"), filepath.Join(b, "quota"))
}

func quotaChild(t *testing.T, dirs []string) {
	a, b := dirs[0], dirs[1]
	must(t, os.WriteFile(filepath.Join(a, "f"), make([]byte, 1<<20), 0o644))
	wantErr(t, "nonsense", unix.Setxattr(a, "user.s3.quota", []byte("bytes=much"), 0), syscall.EINVAL)
	must(t, unix.Setxattr(a, "user.s3.quota", []byte("bytes=3145728,inodes=3"), 0))
	var st unix.Statfs_t
	must(t, unix.Statfs(filepath.Join(b, "f"), &st))
	if st.Blocks != 768 || st.Bavail > 512 || st.Files != 3 || st.Ffree != 2 {
		t.Errorf("statfs: %+v", st)
	}
	g := openRW(t, filepath.Join(b, "g"))
	n, err := g.Write(make([]byte, 4<<20))
	if !errors.Is(err, syscall.EDQUOT) || n != 2<<20 {
		t.Errorf("over the quota: %d %v", n, err)
	}
	must(t, unix.Fallocate(int(g.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 4<<20))
	wantErr(t, "fallocate", unix.Fallocate(int(g.Fd()), 0, 0, 4<<20), syscall.EDQUOT)
	wantErr(t, "truncate", g.Truncate(4<<20), syscall.EDQUOT)
	must(t, g.Close())
	must(t, os.Mkdir(filepath.Join(a, "d"), 0o755))
	_, err = os.Create(filepath.Join(b, "d", "too-many"))
	wantErr(t, "too many", err, syscall.EDQUOT)
	must(t, os.Remove(filepath.Join(a, "f")))
	must(t, os.WriteFile(filepath.Join(a, "d", "h"), make([]byte, 1<<20), 0o644))
	must(t, unix.Removexattr(b, "user.s3.quota"))
	must(t, os.WriteFile(filepath.Join(a, "d", "i"), make([]byte, 1<<20), 0o644))
}

// TestChown is about who gives files away.
func TestChown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bucket("chown")
	dir := w.mount("admin", Options{AllowOther: true})
	w.ok(os.Chmod(filepath.Dir(dir), 0o755))
	inChildAs(t, "chown", &syscall.Credential{Uid: 4321, Gid: 4321, Groups: []uint32{7}}, filepath.Join(dir, "chown"))
}

func chownChild(t *testing.T, dirs []string) {
	f := filepath.Join(dirs[0], "f")
	must(t, os.WriteFile(f, nil, 0o644))
	wantErr(t, "to root", os.Chown(f, 0, -1), syscall.EPERM)
	wantErr(t, "to a strange group", os.Chown(f, -1, 8), syscall.EPERM)
	must(t, os.Chown(f, 4321, 7))
	must(t, os.Chown(f, -1, 4321))
}
