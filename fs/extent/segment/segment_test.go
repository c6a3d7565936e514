package segment

import (
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/extenttest"
)

var testStore = [16]byte{1, 2, 3}

// small makes segments of 1 MiB, so that tests cross many, and few descriptors,
// so that they are closed and opened again.
var small = Options{StoreID: testStore, SegmentSize: 1 << 20, OpenFiles: 3}

func openTest(t *testing.T, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if !s.closed.Load() {
			s.Abandon()
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	extenttest.Run(t, extenttest.Driver{
		Open: func(t *testing.T) extent.Store { return openTest(t, t.TempDir(), small) },
		Reopen: func(t *testing.T, s extent.Store) extent.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openTest(t, s.(*Store).dir, small)
		},
		Crash: func(t *testing.T, s extent.Store) extent.Store {
			s.(*Store).Abandon()
			return openTest(t, s.(*Store).dir, small)
		},
		MaxExtent: 200_000,
	})
}
