package gc_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
)

// TestSweptTogether removes files whose numbers are mixed with those of files that stay, one of them with very many pieces: the dead go
// with few commits, and nothing else does.
func TestSweptTogether(t *testing.T) {
	inner := memkv.New()
	store := kvtest.NewFaulty(inner, nil)
	extents := &live{Store: memextent.New(), refs: map[extent.Ref]bool{}}
	v, err := fs.Open(fs.Config{KV: store, Extents: extents, Key: crypto.NewDataKey(), EpochEvery: -1, MergeEvery: -1, FlushAfter: -1})
	check(t, err)
	b, err := v.Make(fs.RootIno, "bucket", fs.New{Type: fs.Directory, Bucket: &fs.Bucket{}})
	check(t, err)
	check(t, v.CloseEpoch())
	empty := rows(t, inner)
	reaper := gc.Start(v, extents, slog.New(slog.DiscardHandler))
	defer reaper.Close()

	dk := crypto.NewDataKey()
	create := func(name string, pieces int) fs.Ino {
		t.Helper()
		a, err := v.Make(b.Ino, name, fs.New{Type: fs.Regular, Sealing: fs.Sealing{Method: fs.SSES3, Keys: []fs.FileKey{{Wrapped: []byte("w")}}}})
		check(t, err)
		f, err := v.OpenFile(a.Ino, fs.Keys{1: dk}, nil)
		check(t, err)
		for i := range pieces {
			_, err = f.WriteAt(bytes.Repeat([]byte{byte(len(name))}, 2000), int64(i)*8192)
			check(t, err)
		}
		check(t, f.Close())
		return a.Ino
	}
	var dead, kept []string
	for i := range 600 {
		name := fmt.Sprint(i)
		pieces := 1
		switch i {
		case 100, 401:
			pieces = 2500
		case 500:
			pieces = 0
		}
		ino := create(name, pieces)
		if i%3 == 1 {
			kept = append(kept, name)
		} else {
			dead = append(dead, name)
		}
		if i%50 == 0 {
			check(t, v.SetXattr(ino, "user.a", []byte("1"), fs.XattrEither))
		}
	}
	remove := func(names []string) {
		t.Helper()
		for _, name := range names {
			_, err := v.Unlink(b.Ino, name)
			check(t, err)
		}
		check(t, v.CloseEpoch())
	}
	remove(dead) // 401 among them: 100 stays
	before := store.Count(kvtest.Update)
	check(t, reaper.Run(context.Background()))
	if n := store.Count(kvtest.Update) - before; n > 40 { // of which one group is halved until 100 is not in between any more
		t.Errorf("%d transactions for %d files", n, len(dead))
	}
	if s := reaper.Stats(); s.Inodes != uint64(len(dead)) {
		t.Errorf("%+v, want %d inodes", s, len(dead))
	}
	for _, name := range kept {
		a, err := v.Lookup(b.Ino, name)
		check(t, err)
		f, err := v.OpenFile(a.Ino, fs.Keys{1: dk}, nil)
		check(t, err)
		got := make([]byte, 2000)
		if n, err := f.ReadAt(got, 0); err != nil || a.Size > 0 && (n != len(got) || got[0] != byte(len(name))) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		check(t, f.Close())
	}
	remove(kept)
	check(t, reaper.Run(context.Background()))
	if n := rows(t, inner); n != empty || extents.count() != 0 {
		t.Errorf("%d rows are left, an empty bucket has %d; %d extents", n, empty, extents.count())
	}
	check(t, v.Close())
}

// BenchmarkSweep is what the reaper works for a removed file of 10 KiB, in processor time, on the stores that a daemon uses. Use
// -benchtime 10000x.
func BenchmarkSweep(b *testing.B) {
	dir := b.TempDir()
	kv, err := badgerkv.Open(dir, badgerkv.Options{})
	check(b, err)
	extents, err := segment.Open(dir+"/segments", segment.Options{})
	check(b, err)
	v, err := fs.Open(fs.Config{KV: sealed.New(kv, crypto.NewDataKey()), Extents: extents, Key: crypto.NewDataKey(), EpochEvery: -1})
	check(b, err)
	reaper := gc.Start(v, extents, slog.New(slog.DiscardHandler))
	defer reaper.Close()
	bucket, err := v.Make(fs.RootIno, "bucket", fs.New{Type: fs.Directory, Bucket: &fs.Bucket{}})
	check(b, err)
	dk, p := crypto.NewDataKey(), make([]byte, 10<<10)
	for i := range b.N {
		a, err := v.Make(bucket.Ino, fmt.Sprint(i), fs.New{Type: fs.Regular, Sealing: fs.Sealing{Method: fs.SSES3, Keys: []fs.FileKey{{Wrapped: p[:96]}}}})
		check(b, err)
		f, err := v.OpenFile(a.Ino, fs.Keys{1: dk}, nil)
		check(b, err)
		_, err = f.WriteAt(p, 0)
		check(b, err)
		check(b, f.Close())
	}
	for i := range b.N {
		_, err := v.Unlink(bucket.Ino, fmt.Sprint(i))
		check(b, err)
	}
	check(b, v.CloseEpoch())
	cpu := cpuTime(b)
	b.ResetTimer()
	check(b, reaper.Run(context.Background()))
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
	if s := reaper.Stats(); s.Inodes != uint64(b.N) {
		b.Fatalf("%+v", s)
	}
	check(b, v.Close())
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	check(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
