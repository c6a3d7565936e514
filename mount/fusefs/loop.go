package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Taking requests. go-fuse translates them (fuse.ProtocolServer); who reads them from the kernel is decided here, because that is what
// a small operation costs. go-fuse's own Server starts another reader as soon as it has a request. With one client that makes two threads
// that take turns, as a rule on different processors: three futex calls and six naps of Go's monitor thread for each small file, a
// quarter of the daemon's time.
//
// Here one goroutine reads, answers, and reads again. Others join it when they are needed:
//
//   - A request that waits for other users or copies much (mayWait) gets a successor before it is handled.
//   - Who finds requests waiting again and again, sooner if they are different threads', has seen that there is work for two: one more
//     reader, up to maxReaders. If the work of the last ticks would not have kept one less busy, there is one less.
//   - If nobody reads and nothing was taken for a tick, then what is being handled waits for something, perhaps for a request that nobody
//     has read: one more reader, regardless of how many there are.
//
// So a wait of whatever kind holds up others for two ticks at most, and there are never more goroutines than requests that the kernel
// has under way, and maxReaders.
//
// A processor that has nothing to do falls asleep, and to wake it costs more than a small request. Therefore a reader whose requests have
// come one soon after the other looks out for the next one before it sleeps, if there is a second processor for whoever will ask; or
// better, where it can be had, both stay on one processor (awake.go).
const (
	maxReaders  = 16
	tick        = 4 * time.Millisecond
	smooth      = 8                // ticks that count for the mean of the work
	full        = 0.9              // how busy a reader may be
	idleTicks   = 25               // without a request, the ticks end until the next one
	requestRoom = maxWrite + 8<<10 // the longest request: a WRITE and its headers
	replyRoom   = 8 << 10          // any reply but long data; also a path's, for READLINK
	longReply   = maxWrite + 8<<10
)

var epoch = time.Now() //nolint:forbidigo // nobody's clock but the processor's: it tells how long a system call took

// elapsed is the time since the program began.
func elapsed() time.Duration { return time.Since(epoch) }

// Opcodes of the protocol, from linux/fuse.h.
const (
	opForget      = 2
	opRead        = 15
	opRelease     = 18
	opGetxattr    = 22
	opListxattr   = 23
	opInit        = 26
	opReaddir     = 28
	opReleasedir  = 29
	opSetlkw      = 33
	opInterrupt   = 36
	opIoctl       = 39
	opBatchForget = 42
	opFallocate   = 43
	opReaddirplus = 44
	opCopyRange   = 47
	opSyncfs      = 50
)

// mayWait says which requests take long as a rule.
func mayWait(op uint32) bool {
	switch op {
	case opSetlkw, opFallocate, opCopyRange, opSyncfs:
		return true
	}
	return false
}

// unasked says which requests nobody waits for: they come beside others without there being two who work.
func unasked(op uint32) bool {
	switch op {
	case opRelease, opReleasedir, opForget, opBatchForget, opInterrupt:
		return true
	}
	return false
}

// payload is how many bytes of data, beside a structure, the reply to a request may have.
func payload(op uint32, in []byte) int {
	switch {
	case (op == opRead || op == opReaddir || op == opReaddirplus) && len(in) >= int(unsafe.Sizeof(fuse.ReadIn{})):
		return int((*fuse.ReadIn)(unsafe.Pointer(&in[0])).Size)
	case (op == opGetxattr || op == opListxattr) && len(in) >= int(unsafe.Sizeof(fuse.GetXAttrIn{})):
		return int((*fuse.GetXAttrIn)(unsafe.Pointer(&in[0])).Size)
	case op == opIoctl && len(in) >= int(unsafe.Sizeof(fuse.IoctlIn{})):
		return int((*fuse.IoctlIn)(unsafe.Pointer(&in[0])).OutSize)
	}
	return 0
}

var (
	requestPool = sync.Pool{New: func() any { b := make([]byte, requestRoom); return &b }}
	replyPool   = sync.Pool{New: func() any { b := make([]byte, longReply); return &b }}
)

// loop is the taking and answering of one kernel's requests.
type loop struct {
	ps      *fuse.ProtocolServer
	log     *slog.Logger
	fd      int
	wg      sync.WaitGroup
	ended   chan struct{}        // closed when the connection has ended
	kick    chan struct{}        // wakes the watch
	start   func()               // one more reader
	lookOut bool                 // there are processors enough to look out for requests
	awake   *Awake               // may be nil
	now     func() time.Duration // by which readers see how requests come

	mu       sync.Mutex
	readers  int           // goroutines that take one request after another
	waiting  int           // of them, those that are not handling one
	want     int           // how many readers there should be
	busy     time.Duration // what readers have worked since the last tick
	load     float64       // how many of them were at work on the average of the last ticks
	taken    uint64        // requests so far
	watching bool
	over     bool
}

// newLoop answers the kernel's INIT, with which every connection begins, and has init called with the kernel's version of the
// protocol and capabilities. The descriptor becomes the loop's.
func newLoop(fs fuse.RawFileSystem, opts *fuse.MountOptions, fd int, awake *Awake, log *slog.Logger, init func(minor uint32, kernel uint64)) (l *loop, err error) {
	l = &loop{
		ps: fuse.NewProtocolServer(fs, opts), log: log, fd: fd,
		ended: make(chan struct{}), kick: make(chan struct{}, 1),
		lookOut: runtime.GOMAXPROCS(0) > 1 && runtime.NumCPU() > 1, awake: awake, now: elapsed,
		want: 1, watching: true,
	}
	l.start = func() { l.wg.Go(l.reader) }
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	w := &worker{}
	defer w.free()
	in := w.request()
	n, errno := l.read(in)
	if errno != 0 {
		return nil, fmt.Errorf("fuse: no INIT: %w", errno)
	}
	said := (*fuse.InitIn)(unsafe.Pointer(&in[0]))
	if n < int(unsafe.Sizeof(fuse.InHeader{}))+16 || said.Opcode != opInit {
		return nil, errors.New("fuse: the connection does not begin with INIT")
	}
	clear(in[n:max(n, int(unsafe.Sizeof(*said)))]) // what an older kernel does not send
	minor, capabilities := said.Minor, said.Flags64()
	if err := l.answer(w, n); err != nil {
		return nil, fmt.Errorf("fuse: INIT: %w", err)
	}
	init(minor, capabilities)
	return l, nil
}

// serve answers requests until the connection ends.
func (l *loop) serve() {
	l.mu.Lock()
	l.add()
	l.mu.Unlock()
	l.wg.Go(l.watch)
	l.wg.Wait()
	_ = unix.Close(l.fd)
}

// add starts one more reader; l.mu is held.
func (l *loop) add() {
	l.readers++
	l.waiting++
	l.start()
}

// worker is what a reader works with.
type worker struct {
	in, big *[]byte       // from the pools; nil: none
	wrote   time.Duration // how long the last reply took to write
	small   [replyRoom]byte
	inv     [1][]byte
	outv    [1][]byte
	msg     []byte // instead of in, while the reader is none
}

var workers = sync.Pool{New: func() any { return new(worker) }}

// request is room for one.
func (w *worker) request() []byte {
	if w.in == nil {
		w.in = requestPool.Get().(*[]byte)
	}
	return *w.in
}

// reply is room for one with so much data.
func (w *worker) reply(data int) []byte {
	const structure = 512 // a header, and any structure that comes before data
	switch {
	case data+structure <= len(w.small):
		return w.small[:]
	case data+structure > longReply: // no kernel asks for that after our INIT
		return make([]byte, data+structure)
	case w.big == nil:
		w.big = replyPool.Get().(*[]byte)
	}
	return *w.big
}

func (w *worker) free() {
	if w.in != nil {
		requestPool.Put(w.in)
	}
	if w.big != nil {
		replyPool.Put(w.big)
	}
	w.in, w.big, w.msg, w.wrote = nil, nil, nil, 0
	workers.Put(w)
}

// read takes a request from the kernel.
func (l *loop) read(p []byte) (int, syscall.Errno) {
	for {
		n, err := syscall.Read(l.fd, p)
		var errno syscall.Errno
		if err != nil && !errors.As(err, &errno) {
			errno = syscall.EIO
		}
		switch {
		case errno == syscall.EINTR || errno == syscall.EAGAIN:
		case errno == syscall.ENOENT: // it was interrupted before anybody had it
		case errno == 0 && n < int(unsafe.Sizeof(fuse.InHeader{})):
			return 0, syscall.EIO
		default:
			return n, errno
		}
	}
}

// reader takes requests and answers them until it is one too many, or the connection ends.
func (l *loop) reader() {
	w := workers.Get().(*worker)
	defer w.free()
	pace, alone, together := newPace(), false, false
	for {
		in := w.request()
		began := l.now()
		if l.lookOut && alone && pace.quick() && !together {
			l.spin(began)
		}
		n, errno := l.read(in)
		if errno != 0 {
			l.end(errno)
			return
		}
		h := (*fuse.InHeader)(unsafe.Pointer(&in[0]))
		op := h.Opcode
		now := l.now()
		pace.took(h, now-began, w.wrote)
		if together = l.awake != nil && alone && pace.quick() && pace.same; together {
			l.awake.beat(h.Pid)
		}
		if mayWait(op) { // it leaves the room for a long request to others
			w.msg = bytes.Clone(in[:n])
			clear(in[:n])
			requestPool.Put(w.in)
			w.in = nil
		}
		l.took(op, pace.row >= foundInARow)
		_ = l.answer(w, n)
		again := false
		if again, alone = l.again(op, l.now()-now); !again {
			return
		}
		w.msg = nil
	}
}

// spin returns when there is a request, or after a while.
func (l *loop) spin(began time.Duration) {
	fd, now := unix.PollFd{Fd: int32(l.fd), Events: unix.POLLIN}, unix.Timespec{}
	for l.now()-began < soon {
		// It never waits, so that the runtime need not know of it.
		if n, _, _ := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fd)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0); n != 0 {
			return
		}
	}
}

// took notes that a reader has a request, and sees to who takes the next one.
func (l *loop) took(op uint32, found bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
	l.taken++
	switch {
	case mayWait(op):
		l.readers--
		if l.waiting == 0 {
			l.add()
		}
	case found && l.waiting == 0 && l.readers < maxReaders:
		l.add()
		l.want = max(l.want, l.readers)
		l.load = max(l.load, float64(l.readers)) // until it is measured
	}
	if !l.watching {
		l.watching = true
		l.kick <- struct{}{}
	}
}

// again reports whether who has answered a request, which took so long, shall take another, and whether nobody else waits for one.
func (l *loop) again(op uint32, took time.Duration) (again, alone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mayWait(op) {
		l.readers++
	} else {
		l.busy += took
	}
	if l.readers > l.want && l.waiting > 0 {
		l.readers--
		return false, false
	}
	l.waiting++
	return true, l.waiting == 1
}

// watch sees to it that somebody reads, and that there are not more than are needed.
func (l *loop) watch() {
	t := time.NewTicker(tick)
	defer t.Stop()
	idle, last, before := 0, uint64(0), elapsed()
	for {
		select {
		case <-l.ended:
			return
		case <-t.C:
		}
		l.mu.Lock()
		if l.taken != last {
			idle = 0
		} else {
			idle++
		}
		if l.waiting == 0 && idle > 0 && !l.over {
			l.add()
		}
		now := elapsed()
		l.measure(now - before)
		before = now
		last = l.taken
		rest := idle >= idleTicks && l.waiting == l.readers && l.want == 1
		l.watching = !rest
		l.mu.Unlock()
		if !rest {
			continue
		}
		t.Stop()
		select {
		case <-l.ended:
			return
		case <-l.kick:
		}
		t.Reset(tick)
		idle, before = 0, elapsed()
	}
}

// measure takes account of the time since it was done last: who is not needed shall leave. A tick that comes late is followed by one that
// comes at once; that one counts for a whole tick, not for the nothing it measures. l.mu is held.
func (l *loop) measure(since time.Duration) {
	l.load += (l.busy.Seconds()/max(since, tick).Seconds() - l.load) / smooth
	l.busy = 0
	if l.want > 1 && l.load < full*float64(l.want-1) {
		l.want--
	}
}

// end notes that the connection has ended, or that it cannot be read.
func (l *loop) end(errno syscall.Errno) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers--
	l.waiting--
	if l.over {
		return
	}
	if errno != syscall.ENODEV && errno != syscall.ECONNABORTED {
		l.log.Error("requests cannot be read: the mount ends", "err", errno)
	}
	l.over = true
	close(l.ended) // waits for locks end
}

// answer handles the request of n bytes that a worker has, and writes the reply. Of neither anything stays.
func (l *loop) answer(w *worker, n int) error {
	in := w.msg
	if in == nil {
		in = (*w.in)[:n]
	}
	h := *(*fuse.InHeader)(unsafe.Pointer(&in[0]))
	out := w.reply(payload(h.Opcode, in))
	w.inv[0], w.outv[0] = in, out
	size, status := l.ps.HandleRequest(w.inv[:], w.outv[:])
	w.inv[0], w.outv[0] = nil, nil
	clear(in)
	if status != fuse.OK { // it did not come to a reply
		size = int(unsafe.Sizeof(fuse.OutHeader{}))
		*(*fuse.OutHeader)(unsafe.Pointer(&out[0])) = fuse.OutHeader{Length: uint32(size), Status: -int32(status), Unique: h.Unique}
	}
	if size == 0 {
		return nil // FORGET
	}
	began := l.now()
	err := l.write(out[:size])
	w.wrote = l.now() - began
	clear(out[:size])
	switch {
	case err == nil, errors.Is(err, syscall.ENODEV):
	case errors.Is(err, syscall.ENOENT) && unasked(h.Opcode): // the kernel does not wait for it when it unmounts
	default:
		l.log.Warn("a reply was not taken", "opcode", h.Opcode, "err", err)
	}
	return err
}

// write gives a reply to the kernel. It copies and wakes, and waits for nobody, so that the runtime need not know of it: as a rule
// who is woken takes this very processor at once, and the runtime's monitor would take that for a long wait.
func (l *loop) write(p []byte) error {
	for {
		_, _, errno := syscall.RawSyscall(unix.SYS_WRITE, uintptr(l.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		switch errno {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return os.NewSyscallError("write", errno)
		}
	}
}
