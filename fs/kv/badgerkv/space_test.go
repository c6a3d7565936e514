package badgerkv

import (
	"errors"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// TestGainedIsUsedAgain: what was freed since a commit was refused is there for commits, though the mark has moved meanwhile, and not
// where it would touch what compactions need or the last quarter of the reserve; also where the store was opened on the full disk.
func TestGainedIsUsedAgain(t *testing.T) {
	const mib = 1 << 20
	free := int64(60 * mib)
	s := space{reserve: 40 * mib, free: func() (int64, int64, error) { return free, 300 * mib, nil }}
	s.compaction.Store(21 * mib)
	s.begin()
	check := func(n int64, ok bool) {
		t.Helper()
		err := s.check(n, 0, false)
		if ok != (err == nil) || err != nil && !errors.Is(err, kv.ErrNoSpace) {
			t.Errorf("a commit of %d bytes with %d MiB free: %v", n, free/mib, err)
		}
		if err == nil {
			free -= 2 * (n + commitCost)
		}
	}
	check(100, false)
	free += mib
	check(mib/4, true)
	check(mib/4, false)
	check(mib/5, true)
	s.compaction.Store(55 * mib)
	free += mib
	check(100, false) // compactions come first
	s.compaction.Store(21 * mib)
	check(100, true)
	s.budget.Store(0)
	free = 30 * mib // others fill the disk
	check(100, false)
	free += mib
	check(100, false) // 40/4 + 21 are kept
	free = 200 * mib
	check(100, true)
	if s.full {
		t.Error("it is not full any more")
	}
}

// TestCompactOnAFullDisk: merging may use three quarters of the reserve, beside what is pending and what it needs itself.
func TestCompactOnAFullDisk(t *testing.T) {
	const mib = 1 << 20
	free := int64(0)
	s := space{reserve: 40 * mib, rotation: 8 * mib, free: func() (int64, int64, error) { return free, 300 * mib, nil }}
	for _, x := range []struct {
		free, pending int64
		ok            bool
	}{{28 * mib, 0, true}, {28*mib - 1, 0, false}, {28 * mib, 1, false}, {30 * mib, mib, true}} {
		free = x.free
		if err := s.checkCompact(x.pending, 10*mib); x.ok != (err == nil) || err != nil && !errors.Is(err, kv.ErrNoSpace) {
			t.Errorf("%d MiB free, %d bytes pending: %v", x.free/mib, x.pending, err)
		}
	}
}
