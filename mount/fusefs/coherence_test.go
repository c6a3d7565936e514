package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const seedEnv = "KMSFS_TEST_SEED"

func seed(t *testing.T) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv(seedEnv); s != "" {
		n, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("%s=%d", seedEnv, n)
	return rand.New(rand.NewPCG(n, 1))
}

// TestCoherence changes one tree through two mounts of two principals and looks through the other one each time.
func TestCoherence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("shared")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{})
	inChild(t, "coherence", filepath.Join(a, "shared"), filepath.Join(b, "shared"))
}

// pair is one tree seen through two mounts, and what it should be.
type pair struct {
	t     *testing.T
	r     *rand.Rand
	dirs  []string
	files map[string][]byte
	modes map[string]os.FileMode
	notes map[string]string      // an extended attribute; empty: none
	open  map[string][2]*os.File // kept open on both mounts, so that pages stay cached
	step  int
}

func coherenceChild(t *testing.T, dirs []string) {
	p := &pair{t: t, r: seed(t), dirs: dirs, files: map[string][]byte{}, modes: map[string]os.FileMode{}, notes: map[string]string{}, open: map[string][2]*os.File{}}
	for p.step = range scale(500, 10_000) {
		side := p.r.IntN(2)
		p.change(side)
		p.look(1 - side)
		if p.step%16 == 0 {
			p.look(side)
		}
		if t.Failed() {
			t.Fatalf("at step %d", p.step)
		}
	}
	for _, f := range p.open {
		_, _ = f[0].Close(), f[1].Close()
	}
}

func (p *pair) name() string { return fmt.Sprintf("f%d", p.r.IntN(6)) }

func (p *pair) ok(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("step %d: %v", p.step, err)
	}
}

func (p *pair) drop(name string) {
	if f, ok := p.open[name]; ok {
		p.ok(f[0].Close())
		p.ok(f[1].Close())
		delete(p.open, name)
	}
}

// change does one thing through one mount.
func (p *pair) change(side int) {
	name := p.name()
	path := filepath.Join(p.dirs[side], name)
	was, exists := p.files[name]
	switch op := p.r.IntN(15); {
	case !exists:
		data := p.data(20000)
		p.ok(os.WriteFile(path, data, 0o644))
		p.files[name], p.modes[name], p.notes[name] = data, 0o644, ""
	case op == 10:
		mode := os.FileMode(0o600 + p.r.IntN(64))
		p.ok(os.Chmod(path, mode))
		p.modes[name] = mode
	case op == 11:
		if p.notes[name] != "" && p.r.IntN(3) == 0 {
			p.ok(unix.Removexattr(path, "user.note"))
			p.notes[name] = ""
			break
		}
		p.notes[name] = fmt.Sprintf("step %d", p.step)
		p.ok(unix.Setxattr(path, "user.note", []byte(p.notes[name]), 0))
	case op == 12:
		p.files[name] = p.mapped(name, path, was)
	case op == 13:
		p.locked(name, side)
	case op == 0:
		p.drop(name)
		p.ok(os.Remove(path))
		delete(p.files, name)
	case op == 1:
		to := p.name()
		p.drop(name)
		p.drop(to)
		p.ok(os.Rename(path, filepath.Join(p.dirs[side], to)))
		delete(p.files, name)
		p.files[to], p.modes[to], p.notes[to] = was, p.modes[name], p.notes[name]
	case op == 2:
		n := p.r.IntN(30000)
		p.ok(os.Truncate(path, int64(n)))
		p.files[name] = resize(was, n)
	case op == 3:
		data := p.data(8000)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		p.ok(err)
		_, err = f.Write(data)
		p.ok(errors.Join(err, f.Close()))
		p.files[name] = slices.Concat(was, data)
	case op == 4:
		data := p.data(20000)
		p.ok(os.WriteFile(path, data, 0o644))
		p.files[name] = data
	default:
		f, ok := p.open[name]
		if !ok {
			for i := range f {
				var err error
				f[i], err = os.OpenFile(filepath.Join(p.dirs[i], name), os.O_RDWR, 0)
				p.ok(err)
			}
			p.open[name] = f
		}
		off, data := p.r.IntN(25000), p.data(9000)
		_, err := f[side].WriteAt(data, int64(off))
		p.ok(err)
		now := was
		if off+len(data) > len(was) {
			now = resize(was, off+len(data))
		} else {
			now = slices.Clone(was)
		}
		copy(now[off:], data)
		p.files[name] = now
	}
}

// mapped stores through a mapping; what counts is msync.
func (p *pair) mapped(name, path string, was []byte) []byte {
	p.drop(name) // a file that is open for writing elsewhere cannot be mapped
	if len(was) == 0 {
		return was
	}
	var f *os.File
	var m []byte
	for began := time.Now(); ; { // the kernel tells of the end of the other mount's handle when it likes
		var err error
		f, err = os.OpenFile(path, os.O_RDWR, 0)
		p.ok(err)
		if m, err = unix.Mmap(int(f.Fd()), 0, len(was), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			break
		}
		p.ok(f.Close())
		if !errors.Is(err, unix.ENODEV) || time.Since(began) > 10*time.Second {
			p.ok(err)
		}
	}
	if !bytes.Equal(m, was) {
		p.t.Errorf("step %d: a mapping of %s differs from what was written, first at %d", p.step, name, firstDiff(m, was))
	}
	now := slices.Clone(was)
	off := p.r.IntN(len(was))
	copy(now[off:], p.data(5000))
	copy(m[off:], now[off:])
	p.ok(unix.Msync(m, unix.MS_SYNC))
	p.ok(errors.Join(unix.Munmap(m), f.Close()))
	return now
}

// locked takes a lock through one mount and looks at it through the other, where it is over when it is given up.
func (p *pair) locked(name string, side int) {
	var f [2]*os.File
	for i := range f {
		var err error
		f[i], err = os.OpenFile(filepath.Join(p.dirs[i], name), os.O_RDWR, 0)
		p.ok(err)
	}
	from := int64(p.r.IntN(100))
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: from, Len: 10}
	see := func(want int16) {
		got := unix.Flock_t{Type: unix.F_RDLCK, Start: from + 5, Len: 1}
		p.ok(unix.FcntlFlock(f[1-side].Fd(), unix.F_OFD_GETLK, &got))
		if got.Type != want {
			p.t.Errorf("step %d: %s: the other mount sees lock type %d, want %d", p.step, name, got.Type, want)
		}
	}
	p.ok(unix.FcntlFlock(f[side].Fd(), unix.F_OFD_SETLK, &lock))
	see(unix.F_WRLCK)
	if p.r.IntN(2) == 0 {
		lock.Type = unix.F_UNLCK
		p.ok(unix.FcntlFlock(f[side].Fd(), unix.F_OFD_SETLK, &lock))
		see(unix.F_UNLCK)
	}
	p.ok(f[side].Close())
	if err := rangeLock(f[1-side], unix.F_OFD_SETLKW, unix.F_WRLCK, from, 10); err != nil {
		p.t.Errorf("step %d: lock after the other's close: %v", p.step, err)
	}
	p.ok(f[1-side].Close())
}

func (p *pair) data(limit int) []byte {
	b := make([]byte, 1+p.r.IntN(limit))
	c := byte('a' + p.step%26)
	for i := range b {
		b[i] = c
	}
	return b
}

func resize(b []byte, n int) []byte {
	c := make([]byte, n)
	copy(c, b)
	return c
}

// look compares everything with what one mount shows.
func (p *pair) look(side int) {
	dir := p.dirs[side]
	entries, err := os.ReadDir(dir)
	p.ok(err)
	if len(entries) != len(p.files) {
		p.t.Errorf("step %d: %d entries, want %d", p.step, len(entries), len(p.files))
	}
	for i := range 6 {
		name := fmt.Sprintf("f%d", i)
		want, exists := p.files[name]
		st, err := os.Stat(filepath.Join(dir, name))
		if !exists {
			if !errors.Is(err, fs.ErrNotExist) {
				p.t.Errorf("step %d: %s is still there: %v", p.step, name, err)
			}
			continue
		}
		if err != nil || st.Size() != int64(len(want)) {
			p.t.Errorf("step %d: stat %s: %v, want %d bytes (is %v)", p.step, name, err, len(want), st)
			continue
		}
		if st.Mode().Perm() != p.modes[name] {
			p.t.Errorf("step %d: mode of %s: %o, want %o", p.step, name, st.Mode().Perm(), p.modes[name])
		}
		note := make([]byte, 64)
		if n, err := unix.Getxattr(filepath.Join(dir, name), "user.note", note); string(note[:max(n, 0)]) != p.notes[name] {
			p.t.Errorf("step %d: xattr of %s: %q %v, want %q", p.step, name, note[:max(n, 0)], err, p.notes[name])
		}
		var got []byte
		if f, ok := p.open[name]; ok && p.r.IntN(2) == 0 {
			got = make([]byte, len(want)+10)
			n, _ := f[side].ReadAt(got, 0)
			got = got[:n]
		} else if got, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			p.t.Errorf("step %d: %v", p.step, err)
		}
		if !bytes.Equal(got, want) {
			p.t.Errorf("step %d: %s: %d bytes differ from what was written, first at %d", p.step, name, len(got), firstDiff(got, want))
		}
	}
}

func firstDiff(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestAppends appends records through both mounts at once, two writers on each, while others read: none is lost, torn or invented, and
// each writer's come in his order.
func TestAppends(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("shared")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{})
	inChild(t, "appends", filepath.Join(a, "shared", "log"), filepath.Join(b, "shared", "log"))
}

func appendsChild(t *testing.T, paths []string) {
	const writers = 4
	records := scale(300, 5000)
	record := func(w, i int) string {
		return fmt.Sprintf("%d:%06d:%s\n", w, i, strings.Repeat("x", (w*1000+i*37)%900))
	}
	check := func(path string, whole bool) {
		text, err := os.ReadFile(path)
		must(t, err)
		lines := strings.SplitAfter(string(text), "\n")
		var next [writers]int
		for n, line := range lines[:len(lines)-1] {
			w := int(line[0] - '0')
			if w < 0 || w >= writers || line != record(w, next[w]) {
				t.Errorf("%s: line %d is %.40q", path, n, line)
				return
			}
			next[w]++
		}
		if tail := lines[len(lines)-1]; whole && tail != "" {
			t.Errorf("%s: ends in %.40q", path, tail)
		}
		for w := range next {
			if whole && next[w] != records {
				t.Errorf("%s: %d records of writer %d, want %d", path, next[w], w, records)
			}
		}
	}
	must(t, os.WriteFile(paths[0], nil, 0o644))
	var all, readers sync.WaitGroup
	done := make(chan struct{})
	for w := range writers {
		f, err := os.OpenFile(paths[w%2], os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		all.Go(func() {
			for i := range records {
				if _, err := f.WriteString(record(w, i)); err != nil {
					t.Error(err)
					return
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for _, path := range paths {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					check(path, false)
				}
			}
		})
	}
	all.Wait()
	close(done)
	readers.Wait()
	for _, path := range paths {
		check(path, true)
	}
}

// TestMirror writes the same pages through both mounts at once: each WRITE has a notification to send to the other mount, whose pages
// are locked by its own WRITE.
func TestMirror(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("shared")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{})
	inChild(t, "mirror", filepath.Join(a, "shared"), filepath.Join(b, "shared"))
}

func mirrorChild(t *testing.T, dirs []string) {
	must(t, os.WriteFile(filepath.Join(dirs[0], "f"), make([]byte, 1<<20), 0o644))
	began := time.Now()
	var all sync.WaitGroup
	for i := range 4 {
		// Opened for reading first: not every handle is direct.
		f, err := os.OpenFile(filepath.Join(dirs[i%2], "f"), os.O_RDWR, 0)
		must(t, err)
		all.Go(func() {
			buf := bytes.Repeat([]byte{byte('0' + i)}, 64<<10)
			for j := range 300 {
				if _, err := f.WriteAt(buf, int64(j%16)<<16); err != nil {
					t.Error(err)
				}
				if _, err := f.ReadAt(buf[:100], int64(j%16)<<16); err != nil {
					t.Error(err)
				}
				for k := range 100 {
					buf[k] = byte('0' + i)
				}
			}
		})
	}
	all.Wait()
	for _, d := range dirs {
		got, err := os.ReadFile(filepath.Join(d, "f"))
		must(t, err)
		other, err := os.ReadFile(filepath.Join(dirs[0], "f"))
		must(t, err)
		if !bytes.Equal(got, other) {
			t.Error("the mounts do not agree afterwards")
		}
	}
	t.Logf("1200 writes of 64 KiB: %v", time.Since(began))
}

// TestDirs makes and removes names in the same directories through both mounts at once.
func TestDirs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("shared")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{})
	inChild(t, "dirs", filepath.Join(a, "shared"), filepath.Join(b, "shared"))
}

func dirsChild(t *testing.T, dirs []string) {
	for _, d := range []string{"x", "y"} {
		must(t, os.Mkdir(filepath.Join(dirs[0], d), 0o755))
	}
	began := time.Now()
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			for range scale(200, 3000) {
				d := filepath.Join(dirs[i%2], []string{"x", "y"}[r.IntN(2)])
				name := filepath.Join(d, strconv.Itoa(r.IntN(8)))
				to := filepath.Join(dirs[i%2], []string{"x", "y"}[r.IntN(2)], strconv.Itoa(r.IntN(8)))
				var err error
				switch r.IntN(6) {
				case 0, 1:
					err = os.WriteFile(name, []byte("w"), 0o644)
				case 2:
					err = os.Remove(name)
				case 3:
					err = os.Rename(name, to)
				case 4:
					_, err = os.ReadDir(d)
				case 5:
					_, err = os.Stat(name)
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	t.Logf("all operations: %v", time.Since(began))
	for _, d := range []string{"x", "y"} {
		one, err := os.ReadDir(filepath.Join(dirs[0], d))
		must(t, err)
		two, err := os.ReadDir(filepath.Join(dirs[1], d))
		must(t, err)
		if len(one) != len(two) {
			t.Errorf("%s: %d and %d entries", d, len(one), len(two))
		}
		for _, e := range one {
			for _, m := range dirs {
				if _, err := os.Stat(filepath.Join(m, d, e.Name())); err != nil {
					t.Error(err)
				}
			}
		}
		must(t, os.RemoveAll(filepath.Join(dirs[0], d)))
		if _, err := os.Stat(filepath.Join(dirs[1], d)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", d, err)
		}
	}
}
