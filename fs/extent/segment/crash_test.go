package segment

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent"
)

func TestCleanCloseGoesOn(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, small)
	a := mustAppend(t, s, 5000)
	must(t, s.Close())
	s = openTest(t, dir, small)
	must(t, s.Close()) // a session without appends leaves the mark
	s = openTest(t, dir, small)
	if p := s.Position(); p != (extent.Position{Segment: a.Segment, Offset: a.End()}) {
		t.Errorf("position %v after %v", p, a)
	}
	b := mustAppend(t, s, 5000)
	if b.Segment != a.Segment || b.Offset != a.End() {
		t.Errorf("went on at %v after %v", b, a)
	}
	s.Abandon() // the mark is gone since b
	s = openTest(t, dir, small)
	if c := mustAppend(t, s, 5000); c.Segment != a.Segment+1 {
		t.Errorf("after an unclean end: %v", c)
	}
}

// TestLostTail plays a power loss: the metadata names an extent, but the file is
// shorter than that. What is appended next must lie elsewhere.
func TestLostTail(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, small)
	mustAppend(t, s, 5000)
	lost := mustAppend(t, s, 5000)
	s.Abandon()
	must(t, os.Truncate(filepath.Join(dir, segmentName(lost.Segment)), lost.Offset))
	s = openTest(t, dir, small)
	if err := s.ReadAt(lost, make([]byte, 10), 0); !errors.Is(err, extent.ErrMissing) {
		t.Errorf("read the lost extent: %v, want ErrMissing", err)
	}
	next := mustAppend(t, s, 5000)
	if next.Segment == lost.Segment {
		t.Errorf("%v follows lost %v", next, lost)
	}
	must(t, s.Free(lost))
	must(t, s.ReadAt(next, make([]byte, 5000), 0))
}

// TestStaleMark: a mark that the file has outgrown is not believed.
func TestStaleMark(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, small)
	a := mustAppend(t, s, 5000)
	must(t, s.Close())
	must(t, os.Truncate(filepath.Join(dir, segmentName(a.Segment)), a.End()+1))
	s = openTest(t, dir, small)
	if b := mustAppend(t, s, 1); b.Segment == a.Segment {
		t.Errorf("appended %v in a segment that is longer than its mark says", b)
	}
}

func TestNumbersAreNeverReused(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	for round := range 6 {
		s := openTest(t, dir, small)
		var refs []extent.Ref
		for range 3 {
			ref := mustAppend(t, s, 700_000) // one fits a segment
			if ref.Segment <= last {
				t.Fatalf("round %d: segment %d after %d", round, ref.Segment, last)
			}
			last = ref.Segment
			refs = append(refs, ref)
		}
		must(t, s.Free(refs...))
		if round%2 == 0 {
			must(t, s.Close())
		} else {
			s.Abandon()
		}
	}
	if got := names(t, dir); len(got) > 2 {
		t.Errorf("everything is freed, and %d segments are left: %v", len(got), got)
	}
}

// TestHighestSegmentStays: freed by a session that appended nothing, it still
// tells the next which numbers were used.
func TestHighestSegmentStays(t *testing.T) {
	for _, clean := range []bool{true, false} {
		dir := t.TempDir()
		end := func(s *Store) {
			if clean {
				must(t, s.Close())
			} else {
				s.Abandon()
			}
		}
		s := openTest(t, dir, small)
		old := mustAppend(t, s, 5000)
		end(s)
		s = openTest(t, dir, small)
		must(t, s.Free(old))
		end(s)
		s = openTest(t, dir, small)
		fresh := mustAppend(t, s, 5000)
		if fresh.Segment < old.Segment || fresh.Segment == old.Segment && fresh.Offset < old.End() {
			t.Errorf("clean %v: %v was given out, and then %v", clean, old, fresh)
		}
		must(t, s.Free(old))
		got := make([]byte, 5000)
		must(t, s.ReadAt(fresh, got, 0))
		if got[0] != 0x5a {
			t.Errorf("clean %v: a stale reference freed a live extent", clean)
		}
	}
}

// TestMarkIsRemovedFirst: a power loss after a resumed session may leave the file
// as short as its mark said. The mark must be gone by then.
func TestMarkIsRemovedFirst(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, small)
	a := mustAppend(t, s, 5000)
	must(t, s.Close())
	s = openTest(t, dir, small)
	lost := mustAppend(t, s, 5000)
	if lost.Segment != a.Segment {
		t.Fatalf("%v does not go on after %v", lost, a)
	}
	s.Abandon()
	must(t, os.Truncate(filepath.Join(dir, segmentName(a.Segment)), a.End()))
	s = openTest(t, dir, small)
	if next := mustAppend(t, s, 5000); next.Segment == lost.Segment {
		t.Errorf("%v follows lost %v", next, lost)
	}
}
