package fs

import (
	"bytes"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// countedRows counts what transactions write.
type countedRows struct {
	kv.Store
	writes int
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
