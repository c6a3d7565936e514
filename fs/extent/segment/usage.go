package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// numbers lists the segments in the directory, in order.
func (s *Store) numbers() ([]uint64, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	var numbers []uint64
	for _, e := range entries {
		if n, ok := parseName(e.Name()); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Usage implements extent.UsageReporter. Stored is what the file system has
// allocated to the segments; it stats every file.
func (s *Store) Usage() (extent.Usage, error) {
	if s.closed.Load() {
		return extent.Usage{}, extent.ErrClosed
	}
	numbers, err := s.numbers()
	if err != nil {
		return extent.Usage{}, err
	}
	var u extent.Usage
	for _, n := range numbers {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(s.dir, segmentName(n)), &st); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return extent.Usage{}, fmt.Errorf("segment %d: %w", n, err)
		}
		u.Segments++
		u.Stored += st.Blocks * 512
	}
	return u, nil
}

// Ranges implements extent.Ranger: it reads the allocation off the file system.
// Where that cannot tell holes from data, what was freed is listed too.
func (s *Store) Ranges(before extent.Position, fn func(extent.Range) error) error {
	if s.closed.Load() {
		return extent.ErrClosed
	}
	numbers, err := s.numbers()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n > before.Segment {
			break
		}
		f, err := s.files.acquire(n)
		if errors.Is(err, extent.ErrMissing) {
			continue
		}
		if err != nil {
			return err
		}
		err = rangesOf(f, before, fn)
		s.files.release(f)
		if err != nil {
			return err
		}
	}
	return nil
}

// rangesOf calls fn for the allocated runs of one segment.
func rangesOf(f *file, before extent.Position, fn func(extent.Range) error) error {
	fi, err := f.f.Stat()
	if err != nil {
		return fmt.Errorf("segment %d: %w", f.number, err)
	}
	end := extent.AlignUp(fi.Size())
	if f.number == before.Segment {
		end = min(end, before.Offset)
	}
	fd := int(f.f.Fd())
	for at := int64(headerSize); at < end; {
		from, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("segment %d: seek: %w", f.number, err)
		}
		to, err := unix.Seek(fd, from, unix.SEEK_HOLE)
		if err != nil && !errors.Is(err, unix.ENXIO) { // ENXIO: punched and cut meanwhile
			return fmt.Errorf("segment %d: seek: %w", f.number, err)
		}
		from, to = max(from&^(extent.Align-1), headerSize), min(extent.AlignUp(to), end)
		if from < to {
			if err := fn(extent.Range{Segment: f.number, Offset: from, Length: to - from}); err != nil {
				return err
			}
		}
		at = max(to, at+extent.Align)
	}
	return nil
}
