package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// Open opens the store in a directory, which it makes if it is not there, and
// locks it against other processes (ErrLocked). It reads the header of every
// segment and refuses the whole store for one of an unknown version (ErrVersion)
// or of another store (ErrForeign). A damaged header is logged and no more: its
// extents are authenticated by their reader.
func Open(dir string, opts Options) (*Store, error) {
	if opts.SegmentSize == 0 {
		opts.SegmentSize = DefaultSegmentSize
	}
	if opts.SegmentSize < 2*headerSize || opts.SegmentSize > maxSegmentSize || opts.SegmentSize%extent.Align != 0 {
		return nil, fmt.Errorf("segment: segment size %d is not a multiple of %d between %d and %d",
			opts.SegmentSize, extent.Align, 2*headerSize, int64(maxSegmentSize))
	}
	if opts.OpenFiles <= 0 {
		opts.OpenFiles = defaultOpenFiles
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dir:       dir,
		opts:      opts,
		log:       opts.Logger,
		lock:      lock,
		files:     newFiles(dir, opts.OpenFiles),
		space:     space{reserve: opts.Reserve, clock: opts.Clock, avail: availOf(dir)},
		kick:      make(chan *segment, 1),
		kicked:    make(chan struct{}),
		session:   make(map[uint64]*segment),
		fdatasync: fdatasync,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.scan(); err != nil {
		s.files.closeAll()
		_ = lock.Close()
		return nil, err
	}
	s.space.begin()
	go s.writeback()
	return s, nil
}

// lockDir makes the directory if need be and returns it open and locked.
func lockDir(dir string) (*os.File, error) {
	err := os.Mkdir(dir, 0o700)
	switch {
	case err == nil:
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrExist):
		return nil, fmt.Errorf("segment: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
		}
		return nil, fmt.Errorf("segment: lock %s: %w", dir, err)
	}
	return d, nil
}

// scan looks at what an earlier session left.
func (s *Store) scan() error {
	if err := s.removeTemps(); err != nil {
		return err
	}
	numbers, err := s.numbers()
	if err != nil || len(numbers) == 0 {
		return err
	}
	s.last = numbers[len(numbers)-1]
	if s.resume, err = s.markOf(s.last); err != nil {
		return err
	}
	clean := s.resume != (extent.Position{})
	for _, n := range numbers {
		if err := s.check(n, clean); err != nil {
			return err
		}
	}
	if s.resume.Offset >= s.opts.SegmentSize {
		s.resume = extent.Position{} // full
	}
	return nil
}

// removeTemps removes segments that were being made when the process died.
func (s *Store) removeTemps() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	for _, e := range entries {
		if _, ok := parseName(e.Name()); ok {
			continue
		}
		if !strings.HasSuffix(e.Name(), tempSuffix) {
			s.log.Warn("unknown file among the segments", "name", e.Name())
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("segment: %w", err)
		}
	}
	return nil
}

// check verifies one segment's header, and unlinks the segment if nothing is
// left in it. If the last session ended uncleanly, it drops the kernel's cached
// pages: after a failed write-back they may show what the disk does not have.
func (s *Store) check(number uint64, clean bool) error {
	f, err := s.files.acquire(number)
	if err != nil {
		return err
	}
	defer s.files.release(f)
	if !clean {
		_ = unix.Fadvise(int(f.f.Fd()), 0, 0, unix.FADV_DONTNEED) // advice
		if number+2 > s.last {
			releaseAllocated(f.f)
		}
	}
	block, err := readHeader(f.f)
	if err != nil {
		return fmt.Errorf("segment %d: %w", number, err)
	}
	h, err := parseHeader(block)
	switch {
	case errors.Is(err, errDamaged):
		s.log.Error("segment header is damaged", "segment", number)
		return nil
	case err != nil:
		return fmt.Errorf("segment %d: %w", number, err)
	case h.number != number || h.store != s.opts.StoreID:
		return fmt.Errorf("segment %d: %w: header names segment %d of store %x", number, ErrForeign, h.number, h.store)
	}
	return s.removeIfEmpty(f)
}

// releaseAllocated gives back what was set aside behind the end of a file.
func releaseAllocated(f *os.File) {
	if fi, err := f.Stat(); err == nil {
		_ = f.Truncate(fi.Size()) // room at worst
	}
}

// markOf returns where a cleanly closed segment ends, zero if it has no mark or a
// damaged header.
func (s *Store) markOf(number uint64) (extent.Position, error) {
	f, err := s.files.acquire(number)
	if err != nil {
		return extent.Position{}, err
	}
	defer s.files.release(f)
	block, err := readHeader(f.f)
	if err != nil {
		return extent.Position{}, fmt.Errorf("segment %d: %w", number, err)
	}
	if _, err := parseHeader(block); err != nil {
		return extent.Position{}, nil // check reports it
	}
	fi, err := f.f.Stat()
	if err != nil {
		return extent.Position{}, fmt.Errorf("segment %d: %w", number, err)
	}
	end, ok := parseMark(block[markOff:], number)
	if !ok || fi.Size() > end {
		return extent.Position{}, nil
	}
	return extent.Position{Segment: number, Offset: end}, nil
}

// readHeader returns the header block; what a short file lacks is zero.
func readHeader(f *os.File) ([]byte, error) {
	b := make([]byte, headerSize)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// Close implements extent.Store. If the Sync succeeds, it leaves the close mark.
func (s *Store) Close() error {
	err := s.Sync()
	if errors.Is(err, extent.ErrClosed) {
		return err
	}
	s.stop()
	if s.active != nil && err == nil {
		s.trim(s.active)
		err = s.mark()
	}
	if s.next != nil && s.next.end == headerSize {
		// Made in advance, and no address of it given out: the number is free.
		_ = os.Remove(filepath.Join(s.dir, segmentName(s.next.file.number)))
	}
	s.letGo()
	return err
}

// Abandon lets go of everything without syncing or marking anything, as a crash
// of the process would. It is for tests and for a process that must end.
func (s *Store) Abandon() {
	s.stop()
	for _, g := range s.dirty {
		s.files.release(g.file)
	}
	s.letGo()
}

// stop ends the background work.
func (s *Store) stop() {
	s.closed.Store(true)
	s.mu.Lock()
	m := s.making
	s.mu.Unlock()
	if m != nil {
		<-m.done
	}
	close(s.kick)
	<-s.kicked
}

// mark writes the active segment's close mark, durably.
func (s *Store) mark() error {
	f := s.active.file
	if _, err := f.f.WriteAt(encodeMark(f.number, s.active.end), markOff); err != nil {
		return fmt.Errorf("segment %d: close: %w", f.number, err)
	}
	if err := s.fdatasync(f.f); err != nil {
		return fmt.Errorf("segment %d: close: %w", f.number, err)
	}
	return nil
}

// letGo closes the files and the directory.
func (s *Store) letGo() {
	for _, g := range []*segment{s.active, s.next} {
		if g != nil {
			s.files.release(g.file)
		}
	}
	s.files.closeAll()
	_ = s.lock.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("segment: sync %s: %w", dir, err)
	}
	return nil
}
