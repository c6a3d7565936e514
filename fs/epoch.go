package fs

import (
	"context"
	"fmt"
	"time"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// An epoch is a stretch of commits. Closing it makes everything it holds durable, bytes before rows, and then writes its number into
// the rows and into the anchor. Extents of epochs that were not closed may have lost their bytes with the power: recovery checks
// those. What commits of an epoch replaced or removed is freed after it is closed.

// ClosedEpoch is the number of the newest closed epoch.
func (v *Volume) ClosedEpoch() uint64 { return v.closed.Load() }

// OnEpochClosed makes fn be called after each closing of an epoch. It must be called before the volume is used; fn must not block.
func (v *Volume) OnEpochClosed(fn func()) { v.onClosed = append(v.onClosed, fn) }

// CloseEpoch makes everything committed so far durable. It does nothing if nothing was committed since the last time.
func (v *Volume) CloseEpoch() error {
	v.closing.Lock()
	defer v.closing.Unlock()
	v.epochMu.Lock()
	if !v.changed.Load() {
		v.epochMu.Unlock()
		return nil
	}
	epoch := v.epoch
	v.epoch++
	v.changed.Store(false)
	v.dead.Store(0)
	v.epochMu.Unlock()
	err := v.finishEpoch(epoch)
	if err != nil {
		v.changed.Store(true)
		return v.fault(fmt.Sprintf("close epoch %d", epoch), err)
	}
	for _, fn := range v.onClosed {
		fn()
	}
	return nil
}

func (v *Volume) finishEpoch(epoch uint64) error {
	if err := v.cfg.Extents.Sync(); err != nil {
		return err
	}
	if err := v.db.Sync(); err != nil {
		return err
	}
	if err := v.db.Update(func(t *meta.Tx) error {
		v.quotas.record(t, epoch)
		return t.CloseEpoch(epoch)
	}); err != nil {
		return err
	}
	if v.cfg.Anchor != nil {
		// The anchor must never be ahead of the rows.
		if err := v.db.Sync(); err != nil {
			return err
		}
		if err := v.cfg.Anchor.Store(AnchorState{Epoch: epoch}); err != nil {
			return err
		}
	}
	v.closed.Store(epoch)
	return nil
}

func (v *Volume) closeEpochs(ctx context.Context, every time.Duration) {
	defer v.done.Done()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-v.due:
		}
		if err := v.CloseEpoch(); err != nil {
			v.log.Error("epoch not closed", "err", err)
		}
	}
}

// deadMost is how much room may wait for the end of an epoch to be freed: then it is closed early.
const deadMost = 32 << 20

// died counts the room of extents that died with a commit.
func (v *Volume) died(n int64) {
	if v.dead.Add(n) < deadMost {
		return
	}
	select {
	case v.due <- struct{}{}:
	default:
	}
}
