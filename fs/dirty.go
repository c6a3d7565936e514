package fs

import (
	"slices"
	"sort"
	"sync"
	"sync/atomic"
)

// maxRun is the longest run of dirty bytes, and the most plaintext in one extent: at this size the sealed bytes fill whole
// 4 KiB blocks exactly.
const maxRun = 1 << 20

// run is a contiguous range of bytes that were written and are not sealed yet.
type run struct {
	off uint64
	buf []byte
}

func (r *run) end() uint64 { return r.off + uint64(len(r.buf)) }

// runSet is a sorted set of runs that do not overlap. It is not safe for concurrent use.
type runSet struct {
	runs  []*run
	bytes int64
}

// Runs are written in few sizes: what fits a page, what a program writes at once, what a large write brings. Their buffers are used
// again, by the room they have.
var (
	roomClasses = [...]int{4 << 10, 8 << 10, 12 << 10, 16 << 10, 24 << 10, 32 << 10, 48 << 10, 64 << 10, 96 << 10, 128 << 10, maxRun}
	roomPools   [len(roomClasses)]sync.Pool // of *[]byte
)

// exactMost is the most room that is made as it is needed.
const exactMost = 2 << 10

// newBuffer gives an empty buffer for a run that begins with n bytes. Large writes come in sequence as a rule, so they get room to grow.
func newBuffer(n int) []byte {
	if n <= exactMost {
		return make([]byte, 0, n)
	}
	i, _ := slices.BinarySearch(roomClasses[:], n)
	if b, ok := roomPools[i].Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, roomClasses[i])
}

// oldBuffer takes a buffer back to which nobody refers any more. What was in it goes at once.
func oldBuffer(b []byte) {
	clear(b)
	if i, ok := slices.BinarySearch(roomClasses[:], cap(b)); ok {
		b = b[:0]
		roomPools[i].Put(&b)
	}
}

// grow makes room for n more bytes. A run that is written in sequence gets to its full length in few steps.
func (r *run) grow(n int) {
	if need := len(r.buf) + n; need > cap(r.buf) {
		old := r.buf
		if need <= exactMost {
			need = max(need, 2*len(old))
		}
		r.buf = append(newBuffer(need), old...)
		oldBuffer(old)
	}
}

// recycle gives the buffers back; nobody may refer to the set any more.
func (s *runSet) recycle() {
	for _, r := range s.runs {
		oldBuffer(r.buf)
	}
	*s = runSet{}
}

// first is the index of the first run that ends behind off.
func (s *runSet) first(off uint64) int {
	return sort.Search(len(s.runs), func(i int) bool { return s.runs[i].end() > off })
}

// write puts a copy of p at off, over whatever is there.
func (s *runSet) write(off uint64, p []byte) {
	for len(p) > 0 {
		n := min(len(p), maxRun)
		s.put(off, p[:n])
		off += uint64(n)
		p = p[n:]
	}
}

func (s *runSet) put(off uint64, p []byte) {
	end := off + uint64(len(p))
	i := s.first(off)
	if i < len(s.runs) {
		if r := s.runs[i]; r.off <= off && end <= r.end() {
			copy(r.buf[off-r.off:], p)
			return
		}
	}
	free := i == len(s.runs) || s.runs[i].off >= end
	if !free {
		s.cut(off, end)
		i = s.first(off)
	}
	s.bytes += int64(len(p))
	if i > 0 {
		if r := s.runs[i-1]; r.end() == off && len(r.buf)+len(p) <= maxRun {
			r.grow(len(p))
			r.buf = append(r.buf, p...)
			return
		}
	}
	s.runs = slices.Insert(s.runs, i, &run{off, append(newBuffer(len(p)), p...)})
}

// cut removes [off, end).
func (s *runSet) cut(off, end uint64) {
	i := s.first(off)
	j := i
	var keep []*run
	for ; j < len(s.runs) && s.runs[j].off < end; j++ {
		r := s.runs[j]
		s.bytes -= int64(len(r.buf))
		if r.off < off {
			left := &run{r.off, r.buf[: off-r.off : off-r.off]}
			keep = append(keep, left)
			s.bytes += int64(len(left.buf))
		}
		if r.end() > end {
			right := &run{end, append([]byte(nil), r.buf[end-r.off:]...)}
			keep = append(keep, right)
			s.bytes += int64(len(right.buf))
		}
	}
	s.runs = slices.Replace(s.runs, i, j, keep...)
}

// span is a range of a file that a read still has to fill.
type span struct{ off, end uint64 }

// fill copies what the set has of the wanted spans into p, which begins at base, and returns what is left of them.
func (s *runSet) fill(p []byte, base uint64, want []span) []span {
	if len(s.runs) == 0 {
		return want
	}
	var left []span
	for _, w := range want {
		at := w.off
		for i := s.first(w.off); i < len(s.runs) && s.runs[i].off < w.end; i++ {
			r := s.runs[i]
			from, to := max(r.off, w.off), min(r.end(), w.end)
			if at < from {
				left = append(left, span{at, from})
			}
			copy(p[from-base:to-base], r.buf[from-r.off:to-r.off])
			at = to
		}
		if at < w.end {
			left = append(left, span{at, w.end})
		}
	}
	return left
}

// dirtyGauge counts the dirty bytes of all files.
type dirtyGauge struct {
	n   atomic.Int64
	max int64
}

func (g *dirtyGauge) init(limit int64) { g.max = limit }
func (g *dirtyGauge) add(n int64)      { g.n.Add(n) }
func (g *dirtyGauge) over() bool       { return g.n.Load() > g.max }
