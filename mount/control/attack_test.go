package control

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func frame(length uint32, body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, length), body...)
}

// TestMalformedMessages: whatever comes, no handler sees it, the connection ends, and the next caller is served.
func TestMalformedMessages(t *testing.T) {
	path := start(t, t.TempDir(), func(_ context.Context, _ Peer, req Request, _ Emit) Response {
		if req.Command != "fine" {
			t.Errorf("handler reached by %+v", req)
		}
		return Result("served")
	})
	deep := strings.Repeat("[", 20_000)
	for name, raw := range map[string][]byte{
		"nothing":               nil,
		"half a length":         {0, 0},
		"cut short":             frame(100, `{"version":1,`),
		"length 0":              frame(0, ""),
		"more than the limit":   frame(MaxRequest+1, "{}"),
		"4 GiB":                 frame(1<<32-1, "{}"),
		"no JSON":               frame(4, "\x00\xff\xfe\x01"),
		"an array":              frame(2, "[]"),
		"a command of a number": frame(28, `{"version":1,"command":1234}`),
		"a version of text":     frame(15, `{"version":"1"}`),
		"another version":       frame(28, `{"version":2,"command":"no"}`),
		"a huge version":        frame(24, `{"version":999999999999}`),
		"deep":                  frame(uint32(len(deep)), deep),
		"two values":            frame(30, `{"version":1,"command":"no"}{}`),
	} {
		c := dial(t, path)
		if _, err := c.Write(raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = c.CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(readTimeout))
		said, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: the connection does not end: %v", name, err)
		}
		if strings.Contains(string(said), "served") {
			t.Errorf("%s: answered %q", name, said)
		}
		if out, err := call(t, path, Request{Command: "fine"}, nil); err != nil || string(out) != `"served"` {
			t.Fatalf("after %s: %s %v", name, out, err)
		}
	}
}

// TestNoDescriptorsTaken: descriptors that come with a message are not received; a daemon's table of them cannot be filled from outside.
func TestNoDescriptorsTaken(t *testing.T) {
	path := start(t, t.TempDir(), func(context.Context, Peer, Request, Emit) Response { return Result("served") })
	dir := t.TempDir()
	var fds []int
	for i := range 50 {
		f, err := os.Create(filepath.Join(dir, "smuggled"+string(rune('a'+i%26))))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		fds = append(fds, int(f.Fd()))
	}
	body := `{"version":1,"command":"x"}`
	for range 10 {
		c := dial(t, path)
		if _, _, err := c.WriteMsgUnix(frame(uint32(len(body)), body), unix.UnixRights(fds...), nil); err != nil {
			t.Fatal(err)
		}
		if said, err := io.ReadAll(c); err != nil || !strings.Contains(string(said), "served") {
			t.Errorf("%q %v", said, err)
		}
	}
	open := 0
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir) {
			open++
		}
	}
	if open != len(fds) {
		t.Errorf("%d descriptors of the files are open, want our own %d", open, len(fds))
	}
}

// TestSlowCallers: callers who say nothing, or very little, hold no more than their own connections, and only for a time; a uid's
// large requests are few, and small ones pass meanwhile.
func TestSlowCallers(t *testing.T) {
	serve := func(context.Context, Peer, Request, Emit) Response { return Result("served") }
	slow := func(path string) (silent, drip, large *net.UnixConn) {
		silent, drip = dial(t, path), dial(t, path)
		if _, err := drip.Write(frame(1000, "{")); err != nil {
			t.Fatal(err)
		}
		for range maxLarge {
			large = dial(t, path)
			if _, err := large.Write(frame(MaxRequest, "{")); err != nil {
				t.Fatal(err)
			}
		}
		return silent, drip, large
	}
	busy := startWith(t, t.TempDir(), serve, time.Hour)
	slow(busy)
	// Which of them were counted already is not known; while they are, one more is refused at some time.
	for patience, refused := 50*time.Millisecond, false; !refused; patience *= 2 {
		c := dial(t, busy)
		if _, err := c.Write(frame(MaxRequest, "")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		said, _ := io.ReadAll(c)
		refused = strings.Contains(string(said), errBusy.Error())
		_ = c.Close()
	}
	for range 20 {
		if out, err := call(t, busy, Request{Command: "fine"}, nil); err != nil || string(out) != `"served"` {
			t.Fatalf("beside slow callers: %s %v", out, err)
		}
	}
	silent, drip, large := slow(startWith(t, t.TempDir(), serve, 500*time.Millisecond))
	for what, c := range map[string]*net.UnixConn{"silent": silent, "dripping": drip, "large": large} {
		_ = c.SetReadDeadline(time.Now().Add(10 * readTimeout))
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("a %s caller is not hung up on: %v", what, err)
		}
	}
}
