package main

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/extenttest"
	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
)

// faultyEnv makes this package's tests the program itself, whose daemon has I/O errors by order: integration/crash mounts it
// (TestFaultsThroughMounts). The orders come by descriptor 3, a socket, one JSON object each, and are answered by what was counted since
// the one before.
const faultyEnv = "KMSFS_FAULTY"

// faultOrder makes an operation fail; the zero value none.
type faultOrder struct {
	Op      string `json:"op"` // view, update, deferred, sync; append, read, extent-sync, free
	N       int    `json:"n"`  // counted from the order on
	Applied bool   `json:"applied"`
	NoSpace bool   `json:"noSpace"` // of an update or a deferred one that is not applied: there is no room, and nothing else is wrong
}

// faultCount is what happened since the last order.
type faultCount struct {
	Counts map[string]int `json:"counts"`
	Fired  bool           `json:"fired"`
}

// faults decides about each operation. As the engine does, rows fail for good: every change after the one that failed is refused.
type faults struct {
	mu     sync.Mutex
	order  faultOrder
	count  faultCount
	failed bool
}

func faultyProgram() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	app := newApp(streams{os.Stdin, os.Stdout, os.Stderr})
	if slices.Contains(os.Args, "serve") {
		f := &faults{count: faultCount{Counts: map[string]int{}}}
		go f.serve(os.NewFile(3, "orders"))
		app.Metadata[metaBetween] = func(o *openOptions) {
			o.Rows = func(s kv.Store) kv.Store { return failing{kvtest.NewFaulty(s, f.rows), f} }
			o.Extents = func(s *segment.Store) extent.Store { return ranging{extenttest.WithFaults(s, f.extents), s} }
		}
	}
	return runApp(ctx, app, os.Args)
}

// failing refuses every change after one failed, before it is looked at: as the engine shows nothing of the one that failed until it is
// opened again.
type failing struct {
	kv.Store
	f *faults
}

func (s failing) Update(fn func(kv.Txn) error) error {
	if s.f.over() {
		return kv.ErrFailed
	}
	return s.Store.Update(fn)
}

// UpdateDeferred implements kv.Deferrer: without it what follows here would see no deferred commit at all.
func (s failing) UpdateDeferred(fn func(kv.Txn) error) error {
	if s.f.over() {
		return kv.ErrFailed
	}
	return kv.UpdateDeferred(s.Store, fn)
}

func (f *faults) over() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// ranging keeps a store one that can be collected.
type ranging struct {
	extent.Store
	extent.Ranger
}

func (f *faults) serve(orders *os.File) {
	in, out := json.NewDecoder(orders), json.NewEncoder(orders)
	for {
		var o faultOrder
		if in.Decode(&o) != nil {
			return
		}
		f.mu.Lock()
		count := f.count
		f.order, f.count = o, faultCount{Counts: map[string]int{}}
		f.mu.Unlock()
		if out.Encode(count) != nil {
			return
		}
	}
}

// next says whether an operation fails, 0 for not.
func (f *faults) next(op string) kvtest.Fault {
	n := f.count.Counts[op]
	f.count.Counts[op]++
	switch {
	case op != f.order.Op || n != f.order.N || f.count.Fired:
		return kvtest.None
	case f.order.Applied:
		f.count.Fired = true
		return kvtest.Applied
	}
	f.count.Fired = true
	return kvtest.NotApplied
}

func (f *faults) rows(op kvtest.Op, _ int) (kvtest.Fault, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed && op != kvtest.View {
		return kvtest.NotApplied, kv.ErrFailed
	}
	fault := f.next([]string{"view", "update", "sync", "deferred"}[op])
	if fault != kvtest.None && f.order.NoSpace {
		return fault, kv.ErrNoSpace
	}
	if fault != kvtest.None && op != kvtest.View {
		f.failed = true
		return fault, kv.ErrFailed
	}
	return fault, nil
}

func (f *faults) extents(op extenttest.Op, _ int) extenttest.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.next([]string{"append", "read", "extent-sync", "free"}[op]) {
	case kvtest.NotApplied:
		return extenttest.NotApplied
	case kvtest.Applied:
		return extenttest.Applied
	case kvtest.None:
	}
	return extenttest.Pass
}
