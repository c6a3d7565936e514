package fs

import (
	"errors"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// syncExtents makes durable what the file has in the segments, before the rows that name it are.
func (v *Volume) syncExtents(d *fileData, exts []*sealedExtent) error {
	d.mu.RLock()
	unsynced := d.unsynced
	d.mu.RUnlock()
	if !unsynced && !inSegments(exts) {
		return nil
	}
	if err := v.cfg.Extents.Sync(); err != nil {
		return err
	}
	d.mu.Lock()
	d.unsynced = false
	d.mu.Unlock()
	return nil
}

// syncIf makes what is committed durable.
func (v *Volume) syncIf(durable bool) error {
	if !durable {
		return nil
	}
	return v.fault("sync", v.db.Sync())
}

// syncClean makes a file durable of which nothing is dirty. Its mark is set right also if no extent waits to be synced: an earlier flush may
// have gone into the rows, after the file had been shorter in an epoch that is still open.
func (v *Volume) syncClean(n *inode, d *fileData) error {
	if err := v.syncExtents(d, nil); err != nil {
		return v.fault("sync", err)
	}
	d.mark = mark{}
	n.mu.RLock()
	row := n.row
	v.epochMu.RLock()
	err := v.db.UpdateDeferred(func(t *meta.Tx) error {
		if row.Nlink == 0 {
			return nil
		}
		_, err := t.Settled(v.closed.Load(), v.epoch, n.ino, row.Size, false)
		return err
	})
	v.epochMu.RUnlock()
	n.mu.RUnlock()
	if err != nil && !errors.Is(err, kv.ErrNoSpace) { // without the mark less can be brought back, should more be lost later
		return v.fault("sync", err)
	}
	return v.syncIf(true)
}
