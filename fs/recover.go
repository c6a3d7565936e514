package fs

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// RecoveryReport says what opening the volume found and mended after an unclean stop.
type RecoveryReport struct {
	Unclean bool
	Epoch   uint64          // the newest closed epoch that the rows know
	Older   uint64          // the newer one that the anchor had seen, where that was accepted; 0 otherwise
	Checked int             // files with extents in epochs that were not closed
	Files   []RecoveredFile // those of them that had lost bytes
}

// RecoveredFile is a file whose newest bytes did not reach the disk.
type RecoveredFile struct {
	Ino      Ino
	Lost     uint64 // bytes whose extents were gone
	Restored uint64 // bytes of them that got their old content back
	Size     uint64 // of the file now
}

// Recovery says what opening the volume found.
func (v *Volume) Recovery() RecoveryReport { return v.report }

// recoverState compares the rows with the anchor and, after an unclean stop, cuts from the maps what the disk has lost.
func (v *Volume) recoverState(super meta.Super) error {
	clean := false
	if v.cfg.Anchor != nil {
		state, err := v.cfg.Anchor.Load()
		if err != nil {
			return err
		}
		if state.Epoch > super.Epoch {
			if !v.cfg.AcceptOlder {
				return fmt.Errorf("%w: its newest epoch is %d, the epoch file has seen %d", ErrOlder, super.Epoch, state.Epoch)
			}
			v.report.Older = state.Epoch
		}
		clean = state.Clean && state.Epoch == super.Epoch
		if err := v.cfg.Anchor.Store(AnchorState{Epoch: super.Epoch}); err != nil {
			return err
		}
	}
	v.report.Unclean, v.report.Epoch = !clean, super.Epoch
	before := map[Ino]uint64{} // the least size since the last closed epoch
	newest := super.Epoch
	err := v.db.View(func(r *meta.Reader) error {
		err := r.Touched(super.Epoch+1, func(epoch uint64, ino Ino, size uint64) error {
			if least, ok := before[ino]; !ok || size < least {
				before[ino] = size
			}
			newest = max(newest, epoch)
			return nil
		})
		if err != nil {
			return err
		}
		return r.Replacements(super.Epoch+1, math.MaxUint64, func(epoch, _ uint64, _ meta.Replaced) (bool, error) {
			newest = max(newest, epoch)
			return true, nil
		})
	})
	if err != nil {
		return v.fault("look for unclosed epochs", err)
	}
	v.epoch = newest + 1
	for ino, size := range before {
		if err := v.recoverFile(ino, size, super.Epoch); err != nil {
			return fmt.Errorf("recover inode %d: %w", ino, err)
		}
	}
	v.report.Checked = len(before)
	if newest > super.Epoch || len(v.report.Files) > 0 {
		v.changed.Store(true)
		return v.CloseEpoch()
	}
	return nil
}

// recoverFile checks the extents of a file that no closed epoch vouches for.
func (v *Volume) recoverFile(ino Ino, sizeBefore, closed uint64) error {
	var row *meta.Inode
	var pieces []meta.Piece
	old := map[[2]uint64]meta.Replaced{} // by epoch and sequence
	var order [][2]uint64
	err := v.db.View(func(r *meta.Reader) (err error) {
		if row, err = r.Inode(ino); err != nil {
			return err
		}
		if pieces, err = r.Pieces(row); err != nil {
			return err
		}
		return r.Replacements(closed+1, math.MaxUint64, func(epoch, seq uint64, x meta.Replaced) (bool, error) {
			if x.Ino == ino {
				k := [2]uint64{epoch, seq}
				old[k] = x
				order = append(order, k)
			}
			return true, nil
		})
	})
	if errors.Is(err, meta.ErrNotFound) {
		return nil // unlinked since
	}
	if err != nil {
		return v.fault("read", err)
	}
	p := repair{v: v, closed: closed, row: row, good: map[meta.ExtentID]bool{}, extents: map[meta.ExtentID]*meta.Extent{}}
	lost, err := p.cutLost(pieces)
	if err != nil || len(lost) == 0 {
		return err
	}
	slices.Reverse(order) // the newest first
	for _, k := range order {
		if lost, err = p.restore(lost, old[k]); err != nil {
			return err
		}
	}
	size := row.Size
	for _, s := range lost {
		if s.end > sizeBefore { // there was nothing here: the file ends before
			size = min(size, max(s.off, sizeBefore))
		}
	}
	if size < row.Size {
		p.ed.cover(size, endOfFile)
	}
	live := p.ed.live()
	return v.commitRepair(p, size, func(t *meta.Tx) {
		for k, x := range old {
			if live[x.Piece.Extent.ID] {
				t.DeleteReplaced(k[0], k[1], ino)
			}
		}
	})
}

// repair is the mending of one file.
type repair struct {
	v       *Volume
	closed  uint64
	row     *meta.Inode
	ed      *edit
	good    map[meta.ExtentID]bool
	extents map[meta.ExtentID]*meta.Extent
	report  RecoveredFile
}

func (p *repair) check(x *meta.Extent) (bool, error) {
	if x.Inline || x.Epoch <= p.closed {
		return true, nil
	}
	good, known := p.good[x.ID]
	if known {
		return good, nil
	}
	good, err := p.v.intact(x)
	p.good[x.ID] = good
	return good, err
}

// cutLost takes out of the map what points to lost bytes.
func (p *repair) cutLost(pieces []meta.Piece) (lost []span, err error) {
	p.ed = newExtentMap(pieces).edit()
	for _, x := range pieces {
		p.extents[x.Extent.ID] = x.Extent
		good, err := p.check(x.Extent)
		if err != nil {
			return nil, err
		}
		if !good {
			p.ed.cover(x.Off, x.End())
			lost = append(lost, span{x.Off, x.End()})
			p.report.Lost += uint64(x.Len)
		}
	}
	return joinSpans(lost), nil
}

// restore puts a replaced piece back where its successor was lost, and returns what is still lost.
func (p *repair) restore(lost []span, r meta.Replaced) (left []span, err error) {
	if !r.Restore {
		return lost, nil
	}
	good, err := p.check(r.Piece.Extent)
	if err != nil || !good {
		return lost, err
	}
	x := r.Piece
	if known := p.extents[x.Extent.ID]; known != nil {
		x.Extent = known
	} else {
		p.extents[x.Extent.ID] = x.Extent
	}
	for _, s := range lost {
		from, to := max(s.off, x.Off), min(s.end, x.End())
		if from >= to {
			left = append(left, s)
			continue
		}
		p.ed.insert(part(x, from, to))
		p.report.Restored += to - from
		if s.off < from {
			left = append(left, span{s.off, from})
		}
		if to < s.end {
			left = append(left, span{to, s.end})
		}
	}
	return left, nil
}

func (v *Volume) commitRepair(p repair, size uint64, fn func(*meta.Tx)) error {
	err := v.db.Update(func(t *meta.Tx) error {
		row := p.row.Clone()
		p.ed.write(t, row, v.epoch, v.nextSeq, false)
		fn(t)
		row.Size = size
		t.PutInode(row)
		return nil
	})
	if err != nil {
		return v.fault("commit", err)
	}
	p.report.Ino, p.report.Size = p.row.Ino, size
	v.report.Files = append(v.report.Files, p.report)
	v.log.Warn("a file had lost bytes that were never synced", "inode", uint64(p.row.Ino), "lost", p.report.Lost,
		"restored", p.report.Restored, "size", size)
	return nil
}
