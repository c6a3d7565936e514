package extenttest

import (
	"errors"
	"sync"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// ErrInjected is what an injected fault returns.
var ErrInjected = errors.New("extenttest: injected fault")

// Op is an operation of extent.Store.
type Op uint8

// The operations that faults can be injected into.
const (
	Append Op = iota
	ReadAt
	Sync
	Free
)

// Fault says what happens to one call.
type Fault uint8

const (
	// Pass lets the call through.
	Pass Fault = iota
	// NotApplied fails without reaching the store.
	NotApplied
	// Applied reaches the store and is then reported as failed.
	Applied
)

// Plan decides about the nth call (counted from 0 for each operation) of an
// operation.
type Plan func(op Op, n int) Fault

// Faulty is an extent.Store that fails by plan. It is safe for concurrent use if
// the plan is.
type Faulty struct {
	extent.Store
	plan Plan

	mu    sync.Mutex // guards calls
	calls [Free + 1]int
}

// WithFaults wraps a store.
func WithFaults(s extent.Store, plan Plan) *Faulty { return &Faulty{Store: s, plan: plan} }

// Once is the plan that fails the nth call of one operation and no other.
func Once(op Op, n int, f Fault) Plan {
	return func(o Op, i int) Fault {
		if o == op && i == n {
			return f
		}
		return Pass
	}
}

// Calls returns how often an operation was called.
func (f *Faulty) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *Faulty) next(op Op) Fault {
	f.mu.Lock()
	n := f.calls[op]
	f.calls[op]++
	f.mu.Unlock()
	return f.plan(op, n)
}

// run makes one call as the plan wants it.
func (f *Faulty) run(op Op, call func() error) error {
	switch f.next(op) {
	case NotApplied:
		return ErrInjected
	case Applied:
		if err := call(); err != nil {
			return err
		}
		return ErrInjected
	case Pass:
	}
	return call()
}

// Append implements extent.Store.
func (f *Faulty) Append(sealed []byte) (ref extent.Ref, err error) {
	err = f.run(Append, func() (err error) { ref, err = f.Store.Append(sealed); return err })
	if err != nil {
		return extent.Ref{}, err
	}
	return ref, nil
}

// ReadAt implements extent.Store.
func (f *Faulty) ReadAt(ref extent.Ref, p []byte, off int64) error {
	return f.run(ReadAt, func() error { return f.Store.ReadAt(ref, p, off) })
}

// Sync implements extent.Store.
func (f *Faulty) Sync() error { return f.run(Sync, f.Store.Sync) }

// Free implements extent.Store.
func (f *Faulty) Free(refs ...extent.Ref) error {
	return f.run(Free, func() error { return f.Store.Free(refs...) })
}
