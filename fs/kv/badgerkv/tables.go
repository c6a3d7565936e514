package badgerkv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
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

// checkTables reads the tables that the manifest names, all of them, before Badger does. Badger opens and compacts tables in goroutines of
// its own, where damaged bytes are a panic that nobody can catch, or an exit. And where the key of a row is damaged, Badger finds an older
// version of the row, which authenticates. So a table with a wrong checksum is refused. Tables that the manifest does not name are what a
// crash left of a table being written; Badger removes them.
func checkTables(dir string, inv inventory) error {
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
	marks := inv.marks()
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for id, m := range manifest.Tables {
		if int(m.Level) >= badger.DefaultOptions("").MaxLevels || m.KeyID != 0 || m.Compression != options.None {
			return fmt.Errorf("badgerkv: the manifest names a table that is not ours: %w", kv.ErrCorrupt)
		}
		g.Go(func() error {
			name := table.NewFilename(id, dir)
			if want, ok := marks[id]; ok {
				if m, err := mark(name); err == nil && m != want {
					return fmt.Errorf("badgerkv: table %s is not the one that was there: %w", filepath.Base(name), kv.ErrCorrupt)
				}
			}
			if err := checkTable(name, id); err != nil {
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
func checkTable(name string, id uint64) (err error) {
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
		return fmt.Errorf("it is damaged: %w: %w", kv.ErrCorrupt, err)
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
