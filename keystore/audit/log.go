package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options of Open.
type Options struct {
	Clock    func() time.Time // required: the time of events that carry none
	Settings Settings
	Logger   *slog.Logger // nil = none
	Queue    int          // events that may wait to be written; 0 = 8192
	// Anchors are ends of the log that were kept elsewhere. If the newest of them lies behind the end that Open finds, records were cut
	// off: the log goes on behind the anchor, so that Verify shows for ever which are missing.
	Anchors []Head

	// Vault keeps the log's keys; nil = they are on the heap.
	Vault Vault
	// Wrap stands between the writer and its files, for tests: faults, and power that fails. nil = nothing does.
	Wrap func(*os.File) File
}

// File is what the writer needs of an *os.File.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
}

const (
	defaultQueue = 8192
	linger       = 2 * time.Millisecond // how long the writer collects events that nobody waits for
	firstRetry   = 100 * time.Millisecond
	lastRetry    = 5 * time.Second
)

// Log is an open audit log. All its methods may be called concurrently.
type Log struct {
	reader   *reader
	clock    func() time.Time
	settings atomic.Pointer[Settings]
	logger   *slog.Logger
	maxQueue int
	anchors  []Head
	wrap     func(*os.File) File

	wake   chan struct{} // something is queued
	urgent chan struct{} // and somebody waits for it
	older  chan struct{} // something may have grown too old to be kept
	closed chan struct{} // closed by Close: the writer ends after what is queued
	ended  chan struct{} // closed by the writer
	tended chan struct{} // closed by who removes old files

	// kept is held for reading while files are read, and for writing while old ones are removed.
	kept sync.RWMutex

	mu       sync.Mutex
	room     sync.Cond // the queue has room, or the log is closed
	queue    []entry
	flushes  []flush
	closing  bool
	written  position      // behind the last record handed to the operating system
	durable  position      // behind the last record that is synced
	progress chan struct{} // closed and replaced when written moves
	failure  error         // the last attempt to write failed so
	lost     int           // events that Close could not write

	w writer // the writer goroutine's own
}

// entry is one queued event as it will be sealed; done is set when its caller waits for durability.
type entry struct {
	line *[]byte // from lines
	at   time.Time
	done chan error
}

// lines keeps the buffers of events that were written.
var lines = sync.Pool{New: func() any { return new(make([]byte, 0, 640)) }}

// largeLine is above which capacity a buffer is not kept. One of the filesystem takes some 400 bytes.
const largeLine = 8 << 10

// release gives the entry's buffer back.
func (en *entry) release() {
	clear(*en.line) // nothing of a long event stays behind a short one
	if cap(*en.line) <= largeLine {
		lines.Put(en.line)
	}
	en.line = nil
}

// flush is a request to have everything queued before it written, and durable if sync is set.
type flush struct {
	sync bool
	done chan error
}

// Open opens the log in dir, which is made if it is missing, with a 32-byte key that is copied. It reads the last file to
// find the end of the chain. ErrVersion for another format, ErrKey for another key or a changed last header.
func Open(dir string, key []byte, opts Options) (*Log, error) {
	if opts.Clock == nil {
		return nil, errors.New("audit: a clock is required")
	}
	settings, err := opts.Settings.check()
	if err != nil {
		return nil, err
	}
	ks, err := newKeys(key, opts.Vault)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	l := &Log{
		reader:   &reader{dir: dir, keys: ks},
		clock:    opts.Clock,
		logger:   opts.Logger,
		maxQueue: opts.Queue,
		anchors:  slices.Clone(opts.Anchors),
		wrap:     opts.Wrap,
		wake:     make(chan struct{}, 1),
		urgent:   make(chan struct{}, 1),
		older:    make(chan struct{}, 1),
		closed:   make(chan struct{}),
		ended:    make(chan struct{}),
		tended:   make(chan struct{}),
		progress: make(chan struct{}),
	}
	l.room.L = &l.mu
	if l.logger == nil {
		l.logger = slog.New(slog.DiscardHandler)
	}
	if l.wrap == nil {
		l.wrap = func(f *os.File) File { return f }
	}
	if l.maxQueue <= 0 {
		l.maxQueue = defaultQueue
	}
	l.settings.Store(&settings)
	if err := l.recover(); err != nil {
		return nil, err
	}
	l.written, l.durable = l.w.pos, l.w.pos
	signal(l.older)
	go l.run()
	go l.tend()
	return l, nil
}

// Append takes an event into the log, which keeps nothing of e. Times and ids that are missing are set. It waits only while the queue is
// full or, in a strict log, until the event is durable. The error is ErrClosed, or in a strict log the reason why the event is not
// durable; a log that is not strict has no other.
func (l *Log) Append(e *Event) error {
	if e.EventTime.IsZero() {
		e.EventTime.Time = l.clock()
	}
	en := entry{line: lines.Get().(*[]byte), at: e.EventTime.Time}
	small := (*en.line)[:cap(*en.line)]
	if *en.line = l.encode(small[:0], e); cap(*en.line) != len(small) {
		clear(small) // what an event that outgrew it left there
	}
	strict := l.settings.Load().Strict
	if strict {
		en.done = make(chan error, 1)
	}
	l.mu.Lock()
	for len(l.queue) >= l.maxQueue && !l.closing {
		l.room.Wait()
	}
	if l.closing {
		l.mu.Unlock()
		return ErrClosed
	}
	l.queue = append(l.queue, en)
	first, half := len(l.queue) == 1, len(l.queue) == l.maxQueue/2
	l.mu.Unlock()
	if first {
		signal(l.wake)
	}
	if half || strict {
		signal(l.urgent)
	}
	if !strict {
		return nil
	}
	return <-en.done
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Flush returns when every event appended before is durable, or cannot be made so now.
func (l *Log) Flush() error { return l.flush(true) }

func (l *Log) flush(sync bool) error {
	f := flush{sync: sync, done: make(chan error, 1)}
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return ErrClosed
	}
	l.flushes = append(l.flushes, f)
	l.mu.Unlock()
	signal(l.wake)
	signal(l.urgent)
	return <-f.done
}

// drain has everything appended before handed to the operating system and returns the end of it.
func (l *Log) drain() (position, error) {
	if err := l.flush(false); err != nil && !errors.Is(err, ErrClosed) {
		return position{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written, nil
}

// Head is the durable end of the log: call Flush first to include what was just appended.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Head{Sequence: l.durable.seq, Chain: l.durable.chain}
}

// Err is the reason why the last attempt to write failed; nil if it did not.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// Close writes and syncs what is queued and closes the log. The error says how many events could not be written.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		<-l.ended
		return ErrClosed
	}
	l.closing = true
	l.room.Broadcast()
	l.mu.Unlock()
	close(l.closed)
	<-l.ended
	<-l.tended
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost > 0 {
		return fmt.Errorf("audit: %d events could not be written: %w", l.lost, l.failure)
	}
	return l.failure
}
