package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Handler answers one call. ctx ends when the caller hangs up or the server
// stops. A handler that panics fails its own call alone.
type Handler func(ctx context.Context, peer Peer, req Request, emit Emit) Response

// Server serves calls on one socket.
type Server struct {
	handler Handler
	log     *slog.Logger
	wait    time.Duration // for a whole request to arrive

	// mu guards the fields below.
	mu       sync.Mutex
	listener *net.UnixListener
	perUser  map[uint32]int
	large    map[uint32]int // large requests under way, by uid
	closed   bool
	calls    sync.WaitGroup
}

// NewServer makes a server that answers with h.
func NewServer(h Handler, log *slog.Logger) *Server {
	return &Server{handler: h, log: log, wait: readTimeout, perUser: map[uint32]int{}, large: map[uint32]int{}}
}

// Listen makes the socket path and replaces what an earlier daemon left
// there: the caller holds the store's lock, so nobody can be listening. The
// socket itself is open to everyone; the directory decides who reaches it and
// SO_PEERCRED what he may do.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the stale control socket: %w", err)
	}
	addr, done, err := shortAddress(path)
	if err != nil {
		return nil, fmt.Errorf("listen on the control socket: %w", err)
	}
	defer done()
	ln, err := net.ListenUnix("unix", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on the control socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // its address may be a /proc path; Serve's owner removes it
	if err := os.Chmod(path, 0o666); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("open the control socket to callers: %w", err)
	}
	return ln, nil
}

// shortAddress fits any path into the 108 bytes of a socket address, going
// through a descriptor of its directory when it is longer.
func shortAddress(path string) (*net.UnixAddr, func(), error) {
	if len(path) <= 100 {
		return &net.UnixAddr{Name: path, Net: "unix"}, func() {}, nil
	}
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	name := "/proc/self/fd/" + strconv.Itoa(fd) + "/" + filepath.Base(path)
	return &net.UnixAddr{Name: name, Net: "unix"}, func() { _ = unix.Close(fd) }, nil
}

// Serve answers calls on ln until Close. Every running call's context ends
// when ctx does.
func (s *Server) Serve(ctx context.Context, ln *net.UnixListener) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.listener = ln
	s.mu.Unlock()
	for {
		conn, err := ln.AcceptUnix()
		if err != nil {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if closed {
				return nil
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
				s.log.Warn("accept a caller", "err", err)
				if !pause(ctx, 100*time.Millisecond) {
					return nil
				}
				continue
			}
			return fmt.Errorf("accept a caller: %w", err)
		}
		s.start(ctx, conn)
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Close stops accepting. Calls that run go on; Wait waits for them.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.listener != nil {
		_ = s.listener.Close()
	}
}

// Wait returns when no call runs any more.
func (s *Server) Wait() { s.calls.Wait() }

func (s *Server) start(ctx context.Context, conn *net.UnixConn) {
	peer, err := peerOf(conn)
	if err != nil {
		s.log.Warn("ask who calls", "err", err)
		_ = conn.Close()
		return
	}
	s.mu.Lock()
	if s.closed || s.perUser[peer.UID] >= maxPerUser {
		s.mu.Unlock()
		_ = conn.Close()
		return
	}
	s.perUser[peer.UID]++
	s.calls.Add(1)
	s.mu.Unlock()
	go func() {
		defer func() {
			_ = conn.Close()
			s.mu.Lock()
			if s.perUser[peer.UID]--; s.perUser[peer.UID] == 0 {
				delete(s.perUser, peer.UID)
			}
			s.mu.Unlock()
			s.calls.Done()
		}()
		s.serveConn(ctx, conn, peer)
	}()
}

// roomFor counts a request of a uid while it is read and done, so that nobody fills the memory of all with what he says.
func (s *Server) roomFor(uid uint32, size int64) (leave func(), err error) {
	if size <= largeRequest {
		return func() {}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.large[uid] >= maxLarge {
		return func() {}, errBusy
	}
	s.large[uid]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.large[uid]--; s.large[uid] == 0 {
			delete(s.large, uid)
		}
	}, nil
}

func (s *Server) serveConn(ctx context.Context, conn net.Conn, peer Peer) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	send := func(a answer) error {
		_ = conn.SetWriteDeadline(deadline(writeTimeout))
		return writeFrame(conn, a, MaxResponse)
	}
	_ = conn.SetReadDeadline(deadline(s.wait))
	var req Request
	leave := func() {}
	defer func() { leave() }()
	err := readFrameIf(conn, &req, MaxRequest, func(size int64) (err error) {
		leave, err = s.roomFor(peer.UID, size)
		return err
	})
	if err != nil {
		if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrProtocol) || errors.Is(err, errBusy) {
			_ = send(answer{Error: &Error{Code: "ProtocolError", Message: err.Error(), Exit: 1}})
		}
		return
	}
	if req.Version != ProtocolVersion {
		_ = send(answer{Error: &Error{
			Code: "ProtocolError", Exit: 1,
			Message: fmt.Sprintf("the daemon speaks protocol %d, the command line %d", ProtocolVersion, req.Version),
			Hint:    "stop the daemon with the version of kmsfs that started it",
		}})
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	go func() { // a client says nothing more: whatever comes, the call is over
		var one [1]byte
		_, _ = conn.Read(one[:])
		cancel()
	}()
	resp := s.call(ctx, peer, req, func(item any) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := json.Marshal(item)
		if err != nil {
			return fmt.Errorf("encode an item: %w", err)
		}
		return send(answer{Item: b})
	})
	err = send(answer{Result: resp.Result, Error: resp.Error})
	if errors.Is(err, ErrTooLarge) {
		err = send(answer{Error: &Error{Code: "TooLarge", Message: "the answer is too large", Exit: 1}})
	}
	if err != nil && ctx.Err() == nil {
		s.log.Debug("answer a caller", "command", req.Command, "err", err)
	}
}

func (s *Server) call(ctx context.Context, peer Peer, req Request, emit Emit) (resp Response) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a command panicked", "command", req.Command, "panic", p)
			resp = Response{Error: &Error{Code: "InternalFailure", Message: "internal error", Hint: "see the daemon's log", Exit: 1}}
		}
	}()
	return s.handler(ctx, peer, req, emit)
}

// deadline turns a duration into the absolute time that net.Conn wants.
func deadline(d time.Duration) time.Time { return time.Now().Add(d) } //nolint:forbidigo // socket deadlines are wall time by definition

func peerOf(conn *net.UnixConn) (Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Peer{}, err
	}
	if cerr != nil {
		return Peer{}, cerr
	}
	return Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}, nil
}
