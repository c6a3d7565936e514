package badgerkv

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv/redo"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
)

// TestHeldAcrossMoves keeps snapshots and a transaction while everything is moved into Badger under them, several times.
func TestHeldAcrossMoves(t *testing.T) {
	s := openTest(t, t.TempDir(), tiny())
	set(t, s, "a", "first")
	set(t, s, "gone", "first")
	churn := func() {
		for i := range 400 {
			if err := s.Update(func(tx kv.Txn) error {
				tx.Set([]byte("b"), bytes.Repeat([]byte{byte(i)}, 500))
				tx.Set(key8('c', uint64(i)), make([]byte, 500))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := s.Stats().Batches
	inner := make(chan struct{})
	held := make(chan error)
	go func() {
		held <- s.View(func(r kv.Reader) error {
			inner <- struct{}{}
			<-inner
			for key, want := range map[string]string{"a": "first", "gone": "first"} {
				if v, err := r.Get([]byte(key)); err != nil || string(v) != want {
					return fmt.Errorf("%s = %q, %w", key, v, err)
				}
			}
			n := 0
			err := r.Scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
			if n != 2 {
				return fmt.Errorf("%d rows", n)
			}
			return err
		})
	}()
	<-inner
	runs := 0
	err := s.Update(func(tx kv.Txn) error {
		runs++
		if _, err := tx.Get([]byte("a")); err != nil {
			return err
		}
		if _, err := tx.Get([]byte("never")); !errors.Is(err, kv.ErrNotFound) {
			return fmt.Errorf("never: %w", err)
		}
		if runs == 1 {
			churn() // moves "a" from the overlay into Badger, unchanged
		}
		if runs == 2 {
			set(t, s, "never", "now")
			set(t, s, "a", "second")
			churn() // moves the changes too
		}
		tx.Set([]byte("result"), []byte("x"))
		if runs == 1 {
			return kv.ErrConflict
		}
		return nil
	})
	if err == nil || runs != 3 {
		// The third run finds "never" there.
		t.Errorf("%d runs, %v", runs, err)
	}
	if err := s.Update(func(tx kv.Txn) error { tx.Delete([]byte("gone")); return nil }); err != nil {
		t.Fatal(err)
	}
	churn()
	inner <- struct{}{}
	if err := <-held; err != nil {
		t.Errorf("old snapshot: %v", err)
	}
	if n := s.Stats().Batches - before; n < 3 {
		t.Errorf("only %d movements: the test tests nothing", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNoFalseConflict has a transaction whose rows were moved, not changed: it is not run again.
func TestNoFalseConflict(t *testing.T) {
	s := openTest(t, t.TempDir(), tiny())
	set(t, s, "a", "1")
	runs := 0
	if err := s.Update(func(tx kv.Txn) error {
		runs++
		if _, err := tx.Get([]byte("a")); err != nil {
			return err
		}
		before := s.Stats().Batches
		for i := 0; s.Stats().Batches < before+2; i++ {
			set(t, s, fmt.Sprint("other", i), string(make([]byte, 1000)))
		}
		tx.Set([]byte("a"), []byte("2"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if runs != 1 {
		t.Errorf("%d runs", runs)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

var errBoom = errors.New("boom")

// TestFailures makes each kind of I/O fail at some moment: the store refuses from then on, goes on reading what was
// acknowledged, and has all of it when it is opened again.
func TestFailures(t *testing.T) {
	for _, kind := range []string{"redo write", "redo sync", "badger sync"} {
		t.Run(kind, func(t *testing.T) {
			var armed atomic.Bool
			fault := func(k string) error {
				if k == kind && armed.Load() {
					return errBoom
				}
				return nil
			}
			opt := tiny()
			opt.hooks.redo = redo.Files{
				WriteAt: func(f *os.File, p []byte, off int64) (int, error) {
					if err := fault("redo write"); err != nil {
						return 0, err
					}
					return f.WriteAt(p, off)
				},
				Sync: func(f *os.File) error {
					if err := fault("redo sync"); err != nil {
						return err
					}
					return f.Sync()
				},
			}
			opt.hooks.badgerSync = func(path string) error {
				if err := fault("badger sync"); err != nil {
					return err
				}
				return syncPath(path)
			}
			dir := t.TempDir()
			s := openTest(t, dir, opt)
			acked := 0
			for i := 0; ; i++ {
				if i == 150 {
					armed.Store(true)
				}
				err := s.Update(func(tx kv.Txn) error { tx.Set(key8('k', uint64(i)), make([]byte, 300)); return nil })
				if err != nil {
					if !errors.Is(err, kv.ErrFailed) || !errors.Is(err, errBoom) {
						t.Fatalf("Update %d: %v", i, err)
					}
					break
				}
				acked++
				if i > 100_000 {
					t.Fatal("the fault was never noticed")
				}
			}
			armed.Store(false)
			if err := s.Update(func(tx kv.Txn) error { tx.Delete([]byte("x")); return nil }); !errors.Is(err, kv.ErrFailed) {
				t.Errorf("Update after a failure: %v", err)
			}
			if err := s.Sync(); !errors.Is(err, kv.ErrFailed) {
				t.Errorf("Sync after a failure: %v", err)
			}
			verify := func(s *Store) {
				for i := range acked {
					if _, err := get(s, string(key8('k', uint64(i)))); err != nil {
						t.Fatalf("row %d of %d: %v", i, acked, err)
					}
				}
			}
			verify(s)
			if _, err := get(s, string(key8('k', uint64(acked)))); !errors.Is(err, kv.ErrNotFound) {
				t.Errorf("the row whose Update failed: %v", err)
			}
			if err := s.Close(); !errors.Is(err, kv.ErrFailed) {
				t.Errorf("Close after a failure: %v", err)
			}
			s = openTest(t, dir, tiny())
			verify(s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestBounded stops the applier: commits wait when the overlay is full, and go on afterwards.
func TestBounded(t *testing.T) {
	opt := tiny()
	gate := make(chan struct{})
	var open sync.Once
	opt.hooks.beforeMove = func() { <-gate }
	s := openTest(t, t.TempDir(), opt)
	done := make(chan struct{})
	var n atomic.Int64
	go func() {
		defer close(done)
		for i := range 2000 {
			set(t, s, fmt.Sprint(i), string(make([]byte, 1000)))
			n.Add(1)
			if s.Stats().Pending > 2*opt.Overlay {
				t.Errorf("pending %d bytes", s.Stats().Pending)
				open.Do(func() { close(gate) })
			}
			if s.Stats().Pending > opt.Overlay { // the next one waits
				open.Do(func() { close(gate) })
			}
		}
	}()
	<-done
	if n.Load() != 2000 {
		t.Errorf("%d commits", n.Load())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNoSpace plays a filesystem that becomes full and empty again.
func TestNoSpace(t *testing.T) {
	const mib = 1 << 20
	var free atomic.Int64
	free.Store(100 * mib)
	opt := tiny()
	opt.Reserve = 32 * mib
	opt.hooks.free = func() (int64, int64, error) { return free.Load(), 200 * mib, nil }
	dir := t.TempDir()
	s := openTest(t, dir, opt)
	write := func(fn func(tx kv.Txn)) error {
		return s.Update(func(tx kv.Txn) error { fn(tx); return nil })
	}
	grow := func(tx kv.Txn) { tx.Set([]byte("grow"), make([]byte, 2000)) }
	frees := func(tx kv.Txn) { tx.Delete([]byte("old")); tx.Set([]byte("parent"), make([]byte, 200)) }
	if err := write(grow); err != nil {
		t.Fatal(err)
	}
	exhaust := func() { s.space.budget.Store(0) }
	for _, c := range []struct {
		free         int64
		grows, frees bool
	}{{100, true, true}, {33, true, true}, {31, false, true}, {17, false, true}, {15, false, false}, {1, false, false}, {100, true, true}} {
		free.Store(c.free * mib)
		exhaust()
		if err := write(grow); (err == nil) != c.grows || err != nil && !errors.Is(err, kv.ErrNoSpace) {
			t.Errorf("%d MiB free, growing: %v", c.free, err)
		}
		exhaust()
		if err := write(frees); (err == nil) != c.frees || err != nil && !errors.Is(err, kv.ErrNoSpace) {
			t.Errorf("%d MiB free, freeing: %v", c.free, err)
		}
	}
	// With hardly any space the store closes without touching Badger, and what it had is in the redo log.
	set(t, s, "late", "value")
	free.Store(4 * mib)
	batches := s.Stats().Batches
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s.batches.Load() != batches {
		t.Error("rows were moved on a full filesystem")
	}
	// It opens like that, reads, and moves when there is space.
	s = openTest(t, dir, opt)
	if v, err := get(s, "late"); err != nil || string(v) != "value" {
		t.Errorf("late = %q, %v", v, err)
	}
	if s.Stats().Pending == 0 {
		t.Error("nothing pending after opening on a full filesystem")
	}
	exhaust()
	if err := write(frees); !errors.Is(err, kv.ErrNoSpace) {
		t.Errorf("freeing on a full filesystem: %v", err)
	}
	free.Store(100 * mib)
	if err := write(grow); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	free.Store(1 * mib)
	if _, err := Open(dir, opt); !errors.Is(err, kv.ErrNoSpace) {
		t.Errorf("Open with 1 MiB free: %v", err)
	}
	free.Store(100 * mib)
	s = openTest(t, dir, opt)
	if v, err := get(s, "late"); err != nil || string(v) != "value" {
		t.Errorf("late = %q, %v", v, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestForeignRedo opens a store with the redo log of another, without one, and with a damaged one.
func TestForeignRedo(t *testing.T) {
	const twice = "a key that comes up nowhere by chance"
	one, two := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, two} {
		s := openTest(t, dir, tiny())
		set(t, s, twice, dir)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		set(t, s, twice, dir)
		abandon(t, s)
	}
	swap := func() {
		aside := filepath.Join(one, "aside")
		for _, m := range [][2]string{
			{filepath.Join(one, "redo"), aside}, {filepath.Join(two, "redo"), filepath.Join(one, "redo")}, {aside, filepath.Join(two, "redo")},
		} {
			if err := os.Rename(m[0], m[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused := func(what, dir string) {
		t.Helper()
		s, err := Open(dir, tiny())
		if !errors.Is(err, kv.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
	swap()
	refused("foreign redo log", one)
	refused("foreign redo log", two)
	swap()
	if err := os.Rename(filepath.Join(two, "redo"), filepath.Join(two, "away")); err != nil {
		t.Fatal(err)
	}
	refused("no redo log", two)
	names, err := filepath.Glob(filepath.Join(one, "redo", "*.redo"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(b, []byte(twice)); i > 0 {
			b[i] ^= 1 // the first of two records with this key: synced, and the second knows it
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused("damaged redo log", one)
}

// TestModelCrash is the random test with an end without Close after every few steps.
func TestModelCrash(t *testing.T) {
	dir := t.TempDir()
	m := kvtest.NewModel(kvtest.Seed(t))
	for round := range 15 {
		s := openTest(t, dir, tiny())
		if err := m.Compare(s); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for i := range 150 {
			if err := m.Step(s); err != nil {
				t.Fatalf("round %d, step %d: %v", round, i, err)
			}
		}
		if err := m.Compare(s); err != nil {
			t.Fatalf("round %d, before the end: %v", round, err)
		}
		abandon(t, s)
	}
}

// FuzzDecodePayload decodes arbitrary bytes: no panic, and what decodes is within the limits and encodes to a payload that
// decodes to the same.
func FuzzDecodePayload(f *testing.F) {
	t := &txn{}
	t.Set([]byte("key"), []byte("value"))
	t.Delete([]byte("other"))
	f.Add(t.record[redo.RecordHeader:])
	f.Add([]byte{opDelete, 1, 'x'})
	f.Add([]byte{opSet, 1, 'x', 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := decodePayload(payload)
		if err != nil {
			if !errors.Is(err, kv.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again := &txn{}
		for _, o := range d.ops {
			if o.deleted {
				again.Delete(d.bytes(o.key))
			} else {
				again.Set(d.bytes(o.key), d.bytes(o.value))
			}
		}
		if again.tooBig || len(again.ops) != len(d.ops) {
			t.Fatalf("decoded operations beyond the limits from %x", payload)
		}
		for i, o := range again.ops {
			if !bytes.Equal(again.bytes(o.key), d.bytes(d.ops[i].key)) || !bytes.Equal(again.bytes(o.value), d.bytes(d.ops[i].value)) {
				t.Fatalf("operation %d differs", i)
			}
		}
	})
}

// TestManyRows overwrites and deletes enough rows for Badger to flush and compact many times, and finds the newest of each.
func TestManyRows(t *testing.T) {
	const rows = 50_000
	rng := rand.New(rand.NewPCG(kvtest.Seed(t), 5))
	dir := t.TempDir()
	opt := Options{Overlay: 4 << 20, Batch: 1 << 20, MemTable: minMemTable}
	s := openTest(t, dir, opt)
	want := map[uint64]uint64{}
	key := func(k uint64) []byte { return key8('k', k*0x9e3779b97f4a7c15) }
	for i := range uint64(40_000) {
		err := s.Update(func(tx kv.Txn) error {
			for range 4 {
				k := rng.Uint64N(rows)
				if rng.IntN(3) == 0 {
					tx.Delete(key(k))
					delete(want, k)
				} else {
					tx.Set(key(k), append(key8('v', i), make([]byte, 200)...))
					want[k] = i
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	verify := func() {
		t.Helper()
		if err := s.View(func(r kv.Reader) error {
			for k := range uint64(rows) {
				got, err := r.Get(key(k))
				i, ok := want[k]
				if ok != (err == nil) || ok && !bytes.Equal(got[:9], key8('v', i)) {
					return fmt.Errorf("row %d: %w; want %t", k, err, ok)
				}
			}
			n := 0
			err := r.Scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
			if n != len(want) {
				return fmt.Errorf("%d rows, want %d", n, len(want))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	verify()
	t.Logf("%+v", s.Stats())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, dir, opt)
	verify()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
