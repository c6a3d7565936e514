package fusefs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	foundAtOnce = 4 * time.Microsecond  // a read that takes longer has waited for its request
	foundInARow = 12                    // requests of one thread; of different ones, each counts for half of it
	soon        = 80 * time.Microsecond // how long a reader looks out for a request
	lucky       = 4                     // requests that came soon, after which the next is expected soon; one that did not takes two off
	luckiest    = 8
)

// pace is what a reader knows of how requests come.
type pace struct {
	op, thread uint32 // of the last one
	same       bool   // it was of the same thread as the one before
	luck       int    // how often they have come soon
	row        int    // how many in a row were there already, as far as that tells that there is work for another reader
}

func newPace() pace { return pace{op: opInit} }

// took notes a request for which the reader waited, and how long it took it to write the reply before.
func (p *pace) took(h *fuse.InHeader, waited, wrote time.Duration) {
	p.same = h.Pid == p.thread
	if waited < soon+foundAtOnce {
		p.luck = min(p.luck+1, luckiest)
	} else {
		p.luck = max(p.luck-2, 0)
	}
	switch {
	case waited >= foundAtOnce || unasked(h.Opcode) || unasked(p.op):
		p.row = 0
	case !p.same:
		p.row += foundInARow / 2
	case wrote >= foundAtOnce: // who got that reply ran at once, in the writer's place, and has sent it since
	default:
		p.row++
	}
	p.op, p.thread = h.Opcode, h.Pid
}

// quick reports whether the next request is expected soon.
func (p *pace) quick() bool { return p.luck >= lucky }
