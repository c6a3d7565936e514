package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var testKey = bytes.Repeat([]byte{7}, 32)

func testClock() time.Time { return time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC) }

func mustOpen(t testing.TB, dir string, opts Options) *Log {
	t.Helper()
	if opts.Clock == nil {
		opts.Clock = testClock
	}
	l, err := Open(dir, testKey, opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func event(i int) *Event {
	return &Event{
		EventName:         "Decrypt",
		UserIdentity:      UserIdentity{Type: "IAMUser", ARN: "arn:aws:iam::000000000000:user/bob", UserName: "bob", AccountID: "000000000000"},
		RequestParameters: &Parameters{EncryptionContext: map[string]string{"aws:s3:arn": fmt.Sprintf("arn:aws:s3:::pay/secretname-%d", i)}},
		Resources:         []Resource{{AccountID: "000000000000", Type: "AWS::KMS::Key", ARN: "arn:aws:kms:us-east-1:000000000000:key/k1"}},
		ReadOnly:          true,
		AdditionalEventData: &AdditionalEventData{
			Kmsfs: &Origin{Op: "open", Path: fmt.Sprintf("/pay/secretname-%d", i), Inode: uint64(i), UID: 1001, Decision: Decision{Effect: "Allow"}},
		},
	}
}

func appendN(t testing.TB, l *Log, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		e := event(i)
		e.UserAgent = strings.Repeat("long", 125) // so that a few fill a file
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

func paths(t testing.TB, l *Log, f Filter) []string {
	t.Helper()
	var out []string
	if err := l.Query(f, func(e Event) error {
		out = append(out, e.AdditionalEventData.Kmsfs.Path)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAppendQueryReopen(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	appendN(t, l, 1, 10)
	if got := paths(t, l, Filter{}); len(got) != 10 || got[9] != "/pay/secretname-10" {
		t.Fatalf("query: %v", got)
	}
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	head := l.Head()
	if head.Sequence != 10 {
		t.Fatalf("head %d", head.Sequence)
	}
	closeLog(t, l)
	if err := l.Append(event(1)); !errors.Is(err, ErrClosed) {
		t.Fatalf("append to a closed log: %v", err)
	}
	l = mustOpen(t, dir, Options{})
	defer l.Close()
	if l.Head() != head {
		t.Fatal("head changed by reopening")
	}
	appendN(t, l, 11, 12)
	rep, err := l.Verify(head)
	if err != nil || rep.Records != 12 || rep.Files != 1 {
		t.Fatalf("verify: %+v, %v", rep, err)
	}
	if err := l.Contains(head); err != nil {
		t.Fatal(err)
	}
	head.Chain[0] ^= 1
	if err := l.Contains(head); !errors.Is(err, ErrBroken) {
		t.Fatalf("another head: %v", err)
	}
	if _, err := l.Verify(head); !errors.Is(err, ErrBroken) {
		t.Fatalf("another head: %v", err)
	}
}

func TestEventShape(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	defer l.Close()
	appendN(t, l, 1, 1)
	var got Event
	if err := l.Query(Filter{}, func(e Event) error { got = e; return nil }); err != nil {
		t.Fatal(err)
	}
	line, err := got.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(line, &m); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{
		"eventVersion": "1.11", "eventSource": "kms.amazonaws.com", "eventTime": "2026-11-23T10:00:00Z", "eventName": "Decrypt",
		"eventType": "AwsApiCall", "eventCategory": "Management", "recipientAccountId": "000000000000", "responseElements": nil,
	} {
		if v, ok := m[k]; !ok || v != want {
			t.Errorf("%s = %v, want %v", k, v, want)
		}
	}
	x := m["additionalEventData"].(map[string]any)["x-kmsfs"].(map[string]any)
	if x["op"] != "open" || x["uid"] != 1001.0 || x["decision"].(map[string]any)["effect"] != "Allow" {
		t.Errorf("x-kmsfs: %v", x)
	}
	if len(m["eventID"].(string)) != 36 || m["eventID"] == m["requestID"] {
		t.Errorf("ids: %v %v", m["eventID"], m["requestID"])
	}
}

func TestNothingInClear(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	appendN(t, l, 1, 100)
	closeLog(t, l)
	info, err := os.Stat(filepath.Join(dir, fileName(1)))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(filepath.Join(dir, fileName(1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"secretname", "user/bob", "Decrypt", "s3:::pay"} { // long enough not to come up by chance
		if bytes.Contains(b, []byte(s)) {
			t.Errorf("%q is on disk in clear", s)
		}
	}
}

func TestFilters(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	defer l.Close()
	appendN(t, l, 1, 20)
	denied := event(21)
	denied.ErrorCode, denied.EventName = "AccessDenied", "GenerateDataKey"
	denied.UserIdentity.ARN, denied.UserIdentity.UserName = "arn:aws:iam::000000000000:user/eve", "eve"
	if err := l.Append(denied); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		f    Filter
		want int
	}{
		"denied":         {Filter{Denied: true}, 1},
		"name":           {Filter{Name: "decrypt"}, 20},
		"principal name": {Filter{Principal: "eve"}, 1},
		"principal path": {Filter{Principal: "user/bob"}, 20},
		"key id":         {Filter{Key: "k1"}, 21},
		"other key":      {Filter{Key: "k2"}, 0},
		"after":          {Filter{After: 15}, 6},
		"last":           {Filter{Last: 3}, 3},
		"last of more":   {Filter{Last: 300}, 21},
		"until":          {Filter{Until: testClock()}, 0},
		"since":          {Filter{Since: testClock()}, 21},
	} {
		if got := paths(t, l, c.f); len(got) != c.want {
			t.Errorf("%s: %d events, want %d", name, len(got), c.want)
		}
	}
	got := paths(t, l, Filter{Last: 3})
	if want := []string{"/pay/secretname-19", "/pay/secretname-20", "/pay/secretname-21"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("last: %v", got)
	}
}

func TestRotationOfFiles(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{Settings: Settings{MaxFileSize: 4096}})
	appendN(t, l, 1, 60)
	closeLog(t, l)
	l = mustOpen(t, dir, Options{Settings: Settings{MaxFileSize: 4096}})
	appendN(t, l, 61, 70)
	rep, err := l.Verify()
	if err != nil || rep.Records != 70 || rep.Files < 10 {
		t.Fatalf("%+v, %v", rep, err)
	}
	if got := paths(t, l, Filter{After: 50}); len(got) != 20 || got[0] != "/pay/secretname-51" {
		t.Fatalf("after: %v", got)
	}
	closeLog(t, l)
}

func TestFollow(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{Settings: Settings{MaxFileSize: 8192}})
	defer l.Close()
	appendN(t, l, 1, 5)
	ctx, cancel := context.WithCancel(t.Context())
	var got, all atomic.Int64
	started, done := make(chan struct{}), make(chan error, 2)
	go func() {
		done <- l.FollowAfter(ctx, Filter{After: 2}, func(e Event) error {
			if n := all.Add(1); e.Sequence != uint64(n)+2 {
				return fmt.Errorf("sequence %d at %d", e.Sequence, n)
			}
			if all.Load() == 3 {
				close(started)
			}
			if all.Load() == 103 {
				cancel()
			}
			return nil
		})
	}()
	<-started
	appendN(t, l, 6, 105)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	_ = got.Load()
	closed := make(chan error, 1)
	go func() { closed <- l.Follow(context.Background(), func(Event) error { return nil }) }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-closed; !errors.Is(err, ErrClosed) {
		t.Fatalf("follow of a closed log: %v", err)
	}
}

func TestStrictIsDurable(t *testing.T) {
	var synced atomic.Int64
	l := mustOpen(t, t.TempDir(), Options{Settings: Settings{Strict: true}, Wrap: func(f *os.File) File {
		return &faulty{File: f, onSync: func() error { synced.Add(1); return nil }}
	}})
	defer l.Close()
	before := synced.Load()
	appendN(t, l, 1, 1)
	if synced.Load() == before || l.Head().Sequence != 1 {
		t.Fatal("a strict append returned before its event was synced")
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if err := l.Append(event(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l.Head().Sequence != 51 {
		t.Fatalf("head %d", l.Head().Sequence)
	}
}

// faulty is a file whose writes and syncs can be made to fail.
type faulty struct {
	*os.File
	onWrite func(b []byte, off int64) (int, error) // nil error = go on
	onSync  func() error
}

func (f *faulty) WriteAt(b []byte, off int64) (int, error) {
	if f.onWrite != nil {
		if n, err := f.onWrite(b, off); err != nil {
			f.File.WriteAt(b[:n], off)
			return n, err
		}
	}
	return f.File.WriteAt(b, off)
}

func (f *faulty) Sync() error {
	if f.onSync != nil {
		if err := f.onSync(); err != nil {
			return err
		}
	}
	return f.File.Sync()
}

var errFull = errors.New("no space left on device")

func TestStrictRefusesWhenDiskIsFull(t *testing.T) {
	for name, fault := range map[string]func(full *atomic.Bool) func(*os.File) File{
		"write not applied": func(full *atomic.Bool) func(*os.File) File {
			return func(f *os.File) File {
				return &faulty{File: f, onWrite: func([]byte, int64) (int, error) { return 0, failIf(full) }}
			}
		},
		"write half applied": func(full *atomic.Bool) func(*os.File) File {
			return func(f *os.File) File {
				return &faulty{File: f, onWrite: func(b []byte, _ int64) (int, error) { return len(b) / 2, failIf(full) }}
			}
		},
		"write applied and failed": func(full *atomic.Bool) func(*os.File) File {
			return func(f *os.File) File {
				return &faulty{File: f, onWrite: func(b []byte, _ int64) (int, error) { return len(b), failIf(full) }}
			}
		},
		"sync failed": func(full *atomic.Bool) func(*os.File) File {
			return func(f *os.File) File { return &faulty{File: f, onSync: func() error { return failIf(full) }} }
		},
	} {
		t.Run(name, func(t *testing.T) {
			var full atomic.Bool
			dir := t.TempDir()
			l := mustOpen(t, dir, Options{Settings: Settings{Strict: true}, Wrap: fault(&full)})
			appendN(t, l, 1, 3)
			full.Store(true)
			if err := l.Append(event(4)); !errors.Is(err, errFull) {
				t.Fatalf("append to a full disk: %v", err)
			}
			if l.Err() == nil && name != "sync failed" {
				t.Log("the failure is over already")
			}
			full.Store(false)
			appendN(t, l, 5, 6)
			if rep, err := l.Verify(); err != nil || rep.Records < 5 {
				t.Fatalf("%+v, %v", rep, err)
			}
			closeLog(t, l)
			l = mustOpen(t, dir, Options{})
			defer l.Close()
			if rep, err := l.Verify(); err != nil || rep.Records < 5 || len(rep.Torn) > 0 {
				t.Fatalf("reopened: %+v, %v", rep, err)
			}
		})
	}
}

func failIf(b *atomic.Bool) error {
	if b.Load() {
		return errFull
	}
	return nil
}

func TestEventsWaitForTheDisk(t *testing.T) {
	var full atomic.Bool
	failed := make(chan struct{}, 100)
	l := mustOpen(t, t.TempDir(), Options{Queue: 4, Wrap: func(f *os.File) File {
		return &faulty{File: f, onWrite: func([]byte, int64) (int, error) {
			err := failIf(&full)
			if err != nil {
				signal(failed)
			}
			return 0, err
		}}
	}})
	appendN(t, l, 1, 1)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	done := make(chan struct{})
	go func() { // more than the queue and what the writer holds: this waits
		appendN(t, l, 2, 40)
		close(done)
	}()
	<-failed
	if err := l.Flush(); !errors.Is(err, errFull) {
		t.Fatalf("flush to a full disk: %v", err)
	}
	select {
	case <-done:
		t.Fatal("forty events went into a queue of four")
	default:
	}
	full.Store(false)
	<-done
	if got := paths(t, l, Filter{}); len(got) != 40 {
		t.Fatalf("%d events, want 40", len(got))
	}
	full.Store(true)
	appendN(t, l, 41, 42)
	if err := l.Close(); !errors.Is(err, errFull) || !strings.Contains(err.Error(), "2 events") {
		t.Fatalf("close on a full disk: %v", err)
	}
}

// TestLinesAreWiped: events wait in buffers in plaintext, names of files among it, until they are sealed and written. Then nothing of them is
// in these buffers, which are used again, be the events long or short.
func TestLinesAreWiped(t *testing.T) {
	var l *Log
	var seen [][]byte // whole buffers; appended to by the writer, before Flush returns
	l = mustOpen(t, t.TempDir(), Options{Wrap: func(f *os.File) File {
		return &faulty{File: f, onWrite: func([]byte, int64) (int, error) {
			if l == nil {
				return 0, nil // Open writes a header
			}
			for _, en := range l.w.pending {
				seen = append(seen, (*en.line)[:cap(*en.line)])
			}
			return 0, nil
		}}
	}})
	defer l.Close()
	for i, size := range []int{0, 3 * largeLine, 100, largeLine / 2, 10} {
		e := event(i)
		e.AdditionalEventData.Kmsfs.Path = "/pay/secretname-" + strings.Repeat("x", size)
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
		had := len(seen)
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if len(seen) == had {
			t.Fatal("an event was written from no buffer")
		}
		for _, b := range seen {
			if !bytes.Equal(b, make([]byte, len(b))) {
				t.Fatalf("event %d: something of an event is left in a buffer: %.200q", i, bytes.Trim(b, "\x00"))
			}
		}
	}
}

func TestOversizedEvent(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	defer l.Close()
	e := event(1)
	e.RequestParameters.Policy = strings.Repeat("x", maxLine+1)
	if err := l.Append(e); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := l.Query(Filter{}, func(e Event) error {
		n++
		if e.EventName != "Decrypt" || e.ServiceEventDetails["x-kmsfs-shortened"] == nil {
			t.Errorf("%+v", e)
		}
		return nil
	}); err != nil || n != 1 {
		t.Fatal(n, err)
	}
}

func TestOtherKeyAndVersionRefused(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	appendN(t, l, 1, 3)
	closeLog(t, l)
	if _, err := Open(dir, bytes.Repeat([]byte{8}, 32), Options{Clock: testClock}); !errors.Is(err, ErrKey) {
		t.Fatalf("another key: %v", err)
	}
	path := filepath.Join(dir, fileName(1))
	b, _ := os.ReadFile(path)
	b[9] = 2
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, testKey, Options{Clock: testClock}); !errors.Is(err, ErrVersion) {
		t.Fatalf("another version: %v", err)
	}
	b[9], b[11] = 1, 2
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, testKey, Options{Clock: testClock}); !errors.Is(err, ErrVersion) {
		t.Fatalf("unknown flag: %v", err)
	}
}

func TestConcurrentAppendAndQuery(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{Settings: Settings{MaxFileSize: 32 << 10}, Queue: 64})
	defer l.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { appendN(t, l, 1, 250) })
	}
	wg.Go(func() {
		for range 5 {
			if err := l.Query(Filter{Last: 1}, func(Event) error { return nil }); err != nil {
				t.Error(err)
			}
			if _, err := l.Verify(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if rep, err := l.Verify(); err != nil || rep.Records != 1000 {
		t.Fatalf("%+v, %v", rep, err)
	}
}

func BenchmarkAppend(b *testing.B) {
	l := mustOpen(b, b.TempDir(), Options{Queue: 1 << 16})
	events := make([]*Event, b.N)
	for i := range events {
		events[i] = event(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, e := range events {
		l.Append(e)
	}
	b.StopTimer()
	closeLog(b, l)
}

// BenchmarkAppendPaced is Append at about 10,000 events a second: the caller's cost with an idle writer.
func BenchmarkAppendPaced(b *testing.B) {
	l := mustOpen(b, b.TempDir(), Options{})
	defer l.Close()
	var spent time.Duration
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	for i := range b.N {
		e := event(i)
		<-tick.C
		start := time.Now()
		l.Append(e)
		spent += time.Since(start)
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/append")
}

func BenchmarkWriter(b *testing.B) {
	l := mustOpen(b, b.TempDir(), Options{})
	defer l.Close()
	b.ReportAllocs()
	var line []byte
	for i := range b.N {
		line = l.encode(line[:0], event(i))
		l.w.buf, _ = l.reader.keys.seal(l.w.buf[:0], l.w.logID, uint64(i+1), mac{}, line)
	}
}
