package fusefs

import (
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// TestPace: what readers make of how requests come. A row says how a hundred requests come, and what is concluded.
func TestPace(t *testing.T) {
	for _, c := range []struct {
		what          string
		threads       uint32 // that ask in turns
		op            uint32
		waited, wrote time.Duration
		quick, more   bool // the next is expected soon; there is work for another reader
	}{
		{"they are there, and the replies were written quickly", 1, opGetattr, 0, 0, true, true},
		{"they are there, for who asks ran while the reply was written", 1, opGetattr, 0, foundAtOnce, true, false},
		{"they are there, of several threads", 2, opGetattr, 0, foundAtOnce, true, true},
		{"they come soon", 1, opGetattr, soon / 2, 0, true, false},
		{"they come soon, of several threads", 3, opGetattr, soon / 2, 0, true, false},
		{"they come late", 1, opGetattr, 10 * soon, 0, false, false},
		{"nobody waits for them", 1, opRelease, 0, 0, true, false},
	} {
		p := newPace()
		for i := range uint32(100) {
			h := fuse.InHeader{Opcode: c.op}
			h.Pid = 1 + i%c.threads
			p.took(&h, c.waited, c.wrote)
		}
		if p.quick() != c.quick || (p.row >= foundInARow) != c.more || p.same != (c.threads == 1) {
			t.Errorf("%s: quick %v, work for more %v, one thread %v", c.what, p.quick(), p.row >= foundInARow, p.same)
		}
	}
	p := newPace()
	h := fuse.InHeader{Opcode: opGetattr}
	for range luckiest + 100 {
		p.took(&h, soon/2, 0)
	}
	for range luckiest / 2 {
		p.took(&h, 10*soon, 0)
	}
	if p.quick() {
		t.Error("requests came soon once, and after some that did not it is still expected")
	}
}
