package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, dir string, h Handler) string {
	t.Helper()
	return startWith(t, dir, h, readTimeout)
}

func startWith(t *testing.T, dir string, h Handler, wait time.Duration) string {
	t.Helper()
	path := filepath.Join(dir, "control.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(h, slog.New(slog.DiscardHandler))
	s.wait = wait
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		s.Close()
		cancel()
		s.Wait()
		if err := <-done; err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return path
}

func call(t *testing.T, path string, req Request, onItem func(json.RawMessage) error) (json.RawMessage, error) {
	t.Helper()
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	return c.Call(context.Background(), req, onItem)
}

func TestCall(t *testing.T) {
	path := start(t, t.TempDir(), func(_ context.Context, p Peer, req Request, emit Emit) Response {
		switch req.Command {
		case "who":
			return Result(p)
		case "echo":
			return Response{Result: req.Args}
		case "count":
			for i := range 3 {
				if err := emit(i); err != nil {
					t.Error(err)
				}
			}
			return Response{}
		case "panic":
			panic("oops")
		}
		return Response{Error: &Error{Code: "X", Message: "no " + req.Command, Hint: "h", Exit: 7}}
	})
	var p Peer
	out, err := call(t, path, Request{Command: "who"}, nil)
	if err != nil || json.Unmarshal(out, &p) != nil || int(p.UID) != os.Getuid() || int(p.PID) != os.Getpid() {
		t.Errorf("peer %s %v", out, err)
	}
	big := json.RawMessage(`"` + strings.Repeat("x", 3<<20) + `"`)
	if out, err = call(t, path, Request{Command: "echo", Args: big}, nil); err != nil || !bytes.Equal(out, big) {
		t.Errorf("echo: %d bytes, %v", len(out), err)
	}
	var items []string
	if _, err = call(t, path, Request{Command: "count"}, func(m json.RawMessage) error {
		items = append(items, string(m))
		return nil
	}); err != nil || strings.Join(items, "") != "012" {
		t.Errorf("items %v %v", items, err)
	}
	var e *Error
	if _, err = call(t, path, Request{Command: "nope"}, nil); !errors.As(err, &e) || *e != (Error{"X", "no nope", "h", 7}) {
		t.Errorf("error %v", err)
	}
	if _, err = call(t, path, Request{Command: "panic"}, nil); !errors.As(err, &e) || e.Code != "InternalFailure" {
		t.Errorf("panic %v", err)
	}
}

func TestHangUpCancels(t *testing.T) {
	entered, left := make(chan bool), make(chan bool)
	path := start(t, t.TempDir(), func(ctx context.Context, _ Peer, _ Request, emit Emit) Response {
		close(entered)
		<-ctx.Done()
		if emit(1) == nil {
			t.Error("emit to a caller who is gone")
		}
		close(left)
		return Response{}
	})
	ctx, cancel := context.WithCancel(context.Background())
	c, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-entered; cancel() }()
	if _, err := c.Call(ctx, Request{Command: "wait"}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("call: %v", err)
	}
	<-left
}

func TestRefusesBadFrames(t *testing.T) {
	path := start(t, t.TempDir(), func(context.Context, Peer, Request, Emit) Response {
		t.Error("handler reached")
		return Response{}
	})
	for name, raw := range map[string]string{
		"huge":    "\xff\xff\xff\xff{}",
		"no json": "\x00\x00\x00\x02[[",
		"version": "\x00\x00\x00\x0d{\"version\":9}",
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		var a answer
		if err := readFrame(conn, &a, MaxResponse); err != nil || a.Error == nil || a.Error.Code != "ProtocolError" {
			t.Errorf("%s: %+v %v", name, a, err)
		}
		_ = conn.Close()
	}
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	args := json.RawMessage(`"` + strings.Repeat("x", MaxRequest) + `"`)
	if _, err := c.Call(context.Background(), Request{Args: args}, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func TestLimitsAUser(t *testing.T) {
	path := start(t, t.TempDir(), func(ctx context.Context, _ Peer, _ Request, _ Emit) Response {
		<-ctx.Done()
		return Response{}
	})
	for range maxPerUser {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	c, err := Dial(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Call(ctx, Request{Command: "one more"}, nil); !errors.Is(err, ErrNotTaken) {
		t.Errorf("one more: %v", err)
	}
}

func TestNoDaemonAndStaleSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30), strings.Repeat("name", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control.sock")
	if _, err := Dial(context.Background(), path); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("nothing there: %v", err)
	}
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if _, err := Dial(context.Background(), path); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("stale: %v", err)
	}
	path = start(t, dir, func(context.Context, Peer, Request, Emit) Response { return Result("here") })
	if out, err := call(t, path, Request{}, nil); err != nil || string(out) != `"here"` {
		t.Errorf("long path: %s %v", out, err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\x00\x00\x00\x2b{\"version\":1,\"command\":\"status\",\"args\":null}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x0a{\"item\":1}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var req Request
		if readFrame(bytes.NewReader(b), &req, 1<<16) == nil {
			var out bytes.Buffer
			if err := writeFrame(&out, req, 1<<20); err != nil {
				t.Fatalf("a request that was read cannot be sent: %v", err)
			}
			var again Request
			if err := readFrame(&out, &again, 1<<20); err != nil {
				t.Fatalf("and read again: %v", err)
			}
		}
		var a answer
		_ = readFrame(bytes.NewReader(b), &a, 1<<16)
	})
}
