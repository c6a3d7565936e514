package crypto

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// TestArena: keys lie outside the heap in locked pages, a wiped key's bytes are gone at once, and its place is used again.
func TestArena(t *testing.T) {
	before := LiveKeys()
	k := NewDataKey()
	place := &k.Expose()[0]
	inLockedPages(t, uintptr(unsafe.Pointer(place)))
	if LiveKeys() != before+1 || !LockedMemory() {
		t.Errorf("%d keys, before %d, locked %t", LiveKeys(), before, LockedMemory())
	}
	bytes := unsafe.Slice(place, KeySize)
	k.Wipe()
	k.Wipe()
	for _, b := range bytes {
		if b != 0 {
			t.Fatal("a wiped key is still there")
		}
	}
	again := NewDataKey()
	if &again.Expose()[0] != place {
		t.Error("the place of a wiped key is not used again")
	}
	again.Wipe()
	if LiveKeys() != before {
		t.Errorf("%d keys, before %d", LiveKeys(), before)
	}
}

// TestManyKeys fills an arena beyond what it maps: every key keeps its own place, and all go back.
func TestManyKeys(t *testing.T) {
	a := arena[[KeySize]byte]{limit: 2 * arenaChunk}
	const inside, outside = 2 * arenaChunk / KeySize, 100
	places := map[*[KeySize]byte]bool{}
	for i := range inside + outside {
		p, in := a.take()
		if *p != [KeySize]byte{} || in != (i < inside) {
			t.Fatalf("place %d: %x, inside %t", i, *p, in)
		}
		p[0] = 1
		places[p] = in
	}
	if len(places) != inside+outside || a.live != len(places) {
		t.Fatalf("%d places, %d live", len(places), a.live)
	}
	for p, in := range places {
		clear(p[:])
		a.give(p, in)
	}
	if a.locked() || a.outside != outside {
		t.Errorf("%d keys on the heap are not told of", a.outside)
	}
	if a.live != 0 || len(a.free) != inside {
		t.Errorf("%d live, %d free", a.live, len(a.free))
	}
}

// inLockedPages looks into /proc/self/smaps: locked, not dumped, wiped in a forked child.
func inLockedPages(t *testing.T, at uintptr) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(text)) {
		var from, to uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			for _, want := range []string{"lo", "dd", "wf"} {
				if !slices.Contains(strings.Fields(flags), want) {
					t.Errorf("the pages of keys lack the flag %s: %s", want, flags)
				}
			}
			return
		}
	}
	t.Errorf("no mapping has %x", at)
}
