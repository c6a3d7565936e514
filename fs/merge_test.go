package fs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/extenttest"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// scribble overwrites random 4 KiB blocks of a file, some of them askew, and of the model beside it.
func scribble(t *testing.T, rnd *rand.Rand, f *File, model []byte, times int) {
	t.Helper()
	for range times {
		off := rnd.IntN(len(model)/4096) * 4096
		if rnd.IntN(8) == 0 {
			off = min(off+rnd.IntN(4096), len(model)-4096)
		}
		p := model[off : off+4096]
		for i := 0; i < len(p); i += 64 {
			p[i] = byte(rnd.IntN(256))
		}
		if n, err := f.WriteAt(p, int64(off)); err != nil || n != len(p) {
			t.Fatal(n, err)
		}
	}
}

// extents gives the map between two flushes.
func (f *File) extents() *extentMap {
	f.n.flushMu.Lock()
	defer f.n.flushMu.Unlock()
	return f.d.extents
}

func (r *rig) same(f *File, model []byte) {
	r.t.Helper()
	if got := r.read(f); !bytes.Equal(got, model) {
		at := 0
		for at < min(len(got), len(model)) && got[at] == model[at] {
			at++
		}
		r.t.Fatalf("%d bytes, want %d; they differ at %d", len(got), len(model), at)
	}
}

func random(rnd *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := 0; i < size; i += 16 {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// merged does what the worker does, until there is nothing left to do, and returns how often that was.
func (r *rig) merged(f *File) (steps int) {
	r.t.Helper()
	for {
		more, _, err := r.v.merger.step(f.n)
		r.ok(err)
		if !more {
			return steps
		}
		if steps++; steps > 1000 {
			r.t.Fatal("merging does not end")
		}
	}
}

// TestWriterPays writes a file over at random, many times: its extents never take much more than one and a half times its content.
func TestWriterPays(t *testing.T) {
	const size, rounds = 12 << 20, 30
	extents := memextent.New()
	r := newRigOn(t, extents)
	rnd := rand.New(rand.NewPCG(3, 4))
	model := random(rnd, size)
	f := r.create(r.bucket("b"), "f")
	_, err := f.WriteAt(model, 0)
	r.ok(err)
	most := int64(0)
	for range rounds {
		scribble(t, rnd, f, model, 500)
		r.ok(f.Flush())
		m := f.extents()
		most = max(most, m.held)
		if m.covered != size {
			t.Fatalf("%d bytes are mapped, want %d", m.covered, size)
		}
	}
	t.Logf("at most %.2f times the content", float64(most)/size)
	if most > size*17/10+mergeSlack {
		t.Errorf("the extents took %d bytes for a content of %d", most, size)
	}
	r.same(f, model)
	r.ok(f.Close())
	r.reopen()
	f = r.file(f.Ino())
	r.same(f, model)
	r.ok(f.Close())
}

// TestMergeInBackground leaves a file in small pieces, with holes, and lets the worker join them.
func TestMergeInBackground(t *testing.T) {
	const size = 6 << 20
	r := newRig(t)
	rnd := rand.New(rand.NewPCG(5, 6))
	f := r.create(r.bucket("b"), "f")
	model := make([]byte, size)
	for i := range 3 * size / 4096 { // every block three times over, in no order; the first megabyte stays a hole
		off := i * 5 % (size / 4096) * 4096
		if off < 1<<20 {
			continue
		}
		copy(model[off:], random(rnd, 4096))
		_, err := f.WriteAt(model[off:off+4096], int64(off))
		r.ok(err)
		if i%500 == 0 {
			r.ok(f.Flush())
		}
	}
	r.ok(f.Truncate(size + 3<<20)) // a hole at the end
	model = append(model, make([]byte, 3<<20)...)
	r.ok(f.Flush())
	was := f.extents().pieces.Len()
	before, err := r.v.Attr(f.Ino())
	r.ok(err)
	steps := r.merged(f)
	now := f.extents().pieces.Len()
	t.Logf("%d pieces became %d in %d steps", was, now, steps)
	if was < 500 || now > 20 || steps == 0 {
		t.Errorf("%d pieces became %d in %d steps", was, now, steps)
	}
	after, err := r.v.Attr(f.Ino())
	r.ok(err)
	if before != after {
		t.Errorf("merging shows: %+v, was %+v", after, before)
	}
	if at, err := f.SeekData(0); err != nil || at != 1<<20 {
		t.Errorf("the first data is at %d, %v", at, err)
	}
	if r.merged(f) != 0 {
		t.Error("it begins again though nothing was written")
	}
	r.same(f, model)
	// A file that nobody has open is left alone.
	r.ok(f.Close())
	if more, _, err := r.v.merger.step(f.n); more || err != nil {
		t.Errorf("a closed file: %v %v", more, err)
	}
	r.reopen()
	f = r.file(f.Ino())
	r.same(f, model)
	r.ok(f.Close())
}

// TestMergeFails lets the extent store fail while extents are merged: what was dirty stays dirty, no more, and comes through later.
func TestMergeFails(t *testing.T) {
	for _, fault := range []extenttest.Fault{extenttest.NotApplied, extenttest.Applied} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			const size = 10 << 20
			broken := false
			extents := extenttest.WithFaults(memextent.New(), func(op extenttest.Op, _ int) extenttest.Fault {
				if broken && op == extenttest.Append {
					return fault
				}
				return extenttest.Pass
			})
			r := newRigOn(t, extents)
			rnd := rand.New(rand.NewPCG(7, 8))
			model := random(rnd, size)
			f := r.create(r.bucket("b"), "f")
			_, err := f.WriteAt(model, 0)
			r.ok(err)
			for r.ok(f.Flush()); !f.extents().wasteful(3, 2); {
				scribble(t, rnd, f, model, 200)
				r.ok(f.Flush())
			}
			scribble(t, rnd, f, model, 400)
			dirty := f.d.dirty.bytes
			broken = true
			if err := f.Flush(); err == nil {
				t.Fatal("the flush did not notice")
			}
			if f.d.dirty.bytes != dirty || r.v.size.n.Load() != dirty {
				t.Errorf("%d bytes are dirty, %d counted, were %d", f.d.dirty.bytes, r.v.size.n.Load(), dirty)
			}
			r.same(f, model)
			scribble(t, rnd, f, model, 100)
			broken = false
			r.ok(f.Flush())
			r.merged(f)
			r.same(f, model)
			if r.v.size.n.Load() != 0 {
				t.Errorf("%d bytes count as dirty", r.v.size.n.Load())
			}
			r.ok(f.Close())
		})
	}
}

// TestMergeOfBrokenExtent damages an extent: merging stops, writers go on, and readers of the damage are told.
func TestMergeOfBrokenExtent(t *testing.T) {
	const size = 10 << 20
	extents := memextent.New()
	r := newRigOn(t, extents)
	rnd := rand.New(rand.NewPCG(9, 10))
	model := random(rnd, size)
	f := r.create(r.bucket("b"), "f")
	_, err := f.WriteAt(model, 0)
	r.ok(err)
	r.ok(f.Flush())
	f.extents().pieces.Scan(func(_ uint64, p meta.Piece) bool {
		x := p.Extent
		ok := extents.Corrupt(extent.Ref{Segment: x.Segment, Offset: x.Offset, Length: x.Sealed}, 100)
		return ok || t.Failed()
	})
	for range 40 { // every block but those that are damaged
		for range 300 {
			off := rnd.Int64N(size/4096) * 4096
			if off%(1<<20) != 0 {
				_, err := f.WriteAt(model[off:off+4096], off)
				r.ok(err)
			}
		}
		r.ok(f.Flush())
	}
	if !f.d.merge.over {
		t.Error("nothing was to be merged")
	}
	if _, err := f.ReadAt(make([]byte, size), 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a read of it all: %v", err)
	}
	r.ok(f.Close())
}

// TestInlinePlaces: the map knows where its inline pieces are, whatever was written, cut and punched.
func TestInlinePlaces(t *testing.T) {
	r := newRig(t)
	f := r.create(r.bucket("b"), "f")
	rnd := rand.New(rand.NewPCG(11, 4))
	model := make([]byte, 1<<20)
	_, err := f.WriteAt(model, 0)
	r.ok(err)
	most := 0
	for range 600 {
		off := rnd.IntN(len(model) - 8192)
		switch x := rnd.IntN(20); {
		case x < 17:
			p := random(rnd, 1+rnd.IntN(8192))
			copy(model[off:], p)
			_, err = f.WriteAt(p, int64(off))
		case x < 18:
			clear(model[off : off+5000])
			err = f.Punch(int64(off), 5000)
		default:
			clear(model[off:])
			if err = f.Truncate(int64(off)); err == nil {
				err = f.Truncate(int64(len(model)))
			}
		}
		r.ok(err)
		r.ok(f.Sync(true))
		m := f.extents()
		places := map[uint64]bool{}
		m.pieces.Scan(func(off uint64, p meta.Piece) bool {
			if p.Extent.Inline {
				places[off] = true
			}
			return true
		})
		if !maps.Equal(places, m.inlineAt) {
			t.Fatalf("inline pieces are at %v, the map says %v", places, m.inlineAt)
		}
		most = max(most, len(places))
		if m.inline > inlineTotal {
			t.Fatalf("%d bytes are inline", m.inline)
		}
	}
	if most < 10 {
		t.Errorf("at most %d pieces were inline", most)
	}
	r.same(f, model)
	r.ok(f.Close())
}

// TestMergingBesideAWriter: of a file that is being flushed a step takes little, and says so.
func TestMergingBesideAWriter(t *testing.T) {
	r := newRig(t)
	f := r.create(r.bucket("b"), "f")
	for off := int64(0); off < 16<<20; off += 32 << 10 {
		_, err := f.WriteAt(random(rand.New(rand.NewPCG(1, uint64(off))), 32<<10), off)
		r.ok(err)
		r.ok(f.Sync(true))
	}
	before := f.extents().pieces.Len()
	step := func(wantBeside bool) int {
		t.Helper()
		was := f.extents().pieces.Len()
		more, beside, err := r.v.merger.step(f.n)
		r.ok(err)
		if !more || beside != wantBeside {
			t.Fatalf("a step: more %v, beside a writer %v; want %v", more, beside, wantBeside)
		}
		return was - f.extents().pieces.Len()
	}
	little := step(true)
	much := step(false)
	if little < 8 || much < 2*little {
		t.Errorf("of %d pieces a step beside a writer joined %d, one alone %d", before, little, much)
	}
	r.ok(f.Close())
}
