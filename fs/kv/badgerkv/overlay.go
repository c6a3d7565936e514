package badgerkv

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/dgraph-io/badger/v4"
	"github.com/tidwall/btree"
)

// version is one value that a row had. Its slices point into the record of the commit that wrote it. Immutable.
type version struct {
	seq     uint64 // of the commit
	value   []byte
	deleted bool
	before  *version // what the row was before, in the same overlay
}

// at returns the newest version not younger than seq, or nil.
func (v *version) at(seq uint64) *version {
	for v != nil && v.seq > seq {
		v = v.before
	}
	return v
}

// versionCost is what a version costs in memory besides its bytes, roughly: itself, its place in the tree, the spare room there.
const versionCost = 128

// overlay holds commits that Badger does not have yet: for every row all versions of them, so that a snapshot is a number. The
// active one is guarded by Store.mu; a frozen one never changes again.
type overlay struct {
	rows  btree.Map[string, *version] // by key, for scans
	index map[string]*version         // the same, for lookups
	bytes int64
	last  uint64 // the newest commit in it
}

// newOverlay returns an empty overlay that expects about as many rows as given.
func newOverlay(rows int) *overlay { return &overlay{index: make(map[string]*version, rows)} }

// put adds a version. The key must never change.
func (o *overlay) put(key []byte, v *version) {
	k := unsafe.String(unsafe.SliceData(key), len(key))
	if old, replaced := o.rows.Set(k, v); replaced {
		v.before = old
	}
	o.index[k] = v
}

// get returns the row's version at seq, or nil if the overlay has none.
func (o *overlay) get(key []byte, seq uint64) *version {
	return o.index[unsafe.String(unsafe.SliceData(key), len(key))].at(seq)
}

// generation is where everything was between two movements: commits up to base in Badger, later ones in the overlays. A
// snapshot is a generation and the number of the last commit that it sees, so the movement of rows from an overlay into Badger
// goes on below it unseen: rows that arrive in Badger have versions above base, and are still in the snapshot's overlays.
type generation struct {
	base   uint64
	active *overlay
	frozen []*overlay  // newest first
	badger *badger.Txn // reads Badger at base; Badger allows concurrent reads of a read-only transaction
	users  atomic.Int64
}

// cursor walks a source of rows in key order. The slices are valid until the next call.
type cursor interface {
	// next returns the next row; deleted rows are returned too. key is nil at the end.
	next() (key, value []byte, deleted bool, err error)
	close()
}

// overlayCursor reads an overlay in chunks, holding the lock only while it fills one.
type overlayCursor struct {
	o     *overlay
	lock  *sync.RWMutex // nil for a frozen overlay
	seq   uint64
	from  string
	end   []byte
	chunk []overlayRow
	pos   int
	size  int // of the next chunk
	done  bool
}

type overlayRow struct {
	key string
	v   *version
}

const (
	firstChunk = 16
	largeChunk = 256
)

func newOverlayCursor(o *overlay, lock *sync.RWMutex, seq uint64, start, end []byte) *overlayCursor {
	return &overlayCursor{o: o, lock: lock, seq: seq, from: string(start), end: end, size: firstChunk}
}

func (c *overlayCursor) next() ([]byte, []byte, bool, error) {
	if c.pos == len(c.chunk) {
		if c.done {
			return nil, nil, false, nil
		}
		c.fill()
		if len(c.chunk) == 0 {
			return nil, nil, false, nil
		}
	}
	r := c.chunk[c.pos]
	c.pos++
	return unsafe.Slice(unsafe.StringData(r.key), len(r.key)), r.v.value, r.v.deleted, nil
}

// fill reads the next rows. done is set when there are no more.
func (c *overlayCursor) fill() {
	if c.lock != nil {
		c.lock.RLock()
		defer c.lock.RUnlock()
	}
	c.chunk, c.pos = c.chunk[:0], 0
	end := unsafe.String(unsafe.SliceData(c.end), len(c.end))
	c.done = true
	c.o.rows.Ascend(c.from, func(key string, v *version) bool {
		if c.end != nil && key >= end {
			return false
		}
		if len(c.chunk) == c.size {
			c.from, c.done = key, false
			return false
		}
		if v = v.at(c.seq); v != nil {
			c.chunk = append(c.chunk, overlayRow{key, v})
		}
		return true
	})
	c.size = largeChunk
}

func (c *overlayCursor) close() {}
