package badgerkv

import (
	"fmt"
	"log/slog"

	"github.com/kmsfs/kmsfs/fs/kv/badgerkv/redo"
)

// Options are the engine's options. The zero value is good for a store of any size. Sizes are in bytes.
type Options struct {
	Logger *slog.Logger // nil: slog.Default()

	// Reserve is the free space of the filesystem below which Update returns kv.ErrNoSpace. Transactions that make space
	// (kv.FreeingSets) may go down to half of it. 0: an eighth of the filesystem, at least 32 MiB, at most 256 MiB.
	Reserve int64

	// Overlay is how much memory commits may take that Badger does not have yet: Update waits when it is exceeded. 0: 32 MiB,
	// less on a small filesystem.
	Overlay int64
	// Batch is at which size commits are moved into Badger. 0: a quarter of Overlay.
	Batch int64
	// MemTable is the size of Badger's tables in memory, at least 4 MiB. 0: 16 MiB, less on a small filesystem. With half of
	// it, changing many rows costs half as much again in compactions.
	MemTable int64
	// LevelZero is how many tables may lie on Badger's level 0 before it merges them into the level below, which then holds about as
	// much. More means fewer merges, each of which rewrites that level: of a million rows changed, a third less is written. And it
	// means more tables to look into for a row, and more space while they are merged. 0: 16 on a filesystem of 32 GiB or more, else 4.
	LevelZero int
	// RedoSegment is the size of the redo log's files. A transaction must fit into one. 0: 16 MiB.
	RedoSegment int64

	hooks hooks
}

// hooks let tests inject faults and stop the applier.
type hooks struct {
	redo       redo.Files
	free       func() (free, total int64, err error)
	badgerSync func(path string) error
	beforeMove func()
}

const (
	minMemTable   = 4 << 20
	minReserve    = 32 << 20
	maxReserve    = 256 << 20
	smallDisk     = 4 << 30  // below this total, use less of everything
	largeDisk     = 32 << 30 // from this total on, merge less often
	defaultMemory = 32 << 20
	fewTables     = 4 // on level 0
	manyTables    = 16
)

// complete fills in what depends on the size of the filesystem.
func (o Options) complete(total int64) Options {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Reserve == 0 {
		o.Reserve = min(maxReserve, max(minReserve, total/8))
	}
	if o.Overlay == 0 {
		o.Overlay = defaultMemory
		if total < smallDisk {
			o.Overlay = defaultMemory / 2
		}
	}
	if o.Batch == 0 {
		o.Batch = o.Overlay / 4
	}
	if o.MemTable == 0 {
		o.MemTable = 16 << 20
		if total < smallDisk {
			o.MemTable = minMemTable
		}
	}
	o.MemTable = max(o.MemTable, minMemTable)
	if o.LevelZero == 0 {
		o.LevelZero = fewTables
		if total >= largeDisk && o.MemTable > minMemTable {
			o.LevelZero = manyTables
		}
	}
	return o
}

// badgerLogger sends Badger's messages to slog. What Badger calls information is debugging to us.
type badgerLogger struct{ log *slog.Logger }

func (l badgerLogger) Errorf(format string, args ...any) {
	l.log.Error("badger", "says", badgerMessage(format, args))
}

func (l badgerLogger) Warningf(format string, args ...any) {
	l.log.Warn("badger", "says", badgerMessage(format, args))
}

func (l badgerLogger) Infof(format string, args ...any) {
	l.log.Debug("badger", "says", badgerMessage(format, args))
}

func (l badgerLogger) Debugf(string, ...any) {}

func badgerMessage(format string, args []any) string {
	s := fmt.Sprintf(format, args...)
	for len(s) > 0 && s[len(s)-1] == '\n' {
		s = s[:len(s)-1]
	}
	return s
}
