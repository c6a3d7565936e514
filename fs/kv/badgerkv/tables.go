package badgerkv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// checkTables reads the tables that the manifest names before Badger does. Badger opens and compacts tables in goroutines of its own,
// where damaged bytes are a panic that nobody can catch, or an exit. What would be one is refused here. A block whose checksum is wrong
// and whose structure is sound is only reported: its rows are authenticated when they are read, and the others are still wanted.
// Tables that the manifest does not name are what a crash left of a table being written; Badger removes them.
func checkTables(dir string, log *slog.Logger) error {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a new store; or one that lost its manifest, whose rows will be missed
	} else if err != nil {
		return fmt.Errorf("badgerkv: open the manifest: %w", err)
	}
	defer f.Close()
	manifest, err := replayManifest(f)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for id, m := range manifest.Tables {
		if int(m.Level) >= badger.DefaultOptions("").MaxLevels || m.KeyID != 0 || m.Compression != options.None {
			return fmt.Errorf("badgerkv: the manifest names a table that is not ours: %w", kv.ErrCorrupt)
		}
		g.Go(func() error {
			name := table.NewFilename(id, dir)
			if err := checkTable(name, id, log); err != nil {
				return fmt.Errorf("badgerkv: table %s: %w", filepath.Base(name), err)
			}
			return nil
		})
	}
	return g.Wait()
}

func replayManifest(f *os.File) (m badger.Manifest, err error) {
	defer guard("manifest", &err)
	m, _, err = badger.ReplayManifestFile(f, 0, badger.DefaultOptions("").WithLogger(nil))
	if err != nil {
		return m, fmt.Errorf("badgerkv: manifest: %w: %w", kv.ErrCorrupt, err)
	}
	return m, nil
}

// checkTable looks at one table as Badger would.
func checkTable(name string, id uint64, log *slog.Logger) (err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it is not there: %w", kv.ErrCorrupt)
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := checkIndex(f); err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map it: %w", err)
	}
	defer func() { _ = unix.Munmap(data) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard("table", &err)
	t, err := table.OpenInMemoryTable(data, id, &table.Options{ChkMode: options.NoVerification, Compression: options.None})
	if err != nil {
		return fmt.Errorf("%w: %w", kv.ErrCorrupt, err)
	}
	if err := t.VerifyChecksum(); err != nil {
		log.Error("a table of rows is damaged; rows in it may be refused or missed", "table", filepath.Base(name), "err", err)
		return walkTable(t)
	}
	return nil
}

// walkTable passes over all rows of a table, as a compaction would.
func walkTable(t *table.Table) error {
	it := t.NewIterator(table.NOCACHE)
	defer func() { _ = it.Close() }()
	var last []byte
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Key()
		if len(key) <= 8 || last != nil && y.CompareKeys(last, key) >= 0 {
			return fmt.Errorf("its rows are damaged: %w", kv.ErrCorrupt)
		}
		_ = it.Value() // decodes it
		last = append(last[:0], key...)
	}
	if !bytes.Equal(last, t.Biggest()) {
		return fmt.Errorf("its rows end too early: %w", kv.ErrCorrupt)
	}
	return nil
}

// checkIndex verifies the checksum of a table's index. From the end of the file backwards: 4 bytes length of the checksum, the
// checksum, 4 bytes length of the index, the index.
func checkIndex(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	end := st.Size()
	take := func(n int64) ([]byte, error) {
		if n <= 0 || n > end {
			return nil, fmt.Errorf("it is truncated or damaged: %w", kv.ErrCorrupt)
		}
		b := make([]byte, n)
		if _, err := f.ReadAt(b, end-n); err != nil {
			return nil, fmt.Errorf("%w: %w", kv.ErrCorrupt, err)
		}
		end -= n
		return b, nil
	}
	field := func() ([]byte, error) {
		b, err := take(4)
		if err != nil {
			return nil, err
		}
		return take(int64(binary.BigEndian.Uint32(b)))
	}
	sum, err := field()
	if err != nil {
		return err
	}
	var want pb.Checksum
	if err := proto.Unmarshal(sum, &want); err != nil {
		return fmt.Errorf("its checksum is damaged: %w", kv.ErrCorrupt)
	}
	index, err := field()
	if err != nil {
		return err
	}
	if want.Algo != pb.Checksum_CRC32C || y.VerifyChecksum(index, &want) != nil {
		return fmt.Errorf("its index is damaged: %w", kv.ErrCorrupt)
	}
	return nil
}
