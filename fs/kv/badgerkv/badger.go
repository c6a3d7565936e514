package badgerkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// openBadger opens Badger in managed mode: we choose the versions, which are the numbers of our commits.
func openBadger(dir string, inv inventory, opt Options) (db *badger.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard("open", &err)
	if err := checkInventory(dir, inv); err != nil {
		return nil, err
	}
	if err := checkTables(dir, inv); err != nil {
		return nil, err
	}
	o := badger.DefaultOptions(dir).
		WithLogger(badgerLogger{opt.Logger}).
		WithMetricsEnabled(false).
		WithSyncWrites(false).      // the redo log is the durability
		WithDetectConflicts(false). // we do
		WithNumVersionsToKeep(1).
		WithMemTableSize(opt.MemTable).
		WithNumMemtables(2).
		WithBaseTableSize(opt.MemTable / 2). // larger means fewer files, each with a descriptor and a mapping; smaller, smaller compactions
		WithNumLevelZeroTables(opt.LevelZero).
		WithNumLevelZeroTablesStall(opt.LevelZero + 8).
		WithNumCompactors(2).
		WithCompression(options.None). // values are ciphertext
		WithBlockCacheSize(0).         // tables are mapped: the page cache is the cache
		WithIndexCacheSize(0).
		WithChecksumVerificationMode(options.NoVerification). // rows are sealed; and Badger takes a bad block for no rows
		WithValueThreshold(min(1<<20, opt.MemTable*15/100)).  // all values in the tables
		WithValueLogFileSize(1 << 20)                         // never used
	o.TableSizeMultiplier = 1
	if opt.LevelZero > fewTables { // a level that takes all of level 0 at once: with a smaller one in between everything would be written once more
		o.BaseLevelSize = int64(opt.LevelZero) * opt.MemTable
	}
	if db, err = badger.OpenManaged(o); err != nil {
		return nil, fmt.Errorf("badgerkv: open badger: %w", err)
	}
	return db, nil
}

// The row that says what this Badger directory is: version of the format, and the id of the redo log that belongs to it. It is
// written with every batch, so that Badger's newest version is always that of the newest commit it has.
var metaKey = []byte{metaSpace, 'k', 'm', 's', 'f', 's'}

// The row that Compact fills Badger's table in memory with. Nobody reads it.
var fillerKey = []byte{metaSpace, 'f', 'i', 'l', 'l'}

const metaFormat = 1

func encodeMeta(id [16]byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, metaFormat), id[:]...)
}

// readMeta returns the id of the redo log, and whether there is one: if not, the directory is new.
func readMeta(db *badger.DB) (id [16]byte, found bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard("open", &err)
	last := db.MaxVersion()
	t := db.NewTransactionAt(last, false)
	defer t.Discard()
	item, err := t.Get(metaKey)
	if errors.Is(err, badger.ErrKeyNotFound) {
		if last != 0 {
			return id, false, fmt.Errorf("badgerkv: badger has rows that are not ours: %w", kv.ErrCorrupt)
		}
		return id, false, nil
	}
	if err != nil {
		return id, false, fmt.Errorf("badgerkv: open: %w: %w", kv.ErrCorrupt, err)
	}
	b, err := item.ValueCopy(nil)
	if err != nil {
		return id, false, fmt.Errorf("badgerkv: open: %w: %w", kv.ErrCorrupt, err)
	}
	if len(b) < 4 {
		return id, false, fmt.Errorf("badgerkv: open: format row: %w", kv.ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(b); v != metaFormat {
		return id, false, fmt.Errorf("badgerkv: open: the store has format %d, this program knows %d", v, metaFormat)
	}
	if len(b) != 4+len(id) {
		return id, false, fmt.Errorf("badgerkv: open: format row: %w", kv.ErrCorrupt)
	}
	copy(id[:], b[4:])
	return id, true, nil
}

// Verify reads all of Badger's tables and checks their checksums: kv.ErrCorrupt if one is wrong. Rows are authenticated when they
// are read, but a row whose key was damaged looks as if it were not there. It takes as long as reading the files does.
func (s *Store) Verify() (err error) {
	r, err := s.begin()
	if err != nil {
		return err
	}
	defer s.end(r)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard("verify", &err)
	if err := s.db.VerifyChecksum(); err != nil {
		return fmt.Errorf("badgerkv: verify: %w: %w", kv.ErrCorrupt, err)
	}
	return nil
}

// compactionSpace estimates how many bytes compactions may need for a while in addition to what Badger uses: the first level
// is merged into the base level as a whole, below one table is merged with about ten, and there are two compactors.
func (s *Store) compactionSpace() int64 {
	var all, first int64
	for _, l := range s.db.Levels() {
		all += l.Size
		if l.Level == 0 || l.IsBaseLevel {
			first += l.Size
		}
	}
	return min(all, first+20*s.opt.MemTable/2)
}

const slabSize = 64 << 10

// move writes the newest version of every row of a frozen overlay into Badger. It is not durable yet. Doing it again does no
// harm: rows have the same versions.
func (s *Store) move(o *overlay) error {
	batch := s.db.NewManagedWriteBatch()
	defer batch.Cancel()
	batch.SetMaxPendingTxns(2)
	var err error
	var slab []byte // Badger wants slices of its own; they are cut from larger ones
	room := func(n int) []byte {
		if n > len(slab) {
			slab = make([]byte, max(n, slabSize))
		}
		b := slab[:0:n]
		slab = slab[n:]
		return b
	}
	o.rows.Scan(func(key string, v *version) bool {
		k := append(append(room(1+len(key)), rowSpace), key...)
		if v.deleted {
			err = batch.DeleteAt(k, v.seq)
		} else {
			value := append(append(room(1+len(v.value)), valueMark), v.value...)
			err = batch.SetEntryAt(badger.NewEntry(k, value), v.seq)
		}
		return err == nil
	})
	if err == nil {
		err = batch.SetEntryAt(badger.NewEntry(metaKey, encodeMeta(s.redo.ID())), o.last)
	}
	if err == nil {
		err = batch.Flush()
	}
	if err != nil {
		return fmt.Errorf("badgerkv: move rows into badger: %w", err)
	}
	return nil
}

// syncBadger makes durable what was moved. db.Sync would sync only the log of the memory table that is active now, not of those
// that were rotated away and not flushed yet, so all files are synced by path. A file that is gone was a memory table whose
// rows are in a table file; Badger syncs table files before it uses them, and the manifest that names them.
func (s *Store) syncBadger() error {
	entries, err := os.ReadDir(s.badgerDir)
	if err != nil {
		return fmt.Errorf("badgerkv: sync: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".sst") || e.IsDir() {
			continue
		}
		if err := s.syncPath(filepath.Join(s.badgerDir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("badgerkv: sync: %w", err)
		}
	}
	if err := s.syncPath(s.badgerDir); err != nil {
		return fmt.Errorf("badgerkv: sync: %w", err)
	}
	return nil
}

// syncPath fsyncs a file or directory.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
