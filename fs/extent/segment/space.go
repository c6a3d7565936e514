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

// space holds the reserve: it grants room in budgets, each backed by one statfs.
type space struct {
	reserve int64
	clock   func() time.Time                // nil: budgets do not age
	avail   func() (bytes int64, err error) // free for us on the file system

	mu     sync.Mutex // guards what follows
	budget int64
	asked  time.Time
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
	if room < n {
		s.budget = 0
		return fmt.Errorf("segment: %d bytes available, %d of them reserved: %w", avail, s.reserve, extent.ErrNoSpace)
	}
	// Near the reserve the budgets shrink, so that it is held closely.
	s.budget = max(n, min(budgetBytes, room/4)) - n
	return nil
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
