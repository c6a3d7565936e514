package segment

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

const (
	// DefaultSegmentSize is where a segment ends, in bytes.
	DefaultSegmentSize = 256 << 20

	maxSegmentSize   = 1 << 40
	defaultOpenFiles = 64
)

// Options configure a store. The zero value is usable.
type Options struct {
	// StoreID is written to every segment, and segments of another are refused.
	StoreID [16]byte
	// SegmentSize is where new segments end, in bytes: a multiple of
	// extent.Align, 0 for DefaultSegmentSize. The longest extent is one
	// extent.Align shorter.
	SegmentSize int64
	// Reserve is what Append leaves free on the file system, in bytes.
	Reserve int64
	// OpenFiles bounds the descriptors kept open for later use, 0 for 64.
	OpenFiles int
	// Clock ages the answer about free space. Nil: only appending ages it.
	Clock func() time.Time
	// Logger is told of damaged headers and of what Open cleans up. May be nil.
	Logger *slog.Logger
}

// Store is an extent.Store over the segment files of one directory. It also
// implements extent.UsageReporter and extent.Ranger.
type Store struct {
	dir    string
	opts   Options
	log    *slog.Logger
	lock   *os.File // the directory, flocked
	files  *files
	space  space
	kick   chan *segment // segments to start writing back
	kicked chan struct{} // closed when the write-back goroutine is gone

	closed atomic.Bool
	failed atomic.Pointer[error] // why no Sync can succeed any more

	mu      sync.Mutex          // guards what follows and the segments' end, inflight
	active  *segment            // takes appends; nil before the first
	next    *segment            // made in advance, no address of it given out
	making  *making             // next is being made
	resume  extent.Position     // where a cleanly closed segment goes on; zero if none
	last    uint64              // highest number in the directory
	session map[uint64]*segment // those that this session appended to
	dirty   []*segment          // to be synced; each holds a reference to its file

	syncMu  sync.Mutex // guards what follows
	running *round
	pending *round

	// fdatasync is a seam for the tests of what follows a failure.
	fdatasync func(*os.File) error
}

// segment is one that this session appends to.
type segment struct {
	file     *file
	size     int64
	end      int64 // first offset not given out
	inflight int   // appends between reservation and return
	retired  bool  // no longer active: the last one in flight releases the file

	onList    atomic.Bool  // in Store.dirty
	failed    atomic.Bool  // a sync failed
	gone      atomic.Bool  // unlinked
	unwritten atomic.Int64 // bytes appended since write-back was last asked for
	// The write-back goroutine's own.
	started   int64 // offset up to which write-back was asked for
	allocated int64 // offset up to which room was set aside
}

// making is the wait for a new segment.
type making struct {
	done chan struct{}
	err  error
}

var (
	_ extent.Store         = (*Store)(nil)
	_ extent.UsageReporter = (*Store)(nil)
	_ extent.Ranger        = (*Store)(nil)
)

// MaxExtent returns the length of the longest extent that Append takes, in bytes.
func (s *Store) MaxExtent() int64 { return s.opts.SegmentSize - headerSize }

// Append implements extent.Store.
func (s *Store) Append(sealed []byte) (extent.Ref, error) {
	if len(sealed) == 0 || int64(len(sealed)) > s.MaxExtent() {
		return extent.Ref{}, fmt.Errorf("segment: append %d bytes: %w", len(sealed), extent.ErrInvalid)
	}
	foot := extent.AlignUp(int64(len(sealed)))
	if err := s.space.take(foot); err != nil {
		return extent.Ref{}, err
	}
	g, off, err := s.reserve(foot)
	if err != nil {
		return extent.Ref{}, err
	}
	ref := extent.Ref{Segment: g.file.number, Offset: off, Length: uint32(len(sealed))}
	_, err = g.file.f.WriteAt(sealed, off)
	if err != nil {
		// The place is lost, not reused; give back what was written of it.
		_ = punch(g.file.f, off, foot)
		s.finish(g, 0)
		return extent.Ref{}, fmt.Errorf("segment: append %v: %w", ref, noSpace(err))
	}
	s.finish(g, foot)
	return ref, nil
}

// reserve gives out room in the active segment and counts the caller in it: until
// finish, the segment's file stays open and the segment stays.
func (s *Store) reserve(foot int64) (*segment, int64, error) {
	var unused []*segment
	s.mu.Lock()
	defer func() {
		s.mu.Unlock()
		for _, g := range unused {
			s.retire(g)
		}
	}()
	for {
		if s.closed.Load() {
			return nil, 0, extent.ErrClosed
		}
		if g := s.active; g != nil && !g.failed.Load() && g.end+foot <= g.size {
			off := g.end
			g.end += foot
			g.inflight++
			if g.end > g.size/2 && s.next == nil && s.making == nil {
				s.startMaking()
			}
			return g, off, nil
		}
		if s.next != nil {
			if old := s.active; old != nil {
				old.retired = true
				if old.inflight == 0 {
					unused = append(unused, old)
				}
			}
			s.active, s.next = s.next, nil
			s.session[s.active.file.number] = s.active
			continue
		}
		if s.making == nil {
			s.startMaking()
		}
		m := s.making
		s.mu.Unlock()
		<-m.done
		s.mu.Lock()
		if m.err != nil && s.next == nil {
			return nil, 0, m.err
		}
	}
}

// finish counts an append out again. If it wrote anything, the segment is to be
// synced, and from time to time written back.
func (s *Store) finish(g *segment, wrote int64) {
	if wrote > 0 && g.unwritten.Add(wrote) >= kickBytes {
		s.startWriteback(g)
	}
	// The order matters: bytes first, then the flag. A Sync that cleared the flag
	// before our write was complete must find it set again.
	list := wrote > 0 && !g.onList.Swap(true)
	s.mu.Lock()
	if list {
		s.files.retain(g.file)
		s.dirty = append(s.dirty, g)
	}
	g.inflight--
	unused := g.retired && g.inflight == 0
	s.mu.Unlock()
	if unused {
		s.retire(g)
	}
}

// retire lets go of a segment that is full and that no append is in any more.
func (s *Store) retire(g *segment) {
	s.trim(g)
	if err := s.removeIfEmpty(g.file); err != nil { // all of it may have died meanwhile
		s.log.Warn("empty segment is not removed", "segment", g.file.number, "error", err)
	}
	s.files.release(g.file)
}

// ReadAt implements extent.Store.
func (s *Store) ReadAt(ref extent.Ref, p []byte, off int64) error {
	if !ref.Valid() || ref.Offset < headerSize || !ref.Contains(off, int64(len(p))) {
		return fmt.Errorf("segment: read %v at %d: %w", ref, off, extent.ErrInvalid)
	}
	if s.closed.Load() {
		return extent.ErrClosed
	}
	f, err := s.files.acquire(ref.Segment)
	if err != nil {
		return err
	}
	defer s.files.release(f)
	if s.readDirect(f, p, ref.Offset+off) || f.readCached(p, ref.Offset+off) {
		return nil
	}
	if _, err := f.f.ReadAt(p, ref.Offset+off); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("segment: read %v: file is shorter: %w", ref, extent.ErrMissing)
		}
		return fmt.Errorf("segment: read %v: %w", ref, err)
	}
	return nil
}

// Position implements extent.Ranger.
func (s *Store) Position() extent.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.active != nil:
		return extent.Position{Segment: s.active.file.number, Offset: s.active.end}
	case s.resume != (extent.Position{}):
		return s.resume
	case s.next != nil:
		return extent.Position{Segment: s.next.file.number, Offset: s.next.end}
	}
	return extent.Position{Segment: s.last + 1, Offset: headerSize}
}

// noSpace turns a full disk or quota into extent.ErrNoSpace.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w (%w)", extent.ErrNoSpace, err)
	}
	return err
}
