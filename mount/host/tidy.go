package host

import (
	"context"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"
)

// What was open through a mount leaves plaintext behind: buffers of reads and
// writes, names, attributes, expanded keys. Keys themselves are wiped when they
// are let go (package crypto); the rest is garbage, and a daemon that was
// started with GODEBUG=clobberfree=1, as every one is, overwrites garbage when
// it collects it. Go collects at least every two minutes; the end of a mount
// is reason enough to do it at once.
//
// So is an answer that had plaintext in it, of the KMS endpoint or of a
// command: encoders, buffers of the network and strings have had it. It is not
// done for each of them, or a caller could keep the daemon busy with it.

const (
	tidyAfter = 500 * time.Millisecond // so that many mounts that end together cost one tidying
	tidyLater = 10 * time.Second       // nor do many answers
)

// tidySoon has what ended mounts left collected. mu is held.
func (d *Daemon) tidySoon() { d.tidyIn(tidyAfter, slog.LevelInfo) }

// Handed tells that secrets went through the memory of this process: within
// tidyLater they are collected.
func (d *Daemon) Handed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tidyIn(d.cfg.TidyLater, slog.LevelDebug)
}

// tidyIn tidies after a while, or sooner if that is due. mu is held.
func (d *Daemon) tidyIn(wait time.Duration, level slog.Level) {
	due := d.cfg.Clock().Add(wait)
	if d.ending || d.tidying != nil && !due.Before(d.tidyDue) {
		return
	}
	if d.tidying != nil {
		d.tidying.Stop() // or it begins just now, and will not see all that this one is for
	}
	d.tidyDue = due
	var t *time.Timer
	t = time.AfterFunc(wait, func() {
		d.mu.Lock()
		if d.tidying == t {
			d.tidying = nil
		}
		unused := len(d.mounts) == 0
		d.mu.Unlock()
		if unused {
			d.cfg.Volume.DropCaches()
		}
		tidy()
		d.log.Log(context.Background(), level, "memory tidied")
	})
	d.tidying = t
}

// tidy collects all garbage. What lies in pools is let go by the first
// collection and freed by the second; then free pages go back to the kernel,
// among them goroutine stacks, which no collection overwrites.
func tidy() {
	runtime.GC()
	runtime.GC()
	debug.FreeOSMemory()
}
