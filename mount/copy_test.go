package mount

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
)

// TestCopy copies in steps of a buffer, and leaves nothing in it: not of what was copied, and not where it failed on the way.
func TestCopy(t *testing.T) {
	w := newWorld(t)
	w.user("admin", "AdministratorAccess")
	u := w.as("admin")
	w.ok(u.mkdir("box"))
	text := strings.Repeat("0123456789abcdef", 1000)
	w.ok(u.cp("box/from", text))
	from, err := u.open("box/from", syscall.O_RDONLY)
	w.ok(err)
	to, err := u.open("box/to", syscall.O_WRONLY|syscall.O_CREAT)
	w.ok(err)
	buf := make([]byte, 6000)
	clean := func() {
		t.Helper()
		if !bytes.Equal(buf, make([]byte, len(buf))) {
			t.Error("plaintext stays in the buffer")
		}
	}
	for _, c := range []struct{ off, n, want int64 }{{0, 1 << 30, 16000}, {0, 100, 100}, {0, 12000, 12000}, {15000, 6000, 1000}, {16000, 10, 0}, {0, 16000, 16000}} {
		n, err := Copy(from, c.off, to, c.off, c.n, buf, false)
		if err != nil || n != c.want {
			t.Errorf("copy of %d at %d: %d %v, want %d", c.n, c.off, n, err, c.want)
		}
		clean()
	}
	w.ok(to.Close())
	if got, err := u.cat("box/to"); err != nil || got != text {
		t.Errorf("the copy differs: %d bytes, %v", len(got), err)
	}
	if _, err := Copy(from, 0, to, 0, 100, buf, false); err == nil {
		t.Error("copied into a closed file")
	}
	clean()
	w.ok(from.Close())
}
