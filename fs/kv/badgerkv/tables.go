package badgerkv

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// checkTables looks at the end of every table file before Badger does. Badger opens tables in goroutines of its own, where a
// truncated or damaged index is a panic that nobody can catch.
func checkTables(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil {
		return fmt.Errorf("badgerkv: %w", err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("badgerkv: open table: %w", err)
		}
		err = checkTable(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("badgerkv: table %s: %w", filepath.Base(name), err)
		}
	}
	return nil
}

// checkTable verifies the checksum of a table's index. From the end of the file backwards: 4 bytes length of the checksum, the
// checksum, 4 bytes length of the index, the index.
func checkTable(f *os.File) error {
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
