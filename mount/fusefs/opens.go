package fusefs

import (
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/kmsfs/kmsfs/mount"
)

// A small file's content goes to the kernel with the answer to OPEN, as a notification before it: then reading it costs no request,
// and, since only READ makes the kernel doubt the time of access, neither does a stat afterwards.
//
// It is legal only while nothing else can happen to the file's pages. Other mounts: Handle.Show keeps content and right as they are
// meanwhile, and the interest is on record before. This mount: the handle must be the only one. Then no READ or WRITE is on its way
// that holds a page, no process can see the pages before the answer, and who opens the file now waits until we are done.

// storeAtMost is the size up to which a file goes with its OPEN, in bytes: what the kernel would read ahead at once.
const storeAtMost = 128 << 10

var storePool = sync.Pool{New: func() any {
	b := make([]byte, storeAtMost)
	return &b
}}

// copiers are the processes that copy what they open inside the daemon, as cp does, and never look at it: they are spared the content.
// A process is one from a COPY_FILE_RANGE on until it reads. It is a small table in which collisions only cost a wrong guess.
type copiers [64]atomic.Uint32 // of process ids

func (c *copiers) of(pid uint32) *atomic.Uint32 { return &c[pid%uint32(len(c))] }

// copied is told of a copy.
func (c *copiers) copied(pid uint32) { c.of(pid).Store(pid) }

// read is told of a READ.
func (c *copiers) read(pid uint32) {
	if c.has(pid) {
		c.of(pid).Store(0)
	}
}

func (c *copiers) has(pid uint32) bool { return pid != 0 && c.of(pid).Load() == pid }

// preload gives the kernel a small file's content, if it has none of it yet. The handle was opened with flags (of open(2)) by a process
// and is not answered yet.
func (m *rawFS) preload(h *mount.Handle, flags, pid uint32) {
	if past(h) || h.Flags().Write || flags&syscall.O_DIRECT != 0 || m.copiers.has(pid) || m.interest.caches(h.Ino()) {
		return
	}
	size := h.Size()
	if size == 0 || size > storeAtMost || !m.opens.claim(h.Ino()) {
		return
	}
	defer m.opens.settle(h.Ino())
	m.notes.settle(h.Ino()) // pages that are to be dropped are gone
	buf := storePool.Get().(*[]byte)
	defer storePool.Put(buf)
	p := (*buf)[:size]
	key := h.Key()
	pages := (size + blockSize - 1) &^ (blockSize - 1) // zeros behind the end are content too: they are in the last page
	m.interest.content(h.Ino(), 0, pages, key)
	h.Show(p, func() { _ = m.fd.store(h.Ino(), 0, p) }) // where the kernel does not take it, it will ask
	if now := h.Key(); now != key {                     // re-keyed meanwhile
		m.interest.content(h.Ino(), 0, pages, now)
	}
	clear(p)
}

// opens counts the handles of each inode that a kernel has, or is about to have.
type opens [64]struct {
	mu sync.Mutex
	m  map[mount.Ino]opened
}

type opened struct {
	handles int
	claimed chan struct{} // closed when the only handle's owner is done; nil: not claimed
}

// enter counts a handle. It waits if the only one there was so far has claimed the inode.
func (o *opens) enter(ino mount.Ino) {
	s := &o[ino%mount.Ino(len(o))]
	s.mu.Lock()
	for {
		c := s.m[ino].claimed
		if c == nil {
			break
		}
		s.mu.Unlock()
		<-c
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[mount.Ino]opened{}
	}
	n := s.m[ino]
	n.handles++
	s.m[ino] = n
}

// leave counts a handle out.
func (o *opens) leave(ino mount.Ino) {
	s := &o[ino%mount.Ino(len(o))]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.m[ino]
	if n.handles--; n.handles <= 0 {
		delete(s.m, ino)
		return
	}
	s.m[ino] = n
}

// claim reports whether the caller's handle is the only one, and keeps others out until settle.
func (o *opens) claim(ino mount.Ino) bool {
	s := &o[ino%mount.Ino(len(o))]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.m[ino]
	if n.handles != 1 {
		return false
	}
	n.claimed = make(chan struct{})
	s.m[ino] = n
	return true
}

// settle ends a claim.
func (o *opens) settle(ino mount.Ino) {
	s := &o[ino%mount.Ino(len(o))]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.m[ino]
	close(n.claimed)
	n.claimed = nil
	s.m[ino] = n
}
