package fusefs

import (
	"bytes"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsfs/kmsfs/mount"
)

// TestSparing: of each message so many are logged in a minute, whatever else is logged, and the rest is counted.
func TestSparing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &guarded{}
		h := newSparing(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		log := slog.New(h)
		one := log.With("mount", "here")
		many := linesAMinute + 7
		for i := range many {
			one.Warn("nonsense", "n", i)
			log.Error("damage", "n", i)
			log.Debug("detail", "n", i)
		}
		count := func(what string) int {
			synctest.Wait()
			return strings.Count(out.String(), what)
		}
		want := func(what string, n int) {
			t.Helper()
			if got := count(what); got != n {
				t.Errorf("%q %d times, want %d", what, got, n)
			}
		}
		want("msg=nonsense mount=here", linesAMinute)
		want("msg=damage", linesAMinute)
		want("msg=detail", many)
		log.With("mount", "there").Warn("nonsense")
		want("msg=nonsense", linesAMinute)
		log.Warn("something else")
		want("something else", 1)
		want("left out", 0)

		time.Sleep(time.Minute) // of the bubble's clock, here and below: no time passes
		want(`level=WARN msg="more of the same were left out" mount=here msg_left_out=nonsense count=8`, 1)
		want(`level=ERROR msg="more of the same were left out" msg_left_out=damage count=7`, 1)
		want("left out", 2)

		one.Warn("nonsense") // a new minute
		want("msg=nonsense", linesAMinute+1)
		time.Sleep(time.Minute)
		want("left out", 2)

		for range many {
			one.Warn("nonsense")
		}
		h.said.end()
		want("count=7", 2)
		time.Sleep(time.Minute)
		want("left out", 3)
	})
}

// guarded is a buffer for several who write.
type guarded struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (g *guarded) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func (g *guarded) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.String()
}

// count is how many records of a message there were in this minute.
func (s *said) count(message string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.of[message]; m != nil {
		return m.passed + m.left
	}
	return 0
}

// TestNonsenseIsLoggedSparingly plays a kernel whose messages make no sense, each of which go-fuse has something to say about.
func TestNonsenseIsLoggedSparingly(t *testing.T) {
	w := newWorld(t)
	out := &guarded{}
	w.log = slog.New(slog.NewTextHandler(out, nil))
	w.user("alice", "AmazonS3FullAccess")
	m := w.raw("alice")
	k := talkTo(t, m)
	const many = 10 * linesAMinute
	for range many {
		k.send(batch(1000)) // which has none
	}
	last := k.send(bare(opLookup, uint64(mount.RootIno), []byte("absent\x00")...))
	if got, status, _ := k.hear(); got != last || status != 0 {
		t.Errorf("LOOKUP after that: %d", status)
	}
	for end := time.Now().Add(generous); m.said.count("fuse") < many && time.Now().Before(end); {
		runtime.Gosched() // FORGETs are not answered, and another reader may have the last of them
	}
	m.said.end()
	text := out.String()
	if n := strings.Count(text, "Too few bytes for batch forget"); n != linesAMinute {
		t.Errorf("%d lines about %d messages, want %d:\n%.2000s", n, many, linesAMinute, text)
	}
	if !strings.Contains(text, fmt.Sprintf("msg_left_out=fuse count=%d", many-linesAMinute)) {
		t.Errorf("it is not said how many were left out:\n%.2000s", text)
	}
}
