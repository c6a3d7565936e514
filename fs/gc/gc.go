// Package gc reclaims the space of what is dead: extents that a flush, a truncation or a removal took out of the maps. It needs no data
// key: it works on rows that name the dead, never on content.
//
// Two kinds of rows are its work: replaced pieces ('f'), written by the commit that replaced them, and tombstones of removed inodes
// ('t'), whose pieces, inline bytes and extended attributes are still in place. Either may be worked off once the epoch that wrote it
// is closed, for until then a power cut may bring back the rows that refer to the bytes. A removed inode that is still open is left
// alone, and so is what died since somebody who copies extents asked to wait (Pin). Freeing is idempotent and comes before the rows go,
// so a crash in between repeats it.
//
// Beside that it removes what the index of files by key keeps of files that are gone, in proportion to the removals, and what is left of an
// older index.
package gc

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// Volume is what the reaper asks of the volume.
type Volume interface {
	Rows() *meta.DB
	ClosedEpoch() uint64
	InUse(meta.Ino) bool // of an inode without a name
	SettleAppends() error
}

// bite is how many rows one transaction deletes.
const bite = 1000

// mouthful is how many rows of replaced pieces are read at once. The engine still steps over rows that were deleted a moment ago, so
// many short scans from one beginning would cost the square of their number; for the same reason Reaper.from is remembered.
const mouthful = 16 * bite

// Stats counts what was reclaimed since the start.
type Stats struct {
	Extents uint64 // freed in the segments
	Bytes   uint64 // their sealed length
	Inodes  uint64 // removed inodes whose rows are gone
}

// Reaper works in the background. Its methods are safe for concurrent use.
type Reaper struct {
	vol     Volume
	extents extent.Store
	log     *slog.Logger
	wake    chan struct{}
	stop    context.CancelFunc
	done    sync.WaitGroup

	one chan struct{} // has an element while somebody is at work: two would free, and count, the same

	pinMu sync.Mutex
	pins  map[uint64]int // epochs behind which nothing is freed, and how many ask for it

	extentsFreed, bytes, inodes atomic.Uint64
	collect                     atomic.Bool   // asked for, not done yet
	sweepAt                     atomic.Uint64 // number of removed inodes at which the index of files by key is swept next
	upgraded                    atomic.Bool   // nothing is left of the older index
	from                        atomic.Uint64 // no replaced piece of an earlier epoch is left: a closed epoch gets no more of them
}

// Start starts a reaper. Wake it after the closing of an epoch.
func Start(vol Volume, extents extent.Store, log *slog.Logger) *Reaper {
	ctx, stop := context.WithCancel(context.Background())
	r := &Reaper{vol: vol, extents: extents, log: log, wake: make(chan struct{}, 1), one: make(chan struct{}, 1), stop: stop}
	r.sweepAt.Store(sweepLeast)
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
				if err := r.Run(ctx); err != nil && ctx.Err() == nil {
					log.Error("reclaiming space failed, it is tried again later", "err", err)
				}
				if r.collect.Swap(false) {
					r.collectNow(ctx)
				}
			}
		}
	}()
	return r
}

// Wake makes the reaper look for work; it does not block.
func (r *Reaper) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// CollectSoon makes the reaper look for bytes that nothing refers to, once: after an unclean start there may be some.
func (r *Reaper) CollectSoon() {
	r.collect.Store(true)
	r.Wake()
}

func (r *Reaper) collectNow(ctx context.Context) {
	u, err := Collect(ctx, r.vol, r.extents, false)
	switch {
	case err != nil && ctx.Err() == nil:
		r.log.Warn("unreferenced bytes were not collected", "err", err)
	case u.Bytes > 0:
		r.log.Info("collected unreferenced bytes", "bytes", u.Bytes, "ranges", u.Ranges)
	}
}

// Close stops the reaper; what it has not done is done after the next start.
func (r *Reaper) Close() {
	r.stop()
	r.done.Wait()
}

// Pin keeps every extent that a row of a file names now, or later, until release is called: what dies from now on is not freed before.
// What was dead already is. It costs the space of what dies meanwhile.
func (r *Reaper) Pin() (release func()) {
	r.pinMu.Lock()
	defer r.pinMu.Unlock()
	at := r.vol.ClosedEpoch() // whatever dies from now on dies in a later epoch
	if r.pins == nil {
		r.pins = map[uint64]int{}
	}
	r.pins[at]++
	return sync.OnceFunc(func() {
		r.pinMu.Lock()
		defer r.pinMu.Unlock()
		if r.pins[at]--; r.pins[at] == 0 {
			delete(r.pins, at)
		}
		r.Wake()
	})
}

// ripe is the newest epoch whose dead may be freed.
func (r *Reaper) ripe() uint64 {
	r.pinMu.Lock()
	defer r.pinMu.Unlock()
	epoch := r.vol.ClosedEpoch()
	for at := range r.pins {
		epoch = min(epoch, at)
	}
	return epoch
}

// Reclaim does all the work there is for a writer that found no space, and reports whether that freed anything.
func (r *Reaper) Reclaim(ctx context.Context) bool {
	before := r.Stats()
	if err := r.Run(ctx); err != nil {
		r.log.Warn("the disk is full, and what is dead on it is not all freed", "err", err)
	}
	return r.Stats() != before
}

// Stats says what was reclaimed.
func (r *Reaper) Stats() Stats {
	return Stats{Extents: r.extentsFreed.Load(), Bytes: r.bytes.Load(), Inodes: r.inodes.Load()}
}

// Run does all the work there is, after who is at it.
func (r *Reaper) Run(ctx context.Context) error {
	select {
	case r.one <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.one }()
	if err := r.replaced(ctx); err != nil {
		return fmt.Errorf("free replaced extents: %w", err)
	}
	if err := r.tombs(ctx); err != nil {
		return fmt.Errorf("sweep removed inodes: %w", err)
	}
	if err := r.index(ctx); err != nil {
		return fmt.Errorf("sweep the index of files by key: %w", err)
	}
	return nil
}

const (
	sweepLeast = 1 << 16 // removals between two sweeps of the index of files by key, at least
	sweepRatio = 64      // and for each of its rows, of which each costs a sweep one look at the inodes
)

func (r *Reaper) index(ctx context.Context) error {
	db := r.vol.Rows()
	if !r.upgraded.Load() {
		if err := db.DropFileUses(ctx); err != nil {
			return err
		}
		r.upgraded.Store(true)
	}
	removed := r.inodes.Load()
	if removed < r.sweepAt.Load() {
		return nil
	}
	rows, swept, err := db.SweepKeyUses(ctx)
	if err == nil {
		r.sweepAt.Store(removed + max(sweepLeast, uint64(rows-swept)*sweepRatio))
	}
	return err
}

// row is a replaced piece with its key.
type row struct {
	epoch, seq uint64
	meta.Replaced
}

func (r *Reaper) replaced(ctx context.Context) error {
	db, end := r.vol.Rows(), r.ripe()+1
	for ctx.Err() == nil {
		var work []row
		err := db.View(func(rd *meta.Reader) error {
			return rd.Replacements(r.from.Load(), end, func(epoch, seq uint64, x meta.Replaced) (bool, error) {
				work = append(work, row{epoch, seq, x})
				return len(work) < mouthful, nil
			})
		})
		if err != nil {
			return err
		}
		if len(work) == 0 {
			r.from.Store(end)
			return nil
		}
		dead := freed{}
		for _, w := range work {
			if w.Free && !w.Piece.Extent.Inline {
				dead.add(w.Piece.Extent)
			}
		}
		if err := r.free(dead); err != nil {
			return err
		}
		r.count(dead)
		for some := range slices.Chunk(work, bite) {
			err := db.Update(func(t *meta.Tx) error {
				for _, w := range some {
					if w.Free && w.Piece.Extent.Inline {
						t.DeleteInline(w.Ino, w.Piece.Extent.ID)
					}
					t.DeleteReplaced(w.epoch, w.seq, w.Ino)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// freed collects extents once each.
type freed map[meta.ExtentID]extent.Ref

func (f freed) add(x *meta.Extent) {
	if !x.Inline {
		f[x.ID] = extent.Ref{Segment: x.Segment, Offset: x.Offset, Length: x.Sealed}
	}
}

func (r *Reaper) free(f freed) error {
	if len(f) == 0 {
		return nil
	}
	refs := make([]extent.Ref, 0, len(f))
	for _, ref := range f {
		refs = append(refs, ref)
	}
	return r.extents.Free(refs...)
}

func (r *Reaper) count(f freed) {
	r.extentsFreed.Add(uint64(len(f)))
	for _, ref := range f {
		r.bytes.Add(uint64(ref.Length))
	}
}
