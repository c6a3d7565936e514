package kvtest

import (
	"errors"
	"sync"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// Op is an operation of a store that can be made to fail.
type Op uint8

// The operations that Faulty asks about.
const (
	View Op = iota
	Update
	Sync
	Deferred // an UpdateDeferred
)

// Fault says how an operation goes.
type Fault uint8

// The faults. A caller has to cope with both kinds of failure, and cannot tell which it was.
const (
	None       Fault = iota
	NotApplied       // it has no effect, and an error is returned
	Applied          // it takes effect, and an error is returned nevertheless
)

// ErrInjected is what a fault without an error of its own returns.
var ErrInjected = errors.New("kvtest: injected fault")

// Faulty is a store whose operations fail on demand. Safe for concurrent use.
type Faulty struct {
	inner kv.Store

	mu     sync.Mutex
	decide func(op Op, n int) (Fault, error)
	counts [4]int
}

var (
	_ kv.Store    = (*Faulty)(nil)
	_ kv.Deferrer = (*Faulty)(nil)
)

// NewFaulty wraps inner. Before each operation decide is called with the operation and how many of its kind came before; a nil
// error stands for ErrInjected. A nil decide lets everything pass.
func NewFaulty(inner kv.Store, decide func(op Op, n int) (Fault, error)) *Faulty {
	return &Faulty{inner: inner, decide: decide}
}

// Decide replaces the decision and restarts the counts.
func (f *Faulty) Decide(decide func(op Op, n int) (Fault, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decide, f.counts = decide, [4]int{}
}

// Count returns how many operations of a kind there were since NewFaulty or Decide.
func (f *Faulty) Count(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[op]
}

func (f *Faulty) next(op Op) (Fault, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.counts[op]
	f.counts[op]++
	if f.decide == nil {
		return None, nil
	}
	fault, err := f.decide(op, n)
	if err == nil {
		err = ErrInjected
	}
	return fault, err
}

// View fails before the function is run, or after.
func (f *Faulty) View(fn func(kv.Reader) error) error {
	fault, injected := f.next(View)
	if fault == NotApplied {
		return injected
	}
	err := f.inner.View(fn)
	if err == nil && fault == Applied {
		return injected
	}
	return err
}

// Update runs the function in any case, and fails in place of the commit or after it.
func (f *Faulty) Update(fn func(kv.Txn) error) error { return f.update(Update, fn, f.inner.Update) }

// UpdateDeferred fails as Update does. It is deferred if the store beneath defers commits.
func (f *Faulty) UpdateDeferred(fn func(kv.Txn) error) error {
	return f.update(Deferred, fn, func(fn func(kv.Txn) error) error { return kv.UpdateDeferred(f.inner, fn) })
}

func (f *Faulty) update(op Op, fn func(kv.Txn) error, update func(func(kv.Txn) error) error) error {
	fault, injected := f.next(op)
	err := update(func(tx kv.Txn) error {
		if err := fn(tx); err != nil {
			return err
		}
		if fault == NotApplied {
			return injected
		}
		return nil
	})
	if err == nil && fault == Applied {
		return injected
	}
	return err
}

// Sync fails in place of the sync or after it.
func (f *Faulty) Sync() error {
	fault, injected := f.next(Sync)
	if fault == NotApplied {
		return injected
	}
	err := f.inner.Sync()
	if err == nil && fault == Applied {
		return injected
	}
	return err
}

// Close never fails on purpose.
func (f *Faulty) Close() error { return f.inner.Close() }
