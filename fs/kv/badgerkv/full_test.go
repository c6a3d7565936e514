package badgerkv

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// TestMergingOnADiskFullOfRows: the few rows that were written last are from everywhere, so that merging them takes as much as all rows
// once more, which is not there: Badger would die of it. It is refused; with more room it is done.
func TestMergingOnADiskFullOfRows(t *testing.T) {
	d := newDisk(t, 400<<20)
	s := openTest(t, filepath.Join(d.dir, "store"), Options{})
	rng := rand.New(rand.NewPCG(3, 3))
	value := make([]byte, 16<<10)
	var keys [][]byte
	for {
		key := key8('f', rng.Uint64())
		err := s.Update(func(tx kv.Txn) error { tx.Set(key, value); return nil })
		if errors.Is(err, kv.ErrNoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
		if len(keys)%2500 == 0 {
			if err := s.Compact(t.Context()); err != nil && !errors.Is(err, kv.ErrNoSpace) {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d rows of %d bytes; %+v", len(keys), len(value), s.Stats())
	remove := func(n int) {
		t.Helper()
		for range n {
			if err := s.Update(func(tx kv.Txn) error { tx.Delete(keys[0]); return nil }); err != nil {
				t.Fatal(err)
			}
			keys = keys[1:]
		}
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for range 5 {
		remove(20)
		if err := s.Compact(ctx); !errors.Is(err, kv.ErrNoSpace) {
			t.Fatalf("merging on a full disk: %v", err)
		}
	}
	for _, k := range keys {
		if _, err := get(s, string(k)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
