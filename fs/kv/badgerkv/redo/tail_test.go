package redo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

func deferRecord(t testing.TB, l *Log, payload string) uint64 {
	t.Helper()
	seq, err := l.AppendDeferred(append(make([]byte, RecordHeader), payload...))
	check(t, err)
	return seq
}

// disk is what a power cut leaves of the log's files. It holds the page cache and the disk itself apart.
type disk struct {
	t       *testing.T
	mu      sync.Mutex
	files   map[string][]byte    // by name
	pending map[string][]pending // written and not synced
	direct  int
	refuse  error // of writes past the page cache
	entered func()
}

type pending struct {
	off  int64
	data []byte
}

func (d *disk) of(f *os.File) string {
	path := strings.TrimSuffix(f.Name(), ".tmp") // the name with which it was made
	name := filepath.Base(path)
	if d.files[name] == nil {
		b, err := os.ReadFile(path)
		check(d.t, err)
		d.files[name] = b // as it was made: synced
	}
	return name
}

func (d *disk) hooks() Files {
	return Files{
		WriteAt: func(f *os.File, p []byte, off int64) (int, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			name := d.of(f)
			d.pending[name] = append(d.pending[name], pending{off, bytes.Clone(p)})
			return f.WriteAt(p, off)
		},
		Sync: func(f *os.File) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			name := d.of(f)
			for _, w := range d.pending[name] {
				copy(d.files[name][w.off:], w.data)
			}
			delete(d.pending, name)
			return nil
		},
		WriteSync: func(f *os.File, p []byte, off int64) (int, error) {
			if d.entered != nil {
				d.entered()
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			name := d.of(f)
			if off%block != 0 || len(p)%block != 0 || len(p) == 0 {
				d.t.Errorf("%d bytes at %d past the page cache", len(p), off)
			}
			if d.refuse != nil {
				return 0, d.refuse
			}
			for _, w := range d.pending[name] {
				if w.off < off+int64(len(p)) && off < w.off+int64(len(w.data)) {
					d.t.Errorf("a write past the page cache of [%d, %d) meets a dirty page: [%d, %d)", off, off+int64(len(p)), w.off, w.off+int64(len(w.data)))
				}
			}
			copy(d.files[name][off:], p)
			d.direct++
			return f.WriteAt(p, off)
		},
	}
}

// cut writes into dir what is there after a power cut: of what was not synced, any blocks.
func (d *disk) cut(dir string, r *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, b := range d.files {
		b = bytes.Clone(b)
		for _, w := range d.pending[name] {
			for i := range w.data {
				at := w.off + int64(i)
				if i == 0 || at%block == 0 {
					if r.IntN(2) == 0 {
						n := min(int64(len(w.data)-i), block-at%block)
						copy(b[at:at+n], w.data[i:])
					}
				}
			}
		}
		check(d.t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
}

// copied is what the death of the process leaves.
func copied(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	check(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

// TestDeferred appends in both ways, large and small, and syncs, at random. Whatever was appended before the last sync, or the last append
// that was not deferred, is there after the death of the process; what was before the last sync also after a power cut.
func TestDeferred(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for round := range 6 {
		dir := filepath.Join(t.TempDir(), "redo")
		d := &disk{t: t, files: map[string][]byte{}, pending: map[string][]pending{}}
		opt := Options{SegmentSize: 256 << 10, Files: d.hooks()}
		l, _ := mustReplay(t, dir, opt)
		var all []string
		survives, durable := 0, 0
		both := round % 3 // in some rounds nearly all are deferred
		for i := range 400 {
			p := fmt.Sprintf("record %d ", i)
			switch r.IntN(20) {
			case 0:
				p += string(bytes.Repeat([]byte{'l'}, r.IntN(100<<10)))
			case 1, 2, 3:
				p += string(bytes.Repeat([]byte{'m'}, r.IntN(9000)))
			default:
				p += string(bytes.Repeat([]byte{'s'}, r.IntN(300)))
			}
			all = append(all, p)
			if r.IntN(1+20>>(3*both)) == 0 {
				add(t, l, p)
				survives = len(all)
			} else {
				deferRecord(t, l, p)
			}
			if r.IntN(3) == 0 {
				check(t, l.Sync())
				survives, durable = len(all), len(all)
			}
			if r.IntN(40) == 0 {
				verify(t, copied(t, dir), all, survives)
				power := t.TempDir()
				d.cut(power, r)
				verify(t, power, all, durable)
			}
		}
		if both == 0 && d.direct < 20 {
			t.Errorf("round %d: only %d writes past the page cache", round, d.direct)
		}
		check(t, l.Sync())
		check(t, l.Close())
		verify(t, dir, all, len(all))
	}
}

func verify(t *testing.T, dir string, all []string, least int) {
	t.Helper()
	l, got, err := replayed(t, dir, Options{})
	check(t, err)
	defer l.Close()
	if len(got) < least || len(got) > len(all) {
		t.Fatalf("%d records of %d, at least %d should be there", len(got), len(all), least)
	}
	for i, p := range got {
		if p != all[i] {
			t.Fatalf("record %d is %.30q with %d bytes, not %.30q with %d", i, p, len(p), all[i], len(all[i]))
		}
	}
}

// TestDeferredRefused has a filesystem that takes no write past the page cache: the log goes on by fdatasync, and nothing is lost.
func TestDeferredRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "redo")
	d := &disk{t: t, files: map[string][]byte{}, pending: map[string][]pending{}, refuse: unix.EINVAL}
	l, _ := mustReplay(t, dir, Options{SegmentSize: 256 << 10, Files: d.hooks()})
	var all []string
	tries := 0
	d.entered = func() { tries++ }
	for i := range 50 {
		all = append(all, text(i))
		deferRecord(t, l, text(i))
		check(t, l.Sync())
		power := t.TempDir()
		d.cut(power, rand.New(rand.NewPCG(1, 2)))
		verify(t, power, all, len(all))
	}
	if tries != 1 {
		t.Errorf("tried %d times", tries)
	}
	check(t, l.Close())
}

// TestDeferredFailed fails a write past the page cache: the log takes nothing any more.
func TestDeferredFailed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "redo")
	d := &disk{t: t, files: map[string][]byte{}, pending: map[string][]pending{}}
	l, _ := mustReplay(t, dir, Options{SegmentSize: 256 << 10, Files: d.hooks()})
	for range mixedMemo + 1 { // the first segment's header was a write of the other kind
		deferRecord(t, l, "first")
		check(t, l.Sync())
	}
	deferRecord(t, l, "lost")
	d.refuse = unix.EIO
	if err := l.Sync(); !errors.Is(err, ErrFailed) || !errors.Is(err, unix.EIO) {
		t.Fatalf("sync: %v", err)
	}
	d.refuse = nil
	if err := l.Sync(); !errors.Is(err, ErrFailed) {
		t.Fatalf("sync after a failed one: %v", err)
	}
	for _, f := range []func([]byte) (uint64, error){l.Append, l.AppendDeferred} {
		if _, err := f(make([]byte, RecordHeader+1)); !errors.Is(err, ErrFailed) {
			t.Fatalf("append after a failed sync: %v", err)
		}
	}
	check(t, l.Close())
}

// TestDeferredMeanwhile appends while a Sync writes: one that is deferred does not wait, the other waits and survives.
func TestDeferredMeanwhile(t *testing.T) { synctest.Test(t, testDeferredMeanwhile) }

func testDeferredMeanwhile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "redo")
	d := &disk{t: t, files: map[string][]byte{}, pending: map[string][]pending{}}
	l, _ := mustReplay(t, dir, Options{SegmentSize: 256 << 10, Files: d.hooks()})
	for range mixedMemo + 1 {
		deferRecord(t, l, "first")
		check(t, l.Sync())
	}
	var armed atomic.Bool
	begun, goOn := make(chan struct{}), make(chan struct{})
	synced := make(chan error, 1)
	d.entered = func() {
		if armed.CompareAndSwap(true, false) {
			close(begun)
			<-goOn
		}
	}
	deferRecord(t, l, "second")
	armed.Store(true)
	go func() { synced <- l.Sync() }()
	<-begun
	deferRecord(t, l, "third") // would wait for ever
	appended := make(chan error, 1)
	go func() {
		_, err := l.Append(append(make([]byte, RecordHeader), "fourth"...))
		appended <- err
	}()
	synctest.Wait() // until both wait
	select {
	case err := <-appended:
		t.Fatalf("an append did not wait for the write: %v", err)
	default:
	}
	close(goOn)
	check(t, <-synced)
	check(t, <-appended)
	after, got := mustReplay(t, copied(t, dir), Options{})
	check(t, after.Close())
	if n := len(got); n != mixedMemo+4 || got[n-1] != "fourth" || got[n-2] != "third" {
		t.Errorf("replayed %q", got)
	}
	check(t, l.Close())
}

// TestDeferredUnwritten has an append fail after what was deferred before it has gone to the page cache: the next sync does not go past
// that.
func TestDeferredUnwritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "redo")
	d := &disk{t: t, files: map[string][]byte{}, pending: map[string][]pending{}}
	opt := Options{SegmentSize: MinSegmentSize, Files: d.hooks()}
	l, _ := mustReplay(t, dir, opt)
	for slot := range 2 {
		if l.slots != 2 {
			t.Fatalf("%d segments", l.slots)
		}
		add(t, l, string(make([]byte, MinSegmentSize/3*(2-slot))))
	}
	check(t, os.Mkdir(filepath.Join(dir, slotName(2)+".tmp"), 0o700)) // no further segment can be made
	for range mixedMemo + 1 {
		deferRecord(t, l, "first")
		check(t, l.Sync())
	}
	before := d.direct
	deferRecord(t, l, "second")
	if _, err := l.Append(make([]byte, MinSegmentSize*2/3)); err == nil {
		t.Fatal("there was room")
	}
	deferRecord(t, l, "third")
	check(t, l.Sync())
	power := t.TempDir()
	d.cut(power, rand.New(rand.NewPCG(1, 2)))
	check(t, os.Remove(filepath.Join(dir, slotName(2)+".tmp")))
	for _, dir := range []string{power, dir} {
		after, got := mustReplay(t, dir, Options{})
		check(t, after.Close())
		if n := len(got); got[n-1] != "third" || got[n-2] != "second" {
			t.Errorf("replayed %d records, the last is %.40q", n, got[n-1])
		}
	}
	if d.direct != before {
		t.Error("the sync went past the page cache")
	}
	check(t, l.Close())
}

// TestDeferredTogether has callers of all kinds at once, on the real disk.
func TestDeferredTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "redo")
	l, _ := mustReplay(t, dir, Options{SegmentSize: 1 << 20})
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 0))
			for range 100 {
				record := append(make([]byte, RecordHeader), text(r.IntN(6000))...)
				f := l.AppendDeferred
				if w == 0 && r.IntN(10) == 0 {
					f = l.Append
				}
				seq, err := f(record)
				if err == nil && r.IntN(4) > 0 {
					if err = l.Sync(); err == nil && l.durable.Load() < seq {
						err = errors.New("not durable")
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	check(t, l.Sync())
	check(t, l.Close())
	l, got := mustReplay(t, dir, Options{})
	if len(got) != 600 {
		t.Errorf("replayed %d records", len(got))
	}
	check(t, l.Close())
}

// TestDirect says whether the filesystem of the test takes writes past the page cache, and that what they write is what reads find.
func TestDirect(t *testing.T) {
	l, _ := mustReplay(t, t.TempDir(), small)
	defer l.Close()
	f := l.segments[0].direct
	if f == nil {
		t.Skip("the filesystem of the test directory takes no write past the page cache")
	}
	p := l.tail.buffers[1][:block]
	copy(p, "past the page cache")
	_, err := writeSync(f, p, block)
	check(t, err)
	got := make([]byte, block)
	_, err = io.ReadFull(io.NewSectionReader(l.segments[0].file, block, block), got)
	check(t, err)
	if !bytes.Equal(got, p) {
		t.Errorf("read %.40q", got)
	}
}
