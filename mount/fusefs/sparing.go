package fusefs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// linesAMinute is how many warnings or errors with the same message a mount logs in a minute.
const linesAMinute = 60

// sparing is a slog.Handler that passes on so many records of each message from slog.LevelWarn on, and says at the end of that minute how many it
// left out: a kernel that sends nonsense, or a user who reads a damaged file again and again, does not fill the log, and does not hide
// there what else is to be said. Messages are constants of this program; what came from outside is in their attributes.
type sparing struct {
	slog.Handler
	said *said
}

// said is common to a handler and those made of it by With.
type said struct {
	mu    sync.Mutex
	of    map[string]*minute // by message; there is one while its timer runs
	ended bool
}

// minute counts the records of one message.
type minute struct {
	passed, left int
	level        slog.Level
	to           slog.Handler // what the first of them went to
	timer        *time.Timer
}

func newSparing(h slog.Handler) sparing { return sparing{h, &said{of: map[string]*minute{}}} }

// Handle implements slog.Handler.
func (s sparing) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn && !s.passes(r.Level, r.Message) {
		return nil
	}
	return s.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (s sparing) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sparing{s.Handler.WithAttrs(attrs), s.said}
}

// WithGroup implements slog.Handler.
func (s sparing) WithGroup(name string) slog.Handler {
	return sparing{s.Handler.WithGroup(name), s.said}
}

func (s sparing) passes(level slog.Level, message string) bool {
	s.said.mu.Lock()
	defer s.said.mu.Unlock()
	m := s.said.of[message]
	if m == nil {
		m = &minute{level: level, to: s.Handler}
		s.said.of[message] = m
		if !s.said.ended {
			m.timer = time.AfterFunc(time.Minute, func() { s.said.over(message, m) })
		}
	}
	if m.passed == linesAMinute {
		m.left++
		return false
	}
	m.passed++
	return true
}

// over ends a minute.
func (s *said) over(message string, m *minute) {
	s.mu.Lock()
	current := s.of[message] == m
	if current {
		delete(s.of, message)
	}
	s.mu.Unlock()
	if current {
		m.tell(message)
	}
}

// tell says how many were left out; nobody counts any more.
func (m *minute) tell(message string) {
	if m.left > 0 {
		slog.New(m.to).Log(context.Background(), m.level, "more of the same were left out", "msg_left_out", message, "count", m.left)
	}
}

// end ends all minutes, for the end of a mount.
func (s *said) end() {
	s.mu.Lock()
	s.ended = true
	rest := s.of
	s.of = map[string]*minute{}
	s.mu.Unlock()
	for message, m := range rest {
		if m.timer != nil {
			m.timer.Stop()
		}
		m.tell(message)
	}
}
