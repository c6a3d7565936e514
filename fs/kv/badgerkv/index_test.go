package badgerkv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
)

// TestIndexCollisions has a large transaction read its own writes while most of the keys have equal hashes.
func TestIndexCollisions(t *testing.T) {
	whole := hashKey
	hashKey = func(key []byte) uint64 { return whole(key) % 3 }
	defer func() { hashKey = whole }()
	s := openTest(t, t.TempDir(), tiny())
	r := rand.New(rand.NewPCG(kvtest.Seed(t), 0))
	want := map[string]string{}
	check := func(tx kv.Reader) {
		t.Helper()
		for i := range 60 {
			key := fmt.Sprint("key", i)
			v, err := tx.Get([]byte(key))
			if w, ok := want[key]; ok && (err != nil || string(v) != w) || !ok && !errors.Is(err, kv.ErrNotFound) {
				t.Fatalf("%s: %q, %v, want %q", key, v, err, w)
			}
		}
		n := 0
		if err := tx.Scan(nil, nil, func(k, v []byte) (bool, error) {
			if n++; want[string(k)] != string(v) {
				t.Errorf("scan: %s: %q, want %q", k, v, want[string(k)])
			}
			return true, nil
		}); err != nil || n != len(want) {
			t.Fatalf("scan: %d rows, %v, want %d", n, err, len(want))
		}
	}
	if err := s.Update(func(tx kv.Txn) error {
		for i := range 300 {
			key := fmt.Sprint("key", r.IntN(50))
			if r.IntN(4) == 0 {
				tx.Delete([]byte(key))
				delete(want, key)
			} else {
				want[key] = fmt.Sprint(i)
				tx.Set([]byte(key), []byte(want[key]))
			}
			if i%20 == 0 {
				check(tx)
			}
		}
		check(tx)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.View(func(rd kv.Reader) error { check(rd); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
