package segment

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

const (
	budgetBytes = 16 << 20
	budgetAge   = 100 * time.Millisecond
)

// space holds the reserve: it grants room in budgets, each backed by one statfs. What was freed while there was no room may be used again
// even though the reserve is touched (others, for whom it is held, have it), down to half of the reserve: who removes and then writes
// is not refused.
type space struct {
	reserve int64
	clock   func() time.Time                // nil: budgets do not age
	avail   func() (bytes int64, err error) // free for us on the file system

	mu     sync.Mutex // guards what follows
	budget int64
	asked  time.Time
	full   bool  // there was no room, and what was freed since is more than there is now
	freed  int64 // bytes since then that were not used again
}

// take grants n bytes, or returns extent.ErrNoSpace if granting them would touch
// the reserve.
func (s *space) take(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.budget >= n && !s.stale() {
		s.budget -= n
		return nil
	}
	avail, err := s.avail()
	if err != nil {
		return fmt.Errorf("segment: statfs: %w", err)
	}
	if s.clock != nil {
		s.asked = s.clock()
	}
	room := avail - s.reserve
	if room < n && n <= s.freed && avail-n >= s.reserve/2 {
		s.freed -= n
		return nil
	}
	if room < n {
		s.full, s.budget = true, 0
		return fmt.Errorf("segment: %d bytes available, %d of them reserved: %w", avail, s.reserve, extent.ErrNoSpace)
	}
	if s.freed > room { // a few bytes above the reserve: what was freed is more than that, and who freed it may want to write more
		s.freed -= n
		s.budget = 0
		return nil
	}
	s.full, s.freed = false, 0
	// Near the reserve the budgets shrink, so that it is held closely.
	s.budget = max(n, min(budgetBytes, room/4)) - n
	return nil
}

// begin looks at the file system when the store is opened: it may be full already.
func (s *space) begin() {
	avail, err := s.avail()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = err == nil && avail < s.reserve
}

// gave is told of bytes that were freed.
func (s *space) gave(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		s.freed += n
	}
}

func (s *space) stale() bool {
	if s.clock == nil {
		return false
	}
	age := s.clock().Sub(s.asked)
	return age < 0 || age >= budgetAge
}

func availOf(dir string) func() (int64, error) {
	return func() (int64, error) {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return 0, err
		}
		unit := st.Frsize
		if unit == 0 {
			unit = st.Bsize
		}
		return int64(st.Bavail) * unit, nil
	}
}
