package fs

import (
	"math"

	"github.com/tidwall/btree"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// extentMap is a file's sorted, non-overlapping map of pieces, and how many pieces use each extent. It is changed through an edit
// only, which works on a copy (copy-on-write, so taking it costs nothing).
type extentMap struct {
	pieces *btree.Map[uint64, meta.Piece] // by offset in the file
	refs   map[*meta.Extent]int

	inline   int             // bytes of plaintext in inline extents
	inlineAt map[uint64]bool // where their pieces begin: few, in a map that may be large

	held    int64 // room that the extents take in the extent store
	covered int64 // bytes of the file that pieces cover
}

// footprint is the room that an extent takes in the extent store.
func footprint(x *meta.Extent) int64 {
	if x.Inline {
		return 0
	}
	return extent.AlignUp(int64(x.Sealed))
}

func newExtentMap(pieces []meta.Piece) *extentMap {
	m := &extentMap{pieces: btree.NewMap[uint64, meta.Piece](32), refs: map[*meta.Extent]int{}, inlineAt: map[uint64]bool{}}
	for _, p := range pieces {
		m.pieces.Load(p.Off, p)
		m.covered += int64(p.Len)
		if p.Extent.Inline {
			m.inlineAt[p.Off] = true
		}
		if m.refs[p.Extent]++; m.refs[p.Extent] > 1 {
			continue
		}
		m.held += footprint(p.Extent)
		if p.Extent.Inline {
			m.inline += int(p.Extent.Plain)
		}
	}
	return m
}

// each calls fn for the pieces that touch [off, end), in order.
func (m *extentMap) each(off, end uint64, fn func(meta.Piece) bool) {
	eachPiece(m.pieces, off, end, fn)
}

func eachPiece(pieces *btree.Map[uint64, meta.Piece], off, end uint64, fn func(meta.Piece) bool) {
	if off >= end { // what is beyond a truncation that is not committed yet
		return
	}
	start := off
	pieces.Descend(off, func(_ uint64, p meta.Piece) bool {
		if p.End() > off {
			start = p.Off
		}
		return false
	})
	pieces.Ascend(start, func(_ uint64, p meta.Piece) bool { return p.Off < end && fn(p) })
}

// edit is a change of an extent map that is not committed yet.
type edit struct {
	m       *extentMap
	pieces  *btree.Map[uint64, meta.Piece]
	removed map[uint64]meta.Piece // committed rows that go, by offset
	added   map[uint64]meta.Piece // rows that come
	covered []meta.Piece          // the ranges of committed pieces that something else now covers
	delta   map[*meta.Extent]int  // of the references
	alloc   int64                 // of the bytes that pieces cover
}

func (m *extentMap) edit() *edit {
	return &edit{
		m: m, pieces: m.pieces.Copy(), removed: map[uint64]meta.Piece{}, added: map[uint64]meta.Piece{}, delta: map[*meta.Extent]int{},
	}
}

func part(p meta.Piece, off, end uint64) meta.Piece {
	return meta.Piece{Off: off, Len: uint32(end - off), Inside: p.Inside + uint32(off-p.Off), Extent: p.Extent}
}

// cover takes [off, end) out of the map.
func (e *edit) cover(off, end uint64) {
	var hit []meta.Piece
	eachPiece(e.pieces, off, end, func(p meta.Piece) bool {
		hit = append(hit, p)
		return true
	})
	for _, p := range hit {
		e.drop(p)
		from, to := max(p.Off, off), min(p.End(), end)
		if e.m.refs[p.Extent] > 0 {
			e.covered = append(e.covered, part(p, from, to))
		}
		if p.Off < from {
			e.add(part(p, p.Off, from))
		}
		if to < p.End() {
			e.add(part(p, to, p.End()))
		}
	}
}

// insert puts a piece in the place of whatever is there.
func (e *edit) insert(p meta.Piece) {
	e.cover(p.Off, p.End())
	e.add(p)
}

func (e *edit) add(p meta.Piece) {
	e.pieces.Set(p.Off, p)
	e.added[p.Off] = p
	e.delta[p.Extent]++
	e.alloc += int64(p.Len)
}

func (e *edit) drop(p meta.Piece) {
	e.pieces.Delete(p.Off)
	if _, ok := e.added[p.Off]; ok {
		delete(e.added, p.Off)
	} else {
		e.removed[p.Off] = p
	}
	e.delta[p.Extent]--
	e.alloc -= int64(p.Len)
}

// dead lists the committed extents that nothing refers to any more.
func (e *edit) dead() (out []*meta.Extent) {
	for x, d := range e.delta {
		if have := e.m.refs[x]; have > 0 && have+d == 0 {
			out = append(out, x)
		}
	}
	return out
}

// live tells the extents that something refers to after the change.
func (e *edit) live() map[meta.ExtentID]bool {
	out := map[meta.ExtentID]bool{}
	for x, n := range e.m.refs {
		if n+e.delta[x] > 0 {
			out[x.ID] = true
		}
	}
	for x, d := range e.delta {
		if e.m.refs[x]+d > 0 {
			out[x.ID] = true
		}
	}
	return out
}

// write puts the change into a transaction. What the new pieces cover is remembered until the epoch is closed: to be freed, and, if
// the new bytes may still be lost with the power (restore), to be put back.
func (e *edit) write(t *meta.Tx, row *meta.Inode, epoch uint64, seq func() uint64, restore bool) {
	for _, p := range e.removed {
		t.RemovePiece(row, p)
	}
	for _, p := range e.added {
		t.AddPiece(row, p)
	}
	row.Alloc = uint64(int64(row.Alloc) + e.alloc)
	dead := map[*meta.Extent]bool{}
	for _, x := range e.dead() {
		dead[x] = true
	}
	covered := map[*meta.Extent]uint32{}
	for _, p := range e.covered {
		covered[p.Extent] += p.Len
	}
	for _, p := range e.covered {
		free := dead[p.Extent]
		delete(dead, p.Extent)
		// Inline bytes of which an earlier change covered a part may have to be put back by recovery: they go when the epoch is closed.
		whole := covered[p.Extent] == p.Extent.Plain
		switch {
		case restore || free && !(p.Extent.Inline && whole):
			t.PutReplaced(epoch, seq(), meta.Replaced{Ino: row.Ino, Restore: restore, Free: free, Piece: p})
		case free:
			t.DeleteInline(row.Ino, p.Extent.ID)
		}
	}
}

// apply makes the change the map's state, once it is committed. It uses up the old map and the edit.
func (e *edit) apply() *extentMap {
	m := &extentMap{
		pieces: e.pieces, refs: e.m.refs, inline: e.m.inline, inlineAt: e.m.inlineAt, held: e.m.held, covered: e.m.covered + e.alloc,
	}
	for off := range e.removed {
		delete(m.inlineAt, off)
	}
	for off, p := range e.added {
		if p.Extent.Inline {
			m.inlineAt[off] = true
		}
	}
	for x, d := range e.delta {
		was := m.refs[x]
		now := was + d
		if was == 0 && now > 0 {
			m.held += footprint(x)
			if x.Inline {
				m.inline += int(x.Plain)
			}
		}
		if was > 0 && now == 0 {
			m.held -= footprint(x)
			if x.Inline {
				m.inline -= int(x.Plain)
			}
		}
		if now == 0 {
			delete(m.refs, x)
		} else {
			m.refs[x] = now
		}
	}
	return m
}

const endOfFile = math.MaxUint64
