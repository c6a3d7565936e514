package fs

import (
	"slices"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// maxCover is how many pieces one transaction takes out of a map at most, so that it stays within what the rows' store takes. A
// change that covers more is done in bites, each of them a consistent file: a truncation from the end.
const maxCover = 8192

// bites gives offsets that divide [off, end) into ranges of at most maxCover pieces. The map is loaded and flushMu is held.
func (d *fileData) bites(off, end uint64) (at []uint64) {
	count := 0
	eachPiece(d.extents.pieces, off, end, func(p meta.Piece) bool {
		if count++; count%maxCover == 0 && p.Off > off {
			at = append(at, p.Off)
		}
		return true
	})
	return at
}

// truncateLocked sets the length; flushMu is held.
func (v *Volume) truncateLocked(n *inode, d *fileData, size uint64) error {
	if err := v.loadExtents(n, d); err != nil {
		return err
	}
	steps := d.bites(size, endOfFile)
	slices.Reverse(steps)
	for _, to := range append(steps, size) {
		d.mu.Lock()
		if err := d.charge(to); err != nil {
			d.mu.Unlock()
			return err
		}
		before := d.dirty.bytes
		if to < d.size {
			d.dirty.cut(to, endOfFile)
			d.cut = min(d.cut, to)
		}
		v.size.add(d.dirty.bytes - before)
		d.size = to
		d.mtime = v.now()
		d.ctime = d.mtime
		d.changed = true
		d.mu.Unlock()
		v.flusher.add(n)
		if err := v.flushLocked(n, flushOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// shrinkLarge makes a file that is about to be emptied small enough for one transaction; flushMu is held.
func (v *Volume) shrinkLarge(n *inode) error {
	n.mu.Lock()
	if n.gone || n.row.Type != Regular || n.row.Rows.Count <= maxCover {
		n.mu.Unlock()
		return nil
	}
	if n.data == nil {
		n.data = newFileData(n.row)
		v.watch(n, n.data)
	}
	d := n.data
	d.opens++
	n.mu.Unlock()
	err := v.loadExtents(n, d)
	if err == nil {
		if steps := d.bites(0, endOfFile); len(steps) > 0 {
			err = v.truncateLocked(n, d, steps[0])
		}
	}
	n.mu.Lock()
	d.opens--
	n.mu.Unlock()
	return err
}
