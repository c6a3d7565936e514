package meta

import "errors"

// ErrSparse says that between the rows of inodes that were to be swept together there are too many of others.
var ErrSparse = errors.New("meta: the inodes do not stand together")

// SweepTombs deletes up to limit rows of removed inodes, the tombstones last; inos is sorted. extent is called for each piece that goes;
// done says that nothing is left. An inode without a tombstone is not touched: it got a name after all. If there are more than limit rows
// of other inodes between those of these, the answer is ErrSparse, which a single inode never gets.
func (t *Tx) SweepTombs(inos []Ino, limit int, extent func(*Extent)) (done bool, err error) {
	first, end := uint64(inos[0]), uint64(inos[len(inos)-1])+1
	dead := make(map[Ino]bool, len(inos))
	for _, ino := range inos {
		dead[ino] = false
	}
	found := 0
	err = t.Tombs(inos[0], func(x Tomb) bool {
		if _, wanted := dead[x.Ino]; wanted {
			dead[x.Ino] = true
			found++
		}
		return uint64(x.Ino)+1 < end
	})
	if err != nil || found == 0 {
		return err == nil, err
	}
	left, others := limit, limit
	for _, kind := range []byte{kindPiece, kindInline, kindXattr} {
		var keys [][]byte
		err = t.r.Scan(key1(kind, first), key1(kind, end), func(k, v []byte) (bool, error) {
			switch {
			case !dead[Ino(u64(k[1:9]))]:
				if others--; others < 0 {
					return false, ErrSparse
				}
				return true, nil
			case left == 0:
				return false, nil
			}
			left--
			if kind == kindPiece {
				p, err := decodePieceRow(u64(k[9:17]), v)
				if err != nil {
					return false, err
				}
				extent(p.Extent)
			}
			keys = append(keys, append([]byte(nil), k...))
			return true, nil
		})
		if err != nil {
			return false, err
		}
		for _, k := range keys {
			t.t.Delete(k)
		}
		if left == 0 {
			return false, nil
		}
	}
	for _, ino := range inos {
		if dead[ino] {
			t.t.Delete(tombKey(ino))
		}
	}
	return true, nil
}
