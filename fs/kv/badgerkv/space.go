package badgerkv

import (
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// Badger writes through shared mappings: on a full filesystem the kernel answers with SIGBUS, and the process is gone. So
// commits are refused long before. Three marks of free space, from Options.Reserve down:
//
//	reserve      below, only transactions that make space are accepted
//	reserve / 2  below, none
//	reserve / 4  below, nothing is moved into Badger any more; commits stay in memory and in the redo log, whose files exist
//
// What waits to be moved counts as used, twice, since Badger writes it once into its log and once into a table. For ordinary
// commits what compactions may need counts as used too; for those that make space it does not, or a filesystem that others
// filled could not be emptied. What was freed since a commit was refused may be used again, while a quarter of the reserve and what
// compactions may need are left: who removes something and then writes is not refused because the marks have moved meanwhile. The filesystem is asked once per budget: a part of what is left above the mark. Others may fill
// the filesystem meanwhile, so the budget is small, and the reserve larger than what Badger needs.
type space struct {
	free    func() (free, total int64, err error)
	reserve int64
	budget  atomic.Int64 // bytes of commits that are accepted without asking

	compaction atomic.Int64 // bytes that Badger's compactions may need
	rotation   int64        // bytes that Badger may need to write its table in memory into a file

	mu   sync.Mutex // guards what follows
	full bool       // the last ordinary commit was refused
	low  int64      // the least that was left since then
}

const (
	maxBudget  = 1 << 20
	commitCost = 1 << 10 // a commit uses more than its bytes
)

// check returns kv.ErrNoSpace if a commit of n bytes is to be refused, when pending bytes wait to be moved.
func (s *space) check(n, pending int64, frees bool) error {
	if s.budget.Add(-n-commitCost) >= 0 {
		return nil
	}
	free, _, err := s.free()
	if err != nil {
		return err
	}
	left := free - 2*pending
	if above := left - s.reserve - s.compaction.Load(); above >= n {
		s.budget.Store(min(maxBudget, above/8))
		s.setFull(false, 0)
		return nil
	}
	s.budget.Store(0)
	if frees && left >= s.reserve/2 || s.gained(n, left) {
		return nil
	}
	return fmt.Errorf("badgerkv: %d MiB are free, %d MiB are reserved: %w",
		max(left, 0)>>20, (s.reserve+s.compaction.Load())>>20, kv.ErrNoSpace)
}

// gained reports whether a commit of n bytes takes no more than was freed since one was refused.
func (s *space) gained(n, left int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	cost := 2 * (n + commitCost)
	if s.full && left-cost >= s.low && left-cost >= s.reserve/4+s.compaction.Load() {
		return true
	}
	if !s.full || left < s.low {
		s.full, s.low = true, left
	}
	return false
}

// setFull says whether there is too little space for ordinary commits.
func (s *space) setFull(full bool, left int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full, s.low = full, left
}

// begin looks at the filesystem when the store is opened: it may be full already.
func (s *space) begin() {
	if free, _, err := s.free(); err == nil && free < s.reserve+s.compaction.Load() {
		s.setFull(true, free)
	}
}

// checkCompact returns kv.ErrNoSpace if all tables, of that many bytes, are not to be merged, when pending bytes wait to be moved. A table
// with rows from everywhere is merged with all of the level below at once, so it may take as much as there is. It makes space, and may
// use the reserve down to where nothing is moved any more.
func (s *space) checkCompact(pending, tables int64) error {
	free, _, err := s.free()
	if err != nil {
		return err
	}
	if free-2*pending-s.rotation-tables < s.reserve/4 {
		return fmt.Errorf("badgerkv: too little space to merge tables of %d MiB: %d MiB are free: %w", tables>>20, free>>20, kv.ErrNoSpace)
	}
	return nil
}

// canMove reports whether Badger may write.
func (s *space) canMove() bool {
	free, _, err := s.free()
	return err == nil && free >= s.reserve/4
}

// statfs returns the bytes of the filesystem of path that are free for ordinary users, and its size.
func statfs(path string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, fmt.Errorf("badgerkv: statfs: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}
