package fs

import "github.com/kmsfs/kmsfs/fs/meta"

// mark is what a flush knows of its file's marks in the epochs that are not closed (meta.Tx.Touch, Settled), so that a stream of fsyncs
// does not look for them in the rows each time. It holds as long as the inode has the row that the flush left it: whatever else writes
// marks of a file commits its row as well, but for syncClean, which forgets. Guarded by flushMu.
type mark struct {
	row   *meta.Inode // nil: nothing is known
	epoch uint64      // of the only mark; 0: there is none
	size  uint64
}

// settle writes what Settled would.
func (m mark) settle(t *meta.Tx, ino Ino, closed, epoch, size uint64, touch bool) mark {
	if m.epoch <= closed {
		m.epoch = 0
	}
	if (m.epoch != 0 || touch) && (m.epoch != epoch || m.size != size) {
		t.MoveMark(m.epoch, epoch, ino, size)
		m.epoch, m.size = epoch, size
	}
	return m
}

// record writes the file's mark with a flush and returns what is known once that is committed; n.mu is held.
func (v *Volume) record(t *meta.Tx, n *inode, d *fileData, durable, segments bool, least, size uint64) (mark, error) {
	row, epoch, closed := n.row, v.epoch, v.closed.Load()
	switch {
	case row.Nlink == 0:
		return mark{}, nil
	case durable && d.mark.row == row:
		return d.mark.settle(t, n.ino, closed, epoch, size, segments), nil
	case durable:
		marked, err := t.Settled(closed, epoch, n.ino, size, segments)
		if !marked {
			epoch = 0
		}
		return mark{row, epoch, size}, err
	case segments && d.touched != epoch || least < row.Size && row.Rows.Count != 0:
		if n.bearing {
			t.TouchNew(epoch, n.ino, least)
			return mark{}, nil
		}
		return mark{}, t.Touch(epoch, n.ino, least)
	case d.mark.row != row:
		return mark{}, nil
	}
	return d.mark, nil
}
