package segment

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Short reads. What a disk is asked for one by one, it answers at a rate that hardly depends on the length: 64 KiB take little longer than
// the two pages of one sealed block. So a short read that misses the page cache has the pages around it fetched as well, as the
// kernel does for a fault in a mapping. They are not waited for, and what nobody comes back for is the first that the kernel drops.
// Where the reads hardly ever come back, since the file is larger than what the cache can hold, it is given up.

const (
	aroundSize  = 64 << 10 // what is fetched, in bytes; it begins at a multiple of that
	aroundLimit = aroundSize / 2
	hitsAre     = 8    // one hit makes up for so many misses
	patience    = 4096 // misses without a hit, after which nothing is fetched around: what was, is a segment
)

// around remembers whether it paid. The zero value is usable. Two that count at once may lose a count: it is only an estimate.
type around struct {
	balance atomic.Int32 // within +-patience
}

func (a *around) hit()        { a.balance.Store(min(a.balance.Load()+hitsAre, patience)) }
func (a *around) miss()       { a.balance.Store(max(a.balance.Load()-1, -patience)) }
func (a *around) worth() bool { return a.balance.Load() > -patience }

// readCached fills p from at if all of it is in the page cache. If not, and p is short, the kernel is asked for what lies around.
func (f *file) readCached(p []byte, at int64) bool {
	if len(p) > aroundLimit {
		return false
	}
	n, err := unix.Preadv2(int(f.f.Fd()), [][]byte{p}, at, unix.RWF_NOWAIT)
	switch {
	case err == nil && n == len(p):
		f.around.hit()
		return true
	case err != nil && err != unix.EAGAIN: // a file system without such reads, or an error that the usual way meets again
		return false
	}
	if f.around.miss(); f.around.worth() {
		f.fetchAround(at, int64(len(p)))
	}
	return false
}

// fetchAround has the kernel begin to read.
func (f *file) fetchAround(at, n int64) {
	start := at &^ (aroundSize - 1)
	stop := (at + n + aroundSize - 1) &^ (aroundSize - 1)
	_ = unix.Fadvise(int(f.f.Fd()), start, stop-start, unix.FADV_WILLNEED) // advice
}
