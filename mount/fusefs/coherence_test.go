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
	"sync"
	"testing"
	"time"
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
	open  map[string][2]*os.File // kept open on both mounts, so that pages stay cached
	step  int
}

func coherenceChild(t *testing.T, dirs []string) {
	p := &pair{t: t, r: seed(t), dirs: dirs, files: map[string][]byte{}, open: map[string][2]*os.File{}}
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
	switch op := p.r.IntN(10); {
	case !exists:
		data := p.data(20000)
		p.ok(os.WriteFile(path, data, 0o644))
		p.files[name] = data
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
		p.files[to] = was
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
