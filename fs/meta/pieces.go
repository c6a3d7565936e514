package meta

import "fmt"

// Pieces reads the whole extent map of a file and checks it against the inode's row set. Pieces of one extent share it.
func (r *Reader) Pieces(n *Inode) ([]Piece, error) {
	var out []Piece
	extents := map[ExtentID]*Extent{}
	var set Set
	var end uint64
	if n.Rows.Count == 0 {
		return nil, nil
	}
	if p, ok := r.onlyPiece(n); ok {
		return []Piece{p}, nil
	}
	err := r.r.Scan(key1(kindPiece, uint64(n.Ino)), key1(kindPiece, uint64(n.Ino)+1), func(k, v []byte) (bool, error) {
		p, err := decodePieceRow(u64(k[9:17]), v)
		if err != nil {
			return false, err
		}
		if p.Off < end {
			return false, fmt.Errorf("%w: overlapping pieces of inode %d", ErrCorrupt, n.Ino)
		}
		end = p.End()
		if x, ok := extents[p.Extent.ID]; ok {
			if *x != *p.Extent {
				return false, fmt.Errorf("%w: pieces of inode %d disagree about extent %d", ErrCorrupt, n.Ino, x.ID)
			}
			p.Extent = x
		} else {
			extents[p.Extent.ID] = p.Extent
		}
		set.add(r.db.sets.sum(k, v))
		out = append(out, p)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	if set != n.Rows {
		return nil, fmt.Errorf("%w: the extent map of inode %d is not the one its row names (%d rows, %d expected)", ErrCorrupt, n.Ino, set.Count, n.Rows.Count)
	}
	return out, nil
}

// onlyPiece spares the scan for a file with one piece at its start, which is what most files are.
func (r *Reader) onlyPiece(n *Inode) (p Piece, ok bool) {
	if n.Rows.Count != 1 {
		return p, false
	}
	k := pieceKey(n.Ino, 0)
	v, err := r.get(k)
	if err != nil {
		return p, false
	}
	var set Set
	set.add(r.db.sets.sum(k, v))
	p, err = decodePieceRow(0, v)
	return p, err == nil && set == n.Rows
}

// AddPiece writes a piece row and accounts for it.
func (t *Tx) AddPiece(n *Inode, p Piece) {
	k, v := pieceKey(n.Ino, p.Off), encodePieceRow(p)
	t.t.Set(k, v)
	n.Rows.add(t.db.sets.sum(k, v))
}

// RemovePiece deletes a piece row that holds exactly p and accounts for it.
func (t *Tx) RemovePiece(n *Inode, p Piece) {
	k := pieceKey(n.Ino, p.Off)
	t.t.Delete(k)
	n.Rows.remove(t.db.sets.sum(k, encodePieceRow(p)))
}

// Inline reads the sealed bytes of an inline extent.
func (r *Reader) Inline(ino Ino, id ExtentID) ([]byte, error) {
	v, err := r.get(inlineKey(ino, id))
	if err != nil {
		return nil, fmt.Errorf("inline extent %d of inode %d: %w", id, ino, err)
	}
	return v, nil
}

// PutInline writes the sealed bytes of an inline extent.
func (t *Tx) PutInline(ino Ino, id ExtentID, sealed []byte) { t.t.Set(inlineKey(ino, id), sealed) }

// DeleteInline removes the sealed bytes of an inline extent.
func (t *Tx) DeleteInline(ino Ino, id ExtentID) { t.t.Delete(inlineKey(ino, id)) }
