package badgerkv

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv/redo"
)

// Store is a kv.Store in a directory.
type Store struct {
	opt       Options
	badgerDir string
	db        *badger.DB
	redo      *redo.Log
	space     space
	room      room
	syncPath  func(path string) error

	inventories uint64            // that were taken; used by who moves rows, as are the next two
	rotated     uint64            // the newest commit when Badger last began a new table in memory because we wanted it to
	marks       map[uint64]uint32 // of tables, see takeInventory

	commit sync.Mutex // held by the one commit at a time, and while the active overlay is changed for another

	mu      sync.RWMutex  // guards the fields below, and what is in the active overlay
	gen     *generation   // changed under commit and mu
	former  []*generation // earlier ones that snapshots may still use
	visible uint64        // number of the newest commit; changed under commit and mu
	closed  bool
	users   sync.WaitGroup // running Views, Updates and Syncs; added to under mu

	wake, quit, applierDone chan struct{}
	moves                   chan chan error // asks the applier to move all commits of now, and to have Badger write its table in memory
	compacting              chan struct{}   // has one element while a Compact is under way
	activeBytes             atomic.Int64    // of the active overlay

	commits, conflicts, batches atomic.Uint64
	deleted                     atomic.Int64 // rows, since the last Compact began
	replayed                    uint64
}

var (
	_ kv.Store    = (*Store)(nil)
	_ kv.Deferrer = (*Store)(nil)
)

// Open opens the store in dir, making it if it is not there: Badger's files go to dir/db, the redo log to dir/redo. One process
// can have it open. After a crash the redo log is replayed first. kv.ErrCorrupt if what was synced is not there or damaged;
// kv.ErrNoSpace if there is too little space for Badger to open safely.
func Open(dir string, opt Options) (*Store, error) {
	free, total, err := firstFree(dir, opt)
	if err != nil {
		return nil, err
	}
	opt = opt.complete(total)
	if need := opt.MemTable / 2; free < need {
		return nil, fmt.Errorf("badgerkv: %d MiB must be free to open the store: %w", need>>20, kv.ErrNoSpace)
	}
	s := &Store{
		opt:         opt,
		badgerDir:   filepath.Join(dir, "db"),
		wake:        make(chan struct{}, 1),
		quit:        make(chan struct{}),
		applierDone: make(chan struct{}),
		moves:       make(chan chan error),
		compacting:  make(chan struct{}, 1),
		syncPath:    syncPath,
	}
	s.space.reserve, s.space.rotation = opt.Reserve, 2*opt.MemTable // its log and its table
	s.space.free = func() (int64, int64, error) { return statfs(s.badgerDir) }
	if opt.hooks.free != nil {
		s.space.free = opt.hooks.free
	}
	if opt.hooks.badgerSync != nil {
		s.syncPath = opt.hooks.badgerSync
	}
	s.room.limit = opt.Overlay
	s.room.changed = sync.NewCond(&s.room.mu)
	inv, err := readInventory(s.badgerDir, opt.Logger)
	if err != nil {
		return nil, err
	}
	s.inventories, s.marks = inv.Number, inv.marks()
	if s.db, err = openBadger(s.badgerDir, inv, opt); err != nil {
		return nil, err
	}
	if err := s.recover(filepath.Join(dir, "redo")); err != nil {
		if s.redo != nil {
			_ = s.redo.Close()
		}
		_ = s.db.Close()
		return nil, err
	}
	go s.applier()
	s.wakeApplier()
	return s, nil
}

// firstFree makes dir and returns the free and the total space of its filesystem.
func firstFree(dir string, opt Options) (free, total int64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, 0, fmt.Errorf("badgerkv: %w", err)
	}
	if opt.hooks.free != nil {
		return opt.hooks.free()
	}
	return statfs(dir)
}

// recover opens the redo log and brings Badger up to date with it.
func (s *Store) recover(dir string) error {
	id, known, err := readMeta(s.db)
	if err != nil {
		return err
	}
	ropt := redo.Options{SegmentSize: s.opt.RedoSegment, Files: s.opt.hooks.redo}
	if known {
		s.redo, err = redo.OpenExisting(dir, ropt)
	} else {
		s.redo, err = redo.Open(dir, ropt)
	}
	if err != nil {
		return redoError(err)
	}
	if known && s.redo.ID() != id {
		return fmt.Errorf("badgerkv: the redo log belongs to another store: %w", kv.ErrCorrupt)
	}
	last := s.db.MaxVersion()
	s.gen = &generation{base: last, active: newOverlay(0), badger: s.db.NewTransactionAt(last, false)}
	if err := s.replay(last, known); err != nil {
		return err
	}
	if s.redo.Last() < last {
		return fmt.Errorf("badgerkv: the redo log ends at commit %d, but badger has %d: %w", s.redo.Last(), last, kv.ErrCorrupt)
	}
	s.visible = s.redo.Last()
	s.space.compaction.Store(s.compactionSpace())
	s.space.begin()
	s.db.SetDiscardTs(s.gen.base)
	return nil
}

// replay reads the redo log. Usually all of it goes to Badger at once, so that the log is empty when the store is open; on a
// full filesystem it stays in memory.
func (s *Store) replay(last uint64, known bool) error {
	flush := func() error {
		o := s.gen.active
		if err := s.move(o); err != nil {
			return err
		}
		s.gen = &generation{base: o.last, active: newOverlay(0), badger: s.db.NewTransactionAt(o.last, false)}
		return nil
	}
	canMove := s.space.canMove()
	err := s.redo.Replay(last+1, func(seq uint64, payload []byte) error {
		t, err := decodePayload(payload)
		if err != nil {
			return err
		}
		t.into(s.gen.active, seq)
		s.replayed++
		if canMove && s.gen.active.bytes > s.opt.Overlay {
			return flush()
		}
		return nil
	})
	if err != nil {
		return redoError(err)
	}
	if !known && s.gen.active.last == 0 {
		// A new store: write the row that says so, under the first number.
		s.gen.active.last = max(s.redo.Last(), 1)
		if err := s.redo.Skip(s.gen.active.last); err != nil {
			return redoError(err)
		}
		canMove = true
	}
	if s.gen.active.last == 0 && s.replayed == 0 {
		return nil
	}
	if !canMove {
		s.room.bytes = s.gen.active.bytes
		s.activeBytes.Store(s.gen.active.bytes)
		return nil
	}
	if s.gen.active.last != 0 {
		if err := flush(); err != nil {
			return err
		}
	}
	if err := s.settleBadger(); err != nil {
		return err
	}
	s.redo.Cut(s.gen.base)
	return nil
}

// redoError gives an error of the redo log its meaning for users of the store.
func redoError(err error) error {
	for _, e := range []struct{ from, to error }{
		{redo.ErrCorrupt, kv.ErrCorrupt},
		{redo.ErrMissing, kv.ErrCorrupt},
		{redo.ErrNoSpace, kv.ErrNoSpace},
		{redo.ErrTooBig, kv.ErrTooBig},
		{redo.ErrFailed, kv.ErrFailed},
	} {
		if errors.Is(err, e.from) {
			return fmt.Errorf("badgerkv: %w: %w", e.to, err)
		}
	}
	return fmt.Errorf("badgerkv: %w", err)
}

// begin takes a snapshot, to be given back with end.
func (s *Store) begin() (reader, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return reader{}, fmt.Errorf("badgerkv: %w", kv.ErrClosed)
	}
	s.users.Add(1)
	s.gen.users.Add(1)
	return reader{s: s, gen: s.gen, seq: s.visible}, nil
}

func (s *Store) end(r reader) {
	r.gen.users.Add(-1)
	s.users.Done()
}

// View implements kv.Store.
func (s *Store) View(fn func(kv.Reader) error) error {
	r, err := s.begin()
	if err != nil {
		return err
	}
	defer s.end(r)
	return fn(&r)
}

// Update implements kv.Store.
func (s *Store) Update(fn func(kv.Txn) error) error { return s.update(fn, s.redo.Append) }

// UpdateDeferred implements kv.Deferrer.
func (s *Store) UpdateDeferred(fn func(kv.Txn) error) error {
	return s.update(fn, s.redo.AppendDeferred)
}

func (s *Store) update(fn func(kv.Txn) error, app func([]byte) (uint64, error)) error {
	for {
		err := s.try(fn, app)
		if !errors.Is(err, kv.ErrConflict) {
			return err
		}
		s.conflicts.Add(1)
		runtime.Gosched()
	}
}

func (s *Store) try(fn func(kv.Txn) error, app func([]byte) (uint64, error)) error {
	r, err := s.begin()
	if err != nil {
		return err
	}
	defer s.end(r)
	t := &txn{reader: r}
	defer t.release()
	if err := fn(t); err != nil {
		return err
	}
	if t.tooBig || t.size > kv.MaxTxnSize || len(t.record)-redo.RecordHeader > s.redo.MaxPayload() {
		return fmt.Errorf("badgerkv: %w", kv.ErrTooBig)
	}
	if len(t.ops) == 0 {
		return nil // what it read was one state
	}
	pending, err := s.room.wait()
	if err != nil {
		return err
	}
	if err := s.space.check(int64(len(t.record)), pending, t.frees()); err != nil {
		return err
	}
	t.own()
	return s.commitTxn(t, app)
}

// commitTxn checks that what the transaction read is still so, gives its writes to the redo log and makes them visible.
func (s *Store) commitTxn(t *txn, app func([]byte) (uint64, error)) error {
	s.commit.Lock()
	defer s.commit.Unlock()
	if err := s.validate(t); err != nil {
		return err
	}
	seq, err := app(t.record)
	if err != nil {
		if errors.Is(err, redo.ErrFailed) {
			return s.fail(err)
		}
		return redoError(err)
	}
	s.mu.Lock()
	o := s.gen.active
	before := o.bytes
	t.into(o, seq)
	s.visible = seq
	added, total := o.bytes-before, o.bytes
	s.mu.Unlock()

	s.commits.Add(1)
	s.deleted.Add(int64(t.deletes))
	s.room.add(added)
	s.activeBytes.Store(total)
	if total >= s.opt.Batch {
		s.wakeApplier()
	}
	return nil
}

// validate returns kv.ErrConflict if a row that t read has another version now. commit is held, so overlays do not change.
func (s *Store) validate(t *txn) error {
	if s.visible == t.seq {
		return nil
	}
	for _, r := range t.reads {
		now, known := s.newest(r.key)
		if !known {
			if s.gen.base == t.gen.base {
				continue // Badger's rows are those that t saw
			}
			var err error
			_, now, err = badgerGet(s.gen.badger, r.key)
			if err != nil && !errors.Is(err, kv.ErrNotFound) {
				return err
			}
		}
		if now != r.seq {
			return kv.ErrConflict
		}
	}
	return nil
}

// newest returns the version of the row in the overlays, 0 if it was deleted, and whether they have one.
func (s *Store) newest(key []byte) (seq uint64, known bool) {
	v := s.gen.active.get(key, math.MaxUint64)
	for i := 0; v == nil && i < len(s.gen.frozen); i++ {
		v = s.gen.frozen[i].get(key, math.MaxUint64)
	}
	if v == nil || v.deleted {
		return 0, v != nil
	}
	return v.seq, true
}

// Sync implements kv.Store.
func (s *Store) Sync() error {
	r, err := s.begin()
	if err != nil {
		return err
	}
	defer s.end(r)
	if err := s.room.failure(); err != nil {
		return err
	}
	if err := s.redo.Sync(); err != nil {
		return s.fail(err)
	}
	return nil
}

// Close implements kv.Store. It waits for running transactions, moves everything into Badger and leaves an empty redo log. On
// a filesystem that is too full for that the redo log stays, synced.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("badgerkv: %w", kv.ErrClosed)
	}
	s.closed = true
	s.mu.Unlock()
	s.room.set(func() { s.room.closed = true })
	s.users.Wait()
	close(s.quit)
	<-s.applierDone

	err := s.room.failure()
	empty := false
	switch {
	case err != nil:
	case s.space.canMove():
		if err = s.cycle(); err == nil {
			empty = true
		}
	default:
		err = s.redo.Sync()
	}
	if e := s.closeBadger(); e != nil && err == nil {
		err = fmt.Errorf("badgerkv: close badger: %w", e)
	}
	if err == nil && empty {
		if err = s.settleBadger(); err == nil {
			err = s.redo.Clean()
		}
	}
	if e := s.redo.Close(); e != nil && err == nil {
		err = e
	}
	return err
}

// closeWait is how long Badger may take to close. What it writes then is one memtable.
const closeWait = time.Minute

// closeBadger closes Badger, which on a medium that refuses its writes tries again for ever: after closeWait it is left alone, so that
// the process can end. Nothing is lost that was acknowledged: the redo log has it.
func (s *Store) closeBadger() error {
	done := make(chan error, 1)
	go func() { done <- s.db.Close() }()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("not done after %v", closeWait)
	}
}

// Stats are numbers for people.
type Stats struct {
	Commits, Conflicts uint64 // since Open
	Batches            uint64 // movements into Badger since Open
	Replayed           uint64 // commits found in the redo log by Open
	Pending            int64  // bytes of memory of commits that Badger does not have
	Redo               redo.Stats
	Tables             int   // table files of Badger
	Free, Reserve      int64 // bytes of the filesystem
}

// Stats returns current numbers; it works on a store that is open, and costs a system call.
func (s *Store) Stats() Stats {
	st := Stats{
		Commits: s.commits.Load(), Conflicts: s.conflicts.Load(), Batches: s.batches.Load(),
		Replayed: s.replayed, Redo: s.redo.Stats(), Reserve: s.opt.Reserve,
	}
	s.room.mu.Lock()
	st.Pending = s.room.bytes
	s.room.mu.Unlock()
	st.Free, _, _ = s.space.free()
	if r, err := s.begin(); err == nil {
		st.Tables = len(s.db.Tables())
		s.end(r)
	}
	return st
}
