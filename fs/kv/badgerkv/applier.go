package badgerkv

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// room counts the bytes of the overlays, and makes commits wait while there are too many. It also keeps why the store failed.
type room struct {
	mu      sync.Mutex
	changed *sync.Cond
	bytes   int64
	limit   int64
	stuck   bool // the filesystem is too full to move anything
	closed  bool
	failed  error // set once
}

// wait returns when there is room for a commit, with the bytes in use.
func (r *room) wait() (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case r.failed != nil:
			return 0, r.failed
		case r.closed:
			return 0, fmt.Errorf("badgerkv: %w", kv.ErrClosed)
		case r.bytes <= r.limit:
			return r.bytes, nil
		case r.stuck:
			return 0, fmt.Errorf("badgerkv: too little space to move rows into badger: %w", kv.ErrNoSpace)
		}
		r.changed.Wait()
	}
}

func (r *room) add(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes += n
	if n < 0 {
		r.changed.Broadcast()
	}
}

func (r *room) set(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
	r.changed.Broadcast()
}

func (r *room) pending() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

func (r *room) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// fail makes the store refuse Update and Sync from now on, and returns the error to give.
func (s *Store) fail(err error) error {
	s.room.set(func() {
		if s.room.failed == nil {
			s.room.failed = fmt.Errorf("badgerkv: %w: %w", kv.ErrFailed, err)
			s.opt.Logger.Error("key-value store failed, it is read-only until it is opened again", "err", err)
		}
	})
	return s.room.failure()
}

// retryMove is how often a full filesystem is looked at again.
const retryMove = time.Second

// applier is the one goroutine that moves commits into Badger.
func (s *Store) applier() {
	defer close(s.applierDone)
	ticker := time.NewTicker(retryMove)
	ticker.Stop()
	defer ticker.Stop()
	for {
		select {
		case <-s.quit:
			return
		case done := <-s.moves:
			err := s.room.failure()
			if err == nil && !s.space.canMove() {
				err = fmt.Errorf("badgerkv: too little space to move rows into badger: %w", kv.ErrNoSpace)
			} else if err == nil {
				if err = s.cycle(); err == nil {
					err = s.rotate()
				}
				if err != nil {
					err = s.fail(err)
				}
			}
			done <- err
			continue
		case <-s.wake:
		case <-ticker.C:
		}
		if s.room.failure() != nil {
			return
		}
		if s.activeBytes.Load() < s.opt.Batch {
			continue
		}
		if !s.space.canMove() {
			s.room.set(func() { s.room.stuck = true })
			ticker.Reset(retryMove)
			continue
		}
		ticker.Stop()
		s.room.set(func() { s.room.stuck = false })
		if err := s.cycle(); err != nil {
			_ = s.fail(err)
			return
		}
	}
}

// Compact gives back the space of rows that were deleted or replaced: all commits are moved into Badger, which writes what it has in its
// table in memory, and its tables are merged into one level, where it drops what no snapshot needs. Commits go on meanwhile, and wait if
// many come. It returns kv.ErrNoSpace, and does nothing, where merging might need the last quarter of the reserve: it takes, for
// a while, as much as all rows. When ctx ends it returns; tables that are
// being merged are merged to the end, and Close waits for that.
func (s *Store) Compact(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("badgerkv: %w", err)
	}
	select {
	case s.compacting <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("badgerkv: %w", ctx.Err())
	}
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		<-s.compacting
		return fmt.Errorf("badgerkv: %w", kv.ErrClosed)
	}
	s.users.Add(1)
	s.mu.RUnlock()

	done := make(chan error, 1)
	go func() {
		defer s.users.Done()
		err := s.compact(ctx)
		<-s.compacting
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("badgerkv: %w", ctx.Err())
	}
}

func (s *Store) compact(ctx context.Context) (err error) {
	if err := s.mayMerge(); err != nil {
		return err
	}
	s.deleted.Store(0)
	for written := true; written; {
		if err := s.moveAll(ctx); err != nil {
			return err
		}
		if written, err = s.awaitTables(ctx); err != nil {
			return err
		}
		if !s.onLevelZero() {
			break
		}
	}
	if err := s.mayMerge(); err != nil { // others may have written meanwhile
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard("merge tables", &err)
	if err := s.db.Flatten(1); err != nil {
		return fmt.Errorf("badgerkv: merge tables: %w", err)
	}
	return nil
}

// Deleted is how many rows were deleted since Compact last began to give back the space of such.
func (s *Store) Deleted() int64 { return s.deleted.Load() }

// mayMerge returns kv.ErrNoSpace where there may be too little for merging all tables: on a full filesystem Badger dies of that.
func (s *Store) mayMerge() error {
	var tables int64
	for _, l := range s.db.Levels() {
		tables += l.Size
	}
	return s.space.checkCompact(s.room.pending(), tables)
}

// moveAll has the applier move all commits into Badger, and into a table in a file.
func (s *Store) moveAll(ctx context.Context) error {
	moved := make(chan error, 1)
	select {
	case s.moves <- moved:
		return <-moved
	case <-s.applierDone: // it ends early only when the store failed
		return s.room.failure()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// onLevelZero reports whether all tables are on level 0, and so few that Badger's Flatten takes them for merged, which they are not: one
// table more each time brings them over its limit.
func (s *Store) onLevelZero() bool {
	tables, below := 0, 0
	for _, l := range s.db.Levels() {
		if l.Level == 0 {
			tables = l.NumTables
		} else {
			below += l.NumTables
		}
	}
	return below == 0 && tables > 0 && tables <= s.opt.LevelZero
}

// memLogs are the logs of Badger's tables in memory, the oldest first: Badger removes each when its table is in a file.
func (s *Store) memLogs() ([]string, error) {
	return filepath.Glob(filepath.Join(s.badgerDir, "*.mem")) // names are numbers, in ascending order
}

// rotate makes Badger begin a new table in memory and write the one that it has into a file, for which it has no call: while deletions
// are in memory only, no compaction drops the rows below them. A table is written when it is full, so it is filled up with values of one
// row of which nobody knows, under the number of the newest commit; each takes the place of the one before, and the last is a deletion.
func (s *Store) rotate() error {
	s.mu.RLock()
	base := s.gen.base
	s.mu.RUnlock()
	if base == s.rotated && !s.onLevelZero() {
		return nil // nothing came since the last time
	}
	write := func(fn func(*badger.WriteBatch) error) error {
		batch := s.db.NewManagedWriteBatch()
		defer batch.Cancel()
		if err := fn(batch); err != nil {
			return err
		}
		return batch.Flush()
	}
	before, err := s.memLogs()
	if err != nil {
		return err
	}
	newest := func() (string, error) {
		logs, err := s.memLogs()
		if err != nil || len(logs) == 0 {
			return "", err
		}
		return logs[len(logs)-1], nil
	}
	for filled := int64(0); ; filled += kv.MaxValueSize {
		if filled > 2*s.opt.MemTable {
			return fmt.Errorf("badgerkv: badger keeps its table in memory (%d bytes, %d logs)", filled, len(before))
		}
		if err := write(func(b *badger.WriteBatch) error {
			return b.SetEntryAt(badger.NewEntry(slices.Clone(fillerKey), make([]byte, kv.MaxValueSize)), base)
		}); err != nil {
			return fmt.Errorf("badgerkv: fill badger's table in memory: %w", err)
		}
		if now, err := newest(); err != nil {
			return err
		} else if len(before) == 0 || now > before[len(before)-1] {
			break
		}
	}
	if err := write(func(b *badger.WriteBatch) error { return b.DeleteAt(slices.Clone(fillerKey), base) }); err != nil {
		return fmt.Errorf("badgerkv: fill badger's table in memory: %w", err)
	}
	s.rotated = base
	return nil
}

// flushWait is how long a table in memory may take into its file. One that a long View reads keeps its log until that ends.
const flushWait = 20 * time.Second

// awaitTables waits until Badger has written its tables in memory, all but the new one; not for ever. It reports whether they are.
func (s *Store) awaitTables(ctx context.Context) (written bool, err error) {
	ctx, stop := context.WithTimeout(ctx, flushWait)
	defer stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		if logs, err := s.memLogs(); err != nil || len(logs) <= 1 {
			return err == nil, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return false, nil // what can be merged is
			}
			return false, ctx.Err()
		}
	}
}

// cycle moves all commits of now into Badger and cuts the redo log back. It runs on one goroutine at a time.
func (s *Store) cycle() error {
	o := s.freeze()
	if o == nil {
		return nil
	}
	if s.opt.hooks.beforeMove != nil {
		s.opt.hooks.beforeMove()
	}
	// Badger's pages may reach the disk at any time. What is not durable in the redo log must not get there first: half of a
	// commit could be found without the other half.
	if err := s.redo.Sync(); err != nil {
		return err
	}
	if err := s.move(o); err != nil {
		return err
	}
	if err := s.settleBadger(); err != nil {
		return err
	}
	s.redo.Cut(o.last)
	s.retire(o)
	s.space.compaction.Store(s.compactionSpace())
	s.batches.Add(1)
	if err := s.redo.Prepare(1); err != nil {
		// Append makes a segment itself if it needs one, and says ErrNoSpace if it cannot.
		s.opt.Logger.Warn("cannot prepare a segment of the redo log", "err", err)
	}
	// More may have come meanwhile.
	s.wakeApplier()
	return nil
}

func (s *Store) wakeApplier() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// freeze begins a new active overlay and returns the old one, or nil if it was empty.
func (s *Store) freeze() *overlay {
	s.commit.Lock()
	defer s.commit.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.gen
	if old.active.last == 0 {
		return nil
	}
	s.gen = &generation{
		base:   old.base,
		active: newOverlay(len(old.active.index)),
		frozen: append([]*overlay{old.active}, old.frozen...),
		badger: old.badger,
	}
	s.former = append(s.former, old)
	s.activeBytes.Store(0)
	return old.active
}

// retire drops an overlay that is in Badger now. Snapshots that were taken before keep it.
func (s *Store) retire(o *overlay) {
	s.commit.Lock() // a commit that is being validated looks at one generation
	s.mu.Lock()
	old := s.gen
	s.gen = &generation{
		base:   o.last,
		active: old.active,
		frozen: slices.DeleteFunc(slices.Clone(old.frozen), func(f *overlay) bool { return f == o }),
		badger: s.db.NewTransactionAt(o.last, false),
	}
	s.former = append(s.former, old)
	s.former = slices.DeleteFunc(s.former, func(g *generation) bool { return g.users.Load() == 0 })
	needed := s.gen.base
	for _, g := range s.former {
		needed = min(needed, g.base)
	}
	s.mu.Unlock()
	s.commit.Unlock()
	s.db.SetDiscardTs(needed)
	s.room.add(-o.bytes)
}
