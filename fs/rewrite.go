package fs

import (
	"github.com/kmsfs/kmsfs/fs/meta"
)

// Re-sealing. A re-key leaves what a file holds under its older data keys, now wrapped anew. Renew reads that and seals it under the
// current one, as a flush does with what was written: committed bytes are never overwritten, and a crash leaves the old or the new
// ones. The older data keys are dropped only when the new content is durable, so that recovery can go back to the old until then.

// renewAtOnce is how many bytes of older content one flush seals anew.
const renewAtOnce = 4 << 20

// outdated adds content of a file that is under older data keys to what is to be flushed; flushMu is held.
func (v *Volume) outdated(n *inode, d *fileData, out *runSet) error {
	n.mu.RLock()
	current := n.row.Sealing.Current()
	n.mu.RUnlock()
	d.mu.RLock()
	cut := d.cut
	d.mu.RUnlock()
	var pieces []meta.Piece
	var total int64
	d.extents.each(0, cut, func(p meta.Piece) bool {
		if p.Extent.Generation != current {
			pieces = append(pieces, p)
			total += int64(p.Len)
		}
		return total < renewAtOnce
	})
	for _, p := range pieces {
		buf := make([]byte, p.Len)
		if err := v.readPiece(n.ino, d, p, buf); err != nil {
			return err
		}
		out.write(p.Off, buf)
	}
	return nil
}

// Renew seals all content that is under older data keys under the current one, and says how many bytes that were. Size and times stay.
// The older data keys stay too: see DropOldKeys. more is asked before each step of a few MiB; its error ends the work, which another
// call continues.
func (f *File) Renew(more func() error) (n int64, err error) {
	for {
		if err := more(); err != nil {
			return n, err
		}
		var step int64
		if err := f.v.flush(f.n, flushOptions{renew: &step}); err != nil {
			return n, err
		}
		if n += step; step == 0 {
			return n, nil
		}
	}
}

// DropOldKeys takes the wrapped data keys of all generations but the current one from a file of whose content nothing is under them
// any more. That must be durable: the caller has called CloseEpoch since Renew. It reports whether the file is under one data key now.
func (v *Volume) DropOldKeys(ino Ino) (done bool, err error) {
	err = v.with(ino, func(n *inode) error {
		n.flushMu.Lock()
		defer n.flushMu.Unlock()
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.gone || n.row.Type != Regular {
			return ErrInvalid
		}
		s := n.row.Sealing
		if len(s.Keys) == 1 {
			done = true
			return nil
		}
		last := s.Current()
		var pieces []meta.Piece
		err := v.db.View(func(r *meta.Reader) (err error) {
			pieces, err = r.Pieces(n.row)
			return err
		})
		if err != nil {
			return v.fault("drop data keys", err)
		}
		for _, p := range pieces {
			if p.Extent.Generation != last {
				return nil
			}
		}
		s.Keys = []FileKey{s.Keys[len(s.Keys)-1]}
		done = true
		return v.commit("drop data keys", []*inode{n}, func(_ *meta.Tx, rows []*meta.Inode) error {
			rows[0].Sealing = s
			return nil
		})
	})
	return done && err == nil, err
}
