package fusefs

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestPanicEndsTheDaemon: a request that panics may hold locks, so nobody goes on; the log says where it was.
func TestPanicEndsTheDaemon(t *testing.T) {
	var out bytes.Buffer
	m := &rawFS{log: slog.New(slog.NewTextHandler(&out, nil))}
	handler := m.fuseOptions().PanicHandler
	defer func() {
		if p := recover(); p != "broken" {
			t.Errorf("the panic ended as %v", p)
		}
		if text := out.String(); !strings.Contains(text, "panic=broken") || !strings.Contains(text, "TestPanicEndsTheDaemon") {
			t.Errorf("the log says %q", text)
		}
	}()
	handler("broken")
	t.Error("the request was answered")
}
