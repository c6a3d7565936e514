package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Who asks and who answers, on one processor. Where there are two, the scheduler wakes a sleeper on the one that has nothing to do: the
// client on the one, the daemon on the other, in turns. But a processor that has nothing to do sleeps, and to fetch it out of that takes a
// virtual machine 10 to 20 µs, several times what a small request costs. (On the machine of docs/performance.md a byte through a pipe and
// back takes 40 µs, and 4 where both ends are on the same processor.) A client that waits for each answer and a daemon that waits for
// each request never run at the same time, so they lose nothing together on one.
//
// So while there is such a client, a thread of the lowest priority keeps the second processor busy. Whoever else wants it gets it, for
// that thread has 15 parts of its time to anybody's 1024; but the scheduler sees no idle processor, and leaves client and daemon where
// they are. When requests come from several threads, or do not come soon one after the other, it sleeps; on machines of more processors,
// of which one is always idle, there is none.
//
// The thread is the supervisor's, whom the daemon tells through a page of shared memory: one of the daemon's own would hold one
// of the few places of its Go runtime. A daemon taken over can make it run and end, and nothing else.

// The thread keeps to the processor that the client is not on, and the daemon's reader goes away from there: once apart, the scheduler would
// leave them so.

const (
	linger = 500 * time.Microsecond // how long the thread goes on after the last request
	review = time.Millisecond       // how often it looks where the client is
)

// lowestPriority is what nice(1) calls 19.
const lowestPriority = 19

// Awake is the daemon's end.
type Awake struct {
	page *awakePage
	all  unix.CPUSet // the processors that the daemon may have
}

// awakePage is what both ends share.
type awakePage struct {
	beats  atomic.Uint32 // requests
	client atomic.Uint32 // the thread that they come from
	asleep atomic.Uint32 // a futex; 1: the thread waits for it to become 0
	kept   atomic.Int32  // the processor that the thread has; -1: none yet
}

// NewAwake makes the shared page; the file is for the supervisor's KeepAwake. Both are nil where it would not help.
func NewAwake() (*Awake, *os.File, error) {
	if !twoProcessors() {
		return nil, nil, nil
	}
	return newAwake()
}

func newAwake() (*Awake, *os.File, error) {
	a := &Awake{}
	if err := unix.SchedGetaffinity(0, &a.all); err != nil {
		return nil, nil, fmt.Errorf("ask for this process's processors: %w", err)
	}
	fd, err := unix.MemfdCreate("kmsfs-awake", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, fmt.Errorf("make memory to share with the supervisor: %w", err)
	}
	f := os.NewFile(uintptr(fd), "awake")
	err = f.Truncate(int64(os.Getpagesize()))
	if err == nil { // or access to it could be made to fail
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		a.page, err = mapAwake(f)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make memory to share with the supervisor: %w", err), f.Close())
	}
	a.page.asleep.Store(1)
	a.page.kept.Store(-1)
	return a, f, nil
}

func mapAwake(f *os.File) (*awakePage, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map memory that is shared: %w", err)
	}
	return (*awakePage)(unsafe.Pointer(&b[0])), nil
}

// twoProcessors reports whether this machine has two, and this process both.
func twoProcessors() bool {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	return err == nil && runtime.NumCPU() == 2 && countOf(strings.TrimSpace(string(b))) == 2
}

// countOf is how many numbers a list as 0-3,5 has; -1 if it is none.
func countOf(list string) int {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if errA != nil || errB != nil || b < a {
			return -1
		}
		n += b - a + 1
	}
	return n
}

// Operations of futex(2), on memory of several processes.
const (
	futexWait = 0
	futexWake = 1
)

// beat tells of a request of a thread. If our thread sleeps, it is woken; if this thread has its processor, it goes to the other one.
func (a *Awake) beat(client uint32) {
	p := a.page
	p.beats.Add(1)
	if p.client.Load() != client {
		p.client.Store(client)
	}
	if p.asleep.Load() != 0 && p.asleep.CompareAndSwap(1, 0) {
		_, _, _ = syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.asleep)), futexWake, 1, 0, 0, 0)
		return
	}
	cpu := processorNow()
	if cpu != p.kept.Load() {
		return
	}
	other := a.all
	other.Clear(int(cpu))
	if affinity(&other) == 0 {
		_ = affinity(&a.all)
	}
}

// processorNow is the one that this thread is on.
func processorNow() int32 {
	var cpu uint32
	_, _, _ = syscall.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0) // cannot fail
	return int32(cpu)
}

// affinity sets which processors this thread may have; with one it does not have, it is on that when this returns.
func affinity(set *unix.CPUSet) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	return errno
}

// KeepAwake is the thread; it returns an error, or never. f is of NewAwake, and is closed.
func KeepAwake(f *os.File) error {
	p, err := mapAwake(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := lowerPriority(); err != nil {
		return err
	}
	return keepAwake(p)
}

// keepAwake is what KeepAwake does, with the priority and the locked thread that its caller has.
func keepAwake(p *awakePage) error {
	k := &keeping{page: p, fd: -1}
	if err := unix.SchedGetaffinity(0, &k.all); err != nil {
		return fmt.Errorf("ask for a thread's processors: %w", err)
	}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.asleep)), futexWait, 1, 0, 0, 0)
		if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
			return fmt.Errorf("wait for the daemon's requests: %w", errno)
		}
		if p.asleep.Load() == 0 {
			k.run()
		}
	}
}

// lowerPriority makes this thread give way to everybody. Where the scheduler makes a group of each session (sched_autogroup), priorities count
// among those of one session only; so the session's is lowered too, which has the supervisor alone.
func lowerPriority() error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, lowestPriority); err != nil {
		return fmt.Errorf("lower a thread's priority: %w", err)
	}
	const tries = 20 // the kernel takes one such change in 100 ms of all users
	for try := 1; ; try++ {
		err := os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(lowestPriority)), 0)
		switch {
		case err == nil, errors.Is(err, os.ErrNotExist): // this kernel has no such groups
			return nil
		case !errors.Is(err, unix.EAGAIN) || try == tries:
			return fmt.Errorf("lower a session's priority: %w", err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// keeping is the thread's state.
type keeping struct {
	page   *awakePage
	all    unix.CPUSet // the processors it may have
	mine   unix.CPUSet // those it has now
	client uint32      // of whom fd is
	fd     int         // the client's stat in /proc; -1: none
	buf    [1024]byte
}

// run keeps a processor busy while requests come.
func (k *keeping) run() {
	p := k.page
	k.review()
	last, since := p.beats.Load(), elapsed()
	reviewed := since
	for {
		now := elapsed()
		switch beats := p.beats.Load(); {
		case beats != last:
			last, since = beats, now
		case now-since < linger:
		default:
			p.kept.Store(-1)
			p.asleep.Store(1)
			// Who came in between has not seen that, or wakes us.
			if p.beats.Load() == last || !p.asleep.CompareAndSwap(1, 0) {
				if affinity(&k.all) == 0 { // or it would be woken where somebody else may be at work
					k.mine = unix.CPUSet{}
				}
				return
			}
			reviewed = 0
		}
		if now-reviewed >= review {
			k.review()
			reviewed = now
		}
	}
}

// review goes to the processor that the client is not on.
func (k *keeping) review() {
	cpu, ok := k.processor(k.page.client.Load())
	if !ok {
		return // it has ended, or is in another namespace: where this thread is, it stays
	}
	other := k.all
	other.Clear(cpu)
	if other != k.mine {
		if affinity(&other) != 0 {
			return
		}
		k.mine = other
	}
	k.page.kept.Store(processorNow())
}

// processor is the one that a thread is on, or was last.
func (k *keeping) processor(thread uint32) (cpu int, ok bool) {
	if thread != k.client || k.fd < 0 {
		if k.fd >= 0 {
			_ = unix.Close(k.fd)
		}
		k.client = thread
		k.fd, _ = unix.Open("/proc/"+strconv.FormatUint(uint64(thread), 10)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	n, err := unix.Pread(k.fd, k.buf[:], 0)
	if err != nil {
		return 0, false
	}
	return processorIn(k.buf[:n])
}

// processorIn finds the field in a line as /proc/PID/stat has it (proc(5)): the 39th, 36 after the command's closing parenthesis.
func processorIn(line []byte) (cpu int, ok bool) {
	const after = 36
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	if len(fields) <= after {
		return 0, false
	}
	cpu, err := strconv.Atoi(string(fields[after]))
	return cpu, err == nil && cpu >= 0
}
