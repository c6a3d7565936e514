package fs

import (
	"bytes"
	"sync/atomic"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// fullRows is a store of rows that has no room while full is set.
type fullRows struct {
	kv.Store
	full atomic.Bool
}

func (s *fullRows) Update(fn func(kv.Txn) error) error {
	if s.full.Load() {
		return kv.ErrNoSpace
	}
	return s.Store.Update(fn)
}

// TestBeyondUncommittedTruncation looks at a file that was cut inside an extent and has grown again, before the rows say so: what lies
// between is a hole.
func TestBeyondUncommittedTruncation(t *testing.T) {
	rows := &fullRows{Store: memkv.New()}
	r := newRigWith(t, rows, memextent.New())
	f := r.create(r.bucket("b"), "f")
	const size, cut, again = 64 << 10, 5000, 60000
	old := bytes.Repeat([]byte{'o'}, size)
	_, err := f.WriteAt(old, 0)
	r.ok(err)
	r.ok(f.Sync(false))
	rows.full.Store(true)
	r.want(ErrNoSpace, f.Truncate(cut))
	_, err = f.WriteAt([]byte("new"), again)
	r.ok(err)
	want := make([]byte, again+3)
	copy(want, old[:cut])
	copy(want[again:], "new")
	look := func() {
		t.Helper()
		for _, at := range []int{0, 4096, cut - 1, cut, cut + 1, 8192, 20000, again - 1, again} {
			got := make([]byte, 4096)
			n, err := f.ReadAt(got, int64(at))
			if err != nil || !bytes.Equal(got[:n], want[at:min(at+4096, len(want))]) {
				t.Errorf("read at %d: %d bytes, %v, not what is there", at, n, err)
			}
		}
	}
	look()
	rows.full.Store(false)
	r.ok(f.Sync(false))
	look()
	if at, err := f.SeekHole(0); err != nil || at != cut {
		t.Errorf("first hole at %d, %v; want %d", at, err, cut)
	}
	if at, err := f.SeekData(8192); err != nil || at != again {
		t.Errorf("data after the hole at %d, %v; want %d", at, err, again)
	}
	r.ok(f.Close())
}
