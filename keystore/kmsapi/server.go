package kmsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/principals"
)

const (
	contentType     = "application/x-amz-json-1.1"
	targetPrefix    = "TrentService."
	principalHeader = "X-Kmsfs-Principal"
	maxBody         = 1 << 20
	maxDrained      = 64 << 20 // of a request that is too large, within ReadTimeout
	maxHeaders      = 32 << 10
	maxConnections  = 128 // on TCP
	maxPerUser      = 32  // of one uid, on the Unix socket
	maxUserAgent    = 256
)

// Config is what a Server works with. All but Log are required; PrincipalFor only for Unix sockets.
type Config struct {
	Keystore   *keystore.Service
	Principals *principals.Store
	// PrincipalFor is the name of the principal that a uid acts as. name is the one
	// the caller asks for, or empty. It decides whether he may.
	PrincipalFor func(uid uint32, name string) (string, error)
	Clock        func() time.Time
	Log          *slog.Logger // nil = none
	// Handed is told of every call that had plaintext in it. nil = nobody is.
	Handed func()
}

// Server answers KMS calls. Its methods may be called concurrently.
type Server struct {
	cfg        Config
	log        *slog.Logger
	operations map[string]operation
	tcp, unix  *http.Server
}

// New makes a server that does not listen yet.
func New(c Config) *Server {
	s := &Server{cfg: c, log: c.Log, operations: operations()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.tcp = s.http(s.fromSignature)
	s.tcp.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	s.unix = s.http(s.fromPeer)
	s.unix.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		p, err := peerOf(c)
		if err != nil {
			s.log.Error("kms api: whose is the connection", "err", err)
			return ctx
		}
		return context.WithValue(ctx, peerKey{}, p)
	}
	return s
}

func (s *Server) http(who authenticate) *http.Server {
	return &http.Server{
		Handler:           s.handler(who),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// ErrNotLoopback means that an address can be reached from other machines.
var ErrNotLoopback = errors.New("not a loopback address")

// Listen opens a TCP listener on host:port. Requests travel unencrypted: unless anywhere is set, all addresses of the
// host must be loopback. ErrNotLoopback.
func Listen(ctx context.Context, address string, anywhere bool) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("kms api: listen: %w", err)
	}
	if !anywhere {
		ip, err := loopback(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("kms api: listen on %s: %w", address, err)
		}
		address = net.JoinHostPort(ip.String(), port) // no second, different answer of a resolver
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("kms api: %w", err)
	}
	return ln, nil
}

func loopback(ctx context.Context, host string) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, ErrNotLoopback
	}
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	for i := range list {
		list[i] = list[i].Unmap()
		if !list[i].IsLoopback() {
			return netip.Addr{}, ErrNotLoopback
		}
	}
	if len(list) == 0 {
		return netip.Addr{}, ErrNotLoopback
	}
	return list[0], nil
}

// ServeTCP answers signed calls on ln until Shutdown.
func (s *Server) ServeTCP(ln net.Listener) error {
	return serve(s.tcp, newLimited(ln))
}

// ServeUnix answers the calls of local users on ln until Shutdown.
func (s *Server) ServeUnix(ln *net.UnixListener) error {
	return serve(s.unix, &shared{Listener: ln, perUser: map[uint32]int{}})
}

func serve(h *http.Server, ln net.Listener) error {
	err := h.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("kms api: %w", err)
}

// Shutdown takes no more calls and waits for those under way until ctx ends; then it breaks them off. The
// listeners are closed.
func (s *Server) Shutdown(ctx context.Context) error {
	var errs []error
	for _, h := range []*http.Server{s.tcp, s.unix} {
		if err := h.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("kms api: shut down: %w", err), h.Close())
		}
	}
	return errors.Join(errs...)
}

// peer is the process at the other end of a Unix socket.
type peer struct{ uid, pid uint32 }

type peerKey struct{}

func peerOf(c net.Conn) (peer, error) {
	if l, ok := c.(*sharedConn); ok {
		c = l.Conn
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return peer{}, fmt.Errorf("%T has no peer credentials", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return peer{}, err
	}
	if cerr != nil {
		return peer{}, fmt.Errorf("SO_PEERCRED: %w", cerr)
	}
	return peer{uid: cred.Uid, pid: uint32(cred.Pid)}, nil
}

// authenticate says who makes a request.
type authenticate func(r *http.Request, body []byte, c *keystore.Call) error

// fromSignature finds the caller by his signature.
func (s *Server) fromSignature(r *http.Request, body []byte, c *keystore.Call) error {
	key, err := s.verify(r, body)
	if err != nil {
		return err
	}
	if c.Who, err = s.cfg.Principals.Identity(key.User); err != nil { // deleted since
		return refuse(codeUnrecognizedClient, "The security token included in the request is invalid.")
	}
	c.AccessKeyID, c.Insecure = key.ID, true
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		c.SourceIP = host
	}
	return nil
}

// fromPeer finds the caller by what the kernel says of him.
func (s *Server) fromPeer(r *http.Request, _ []byte, c *keystore.Call) error {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok {
		return errors.New("a connection without peer credentials")
	}
	name, err := s.cfg.PrincipalFor(p.uid, r.Header.Get(principalHeader))
	if err != nil {
		return refuse(keystore.CodeAccessDenied, "%s", err)
	}
	if c.Who, err = s.cfg.Principals.Identity(name); err != nil {
		return refuse(keystore.CodeAccessDenied, "%s", err)
	}
	c.UID, c.PID = p.uid, p.pid
	return nil
}

// handles are the operations that have plaintext in their request or answer.
var handles = map[string]bool{"Encrypt": true, "Decrypt": true, "GenerateDataKey": true, "GenerateRandom": true}

// handler answers requests.
func (s *Server) handler(who authenticate) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &keystore.Call{Op: "kms-api", UserAgent: r.UserAgent(), RequestID: uuid.NewString()}
		if len(c.UserAgent) > maxUserAgent {
			c.UserAgent = c.UserAgent[:maxUserAgent]
		}
		c.UserAgent = strings.ToValidUTF8(c.UserAgent, "?")
		w.Header().Set("X-Amzn-Requestid", c.RequestID)
		w.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate, private")
		if conn, ok := r.Context().Value(connKey{}).(*limitedConn); ok {
			defer conn.answered()
		}
		result, err := s.answer(w, r, who, c)
		if handles[strings.TrimPrefix(r.Header.Get("X-Amz-Target"), targetPrefix)] && s.cfg.Handed != nil {
			defer s.cfg.Handed()
		}
		if err != nil {
			s.fail(w, c, err)
			return
		}
		s.write(w, http.StatusOK, result)
		wipe(result)
	})
}

// answer does one call. A panic becomes an error.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, who authenticate, c *keystore.Call) (result out, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if len(body) > maxBody {
		clear(body)
		w.Header().Set("Connection", "close")
		_, _ = io.CopyN(io.Discard, r.Body, maxDrained) // a client that is still sending would see a reset and not the answer
		return nil, &refusal{code: codeTooLarge, message: "The request is larger than " + strconv.Itoa(maxBody) + " bytes.", status: http.StatusRequestEntityTooLarge}
	}
	if err != nil {
		return nil, refuse(codeSerialization, "The request body could not be read")
	}
	defer clear(body)
	if err := who(r, body, c); err != nil {
		return nil, err
	}
	if conn, ok := r.Context().Value(connKey{}).(*limitedConn); ok {
		conn.known()
	}
	target := r.Header.Get("X-Amz-Target")
	name, ok := strings.CutPrefix(target, targetPrefix)
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !ok || r.Method != http.MethodPost || r.URL.Path != "/" || r.URL.RawQuery != "" || kind != contentType {
		return nil, refuse(codeUnknownOperation, "A call is a POST to / with a target of %sOPERATION and the content type %s.", targetPrefix, contentType)
	}
	op, ok := s.operations[name]
	if !ok {
		return nil, refuse(codeUnknownOperation, "Unknown operation '%.80s'.", name)
	}
	fields, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	return op(&request{in: newInput(fields), call: c, keys: s.cfg.Keystore, name: name})
}

func (s *Server) fail(w http.ResponseWriter, c *keystore.Call, err error) {
	r, ours := refusalOf(err)
	if ours {
		s.log.Error("kms api: a call failed", "request_id", c.RequestID, "err", err)
	} else {
		s.log.Debug("kms api: a call was refused", "request_id", c.RequestID, "code", r.code, "message", r.message)
	}
	status := r.status
	if status == 0 {
		status = http.StatusBadRequest
	}
	w.Header().Set("X-Amzn-Errortype", r.code)
	s.write(w, status, out{"__type": r.code, "message": r.message})
}

// write sends an answer; a nil one has no body.
func (s *Server) write(w http.ResponseWriter, status int, result out) {
	w.Header().Set("Content-Type", contentType)
	if result == nil {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(status)
		return
	}
	b, err := json.Marshal(result)
	if err != nil {
		s.log.Error("kms api: an answer does not marshal", "err", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	defer clear(b)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	if _, err := w.Write(b); err != nil {
		s.log.Debug("kms api: an answer was not taken", "err", err)
	}
}

// wipe clears the plaintext of an answer.
func wipe(result out) {
	if b, ok := result["Plaintext"].([]byte); ok {
		clear(b)
	}
}
