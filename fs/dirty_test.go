package fs

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
)

// TestRunBuffers writes, cuts and recycles several sets, whose buffers go from one to the other, and compares each with plain bytes.
func TestRunBuffers(t *testing.T) {
	rng := rand.New(rand.NewPCG(kvtest.Seed(t), 0))
	const size = 300 << 10
	type pair struct {
		s     runSet
		bytes []byte // what was written; 0: nothing
	}
	var all [4]pair
	for i := range all {
		all[i].bytes = make([]byte, size)
	}
	for step := range 2000 {
		p := &all[rng.IntN(len(all))]
		off := rng.IntN(size)
		if rng.IntN(2) == 0 && len(p.s.runs) > 0 { // go on where a run ends
			off = int(p.s.runs[rng.IntN(len(p.s.runs))].end())
		}
		n := min(rng.IntN(1<<(1+rng.IntN(17))), size-off)
		part := p.bytes[off : off+n]
		switch rng.IntN(20) {
		case 0:
			p.s.recycle()
			clear(p.bytes)
		case 1, 2:
			p.s.cut(uint64(off), uint64(off+n))
			clear(part)
		default:
			for i := range part {
				part[i] = byte(1 + step%255)
			}
			p.s.write(uint64(off), part)
		}
		got, total := make([]byte, size), 0
		for _, r := range p.s.runs {
			copy(got[r.off:], r.buf)
			total += len(r.buf)
		}
		if !bytes.Equal(got, p.bytes) || int64(total) != p.s.bytes {
			t.Fatalf("step %d: the set is not what was written", step)
		}
	}
}
