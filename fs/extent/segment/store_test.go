package segment

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

func mustAppend(t *testing.T, s *Store, n int) extent.Ref {
	t.Helper()
	ref, err := s.Append(bytes.Repeat([]byte{0x5a}, n))
	if err != nil {
		t.Fatalf("append %d bytes: %v", n, err)
	}
	return ref
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func blocksOf(t *testing.T, dir string, number uint64) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, segmentName(number)), &st))
	return st.Blocks * 512
}

func TestOpenRefuses(t *testing.T) {
	v := loadVectors(t)
	for _, c := range v.Unknown {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, segmentName(1)), unhex(t, c.Hex), 0o600))
		if _, err := Open(dir, Options{}); !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v, want ErrVersion", c.Why, err)
		}
	}
	dir := t.TempDir()
	s := openTest(t, dir, small)
	mustAppend(t, s, 1)
	if _, err := Open(dir, small); !errors.Is(err, ErrLocked) {
		t.Errorf("open twice: %v, want ErrLocked", err)
	}
	must(t, s.Close())
	if _, err := Open(dir, Options{StoreID: [16]byte{9}}); !errors.Is(err, ErrForeign) {
		t.Errorf("another store: %v, want ErrForeign", err)
	}
	must(t, os.Rename(filepath.Join(dir, segmentName(1)), filepath.Join(dir, segmentName(2))))
	if _, err := Open(dir, small); !errors.Is(err, ErrForeign) {
		t.Errorf("a renamed segment: %v, want ErrForeign", err)
	}
	for _, size := range []int64{4096, 8193, -1, maxSegmentSize + 4096} {
		if _, err := Open(t.TempDir(), Options{SegmentSize: size}); err == nil {
			t.Errorf("segment size %d is taken", size)
		}
	}
	if _, err := Open(filepath.Join(dir, "a", "b"), small); err == nil {
		t.Error("made two directories")
	}
}

// TestDamagedHeader: what lies behind it can still be read.
func TestDamagedHeader(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, small)
	ref := mustAppend(t, s, 100)
	must(t, s.Close())
	f, err := os.OpenFile(filepath.Join(dir, segmentName(ref.Segment)), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{0}, 3)
	must(t, err)
	must(t, f.Close())
	var out bytes.Buffer
	opts := small
	opts.Logger = slog.New(slog.NewTextHandler(&out, nil))
	s = openTest(t, dir, opts)
	must(t, s.ReadAt(ref, make([]byte, 100), 0))
	if !strings.Contains(out.String(), "damaged") {
		t.Errorf("log: %s", out.String())
	}
	if next := mustAppend(t, s, 1); next.Segment == ref.Segment {
		t.Errorf("appended %v to a damaged segment", next)
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, tempName(7)), []byte("half"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "README"), []byte("not ours"), 0o600))
	s := openTest(t, dir, small)
	must(t, s.Close())
	if got := fmt.Sprint(names(t, dir)); got != "[README]" {
		t.Errorf("left: %s", got)
	}
}

func TestFreePunchesAndUnlinks(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, small)
	a, b := mustAppend(t, s, 400_000), mustAppend(t, s, 400_000)
	c := mustAppend(t, s, 400_000)
	if a.Segment != b.Segment || c.Segment == a.Segment {
		t.Fatalf("addresses %v %v %v", a, b, c)
	}
	must(t, s.Sync())
	before := blocksOf(t, dir, a.Segment)
	must(t, s.Free(a))
	if after := blocksOf(t, dir, a.Segment); before-after < a.Footprint()-64<<10 {
		t.Errorf("freeing %d bytes gave back %d", a.Footprint(), before-after)
	}
	got := make([]byte, b.Length)
	must(t, s.ReadAt(b, got, 0))
	if !bytes.Equal(got, bytes.Repeat([]byte{0x5a}, len(got))) {
		t.Error("the neighbour suffered")
	}
	must(t, s.Free(b))
	if _, err := os.Stat(filepath.Join(dir, segmentName(a.Segment))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty segment is still there: %v", err)
	}
	must(t, s.Free(c))
	if _, err := os.Stat(filepath.Join(dir, segmentName(c.Segment))); err != nil {
		t.Errorf("the active segment: %v", err)
	}
	must(t, s.Free(a, b, c))
	must(t, s.Sync())
}

// TestFreeWhileAppendIsUnderWay: a full segment whose only bytes are still being
// written looks empty, and must stay.
func TestFreeWhileAppendIsUnderWay(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, small)
	a := mustAppend(t, s, 400_000)
	g, off, err := s.reserve(400_000 &^ 4095)
	must(t, err)
	c := mustAppend(t, s, 700_000) // the next segment
	if c.Segment == a.Segment || g.file.number != a.Segment {
		t.Fatalf("addresses %v %v", a, c)
	}
	must(t, s.Free(a))
	ref := extent.Ref{Segment: a.Segment, Offset: off, Length: 10}
	_, err = g.file.f.WriteAt([]byte("0123456789"), off)
	must(t, err)
	s.finish(g, ref.Footprint())
	must(t, s.Sync())
	got := make([]byte, 10)
	must(t, s.ReadAt(ref, got, 0))
	if string(got) != "0123456789" {
		t.Errorf("read %q", got)
	}
	must(t, s.Free(ref))
	if _, err := os.Stat(filepath.Join(dir, segmentName(a.Segment))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the empty segment is still there: %v", err)
	}
}

func TestFreeBeyondTheEnd(t *testing.T) {
	s := openTest(t, t.TempDir(), small)
	a := mustAppend(t, s, 100)
	for _, bad := range []extent.Ref{{Segment: a.Segment, Offset: a.End(), Length: 1}, {Segment: a.Segment, Offset: 0, Length: 1}} {
		if err := s.Free(bad); !errors.Is(err, extent.ErrInvalid) {
			t.Errorf("free %v: %v, want ErrInvalid", bad, err)
		}
	}
}

// TestRoomSetAsideIsGivenBack: neither a full nor a closed nor a crashed segment
// keeps blocks behind its end.
func TestRoomSetAsideIsGivenBack(t *testing.T) {
	dir := t.TempDir()
	opts := Options{StoreID: testStore, SegmentSize: 64 << 20}
	s := openTest(t, dir, opts)
	const slack = 1 << 20 // the file system's own blocks
	fill := func(n int) (ref extent.Ref) {
		for range n {
			ref = mustAppend(t, s, 1<<20)
		}
		return ref
	}
	last := fill(30)
	must(t, s.Close())
	if got := blocksOf(t, dir, last.Segment); got > last.End()+slack {
		t.Errorf("closed: %d bytes for %d", got, last.End())
	}
	s = openTest(t, dir, opts)
	last = fill(10)
	must(t, s.Sync())
	s.Abandon()
	s = openTest(t, dir, opts)
	if got := blocksOf(t, dir, last.Segment); got > last.End()+slack {
		t.Errorf("crashed: %d bytes for %d", got, last.End())
	}
	full := fill(45)
	if ref := mustAppend(t, s, 40<<20); ref.Segment == full.Segment {
		t.Fatalf("%v does not start a new segment", ref)
	}
	must(t, s.Close())
	if got := blocksOf(t, dir, full.Segment); got > full.End()+slack {
		t.Errorf("full: %d bytes for %d", got, full.End())
	}
}

func TestSyncFailureSticks(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, small)
	broken := true
	s.fdatasync = func(f *os.File) error {
		if broken {
			return unix.EIO
		}
		return fdatasync(f)
	}
	a := mustAppend(t, s, 100)
	if err := s.Sync(); !errors.Is(err, extent.ErrFailed) || !errors.Is(err, unix.EIO) {
		t.Fatalf("sync: %v, want ErrFailed and EIO", err)
	}
	broken = false // as the kernel, which reports an error once
	b := mustAppend(t, s, 100)
	if b.Segment == a.Segment {
		t.Errorf("appended %v to the failed segment", b)
	}
	for range 2 {
		if err := s.Sync(); !errors.Is(err, extent.ErrFailed) {
			t.Fatalf("a later sync: %v, want ErrFailed", err)
		}
	}
	must(t, s.ReadAt(a, make([]byte, 100), 0))
	if err := s.Close(); !errors.Is(err, extent.ErrFailed) {
		t.Errorf("close: %v, want ErrFailed", err)
	}
	s = openTest(t, dir, small)
	if c := mustAppend(t, s, 100); c.Segment <= b.Segment {
		t.Errorf("after a failed close: %v", c)
	}
	must(t, s.Sync())
}

// TestSyncIsShared: callers that come while a sync runs share the one after it.
func TestSyncIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openTest(t, t.TempDir(), small)
		var mu sync.Mutex
		calls := 0
		gate := make(chan struct{})
		s.fdatasync = func(*os.File) error {
			mu.Lock()
			calls++
			mu.Unlock()
			<-gate
			return nil
		}
		var wg sync.WaitGroup
		caller := func() {
			mustAppend(t, s, 10)
			wg.Go(func() {
				if err := s.Sync(); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		caller() // runs
		for range 10 {
			caller() // wait together
		}
		close(gate)
		wg.Wait()
		if calls != 2 {
			t.Errorf("11 callers made %d syncs, want 2", calls)
		}
		must(t, s.Close())
	})
}

// TestAppendDuringSync: an extent written while a sync of its segment runs is the
// next sync's work.
func TestAppendDuringSync(t *testing.T) {
	s := openTest(t, t.TempDir(), small)
	calls := 0
	s.fdatasync = func(*os.File) error {
		calls++
		if calls == 1 {
			mustAppend(t, s, 10)
		}
		return nil
	}
	mustAppend(t, s, 10)
	for i, want := range []int{1, 2, 2} {
		must(t, s.Sync())
		if calls != want {
			t.Errorf("after sync %d: %d calls, want %d", i, calls, want)
		}
	}
}

func TestReserve(t *testing.T) {
	now := time.Unix(1000, 0)
	opts := small
	opts.Reserve = 10 << 20
	opts.Clock = func() time.Time { return now }
	s := openTest(t, t.TempDir(), opts)
	asked, avail := 0, int64(100<<20)
	s.space.avail = func() (int64, error) { asked++; return avail, nil }
	for range 16 {
		mustAppend(t, s, 1000)
	}
	if asked != 1 {
		t.Errorf("16 small appends asked %d times", asked)
	}
	avail = 10<<20 + 4096
	mustAppend(t, s, 1000) // from the budget
	now = now.Add(budgetAge)
	mustAppend(t, s, 4096) // the last block before the reserve
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
	}
	avail = 10 << 20
	if _, err := s.Append(make([]byte, 1)); !errors.Is(err, extent.ErrNoSpace) {
		t.Errorf("append into the reserve: %v, want ErrNoSpace", err)
	}
	avail = 100 << 20
	mustAppend(t, s, 1) // a refusal is not remembered
	if got := noSpace(&os.PathError{Err: unix.ENOSPC}); !errors.Is(got, extent.ErrNoSpace) {
		t.Errorf("ENOSPC becomes %v", got)
	}
}

func TestDescriptorsAreBounded(t *testing.T) {
	s := openTest(t, t.TempDir(), small)
	var refs []extent.Ref
	for range 12 {
		refs = append(refs, mustAppend(t, s, 700_000))
	}
	must(t, s.Sync())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, r := range refs {
				if err := s.ReadAt(r, make([]byte, 100), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s.files.mu.Lock()
	defer s.files.mu.Unlock()
	if n := len(s.files.open); n > small.OpenFiles {
		t.Errorf("%d descriptors are open, limit %d", n, small.OpenFiles)
	}
}
