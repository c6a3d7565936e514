package fusefs

import (
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/kmsfs/kmsfs/mount"
)

const (
	settle     = int64(time.Millisecond) / 2  // after this, an answer that a handler has given is in the kernel, as a rule
	straggle   = 50 * int64(time.Millisecond) // and after this, always
	maxRounds  = 20                           // of one notification
	patience   = 50 * time.Millisecond        // how long one waits for another mount's kernel that may be waiting for us
	maxWait    = 5 * time.Second              // nobody waits longer than this
	maxWorkers = 128                          // notifications about entries, and as many about inodes, that may block in one kernel at once
)

// notifier sends one kernel what it must not believe any more.
type notifier struct {
	fd       *device
	interest *interest
	log      *slog.Logger
	expire   bool        // the kernel knows FUSE_EXPIRE_ONLY
	epochs   bool        // the kernel knows FUSE_NOTIFY_INC_EPOCH
	crowded  func() bool // more than one operation waits for entries, on whatever mount
	abort    func()      // ends the mount by force

	// mu guards what follows.
	mu       sync.Mutex
	jobs     map[mount.Ino][]*job // by inode, or by an entry's directory
	names    crew                 // sends about entries; a kernel whose user holds directories takes nothing from the other
	inodes   crew
	writing  map[mount.Ino]int // WRITEs in flight, by inode
	sizing   map[mount.Ino]int // requests that set a size, likewise
	changing map[mount.Ino]int // directory operations in flight, by directory
	drops    map[mount.Ino][]chan struct{}
	stuck    map[mount.Ino][]*job // directories that the kernel's user holds (see held.go), and what is held back about them
	held     int                  // jobs held back, of all directories
	aborted  bool
	sweeping bool          // entries are being swept
	resweep  chan struct{} // not nil: and are to be swept again; it is closed when that is done
	closed   bool
}

// job is all that is to be said about one inode or one entry.
type job struct {
	key     entryKey // name empty: the inode parent
	next    *round   // not begun
	current *round   // being sent
}

// round is one notification that some callers may be waiting for.
type round struct {
	off, end int64 // content; off < 0: only attributes
	done     chan struct{}
	released bool          // done is closed
	sent     chan struct{} // closed when the kernel has it, whoever waits or not
}

func (r *round) release() {
	if r != nil && !r.released {
		r.released = true
		close(r.done)
	}
}

func newNotifier(fd *device, t *interest, crowded func() bool, log *slog.Logger) *notifier {
	n := &notifier{
		fd: fd, interest: t, log: log, crowded: crowded,
		jobs: map[mount.Ino][]*job{}, writing: map[mount.Ino]int{}, sizing: map[mount.Ino]int{}, changing: map[mount.Ino]int{},
		drops: map[mount.Ino][]chan struct{}{}, stuck: map[mount.Ino][]*job{},
	}
	n.names = crew{limit: maxWorkers, idle: sync.Cond{L: &n.mu}}
	n.inodes = crew{limit: maxWorkers, idle: sync.Cond{L: &n.mu}}
	return n
}

// InodeChanged implements mount.Notifier.
func (n *notifier) InodeChanged(ino mount.Ino, off, size int64) func() {
	tell, pages, idle := n.interest.inodeChanged(ino, off, size)
	if !tell {
		return nil
	}
	if !pages {
		return n.now(ino, -1, -1)
	}
	end := off + size
	if size == 0 {
		end = 1<<63 - 1
	}
	if idle {
		return n.now(ino, off, end)
	}
	return n.post(entryKey{parent: ino}, off, end)
}

// now notifies without a goroutine in between, unless a first answer about the inode may still be on its way: then it is queued. It is
// for what cannot end in a ring of waiting handlers. Attributes take no lock that a kernel holds while it waits for an answer. Pages
// are locked while a READ or WRITE waits, so only through a handle; if the kernel has none of the inode, whoever locks a page before
// we get there has opened it since. Should his WRITE in turn be told to somebody, and so on around to our own, then each of these
// handles would be younger than the one before: there is no such ring.
func (n *notifier) now(ino mount.Ino, off, end int64) func() {
	k := entryKey{parent: ino}
	if n.tell(n.fd, k, &round{off: off, end: end}) == syscall.ENOENT {
		if _, fresh := n.interest.fresh(ino); fresh {
			return n.post(k, off, end)
		}
	}
	return nil
}

// EntryChanged implements mount.Notifier.
func (n *notifier) EntryChanged(parent mount.Ino, name string) func() {
	k := entryKey{parent, name}
	if !n.interest.entryChanged(k) {
		return nil
	}
	return n.post(k, -1, -1)
}

// post queues a notification and returns what waits for it.
func (n *notifier) post(k entryKey, off, end int64) func() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	if n.isStuck(k) && n.epochs {
		n.forgetNames("")
		return nil
	}
	j := n.job(k)
	if j.next == nil {
		j.next = &round{off: off, end: end, done: make(chan struct{}), sent: make(chan struct{})}
		if j.current == nil {
			n.enqueue(j)
		}
	} else {
		j.next.widen(off, end)
	}
	r := j.next
	if n.inFlight(k) {
		return nil // concurrent with what is in flight there
	}
	if n.isStuck(k) {
		return nil
	}
	return func() { n.wait(k, r) }
}

func (n *notifier) job(k entryKey) *job {
	for _, j := range n.jobs[k.parent] {
		if j.key == k {
			return j
		}
	}
	j := &job{key: k}
	n.jobs[k.parent] = append(n.jobs[k.parent], j)
	return j
}

func (n *notifier) drop(j *job) {
	list := n.jobs[j.key.parent]
	for i, o := range list {
		if o == j {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			break
		}
	}
	if len(list) == 0 {
		delete(n.jobs, j.key.parent)
	} else {
		n.jobs[j.key.parent] = list
	}
}

func (r *round) widen(off, end int64) {
	switch {
	case off < 0:
	case r.off < 0:
		r.off, r.end = off, end
	default:
		r.off, r.end = min(r.off, off), max(r.end, end)
	}
}

func (n *notifier) inFlight(k entryKey) bool {
	if k.name == "" {
		return n.writing[k.parent] > 0
	}
	return n.changing[k.parent] > 0
}

// wait waits for a round. What is in flight on the same object has been excluded.
//
// For an inode that is nearly all: a kernel locks its pages, or has them under writeback, for READs, which wait for no kernel, and for
// WRITEs. So the wait ends when the kernel gets round to it, however busy the machine is, and it must not be cut short: a kernel that is
// told later than the caller shows the caller's next read what was, or, if it is told while that read is out, ignores the size that
// the answer shows and pads it with zeros. But while a size is being set, a kernel keeps writeback back: two mapped files that are
// truncated on either side can make a ring.
//
// For an entry, a kernel may hold a directory's lock on behalf of an operation that has not been sent yet, a rename that has one
// directory and waits for the other, which is locked by an operation whose answer waits for us. Such a ring takes two that wait for
// entries, and an operation in another directory of this kernel.
//
// Where there can be a ring, nobody waits for long. Nor does anybody wait for a directory that its user holds (held.go), but the first one,
// for maxWait.
func (n *notifier) wait(k entryKey, r *round) {
	select {
	case <-r.done:
		return
	default:
	}
	t := time.NewTicker(patience)
	defer t.Stop()
	for waited := patience; ; waited += patience {
		select {
		case <-r.done:
			return
		case <-t.C:
		}
		n.mu.Lock()
		stuck, ring := n.isStuck(k), n.mayRing(k)
		n.mu.Unlock()
		if stuck {
			return
		}
		if ring {
			n.log.Debug("not waited for a notification: it may be waiting for us", "inode", k.parent)
			return
		}
		if waited >= maxWait {
			n.log.Warn("a kernel is slow to take a notification", "inode", k.parent)
			n.holdBack(k, r)
			return
		}
	}
}

// mayRing reports whether this kernel may be unable to take a notification until its sender's answer is given. n.mu is held.
func (n *notifier) mayRing(k entryKey) bool {
	if k.name == "" {
		return n.sizing[k.parent] > 0
	}
	return len(n.changing) > 0 && n.crowded()
}

// sets announces a request that sets an inode's size and returns what ends it.
func (n *notifier) sets(ino mount.Ino) func() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sizing[ino]++
	return func() { n.oneLess(n.sizing, ino) }
}

// settle waits until the kernel has dropped the content that it was to drop before this call.
func (n *notifier) settle(ino mount.Ino) {
	n.mu.Lock()
	waits := slices.Clone(n.drops[ino])
	for _, j := range n.jobs[ino] {
		if j.key.name != "" || n.closed {
			continue
		}
		for _, r := range []*round{j.current, j.next} {
			if r != nil {
				waits = append(waits, r.sent)
			}
		}
	}
	n.mu.Unlock()
	for _, w := range waits {
		t := time.NewTimer(maxWait)
		select {
		case <-w:
		case <-t.C:
		}
		t.Stop()
	}
}

// dropping announces that a handler itself will have the kernel drop content, and returns what does it.
func (n *notifier) dropping(ino mount.Ino, off, end int64) func() {
	done := make(chan struct{})
	n.mu.Lock()
	n.drops[ino] = append(n.drops[ino], done)
	n.mu.Unlock()
	return func() {
		_ = n.fd.inode(ino, off, end)
		close(done)
		n.mu.Lock()
		defer n.mu.Unlock()
		list := n.drops[ino]
		i := slices.Index(list, done)
		if list = slices.Delete(list, i, i+1); len(list) == 0 {
			delete(n.drops, ino)
		} else {
			n.drops[ino] = list
		}
	}
}

// begin announces a WRITE (entry false) on an inode or an operation in a directory: who waits for a notification about it waits no more.
func (n *notifier) begin(ino mount.Ino, entry bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if entry {
		n.changing[ino]++
	} else {
		n.writing[ino]++
	}
	for _, j := range n.jobs[ino] {
		if (j.key.name != "") == entry {
			j.current.release()
			j.next.release()
		}
	}
}

func (n *notifier) end(ino mount.Ino, entry bool) {
	m := n.writing
	if entry {
		m = n.changing
	}
	n.oneLess(m, ino)
}

// oneLess counts one request less of those in flight.
func (n *notifier) oneLess(m map[mount.Ino]int, ino mount.Ino) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m[ino]--; m[ino] == 0 {
		delete(m, ino)
	}
}

// send notifies, and again if an answer with the state of before may have arrived after it. If such an answer was only just given, it
// should be in the kernel a moment later; should its sender have been held up, a last notification follows when nobody waits any more.
func (n *notifier) send(to addressee, k entryKey, r *round) {
	for range maxRounds {
		errno := n.tell(to, k, r)
		var since int64
		var fresh bool
		if k.name != "" {
			since, fresh = n.interest.entryFresh(k)
		} else if errno == syscall.ENOENT {
			since, fresh = n.interest.fresh(k.parent)
		}
		if !fresh {
			return
		}
		if since > settle {
			break // answered long enough ago for this notification to be the later one
		}
		t := time.NewTimer(time.Duration(max(settle-since, settle/4)))
		<-t.C
	}
	time.AfterFunc(time.Duration(straggle), func() { _ = n.tell(n.fd, k, r) })
}

// tell sends one notification.
func (n *notifier) tell(to addressee, k entryKey, r *round) syscall.Errno {
	var errno syscall.Errno
	if k.name == "" {
		errno = to.inode(k.parent, r.off, r.end)
	} else {
		errno = to.entry(k.parent, k.name, n.expire)
	}
	if errno != 0 && errno != syscall.ENOENT && !hasEnded(errno) {
		n.log.Warn("notification refused", "inode", k.parent, "err", errno)
	}
	return errno
}

// close ends the workers and releases who waits.
func (n *notifier) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for _, list := range n.jobs {
		for _, j := range list {
			j.current.release()
			j.next.release()
		}
	}
	n.names.idle.Broadcast()
	n.inodes.idle.Broadcast()
}
