package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// missing is what a file lacks in the segments.
type missing struct {
	extents  int64
	bytes    int64
	segments map[uint64]bool
}

// space counts what the extent store holds and nothing names.
func (c *checker) space(ranger extent.Ranger, before extent.Position) error {
	s := &Space{Referenced: c.blocks.Bytes()}
	err := ranger.Ranges(before, func(r extent.Range) error {
		s.Stored += r.Length
		if err := c.blocks.Gaps(r, func(gap extent.Ref) error { s.Unreferenced += int64(gap.Length); return nil }); err != nil {
			return err
		}
		return c.ctx.Err()
	})
	c.rep.Space = s
	return err
}

// stored looks whether the extent store holds what the maps name. That costs no reading of the bytes: a segment that is not there, or was
// cut or punched, is noticed.
func (c *checker) stored(ranger extent.Ranger) error {
	var stored extent.Blocks
	segments := map[uint64]bool{}
	found := int64(0)                                                    // of what is named
	err := ranger.Ranges(ranger.Position(), func(r extent.Range) error { // all that the snapshot names was appended by now
		segments[r.Segment] = true
		stored.Add(extent.Ref{Segment: r.Segment, Offset: r.Offset, Length: uint32(r.Length)})
		found += r.Length
		if err := c.live.Gaps(r, func(gap extent.Ref) error { found -= int64(gap.Length); return nil }); err != nil {
			return err
		}
		return c.ctx.Err()
	})
	if err != nil || found >= c.live.Bytes() {
		return err
	}
	return c.missing(&stored, segments)
}

// missing reports the files that lack bytes: what the snapshot names and the rows still name now, so that it was not freed before the store
// was asked what it holds.
func (c *checker) missing(stored *extent.Blocks, segments map[uint64]bool) error {
	lacking := map[meta.Ino]*missing{}
	c.lacking = map[meta.ExtentID]bool{}
	err := c.vol.Rows().View(func(r *meta.Reader) error {
		return r.EachPiece(func(p meta.RawPiece, err error) error {
			if err != nil || p.Extent.Inline || c.tombs[p.Ino] || c.lacking[p.Extent.ID] {
				return c.ctx.Err() // what cannot be read was reported
			}
			ref := refOf(p.Extent)
			if !ref.Valid() || !c.live.Has(ref.Segment, ref.Offset) {
				return nil // it cannot be, or is newer
			}
			gone := int64(0)
			for at := ref.Offset; at < ref.End(); at += extent.Align {
				if !stored.Has(ref.Segment, at) {
					gone += min(extent.Align, ref.Offset+int64(ref.Length)-at)
				}
			}
			if gone == 0 {
				return nil
			}
			c.lacking[p.Extent.ID] = true
			m := lacking[p.Ino]
			if m == nil {
				m = &missing{segments: map[uint64]bool{}}
				lacking[p.Ino] = m
			}
			m.extents++
			m.bytes += gone
			m.segments[ref.Segment] = true
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, ino := range slices.Sorted(maps.Keys(lacking)) {
		m := lacking[ino]
		var where []string
		for _, n := range slices.Sorted(maps.Keys(m.segments)) {
			if segments[n] {
				where = append(where, fmt.Sprintf("segment %d", n))
			} else {
				where = append(where, fmt.Sprintf("segment %d, of which nothing is there", n))
			}
		}
		c.rep.add(MissingData, ino, "%s lacks %d sealed bytes of %d extents, in %s", c.called(ino), m.bytes, m.extents, strings.Join(where, "; "))
	}
	return nil
}

// called is what people call an inode.
func (c *checker) called(ino meta.Ino) string {
	if n := c.inodes[ino]; n != nil && len(n.entries) > 0 {
		return fmt.Sprintf("%q in directory %d", n.entries[0].Name, n.entries[0].Parent)
	}
	return "it"
}
