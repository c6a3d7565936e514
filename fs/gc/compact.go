package gc

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Rows is an engine whose deleted rows take room until it merges its tables.
type Rows interface {
	Compact(ctx context.Context) error
	Deleted() int64 // rows, since Compact began last
}

// worthMerging is from how many deleted rows on: fewer give back next to nothing, and each closed epoch deletes one or two.
const worthMerging = 64

// Compactor gives back the room of deleted rows for a writer that found no space. Merging tables is dear, and a disk that is full stays so,
// as a rule: so it is done only after rows were deleted, and takes at most half of the time.
type Compactor struct {
	rows  Rows
	clock func() time.Time
	log   *slog.Logger

	mu     sync.Mutex // guards what follows
	ended  time.Time
	took   time.Duration
	failed bool // the last time
}

// NewCompactor makes one; clock tells the time.
func NewCompactor(rows Rows, clock func() time.Time, log *slog.Logger) *Compactor {
	return &Compactor{rows: rows, clock: clock, log: log}
}

// Reclaim merges the tables if that may be of use, and reports whether it did. When ctx ends it returns; what is being merged then is
// merged to the end.
func (c *Compactor) Reclaim(ctx context.Context) bool {
	deleted := c.rows.Deleted()
	if deleted < worthMerging || !c.rest(ctx) {
		return false
	}
	began := c.clock()
	err := c.rows.Compact(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = c.clock()
	c.took = c.ended.Sub(began)
	if err != nil {
		if !c.failed { // it is tried often
			c.log.Warn("the disk is full, and the room of deleted rows cannot be given back", "rows", deleted, "err", err)
		}
		c.failed = true
		return false
	}
	c.failed = false
	c.log.Info("the disk is full: tables were merged to give back the room of deleted rows", "rows", deleted, "took", c.took)
	return true
}

// rest waits until the last merging is as long ago as it took; false: not before ctx ends.
func (c *Compactor) rest(ctx context.Context) bool {
	c.mu.Lock()
	left := c.took - c.clock().Sub(c.ended)
	c.mu.Unlock()
	if end, ok := ctx.Deadline(); left > 0 && ok && c.clock().Add(left).After(end) {
		return false
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
