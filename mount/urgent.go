package mount

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// A right that ended is to be of no use within a second, however many others want the processors. So what revokes it runs in threads
// that come before theirs, as far as the system lets this process have them: root's may (the daemon gives its capabilities up, but
// keeps RLIMIT_NICE), another's may if its administrator raised that limit. It is short: some microseconds of each file.

// urgency is the nice value of an urgent thread: with the least, the scheduler gives it 87 times the share of an ordinary one.
const urgency = -20

// Urgently calls fn in a thread of its own that the scheduler prefers, or just calls it where that is not allowed. Goroutines that fn
// starts are as others are.
func Urgently(fn func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid := unix.Gettid()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid) // 20 - nice
	if err != nil || unix.Setpriority(unix.PRIO_PROCESS, tid, urgency) != nil {
		fn()
		return
	}
	defer func() {
		if unix.Setpriority(unix.PRIO_PROCESS, tid, 20-raw) != nil {
			runtime.LockOSThread() // never: to step back is always allowed. The thread ends with its goroutine
		}
	}()
	fn()
}
