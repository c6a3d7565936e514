package mount

import (
	"os"
	"testing"
	"time"
)

// TestShow: content is shown as it is now, and nothing can change it meanwhile; whoever changes content at this moment is not waited
// for.
func TestShow(t *testing.T) {
	w := newWorld(t)
	w.user("admin", "AdministratorAccess")
	u := w.as("admin")
	w.ok(u.mkdir("bucket"))
	h, err := u.open("bucket/f", os.O_RDWR|os.O_CREATE)
	w.ok(err)
	s := u.s
	defer func() { w.ok(h.Close()) }()
	_, err = h.WriteAt([]byte("content"), 0, false)
	w.ok(err)
	show := func(size int) (string, bool) {
		p := make([]byte, size)
		shown := false
		ok := h.Show(p, func() { shown = true })
		if ok != shown {
			t.Errorf("Show said %v, shown: %v", ok, shown)
		}
		return string(p), shown
	}
	if got, ok := show(7); !ok || got != "content" {
		t.Errorf("shown %q, %v", got, ok)
	}
	for _, size := range []int{0, 6, 8} {
		if _, ok := show(size); ok {
			t.Errorf("a file of 7 bytes was shown as one of %d", size)
		}
	}
	g := s.hub.growth(h.Ino())
	g.RLock()
	if _, ok := show(7); ok {
		t.Error("shown while content was being changed")
	}
	g.RUnlock()
	changes := []func() error{
		func() error { _, err := h.WriteAt([]byte("x"), 0, false); return err },
		func() error { _, err := h.Append([]byte("x"), false, nil); return err },
		func() error { return h.Truncate(1, false) },
		func() error { return h.Punch(0, 1, false) },
		func() error {
			e, err := s.Open(Caller{}, h.Ino(), OpenFlags{Write: true, Truncate: true})
			if err != nil {
				return err
			}
			return e.Close()
		},
	}
	done := make(chan error, len(changes))
	h.Show(make([]byte, 7), func() {
		for _, change := range changes {
			go func() { done <- change() }()
		}
		select {
		case err := <-done:
			t.Errorf("content changed while it was shown (%v)", err)
			done <- err
		case <-time.After(50 * time.Millisecond):
		}
	})
	for range changes {
		w.ok(<-done)
	}
}
