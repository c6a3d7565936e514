package segment

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAround: a short read that the page cache cannot answer brings in what lies around it, one that it can answers from it, and both
// give the bytes that were written.
func TestAround(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	want := make([]byte, 4<<20)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range want {
		want[i] = byte(rnd.Uint32())
	}
	ref, err := s.Append(want)
	must(t, err)
	must(t, s.Sync())
	f, err := s.files.acquire(ref.Segment)
	must(t, err)
	defer s.files.release(f)

	read := func(at, n int64) {
		t.Helper()
		p := make([]byte, n)
		must(t, s.ReadAt(ref, p, at))
		if !bytes.Equal(p, want[at:at+n]) {
			t.Fatalf("wrong bytes at %d", at)
		}
	}
	read(4112, 4112)
	if f.around.balance.Load() != hitsAre {
		t.Error("what was just written was not taken from the page cache")
	}
	must(t, unix.Fadvise(int(f.f.Fd()), 0, 0, unix.FADV_DONTNEED))
	const middle = 2 << 20
	lo := (ref.Offset + middle) &^ (aroundSize - 1)
	if cached(f.f, lo, aroundSize) {
		t.Skip("the kernel does not say what is cached, or keeps it: nothing to see here")
	}
	// No more than the read itself is there after a read that fetches nothing around.
	f.around.balance.Store(-patience)
	read(middle, 4112)
	if cached(f.f, lo, aroundSize) {
		t.Error("fetched though it does not pay")
	}
	f.around.balance.Store(0)
	read(middle+8192, 4112)
	if !cached(f.f, lo, aroundSize) {
		t.Error("nothing was fetched around a short read")
	}
	for _, at := range []int64{0, 1, 61_000, 65_535, middle - 1, middle + 30_000, int64(len(want)) - 4112} {
		for _, n := range []int64{1, 4112, aroundLimit, aroundLimit + 1} {
			read(at, min(n, int64(len(want))-at))
		}
	}
}

// TestAroundIsGivenUp: where reads never come back nothing more is fetched, and when they do it is again.
func TestAroundIsGivenUp(t *testing.T) {
	var a around
	for range patience - 1 {
		a.miss()
	}
	if !a.worth() {
		t.Error("given up too soon")
	}
	a.miss()
	if a.worth() {
		t.Error("not given up")
	}
	for range 10 * patience {
		a.miss()
	}
	if a.hit(); !a.worth() {
		t.Error("not taken up again")
	}
	for range 10 * patience {
		a.hit()
	}
	for range 2 * patience {
		a.miss()
	}
	if a.worth() {
		t.Error("hits of long ago count too much")
	}
}
