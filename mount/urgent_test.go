package mount

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// niceOf is the nice value of the calling thread.
func niceOf(t *testing.T) int {
	t.Helper()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	if err != nil {
		t.Fatal(err)
	}
	return 20 - raw
}

// TestUrgently: the thread is preferred inside and only there, where the system allows it; fn is called everywhere.
func TestUrgently(t *testing.T) {
	runtime.LockOSThread() // so that before, inside and after are one thread
	defer runtime.UnlockOSThread()
	before, called, inside, nested := niceOf(t), false, 0, 0
	Urgently(func() {
		called, inside = true, niceOf(t)
		Urgently(func() { nested = niceOf(t) })
		if now := niceOf(t); now != inside {
			t.Errorf("nice %d after an inner call, %d before", now, inside)
		}
	})
	if !called {
		t.Fatal("not called")
	}
	if after := niceOf(t); after != before {
		t.Errorf("nice %d after, %d before", after, before)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NICE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 40 && unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), before-1) != nil {
		t.Logf("this process may not be preferred: nice %d inside", inside)
		if inside != before {
			t.Errorf("nice %d inside, %d before", inside, before)
		}
		return
	}
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), before)
	if inside != urgency || nested != urgency {
		t.Errorf("nice %d inside and %d in an inner call, want %d", inside, nested, urgency)
	}
}
