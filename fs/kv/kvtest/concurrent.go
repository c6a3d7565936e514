package kvtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// held runs a View in a goroutine and hands its Reader out until release is called.
func held(t *testing.T, s kv.Store) (r kv.Reader, release func()) {
	t.Helper()
	got, done, ended := make(chan kv.Reader), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- s.View(func(r kv.Reader) error {
			got <- r
			<-done
			return nil
		})
	}()
	select {
	case r = <-got:
	case err := <-ended:
		t.Fatalf("View: %v", err)
	}
	return r, func() {
		close(done)
		check(t, <-ended)
	}
}

func testSnapshot(t *testing.T, s kv.Store) {
	set(t, s, "a", "1")
	set(t, s, "b", "1")
	first, release := held(t, s)
	defer release()
	wantScan(t, first, nil, nil, "a=1", "b=1")
	update(t, s, func(tx kv.Txn) {
		tx.Set([]byte("a"), []byte("2"))
		tx.Delete([]byte("b"))
		tx.Set([]byte("c"), []byte("2"))
	})
	second, release2 := held(t, s)
	defer release2()
	for i := range 100 {
		update(t, s, func(tx kv.Txn) {
			tx.Set([]byte("a"), fmt.Appendf(nil, "%d", i))
			tx.Set([]byte("b"), fmt.Appendf(nil, "%d", i))
			tx.Delete([]byte("c"))
		})
	}
	wantScan(t, first, nil, nil, "a=1", "b=1")
	wantScan(t, second, nil, nil, "a=2", "c=2")
	if v, err := first.Get([]byte("a")); err != nil || string(v) != "1" {
		t.Errorf("old snapshot: a = %q, %v", v, err)
	}
	if v, err := first.Get([]byte("c")); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("old snapshot: c = %q, %v", v, err)
	}
	wantRows(t, s, "a=99", "b=99")
}

// conflicting runs an Update that reads key, lets other commit in between on its first run, and returns how often it ran.
func conflicting(t *testing.T, s kv.Store, key string, other func(kv.Txn)) int {
	t.Helper()
	runs := 0
	check(t, s.Update(func(tx kv.Txn) error {
		runs++
		before, err := tx.Get([]byte(key))
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		if runs == 1 {
			done := make(chan error)
			go func() { done <- s.Update(func(tx kv.Txn) error { other(tx); return nil }) }()
			if err := <-done; err != nil {
				return err
			}
			// Still the same state, whatever was committed meanwhile.
			again, err := tx.Get([]byte(key))
			if string(again) != string(before) || err != nil && !errors.Is(err, kv.ErrNotFound) {
				t.Errorf("a transaction saw %q, then %q, %v", before, again, err)
			}
		}
		tx.Set([]byte(key), append(before, 'x'))
		return nil
	}))
	return runs
}

func testConflict(t *testing.T, s kv.Store) {
	set(t, s, "a", "1")
	if n := conflicting(t, s, "a", func(tx kv.Txn) { tx.Set([]byte("a"), []byte("2")) }); n != 2 {
		t.Errorf("after a change of its key the transaction ran %d times", n)
	}
	wantRows(t, s, "a=2x")
	if n := conflicting(t, s, "a", func(tx kv.Txn) { tx.Delete([]byte("a")) }); n != 2 {
		t.Errorf("after the deletion of its key the transaction ran %d times", n)
	}
	wantRows(t, s, "a=x")
	if n := conflicting(t, s, "a", func(tx kv.Txn) { tx.Set([]byte("a"), []byte("x")) }); n != 2 {
		t.Errorf("after its key was written with the same value the transaction ran %d times", n)
	}
}

func testConflictOnMissing(t *testing.T, s kv.Store) {
	if n := conflicting(t, s, "a", func(tx kv.Txn) { tx.Set([]byte("a"), []byte("1")) }); n != 2 {
		t.Errorf("after the creation of its key the transaction ran %d times", n)
	}
	wantRows(t, s, "a=1x")
	runs := 0
	check(t, s.Update(func(kv.Txn) error {
		if runs++; runs < 3 {
			return fmt.Errorf("asked for: %w", kv.ErrConflict)
		}
		return nil
	}))
	if runs != 3 {
		t.Errorf("a function that asked for two more runs had %d", runs)
	}
}

func testNoConflict(t *testing.T, s kv.Store) {
	set(t, s, "a", "1")
	if n := conflicting(t, s, "a", func(tx kv.Txn) { tx.Set([]byte("b"), []byte("1")) }); n != 1 {
		t.Errorf("a change of another key made the transaction run %d times", n)
	}
	wantRows(t, s, "a=1x", "b=1")
}

// testCounters increments a few rows from many goroutines: no increment may be lost.
func testCounters(t *testing.T, s kv.Store) {
	const workers, rounds, counters = 8, 200, 3
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				key := []byte{'n', byte((w + i) % counters)}
				err := s.Update(func(tx kv.Txn) error {
					var n uint64
					v, err := tx.Get(key)
					if err == nil {
						n = binary.BigEndian.Uint64(v)
					} else if !errors.Is(err, kv.ErrNotFound) {
						return err
					}
					tx.Set(key, binary.BigEndian.AppendUint64(nil, n+1))
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	var sum uint64
	for i := range counters {
		v, err := get(s, string([]byte{'n', byte(i)}))
		check(t, err)
		sum += binary.BigEndian.Uint64(v)
	}
	if sum != workers*rounds {
		t.Errorf("counted %d, want %d", sum, workers*rounds)
	}
}

// testTransfers moves units between accounts while others check that every snapshot has the same sum, by Scan and by Get.
func testTransfers(t *testing.T, s kv.Store) {
	const accounts, total = 10, 1000
	key := func(i int) []byte { return fmt.Appendf(nil, "acc%d", i) }
	update(t, s, func(tx kv.Txn) {
		for i := range accounts {
			tx.Set(key(i), []byte{total / accounts})
		}
	})
	move := func(from, to int) error {
		return s.Update(func(tx kv.Txn) error {
			a, err := tx.Get(key(from))
			if err != nil {
				return err
			}
			b, err := tx.Get(key(to))
			if err != nil {
				return err
			}
			if a[0] == 0 || b[0] == 255 || from == to {
				return nil
			}
			tx.Set(key(from), []byte{a[0] - 1})
			tx.Set(key(to), []byte{b[0] + 1})
			return nil
		})
	}
	stop := make(chan struct{})
	var movers, readers sync.WaitGroup
	for w := range 4 {
		movers.Go(func() {
			for i := range 300 {
				if err := move((i*7+w)%accounts, (i*3+w*5+1)%accounts); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.View(func(r kv.Reader) error { return sums(t, r, key, accounts, total) }); err != nil {
				t.Error(err)
				return
			}
		}
	})
	movers.Wait()
	close(stop)
	readers.Wait()
}

func sums(t *testing.T, r kv.Reader, key func(int) []byte, accounts, total int) error {
	scanned, got := 0, 0
	err := r.Scan([]byte("acc"), kv.PrefixEnd([]byte("acc")), func(_, v []byte) (bool, error) {
		scanned += int(v[0])
		return true, nil
	})
	for i := range accounts {
		v, e := r.Get(key(i))
		if e != nil {
			return e
		}
		got += int(v[0])
	}
	if scanned != total || got != total {
		t.Errorf("a snapshot has the sums %d and %d, want %d", scanned, got, total)
	}
	return err
}

func testSyncShared(t *testing.T, s kv.Store) {
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 20 {
				if err := s.Update(func(tx kv.Txn) error { tx.Set([]byte{byte(w), byte(i)}, nil); return nil }); err != nil {
					t.Error(err)
				}
				if err := s.Sync(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
