package fs

import "github.com/kmsfs/kmsfs/fs/meta"

// Most files are one piece. It stays with the inode when the file is closed, so that the next open need not read the row: as long as the
// fingerprint in the inode's row is the same, so is the piece.
type lone struct {
	set   meta.Set
	piece meta.Piece
}

// keepLone keeps the piece of a file that is closed and has one; n.mu and d.mu are held.
func (n *inode) keepLone(d *fileData) {
	if !d.loaded || n.row.Rows.Count != 1 {
		return
	}
	if _, p, ok := d.extents.pieces.Min(); ok && d.extents.pieces.Len() == 1 {
		n.lone = &lone{n.row.Rows, p}
	}
}

// pieces gives the extent map of a file; n.mu is held, for reading at least.
func (v *Volume) pieces(n *inode) (pieces []meta.Piece, err error) {
	switch {
	case n.row.Rows.Count == 0:
		return nil, nil
	case n.lone != nil && n.lone.set == n.row.Rows:
		return []meta.Piece{n.lone.piece}, nil
	}
	err = v.db.View(func(r *meta.Reader) (err error) {
		pieces, err = r.Pieces(n.row)
		return err
	})
	return pieces, v.fault("load extent map", err)
}
