// Package redo is the log that makes commits durable before Badger has them: a few preallocated files, the segments, that are
// written one after the other and used again once what they hold is elsewhere.
//
// A record is appended with one write(2). From then on it survives the death of the process. Sync makes all records appended so
// far durable with one fdatasync(2), shared by all who ask meanwhile; since a segment's blocks are allocated and written before
// its first use, that moves data only and no metadata of the filesystem. A record that is appended deferred is written by the next
// Sync, or by the next append of one that is not, which comes after it in the file: see tail. FORMAT.md of package badgerkv has the bytes.
//
// # What a replay accepts
//
// Records are numbered without gaps, and each carries the number of its segment's life, so that nothing from an earlier life is
// ever taken for a record of this one. After a crash the log ends at the first number that is missing or damaged: whatever
// comes later was never synced. Unless it was: each record also says up to which number the log was durable when it was
// appended, and a later record which says that of the missing one means that a synced record was lost. Then replay does not
// guess; it returns ErrCorrupt.
//
// # Errors
//
// A write that finds no space leaves the log as it was. After another failed write, or a failed sync, nobody knows what is on the disk: a second fdatasync would succeed without having written
// anything. So the log fails for good, and its owner opens it again.
//
// # Lock order
//
//	Log.mu   appends and the table of segments; held over write(2), never over a sync. An append that is not deferred waits on it for
//	         the end of a Sync that writes
//	Log.sy   who syncs, and how far; taken alone
//
// No goroutines. Memory: the table and two buffers of 72 KiB, and in Replay one segment.
package redo

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Errors of the log; they arrive wrapped.
var (
	ErrCorrupt = errors.New("redo: corrupt")           // stored bytes are not what was written and synced
	ErrFormat  = errors.New("redo: unknown format")    // written by another version of the program
	ErrMissing = errors.New("redo: no log")            // OpenExisting found no segment
	ErrFailed  = errors.New("redo: log failed")        // an earlier write or sync failed
	ErrTooBig  = errors.New("redo: record too large")  // more than fits into a segment
	ErrNoSpace = errors.New("redo: no space left")     // for a segment, or for the record itself; nothing was appended
	errState   = errors.New("redo: used out of order") // Append before Replay
)

// Default and least size of a segment in bytes.
const (
	DefaultSegmentSize = 16 << 20
	MinSegmentSize     = 64 << 10
)

// Files is how the log reaches the disk: tests replace it to inject faults.
type Files struct {
	WriteAt   func(f *os.File, p []byte, off int64) (int, error)
	Sync      func(f *os.File) error
	WriteSync func(f *os.File, p []byte, off int64) (int, error) // whole blocks past the page cache, durable when it returns
}

// Options are the log's options.
type Options struct {
	SegmentSize int64 // of new segments, 0 = DefaultSegmentSize; segments that exist keep theirs
	Segments    int   // how many to make at once, at least 2
	Files       Files // zero functions mean pwrite(2) and fdatasync(2); with others but no WriteSync nothing is deferred
}

// segment is a file of the log. All fields but file and size are guarded by Log.mu.
type segment struct {
	file   *os.File
	direct *os.File // for writes past the page cache; nil: there are none
	size   int64
	header header
	last   uint64 // number of the last record in it; meaningful when live
	dirty  bool   // written since the last sync began
}

// Log is a redo log. Safe for concurrent use.
type Log struct {
	dir   string
	id    [16]byte
	opt   Options
	files Files

	mu       sync.Mutex
	segments []*segment // all, in the order of their numbers
	current  *segment   // where records go, nil before the first
	tail     tail       // of current
	next     uint64     // number of the next record, 0 before Replay
	applied  uint64     // records up to here are not needed any more
	slots    int        // files made so far
	closed   bool
	idle     *sync.Cond // on mu: a Sync has ended its write

	sy      sync.Mutex
	changed *sync.Cond // on sy: a sync ended
	syncing bool
	failed  error // guarded by sy; set once

	appended atomic.Uint64 // number of the last record
	durable  atomic.Uint64 // number up to which all records are durable
	broken   atomic.Bool   // failed is set
	direct   atomic.Bool   // segments are opened for writes past the page cache
	syncs    atomic.Uint64
}

// Open opens the log in dir, making dir and a new log if there is none.
func Open(dir string, opt Options) (*Log, error) {
	l, err := OpenExisting(dir, opt)
	if !errors.Is(err, ErrMissing) {
		return l, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("redo: %w", err)
	}
	l = newLog(dir, opt)
	_, _ = rand.Read(l.id[:]) // never fails
	for range l.opt.Segments {
		if _, err := l.create(); err != nil {
			return nil, errors.Join(err, l.closeFiles())
		}
	}
	return l, syncDir(filepath.Dir(dir))
}

// OpenExisting opens the log in dir. ErrMissing if there is none.
func OpenExisting(dir string, opt Options) (*Log, error) {
	l := newLog(dir, opt)
	if err := l.load(); err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	if len(l.segments) == 0 {
		return nil, fmt.Errorf("%w in %s", ErrMissing, dir)
	}
	return l, nil
}

func newLog(dir string, opt Options) *Log {
	if opt.SegmentSize == 0 {
		opt.SegmentSize = DefaultSegmentSize
	}
	opt.SegmentSize = max(opt.SegmentSize, MinSegmentSize) &^ (headerBlock - 1)
	opt.Segments = max(opt.Segments, 2)
	l := &Log{dir: dir, opt: opt, files: opt.Files}
	l.direct.Store(l.files.WriteSync != nil || l.files.WriteAt == nil && l.files.Sync == nil)
	if l.files.WriteSync == nil {
		l.files.WriteSync = writeSync
	}
	if l.files.WriteAt == nil {
		l.files.WriteAt = func(f *os.File, p []byte, off int64) (int, error) { return f.WriteAt(p, off) }
	}
	if l.files.Sync == nil {
		l.files.Sync = fdatasync
	}
	l.changed, l.idle, l.tail = sync.NewCond(&l.sy), sync.NewCond(&l.mu), newTail()
	return l
}

func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("redo: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("redo: sync directory: %w", err)
	}
	return nil
}

// ID identifies the log: random, chosen when it was made.
func (l *Log) ID() [16]byte { return l.id }

// MaxPayload is the largest payload of a record, in bytes.
func (l *Log) MaxPayload() int { return int(l.opt.SegmentSize - headerBlock - RecordHeader) }

// Last returns the number of the last record that was appended or replayed.
func (l *Log) Last() uint64 { return l.appended.Load() }

// fail makes the log fail for good and returns err, wrapped.
func (l *Log) fail(err error) error {
	l.sy.Lock()
	defer l.sy.Unlock()
	if l.failed == nil {
		l.failed = fmt.Errorf("%w: %w", ErrFailed, err)
		l.broken.Store(true)
		l.changed.Broadcast()
	}
	return l.failed
}

func (l *Log) failure() error {
	l.sy.Lock()
	defer l.sy.Unlock()
	return l.failed
}

// Append appends a record and returns its number. record begins with RecordHeader bytes of room for the record's header,
// followed by the payload; Append fills the header in and may append padding to the slice's spare capacity, and keeps nothing.
// ErrTooBig and ErrNoSpace leave the log as it was, ErrFailed leaves it unusable.
func (l *Log) Append(record []byte) (uint64, error) { return l.append(record, false) }

// AppendDeferred is Append, except that the record survives the death of the process only when a later Append or Sync has returned. It
// is for who calls Sync next.
func (l *Log) AppendDeferred(record []byte) (uint64, error) { return l.append(record, true) }

func (l *Log) append(record []byte, deferred bool) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	room := (len(record) + align - 1) / align * align
	for !deferred || !l.canDefer(room) {
		if !l.tail.busy {
			deferred = false
			break
		}
		l.idle.Wait()
	}
	if l.broken.Load() {
		return 0, l.failure()
	}
	if l.next == 0 || l.closed {
		return 0, errState
	}
	if len(record) <= RecordHeader || len(record)-RecordHeader > l.MaxPayload() {
		return 0, fmt.Errorf("%w: %d bytes", ErrTooBig, len(record))
	}
	padded := pad(record)
	if l.current == nil || l.tail.end()+int64(len(padded)) > l.current.size {
		if err := l.rotate(int64(len(padded))); err != nil {
			return 0, err
		}
	}
	seq := l.next
	putRecord(padded, len(record)-RecordHeader, l.current.header.number, seq, l.durable.Load())
	if deferred {
		l.tail.buf = append(l.tail.buf, padded...)
	} else if err := l.put(padded); err != nil {
		return 0, l.refused("append", err)
	}
	l.current.last = seq
	l.next++
	l.appended.Store(seq)
	return seq, nil
}

// refused is the answer to a write that failed. On filesystems that never write in place, room that was set aside may be missing all the
// same: then what was not written whole is no record (nothing counts before its end is there), and the next write is to the same place.
func (l *Log) refused(what string, err error) error {
	if noSpace(err) {
		return fmt.Errorf("%w: %s: %w", ErrNoSpace, what, err)
	}
	return l.fail(fmt.Errorf("%s: %w", what, err))
}

func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// Skip says that numbers up to seq are used: the next record gets a later one. Only right after Replay.
func (l *Log) Skip(seq uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == 0 || l.current != nil {
		return errState
	}
	if seq >= l.next {
		l.next, l.applied = seq+1, seq
		l.appended.Store(seq)
		l.durable.Store(seq)
	}
	return nil
}

// rotate makes a free segment the current one. mu is held, and no Sync is writing.
func (l *Log) rotate(need int64) error {
	if l.current != nil {
		if err := l.writeTail(); err != nil {
			return l.refused("append", err)
		}
	}
	seg := l.oldestFree(need)
	if seg == nil {
		var err error
		if seg, err = l.create(); err != nil {
			return err
		}
	}
	h := header{id: l.id, size: seg.size, number: l.topNumber() + 1, live: true, first: l.next, applied: l.applied}
	if _, err := l.files.WriteAt(seg.file, h.encode(), 0); err != nil {
		return l.refused(fmt.Sprintf("begin segment %d", h.number), err)
	}
	seg.header, seg.last, seg.dirty = h, 0, true
	l.order()
	l.current = seg
	l.tail.begin(headerBlock)
	return nil
}

// Cut says that records up to seq are durable elsewhere: segments that hold nothing else are used again.
func (l *Log) Cut(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.applied = max(l.applied, seq)
	for _, s := range l.segments {
		if s != l.current && s.header.live && s.last <= l.applied {
			s.header.live = false
		}
	}
}

// Prepare makes sure that n free segments are there, so that Append need not wait for one to be made.
func (l *Log) Prepare(n int) error {
	for {
		l.mu.Lock()
		free, closed := 0, l.closed
		for _, s := range l.segments {
			if !s.header.live {
				free++
			}
		}
		l.mu.Unlock()
		if free >= n || closed {
			return nil
		}
		if err := l.prepareOne(); err != nil {
			return err
		}
	}
}

// prepareOne makes the file without holding mu, and only then adds it.
func (l *Log) prepareOne() error {
	l.mu.Lock()
	slot := l.slots
	l.slots++
	l.mu.Unlock()
	seg, err := l.makeFile(slot)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(l.segments, seg)
	l.order()
	return nil
}

// Sync returns nil once every record whose Append returned before the call is durable. Callers that arrive during a sync share
// the next one.
func (l *Log) Sync() error {
	target := l.appended.Load()
	l.sy.Lock()
	for {
		if l.failed != nil {
			defer l.sy.Unlock()
			return l.failed
		}
		if l.durable.Load() >= target {
			l.sy.Unlock()
			return nil
		}
		if !l.syncing {
			break
		}
		l.changed.Wait()
	}
	l.syncing = true
	l.sy.Unlock()

	upto, err := l.syncFiles()
	if err != nil {
		err = l.fail(fmt.Errorf("sync: %w", err))
	}
	l.sy.Lock()
	defer l.sy.Unlock()
	l.syncing = false
	if err == nil {
		l.durable.Store(upto)
	}
	l.changed.Broadcast()
	return err
}

// syncFiles makes durable what was appended since the last time, and returns up to which record.
func (l *Log) syncFiles() (uint64, error) {
	l.mu.Lock()
	upto := l.appended.Load()
	done, err := l.syncTail()
	if err == nil && !done && l.current != nil {
		upto = l.appended.Load()
		err = l.writeTail()
	}
	if done || err != nil {
		l.mu.Unlock()
		l.syncs.Add(1)
		return upto, err
	}
	var dirty []*segment
	for _, s := range l.segments {
		if s.dirty {
			s.dirty = false
			dirty = append(dirty, s)
		}
	}
	l.mu.Unlock()
	for _, s := range dirty {
		if err := l.files.Sync(s.file); err != nil {
			return 0, err
		}
	}
	l.syncs.Add(1)
	return upto, nil
}

// Stats are numbers for people.
type Stats struct {
	Segments, Live int   // files, and those that hold records still needed
	Bytes          int64 // of all segments
	Syncs          uint64
	Last, Durable  uint64 // numbers of records
}

// Stats returns current numbers.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := Stats{Segments: len(l.segments), Syncs: l.syncs.Load(), Last: l.appended.Load(), Durable: l.durable.Load()}
	for _, s := range l.segments {
		st.Bytes += s.size
		if s.header.live {
			st.Live++
		}
	}
	return st
}

// Clean says that all records are durable elsewhere: the next Open finds an empty log.
func (l *Log) Clean() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken.Load() {
		return l.failure()
	}
	l.current = nil
	l.tail.begin(headerBlock)
	for _, s := range l.segments {
		s.header.live, s.header.applied = false, l.appended.Load()
		if _, err := l.files.WriteAt(s.file, s.header.encode(), 0); err != nil {
			return l.fail(fmt.Errorf("clean: %w", err))
		}
	}
	for _, s := range l.segments {
		if err := l.files.Sync(s.file); err != nil {
			return l.fail(fmt.Errorf("clean: %w", err))
		}
		s.dirty = false
	}
	return nil
}

// Close closes the files. It does not sync.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.closeFiles()
}

func (l *Log) closeFiles() error {
	var first error
	for _, s := range l.segments {
		for _, f := range []*os.File{s.file, s.direct} {
			if f == nil {
				continue
			}
			if err := f.Close(); err != nil && first == nil {
				first = fmt.Errorf("redo: %w", err)
			}
		}
	}
	return first
}
