package segment

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// Free implements extent.Store. Extents that lie side by side are given back
// together, so callers do well to free many at once.
func (s *Store) Free(refs ...extent.Ref) error {
	if s.closed.Load() {
		return extent.ErrClosed
	}
	for _, r := range refs {
		if !r.Valid() || r.Offset < headerSize || s.beyond(r) {
			return fmt.Errorf("segment: free %v: %w", r, extent.ErrInvalid)
		}
	}
	sorted := slices.SortedFunc(slices.Values(refs), func(a, b extent.Ref) int {
		return cmp.Or(cmp.Compare(a.Segment, b.Segment), cmp.Compare(a.Offset, b.Offset))
	})
	for len(sorted) > 0 {
		n := 1
		for n < len(sorted) && sorted[n].Segment == sorted[0].Segment {
			n++
		}
		if err := s.freeIn(sorted[0].Segment, sorted[:n]); err != nil {
			return err
		}
		sorted = sorted[n:]
	}
	return nil
}

// beyond reports whether a reference lies where this session has given out
// nothing yet. Freeing it would do no harm now, but whoever holds it is wrong.
func (s *Store) beyond(r extent.Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.session[r.Segment]
	return g != nil && r.End() > g.end
}

// freeIn frees extents of one segment, sorted by offset.
func (s *Store) freeIn(number uint64, refs []extent.Ref) error {
	f, err := s.files.acquire(number)
	if errors.Is(err, extent.ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.files.release(f)
	for len(refs) > 0 {
		from, to := refs[0].Offset, refs[0].End()
		refs = refs[1:]
		for len(refs) > 0 && refs[0].Offset <= to {
			to = max(to, refs[0].End())
			refs = refs[1:]
		}
		if err := punch(f.f, from, to-from); err != nil {
			return fmt.Errorf("segment %d: free %d bytes at %d: %w", number, to-from, from, err)
		}
		s.space.gave(to - from)
	}
	return s.removeIfEmpty(f)
}

// removeIfEmpty unlinks a segment that holds nothing and will not be appended
// to. The highest one stays, because the next number is read off it.
func (s *Store) removeIfEmpty(f *file) error {
	if !s.finished(f.number) {
		return nil
	}
	empty, err := isEmpty(f.f)
	if err != nil || !empty {
		return err
	}
	if err := os.Remove(filepath.Join(s.dir, segmentName(f.number))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("segment %d: %w", f.number, err)
	}
	s.mu.Lock()
	if g := s.session[f.number]; g != nil {
		g.gone.Store(true)
		delete(s.session, f.number)
	}
	s.mu.Unlock()
	s.files.forget(f)
	return nil
}

// finished reports whether nothing will be written to a segment any more. Once
// true it stays so: only the active segment gives out room.
func (s *Store) finished(number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number >= s.last || number == s.resume.Segment ||
		s.active != nil && s.active.file.number == number || s.next != nil && s.next.file.number == number {
		return false
	}
	g := s.session[number]
	return g == nil || g.inflight == 0
}

// isEmpty reports whether nothing is allocated behind the header block.
func isEmpty(f *os.File) (bool, error) {
	_, err := unix.Seek(int(f.Fd()), headerSize, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return true, nil
	case errors.Is(err, unix.EINVAL): // cannot tell holes from data
		return false, nil
	case err != nil:
		return false, fmt.Errorf("segment: seek: %w", err)
	}
	return false, nil
}
