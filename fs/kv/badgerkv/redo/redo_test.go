package redo

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
)

var small = Options{SegmentSize: MinSegmentSize}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// replayed opens the log and returns it with its payloads.
func replayed(t testing.TB, dir string, opt Options) (*Log, []string, error) {
	t.Helper()
	l, err := Open(dir, opt)
	check(t, err)
	var got []string
	first := uint64(0)
	err = l.Replay(1, func(seq uint64, payload []byte) error {
		if first == 0 {
			first = seq
		}
		if seq != first+uint64(len(got)) {
			t.Fatalf("record %d after %d records from %d", seq, len(got), first)
		}
		got = append(got, string(payload))
		return nil
	})
	if err != nil {
		check(t, l.Close())
		return nil, nil, err
	}
	return l, got, nil
}

func mustReplay(t testing.TB, dir string, opt Options) (*Log, []string) {
	t.Helper()
	l, got, err := replayed(t, dir, opt)
	check(t, err)
	return l, got
}

func add(t testing.TB, l *Log, payload string) uint64 {
	t.Helper()
	seq, err := l.Append(append(make([]byte, RecordHeader), payload...))
	check(t, err)
	return seq
}

func want(t *testing.T, got []string, from, to int) {
	t.Helper()
	if len(got) != to-from {
		t.Fatalf("replayed %d records, want %d", len(got), to-from)
	}
	for i, p := range got {
		if p != text(from+i) {
			t.Fatalf("record %d is %.20q, want %.20q", i, p, text(from+i))
		}
	}
}

// text is a payload of varying length.
func text(i int) string {
	return fmt.Sprintf("record %d %s", i, bytes.Repeat([]byte{'x'}, i%700))
}

func TestReplay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "redo")
	l, got := mustReplay(t, dir, small)
	want(t, got, 0, 0)
	for i := range 1000 { // several segments
		add(t, l, text(i))
	}
	if n := l.Stats().Live; n < 3 {
		t.Fatalf("only %d segments", n)
	}
	check(t, l.Close())
	l, got = mustReplay(t, dir, small)
	want(t, got, 0, 1000)
	for i := range 500 {
		add(t, l, text(1000+i))
	}
	check(t, l.Sync())
	check(t, l.Close())
	l, got = mustReplay(t, dir, small)
	want(t, got, 0, 1500)
	check(t, l.Close())
}

// TestCut cuts all the time: the number of segments stays small, and what was cut does not come back.
func TestCut(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustReplay(t, dir, small)
	for i := range 5000 {
		seq := add(t, l, text(i))
		if i%100 == 99 {
			l.Cut(seq - 50)
		}
	}
	if n := l.Stats().Segments; n > 4 {
		t.Errorf("%d segments", n)
	}
	check(t, l.Close())
	l, got := mustReplay(t, dir, small)
	if len(got) < 50 || len(got) > 700 {
		t.Errorf("replayed %d records", len(got))
	}
	want(t, got, 5000-len(got), 5000)
	check(t, l.Clean())
	check(t, l.Close())
	l, err := Open(dir, small)
	check(t, err)
	n := 0
	check(t, l.Replay(7001, func(uint64, []byte) error { n++; return nil }))
	if n != 0 {
		t.Errorf("replayed %d records of a clean log", n)
	}
	if seq := add(t, l, "next"); seq != 7001 {
		t.Errorf("the next record is %d", seq)
	}
	check(t, l.Close())
	l, got = mustReplay(t, dir, small)
	if len(got) != 1 || got[0] != "next" {
		t.Errorf("replayed %q", got)
	}
	check(t, l.Close())
}

// TestInterruptedClean brings each segment back to what it was before Clean, as if Clean had not come to it.
func TestInterruptedClean(t *testing.T) {
	for late := range 3 {
		dir := t.TempDir()
		l, _ := mustReplay(t, dir, small)
		for i := range 500 {
			add(t, l, text(i))
		}
		check(t, l.Sync())
		add(t, l, text(500))
		name := filepath.Join(dir, slotName(late))
		before, err := os.ReadFile(name)
		check(t, err)
		check(t, l.Clean())
		check(t, l.Close())
		check(t, os.WriteFile(name, before, 0o600))
		l, got := mustReplay(t, dir, small)
		want(t, got, 0, 0)
		if seq := add(t, l, "next"); seq <= 501 {
			t.Errorf("segment %d: the next record is %d", late, seq)
		}
		check(t, l.Close())
	}
}

// damage changes bytes of the segment file in which needle is found, at its begin.
func damage(t *testing.T, dir, needle string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	check(t, err)
	for _, name := range names {
		b, err := os.ReadFile(name)
		check(t, err)
		if i := bytes.Index(b, []byte(needle)); i >= 0 {
			b[i] ^= 0x40
			check(t, os.WriteFile(name, b, 0o600))
			return
		}
	}
	t.Fatalf("%q is in no segment", needle)
}

// TestTornTail damages records that were never synced, each in turn: the log ends there, and can be continued.
func TestTornTail(t *testing.T) {
	for _, at := range []int{0, 1, 40, 99, 150, 299} { // in the first segment, at its end, in later ones
		dir := t.TempDir()
		l, _ := mustReplay(t, dir, small)
		for i := range 300 {
			add(t, l, text(i))
		}
		check(t, l.Close())
		damage(t, dir, fmt.Sprintf("record %d ", at))
		l, got := mustReplay(t, dir, small)
		want(t, got, 0, at)
		if seq := add(t, l, text(at)); seq != uint64(at)+1 {
			t.Fatalf("after the tear at %d the next record is %d", at, seq)
		}
		for i := range 250 {
			add(t, l, text(at+1+i))
		}
		check(t, l.Sync())
		check(t, l.Close())
		l, got = mustReplay(t, dir, small)
		want(t, got, 0, at+251)
		check(t, l.Close())
	}
}

// TestCorruptMiddle damages synced records of which a later one knows that they were: the log is refused.
func TestCorruptMiddle(t *testing.T) {
	for _, at := range []int{0, 40, 150, 299} {
		dir := t.TempDir()
		l, _ := mustReplay(t, dir, small)
		for i := range 300 {
			add(t, l, text(i))
		}
		check(t, l.Sync())
		for i := range 3 {
			add(t, l, text(300+i))
		}
		check(t, l.Close())
		damage(t, dir, fmt.Sprintf("record %d ", at))
		if _, _, err := replayed(t, dir, small); !errors.Is(err, ErrCorrupt) {
			t.Errorf("record %d: %v", at, err)
		}
	}
}

// TestMissingSegment removes each segment of a synced log but the last, of which nobody else knows.
func TestMissingSegment(t *testing.T) {
	for victim := range 2 {
		dir := t.TempDir()
		l, _ := mustReplay(t, dir, small)
		for i := range 500 {
			add(t, l, text(i))
		}
		check(t, l.Sync())
		add(t, l, text(500))
		check(t, l.Close())
		check(t, os.Remove(filepath.Join(dir, slotName(victim))))
		if _, got, err := replayed(t, dir, small); !errors.Is(err, ErrCorrupt) {
			t.Errorf("segment %d: %d records, %v", victim, len(got), err)
		}
	}
}

func TestHeaders(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustReplay(t, dir, small)
	add(t, l, "x")
	check(t, l.Close())
	name := filepath.Join(dir, slotName(0))
	good, err := os.ReadFile(name)
	check(t, err)
	for what, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"version":   {func(b []byte) []byte { b[8] = 2; return b }, ErrFormat},
		"magic":     {func(b []byte) []byte { b[0] = 'x'; return b }, ErrCorrupt},
		"checksum":  {func(b []byte) []byte { b[48]++; return b }, ErrCorrupt},
		"truncated": {func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt},
		"empty":     {func([]byte) []byte { return nil }, ErrCorrupt},
		"another log": {func(b []byte) []byte {
			h, err := decodeHeader(b)
			check(t, err)
			h.id[0]++
			copy(b, h.encode())
			return b
		}, ErrCorrupt},
	} {
		check(t, os.WriteFile(name, c.change(bytes.Clone(good)), 0o600))
		if l, err := Open(dir, small); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
			if err == nil {
				_ = l.Close()
			}
		}
	}
}

func TestLimits(t *testing.T) {
	l, _ := mustReplay(t, t.TempDir(), small)
	if _, err := l.Append(make([]byte, RecordHeader+l.MaxPayload()+1)); !errors.Is(err, ErrTooBig) {
		t.Errorf("a record that is too large: %v", err)
	}
	if _, err := l.Append(make([]byte, RecordHeader)); !errors.Is(err, ErrTooBig) {
		t.Errorf("a record without payload: %v", err)
	}
	_, err := l.Append(make([]byte, RecordHeader+l.MaxPayload()))
	check(t, err)
	check(t, l.Close())
}

// TestFailedSync: after one failed sync nothing is accepted any more, and no later sync claims success.
func TestFailedSync(t *testing.T) {
	boom := errors.New("boom")
	var broken atomic.Bool
	opt := small
	opt.Files.Sync = func(f *os.File) error {
		if broken.Load() {
			return boom
		}
		return fdatasync(f)
	}
	dir := t.TempDir()
	l, _ := mustReplay(t, dir, opt)
	add(t, l, "one")
	check(t, l.Sync())
	add(t, l, "two")
	broken.Store(true)
	if err := l.Sync(); !errors.Is(err, ErrFailed) || !errors.Is(err, boom) {
		t.Fatalf("failed sync: %v", err)
	}
	broken.Store(false)
	for range 2 {
		if err := l.Sync(); !errors.Is(err, ErrFailed) {
			t.Fatalf("sync after a failed one: %v", err)
		}
	}
	if _, err := l.Append(make([]byte, RecordHeader+1)); !errors.Is(err, ErrFailed) {
		t.Fatalf("append after a failed sync: %v", err)
	}
	if err := l.Clean(); !errors.Is(err, ErrFailed) {
		t.Fatalf("clean after a failed sync: %v", err)
	}
	check(t, l.Close())
}

// TestFailedWrite fails a write before it, in the middle and after it: what was acknowledged is there, nothing later is.
func TestFailedWrite(t *testing.T) {
	boom := errors.New("boom")
	for _, part := range []int{0, 1, 2} {
		var armed atomic.Bool
		opt := small
		opt.Files.WriteAt = func(f *os.File, p []byte, off int64) (int, error) {
			if !armed.Load() {
				return f.WriteAt(p, off)
			}
			n, _ := f.WriteAt(p[:len(p)*part/2], off)
			return n, boom
		}
		dir := t.TempDir()
		l, _ := mustReplay(t, dir, opt)
		for i := range 20 {
			add(t, l, text(i))
		}
		armed.Store(true)
		if _, err := l.Append(append(make([]byte, RecordHeader), text(20)...)); !errors.Is(err, ErrFailed) {
			t.Fatalf("failed write: %v", err)
		}
		armed.Store(false)
		if _, err := l.Append(append(make([]byte, RecordHeader), text(21)...)); !errors.Is(err, ErrFailed) {
			t.Fatalf("write after a failed one: %v", err)
		}
		check(t, l.Close())
		l, got := mustReplay(t, dir, small)
		if part < 2 {
			want(t, got, 0, 20)
		} else {
			want(t, got, 0, 21) // reported failed, but applied
		}
		check(t, l.Close())
	}
}

// TestGroupCommit has many callers of Sync: there are far fewer syncs, and none returns too early.
func TestGroupCommit(t *testing.T) {
	var running atomic.Int32
	opt := Options{SegmentSize: 1 << 20}
	opt.Files.Sync = func(f *os.File) error {
		if running.Add(1) > 1 {
			t.Error("two syncs at once")
		}
		defer running.Add(-1)
		return fdatasync(f)
	}
	l, _ := mustReplay(t, t.TempDir(), opt)
	before := l.Stats().Syncs
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				seq, err := l.Append(append(make([]byte, RecordHeader), text(rand.IntN(100))...))
				if err != nil {
					t.Error(err)
					return
				}
				if err := l.Sync(); err != nil {
					t.Error(err)
				}
				if d := l.durable.Load(); d < seq {
					t.Errorf("Sync returned for record %d while %d was durable", seq, d)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("800 commits, %d syncs", l.Stats().Syncs-before)
	check(t, l.Close())
}

// TestPrepare makes segments while records are appended.
func TestPrepare(t *testing.T) {
	l, _ := mustReplay(t, t.TempDir(), small)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 2000 {
			seq, err := l.Append(append(make([]byte, RecordHeader), text(i)...))
			if err != nil {
				t.Error(err)
				return
			}
			if i%200 == 0 {
				l.Cut(seq)
			}
		}
	})
	for range 5 {
		check(t, l.Prepare(3))
	}
	wg.Wait()
	check(t, l.Close())
}

// FuzzDecodeRecord decodes arbitrary bytes: no panic, and what decodes encodes to the same bytes.
func FuzzDecodeRecord(f *testing.F) {
	b := pad(append(make([]byte, RecordHeader), "payload"...))
	putRecord(b, 7, 3, 5, 4)
	f.Add(b, uint64(3))
	f.Add([]byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, b []byte, segment uint64) {
		r, ok := decodeRecord(b, segment)
		if !ok {
			return
		}
		again := pad(append(make([]byte, RecordHeader), r.payload...))
		putRecord(again, len(r.payload), segment, r.seq, r.durable)
		n := RecordHeader + len(r.payload)
		if !bytes.Equal(again[:n], b[:n]) {
			t.Fatalf("decoded %x, encoded %x", b[:n], again[:n])
		}
	})
}

// FuzzDecodeHeader decodes arbitrary bytes as the header of a segment.
func FuzzDecodeHeader(f *testing.F) {
	f.Add(header{size: 1 << 20, number: 3, live: true, first: 9, applied: 8}.encode()[:headerLength])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err == nil && !bytes.Equal(h.encode()[:headerLength], b[:headerLength]) {
			t.Fatalf("decoded %+v from other bytes", h)
		}
	})
}
