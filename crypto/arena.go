package crypto

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The bytes of data keys, and the key schedules of ciphers (expanded.go), lie outside Go's heap, in pages of their own: locked, so that
// they are not written to swap; left out of core dumps; not handed to a forked child; and overwritten the moment a key is wiped, because
// no garbage collector has moved or copied them.
//
// How much may be locked is limited for ordinary users (RLIMIT_MEMLOCK; 8 MiB as a rule, which is a quarter of a million keys, or ten
// thousand schedules). Beyond that pages are taken unlocked, and beyond arenaMax, or without mmap, keys lie on the heap: LockedMemory
// tells both.
//
// A key that nobody wipes keeps its place for ever: the process has only LiveKeys to notice it by.

const (
	arenaChunk = 64 << 10 // bytes mapped at a time
	arenaMax   = 64 << 20 // bytes
)

// arena hands out places of one size, that of the array T. There is one of each size for the process, as there is one heap.
type arena[T any] struct {
	mu       sync.Mutex
	limit    int // bytes to map at most
	free     []*T
	mapped   int // bytes
	unlocked int // bytes of those that are not locked
	outside  int // places that were given out on the heap
	live     int // places in use, also those on the heap
}

var (
	keys      = arena[[KeySize]byte]{limit: arenaMax}
	schedules = arena[[scheduleSize]byte]{limit: arenaMax}
)

// take returns a place full of zeros; inside says whether it must be given back.
func (a *arena[T]) take() (place *T, inside bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live++
	if len(a.free) == 0 && !a.grow() {
		a.outside++
		return new(T), false
	}
	place = a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	return place, true
}

// without counts what lies on the heap for want of a place. give takes it back like one.
func (a *arena[T]) without() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live++
	a.outside++
}

// give takes a place back, which is full of zeros again.
func (a *arena[T]) give(place *T, inside bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live--
	if inside {
		a.free = append(a.free, place)
	}
}

// grow maps one more chunk; mu is held.
func (a *arena[T]) grow() bool {
	if a.mapped+arenaChunk > a.limit {
		return false
	}
	b, err := unix.Mmap(-1, 0, arenaChunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false
	}
	_ = unix.Madvise(b, unix.MADV_DONTDUMP)   // what a kernel does not know it does not do; core dumps are off anyway
	_ = unix.Madvise(b, unix.MADV_WIPEONFORK) // nothing of ours forks
	if unix.Mlock(b) != nil {
		a.unlocked += arenaChunk
	}
	a.mapped += arenaChunk
	size := int(unsafe.Sizeof(*new(T)))
	for ; len(b) >= size; b = b[size:] {
		a.free = append(a.free, (*T)(unsafe.Pointer(unsafe.SliceData(b))))
	}
	return true
}

// locked tells whether all places so far lay in locked pages.
func (a *arena[T]) locked() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unlocked == 0 && a.outside == 0
}

func (a *arena[T]) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live
}

// LockedMemory tells whether all keys and schedules so far lay in memory that is not swapped out.
func LockedMemory() bool { return keys.locked() && schedules.locked() }

// LiveKeys counts the keys and schedules that were made and not wiped yet.
func LiveKeys() int { return keys.count() + schedules.count() }
