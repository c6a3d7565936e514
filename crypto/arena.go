package crypto

import (
	"sync"

	"golang.org/x/sys/unix"
)

// The bytes of data keys lie outside Go's heap, in pages of their own: locked, so that they are not written to swap; left out of core
// dumps; not handed to a forked child; and overwritten the moment a key is wiped, because no garbage collector has moved or copied them.
//
// How much may be locked is limited for ordinary users (RLIMIT_MEMLOCK; 8 MiB as a rule, which is a quarter of a million keys). Beyond
// that pages are taken unlocked, which LockedMemory tells, and beyond arenaMax, or without mmap, keys lie on the heap.
//
// A key that nobody wipes keeps its place for ever: the process has only LiveKeys to notice it by.

const (
	arenaChunk = 64 << 10 // bytes mapped at a time
	arenaMax   = 64 << 20 // bytes
)

// arena hands out places for keys. There is one for the process, as there is one heap.
type arena struct {
	mu       sync.Mutex
	limit    int // bytes to map at most
	free     []*[KeySize]byte
	mapped   int // bytes
	unlocked int // bytes of those that are not locked
	live     int // keys, also those on the heap
}

var keys = arena{limit: arenaMax}

// take returns a place full of zeros; inside says whether it must be given back.
func (a *arena) take() (place *[KeySize]byte, inside bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live++
	if len(a.free) == 0 && !a.grow() {
		return new([KeySize]byte), false
	}
	place = a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	return place, true
}

// give takes a place back, which is full of zeros again.
func (a *arena) give(place *[KeySize]byte, inside bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live--
	if inside {
		a.free = append(a.free, place)
	}
}

// grow maps one more chunk; mu is held.
func (a *arena) grow() bool {
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
	for i := 0; i < arenaChunk; i += KeySize {
		a.free = append(a.free, (*[KeySize]byte)(b[i:]))
	}
	return true
}

// LockedMemory tells whether all keys so far lay in memory that is not swapped out.
func LockedMemory() bool {
	keys.mu.Lock()
	defer keys.mu.Unlock()
	return keys.unlocked == 0 && keys.mapped > 0 && keys.mapped < keys.limit
}

// LiveKeys counts the keys that were made and not wiped yet.
func LiveKeys() int {
	keys.mu.Lock()
	defer keys.mu.Unlock()
	return keys.live
}
