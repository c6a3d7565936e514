package segment

import (
	"log/slog"
	"time"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// Options configure a store. The zero value is usable.
type Options struct {
	StoreID     [16]byte         // written to and checked in every segment
	SegmentSize int64            // bytes, default 256 MiB
	Reserve     int64            // bytes of the file system that Append leaves free
	OpenFiles   int              // descriptors kept open for reading, default 64
	Clock       func() time.Time // default time.Now
	Logger      *slog.Logger     // default: discards
}

// Store is an extent.Store over segment files.
type Store struct{}

func Open(dir string, opts Options) (*Store, error)                          { panic("unfinished") }
func (s *Store) Append(sealed []byte) (extent.Ref, error)                    { panic("unfinished") }
func (s *Store) ReadAt(ref extent.Ref, p []byte, off int64) error            { panic("unfinished") }
func (s *Store) Sync() error                                                 { panic("unfinished") }
func (s *Store) Free(refs ...extent.Ref) error                               { panic("unfinished") }
func (s *Store) Close() error                                                { panic("unfinished") }
func (s *Store) Usage() (extent.Usage, error)                                { panic("unfinished") }
func (s *Store) Position() extent.Position                                   { panic("unfinished") }
func (s *Store) Ranges(p extent.Position, fn func(extent.Range) error) error { panic("unfinished") }
