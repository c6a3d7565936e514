package badgerkv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// onDisk is what the files of a store occupy, by the kind that their names tell, in bytes.
func onDisk(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	err := filepath.Walk(dir, func(path string, f os.FileInfo, err error) error {
		if err != nil || f.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		all[filepath.Ext(path)] += st.Blocks * 512
		all["all"] += st.Blocks * 512
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestNothingInTheValueLog: no row is so long that Badger would put its value into the value log, which therefore needs no collection.
func TestNothingInTheValueLog(t *testing.T) {
	for _, opt := range []Options{{}, {MemTable: minMemTable}} {
		dir := t.TempDir()
		s := openTest(t, dir, opt)
		longest := strings.Repeat("v", kv.MaxValueSize)
		for i := range 40 {
			set(t, s, fmt.Sprintf("long%d", i), longest)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openTest(t, dir, opt)
		if v, err := get(s, "long39"); err != nil || string(v) != longest {
			t.Fatal(len(v), err)
		}
		logs, err := filepath.Glob(filepath.Join(dir, "db", "*.vlog"))
		if err != nil || len(logs) == 0 {
			t.Fatal("no value logs: ", err)
		}
		for _, name := range logs {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			const head = 20 // what Badger writes at the start of each
			if rest := strings.Trim(string(b[min(head, len(b)):]), "\x00"); rest != "" {
				t.Errorf("%s holds %d bytes", filepath.Base(name), len(rest))
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestShrinks: rows that were deleted leave Badger's tables.
func TestShrinks(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, tiny())
	const rows = 40_000
	value := make([]byte, 1000)
	each := func(fn func(tx kv.Txn, key []byte)) {
		t.Helper()
		for i := 0; i < rows; i += 50 {
			if err := s.Update(func(tx kv.Txn) error {
				for k := i; k < i+50; k++ {
					fn(tx, fmt.Appendf(nil, "row%09d", k))
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	compact := func() {
		t.Helper()
		if err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	reopen := func() {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openTest(t, dir, tiny())
	}
	each(func(tx kv.Txn, key []byte) { tx.Set(key, value) })
	set(t, s, "kept", "value")
	compact()
	full := onDisk(t, dir)
	if full[".sst"] < rows*int64(len(value))/2 {
		t.Fatalf("full: %v", full)
	}
	each(func(tx kv.Txn, key []byte) { tx.Delete(key) })
	compact()
	after := onDisk(t, dir) // at once, by the store that deleted them
	t.Log("full", full, "after", after)
	if after[".sst"]+after[".mem"] > 2<<20 {
		t.Errorf("%d bytes are still held", after[".sst"]+after[".mem"])
	}
	tables := s.Stats().Tables
	compact()
	if again := onDisk(t, dir); again[".mem"] > after[".mem"] || s.Stats().Tables != tables {
		t.Errorf("with nothing to do it wrote: %v, then %v", after, again)
	}
	reopen()
	if v, err := get(s, "kept"); err != nil || string(v) != "value" {
		t.Fatal(v, err)
	}
	if _, err := get(s, "row000000007"); !errors.Is(err, kv.ErrNotFound) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context()); !errors.Is(err, kv.ErrClosed) {
		t.Fatal(err)
	}
}

// TestShrinksWithFewTables: so does what never left Badger's level 0, on which it merges nothing by itself while there are few tables:
// as few as a small filesystem has, or a large one.
func TestShrinksWithFewTables(t *testing.T) {
	for _, tables := range []int{fewTables, manyTables} {
		t.Run(strconv.Itoa(tables), func(t *testing.T) { shrinksWithFewTables(t, tables) })
	}
}

func shrinksWithFewTables(t *testing.T, tables int) {
	dir := t.TempDir()
	opt := tiny()
	opt.LevelZero = tables
	s := openTest(t, dir, opt)
	const rows, atOnce = 8000, 100 // of 1000 bytes: two tables in memory, of four MiB each
	value := make([]byte, 1000)
	for _, fn := range []func(kv.Txn, []byte){
		func(tx kv.Txn, key []byte) { tx.Set(key, value) },
		func(tx kv.Txn, key []byte) { tx.Delete(key) },
	} {
		for i := 0; i < rows; i += atOnce {
			if err := s.Update(func(tx kv.Txn) error {
				for k := i; k < i+atOnce; k++ {
					fn(tx, fmt.Appendf(nil, "row%09d", k))
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	set(t, s, "kept", "value")
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := onDisk(t, dir); after[".sst"] > 1<<20 {
		t.Errorf("%d bytes are still in tables", after[".sst"])
	}
	if v, err := get(s, "kept"); err != nil || string(v) != "value" {
		t.Fatal(v, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCompactEnds: a Compact ends with its context, also while it waits for another.
func TestCompactEnds(t *testing.T) {
	s := openTest(t, t.TempDir(), tiny())
	set(t, s, "key", "value")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := s.Compact(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	s.compacting <- struct{}{} // as if one were under way
	ctx, stop = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if err := s.Compact(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	<-s.compacting
	if err := s.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v, err := get(s, "key"); err != nil || string(v) != "value" {
		t.Fatal(v, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCompactBesideWriters merges tables again and again while rows come and go.
func TestCompactBesideWriters(t *testing.T) {
	s := openTest(t, t.TempDir(), tiny())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for side := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("%d-%d", side, i%300)
				if err := s.Update(func(tx kv.Txn) error {
					if i%600 >= 300 && i%3 == 0 {
						tx.Delete([]byte(key))
					} else {
						tx.Set([]byte(key), fmt.Appendf(nil, "%01000d", i))
					}
					return nil
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5 {
		if err := s.Compact(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
