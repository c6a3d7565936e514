package fs

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A full disk. What was removed or replaced is freed only when its epoch is closed, which happens every few seconds, so a write that comes
// right after a removal may be refused although there is room. Before an operation answers ErrNoSpace, it therefore frees what is dead,
// holding no lock, and is tried again: first by closing the epoch and reaping it, and if that is not enough by the dearer ways that
// Reclaim names. Each is tried once, and all together take no longer than fullWait, which on a machine that is busy may be needed. Where
// nothing died since the last time this costs next to nothing: a disk that is really full is said to be full at once.

const (
	fullWait   = time.Minute
	forgetWait = time.Second // how long a kernel may take to forget what was removed; it is told, or knows, at once
)

// Reclaim frees space in one way. It reports whether it may have freed some.
type Reclaim func(context.Context) bool

// OnFull says how space is freed when there is none left, after the closing of the epoch, the dearest way last. It must be called before
// the volume is used.
func (v *Volume) OnFull(ways ...Reclaim) { v.full.ways = ways }

// errXattrsFull is ErrNoSpace of another kind: the attributes of one inode are too many.
var errXattrsFull = fmt.Errorf("%w for names of attributes", ErrNoSpace)

// full is the freeing of space that writers wait for: one at a time, so that who comes second finds what the first freed.
type full struct {
	ways []Reclaim
	one  chan struct{} // has an element while somebody is at it
}

func (f *full) init() { f.one = make(chan struct{}, 1) }

// withRoom runs an operation, which holds no lock when it returns, and again where it found no space and some may have been freed.
func (v *Volume) withRoom(op func() error) error {
	err := op()
	if !errors.Is(err, ErrNoSpace) || errors.Is(err, errXattrsFull) || len(v.full.ways) == 0 {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), fullWait)
	defer stop()
	for i := range v.full.ways {
		if v.reclaim(ctx, i) {
			if err = op(); !errors.Is(err, ErrNoSpace) {
				return err
			}
		}
	}
	if ctx.Err() != nil { // what was begun may have freed some, or another's did
		err = op()
	}
	return err
}

// reclaim frees space in one of the ways.
func (v *Volume) reclaim(ctx context.Context, way int) bool {
	select {
	case v.full.one <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-v.full.one }()
	if way == 0 {
		v.awaitForgotten(ctx)
		if err := v.CloseEpoch(); err != nil {
			v.log.Warn("the disk is full, and what is dead on it cannot be freed", "err", err)
			return false
		}
	}
	return v.full.ways[way](ctx)
}

// awaitForgotten waits until the inodes that have no name any more are closed and the kernels have forgotten them: their space is not freed
// before, and a kernel says both a little after the close and the removal. One that was waited for in vain (somebody does have it open) is
// not waited for again.
func (v *Volume) awaitForgotten(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, forgetWait)
	defer stop()
	for {
		left, changed := v.zombies.expected()
		if left == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			v.zombies.giveUp()
			return
		}
	}
}
