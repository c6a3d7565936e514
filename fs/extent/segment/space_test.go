package segment

import (
	"errors"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// TestFreedIsUsedAgain: on a full disk what was freed is taken for new extents, no more than that, and not below half of the reserve;
// also where the disk was full when the store was opened, and others have what the reserve is for.
func TestFreedIsUsedAgain(t *testing.T) {
	const mib = 1 << 20
	free := int64(80 * mib) // of them 100 reserved
	s := space{reserve: 100 * mib, avail: func() (int64, error) { return free, nil }}
	s.begin()
	take := func(n int64, ok bool) {
		t.Helper()
		err := s.take(n)
		if ok != (err == nil) || err != nil && !errors.Is(err, extent.ErrNoSpace) {
			t.Errorf("taking %d bytes of %d: %v", n, free, err)
		}
		if err == nil {
			free -= n
		}
	}
	give := func(n int64) { free += n; s.gave(n) }
	take(1, false)
	give(2 * mib)
	take(mib, true)
	take(mib+1, false)
	take(mib, true)
	take(1, false)
	give(3 * mib)
	free = 52 * mib // the rows took it
	take(3*mib, false)
	take(2*mib, true)
	take(1, false)
	free = 94 * mib
	give(7 * mib)
	take(mib/4, true) // one more than is reserved, but what was freed is not forgotten for that
	take(3*mib, true)
	free = 200 * mib
	take(mib, true)
	give(mib)          // there is room: nothing to remember
	free = 100*mib - 1 // others filled the disk
	for i := 0; s.budget >= mib && i < 100; i++ {
		take(mib, true)
	}
	take(mib, false)
}
