package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// Config is what a volume is made of.
type Config struct {
	KV      kv.Store     // sealed rows; the volume does not close it
	Extents extent.Store // sealed extents; likewise
	Key     *crypto.DataKey
	StoreID [16]byte
	Anchor  Anchor // where the number of the newest closed epoch is kept outside the rows; nil: nowhere
	Dir     string // the file system to measure for StatFS; empty: StatFS gives zeros
	Clock   func() time.Time
	Log     *slog.Logger

	MaxDirty     int64         // bytes of unsealed writes in memory, all files together; 0: 256 MiB
	FlushAfter   time.Duration // how long written bytes wait in memory if nobody closes or syncs the file; 0: 5 s; below 0: for ever
	MergeEvery   time.Duration // how often extents of open files are merged; 0: 1 s; below 0: only beside flushes
	EpochEvery   time.Duration // how often an epoch is closed while there are changes; 0: 5 s; below 0: only by Sync and Close
	MaxInodes    int           // inodes kept in memory beyond those in use; 0: 65536
	AcceptOlder  bool          // accept a store older than its anchor (after a restored backup)
	FlushWorkers int           // background flushes at once; 0: 2
}

// Volume is the file system behind all mounts. Its methods are safe for concurrent use.
type Volume struct {
	cfg   Config
	db    *meta.DB
	log   *slog.Logger
	cache inodeCache

	ns      sync.RWMutex // held for writing by each change of the namespace, for reading where a path is put together
	lookups lookupTable
	zombies zombieTable
	unborn  unborn
	names   nameTable
	parking parking

	ids  idSource
	seq  atomic.Uint64 // of Replaced rows within this run
	size dirtyGauge

	opening atomic.Int64 // keys that open files keep derived, see openingKey

	quotas quotas
	full   full

	epochMu  sync.RWMutex  // held for reading by each commit, for writing to begin the next epoch
	epoch    uint64        // the current one
	changed  atomic.Bool   // something was committed in it
	dead     atomic.Int64  // room of the extents that died in it
	due      chan struct{} // has one element if it should be closed early
	closing  sync.Mutex    // one closing of an epoch at a time
	closed   atomic.Uint64
	onClosed []func() // set before use

	appends appendGate
	flusher flusher
	merger  merger
	stop    context.CancelFunc
	done    sync.WaitGroup
	shut    atomic.Bool

	report RecoveryReport
}

// Open opens the volume, or makes one if the store is empty, and repairs what an unclean stop left.
func Open(cfg Config) (*Volume, error) {
	if cfg.Clock == nil {
		cfg.Clock = time.Now //nolint:forbidigo // the default of an injectable clock
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxDirty == 0 {
		cfg.MaxDirty = 256 << 20
	}
	if cfg.EpochEvery == 0 {
		cfg.EpochEvery = 5 * time.Second
	}
	if cfg.FlushAfter == 0 {
		cfg.FlushAfter = 5 * time.Second
	}
	if cfg.MergeEvery == 0 {
		cfg.MergeEvery = time.Second
	}
	if cfg.MaxInodes == 0 {
		cfg.MaxInodes = 65536
	}
	if cfg.FlushWorkers == 0 {
		cfg.FlushWorkers = 2
	}
	v := &Volume{cfg: cfg, log: cfg.Log, db: meta.NewDB(cfg.KV, cfg.Key), due: make(chan struct{}, 1)}
	v.cache.init(cfg.MaxInodes)
	v.lookups.init()
	v.zombies.init()
	v.full.init()
	v.unborn.init()
	v.parking.init()
	v.size.init(cfg.MaxDirty)
	if err := v.load(); err != nil {
		return nil, fmt.Errorf("open volume: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	v.stop = stop
	v.flusher.start(ctx, v, cfg.FlushWorkers)
	v.merger.start(ctx, v, cfg.MergeEvery)
	if err := v.loadQuotas(ctx); err != nil {
		stop()
		v.done.Wait()
		return nil, fmt.Errorf("open volume: %w", err)
	}
	if cfg.EpochEvery > 0 {
		v.done.Add(1)
		go v.closeEpochs(ctx, cfg.EpochEvery)
	}
	return v, nil
}

// ErrVersion says that the rows are of a version that this program does not know.
var ErrVersion = errors.New("the volume needs another version of kmsfs")

// superVersion is the version of the rows. Older ones are upgraded when the volume is opened (upgrade). The rows of versions 2 and 3 are the same,
// but in those of 3 keys may be wrapped in version 2 of package crypto/wrap.
const superVersion = 3

func (v *Volume) load() error {
	var super meta.Super
	err := v.db.View(func(r *meta.Reader) (err error) {
		super, err = r.Super()
		return err
	})
	switch {
	case errors.Is(err, meta.ErrNotFound):
		if super, err = v.format(); err != nil {
			return err
		}
	case err != nil:
		return v.fault("super row", err)
	}
	if from := super.Version; from == 1 || from == 2 {
		if err := v.upgrade(from); err != nil {
			return v.fault(fmt.Sprintf("upgrade the rows from version %d", from), err)
		}
		super.Version = superVersion
	}
	if super.Version != superVersion {
		return fmt.Errorf("%w: the version of its rows is %d, this program knows %d", ErrVersion, super.Version, superVersion)
	}
	v.ids.init(v.db, super)
	v.closed.Store(super.Epoch)
	v.epoch = super.Epoch + 1
	return v.recoverState(super)
}

// upgrade makes a volume of an older version one of today's. In version 1 the index of files by key had a row for each file, not for each block of
// inodes. The version is written last: until then the rows are still what an older program expects, with some more that it ignores, and
// an upgrade that was interrupted begins anew. What the older index leaves is deleted by package gc.
func (v *Volume) upgrade(from uint32) error {
	v.log.Info("upgrading the rows of the volume", "from", from, "to", superVersion)
	if from == 1 {
		rebuilt, err := v.db.UpgradeKeyUses()
		if err != nil {
			return err
		}
		if rebuilt {
			v.log.Warn("the index of files by key could not be read and was made anew")
		}
	}
	return v.db.Update(func(t *meta.Tx) error {
		super, err := t.Super()
		if err != nil {
			return err
		}
		super.Version = superVersion
		t.PutSuperFreeing(super)
		return nil
	})
}

func (v *Volume) format() (meta.Super, error) {
	super := meta.Super{Version: superVersion, NextIno: RootIno + 1, NextExtent: 1}
	now := v.now()
	root := &meta.Inode{Ino: RootIno, Type: Directory, Mode: 0o755, Nlink: 2, Atime: now, Mtime: now, Ctime: now, Btime: now}
	if v.cfg.Anchor != nil {
		state, err := v.cfg.Anchor.Load()
		if err != nil {
			return super, err
		}
		if state.Epoch != 0 {
			return super, fmt.Errorf("%w: the rows of the volume are gone", ErrCorrupt)
		}
	}
	return super, v.db.Update(func(t *meta.Tx) error {
		t.PutSuper(super)
		t.PutInode(root)
		return nil
	})
}

// repeat calls fn at intervals until ctx ends.
func repeat(ctx context.Context, every time.Duration, fn func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			fn()
		}
	}
}

func (v *Volume) now() int64 { return v.cfg.Clock().UnixNano() }

// fault maps an error of the rows to one of ours.
func (v *Volume) fault(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, meta.ErrNotFound):
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	case errors.Is(err, meta.ErrExists):
		return fmt.Errorf("%s: %w", what, ErrExists)
	case errors.Is(err, meta.ErrCorrupt), errors.Is(err, kv.ErrCorrupt):
		v.log.Error("corrupt metadata", "what", what, "err", err)
		return fmt.Errorf("%s: %w: %w", what, ErrCorrupt, err)
	case errors.Is(err, kv.ErrNoSpace), errors.Is(err, extent.ErrNoSpace):
		return fmt.Errorf("%s: %w: %w", what, ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Sync makes everything durable: dirty data of all files, and what was committed before.
func (v *Volume) Sync() error {
	err := v.flusher.flushAll()
	return errors.Join(err, v.CloseEpoch())
}

// SyncDir makes every change of names and attributes that returned durable; dirty data stays where it is.
func (v *Volume) SyncDir() error {
	if err := v.withRoom(v.bearAll); err != nil {
		return err
	}
	return v.fault("sync", v.db.Sync())
}

func (v *Volume) nextSeq() uint64 { return v.seq.Add(1) }

// Rows gives the typed rows, for the reaper and the checker.
func (v *Volume) Rows() *meta.DB { return v.db }

// Close flushes and stops the volume. No call may be under way.
func (v *Volume) Close() error {
	if v.shut.Swap(true) {
		return nil
	}
	v.stop()
	v.flusher.wait()
	v.merger.stop()
	v.done.Wait()
	err := v.flusher.flushAll()
	v.settleQuotas()
	err = errors.Join(err, v.CloseEpoch())
	if err == nil && v.cfg.Anchor != nil {
		err = v.cfg.Anchor.Store(AnchorState{Epoch: v.closed.Load(), Clean: true})
	}
	v.cache.each(func(n *inode) { n.wipe() })
	return err
}

// idSource hands out inode and extent numbers; it reserves them in the super row by the thousand, so that a crash may lose numbers
// but never hands one out twice.
type idSource struct {
	mu          sync.Mutex
	db          *meta.DB
	ino, inoEnd Ino
	ext, extEnd meta.ExtentID
}

const reserveIDs = 1 << 14

func (s *idSource) init(db *meta.DB, super meta.Super) {
	s.db = db
	s.ino, s.inoEnd = super.NextIno, super.NextIno
	s.ext, s.extEnd = super.NextExtent, super.NextExtent
}

func (s *idSource) reserve() error {
	return s.db.Update(func(t *meta.Tx) error {
		super, err := t.Super()
		if err != nil {
			return err
		}
		super.NextIno, super.NextExtent = s.ino+reserveIDs, s.ext+reserveIDs
		t.PutSuper(super)
		return nil
	})
}

func (s *idSource) nextIno() (Ino, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fill(); err != nil {
		return 0, err
	}
	s.ino++
	return s.ino - 1, nil
}

func (s *idSource) nextExtent() (meta.ExtentID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fill(); err != nil {
		return 0, err
	}
	s.ext++
	return s.ext - 1, nil
}

func (s *idSource) fill() error {
	if s.ino < s.inoEnd && s.ext < s.extEnd {
		return nil
	}
	if err := s.reserve(); err != nil {
		return fmt.Errorf("reserve numbers: %w", err)
	}
	s.inoEnd, s.extEnd = s.ino+reserveIDs, s.ext+reserveIDs
	return nil
}
