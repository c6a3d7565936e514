package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/mount/fusefs"
	"github.com/kmsfs/kmsfs/mount/host"
	"github.com/kmsfs/kmsfs/principals"
)

// The names by which keys are derived from the root key. They are part of the
// format: one key, one purpose.
const (
	keyRows     = "kmsfs/rows/v1"     // seals the rows of the key-value store
	keyLedger   = "kmsfs/ledger/v1"   // authenticates identities, policies, keys and grants
	keyVolume   = "kmsfs/volume/v1"   // hashes names, authenticates maps
	keyAnchor   = "kmsfs/anchor/v1"   // authenticates the epoch file
	keyAudit    = "kmsfs/audit/v1"    // seals and chains the audit log
	keyKeystore = "kmsfs/keystore/v1" // wraps key material
	keyBackup   = "kmsfs/backup/v1"   // seals and authenticates backups
)

// The parts of a store's directory; the first two are the key-value engine's.
const (
	dirRows     = "db"
	dirRedo     = "redo"
	dirSegments = "segments"
	dirAudit    = "audit"
	fileShred   = "shred"
	fileEpoch   = "epoch"
)

type openOptions struct {
	Unlock      rootkey.Unlocker
	Log         *slog.Logger
	AuditStrict bool
	// Accept has a store count that was put back as it was earlier: its rows may be older than its epoch file, and keys whose
	// shred key is gone are deleted.
	Accept bool

	// What stands between the rooms and what is stored: tests have I/O errors there. nil is nothing.
	Rows    func(kv.Store) kv.Store
	Extents func(*segment.Store) extent.Store
}

// store is an open store: every room, from the bottom up.
type store struct {
	dir  string
	info rootkey.Info
	root *crypto.DataKey
	log  *slog.Logger

	engine     *badgerkv.Store // rows as they are stored, sealed
	kv         kv.Store        // rows
	ledger     *ledger.Ledger
	anchor     *fs.FileAnchor
	audit      *audit.Log
	strict     bool // the audit log is strict whatever its settings say
	principals *principals.Store
	keystore   *keystore.Service
	extents    *segment.Store
	volume     *fs.Volume
	reaper     *gc.Reaper

	close []func() error // in the order of opening
}

// openStore unlocks the store in dir and opens every room. The caller holds
// its lock.
func openStore(dir string, o openOptions) (*store, error) {
	info, root, err := rootkey.Open(dir, o.Unlock)
	if err != nil {
		return nil, err
	}
	return assemble(dir, info, root, o)
}

// assemble is where the concrete rooms of a store are put together, and the
// only place. It owns root from then on.
func assemble(dir string, info rootkey.Info, root *crypto.DataKey, o openOptions) (s *store, err error) {
	log := o.Log
	s = &store{dir: dir, info: info, root: root, log: log}
	s.opened(func() error { root.Wipe(); return nil })
	defer func() {
		if err != nil {
			err = fmt.Errorf("open the store: %w", errors.Join(err, s.Close()))
			s = nil
		}
	}()
	clock := time.Now

	engine, err := badgerkv.Open(dir, badgerkv.Options{Logger: log})
	if err != nil {
		return s, err
	}
	s.opened(engine.Close)
	rows, extents := kv.Store(engine), func(s *segment.Store) extent.Store { return s }
	if o.Rows != nil {
		rows = o.Rows(engine)
	}
	if o.Extents != nil {
		extents = o.Extents
	}
	s.engine, s.kv = engine, sealed.New(rows, s.key(keyRows))
	if s.ledger, err = ledger.Open(s.kv, s.key(keyLedger)); err != nil {
		return s, err
	}

	if s.anchor, err = fs.OpenFileAnchor(filepath.Join(dir, fileEpoch), s.key(keyAnchor)); err != nil {
		return s, err
	}
	s.opened(s.anchor.Close)
	if err := s.openAudit(o.AuditStrict, clock); err != nil {
		return s, err
	}

	if s.principals, err = principals.Open(s.ledger, info.Account, clock); err != nil {
		return s, err
	}
	s.keystore, err = keystore.Open(keystore.Config{
		Ledger: s.ledger, Root: s.key(keyKeystore), ShredFile: filepath.Join(dir, fileShred), Audit: s.audit,
		Account: info.Account, Region: info.Region, Clock: clock, Logger: log, Principals: s.principals,
		AcceptLost: o.Accept,
	})
	if err != nil {
		return s, err
	}
	s.opened(s.keystore.Close)

	s.extents, err = segment.Open(filepath.Join(dir, dirSegments), segment.Options{
		StoreID: info.Store, Reserve: segmentReserve(dir), Clock: clock, Logger: log,
	})
	if err != nil {
		return s, err
	}
	s.opened(s.extents.Close)
	stored := extents(s.extents)
	s.volume, err = fs.Open(fs.Config{
		KV: s.kv, Extents: stored, Key: s.key(keyVolume), StoreID: info.Store, Anchor: s.anchor, Dir: dir, Clock: clock, Log: log,
		AcceptOlder: o.Accept,
	})
	if err != nil {
		return s, err
	}
	reaper := gc.Start(s.volume, stored, log)
	s.volume.OnEpochClosed(reaper.Wake)
	s.volume.OnFull(reaper.Reclaim, gc.NewCompactor(engine, clock, log).Reclaim)
	reaper.Wake()
	s.opened(s.volume.Close)
	s.opened(func() error { reaper.Close(); return nil })
	if s.volume.Recovery().Unclean {
		reaper.CollectSoon()
	}
	s.reaper = reaper
	s.reportRecovery()
	return s, nil
}

// segmentReserve is what file content leaves free: twice what the rows keep
// for themselves, so that data stops before metadata does.
func segmentReserve(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0
	}
	total := int64(st.Blocks) * st.Bsize
	return 2 * min(max(total/8, 32<<20), 256<<20)
}

// reportRecovery says which files an unclean stop touched: by number, because
// names are nothing for a log. find -inum N tells the name on a mount.
func (s *store) reportRecovery() {
	r := s.volume.Recovery()
	if !r.Unclean {
		return
	}
	s.log.Warn("the store was not closed in order", "checked", r.Checked, "files", len(r.Files))
	for _, f := range r.Files {
		s.log.Warn("bytes that were never synced are gone", "inode", f.Ino, "lost", f.Lost, "restored", f.Restored, "size", f.Size)
	}
}

// key derives a room's key. It is wiped when the store closes: rooms that
// keep one longer have cloned it.
func (s *store) key(name string) *crypto.DataKey {
	k := s.root.Derive(nil, name)
	s.opened(func() error { k.Wipe(); return nil })
	return k
}

func (s *store) opened(undo func() error) { s.close = append(s.close, undo) }

// Close closes every room, the last opened first.
func (s *store) Close() error {
	var errs []error
	for i := len(s.close) - 1; i >= 0; i-- {
		errs = append(errs, s.close[i]())
	}
	s.close = nil
	return errors.Join(errs...)
}

// Host makes the daemon over this store. Only one with a kernel hosts mounts.
func (s *store) Host(kernel host.Kernel, persistent bool, options func(*fusefs.Options)) (*host.Daemon, error) {
	st, err := os.Stat(filepath.Join(s.dir, rootkey.HeaderFile))
	if err != nil {
		return nil, err
	}
	owner, err := ownerOf(st)
	if err != nil {
		return nil, err
	}
	c := host.Config{
		Dir: s.dir, Owner: owner, Info: s.info, Root: s.root, Volume: s.volume, Keystore: s.keystore, Principals: s.principals,
		Audit: s.audit, Configure: s.configureAudit, Keeper: keeper{s}, Persistent: persistent, PID: os.Getpid(), Clock: time.Now, Log: s.log,
	}
	if kernel != nil {
		c.Kernel = kernel
		c.Mount = func(m *mount.Session, dir string, o fusefs.Options) (host.Server, error) {
			options(&o)
			return fusefs.Mount(m, dir, o)
		}
	}
	return host.New(c), nil
}
