package gc_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// live counts the extents that were appended and not freed.
type live struct {
	extent.Store
	mu   sync.Mutex
	refs map[extent.Ref]bool
}

func (l *live) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.refs)
}

func (l *live) Append(b []byte) (extent.Ref, error) {
	ref, err := l.Store.Append(b)
	if err == nil {
		l.mu.Lock()
		l.refs[ref] = true
		l.mu.Unlock()
	}
	return ref, err
}

func (l *live) Free(refs ...extent.Ref) error {
	l.mu.Lock()
	for _, r := range refs {
		delete(l.refs, r)
	}
	l.mu.Unlock()
	return l.Store.Free(refs...)
}

func rows(t *testing.T, store kv.Store) (n int) {
	t.Helper()
	err := store.View(func(r kv.Reader) error {
		return r.Scan([]byte{0}, []byte{0xff}, func(k, _ []byte) (bool, error) { n++; return true, nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestEverythingDeadIsReclaimed(t *testing.T) {
	store := memkv.New()
	extents := &live{Store: memextent.New(), refs: map[extent.Ref]bool{}}
	v, err := fs.Open(fs.Config{KV: store, Extents: extents, Key: crypto.NewDataKey(), EpochEvery: -1, MergeEvery: -1, FlushAfter: -1})
	if err != nil {
		t.Fatal(err)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := v.Make(fs.RootIno, "bucket", fs.New{Type: fs.Directory, Bucket: &fs.Bucket{}})
	check(err)
	check(v.CloseEpoch())
	empty := rows(t, store)

	reaper := gc.Start(v, extents, slog.New(slog.DiscardHandler))
	defer reaper.Close()
	dk := crypto.NewDataKey()
	create := func(name string, size int) *fs.File {
		t.Helper()
		a, err := v.Make(b.Ino, name, fs.New{Type: fs.Regular, Sealing: fs.Sealing{Method: fs.SSES3, Keys: []fs.FileKey{{Wrapped: []byte("w")}}}})
		check(err)
		f, err := v.OpenFile(a.Ino, fs.Keys{1: dk}, nil)
		check(err)
		_, err = f.WriteAt(bytes.Repeat([]byte{1}, size), 0)
		check(err)
		check(f.Flush())
		return f
	}
	small, big, open := create("small", 5000), create("big", 5<<20), create("open", 1<<20)
	check(v.SetXattr(small.Ino(), "user.a", []byte("1"), fs.XattrEither))
	_, err = big.WriteAt(bytes.Repeat([]byte{2}, 2<<20), 100) // replaces
	check(err)
	check(big.Close())
	check(small.Close())
	for _, name := range []string{"small", "big", "open"} {
		_, err := v.Unlink(b.Ino, name)
		check(err)
	}
	before := extents.count()
	check(reaper.Run(context.Background()))
	if extents.count() != before {
		t.Fatalf("%d extents, before %d: freed before the epoch was closed", extents.count(), before)
	}
	check(v.CloseEpoch())
	check(reaper.Run(context.Background()))
	if extents.count() != 1 {
		t.Fatalf("%d extents live, want the one of the open file", extents.count())
	}
	got := make([]byte, 10)
	if n, err := open.ReadAt(got, 0); err != nil || n != 10 {
		t.Fatal(n, err)
	}
	check(open.Close())
	check(reaper.Run(context.Background()))
	if extents.count() != 0 {
		t.Fatalf("%d extents live after everything was closed", extents.count())
	}
	if n := rows(t, store); n != empty {
		t.Fatalf("%d rows are left, an empty bucket has %d", n, empty)
	}
	if s := reaper.Stats(); s.Inodes != 3 {
		t.Fatalf("%+v", s)
	}
	check(v.Close())
}

// TestFreedIsCountedOnce: the reaper in the background, gc and a writer on a full disk may all be asked at once.
func TestFreedIsCountedOnce(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	extents := memextent.New()
	v, err := fs.Open(fs.Config{KV: memkv.New(), Extents: extents, Key: crypto.NewDataKey(), EpochEvery: -1, MergeEvery: -1, FlushAfter: -1})
	check(err)
	reaper := gc.Start(v, extents, slog.New(slog.DiscardHandler))
	defer reaper.Close()
	b, err := v.Make(fs.RootIno, "bucket", fs.New{Type: fs.Directory, Bucket: &fs.Bucket{}})
	check(err)
	dk := crypto.NewDataKey()
	const files, size = 200, 20_000
	for i := range files {
		a, err := v.Make(b.Ino, string(rune('a'+i)), fs.New{Type: fs.Regular, Sealing: fs.Sealing{Method: fs.SSES3, Keys: []fs.FileKey{{Wrapped: []byte("w")}}}})
		check(err)
		f, err := v.OpenFile(a.Ino, fs.Keys{1: dk}, nil)
		check(err)
		_, err = f.WriteAt(make([]byte, size), 0)
		check(err)
		check(f.Close())
		_, err = v.Unlink(b.Ino, string(rune('a'+i)))
		check(err)
	}
	check(v.CloseEpoch())
	var all sync.WaitGroup
	for range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := reaper.Run(context.Background()); err != nil {
				t.Error(err)
			}
		}()
	}
	all.Wait()
	if s := reaper.Stats(); s.Extents != files || s.Inodes != files || s.Bytes < files*size || s.Bytes > files*(size+200) {
		t.Errorf("%d files of %d bytes were removed: %+v", files, size, s)
	}
	check(v.Close())
}
