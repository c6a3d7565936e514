// Package extent is the seam between kmsfs and whatever keeps file content: a
// store of immutable, already sealed runs of bytes. Drivers live in the packages
// below (segment: local files; memextent: memory) and pass one conformance
// suite, extenttest.
//
// An extent is appended once, read in parts, and freed; it is never changed. Its
// address, the Ref, is chosen by the store and names these bytes for all time: a
// store never gives an address out twice, not after Free, not after a crash, not
// after its files were lost. Frees may therefore be repeated blindly, and a stale
// reference finds nothing, zeros or its own old bytes, never somebody else's.
//
// The store knows no keys and checks nothing: what it returns is ciphertext, to be
// authenticated by whoever opens it. It also knows no owners: which extents are
// alive is the metadata's truth. The order that keeps a crash harmless is the
// caller's: append, Sync where durability was asked for, then commit the metadata
// that names the Ref; and commit durably that an extent is dead before freeing it.
// A crash may so leave bytes that nothing names (a collector finds them through
// Ranger), never a name without bytes.
package extent

import (
	"errors"
	"fmt"
)

// Align is the granularity of addresses and of freed space, in bytes.
const Align = 4096

var (
	// ErrMissing says that the bytes asked for are not in the store.
	ErrMissing = errors.New("extent: missing")
	// ErrNoSpace says that there is no room, or only the held reserve. Nothing
	// was stored; freeing extents helps.
	ErrNoSpace = errors.New("extent: no space")
	// ErrInvalid says that a reference cannot have come from this store, or that
	// an extent is empty or longer than the store takes.
	ErrInvalid = errors.New("extent: invalid reference or size")
	// ErrFailed says that the medium refused to make bytes durable. It stays
	// until the store is opened again: what was appended since the last good
	// Sync may or may not survive a power loss.
	ErrFailed = errors.New("extent: store failed")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("extent: store is closed")
)

// Ref is the address of an extent. The zero Ref names nothing.
type Ref struct {
	Segment uint64 // counted from 1
	Offset  int64  // bytes, a multiple of Align
	Length  uint32 // bytes, at least 1
}

// Footprint returns how much room the extent takes: Length rounded up to Align.
func (r Ref) Footprint() int64 { return AlignUp(int64(r.Length)) }

// End returns the first aligned offset behind the extent.
func (r Ref) End() int64 { return r.Offset + r.Footprint() }

// Valid reports whether a store could have given out the reference.
func (r Ref) Valid() bool {
	return r.Segment > 0 && r.Offset >= 0 && r.Offset%Align == 0 && r.Length > 0 && r.Offset <= 1<<62
}

// Contains reports whether n bytes at off lie inside the extent.
func (r Ref) Contains(off, n int64) bool {
	return off >= 0 && n >= 0 && off <= int64(r.Length) && n <= int64(r.Length)-off
}

// String prints the reference for logs: segment, offset and length.
func (r Ref) String() string { return fmt.Sprintf("%d:%d+%d", r.Segment, r.Offset, r.Length) }

// AlignUp rounds n up to a multiple of Align.
func AlignUp(n int64) int64 { return (n + Align - 1) &^ (Align - 1) }

// Store keeps extents. All methods but Close may be called concurrently, and no
// call retries by itself.
type Store interface {
	// Append stores a copy of sealed under a new address. When it returns, the
	// bytes can be read and survive a crash of the process, but not yet a loss
	// of power. On error the bytes may or may not be there; no address names
	// them. Errors: ErrNoSpace, ErrInvalid (empty or too long), ErrClosed.
	Append(sealed []byte) (Ref, error)

	// ReadAt fills p from the extent, starting off bytes into it. Asking beyond
	// the extent's end is ErrInvalid. ErrMissing says that the bytes are not
	// there. After Free it may also return zeros or the old bytes.
	ReadAt(ref Ref, p []byte, off int64) error

	// Sync returns when everything whose Append returned before the call is
	// durable against power loss. Concurrent callers share the work. After an
	// error that durability can no longer be told of, every Sync returns
	// ErrFailed until the store is opened again.
	Sync() error

	// Free gives the extents' room back. It is idempotent, and freeing what is
	// not there succeeds. It promises nothing about durability: after a power
	// loss the bytes may be back, so the caller repeats what it is not sure of.
	// On error any of the extents may be freed.
	Free(refs ...Ref) error

	// Close makes everything durable, as Sync, and releases the store. Other
	// calls then return ErrClosed. It must not run beside other calls.
	Close() error
}

// Usage is what a store occupies.
type Usage struct {
	Segments int   // files, or whatever the driver has instead
	Stored   int64 // bytes that are held by extents not yet freed, rounded up to Align each, and by the store's own headers
}

// UsageReporter is implemented by stores that can tell what they occupy.
type UsageReporter interface {
	Usage() (Usage, error)
}

// Position is a place in the order of appending: smaller positions were given
// out earlier.
type Position struct {
	Segment uint64
	Offset  int64
}

// Before reports whether p precedes q.
func (p Position) Before(q Position) bool {
	return p.Segment < q.Segment || p.Segment == q.Segment && p.Offset < q.Offset
}

// Range is a run of stored bytes: one extent or several that lie side by side.
type Range struct {
	Segment        uint64
	Offset, Length int64 // bytes, multiples of Align
}

// Ranger is implemented by stores that can list what they hold, for a collector
// of unreferenced bytes. The collector notes Position, waits until every append
// that may precede it has been committed or given up by the metadata, lists the
// ranges before that position, subtracts what the metadata names, and frees the
// rest.
type Ranger interface {
	// Position returns a position that every later Append lies at or behind.
	Position() Position
	// Ranges calls fn, in order, for the runs of bytes that are stored before
	// the position. Bytes may be freed while it runs. An error of fn ends it.
	Ranges(before Position, fn func(Range) error) error
}
