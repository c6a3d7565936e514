package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// startMaking makes the next segment in the background. The caller holds mu.
func (s *Store) startMaking() {
	m := &making{done: make(chan struct{})}
	s.making = m
	resume, number := s.resume, s.last+1
	go func() {
		g, err := s.take(resume, number)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.resume = extent.Position{} // one attempt: a mark half removed is no mark
		if err != nil {
			m.err = err
		} else {
			s.next = g
			s.last = max(s.last, g.file.number)
		}
		s.making = nil
		close(m.done)
	}()
}

// take returns a segment to append to: the one that can be resumed, or a new one.
func (s *Store) take(resume extent.Position, number uint64) (*segment, error) {
	if resume != (extent.Position{}) {
		g, err := s.reopen(resume)
		if err == nil {
			return g, nil
		}
		s.log.Warn("segment cannot be resumed", "segment", resume.Segment, "error", err)
	}
	f, err := s.create(number)
	if err != nil {
		return nil, fmt.Errorf("segment %d: create: %w", number, noSpace(err))
	}
	return &segment{file: s.files.adopt(number, f), size: s.opts.SegmentSize, end: headerSize, started: headerSize}, nil
}

// reopen removes the close mark of a segment, durably, and goes on at its end.
func (s *Store) reopen(at extent.Position) (*segment, error) {
	f, err := s.files.acquire(at.Segment)
	if err != nil {
		return nil, err
	}
	_, err = f.f.WriteAt(make([]byte, markLen), markOff)
	if err == nil {
		err = f.f.Sync()
	}
	if err != nil {
		s.files.release(f)
		return nil, err
	}
	return &segment{file: f, size: s.opts.SegmentSize, end: at.Offset, started: at.Offset}, nil
}

// create makes an empty segment. When it returns, the file and its name are
// durable. A segment appears under its name only with its header in place.
func (s *Store) create(number uint64) (_ *os.File, err error) {
	temp, name := filepath.Join(s.dir, tempName(number)), filepath.Join(s.dir, segmentName(number))
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is already there (%w)", name, errors.Join(fs.ErrExist, err))
	}
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(temp)
		}
	}()
	h := header{number: number, store: s.opts.StoreID, size: s.opts.SegmentSize}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		return nil, err
	}
	// Better to learn it now than when the first extent dies.
	if err := punch(f, headerSize, extent.Align); err != nil {
		return nil, fmt.Errorf("the file system cannot punch holes: %w", err)
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := os.Rename(temp, name); err != nil {
		return nil, err
	}
	if err := s.lock.Sync(); err != nil {
		_ = os.Remove(name)
		return nil, err
	}
	return f, nil
}

// punch gives the blocks of a range back to the file system. They read as zeros
// from then on, and the file keeps its size.
func punch(f *os.File, off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
