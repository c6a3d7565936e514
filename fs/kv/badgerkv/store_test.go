package badgerkv

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// tiny makes everything happen often: movements into Badger, rotations of the log, waiting for room.
func tiny() Options {
	return Options{Logger: quiet(), Overlay: 256 << 10, Batch: 16 << 10, RedoSegment: 128 << 10, MemTable: 4 << 20}
}

func openTest(t testing.TB, dir string, opt Options) *Store {
	t.Helper()
	if opt.Logger == nil {
		opt.Logger = quiet()
	}
	s, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store { return openTest(t, t.TempDir(), Options{}) })
}

// TestConformanceMoving runs with a movement into Badger every few commits. Segments must hold the largest transaction.
func TestConformanceMoving(t *testing.T) {
	opt := tiny()
	opt.RedoSegment = 0
	kvtest.Run(t, func(t *testing.T) kv.Store { return openTest(t, t.TempDir(), opt) })
}

func TestConformanceSealed(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store {
		return sealed.New(openTest(t, t.TempDir(), Options{}), crypto.NewDataKey())
	})
}

func TestReopen(t *testing.T) {
	kvtest.RunReopen(t, func(t *testing.T, dir string) kv.Store { return openTest(t, dir, tiny()) })
}

func set(t testing.TB, s kv.Store, key, value string) {
	t.Helper()
	if err := s.Update(func(tx kv.Txn) error { tx.Set([]byte(key), []byte(value)); return nil }); err != nil {
		t.Fatal(err)
	}
}

func get(s kv.Store, key string) (value []byte, err error) {
	err = s.View(func(r kv.Reader) error {
		value, err = r.Get([]byte(key))
		return err
	})
	return value, err
}

// TestCleanClose finds an empty redo log after Close.
func TestCleanClose(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{})
	for i := range 1000 {
		set(t, s, fmt.Sprint(i), "v")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, dir, Options{})
	if st := s.Stats(); st.Replayed != 0 {
		t.Errorf("replayed %d commits after a clean Close", st.Replayed)
	}
	for i := range 1000 {
		if _, err := get(s, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLocked opens a store twice.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{})
	if again, err := Open(dir, Options{Logger: quiet()}); err == nil {
		t.Error("opened twice")
		_ = again.Close()
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(s.Close(), kv.ErrClosed) {
		t.Error("closed twice")
	}
}
