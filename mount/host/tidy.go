package host

import (
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

const tidyAfter = 500 * time.Millisecond // so that many mounts that end together cost one tidying

// tidySoon has what ended mounts left collected. mu is held.
func (d *Daemon) tidySoon() {
	if d.ending || d.tidying != nil {
		return
	}
	d.tidying = time.AfterFunc(tidyAfter, func() {
		d.mu.Lock()
		d.tidying = nil
		unused := len(d.mounts) == 0
		d.mu.Unlock()
		if unused {
			d.cfg.Volume.DropCaches()
		}
		tidy()
		d.log.Info("memory tidied")
	})
}

// tidy collects all garbage. What lies in pools is let go by the first
// collection and freed by the second; then free pages go back to the kernel,
// among them goroutine stacks, which no collection overwrites.
func tidy() {
	runtime.GC()
	runtime.GC()
	debug.FreeOSMemory()
}
