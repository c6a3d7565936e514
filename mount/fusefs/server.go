package fusefs

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

const (
	maxWrite      = 1 << 20 // bytes of one READ or WRITE
	maxBackground = 64      // readahead and writeback requests at once
	readAheadKB   = 2048    // of a mount, where the daemon may set it
	minorOfEpochs = 44      // protocol 7.44, Linux 6.16
)

// rawFS answers one kernel's requests for one session. Handlers run concurrently.
type rawFS struct {
	sess     *mount.Session
	opts     Options
	log      *slog.Logger
	said     *said // by log
	interest *interest
	notes    *notifier
	fd       *device
	files    table[mount.Handle]
	dirs     table[mount.DirHandle]
	listers  listers
	reads    atomic.Uint64 // READs that came
	opens    opens
	copiers  copiers
	ended    <-chan struct{} // closed when the connection has ended
}

// String implements fuse.RawFileSystem.
func (m *rawFS) String() string { return "kmsfs" }

// SetDebug implements fuse.RawFileSystem.
func (m *rawFS) SetDebug(bool) {}

// Init implements fuse.RawFileSystem. Nobody calls it.
func (m *rawFS) Init(*fuse.Server) {}

// init is called when the kernel has said what it can, before the first request.
func (m *rawFS) init(minor uint32, kernel uint64) {
	m.notes.expire = kernel&fuse.CAP_HAS_EXPIRE_ONLY != 0
	m.notes.epochs = minor >= minorOfEpochs
	m.sess.SetNotifier(m.notes)
	m.interest.learn(mount.RootIno)
	m.sess.Acquire(mount.RootIno, 1)
}

// OnUnmount implements fuse.RawFileSystem.
func (m *rawFS) OnUnmount() {}

// end gives back what the kernel held: its handles and its knowledge of inodes.
func (m *rawFS) end() {
	m.sess.Leave()
	m.notes.close()
	m.fd.close()
	m.files.mu.Lock()
	open := m.files.slot
	m.files.slot, m.files.free = nil, nil
	m.files.mu.Unlock()
	for _, h := range open {
		if h != nil {
			if err := h.Close(); err != nil {
				m.log.Error("close at the end of a mount", "inode", h.Ino(), "err", err)
			}
		}
	}
	m.interest.drained(m.sess.Forget)
	m.said.end()
}

// logTo has the mount log sparingly.
func (m *rawFS) logTo(log *slog.Logger) {
	h := newSparing(log.Handler())
	m.log, m.said = slog.New(h), h.said
}

// Server is a mount.
type Server struct {
	raw  *rawFS
	dir  string // absolute
	dev  string // major:minor, as in mountinfo; empty if unknown
	done chan struct{}
	once sync.Once
}

// Mount mounts a session on a directory and serves it until it is unmounted. As root it mounts by itself, for opts.UID, through a
// descriptor of the directory; otherwise fusermount3 does.
func Mount(sess *mount.Session, dir string, opts Options) (*Server, error) {
	if os.Geteuid() != 0 {
		opts.UID, opts.GID = uint32(os.Geteuid()), uint32(os.Getegid())
	}
	clock := sess.Clock()
	start := clock()
	m := &rawFS{sess: sess, opts: opts}
	m.logTo(sess.Log().With("mount", dir))
	m.interest = newInterest(func() int64 { return int64(clock().Sub(start)) + 2*straggle }) // so that 0 is long ago
	m.fd = newDevice(-1, m.dirs.used, m.log)
	m.notes = newNotifier(m.fd, m.interest, func() bool { return sess.Waiting() > 1 }, m.log)
	m.interest.evict, m.interest.overflow = m.notes.evict, m.notes.overflow
	fd, abs, err := opts.kernel().Attach(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	m.fd.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		_ = unix.Close(fd)
		opts.detach(abs, "")
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	l, err := newLoop(m, m.fuseOptions(), fd, opts.Awake, m.log, m.init)
	if err != nil { // it has closed fd
		m.fd.close()
		opts.detach(abs, "")
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	l.lookOut = l.lookOut && !opts.NoSpin
	m.ended = l.ended
	s := &Server{raw: m, dir: abs, dev: deviceOf(abs), done: make(chan struct{})}
	m.notes.abort = func() {
		if err := s.Abort(); err != nil {
			m.log.Error("the mount was not ended", "err", err)
		}
	}
	go func() {
		defer close(s.done)
		l.serve()
		m.end()
	}()
	s.readAhead()
	return s, nil
}

func (m *rawFS) fuseOptions() *fuse.MountOptions {
	return &fuse.MountOptions{
		MaxWrite:                 maxWrite,
		MaxReadAhead:             maxWrite,
		MaxBackground:            maxBackground,
		FsName:                   "kmsfs",
		Name:                     "kmsfs",
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     true,
		EnableLocks:              true,
		DisableSplice:            true,
		Debug:                    m.opts.Debug,
		Logger:                   log.New(slogWriter{m.log}, "", 0),
		PanicHandler:             m.panicked,
		ExtraCapabilities:        fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ASYNC_DIO | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT,
		EnableAcl:                m.opts.DefaultPermissions, // the kernel has no other way
		DisabledCapabilities:     fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_NO_OPEN_SUPPORT | fuse.CAP_PASSTHROUGH,
	}
}

// panicked ends the process. go-fuse would answer EIO and go on, but whoever panicked may hold locks, and then every user of every mount
// would wait for ever. Of a daemon that has ended the mounts end too, and the next one finds all that was acknowledged.
func (m *rawFS) panicked(p any) fuse.Status {
	m.log.Error("a request panicked: the daemon ends", "panic", p, "stack", string(debug.Stack()))
	panic(p)
}

// slogWriter makes go-fuse's lines ours.
type slogWriter struct{ log *slog.Logger }

func (w slogWriter) Write(p []byte) (int, error) {
	w.log.Warn("fuse", "msg", strings.TrimSpace(string(p)))
	return len(p), nil
}

// Reads says how many READs have come from the kernel: reads that it did not answer itself.
func (s *Server) Reads() uint64 { return s.raw.reads.Load() }

// Dir is where it is mounted.
func (s *Server) Dir() string { return s.dir }

// Device is the mount's device number, "major:minor".
func (s *Server) Device() string { return s.dev }

// Wait returns when the mount has ended and its handles are closed.
func (s *Server) Wait() { <-s.done }

// Done is closed when the mount has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// unmountTries bounds how often Unmount tries while files are being closed: some 5 seconds in all.
const unmountTries = 10

// Unmount unmounts. It waits a moment for files that are being closed; if some stay open, the error is EBUSY. The mount has ended when
// Wait returns.
func (s *Server) Unmount() error {
	pause := 5 * time.Millisecond
	for try := 1; ; try++ {
		if s.gone() {
			return nil
		}
		err := s.raw.opts.kernel().Unmount(s.dir, 0)
		if !errors.Is(err, unix.EBUSY) || try == unmountTries {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-s.done:
			t.Stop()
			return nil
		}
		pause *= 2
	}
}

// gone reports that somebody else unmounted it, or that something else is mounted there now.
func (s *Server) gone() bool { return s.dev != "" && deviceOf(s.dir) != s.dev }

// Detach takes the mount from the directory tree at once; it ends when the last file in it is closed.
func (s *Server) Detach() error {
	if s.gone() {
		return nil
	}
	return s.raw.opts.kernel().Unmount(s.dir, unix.MNT_DETACH)
}

// Abort ends the connection: everything that waits for an answer gets an error. For a mount that does not answer any more. It may be
// elsewhere by now, if its user has moved a directory above it.
func (s *Server) Abort() error {
	dir := s.dir
	if now := dirOf(s.dev); now != "" {
		dir = now
	}
	err := s.raw.opts.kernel().Abort(dir, s.dev)
	s.raw.sess.Leave()
	s.once.Do(func() { s.raw.notes.close() })
	return err
}

// readAhead makes the kernel read further ahead, where the daemon may.
func (s *Server) readAhead() {
	if s.dev == "" {
		return
	}
	if err := s.raw.opts.kernel().ReadAhead(s.dev, readAheadKB); err != nil {
		s.raw.log.Debug("read-ahead stays", "err", err)
	}
}
