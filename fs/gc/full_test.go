package gc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// TestWriteAfterRemovalOnAFullDisk: what was removed a moment ago is freed for a writer that would find no space, also what a kernel has
// not forgotten yet. What somebody has open is waited for once.
func TestWriteAfterRemovalOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		const file = 1 << 20
		extents := memextent.NewLimited(10*file + 10*file/50)
		v, err := fs.Open(fs.Config{KV: memkv.New(), Extents: extents, Key: crypto.NewDataKey(), EpochEvery: -1, MergeEvery: -1, FlushAfter: -1})
		check(err)
		reaper := gc.Start(v, extents, slog.New(slog.DiscardHandler))
		dearer := 0
		v.OnFull(reaper.Reclaim, func(context.Context) bool { dearer++; return false })
		b, err := v.Make(fs.RootIno, "bucket", fs.New{Type: fs.Directory, Bucket: &fs.Bucket{}})
		check(err)
		dk := crypto.NewDataKey()
		create := func(name string) (*fs.File, error) {
			t.Helper()
			a, err := v.Make(b.Ino, name, fs.New{Type: fs.Regular, Sealing: fs.Sealing{Method: fs.SSES3, Keys: []fs.FileKey{{Wrapped: []byte("w")}}}})
			check(err)
			f, err := v.OpenFile(a.Ino, fs.Keys{1: dk}, nil)
			check(err)
			_, err = f.WriteAt(make([]byte, file), 0)
			check(err)
			return f, f.Flush()
		}
		remove := func(name string) {
			t.Helper()
			_, err := v.Unlink(b.Ino, name)
			check(err)
		}
		var files []*fs.File
		full := false
		for i := 0; !full; i++ {
			f, err := create(fmt.Sprint("f", i))
			if full = errors.Is(err, fs.ErrNoSpace); !full {
				check(err)
				files = append(files, f)
				continue
			}
			remove(fmt.Sprint("f", i))
			check(f.Close())
		}
		if len(files) != 10 || dearer == 0 {
			t.Fatal(len(files), " files; the dearer way was tried ", dearer, " times")
		}
		wrote := func(name string, want time.Duration) {
			t.Helper()
			began := time.Now()
			f, err := create(name)
			check(err)
			check(f.Close())
			if took := time.Since(began); took != want {
				t.Errorf("%s took %v, want %v", name, took, want)
			}
		}
		for i, f := range files[:3] {
			check(f.Close())
			remove(fmt.Sprint("f", i))
			wrote(fmt.Sprint("again", i), 0)
		}

		ino := files[3].Ino()
		v.Acquire(ino, 1) // a kernel was told of it
		check(files[3].Close())
		remove("f3")
		time.AfterFunc(300*time.Millisecond, func() { v.Forget(ino, 1) })
		wrote("again3", 300*time.Millisecond)

		remove("f4") // which is open
		check(files[5].Close())
		remove("f5")
		wrote("again5", time.Second)
		check(files[6].Close())
		remove("f6")
		wrote("again6", 0)
		check(files[4].Close())
		wrote("again4", 0)

		reaper.Close()
		for _, f := range files[7:] {
			check(f.Close())
		}
		check(v.Close())
	})
}

// merger is an engine that takes its time.
type merger struct {
	deleted int64
	merged  int
	took    time.Duration
	err     error
}

func (m *merger) Deleted() int64 { return m.deleted }

func (m *merger) Compact(ctx context.Context) error {
	m.merged++
	time.Sleep(m.took)
	m.deleted = 0
	return m.err
}

// TestCompactorRests: tables are merged for a writer only if rows were deleted, and at most half of the time; a writer waits for that no
// longer than it may.
func TestCompactorRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &merger{took: 8 * time.Second}
		c := gc.NewCompactor(m, time.Now, slog.New(slog.DiscardHandler))
		reclaim := func(deleted int64, want bool, took time.Duration) {
			t.Helper()
			m.deleted += deleted
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			began := time.Now()
			if got := c.Reclaim(ctx); got != want || time.Since(began) != took {
				t.Errorf("%d rows: %t after %v, want %t after %v", deleted, got, time.Since(began), want, took)
			}
		}
		reclaim(10, false, 0)
		reclaim(100, true, 8*time.Second)
		reclaim(0, false, 0)
		reclaim(100, true, 16*time.Second)
		m.took = 20 * time.Second
		time.Sleep(time.Minute)
		reclaim(100, true, 20*time.Second)
		reclaim(100, false, 0) // it would not get there
		time.Sleep(time.Minute)
		m.err = errors.New("no space for it")
		m.took = 0
		reclaim(0, false, 0)
		reclaim(100, false, 0) // what is refused at once costs nothing
		if m.merged != 5 {
			t.Error("merged ", m.merged, " times")
		}
	})
}
