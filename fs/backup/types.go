package backup

import (
	"errors"
	"time"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// The errors of this package.
var (
	// ErrDamaged: something in the backup is missing, or is not what was written.
	ErrDamaged = errors.New("the backup is damaged, incomplete or was changed")
	// ErrForeign: the directory holds something else, or the backup of another store.
	ErrForeign = errors.New("not a backup of this store")
	// ErrVersion: it was written by a newer version.
	ErrVersion = errors.New("the backup needs another version of kmsfs")
	// ErrNone: there is no snapshot, or none of that number.
	ErrNone = errors.New("no such backup")
	// ErrBusy: another process writes the directory.
	ErrBusy = errors.New("another process writes this backup")
)

// Slot is a shred key: its place in the store's slot file, the KMS key that it belongs to, and its bytes, which are empty if the key
// was forgotten.
type Slot struct {
	Index  uint32
	Owner  [16]byte
	Secret []byte // 32 bytes
}

// File is a file that only grows, as much of it as is complete.
type File struct {
	Name string // in its directory
	Path string // to read it from
	Size int64  // bytes
}

// Source is a store in use. Its functions are called once for each snapshot, in the order in which they stand here.
type Source struct {
	StoreID [16]byte
	Header  func() ([]byte, error) // the store's header: it is not sealed, its slots unlock the backup

	// Pin keeps every extent that is named by a row from now on until release, even if the row goes.
	Pin func() (release func())
	// Freeze holds the shred keys and the rows that go with them still until thaw.
	Freeze func() (slots []Slot, thaw func(), err error)
	// Rows are the sealed rows as the engine keeps them. Only View is used.
	Rows kv.Store
	// Typed reads rows that View of the given store gives, which are sealed.
	Typed   func(kv.Store) *meta.DB
	Extents extent.Store
	// Position is behind all extents that the rows name.
	Position func() extent.Position
	// Files are the audit log's.
	Files func() ([]File, error)
}

// Progress says how far a backup, a check or a restore is.
type Progress struct {
	Phase string `json:"phase"` // rows, data, files
	Done  int64  `json:"done"`  // rows, bytes
	Total int64  `json:"total"` // bytes; 0 if not known
}

// Info describes a snapshot.
type Info struct {
	Number  uint64    `json:"snapshot"`
	Created time.Time `json:"created"`
	Epoch   uint64    `json:"epoch"` // the newest closed epoch in it
	Rows    int64     `json:"rows"`
	Extents int64     `json:"extents"` // in segments
	Bytes   int64     `json:"bytes"`   // of rows, extents and files
	Added   int64     `json:"addedBytes"`
	Packs   int       `json:"packs"`
	Keys    int       `json:"keys"`              // shred keys
	Gone    int       `json:"forgottenKeys"`     // of them, those that were forgotten
	Lost    []Lost    `json:"damaged,omitempty"` // extents that the store itself had lost
}

// Lost is an extent that could not be copied, because the store does not have its bytes any more.
type Lost struct {
	Ino     meta.Ino `json:"inode"`
	Segment uint64   `json:"segment"`
	Offset  int64    `json:"offset"`
	Length  uint32   `json:"length"`
	Why     string   `json:"why"`
}

func (l Lost) ref() extent.Ref {
	return extent.Ref{Segment: l.Segment, Offset: l.Offset, Length: l.Length}
}

// Sink is a store under construction.
type Sink struct {
	Rows    kv.Store // empty; sealed rows are set as they are
	Extents interface {
		Put(ref extent.Ref, sealed []byte) error
	}
	File  func(name string, read func(fn func([]byte) error) error) error // makes a file of the pieces that read gives to fn
	Slots func([]Slot) error
	// Position is called at the end: no address before it may be given out again.
	Position func(extent.Position) error
}
