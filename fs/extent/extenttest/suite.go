package extenttest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// Driver tells the suite how to make stores.
type Driver struct {
	// Open returns an empty store. The suite closes it.
	Open func(t *testing.T) extent.Store
	// Reopen closes the store and opens it again with what it holds.
	Reopen func(t *testing.T, s extent.Store) extent.Store
	// Crash opens the store again as after a death of the process.
	Crash func(t *testing.T, s extent.Store) extent.Store
	// MaxExtent is the longest extent the suite may append, in bytes; at least
	// 64 KiB.
	MaxExtent int
}

// Run runs the suite.
func Run(t *testing.T, d Driver) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, Driver)
	}{
		{"AppendRead", testAppendRead},
		{"Invalid", testInvalid},
		{"Copies", testCopies},
		{"Addresses", testAddresses},
		{"Free", testFree},
		{"FreeNeverReuses", testFreeNeverReuses},
		{"Reopen", testReopen},
		{"Crash", testCrash},
		{"Closed", testClosed},
		{"Usage", testUsage},
		{"Ranges", testRanges},
		{"Concurrent", testConcurrent},
		{"Random", testRandom},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, d) })
	}
}

// content returns n bytes that no other (seed, n) shares.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{0: byte(seed), 1: byte(seed >> 8), 2: byte(seed >> 16), 3: byte(seed >> 24), 4: byte(n), 5: byte(n >> 8), 6: byte(n >> 16)})
	_, _ = src.Read(b) // never fails
	return b
}

func open(t *testing.T, d Driver) extent.Store {
	t.Helper()
	s := d.Open(t)
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

// closeStore closes a store that a test may have closed already.
func closeStore(t *testing.T, s extent.Store) {
	t.Helper()
	if err := s.Close(); err != nil && !errors.Is(err, extent.ErrClosed) {
		t.Errorf("close: %v", err)
	}
}

func mustAppend(t *testing.T, s extent.Store, b []byte) extent.Ref {
	t.Helper()
	ref, err := s.Append(b)
	if err != nil {
		t.Fatalf("append %d bytes: %v", len(b), err)
	}
	return ref
}

func mustFree(t *testing.T, s extent.Store, refs ...extent.Ref) {
	t.Helper()
	if err := s.Free(refs...); err != nil {
		t.Fatalf("free %v: %v", refs, err)
	}
}

func mustSync(t *testing.T, s extent.Store) {
	t.Helper()
	if err := s.Sync(); err != nil {
		t.Fatalf("sync: %v", err)
	}
}

func mustHold(t *testing.T, s extent.Store, ref extent.Ref, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := s.ReadAt(ref, got, 0); err != nil {
		t.Fatalf("read %v: %v", ref, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("read %v: other bytes than were appended", ref)
	}
}

// mustBeGone checks a freed extent: missing, zeros, or its old bytes.
func mustBeGone(t *testing.T, s extent.Store, ref extent.Ref, old []byte) {
	t.Helper()
	got := make([]byte, ref.Length)
	err := s.ReadAt(ref, got, 0)
	if errors.Is(err, extent.ErrMissing) {
		return
	}
	if err != nil {
		t.Fatalf("read freed %v: %v", ref, err)
	}
	for i := range got {
		if got[i] != 0 && got[i] != old[i] {
			t.Fatalf("read freed %v: foreign byte at %d", ref, i)
		}
	}
}

func testAppendRead(t *testing.T, d Driver) {
	s := open(t, d)
	sizes := []int{1, 15, 4095, 4096, 4097, 4112, 8224, 65535, d.MaxExtent}
	refs := make([]extent.Ref, len(sizes))
	for i, n := range sizes {
		refs[i] = mustAppend(t, s, content(uint64(i), n))
		if int(refs[i].Length) != n {
			t.Fatalf("appended %d bytes, ref says %d", n, refs[i].Length)
		}
	}
	for i, n := range sizes {
		want := content(uint64(i), n)
		mustHold(t, s, refs[i], want)
		for _, part := range [][2]int{{0, 0}, {n, 0}, {0, 1}, {n - 1, 1}, {n / 3, n / 2}} {
			got := make([]byte, part[1])
			if err := s.ReadAt(refs[i], got, int64(part[0])); err != nil {
				t.Fatalf("read %d bytes at %d of %v: %v", part[1], part[0], refs[i], err)
			}
			if !bytes.Equal(got, want[part[0]:part[0]+part[1]]) {
				t.Fatalf("read %d bytes at %d of %v: wrong bytes", part[1], part[0], refs[i])
			}
		}
	}
	mustSync(t, s)
	mustSync(t, s)
	mustHold(t, s, refs[0], content(0, sizes[0]))
}

func testInvalid(t *testing.T, d Driver) {
	s := open(t, d)
	ref := mustAppend(t, s, content(1, 5000))
	if _, err := s.Append(nil); !errors.Is(err, extent.ErrInvalid) {
		t.Errorf("append nothing: %v, want ErrInvalid", err)
	}
	for _, c := range []struct {
		off int64
		n   int
	}{{-1, 1}, {0, 5001}, {5000, 1}, {5001, 0}, {1 << 62, 1}} {
		if err := s.ReadAt(ref, make([]byte, c.n), c.off); !errors.Is(err, extent.ErrInvalid) {
			t.Errorf("read %d bytes at %d: %v, want ErrInvalid", c.n, c.off, err)
		}
	}
	for _, bad := range []extent.Ref{{}, {Segment: 1, Offset: 4097, Length: 1}, {Segment: 1, Offset: -4096, Length: 1}, {Segment: 1, Offset: 4096}} {
		if err := s.ReadAt(bad, nil, 0); !errors.Is(err, extent.ErrInvalid) {
			t.Errorf("read %v: %v, want ErrInvalid", bad, err)
		}
		if err := s.Free(bad); !errors.Is(err, extent.ErrInvalid) {
			t.Errorf("free %v: %v, want ErrInvalid", bad, err)
		}
	}
	unknown := extent.Ref{Segment: ref.Segment + 1000, Offset: 4096, Length: 10}
	if err := s.ReadAt(unknown, make([]byte, 10), 0); !errors.Is(err, extent.ErrMissing) {
		t.Errorf("read an unknown segment: %v, want ErrMissing", err)
	}
	mustFree(t, s, unknown)
	mustFree(t, s)
	mustHold(t, s, ref, content(1, 5000))
}

func testCopies(t *testing.T, d Driver) {
	s := open(t, d)
	b := content(7, 9000)
	ref := mustAppend(t, s, b)
	clear(b)
	mustHold(t, s, ref, content(7, 9000))
}

// disjoint fails if two extents share an aligned block.
func disjoint(t *testing.T, refs []extent.Ref) {
	t.Helper()
	sorted := slices.Clone(refs)
	slices.SortFunc(sorted, func(a, b extent.Ref) int {
		if (extent.Position{Segment: a.Segment, Offset: a.Offset}).Before(extent.Position{Segment: b.Segment, Offset: b.Offset}) {
			return -1
		}
		return 1
	})
	for i, r := range sorted {
		if !r.Valid() {
			t.Fatalf("address %v is not valid", r)
		}
		if i > 0 && sorted[i-1].Segment == r.Segment && sorted[i-1].End() > r.Offset {
			t.Fatalf("addresses %v and %v overlap", sorted[i-1], r)
		}
	}
}

func testAddresses(t *testing.T, d Driver) {
	s := open(t, d)
	var refs []extent.Ref
	for i := range 200 {
		refs = append(refs, mustAppend(t, s, content(uint64(i), 1+i*97)))
	}
	disjoint(t, refs)
}

func testFree(t *testing.T, d Driver) {
	s := open(t, d)
	var refs []extent.Ref
	const n, size = 40, 6000
	for i := range n {
		refs = append(refs, mustAppend(t, s, content(uint64(i), size)))
	}
	var dead []extent.Ref
	for i := 0; i < n; i += 2 {
		dead = append(dead, refs[i])
	}
	mustFree(t, s, dead...)
	mustFree(t, s, dead...) // idempotent
	mustFree(t, s, dead[3], dead[3])
	for i, r := range refs {
		if i%2 == 0 {
			mustBeGone(t, s, r, content(uint64(i), size))
		} else {
			mustHold(t, s, r, content(uint64(i), size))
		}
	}
	mustFree(t, s, refs...)
	for i, r := range refs {
		mustBeGone(t, s, r, content(uint64(i), size))
	}
	mustSync(t, s)
}

// testFreeNeverReuses keeps stale references and frees them again and again
// while new extents come: none of the new may suffer.
func testFreeNeverReuses(t *testing.T, d Driver) {
	s := open(t, d)
	var all []extent.Ref
	size := d.MaxExtent / 2
	for round := range 6 {
		var live []extent.Ref
		for i := range 4 {
			live = append(live, mustAppend(t, s, content(uint64(round*10+i), size)))
		}
		mustFree(t, s, all...)
		for i, r := range live {
			mustHold(t, s, r, content(uint64(round*10+i), size))
		}
		all = append(all, live...)
		disjoint(t, all)
		switch round % 3 {
		case 1:
			mustFree(t, s, all...)
			s = d.Reopen(t, s)
		case 2:
			mustFree(t, s, all...)
			s = d.Crash(t, s)
		}
		t.Cleanup(func() { closeStore(t, s) })
	}
}

func testReopen(t *testing.T, d Driver) {
	s := open(t, d)
	var refs []extent.Ref
	for round := range 4 {
		for i := range 10 {
			refs = append(refs, mustAppend(t, s, content(uint64(round*10+i), 5000)))
		}
		s = d.Reopen(t, s)
		t.Cleanup(func() { closeStore(t, s) })
		for i, r := range refs {
			mustHold(t, s, r, content(uint64(i), 5000))
		}
	}
	disjoint(t, refs)
}

func testCrash(t *testing.T, d Driver) {
	s := open(t, d)
	var refs []extent.Ref
	for round := range 4 {
		for i := range 10 {
			refs = append(refs, mustAppend(t, s, content(uint64(round*10+i), 5000)))
		}
		if round%2 == 0 {
			mustSync(t, s)
		}
		s = d.Crash(t, s)
		t.Cleanup(func() { closeStore(t, s) })
		for i, r := range refs {
			mustHold(t, s, r, content(uint64(i), 5000))
		}
	}
	disjoint(t, refs)
}

func testClosed(t *testing.T, d Driver) {
	s := open(t, d)
	ref := mustAppend(t, s, content(1, 100))
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	_, appendErr := s.Append([]byte{1})
	for what, err := range map[string]error{
		"append": appendErr,
		"read":   s.ReadAt(ref, make([]byte, 1), 0),
		"sync":   s.Sync(),
		"free":   s.Free(ref),
		"close":  s.Close(),
	} {
		if !errors.Is(err, extent.ErrClosed) && (what != "close" || err != nil) {
			t.Errorf("%s after close: %v, want ErrClosed", what, err)
		}
	}
}

func testUsage(t *testing.T, d Driver) {
	s := open(t, d)
	u, ok := s.(extent.UsageReporter)
	if !ok {
		t.Skip("the driver does not report usage")
	}
	stored := func() int64 {
		t.Helper()
		got, err := u.Usage()
		if err != nil {
			t.Fatalf("usage: %v", err)
		}
		return got.Stored
	}
	empty := stored()
	var refs []extent.Ref
	for i := range 64 {
		refs = append(refs, mustAppend(t, s, content(uint64(i), 60000)))
	}
	mustSync(t, s)
	full := stored()
	if full-empty < 64*60000 {
		t.Errorf("64 extents of 60,000 bytes take %d", full-empty)
	}
	mustFree(t, s, refs...)
	if left := stored(); left-empty > full/10 {
		t.Errorf("after freeing everything %d of %d bytes are still held", left-empty, full)
	}
}

func testRanges(t *testing.T, d Driver) {
	s := open(t, d)
	ranger, ok := s.(extent.Ranger)
	if !ok {
		t.Skip("the driver does not list ranges")
	}
	var refs []extent.Ref
	for i := range 60 {
		refs = append(refs, mustAppend(t, s, content(uint64(i), 30000)))
	}
	before := ranger.Position()
	later := mustAppend(t, s, content(99, 30000))
	if (extent.Position{Segment: later.Segment, Offset: later.Offset}).Before(before) {
		t.Errorf("%v was appended before the position %v", later, before)
	}
	mustFree(t, s, refs[10:20]...)
	mustSync(t, s)
	var got []extent.Range
	if err := ranger.Ranges(before, func(r extent.Range) error { got = append(got, r); return nil }); err != nil {
		t.Fatalf("ranges: %v", err)
	}
	covered := func(r extent.Ref) bool {
		return slices.ContainsFunc(got, func(g extent.Range) bool {
			return g.Segment == r.Segment && g.Offset <= r.Offset && r.End() <= g.Offset+g.Length
		})
	}
	for i, r := range refs {
		if dead := i >= 10 && i < 20; covered(r) == dead {
			t.Errorf("extent %d (freed: %v) is covered by the ranges: %v", i, dead, !dead)
		}
	}
	if covered(later) {
		t.Errorf("%v is listed although it is not before %v", later, before)
	}
	stop := errors.New("stop")
	if err := ranger.Ranges(before, func(extent.Range) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("ranges: %v, want the function's own error", err)
	}
}

func testConcurrent(t *testing.T, d Driver) {
	s := open(t, d)
	const writers, each = 8, 60
	kept := make([][]extent.Ref, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			if err := concurrentWriter(s, uint64(w), each, d.MaxExtent, &kept[w]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	disjoint(t, slices.Concat(kept...))
}

// concurrentWriter appends, reads its own extents back, frees every third and
// syncs now and then.
func concurrentWriter(s extent.Store, w uint64, each, maxExtent int, kept *[]extent.Ref) error {
	rnd := rand.New(rand.NewPCG(w, 1))
	for i := range each {
		seed, n := w<<16|uint64(i), 1+rnd.IntN(min(maxExtent, 100_000))
		ref, err := s.Append(content(seed, n))
		if err != nil {
			return fmt.Errorf("append: %w", err)
		}
		got := make([]byte, n)
		if err := s.ReadAt(ref, got, 0); err != nil {
			return fmt.Errorf("read %v: %w", ref, err)
		}
		if !bytes.Equal(got, content(seed, n)) {
			return fmt.Errorf("read %v: wrong bytes", ref)
		}
		switch {
		case i%3 == 0:
			err = s.Free(ref)
		case i%7 == 0:
			err = s.Sync()
		}
		if err != nil {
			return err
		}
		*kept = append(*kept, ref)
	}
	return nil
}

// testRandom compares a long random life with a map.
func testRandom(t *testing.T, d Driver) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s := open(t, d)
	type held struct {
		ref  extent.Ref
		seed uint64
	}
	var live []held
	var all []extent.Ref
	for step := range uint64(600) {
		switch p := rnd.IntN(100); {
		case p < 50:
			n := 1 + rnd.IntN(d.MaxExtent)
			ref := mustAppend(t, s, content(step, n))
			live, all = append(live, held{ref, step}), append(all, ref)
		case p < 75 && len(live) > 0:
			i := rnd.IntN(len(live))
			mustFree(t, s, live[i].ref)
			live = slices.Delete(live, i, i+1)
		case p < 95 && len(live) > 0:
			h := live[rnd.IntN(len(live))]
			mustHold(t, s, h.ref, content(h.seed, int(h.ref.Length)))
		case p < 98:
			mustSync(t, s)
		case p < 99:
			s = d.Reopen(t, s)
			t.Cleanup(func() { closeStore(t, s) })
		default:
			s = d.Crash(t, s)
			t.Cleanup(func() { closeStore(t, s) })
		}
	}
	for _, h := range live {
		mustHold(t, s, h.ref, content(h.seed, int(h.ref.Length)))
	}
	disjoint(t, all)
}
