package fs

import (
	"fmt"
	"sync"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/block"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// fileData is what an open file has in memory: its data keys, its extent map, and what was written and is not sealed yet. It belongs
// to the inode, so all handles of all mounts share it. A read takes bytes from dirty, else from flushing, else from the extents.
type fileData struct {
	mu       sync.RWMutex
	loaded   bool
	extents  *extentMap // replaced as a whole by flush
	dirty    runSet
	flushing runSet // being sealed; does not change
	cut      uint64 // extents are not valid from here on: the file was truncated since the last commit
	size     uint64
	mtime    int64
	ctime    int64
	changed  bool // size, mtime, ctime or what is pending differ from the committed row
	pending  pendingAttr
	unsynced bool // extents were committed whose bytes may not be durable
	touched  uint64
	version  uint64 // of extents: a reader that finds bytes gone looks whether they were replaced meanwhile
	merge    mergeState

	keyMu sync.RWMutex
	keys  map[uint32]*crypto.DataKey

	opens int // guarded by inode.mu

	usage *usage // of the bucket, if it has a quota; guarded by mu
}

func newFileData(row *meta.Inode) *fileData {
	return &fileData{size: row.Size, mtime: row.Mtime, ctime: row.Ctime, cut: endOfFile, keys: map[uint32]*crypto.DataKey{}}
}

// isDirty reports whether anything waits to be committed; d.mu is held.
func (d *fileData) isDirty() bool {
	return d.changed || len(d.dirty.runs) > 0 || d.cut != endOfFile
}

// blockKey derives an extent's key; the lock keeps the data key from being wiped meanwhile.
func (d *fileData) blockKey(gen uint32, salt block.Salt, b block.Binding) (*block.Key, error) {
	d.keyMu.RLock()
	defer d.keyMu.RUnlock()
	k := d.keys[gen]
	if k == nil {
		return nil, fmt.Errorf("%w: generation %d", ErrNoKey, gen)
	}
	return block.NewKey(k, salt, b)
}

// hasKey reports whether the key of a generation is at hand.
func (d *fileData) hasKey(gen uint32) bool {
	d.keyMu.RLock()
	defer d.keyMu.RUnlock()
	return d.keys[gen] != nil
}

func (d *fileData) addKey(gen uint32, k *crypto.DataKey) {
	d.keyMu.Lock()
	defer d.keyMu.Unlock()
	if d.keys[gen] == nil {
		d.keys[gen] = k.Clone()
	}
}

// keepKeys wipes the keys of all generations but those that the sealing names.
func (d *fileData) keepKeys(s Sealing) {
	d.keyMu.Lock()
	defer d.keyMu.Unlock()
	for gen, k := range d.keys {
		kept := false
		for _, f := range s.Keys {
			kept = kept || f.Generation == gen
		}
		if !kept {
			delete(d.keys, gen)
			k.Wipe()
		}
	}
}

func (d *fileData) wipe() { d.keepKeys(Sealing{}) }

// load reads the extent map if it is not here yet.
func (v *Volume) loadExtents(n *inode, d *fileData) error {
	d.mu.RLock()
	loaded := d.loaded
	d.mu.RUnlock()
	if loaded {
		return nil
	}
	n.mu.RLock() // keeps commits away
	defer n.mu.RUnlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.loaded {
		return nil
	}
	var pieces []meta.Piece
	if n.row.Rows.Count != 0 {
		err := v.db.View(func(r *meta.Reader) (err error) {
			pieces, err = r.Pieces(n.row)
			return err
		})
		if err != nil {
			return v.fault("load extent map", err)
		}
	}
	d.extents = newExtentMap(pieces)
	for _, p := range pieces {
		if !p.Extent.Inline && p.Extent.Epoch > v.closed.Load() {
			d.unsynced = true
		}
	}
	d.loaded = true
	return nil
}
