package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// movable is a clock that a test moves.
type movable struct {
	mu  sync.Mutex
	now time.Time
}

func (c *movable) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *movable) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+fileSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// verifies wants the log whole, from a record on.
func verifies(t *testing.T, l *Log, first uint64, anchors ...Head) Report {
	t.Helper()
	rep, err := l.Verify(anchors...)
	if err != nil || rep.First != first || rep.Records != rep.Head.Sequence-first+1 {
		t.Fatalf("%+v, %v; want records from %d on", rep, err, first)
	}
	return rep
}

// The end of a log that was cut off while nobody had it open is missed because of the anchor, located, and stays so.
func TestCutEndStaysKnown(t *testing.T) {
	for name, cut := range map[string]func(dir string) error{
		"some records": func(dir string) error {
			return os.Truncate(filepath.Join(dir, fileName(2)), 2500)
		},
		"in the middle of a record": func(dir string) error {
			return os.Truncate(filepath.Join(dir, fileName(2)), 2501)
		},
		"a file": func(dir string) error {
			return os.Remove(filepath.Join(dir, fileName(3)))
		},
		"two files": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, fileName(3))), os.Remove(filepath.Join(dir, fileName(2))))
		},
		"a header and all behind it": func(dir string) error {
			return errors.Join(os.Truncate(filepath.Join(dir, fileName(3)), 40))
		},
		"everything": os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "audit")
			o := Options{Settings: Settings{MaxFileSize: 4096}}
			l := mustOpen(t, dir, o)
			appendN(t, l, 1, 15)
			closeLog(t, l)
			if n := len(files(t, dir)); n < 3 {
				t.Fatalf("%d files", n)
			}
			if name == "some records" || name == "in the middle of a record" {
				if err := os.Remove(filepath.Join(dir, fileName(3))); err != nil {
					t.Fatal(err)
				}
			}
			anchor := l.Head()
			if anchor.Sequence != 15 {
				t.Fatalf("head %d", anchor.Sequence)
			}
			if err := cut(dir); err != nil {
				t.Fatal(err)
			}
			o.Anchors = []Head{anchor, {}}
			l = mustOpen(t, dir, o)
			check := func(l *Log) {
				t.Helper()
				rep, err := l.Verify()
				if !errors.Is(err, ErrBroken) || len(rep.Breaks) == 0 {
					t.Fatalf("the cut is not found: %+v %v", rep, err)
				}
				located := false
				for _, b := range rep.Breaks {
					located = located || b.Last == 15 && b.First > 0 && b.First <= 15
				}
				if !located {
					t.Fatalf("the cut is not located: %v", rep.Breaks)
				}
			}
			check(l)
			appendN(t, l, 16, 20)
			check(l)
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			next := l.Head()
			if next.Sequence != 20 {
				t.Errorf("the log goes on at %d", next.Sequence)
			}
			closeLog(t, l)
			o.Anchors = []Head{next} // the old anchor is forgotten: the log itself remembers
			l = mustOpen(t, dir, o)
			defer l.Close()
			check(l)
			got := paths(&tolerant{TB: t}, l, Filter{After: 15})
			if len(got) != 5 {
				t.Errorf("events after the cut: %v", got)
			}
		})
	}
}

// tolerant takes what a broken log says for normal.
type tolerant struct{ testing.TB }

func (tolerant) Helper()      {}
func (tolerant) Fatal(...any) {}

// Without damage an anchor changes nothing, wherever it lies.
func TestAnchorsThatFit(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{Settings: Settings{MaxFileSize: 4096}})
	var anchors []Head
	for i := range 30 {
		appendN(t, l, i, i)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		anchors = append(anchors, l.Head())
	}
	closeLog(t, l)
	n := len(files(t, dir))
	l = mustOpen(t, dir, Options{Anchors: anchors})
	defer l.Close()
	verifies(t, l, 1, anchors...)
	if len(files(t, dir)) != n {
		t.Error("a new file for nothing")
	}
}

func TestDamagedLastHeaderLocksNobodyOut(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{Settings: Settings{MaxFileSize: 4096}})
	appendN(t, l, 1, 20)
	closeLog(t, l)
	names := files(t, dir)
	flipAt(t, names[len(names)-1], 100)
	l = mustOpen(t, dir, Options{})
	defer l.Close()
	appendN(t, l, 21, 22)
	rep, err := l.Verify()
	if !errors.Is(err, ErrBroken) || rep.Records != 22 || rep.Breaks[0].What != "the file header is damaged" {
		t.Fatalf("%+v %v", rep, err)
	}
}

func flipAt(t *testing.T, path string, off int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFilesEndByAge(t *testing.T) {
	dir := t.TempDir()
	c := &movable{now: testClock()}
	o := Options{Clock: c.Now, Settings: Settings{MaxFileAge: time.Hour}}
	l := mustOpen(t, dir, o)
	for range 3 {
		for range 2 {
			appendN(t, l, 1, 1)
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			c.Advance(30 * time.Minute)
		}
	}
	if n := len(files(t, dir)); n != 3 {
		t.Errorf("%d files after three hours", n)
	}
	closeLog(t, l)
	l = mustOpen(t, dir, o) // it remembers when the file began
	defer l.Close()
	appendN(t, l, 1, 1)
	if rep := verifies(t, l, 1); rep.Files != 4 || rep.Records != 7 {
		t.Errorf("%+v", rep)
	}
}

func TestOldFilesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	c := &movable{now: testClock()}
	o := Options{Clock: c.Now, Settings: Settings{MaxFileSize: 4096}}
	l := mustOpen(t, dir, o)
	for i := range 40 {
		appendN(t, l, i, i)
		c.Advance(time.Hour)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	head := l.Head()
	before := verifies(t, l, 1)
	if err := l.Configure(Settings{MaxFileSize: 4096, KeepAge: 20 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	rep, err := l.Verify(head, Head{Sequence: 3})
	if err != nil || rep.First < 10 || rep.First > 21 || rep.Files >= before.Files {
		t.Fatalf("%+v, %v", rep, err)
	}
	first := rep.First
	verifies(t, l, first, head)
	var told Event
	if err := l.Query(Filter{Name: expiredEvent}, func(e Event) error { told = e; return nil }); err != nil {
		t.Fatal(err)
	}
	if d := told.ServiceEventDetails; d["firstRecord"] != 1.0 || d["lastRecord"] != float64(first-1) || d["breaks"] != nil {
		t.Errorf("event: %+v", told)
	}
	if got := paths(&tolerant{TB: t}, l, Filter{Name: "Decrypt"}); len(got) != int(40-first+1) {
		t.Errorf("%d events left, from %d on", len(got), first)
	}
	if err := l.Contains(Head{Sequence: 1}); err != nil {
		t.Errorf("of what was removed nothing can be said: %v", err)
	}
	if err := l.Contains(head); err != nil {
		t.Error(err)
	}
	closeLog(t, l)
	l = mustOpen(t, dir, o)
	verifies(t, l, first, head)
	appendN(t, l, 1, 10)
	verifies(t, l, first, head)

	// By size: the newest file always stays.
	if err := l.Configure(Settings{MaxFileSize: 4096, KeepSize: 4096}); err != nil {
		t.Fatal(err)
	}
	rep = verifies(t, l, func() uint64 { r, _ := l.Verify(); return r.First }())
	if rep.Files != 1 || rep.First <= first {
		t.Errorf("%+v", rep)
	}
	// An event for each removal, and none where nothing is removed.
	if again, err := l.Expire(); err != nil || again.Files != 0 {
		t.Errorf("%+v %v", again, err)
	}
	closeLog(t, l)
}

// Only the log itself removes files: whoever takes them away, or puts an old beginning in place, is found.
func TestRemovedFilesThatWereNotExpired(t *testing.T) {
	build := func(t *testing.T) (string, uint64) {
		dir := t.TempDir()
		c := &movable{now: testClock()}
		l := mustOpen(t, dir, Options{Clock: c.Now, Settings: Settings{MaxFileSize: 4096}})
		for i := range 40 {
			appendN(t, l, i, i)
			c.Advance(time.Hour)
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := l.Configure(Settings{MaxFileSize: 4096, KeepAge: 30 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		rep, err := l.Verify()
		if err != nil || rep.First == 1 || rep.Files < 3 {
			t.Fatalf("%+v %v", rep, err)
		}
		closeLog(t, l)
		return dir, rep.First
	}
	for name, c := range map[string]struct {
		do   func(t *testing.T, dir string)
		what string
	}{
		"the oldest file":         {func(t *testing.T, dir string) { remove(t, files(t, dir)[0]) }, "before it are missing"},
		"the beginning":           {func(t *testing.T, dir string) { remove(t, filepath.Join(dir, beginningFile)) }, "before it are missing"},
		"a changed beginning":     {func(t *testing.T, dir string) { flipAt(t, filepath.Join(dir, beginningFile), 39) }, "where the log begins"},
		"a beginning cut short":   {func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, beginningFile), 50) }, "where the log begins"},
		"everything but the last": {func(t *testing.T, dir string) { n := files(t, dir); remove(t, n[:len(n)-1]...) }, "before it are missing"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := build(t)
			c.do(t, dir)
			l := mustOpen(t, dir, Options{})
			defer l.Close()
			rep, err := l.Verify()
			if !errors.Is(err, ErrBroken) || !strings.Contains(rep.Breaks[0].String(), c.what) {
				t.Fatalf("%+v %v", rep, err)
			}
		})
	}
	t.Run("all files", func(t *testing.T) {
		dir, first := build(t)
		remove(t, files(t, dir)...)
		l := mustOpen(t, dir, Options{Anchors: []Head{{Sequence: 41}}})
		defer l.Close()
		rep, err := l.Verify()
		if !errors.Is(err, ErrBroken) || rep.Breaks[0].First != first || rep.Breaks[0].Last != 41 {
			t.Fatalf("%+v %v", rep, err)
		}
	})
	t.Run("a removal that a crash interrupted", func(t *testing.T) {
		dir, first := build(t)
		stale := filepath.Join(dir, fileName(1))
		if err := os.WriteFile(stale, []byte("left over"), 0o600); err != nil {
			t.Fatal(err)
		}
		l := mustOpen(t, dir, Options{})
		defer l.Close()
		verifies(t, l, first)
		if _, err := l.Expire(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
			t.Error("it is still there")
		}
	})
}

func remove(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := os.Remove(n); err != nil {
			t.Fatal(err)
		}
	}
}

func truncate(t *testing.T, name string, n int64) {
	t.Helper()
	if err := os.Truncate(name, n); err != nil {
		t.Fatal(err)
	}
}

// A break that grows too old is told of in the event about the removal, and the log that is kept is whole.
func TestExpiryTellsOfBreaks(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{Settings: Settings{MaxFileSize: 4096}})
	appendN(t, l, 1, 30)
	closeLog(t, l)
	flipAt(t, filepath.Join(dir, fileName(1)), 600)
	l = mustOpen(t, dir, Options{})
	defer l.Close()
	if _, err := l.Verify(); !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
	if err := l.Configure(Settings{MaxFileSize: 4096, KeepSize: 8192}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Verify(); err != nil {
		t.Fatal(err)
	}
	var told Event
	if err := l.Query(Filter{Name: expiredEvent}, func(e Event) error { told = e; return nil }); err != nil {
		t.Fatal(err)
	}
	if b, _ := told.ServiceEventDetails["breaks"].([]any); len(b) == 0 {
		t.Errorf("%+v", told)
	}
}

func TestWrongSettings(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	defer l.Close()
	was := l.Settings()
	for _, s := range []Settings{
		{MaxFileSize: -1},
		{MaxFileSize: 100},
		{KeepSize: -1},
		{KeepSize: 1000},
		{MaxFileSize: 1 << 20, KeepSize: 1<<20 - 1},
		{MaxFileAge: time.Second},
		{MaxFileAge: -time.Hour},
		{KeepAge: -1},
		{KeepAge: time.Millisecond},
	} {
		if err := l.Configure(s); !errors.Is(err, ErrSettings) {
			t.Errorf("%+v: %v", s, err)
		}
		if _, err := Open(t.TempDir(), testKey, Options{Clock: testClock, Settings: s}); !errors.Is(err, ErrSettings) {
			t.Errorf("open with %+v: %v", s, err)
		}
	}
	if l.Settings() != was {
		t.Errorf("%+v", l.Settings())
	}
}

// A log is made strict, and not, while it is in use.
func TestStrictIsSwitched(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	defer l.Close()
	appendN(t, l, 1, 3)
	if err := l.Configure(Settings{Strict: true}); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 4, 4)
	if got := l.Head().Sequence; got != 4 {
		t.Errorf("durable up to %d", got)
	}
	if err := l.Configure(Settings{}); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 5, 5)
	verifies(t, l, 1)
}
