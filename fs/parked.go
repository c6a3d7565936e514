package fs

import (
	"container/list"
	"sync"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// To load a map of very many pieces takes as long as a second, at the next open of a file that a program closes and opens again. So
// the large maps of files that nobody has open any more are kept, the newest of them, up to a number of pieces. They hold no key and
// nothing of the content. Whether a map is still that of the rows is told by the fingerprint of the rows, which the inode names.
const (
	parkFrom = 64      // pieces: smaller maps are loaded as fast
	parkMost = 1 << 18 // pieces of all maps that are kept: about 50 MB
)

// parkedMap is a map that nobody uses.
type parkedMap struct {
	ino     Ino
	rows    meta.Set
	extents *extentMap
	merge   mergeState
}

func (p *parkedMap) pieces() int { return p.extents.pieces.Len() }

// parking keeps the maps of closed files.
type parking struct {
	mu     sync.Mutex
	byIno  map[Ino]*list.Element // of *parkedMap
	newest list.List             // first
	pieces int
}

func (k *parking) init() { k.byIno = map[Ino]*list.Element{} }

// put takes over the map of a file whose last user has gone; nobody may use it any more.
func (k *parking) put(n *inode, d *fileData) {
	if !d.loaded || n.row.Nlink == 0 {
		return
	}
	p := &parkedMap{ino: n.ino, rows: n.row.Rows, extents: d.extents, merge: mergeState{at: d.merge.at, calm: d.merge.calm}}
	if p.pieces() < parkFrom || p.pieces() > parkMost {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remove(k.byIno[n.ino])
	k.byIno[n.ino] = k.newest.PushFront(p)
	k.pieces += p.pieces()
	for k.pieces > parkMost {
		k.remove(k.newest.Back())
	}
}

// take gives a file's map back if it is the one of these rows, else nil.
func (k *parking) take(ino Ino, rows meta.Set) *parkedMap {
	if rows.Count < parkFrom {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.byIno[ino]
	if e == nil {
		return nil
	}
	k.remove(e)
	if p := e.Value.(*parkedMap); p.rows == rows {
		return p
	}
	return nil
}

// remove drops an entry; mu is held.
func (k *parking) remove(e *list.Element) {
	if e == nil {
		return
	}
	p := k.newest.Remove(e).(*parkedMap)
	delete(k.byIno, p.ino)
	k.pieces -= p.pieces()
}
