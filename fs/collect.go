package fs

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// appendGate lets a collector of unreferenced bytes wait until what was appended is named by the rows or given up.
type appendGate struct {
	mu      sync.RWMutex
	inDoubt atomic.Bool // a commit failed and may be there all the same after the next start
}

func (g *appendGate) begin() { g.mu.RLock() }
func (g *appendGate) end()   { g.mu.RUnlock() }

// ErrInDoubt says that a commit failed in a way that leaves open whether it took effect: which extents are referenced is known
// after the next start.
var ErrInDoubt = errors.New("what the last commits named is known after the next start")

// SettleAppends returns when every extent whose append began before the call is named by committed rows or given up. Flushes that
// begin meanwhile wait.
func (v *Volume) SettleAppends() error {
	v.appends.mu.Lock()
	defer v.appends.mu.Unlock()
	if v.appends.inDoubt.Load() {
		return ErrInDoubt
	}
	return nil
}

// Repair runs one transaction of the checker, which changes rows beneath the volume. Nothing may be open, and no kernel may know an
// inode: what is in memory is read again afterwards.
func (v *Volume) Repair(fn func(*meta.Tx) error) error {
	if err := v.flusher.flushAll(); err != nil {
		return err
	}
	v.ns.Lock()
	defer v.ns.Unlock()
	if err := v.bearAllLocked(nil); err != nil {
		return err
	}
	var open error
	v.cache.each(func(n *inode) {
		n.mu.RLock()
		defer n.mu.RUnlock()
		if n.data != nil {
			open = fmt.Errorf("%w: inode %d is open", ErrInvalid, n.ino)
		}
	})
	if open != nil {
		return open
	}
	v.epochMu.RLock()
	defer v.epochMu.RUnlock()
	err := v.db.Update(fn)
	v.changed.Store(true)
	v.cache.each(func(n *inode) {
		n.mu.Lock()
		n.gone = true
		n.mu.Unlock()
		v.cache.drop(n)
	})
	return v.fault("repair", err)
}

// NewIno gives out an inode number, for a directory that the checker makes.
func (v *Volume) NewIno() (Ino, error) { return v.ids.nextIno() }
