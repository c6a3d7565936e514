package gc_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// lab is a volume over real segments.
type lab struct {
	t       *testing.T
	extents *segment.Store
	v       *fs.Volume
	bucket  fs.Ino
	key     *crypto.DataKey
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, key: crypto.NewDataKey()}
	var err error
	l.extents, err = segment.Open(t.TempDir(), segment.Options{SegmentSize: 8 << 20})
	l.ok(err)
	l.v, err = fs.Open(fs.Config{KV: memkv.New(), Extents: l.extents, Key: crypto.NewDataKey(), EpochEvery: -1, MergeEvery: -1, FlushAfter: -1})
	l.ok(err)
	b, err := l.v.Make(fs.RootIno, "bucket", fs.New{Type: fs.Directory, Bucket: &fs.Bucket{}})
	l.ok(err)
	l.bucket = b.Ino
	t.Cleanup(func() {
		l.ok(l.v.Close())
		l.ok(l.extents.Close())
	})
	return l
}

func (l *lab) ok(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// write makes a file, or writes one that is there, and gives it back open.
func (l *lab) write(name string, content []byte) (*fs.File, error) {
	a, err := l.v.Lookup(l.bucket, name)
	if err != nil {
		a, err = l.v.Make(l.bucket, name, fs.New{Type: fs.Regular, Sealing: fs.Sealing{Method: fs.SSES3, Keys: []fs.FileKey{{Wrapped: []byte("w")}}}})
		if err != nil {
			return nil, err
		}
	}
	f, err := l.v.OpenFile(a.Ino, fs.Keys{1: l.key}, nil)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(content, 0)
	return f, err
}

func content(seed, size int) []byte { return bytes.Repeat([]byte{byte(seed + 1)}, size) }

func TestCollectFindsWhatNothingNames(t *testing.T) {
	l := newLab(t)
	f, err := l.write("kept", content(1, 3<<20))
	l.ok(err)
	l.ok(f.Close())
	var lost int64
	for i := range 30 { // appended, never committed: what a crash leaves
		ref, err := l.extents.Append(content(i, 100_000*(1+i%5)))
		l.ok(err)
		lost += ref.Footprint()
	}
	f, err = l.write("late", content(2, 100_000))
	l.ok(err)
	l.ok(f.Close())

	u, err := gc.Collect(context.Background(), l.v, l.extents, true)
	l.ok(err)
	if u.Bytes != lost {
		t.Fatalf("%+v, want %d bytes", u, lost)
	}
	u, err = gc.Collect(context.Background(), l.v, l.extents, false)
	l.ok(err)
	if u.Bytes != lost || u.Stored != u.Referenced+u.Bytes {
		t.Fatalf("%+v, want %d bytes", u, lost)
	}
	if u, err = gc.Collect(context.Background(), l.v, l.extents, false); err != nil || u.Bytes != 0 {
		t.Fatalf("again: %+v, %v", u, err)
	}
	l.reads("kept", content(1, 3<<20))
	l.reads("late", content(2, 100_000))
}

func (l *lab) reads(name string, want []byte) {
	l.t.Helper()
	a, err := l.v.Lookup(l.bucket, name)
	l.ok(err)
	f, err := l.v.OpenFile(a.Ino, fs.Keys{1: l.key}, nil)
	l.ok(err)
	got := make([]byte, len(want))
	n, err := f.ReadAt(got, 0)
	l.ok(err)
	if n != len(want) || !bytes.Equal(got, want) {
		l.t.Fatalf("%s is not what was written", name)
	}
	l.ok(f.Close())
}

// TestCollectBesideWriters collects again and again while files are written, replaced and removed: nothing that is referenced may go.
func TestCollectBesideWriters(t *testing.T) {
	l := newLab(t)
	reaper := gc.Start(l.v, l.extents, slog.New(slog.DiscardHandler))
	defer reaper.Close()
	var writers sync.WaitGroup
	failed := make(chan error, 4)
	for w := range 4 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			for i := range 60 {
				f, err := l.write(fmt.Sprintf("f%d-%d", w, i%7), content(i, 20_000+i*5_000))
				if err == nil && i%3 == 0 {
					err = f.Flush()
				}
				if err == nil {
					err = f.Close()
				}
				if err == nil && i%10 == 9 {
					err = l.v.CloseEpoch()
					reaper.Wake()
				}
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	done := make(chan struct{})
	go func() {
		writers.Wait()
		close(done)
	}()
	rounds := 0
	for running := true; running; rounds++ {
		select {
		case <-done:
			running = false
		default:
		}
		_, err := l.extents.Append(content(9, 5000))
		l.ok(err)
		_, err = gc.Collect(context.Background(), l.v, l.extents, false)
		l.ok(err)
	}
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	for w := range 4 {
		for i := 53; i < 60; i++ {
			l.reads(fmt.Sprintf("f%d-%d", w, i%7), content(i, 20_000+i*5_000))
		}
	}
	t.Logf("%d collections", rounds)
}

// unlisted is an extent store that cannot list.
type unlisted struct{ extent.Store }

func TestCollectWithoutList(t *testing.T) {
	l := newLab(t)
	if _, err := gc.Collect(context.Background(), l.v, unlisted{l.extents}, false); err == nil {
		t.Fatal("no error")
	}
}

// TestMeasure: what is removed or replaced is dead until it is freed, then it is neither.
func TestMeasure(t *testing.T) {
	l := newLab(t)
	measure := func() gc.Held {
		t.Helper()
		h, err := gc.Measure(context.Background(), l.v, l.extents)
		l.ok(err)
		return h
	}
	empty := measure()
	if empty.Dead != 0 {
		t.Fatalf("%+v", empty)
	}
	for _, name := range []string{"kept", "replaced", "removed"} {
		f, err := l.write(name, content(1, 3<<20))
		l.ok(err)
		l.ok(f.Close())
	}
	full := measure()
	if per := (full.Live - empty.Live) / 3; full.Dead != 0 || per < 3<<20 || per > 4<<20 {
		t.Fatalf("%+v", full)
	}
	_, err := l.v.Unlink(l.bucket, "removed")
	l.ok(err)
	f, err := l.write("replaced", content(2, 3<<20))
	l.ok(err)
	l.ok(f.Close())
	h := measure()
	if h.Dead < 6<<20 || h.Dead > 8<<20 || h.Live+h.Dead < full.Live+3<<20 {
		t.Fatalf("%+v, before %+v", h, full)
	}
	reaper := gc.Start(l.v, l.extents, slog.New(slog.DiscardHandler))
	l.ok(l.v.CloseEpoch())
	l.ok(reaper.Run(context.Background()))
	reaper.Close()
	if after := measure(); after.Dead != 0 || after.Live != h.Live {
		t.Fatalf("%+v, before %+v", after, h)
	}
	if _, err := gc.Measure(context.Background(), l.v, unlisted{l.extents}); err == nil {
		t.Fatal("no error")
	}
}
