package fs

import (
	"bytes"
	"math"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// countedRows counts what transactions write, and the rows that they read.
type countedRows struct {
	kv.Store
	writes, reads int
}

type countedTxn struct {
	kv.Txn
	s *countedRows
}

func (t countedTxn) Set(key, value []byte) {
	t.s.writes++
	t.Txn.Set(key, value)
}

func (t countedTxn) Delete(key []byte) {
	t.s.writes++
	t.Txn.Delete(key)
}

func (t countedTxn) Get(key []byte) ([]byte, error) {
	t.s.reads++
	return t.Txn.Get(key)
}

func (s *countedRows) Update(fn func(kv.Txn) error) error {
	return s.Store.Update(func(t kv.Txn) error { return fn(countedTxn{t, s}) })
}

// TestRepeatedSyncWritesNothing: a file that is synced again without having changed costs no rows.
func TestRepeatedSyncWritesNothing(t *testing.T) {
	rows := &countedRows{Store: memkv.New()}
	r := newRigWith(t, rows, memextent.New())
	f := r.create(r.bucket("b"), "f")
	_, err := f.WriteAt(bytes.Repeat([]byte{'x'}, 1<<20), 0)
	r.ok(err)
	r.ok(f.Sync(false))
	r.ok(f.Truncate(1 << 19))
	r.ok(f.Sync(false))
	before := rows.writes
	r.ok(f.Sync(false))
	r.ok(f.Sync(true))
	if rows.writes != before {
		t.Errorf("%d rows were written", rows.writes-before)
	}
	r.ok(f.Truncate(1 << 18))
	r.ok(f.Sync(false))
	if rows.writes == before {
		t.Error("a shorter file wrote no rows")
	}
	r.ok(f.Close())
}

// TestSyncedBlocksLeaveNothing syncs after each of many blocks: what went from the rows to a segment is no row any more, nothing waits for
// the epoch to be closed, and no transaction reads a row.
func TestSyncedBlocksLeaveNothing(t *testing.T) {
	rows := &countedRows{Store: memkv.New()}
	r := newRigWith(t, rows, memextent.New())
	f := r.create(r.bucket("b"), "f")
	p := bytes.Repeat([]byte{'x'}, 4096)
	const blocks = 3*inlineTotal/4096 + 7
	for i := range int64(blocks) {
		_, err := f.WriteAt(p, i*4096)
		r.ok(err)
		if i == 2 {
			rows.reads = 0
		}
		r.ok(f.Sync(false))
	}
	if rows.reads != 0 {
		t.Errorf("%d rows were read", rows.reads)
	}
	inline, replaced := 0, 0
	r.ok(r.v.Rows().View(func(t *meta.Reader) error {
		for id := range f.d.extents.refs {
			if id.Inline {
				inline++
			}
		}
		return t.Replacements(0, math.MaxUint64, func(uint64, uint64, meta.Replaced) (bool, error) {
			replaced++
			return true, nil
		})
	}))
	if want := inlineTotal / 4096; inline > want || replaced > 0 {
		t.Errorf("%d inline extents, %d replaced pieces", inline, replaced)
	}
	r.ok(f.Close())
}
