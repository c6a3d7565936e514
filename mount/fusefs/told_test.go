package fusefs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	longSize  = 60_000
	shortSize = 52_656 // ends within a page
)

// TestToldBeforeTheCaller holds back what one kernel is to be told while two files, each open and cached there, are made shorter through
// another mount. Neither call may return before it is told, however many wait at once: its caller's next look through that mount
// would find the file of before.
func TestToldBeforeTheCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("shared")
	a, b := t.TempDir(), t.TempDir()
	w.mountAt("admin", a, Options{})
	late := w.mountAt("alice", b, Options{})
	ctl := t.TempDir()
	for _, name := range []string{"ready", "go"} {
		must(t, unix.Mkfifo(filepath.Join(ctl, name), 0o600))
	}
	held := make(chan struct{})
	go func() {
		defer close(held)
		_, _ = os.ReadFile(filepath.Join(ctl, "ready")) // until the child has opened and closed it
		late.raw.fd.mu.Lock()                           // whoever writes a notification holds it for reading
		err := os.WriteFile(filepath.Join(ctl, "go"), nil, 0)
		time.Sleep(500 * time.Millisecond) // ten times what a caller may be patient for; if it waits as it should, any time will do
		late.raw.fd.mu.Unlock()
		if err != nil {
			t.Error(err)
		}
	}()
	inChild(t, "told", filepath.Join(a, "shared"), filepath.Join(b, "shared"), ctl)
	<-held
}

func toldChild(t *testing.T, dirs []string) {
	var files []*os.File
	buf := make([]byte, longSize+1)
	for i := range 2 {
		name := fmt.Sprintf("f%d", i)
		must(t, os.WriteFile(filepath.Join(dirs[0], name), repeated(longSize), 0o644))
		f, err := os.Open(filepath.Join(dirs[1], name))
		must(t, err)
		if n, _ := f.ReadAt(buf, 0); n != longSize {
			t.Fatalf("%d bytes before", n)
		}
		files = append(files, f)
	}
	must(t, os.WriteFile(filepath.Join(dirs[2], "ready"), nil, 0))
	_, err := os.ReadFile(filepath.Join(dirs[2], "go"))
	must(t, err)
	var all sync.WaitGroup
	for i, f := range files {
		all.Go(func() {
			if err := os.Truncate(filepath.Join(dirs[0], filepath.Base(f.Name())), shortSize); err != nil {
				t.Error(err)
			}
			buf := make([]byte, longSize+1)
			if n, _ := f.ReadAt(buf, 0); n != shortSize {
				t.Errorf("file %d: %d bytes after it was made %d long", i, n, shortSize)
			}
			if st, err := f.Stat(); err != nil || st.Size() != shortSize {
				t.Errorf("file %d: %v, %v", i, st, err)
			}
		})
	}
	all.Wait()
}

func repeated(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + i%26)
	}
	return b
}

// TestSizesElsewhere makes files shorter and longer through one mount and reads them through another, in every way that uses what that
// kernel believes of the size, after pauses around the time at which notifications are repeated. Each file has one user; others make
// the mounts busy.
func TestSizesElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("shared")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{})
	inChild(t, "sizes", filepath.Join(a, "shared"), filepath.Join(b, "shared"))
}

func sizesChild(t *testing.T, dirs []string) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rounds := scale(150, 4000)
	var sized atomic.Int64
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			name := fmt.Sprintf("f%d", i)
			if err := os.WriteFile(filepath.Join(dirs[0], name), nil, 0o644); err != nil {
				t.Error(err)
				return
			}
			var open [2]*os.File
			for m, d := range dirs[:2] {
				f, err := os.OpenFile(filepath.Join(d, name), os.O_RDWR*(1-m), 0)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				open[m] = f
			}
			var size int64
			for range rounds {
				before := size
				size = 1 + r.Int64N(80_000)
				by := r.IntN(2)
				var err error
				switch {
				case by == 0:
					err = os.Truncate(filepath.Join(dirs[0], name), size)
				case size > before:
					_, err = open[0].WriteAt(make([]byte, size-before), before)
				default:
					err = open[0].Truncate(size)
				}
				if err != nil {
					t.Error(err)
					return
				}
				switch r.IntN(8) { // the pauses are the workload: nothing is waited for
				case 0:
					time.Sleep(time.Duration(straggle) + time.Duration(r.IntN(2000)-1000)*time.Microsecond)
				case 1, 2:
					time.Sleep(time.Duration(r.IntN(800)) * time.Microsecond)
				}
				sized.Add(1)
				if got, how, err := sizeSeen(r, open[1], filepath.Join(dirs[1], name), before, size); err != nil || got != size {
					t.Errorf("file %d: %s gives %d bytes, want %d (%d before): %v", i, how, got, size, before, err)
					return
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d changes of size", sized.Load())
}

// sizeSeen looks how long a file is, in one of the ways there are.
func sizeSeen(r *rand.Rand, f *os.File, name string, before, size int64) (got int64, how string, err error) {
	switch r.IntN(5) {
	case 0:
		st, err := os.Stat(name)
		if err != nil {
			return 0, "stat", err
		}
		return st.Size(), "stat", nil
	case 1:
		b, err := os.ReadFile(name)
		return int64(len(b)), "open and read", err
	case 2: // no more than was there: the kernel need not ask for the size
		if before > size {
			n, _ := f.ReadAt(make([]byte, before), 0)
			return int64(n), "read as much as there was", nil
		}
	case 3: // page by page
		buf := make([]byte, 4096)
		for {
			n, _ := f.ReadAt(buf, got)
			if got += int64(n); n < len(buf) {
				return got, "read page by page", nil
			}
		}
	}
	n, _ := f.ReadAt(make([]byte, max(before, size)+1), 0)
	return int64(n), "read more than there was", nil
}
