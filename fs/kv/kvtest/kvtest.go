// Package kvtest tests the promises of kv.Store. Every engine and every decorator runs Run; what keeps its rows on disk runs
// RunReopen too. Faulty wraps a store so that those who stand above it can test what they do when it fails.
package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// deferring is a store all of whose commits are deferred: what holds between them holds for these, too.
type deferring struct{ kv.Store }

func (s deferring) Update(fn func(kv.Txn) error) error { return kv.UpdateDeferred(s.Store, fn) }

// Run tests a kind of store. open returns a new, empty one, whose Close Run calls.
func Run(t *testing.T, open func(t *testing.T) kv.Store) {
	run(t, open)
	s := open(t)
	_, defers := s.(kv.Deferrer)
	check(t, s.Close())
	if defers {
		t.Run("Deferred", func(t *testing.T) {
			run(t, func(t *testing.T) kv.Store { return deferring{open(t)} })
		})
	}
}

func run(t *testing.T, open func(t *testing.T) kv.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, kv.Store)
	}{
		{"GetSetDelete", testGetSetDelete},
		{"OwnWrites", testOwnWrites},
		{"Abort", testAbort},
		{"CopiesKept", testCopiesKept},
		{"Scan", testScan},
		{"ScanWrites", testScanWrites},
		{"Limits", testLimits},
		{"Snapshot", testSnapshot},
		{"Conflict", testConflict},
		{"ConflictOnMissing", testConflictOnMissing},
		{"NoConflict", testNoConflict},
		{"Counters", testCounters},
		{"Transfers", testTransfers},
		{"SyncShared", testSyncShared},
		{"Model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			c.test(t, s)
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	t.Run("Closed", func(t *testing.T) { testClosed(t, open(t)) })
}

func testGetSetDelete(t *testing.T, s kv.Store) {
	wantRows(t, s)
	update(t, s, func(tx kv.Txn) { tx.Delete([]byte("never there")) })
	update(t, s, func(tx kv.Txn) {
		tx.Set([]byte("a"), []byte("1"))
		tx.Set([]byte("b"), nil)
		tx.Set([]byte{0}, []byte("zero"))
		tx.Set([]byte{0xff, 0xff}, []byte("ones"))
	})
	wantRows(t, s, "\x00=zero", "a=1", "b=", "\xff\xff=ones")
	if v, err := get(s, "b"); err != nil || v == nil {
		t.Errorf("an empty value came back as %v, %v", v, err)
	}
	update(t, s, func(tx kv.Txn) {
		tx.Set([]byte("a"), []byte("2"))
		tx.Delete([]byte("b"))
		tx.Delete([]byte("b"))
	})
	wantRows(t, s, "\x00=zero", "a=2", "\xff\xff=ones")
	if _, err := get(s, "b"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("Get of a deleted row: %v", err)
	}
	update(t, s, func(tx kv.Txn) { tx.Set([]byte("b"), []byte("again")) })
	wantRows(t, s, "\x00=zero", "a=2", "b=again", "\xff\xff=ones")
}

func testOwnWrites(t *testing.T, s kv.Store) {
	set(t, s, "a", "1")
	set(t, s, "b", "1")
	set(t, s, "c", "1")
	update(t, s, func(tx kv.Txn) {
		tx.Set([]byte("b"), []byte("2"))
		tx.Set([]byte("bb"), []byte("2"))
		tx.Delete([]byte("c"))
		tx.Set([]byte("d"), []byte("2"))
		tx.Delete([]byte("d"))
		wantScan(t, tx, nil, nil, "a=1", "b=2", "bb=2")
		for key, want := range map[string]string{"a": "1", "b": "2", "bb": "2", "c": "", "d": "", "e": ""} {
			v, err := tx.Get([]byte(key))
			switch {
			case want == "" && !errors.Is(err, kv.ErrNotFound):
				t.Errorf("Get %s: %q, %v; want no row", key, v, err)
			case want != "" && (err != nil || string(v) != want):
				t.Errorf("Get %s: %q, %v; want %s", key, v, err, want)
			}
		}
		for i := range 50 { // many writes, in descending order, some of them twice
			tx.Set(fmt.Appendf(nil, "x%02d", 49-i), []byte("first"))
			if i%2 == 0 {
				tx.Set(fmt.Appendf(nil, "x%02d", 49-i), []byte("second"))
			}
		}
		tx.Delete([]byte("x10"))
		n := 0
		check(t, tx.Scan([]byte("x"), []byte("y"), func(key, value []byte) (bool, error) {
			want := "first"
			var i int
			if _, err := fmt.Sscanf(string(key), "x%d", &i); err != nil || i < n {
				t.Errorf("scan met %q after %d rows", key, n)
			}
			if i%2 == 1 {
				want = "second"
			}
			if string(value) != want {
				t.Errorf("scan met %q = %q, want %q", key, value, want)
			}
			n++
			return true, nil
		}))
		if n != 49 {
			t.Errorf("scan met %d rows, want 49", n)
		}
	})
	wantScanView(t, s, []byte("a"), []byte("x"), "a=1", "b=2", "bb=2")
}

func testAbort(t *testing.T, s kv.Store) {
	set(t, s, "a", "1")
	boom := errors.New("boom")
	err := s.Update(func(tx kv.Txn) error {
		tx.Set([]byte("a"), []byte("2"))
		tx.Delete([]byte("a"))
		tx.Set([]byte("b"), []byte("2"))
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("Update returned %v", err)
	}
	if err := s.View(func(kv.Reader) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("View returned %v", err)
	}
	wantRows(t, s, "a=1")
}

// testCopiesKept changes every slice that was given or lent.
func testCopiesKept(t *testing.T, s kv.Store) {
	update(t, s, func(tx kv.Txn) {
		k, v := []byte("key"), []byte("value")
		tx.Set(k, v)
		copy(k, "xxx")
		copy(v, "xxxxx")
		k = []byte("gone")
		tx.Set(k, v)
		tx.Delete(k)
		copy(k, "yyyy")
		got, err := tx.Get([]byte("key"))
		check(t, err)
		copy(got, "zzzzz")
	})
	got, err := get(s, "key")
	check(t, err)
	copy(got, "zzzzz")
	_ = append(got, "more"...)
	wantRows(t, s, "key=value")
}

func testScan(t *testing.T, s kv.Store) {
	keys := []string{"a", "a\x00", "ab", "b", "b\xff", "b\xff\xff", "c"}
	for _, k := range keys {
		set(t, s, k, k)
	}
	bounds := append([]string{"", "a\x00\x00", "aa", "bb", "d", "\xff"}, keys...)
	for _, from := range bounds {
		for _, to := range bounds {
			var want []string
			for _, k := range keys {
				if k >= from && k < to {
					want = append(want, k+"="+k)
				}
			}
			wantScanView(t, s, []byte(from), []byte(to), want...)
		}
		var rest []string
		for _, k := range keys {
			if k >= from {
				rest = append(rest, k+"="+k)
			}
		}
		wantScanView(t, s, []byte(from), nil, rest...)
	}
	wantScanView(t, s, []byte("b"), kv.PrefixEnd([]byte("b")), "b=b", "b\xff=b\xff", "b\xff\xff=b\xff\xff")
	boom := errors.New("boom")
	check(t, s.View(func(r kv.Reader) error {
		n := 0
		check(t, r.Scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return n < 2, nil }))
		if n != 2 {
			t.Errorf("a scan that was told to stop after 2 rows met %d", n)
		}
		if err := r.Scan(nil, nil, func(_, _ []byte) (bool, error) { return true, boom }); !errors.Is(err, boom) {
			t.Errorf("Scan returned %v", err)
		}
		// Scans may be nested, and Get used inside.
		pairs := 0
		check(t, r.Scan(nil, nil, func(key, _ []byte) (bool, error) {
			outer := bytes.Clone(key)
			err := r.Scan(nil, nil, func(_, _ []byte) (bool, error) { pairs++; return true, nil })
			if v, e := r.Get(outer); e != nil || !bytes.Equal(v, outer) || !bytes.Equal(key, outer) {
				t.Errorf("inside a scan at %q: Get %q, %v; key now %q", outer, v, e, key)
			}
			return true, err
		}))
		if pairs != len(keys)*len(keys) {
			t.Errorf("nested scans met %d pairs", pairs)
		}
		return nil
	}))
}

// testScanWrites writes while scanning: the scan sees what was there when it began.
func testScanWrites(t *testing.T, s kv.Store) {
	for i := range 20 {
		set(t, s, fmt.Sprintf("k%02d", i), "old")
	}
	update(t, s, func(tx kv.Txn) {
		n := 0
		check(t, tx.Scan(nil, nil, func(key, value []byte) (bool, error) {
			if string(value) != "old" || len(key) != 3 {
				t.Errorf("scan met %q = %q", key, value)
			}
			n++
			tx.Delete([]byte("k10"))
			tx.Set([]byte("k15"), []byte("new"))
			tx.Set(append(bytes.Clone(key), 'x'), []byte("new"))
			tx.Delete(key)
			return true, nil
		}))
		if n != 20 {
			t.Errorf("scan met %d rows", n)
		}
	})
	check(t, s.View(func(r kv.Reader) error {
		n := 0
		err := r.Scan(nil, nil, func(key, value []byte) (bool, error) {
			n++
			if len(key) != 4 && string(key) != "k15" || string(value) != "new" {
				t.Errorf("row %q = %q", key, value)
			}
			return true, nil
		})
		if n < 20 || n > 21 { // k15: deleted after it was set while at it, then set again by what came after
			t.Errorf("%d rows", n)
		}
		return err
	}))
}

// slack is what a decorator may take of the limit for values.
const slack = 64

func testLimits(t *testing.T, s kv.Store) {
	big := bytes.Repeat([]byte{7}, kv.MaxValueSize-slack)
	long := bytes.Repeat([]byte{'k'}, kv.MaxKeySize)
	update(t, s, func(tx kv.Txn) { tx.Set(long, big) })
	if v, err := get(s, string(long)); err != nil || !bytes.Equal(v, big) {
		t.Errorf("largest row came back with %d bytes, %v", len(v), err)
	}
	for name, fn := range map[string]func(tx kv.Txn){
		"value":        func(tx kv.Txn) { tx.Set([]byte("x"), make([]byte, kv.MaxValueSize+1)) },
		"key":          func(tx kv.Txn) { tx.Set(make([]byte, kv.MaxKeySize+1), nil) },
		"deleted key":  func(tx kv.Txn) { tx.Delete(make([]byte, kv.MaxKeySize+1)) },
		"empty key":    func(tx kv.Txn) { tx.Set(nil, []byte("x")) },
		"transaction":  func(tx kv.Txn) { fill(tx, kv.MaxTxnSize+kv.MaxValueSize) },
		"among others": func(tx kv.Txn) { tx.Set([]byte("y"), nil); tx.Set(nil, nil); tx.Set([]byte("z"), nil) },
	} {
		err := s.Update(func(tx kv.Txn) error { fn(tx); return nil })
		if !errors.Is(err, kv.ErrTooBig) {
			t.Errorf("%s too big: %v", name, err)
		}
	}
	update(t, s, func(tx kv.Txn) { fill(tx, kv.MaxTxnSize-kv.MaxValueSize) })
	if _, err := get(s, "y"); !errors.Is(err, kv.ErrNotFound) {
		t.Errorf("a refused transaction was applied: %v", err)
	}
}

// fill sets rows of together about n bytes.
func fill(tx kv.Txn, n int) {
	value := make([]byte, kv.MaxValueSize-slack)
	for i := 0; n > 0; i++ {
		tx.Set(fmt.Appendf(nil, "fill%d", i), value)
		n -= len(value)
	}
}

func testClosed(t *testing.T, s kv.Store) {
	check(t, s.Close())
	for name, err := range map[string]error{
		"View":   s.View(func(kv.Reader) error { return nil }),
		"Update": s.Update(func(kv.Txn) error { return nil }),
		"Sync":   s.Sync(),
		"Close":  s.Close(),
	} {
		if !errors.Is(err, kv.ErrClosed) {
			t.Errorf("%s of a closed store: %v", name, err)
		}
	}
}

// Small tools, used by all tests of the package.

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func update(t testing.TB, s kv.Store, fn func(kv.Txn)) {
	t.Helper()
	check(t, s.Update(func(tx kv.Txn) error { fn(tx); return nil }))
}

func set(t testing.TB, s kv.Store, key, value string) {
	t.Helper()
	update(t, s, func(tx kv.Txn) { tx.Set([]byte(key), []byte(value)) })
}

func get(s kv.Store, key string) (value []byte, err error) {
	err = s.View(func(r kv.Reader) error {
		value, err = r.Get([]byte(key))
		return err
	})
	return value, err
}

func rows(r kv.Reader, start, end []byte) ([]string, error) {
	var got []string
	err := r.Scan(start, end, func(key, value []byte) (bool, error) {
		got = append(got, string(key)+"="+string(value))
		return true, nil
	})
	return got, err
}

func wantScan(t testing.TB, r kv.Reader, start, end []byte, want ...string) {
	t.Helper()
	got, err := rows(r, start, end)
	check(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("scan [%q, %q): got %q, want %q", start, end, got, want)
	}
}

func wantScanView(t testing.TB, s kv.Store, start, end []byte, want ...string) {
	t.Helper()
	check(t, s.View(func(r kv.Reader) error { wantScan(t, r, start, end, want...); return nil }))
}

func wantRows(t testing.TB, s kv.Store, want ...string) {
	t.Helper()
	wantScanView(t, s, nil, nil, want...)
}
