package fs

import (
	"sync"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// lookupTable counts, for each inode, how often kernels were told of it: while the count is above 0 some kernel may ask by number.
type lookupTable struct {
	shards [64]struct {
		mu sync.Mutex
		n  map[Ino]uint64
	}
}

func (t *lookupTable) init() {
	for i := range t.shards {
		t.shards[i].n = map[Ino]uint64{}
	}
}

func (t *lookupTable) add(ino Ino, n uint64) {
	s := &t.shards[ino%Ino(len(t.shards))]
	s.mu.Lock()
	s.n[ino] += n
	s.mu.Unlock()
}

// sub reports whether nobody knows the inode any more.
func (t *lookupTable) sub(ino Ino, n uint64) bool {
	s := &t.shards[ino%Ino(len(t.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.n[ino]
	if have > n {
		s.n[ino] = have - n
		return false
	}
	delete(s.n, ino)
	return true
}

func (t *lookupTable) known(ino Ino) bool {
	s := &t.shards[ino%Ino(len(t.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n[ino] > 0
}

// zombieTable holds the inodes that have no name any more but are open or known to a kernel. Their rows are gone and a tombstone
// stands for them, so a crash ends them; the sweeper leaves them alone while they are here. Each is pinned once.
type zombieTable struct {
	mu      sync.Mutex // a leaf; guards what follows
	n       map[Ino]*inode
	kept    map[Ino]struct{} // of them, those that were waited for in vain
	changed chan struct{}    // closed when one goes; nil if nobody waits
}

func (z *zombieTable) init() {
	z.n, z.kept = map[Ino]*inode{}, map[Ino]struct{}{}
}

func (z *zombieTable) get(ino Ino) *inode {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.n[ino]
}

func (z *zombieTable) add(n *inode) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.n[n.ino] = n
}

// remove reports whether it was there.
func (z *zombieTable) remove(ino Ino) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	if _, ok := z.n[ino]; !ok {
		return false
	}
	delete(z.n, ino)
	delete(z.kept, ino)
	if z.changed != nil {
		close(z.changed)
		z.changed = nil
	}
	return true
}

// expected counts those that may go soon; changed is closed when one does.
func (z *zombieTable) expected() (left int, changed <-chan struct{}) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.changed == nil {
		z.changed = make(chan struct{})
	}
	return len(z.n) - len(z.kept), z.changed
}

// giveUp says that those that are there now are not expected to go soon.
func (z *zombieTable) giveUp() {
	z.mu.Lock()
	defer z.mu.Unlock()
	for ino := range z.n {
		z.kept[ino] = struct{}{}
	}
}

// Acquire adds n to the number of times that kernels were told of the inode.
func (v *Volume) Acquire(ino Ino, n uint64) { v.lookups.add(ino, n) }

// Forget takes n off that number. An inode without a name goes when nobody knows it and nobody has it open.
func (v *Volume) Forget(ino Ino, n uint64) {
	if v.lookups.sub(ino, n) {
		v.release(ino)
	}
}

// InUse reports whether the inode, which has no name, is still open or known to a kernel.
func (v *Volume) InUse(ino Ino) bool {
	return v.zombies.get(ino) != nil
}

// release ends a nameless inode if it is not in use any more.
func (v *Volume) release(ino Ino) {
	n := v.zombies.get(ino)
	if n == nil {
		return
	}
	n.mu.Lock()
	if v.busy(n) || n.gone {
		n.mu.Unlock()
		return
	}
	n.gone = true
	n.mu.Unlock()
	v.cache.drop(n)
	v.zombies.remove(ino)
	v.put(n)
}

// busy reports whether an inode is open or known to a kernel; n.mu is held.
func (v *Volume) busy(n *inode) bool {
	return n.data != nil || v.lookups.known(n.ino)
}

// unlinked deals with an inode whose last name was just removed; ns and n.mu are held, its row has been buried.
func (v *Volume) unlinked(n *inode) {
	v.uncount(n)
	if d := n.data; d != nil && d.opens == 0 { // its close could not commit what was written, which nobody wants any more
		v.endData(n, d)
	}
	v.names.forget(n)
	if !v.busy(n) {
		n.gone = true
		v.cache.drop(n)
		return
	}
	v.cache.mu.Lock()
	v.cache.hold(n)
	v.cache.mu.Unlock()
	v.zombies.add(n)
	if !v.lookups.known(n.ino) && n.data == nil { // forgotten in between: Forget did not find it in the table
		go v.release(n.ino)
	}
}

// bury writes the end of an inode into a transaction of commit.
func (v *Volume) bury(t *meta.Tx, n *inode, row *meta.Inode) {
	t.Bury(row, v.epoch, v.busy(n))
}
