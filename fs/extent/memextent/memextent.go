// Package memextent keeps extents in memory, for tests and for measuring what is
// above the disk. It behaves as the local segment driver does, addresses
// included, and it can lose power: PowerLoss forgets what no Sync made durable,
// as a disk would.
//
// It is no cache and no production store.
package memextent

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// segmentSize matches the segment driver's default.
const segmentSize = 256 << 20

// Store is an extent.Store in memory. It implements extent.UsageReporter and
// extent.Ranger as well.
type Store struct {
	mu     sync.Mutex // guards everything below
	limit  int64      // bytes, 0 = none
	next   extent.Position
	used   int64
	items  map[extent.Position]*item
	recent []extent.Position // appended since the last Sync, freed ones included
	closed bool
}

type item struct{ data []byte }

var (
	_ extent.Store         = (*Store)(nil)
	_ extent.UsageReporter = (*Store)(nil)
	_ extent.Ranger        = (*Store)(nil)
)

// New returns an empty store without a limit.
func New() *Store { return NewLimited(0) }

// NewLimited returns an empty store that holds at most limit bytes, counted in
// whole multiples of extent.Align per extent. 0 means no limit.
func NewLimited(limit int64) *Store {
	return &Store{
		limit: limit,
		next:  extent.Position{Segment: 1, Offset: extent.Align},
		items: make(map[extent.Position]*item),
	}
}

// Append implements extent.Store.
func (s *Store) Append(sealed []byte) (extent.Ref, error) {
	if len(sealed) == 0 || len(sealed) > segmentSize-extent.Align {
		return extent.Ref{}, fmt.Errorf("memextent: append %d bytes: %w", len(sealed), extent.ErrInvalid)
	}
	data := bytes.Clone(sealed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return extent.Ref{}, extent.ErrClosed
	}
	foot := extent.AlignUp(int64(len(data)))
	if s.limit > 0 && s.used+foot > s.limit {
		return extent.Ref{}, fmt.Errorf("memextent: append: %w", extent.ErrNoSpace)
	}
	if s.next.Offset+foot > segmentSize {
		s.next = extent.Position{Segment: s.next.Segment + 1, Offset: extent.Align}
	}
	ref := extent.Ref{Segment: s.next.Segment, Offset: s.next.Offset, Length: uint32(len(data))}
	s.items[s.next] = &item{data: data}
	s.recent = append(s.recent, s.next)
	s.next.Offset += foot
	s.used += foot
	return ref, nil
}

// ReadAt implements extent.Store.
func (s *Store) ReadAt(ref extent.Ref, p []byte, off int64) error {
	if !ref.Valid() || !ref.Contains(off, int64(len(p))) {
		return fmt.Errorf("memextent: read %v at %d: %w", ref, off, extent.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return extent.ErrClosed
	}
	it := s.items[position(ref)]
	if it == nil || len(it.data) != int(ref.Length) {
		return fmt.Errorf("memextent: read %v: %w", ref, extent.ErrMissing)
	}
	copy(p, it.data[off:])
	return nil
}

// Sync implements extent.Store.
func (s *Store) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return extent.ErrClosed
	}
	s.recent = nil
	return nil
}

// Free implements extent.Store.
func (s *Store) Free(refs ...extent.Ref) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return extent.ErrClosed
	}
	for _, ref := range refs {
		if !ref.Valid() {
			return fmt.Errorf("memextent: free %v: %w", ref, extent.ErrInvalid)
		}
		s.drop(position(ref))
	}
	return nil
}

// Close implements extent.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// Usage implements extent.UsageReporter.
func (s *Store) Usage() (extent.Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	segments := make(map[uint64]struct{})
	for p := range s.items {
		segments[p.Segment] = struct{}{}
	}
	return extent.Usage{Segments: len(segments), Stored: s.used}, nil
}

// Position implements extent.Ranger.
func (s *Store) Position() extent.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// Ranges implements extent.Ranger.
func (s *Store) Ranges(before extent.Position, fn func(extent.Range) error) error {
	s.mu.Lock()
	var ranges []extent.Range
	for p, it := range s.items {
		if p.Before(before) {
			ranges = append(ranges, extent.Range{Segment: p.Segment, Offset: p.Offset, Length: extent.AlignUp(int64(len(it.data)))})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(ranges, func(a, b extent.Range) int {
		return cmp.Or(cmp.Compare(a.Segment, b.Segment), cmp.Compare(a.Offset, b.Offset))
	})
	for _, r := range ranges {
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

// PowerLoss forgets every extent that was appended after the last Sync, except
// those for which survives returns true: a disk may have written them anyway, in
// any order. A nil survives keeps none. Addresses are not given out again. A
// closed store is open again afterwards.
func (s *Store) PowerLoss(survives func(extent.Ref) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = false
	for _, p := range s.recent {
		it := s.items[p]
		if it == nil {
			continue
		}
		ref := extent.Ref{Segment: p.Segment, Offset: p.Offset, Length: uint32(len(it.data))}
		if survives == nil || !survives(ref) {
			s.drop(p)
		}
	}
	s.recent = nil
}

// Corrupt flips one bit of a stored extent and reports whether it is there.
func (s *Store) Corrupt(ref extent.Ref, off int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.items[position(ref)]
	if it == nil || off < 0 || off >= int64(len(it.data)) {
		return false
	}
	it.data[off] ^= 1
	return true
}

// drop forgets one extent. The caller holds mu.
func (s *Store) drop(p extent.Position) {
	if it := s.items[p]; it != nil {
		s.used -= extent.AlignUp(int64(len(it.data)))
		delete(s.items, p)
	}
}

func position(ref extent.Ref) extent.Position {
	return extent.Position{Segment: ref.Segment, Offset: ref.Offset}
}
