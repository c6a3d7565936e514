package fusefs

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// answers is a filesystem for the loop: GETATTR of an inode waits until somebody opens its gate, READ gives what is secret.
type answers struct {
	fuse.RawFileSystem
	mu    sync.Mutex
	gates map[uint64]chan struct{}
}

const (
	secret    = "what nobody shall find later"
	opGetattr = 3
)

func (a *answers) gate(ino uint64) chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gates == nil {
		a.gates = map[uint64]chan struct{}{}
	}
	if a.gates[ino] == nil {
		a.gates[ino] = make(chan struct{})
	}
	return a.gates[ino]
}

func (a *answers) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	<-a.gate(in.NodeId)
	out.Ino = in.NodeId
	return fuse.OK
}

func (a *answers) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	d := dataPool.Get().(*data)
	d.b = buf[:copy(buf, strings.Repeat(secret, int(in.Size)/len(secret)))]
	return d, fuse.OK
}

// kernel is the other end of a loop: it sends requests and hears replies.
type kernelEnd struct {
	t    *testing.T
	fd   int
	last uint64
}

func newLoopRig(t *testing.T, a *answers) (*loop, *kernelEnd) {
	t.Helper()
	return newTunedRig(t, a, nil)
}

func newTunedRig(t *testing.T, a *answers, tune func(*loop)) (*loop, *kernelEnd) {
	t.Helper()
	a.RawFileSystem = fuse.NewDefaultRawFileSystem()
	return newKernelEnd(t, a, (&rawFS{log: slog.New(slog.DiscardHandler)}).fuseOptions(), tune)
}

// newKernelEnd is a kernel that has said INIT to a loop over a filesystem; tune, which may be nil, is called before the loop serves.
func newKernelEnd(t *testing.T, fs fuse.RawFileSystem, opts *fuse.MountOptions, tune func(*loop)) (*loop, *kernelEnd) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20); err != nil {
			t.Fatal(err)
		}
	}
	k := &kernelEnd{t: t, fd: fds[1]}
	init := fuse.InitIn{Major: 7, Minor: 41}
	init.Opcode = opInit
	k.send(unsafe.Slice((*byte)(unsafe.Pointer(&init)), unsafe.Sizeof(init)))
	l, err := newLoop(fs, opts, fds[0], nil, slog.New(slog.DiscardHandler), func(uint32, uint64) {})
	if err != nil {
		t.Fatal(err)
	}
	if unique, status, _ := k.hear(); unique != 1 || status != 0 {
		t.Fatalf("INIT: the reply is to %d, with status %d", unique, status)
	}
	if tune != nil {
		tune(l)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.serve()
	}()
	t.Cleanup(func() {
		_ = unix.Shutdown(k.fd, unix.SHUT_RDWR)
		<-done
		_ = unix.Close(k.fd)
	})
	return l, k
}

// send completes a request's header and sends it; the answer is its number.
func (k *kernelEnd) send(p []byte) uint64 {
	k.t.Helper()
	k.last++
	binary.NativeEndian.PutUint32(p, uint32(len(p)))
	binary.NativeEndian.PutUint64(p[8:], k.last)
	if _, err := unix.Write(k.fd, p); err != nil {
		k.t.Fatal(err)
	}
	return k.last
}

func (k *kernelEnd) getattr(ino uint64) uint64 { return k.getattrOf(0, ino) }

func (k *kernelEnd) getattrOf(thread uint32, ino uint64) uint64 {
	k.t.Helper()
	in := fuse.GetAttrIn{}
	in.Opcode, in.NodeId, in.Pid = opGetattr, ino, thread
	return k.send(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)))
}

func (k *kernelEnd) hear() (unique uint64, status int32, body []byte) {
	k.t.Helper()
	p := make([]byte, longReply)
	n, err := unix.Read(k.fd, p)
	if err != nil || n < 16 || binary.NativeEndian.Uint32(p) != uint32(n) {
		k.t.Fatalf("a reply of %d bytes: %v", n, err)
	}
	return binary.NativeEndian.Uint64(p[8:]), int32(binary.NativeEndian.Uint32(p[4:])), p[16:n]
}

// TestAWaitHoldsUpNobody: however many requests wait, whatever for, the next one is answered; and afterwards one reader is enough.
func TestAWaitHoldsUpNobody(t *testing.T) {
	const many = 3 * maxReaders
	a := &answers{}
	close(a.gate(1))
	l, k := newLoopRig(t, a)
	waiting := map[uint64]bool{}
	for i := range uint64(many) {
		waiting[k.getattr(2)] = true
		free := k.getattr(1)
		if unique, status, _ := k.hear(); unique != free || status != 0 {
			t.Fatalf("beside %d that wait, the reply is to %d (status %d), not to %d", i+1, unique, status, free)
		}
	}
	l.mu.Lock()
	if n := l.readers; n > many+maxReaders {
		t.Errorf("%d readers for %d requests", n, many+1)
	}
	l.mu.Unlock()
	close(a.gate(2))
	for range many {
		unique, status, _ := k.hear()
		if !waiting[unique] || status != 0 {
			t.Fatalf("a reply to %d, with status %d", unique, status)
		}
		delete(waiting, unique)
	}
	for { // who is one too many leaves with his next request
		free := k.getattr(1)
		if unique, _, _ := k.hear(); unique != free {
			t.Fatalf("the reply is to %d, not to %d", unique, free)
		}
		l.mu.Lock()
		n := l.readers
		l.mu.Unlock()
		if n == 1 {
			return
		}
	}
}

// TestWhoReads follows the counts, by what readers report.
func TestWhoReads(t *testing.T) {
	l := &loop{want: 1, watching: true, log: slog.New(slog.DiscardHandler), kick: make(chan struct{}, 1), start: func() {}} // nobody really reads here
	l.readers, l.waiting = 1, 1
	steps := []struct {
		what             string
		do               func()
		readers, waiting int
	}{
		{"one takes a request", func() { l.took(opGetattr, false) }, 1, 0},
		{"and comes back", func() { l.again(opGetattr, 0) }, 1, 1},
		{"one takes a request that may wait", func() { l.took(opSetlkw, false) }, 1, 1},
		{"and leaves, since there is another", func() {
			if again, _ := l.again(opSetlkw, 0); again {
				t.Error("it stays")
			}
		}, 1, 1},
	}
	for _, s := range steps {
		s.do()
		if l.readers != s.readers || l.waiting != s.waiting {
			t.Fatalf("%s: %d readers, %d of them waiting; want %d and %d", s.what, l.readers, l.waiting, s.readers, s.waiting)
		}
	}
	for range 3 * maxReaders { // all have work, and find more
		l.took(opGetattr, true)
	}
	if l.readers != maxReaders || l.want != maxReaders {
		t.Errorf("%d readers, and %d wanted, where there is work for more than %d", l.readers, l.want, maxReaders)
	}
}

// TestFewerReaders: readers leave when their work is less than one fewer could do, and stay while it is not.
func TestFewerReaders(t *testing.T) {
	l := &loop{want: 4, load: 4, log: slog.New(slog.DiscardHandler)}
	for range 10 * smooth { // four clients, whose requests wait for the disk most of the time
		l.busy = 33 * tick / 10
		l.measure(tick)
	}
	if l.want != 4 {
		t.Errorf("%d readers are wanted where 3.3 are at work", l.want)
	}
	for range 10 * smooth { // one client
		l.busy = 8 * tick / 10
		l.measure(tick)
	}
	if l.want != 1 {
		t.Errorf("%d readers are wanted where 0.8 are at work", l.want)
	}
	for _, since := range []time.Duration{0, 1} { // ticks that follow a late one
		l.busy = since
		l.measure(since)
	}
	if !(l.load < 1) {
		t.Errorf("%v readers are said to be at work after ticks of no length", l.load)
	}
}

// TestLookingOut: a reader looks out for a request no longer than it shall, and no more when there is one.
func TestLookingOut(t *testing.T) {
	l, k := newLoopRig(t, &answers{})
	quiet := &loop{fd: k.fd, now: elapsed} // nothing is sent to this end
	began := elapsed()
	quiet.spin(began)
	if took := elapsed() - began; took < soon {
		t.Errorf("without a request it looked out for %v only", took)
	}
	in := fuse.GetAttrIn{}
	in.Opcode, in.NodeId = opGetattr, 1
	for range 100 {
		began := elapsed() + 1<<40 // for as long as it takes: minutes
		if _, err := unix.Write(l.fd, unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in))); err != nil {
			t.Fatal(err)
		}
		quiet.spin(began) // returns since there is one
		if _, err := unix.Read(k.fd, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNothingStaysOfARequest: of what went through, nothing is left in the buffers.
func TestNothingStaysOfARequest(t *testing.T) {
	for _, size := range []uint32{4096, 1 << 20} {
		a := &answers{}
		l, _ := newLoopRig(t, a)
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
		l2 := &loop{fd: fds[0], ps: l.ps, log: l.log, now: l.now}
		in := fuse.ReadIn{Size: size}
		in.Opcode, in.Unique = opRead, 7
		w := &worker{}
		n := copy(w.request(), unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)))
		if err := l2.answer(w, n); err != nil {
			t.Fatal(err)
		}
		heard := make([]byte, longReply)
		m, err := unix.Read(fds[1], heard)
		if err != nil || !bytes.Contains(heard[:m], []byte(secret)) {
			t.Fatalf("the reply of %d bytes is not the data: %v", m, err)
		}
		for name, b := range map[string][]byte{"request": *w.in, "reply": w.reply(int(size)), "small": w.small[:]} {
			if len(bytes.Trim(b, "\x00")) != 0 {
				t.Errorf("READ of %d: something is left in the %s buffer", size, name)
			}
		}
		_, _ = unix.Close(fds[0]), unix.Close(fds[1])
	}
}

// TestMalformedRequests get an error, and the loop goes on.
func TestMalformedRequests(t *testing.T) {
	a := &answers{}
	close(a.gate(1))
	_, k := newLoopRig(t, a)
	for _, op := range []uint32{0, 1, 6, opRead, 16, opGetxattr, opReaddir, opSetlkw, opReaddirplus, opCopyRange, 52, 4096, 1 << 31} {
		p := make([]byte, unsafe.Sizeof(fuse.InHeader{}))
		binary.NativeEndian.PutUint32(p[4:], op)
		want := k.send(p)
		if unique, status, _ := k.hear(); unique != want || status >= 0 {
			t.Errorf("opcode %d without arguments: a reply to %d (not %d) with status %d", op, unique, want, status)
		}
	}
	want := k.getattr(1)
	if unique, status, _ := k.hear(); unique != want || status != 0 {
		t.Errorf("afterwards: a reply to %d, with status %d", unique, status)
	}
}
