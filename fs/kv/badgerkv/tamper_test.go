package badgerkv

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
)

// TestTampering damages table files. The process survives, no wrong value is ever returned, and what is damaged is refused at
// Open, found by Verify, or was never looked at.
func TestTampering(t *testing.T) {
	const rows = 2000
	rng := rand.New(rand.NewPCG(kvtest.Seed(t), 6))
	dir, key := t.TempDir(), crypto.NewDataKey()
	opt := tiny()
	opt.Logger = quiet()
	s := sealed.New(openTest(t, dir, opt), key)
	for i := range rows {
		set(t, s, fmt.Sprint(i), fmt.Sprint("value ", i))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(names) == 0 {
		t.Fatal("no tables", err)
	}
	name := names[len(names)-1]
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before := t.TempDir()
	restore := func(to, from string) {
		if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
			t.Fatal(err)
		}
	}
	restore(before, dir)
	refused, verified, missing, failed := 0, 0, 0, 0
	for round := range 60 {
		restore(dir, before)
		b := bytes.Clone(good)
		for range 1 + rng.IntN(10) {
			b[rng.IntN(len(b))] ^= byte(1 + rng.IntN(255))
		}
		if round%10 == 0 {
			b = b[:rng.IntN(len(b))]
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		engine, err := Open(dir, opt)
		if err != nil {
			if !errors.Is(err, kv.ErrCorrupt) {
				t.Errorf("round %d: Open: %v", round, err)
			}
			refused++
			continue
		}
		if err := engine.Verify(); errors.Is(err, kv.ErrCorrupt) {
			verified++
		} else {
			t.Errorf("round %d: Verify: %v", round, err)
		}
		s := sealed.New(engine, key)
		for i := range rows {
			v, err := get(s, fmt.Sprint(i))
			switch {
			case err == nil && string(v) != fmt.Sprint("value ", i):
				t.Errorf("row %d has a wrong value", i)
			case errors.Is(err, kv.ErrNotFound):
				missing++
			case errors.Is(err, kv.ErrCorrupt):
				failed++
			case err != nil:
				t.Errorf("row %d: %v", i, err)
			}
		}
		err = s.View(func(r kv.Reader) error {
			return r.Scan(nil, nil, func(key, value []byte) (bool, error) {
				if string(value) != "value "+string(key) {
					t.Errorf("scanned row %q has a wrong value", key)
				}
				return true, nil
			})
		})
		if err != nil && !errors.Is(err, kv.ErrCorrupt) {
			t.Errorf("scan: %v", err)
		}
		// What a compaction would meet in a goroutine of Badger's, where a panic ends the process: it has been met at Open.
		if err := engine.db.Flatten(2); err != nil {
			t.Errorf("round %d: compaction: %v", round, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("of 60 damaged tables %d were refused at Open, %d by Verify; %d rows failed, %d seemed missing", refused, verified, failed, missing)
	restore(dir, before)
	engine := openTest(t, dir, Options{})
	if err := engine.Verify(); err != nil {
		t.Error(err)
	}
	if err := engine.Close(); err != nil {
		t.Error(err)
	}
}

// TestTableBeingWritten opens a store that was killed while Badger wrote a table: the file is there in part, and the manifest does not
// name it. It must be taken away, not taken for damage.
func TestTableBeingWritten(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{})
	set(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(names) == 0 {
		t.Fatal("no tables", err)
	}
	whole, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{nil, make([]byte, 100_000), whole[:len(whole)/2], whole} {
		torn := filepath.Join(dir, "db", "000999.sst")
		if err := os.WriteFile(torn, part, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openTest(t, dir, Options{})
		if v, err := get(s, "a"); err != nil || string(v) != "1" {
			t.Errorf("%d bytes: a = %q, %v", len(part), v, err)
		}
		if _, err := os.Stat(torn); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%d bytes: the table is still there: %v", len(part), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// One that the manifest names must be there.
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Logger: quiet()}); !errors.Is(err, kv.ErrCorrupt) {
		t.Errorf("without a table: %v", err)
	}
}
