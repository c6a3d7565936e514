package segment

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// Long reads go past the page cache, if the bytes are not in it. What is read here is opened and lands in another cache, that of the
// mount's kernel; a second copy costs memory and, since it is cold, more time than opening it does. What was appended a moment ago is
// still in the cache, and is taken from there.

const (
	directFrom  = 256 << 10 // bytes
	directAlign = 4096      // of offsets, lengths and memory: more than any disk asks for
	scratchSize = 1<<20 + 64<<10
)

// direct is a file's second descriptor.
type direct struct {
	once    sync.Once
	f       *os.File    // nil: this file system has no such thing
	useless atomic.Bool // it was refused when it was tried
}

// handle opens it at first use.
func (d *direct) handle(path string) *os.File {
	d.once.Do(func() {
		if f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0); err == nil {
			d.f = f
		}
	})
	return d.f
}

func (d *direct) close() {
	d.once.Do(func() {})
	if d.f != nil {
		_ = d.f.Close()
	}
}

// aligned returns n bytes that begin where a page does.
func aligned(n int) []byte {
	b := make([]byte, n+directAlign)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (directAlign - 1))
	return b[skip : skip+n : skip+n]
}

func isAligned(p []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directAlign == 0 }

var (
	scratches = sync.Pool{New: func() any { b := aligned(scratchSize); return &b }}
	tails     = sync.Pool{New: func() any { b := aligned(directAlign); return &b }}
)

// readDirect fills p from at past the page cache, if that is better. Otherwise, and if anything goes wrong, it returns false: then the
// usual way is taken, and tells what is wrong.
func (s *Store) readDirect(f *file, p []byte, at int64) bool {
	if len(p) < directFrom || f.direct.useless.Load() || cached(f.f, at, int64(len(p))) {
		return false
	}
	d := f.direct.handle(filepath.Join(s.dir, segmentName(f.number)))
	if d == nil {
		return false
	}
	var n int
	var err error
	if at%directAlign == 0 && isAligned(p) {
		// Into p as far as whole pages go.
		body := p[:len(p)&^(directAlign-1)]
		tail := tails.Get().(*[]byte)
		defer tails.Put(tail)
		vec := [][]byte{body}
		if len(body) < len(p) {
			vec = append(vec, *tail)
		}
		if n, err = preadv(d, vec, at); err == nil && n >= len(p) {
			copy(p[len(body):], *tail)
		}
	} else {
		start := at &^ (directAlign - 1)
		whole := extent.AlignUp(at + int64(len(p)) - start)
		if whole > scratchSize {
			return false
		}
		scratch := scratches.Get().(*[]byte)
		defer scratches.Put(scratch)
		n, err = preadv(d, [][]byte{(*scratch)[:whole]}, start)
		if n -= int(at - start); err == nil && n >= len(p) {
			copy(p, (*scratch)[at-start:])
		}
	}
	if errors.Is(err, unix.EINVAL) {
		f.direct.useless.Store(true)
	}
	return err == nil && n >= len(p)
}

func preadv(f *os.File, vec [][]byte, at int64) (n int, err error) {
	for {
		n, err = unix.Preadv(int(f.Fd()), vec, at)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// cached reports whether half of a range or more is in the page cache. Where the kernel cannot tell (before Linux 6.5), it is.
func cached(f *os.File, at, n int64) bool {
	var st unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(at), Len: uint64(n)}, &st, 0)
	return err != nil || st.Cache >= uint64(n/directAlign/2)
}
