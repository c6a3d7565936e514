package check

import (
	"fmt"
	"slices"

	"github.com/kmsfs/kmsfs/crypto/block"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

func refOf(x *meta.Extent) extent.Ref {
	return extent.Ref{Segment: x.Segment, Offset: x.Offset, Length: x.Sealed}
}

// scanReplaced notes the extents that are remembered until their epoch is closed.
func (c *checker) scanReplaced() error {
	known := map[meta.ExtentID]bool{}
	return c.r.EachReplaced(func(x meta.RawReplaced, err error) error {
		if err != nil {
			if x.Epoch <= c.super.Epoch { // closed: the row says nothing but what is to be freed
				c.fixes = append(c.fixes, fix{kind: forget, ino: x.Ino, replaced: x, problem: len(c.rep.Problems)})
			}
			return c.bad("remembered piece", x.Ino, err)
		}
		e := x.Piece.Extent
		if e.Inline {
			c.inline[inlineID{x.Ino, e.ID}] = false
		} else if !known[e.ID] {
			known[e.ID] = true
			c.blocks.Add(refOf(e)) // may still be mapped: no overlap
		}
		return c.step()
	})
}

// scanTouched looks at the marks of inodes that got extents in epochs that are not closed, or were not when they were last dropped.
func (c *checker) scanTouched() error {
	return c.r.EachTouched(func(_ uint64, ino meta.Ino, err error) error {
		if err != nil {
			c.fixes = append(c.fixes, fix{kind: settle, ino: ino, problem: len(c.rep.Problems)})
			return c.bad("mark of an epoch", ino, err)
		}
		return c.step()
	})
}

// scanPieces looks at the extent maps, one file after another.
func (c *checker) scanPieces() error {
	var at meta.Ino
	extents := map[meta.ExtentID]*meta.Extent{} // of this file
	all := map[meta.ExtentID]meta.Ino{}
	err := c.r.EachPiece(func(p meta.RawPiece, err error) error {
		if err != nil {
			if n := c.inodes[p.Ino]; n != nil {
				n.mapWrong = true
			}
			return c.bad("piece of inode", p.Ino, err)
		}
		c.rep.Pieces++
		if p.Ino != at {
			at = p.Ino
			clear(extents)
		}
		c.piece(p)
		x := p.Extent
		if known := extents[x.ID]; known != nil {
			if *known != *x {
				c.rep.add(BadMap, p.Ino, "pieces disagree about extent %d", x.ID)
			}
			return c.step()
		}
		extents[x.ID] = x
		c.extent(p.Ino, x)
		if c.o.Data {
			c.jobs = append(c.jobs, job{p.Ino, x})
		}
		if x.Inline {
			c.rep.Inline++
			c.inline[inlineID{p.Ino, x.ID}] = true
			return c.step()
		}
		c.rep.Extents++
		if other, shared := all[x.ID]; shared {
			c.rep.add(Overlap, p.Ino, "extent %d belongs to inode %d as well", x.ID, other)
		}
		all[x.ID] = p.Ino
		if c.live.Add(refOf(x)) {
			c.rep.add(Overlap, p.Ino, "extent %d at %v shares blocks with another", x.ID, refOf(x))
		}
		c.blocks.Add(refOf(x))
		return c.step()
	})
	return err
}

// piece looks at one row of a map.
func (c *checker) piece(p meta.RawPiece) {
	x := p.Extent
	if p.Len == 0 || uint64(p.Inside)+uint64(p.Len) > uint64(x.Plain) {
		c.rep.add(BadMap, p.Ino, "the piece at %d reaches beyond extent %d", p.Off, x.ID)
	}
	n := c.inodes[p.Ino]
	if n == nil {
		if d := c.damaged[p.Ino]; d != nil {
			d.pieces++
		} else if !c.tombs[p.Ino] {
			c.rep.add(Orphan, p.Ino, "a piece of an inode that is not there")
		}
		return
	}
	n.set.Add(p)
	n.covered += uint64(p.Len)
	if p.Off < n.lastEnd {
		c.rep.add(BadMap, p.Ino, "pieces overlap at %d", p.Off)
	}
	n.lastEnd = p.End()
	if p.End() > n.row.Size {
		c.rep.add(BadMap, p.Ino, "the piece at %d reaches beyond the end of the file, %d", p.Off, n.row.Size)
	}
	if !slices.ContainsFunc(n.row.Sealing.Keys, func(k meta.FileKey) bool { return k.Generation == x.Generation }) {
		c.rep.add(BadSealing, p.Ino, "extent %d is sealed with data-key generation %d, which the file does not have", x.ID, x.Generation)
	}
}

// extent looks at what a row says of an extent.
func (c *checker) extent(ino meta.Ino, x *meta.Extent) {
	if c.super.NextExtent != 0 && x.ID >= c.super.NextExtent {
		c.rep.add(BadCounter, ino, "the number of extent %d is beyond the counter, %d", x.ID, c.super.NextExtent)
	}
	if x.Inline {
		return
	}
	if !refOf(x).Valid() || int(x.Sealed) != block.SealedLen(int(x.Plain)) {
		c.rep.add(BadMap, ino, "extent %d at %v of %d bytes cannot be", x.ID, refOf(x), x.Plain)
	}
}

// scanInline looks whether the inline bytes are those that pieces name.
func (c *checker) scanInline() error {
	err := c.r.EachInline(func(ino meta.Ino, id meta.ExtentID, sealed int, damage error) error {
		k := inlineID{ino, id}
		if damage != nil {
			delete(c.inline, k)
			return c.bad(fmt.Sprintf("inline extent %d", id), ino, damage)
		}
		if _, named := c.inline[k]; named {
			delete(c.inline, k)
		} else if c.inodes[ino] != nil {
			c.rep.add(Orphan, ino, "inline extent %d of %d bytes, which no piece names", id, sealed)
		} else if !c.tombs[ino] && c.damaged[ino] == nil {
			c.rep.add(Orphan, ino, "inline extent %d of an inode that is not there", id)
		}
		return c.step()
	})
	if err != nil {
		return err
	}
	for k, mapped := range c.inline {
		if mapped && c.inodes[k.ino] != nil {
			c.rep.add(BadMap, k.ino, "the bytes of inline extent %d are not there", k.id)
		}
	}
	return nil
}
