package fs

import (
	"fmt"
	"sync"
	"sync/atomic"

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
	mark     mark

	keyMu   sync.RWMutex
	keys    map[uint32]*crypto.DataKey
	opening map[meta.ExtentID]*block.Key // derived keys of long extents that were read; gone with the data keys
	gauge   *atomic.Int64                // how many such keys there are of all files

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

// blockKey derives an extent's key, which the caller wipes; the lock keeps the data key from being wiped meanwhile.
func (d *fileData) blockKey(gen uint32, salt block.Salt, b block.Binding) (*block.Key, error) {
	d.keyMu.RLock()
	defer d.keyMu.RUnlock()
	k := d.keys[gen]
	if k == nil {
		return nil, fmt.Errorf("%w: generation %d", ErrNoKey, gen)
	}
	return block.NewKey(k, salt, b)
}

const (
	keepFrom   = 4 * block.Size // bytes: extents that are shorter are read once, as a rule
	maxOpening = 6 << 10        // derived keys of all files, of 768 bytes each: they fit into what an ordinary user may lock
)

// openingKey derives an extent's key, or finds it where it was derived for an earlier read: for a small read that is most of the work. The
// caller is one of the key's holders, and wipes it.
func (v *Volume) openingKey(ino Ino, d *fileData, x *meta.Extent) (*block.Key, error) {
	if x.Plain < keepFrom {
		return d.blockKey(x.Generation, x.Salt, v.binding(ino, x))
	}
	d.keyMu.RLock()
	k := d.opening[x.ID]
	found := k != nil && d.keys[x.Generation] != nil && k.Hold()
	d.keyMu.RUnlock()
	if found {
		return k, nil
	}
	k, err := d.blockKey(x.Generation, x.Salt, v.binding(ino, x))
	if err != nil {
		return nil, err
	}
	d.keyMu.Lock()
	defer d.keyMu.Unlock()
	switch {
	case d.keys[x.Generation] == nil || d.opening[x.ID] != nil:
	case v.opening.Add(1) <= maxOpening:
		if d.opening == nil {
			d.opening = map[meta.ExtentID]*block.Key{}
		}
		d.keep(x.ID, k)
		d.gauge = &v.opening
	default:
		v.opening.Add(-1)
		for id, old := range d.opening { // any
			delete(d.opening, id)
			old.Wipe()
			d.keep(x.ID, k)
			break
		}
	}
	return k, nil
}

// keep makes the file a holder of a derived key; keyMu is held.
func (d *fileData) keep(id meta.ExtentID, k *block.Key) {
	k.Hold() // never refused: the caller holds it
	d.opening[id] = k
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
	if len(d.opening) > 0 {
		d.gauge.Add(-int64(len(d.opening)))
		for _, k := range d.opening {
			k.Wipe()
		}
		d.opening = nil
	}
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
	if p := v.parking.take(n.ino, n.row.Rows); p != nil {
		d.extents, d.merge = p.extents, p.merge
	} else {
		pieces, err := v.pieces(n)
		if err != nil {
			return err
		}
		d.extents = newExtentMap(pieces)
	}
	for x := range d.extents.refs {
		if !x.Inline && x.Epoch > v.closed.Load() {
			d.unsynced = true
			break
		}
	}
	d.loaded = true
	return nil
}
