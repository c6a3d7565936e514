package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount/fusefs"
)

// Mounting, unmounting and looking at other users' directories take rights that
// answering file system calls does not. A daemon that confines itself (see
// Confine) leaves them to its supervisor, which has them, holds no key, and
// reads nothing but the few messages below: a Deputy asks, ServeDeputy answers.
// What it does is bound to the daemon's own store: it makes mounts with that
// store's name as their source and ends no other. What it cannot judge is which
// principal a mount is for; so a daemon taken over could still put a mount of
// its own before a user on his directory, but it could not read, run or change
// anything outside.
//
// The socket is of type SOCK_SEQPACKET. A request and an answer are one message
// each, JSON, and an answer that opened a connection carries its descriptor.
// Answers come in any order, because an unmount may wait for the daemon.

// Kernel is what the table of mounts asks of the operating system.
type Kernel interface {
	fusefs.Kernel
	// Owner tells whose a directory is; errDirectory if it is none.
	Owner(dir string) (uid, gid uint32, err error)
	// Group is a user's primary group; ok is false if the system does not know him.
	Group(uid uint32) (gid uint32, ok bool)
	// Release unmounts a directory in a manner; a mount in use is errInUse.
	Release(ctx context.Context, dir string, how Manner) error
}

// Direct is the Kernel with this process's own rights.
type Direct struct{ fusefs.Direct }

// Owner implements Kernel.
func (Direct) Owner(dir string) (uid, gid uint32, err error) {
	st, err := os.Lstat(dir)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return 0, 0, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !st.IsDir() || !ok {
		return 0, 0, syscall.ENOTDIR
	}
	return sys.Uid, sys.Gid, nil
}

// Group implements Kernel.
func (Direct) Group(uid uint32) (gid uint32, ok bool) {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(u.Gid, 10, 32)
	return uint32(n), err == nil
}

// Release implements Kernel.
func (Direct) Release(ctx context.Context, dir string, how Manner) error {
	return release(ctx, dir, how)
}

// The operations of a deputy.
const (
	opAttach    = "attach"
	opUnmount   = "unmount"
	opAbort     = "abort"
	opReadAhead = "read-ahead"
	opOwner     = "owner"
	opGroup     = "group"
	opRelease   = "release"
)

type deputyRequest struct {
	ID      uint64         `json:"id"`
	Op      string         `json:"op"`
	Dir     string         `json:"dir,omitempty"`
	Dev     string         `json:"dev,omitempty"`
	Number  int            `json:"number,omitempty"` // flags, KiB, uid, manner
	Options fusefs.Options `json:"options"`
}

type deputyAnswer struct {
	ID    uint64        `json:"id"`
	Dir   string        `json:"dir,omitempty"`
	UID   uint32        `json:"uid,omitempty"`
	GID   uint32        `json:"gid,omitempty"`
	Known bool          `json:"known,omitempty"`
	Error string        `json:"error,omitempty"`
	Errno syscall.Errno `json:"errno,omitempty"`
}

const maxDeputyMessage = 64 << 10 // bytes

// deputyError is an error that came over the socket.
type deputyError struct {
	text  string
	errno syscall.Errno
}

func (e *deputyError) Error() string { return e.text }

func (e *deputyError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// Is makes EBUSY what the table of mounts knows it as.
func (e *deputyError) Is(target error) bool { return target == errInUse && e.errno == syscall.EBUSY }

// errDeputy says that nobody answers any more.
var errDeputy = errors.New("the supervisor has ended: nothing can be mounted or unmounted until the daemon is started anew")

// DeputyPair makes the two ends of the socket: the daemon's, and the one that
// its supervisor inherits.
func DeputyPair() (*Deputy, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the supervisor's socket: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "deputy")
	conn, err := deputyConn(os.NewFile(uintptr(fds[0]), "deputy"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	d := &Deputy{conn: conn, waiting: map[uint64]chan reply{}}
	go d.listen()
	return d, theirs, nil
}

// deputyConn takes over f.
func deputyConn(f *os.File) (*net.UnixConn, error) {
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("the supervisor's socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("the supervisor's socket is no Unix socket"), c.Close())
	}
	return u, nil
}

// reply is an answer with the descriptor that came with it, -1 for none.
type reply struct {
	answer deputyAnswer
	fd     int
}

// Deputy is a Kernel in another process. It is safe for concurrent use.
type Deputy struct {
	conn *net.UnixConn

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan reply // nil: the socket has ended
}

// Close ends the socket.
func (d *Deputy) Close() error { return d.conn.Close() }

func (d *Deputy) listen() {
	for {
		body, fd, err := receiveMessage(d.conn)
		if err != nil {
			break
		}
		r := reply{fd: fd}
		if err := json.Unmarshal(body, &r.answer); err != nil {
			break
		}
		d.mu.Lock()
		c := d.waiting[r.answer.ID]
		delete(d.waiting, r.answer.ID)
		d.mu.Unlock()
		if c != nil {
			c <- r
		} else if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.waiting {
		close(c)
	}
	d.waiting = nil
	_ = d.conn.Close()
}

func (d *Deputy) ask(req deputyRequest) (reply, error) {
	c := make(chan reply, 1)
	d.mu.Lock()
	if d.waiting == nil {
		d.mu.Unlock()
		return reply{}, errDeputy
	}
	d.last++
	req.ID = d.last
	d.waiting[req.ID] = c
	d.mu.Unlock()
	body, err := json.Marshal(req)
	if err == nil {
		_, err = d.conn.Write(body)
	}
	if err != nil {
		d.mu.Lock()
		delete(d.waiting, req.ID)
		d.mu.Unlock()
		return reply{}, fmt.Errorf("ask the supervisor: %w", err)
	}
	r, ok := <-c
	switch {
	case !ok:
		return reply{}, errDeputy
	case r.answer.Error != "":
		if r.fd >= 0 {
			_ = unix.Close(r.fd)
		}
		return reply{}, &deputyError{text: r.answer.Error, errno: r.answer.Errno}
	}
	return r, nil
}

// Attach implements Kernel.
func (d *Deputy) Attach(dir string, o fusefs.Options) (fd int, abs string, err error) {
	r, err := d.ask(deputyRequest{Op: opAttach, Dir: dir, Options: o})
	switch {
	case err != nil:
		return -1, "", err
	case r.fd < 0:
		return -1, "", fmt.Errorf("ask the supervisor: an answer without a descriptor")
	}
	return r.fd, r.answer.Dir, nil
}

// Unmount implements Kernel.
func (d *Deputy) Unmount(dir string, flags int) error {
	_, err := d.ask(deputyRequest{Op: opUnmount, Dir: dir, Number: flags})
	return err
}

// Abort implements Kernel.
func (d *Deputy) Abort(dir, dev string) error {
	_, err := d.ask(deputyRequest{Op: opAbort, Dir: dir, Dev: dev})
	return err
}

// ReadAhead implements Kernel.
func (d *Deputy) ReadAhead(dev string, kib int) error {
	_, err := d.ask(deputyRequest{Op: opReadAhead, Dev: dev, Number: kib})
	return err
}

// Owner implements Kernel.
func (d *Deputy) Owner(dir string) (uid, gid uint32, err error) {
	r, err := d.ask(deputyRequest{Op: opOwner, Dir: dir})
	return r.answer.UID, r.answer.GID, err
}

// Group implements Kernel.
func (d *Deputy) Group(uid uint32) (gid uint32, ok bool) {
	r, err := d.ask(deputyRequest{Op: opGroup, Number: int(uid)})
	return r.answer.GID, err == nil && r.answer.Known
}

// Release implements Kernel.
func (d *Deputy) Release(_ context.Context, dir string, how Manner) error {
	_, err := d.ask(deputyRequest{Op: opRelease, Dir: dir, Number: int(how)})
	return err
}

// receiveMessage reads one message and the descriptor that may be with it.
func receiveMessage(conn *net.UnixConn) (body []byte, fd int, err error) {
	body = make([]byte, maxDeputyMessage)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(body, oob)
	if err != nil {
		return nil, -1, err
	}
	if n == 0 {
		return nil, -1, net.ErrClosed
	}
	fd = -1
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, -1, err
		}
		for i := range msgs {
			fds, err := unix.ParseUnixRights(&msgs[i])
			if err != nil {
				return nil, -1, err
			}
			for _, f := range fds {
				unix.CloseOnExec(f)
				fd = f // there is room for one
			}
		}
	}
	return body[:n], fd, nil
}

// ServeDeputy answers the daemon of a store until it ends, and returns when
// nothing is under way any more.
func ServeDeputy(ctx context.Context, f *os.File, storeID string) error {
	conn, err := deputyConn(f)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		body, fd, err := receiveMessage(conn)
		if err != nil {
			return nil // the daemon has ended
		}
		if fd >= 0 {
			_ = unix.Close(fd) // nobody sends any
		}
		var req deputyRequest
		if err := decodeRequest(body, &req); err != nil {
			return err
		}
		running.Go(func() {
			a, fd := deputy{storeID: storeID, kernel: Direct{}}.serve(ctx, req)
			sendAnswer(conn, a, fd)
		})
	}
}

func decodeRequest(body []byte, req *deputyRequest) error {
	if err := json.Unmarshal(body, req); err != nil {
		return fmt.Errorf("the daemon's request: %w", err)
	}
	return nil
}

// sendAnswer gives an answer, and the descriptor away.
func sendAnswer(conn *net.UnixConn, a deputyAnswer, fd int) {
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
		defer func() { _ = unix.Close(fd) }()
	}
	body, err := json.Marshal(a)
	if err != nil {
		return // it has nothing but numbers and strings
	}
	_, _, _ = conn.WriteMsgUnix(body, oob, nil) // a daemon that is gone needs no answer
}

// deputy does for the daemon of one store what it asks, if that is about this
// store's mounts.
type deputy struct {
	storeID string
	kernel  Kernel
}

func (s deputy) serve(ctx context.Context, req deputyRequest) (a deputyAnswer, fd int) {
	a, fd, err := s.do(ctx, req)
	a.ID = req.ID
	if err != nil {
		a.Error = err.Error()
		var errno syscall.Errno
		switch {
		case errors.Is(err, errInUse):
			a.Errno = syscall.EBUSY
		case errors.As(err, &errno):
			a.Errno = errno
		}
	}
	return a, fd
}

func (s deputy) do(ctx context.Context, req deputyRequest) (a deputyAnswer, fd int, err error) {
	fd = -1
	switch req.Op {
	case opAttach:
		if req.Options.Source != SourceOf(s.storeID) {
			return a, fd, fmt.Errorf("mount %s: %w: another store's mount", req.Dir, syscall.EPERM)
		}
		fd, a.Dir, err = s.kernel.Attach(req.Dir, req.Options)
	case opOwner:
		a.UID, a.GID, err = s.kernel.Owner(req.Dir)
	case opGroup:
		a.GID, a.Known = s.kernel.Group(uint32(req.Number))
	default:
		if err = s.own(req); err != nil {
			if req.Op == opAbort {
				err = nil // it is gone already
			}
			return a, fd, err
		}
		switch req.Op {
		case opUnmount:
			err = s.kernel.Unmount(req.Dir, req.Number&(unix.MNT_DETACH|unix.MNT_FORCE))
		case opAbort:
			err = s.kernel.Abort(req.Dir, req.Dev)
		case opReadAhead:
			err = s.kernel.ReadAhead(req.Dev, req.Number)
		case opRelease:
			err = s.kernel.Release(ctx, req.Dir, Manner(req.Number))
		default:
			err = fmt.Errorf("the supervisor does not know %q: %w", req.Op, syscall.EINVAL)
		}
	}
	return a, fd, err
}

// own refuses what is not about a mount of this store.
func (s deputy) own(req deputyRequest) error {
	all, err := fusefs.Mounts()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(m fusefs.MountPoint) bool {
		return m.Source == SourceOf(s.storeID) && (req.Dir == "" || req.Dir == m.Dir) && (req.Dev == "" || req.Dev == m.Device) && req.Dir+req.Dev != ""
	}) {
		return nil
	}
	return fmt.Errorf("%s%s: %w: not a mount of this store", req.Dir, req.Dev, syscall.EINVAL)
}
