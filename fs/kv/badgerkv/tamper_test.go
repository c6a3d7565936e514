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
	s := sealed.New(openTest(t, dir, Options{}), key)
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
	refused, verified, missing, failed := 0, 0, 0, 0
	for round := range 60 {
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
		engine, err := Open(dir, Options{Logger: quiet()})
		if err != nil {
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
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("of 60 damaged tables %d were refused at Open, %d by Verify; %d rows failed, %d seemed missing", refused, verified, failed, missing)
	if err := os.WriteFile(name, good, 0o600); err != nil {
		t.Fatal(err)
	}
	engine := openTest(t, dir, Options{})
	if err := engine.Verify(); err != nil {
		t.Error(err)
	}
	if err := engine.Close(); err != nil {
		t.Error(err)
	}
}
