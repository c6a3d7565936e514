package host

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

// told is a log that hands on what is said of memory.
type told struct {
	slog.Handler
	levels chan slog.Level
}

func (l told) Enabled(context.Context, slog.Level) bool { return true }

func (l told) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "memory tidied" {
		l.levels <- r.Level
	}
	return nil
}

// TestTidy: what was handed out is collected after a while, once for many; the end of a mount does not wait for that.
func TestTidy(t *testing.T) {
	r := newRig(t, true)
	log := told{slog.DiscardHandler, make(chan slog.Level, 100)}
	r.d.log = slog.New(log)
	pending := func() bool {
		r.d.mu.Lock()
		defer r.d.mu.Unlock()
		return r.d.tidying != nil
	}

	r.d.cfg.TidyLater = time.Millisecond
	r.d.Handed()
	if level := <-log.levels; level != slog.LevelDebug {
		t.Errorf("an answer is collected at level %s", level)
	}
	r.d.cfg.TidyLater = time.Hour
	for range 3 {
		r.d.Handed()
	}
	due := r.d.tidyDue
	if !pending() || time.Until(due) < 59*time.Minute {
		t.Errorf("a collection is due in %s", time.Until(due))
	}
	r.d.mu.Lock()
	r.d.tidySoon() // as at the end of a mount
	r.d.mu.Unlock()
	if level := <-log.levels; level != slog.LevelInfo || pending() {
		t.Errorf("the end of a mount is collected at level %s; one more is due: %t", level, pending())
	}

	// Commands that have secrets in them.
	var made AccessKeyInfo
	r.must(uidOwner, CmdAccessKeyCreate, NameArgs{"admin"}, &made)
	if !pending() {
		t.Error("a secret access key is not collected")
	}
}
