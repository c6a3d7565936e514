package mount

import (
	"errors"
	"slices"
	"sync"
)

// What locking can answer beside success.
var (
	ErrLocked      = errors.New("locked by another")         // EAGAIN: a conflicting lock exists and the caller would not wait
	ErrInterrupted = errors.New("interrupted")               // EINTR: while waiting; nothing was locked
	ErrNoLocks     = errors.New("too many locks or waiters") // ENOLCK
	ErrDeadlock    = errors.New("the wait would never end")  // EDEADLK: whom it is waited for waits for the caller; nothing was locked
)

// LockKind tells the two families of advisory locks apart; they do not see each other.
type LockKind uint8

// The kinds of locks.
const (
	PosixLock LockKind = iota // fcntl(2): ranges; of a process, or of an open file description (OFD)
	FlockLock                 // flock(2): the whole file, of an open file description
	lockKinds
)

// LockMode is what a lock excludes.
type LockMode uint8

// The modes of locks.
const (
	Unlock   LockMode = iota
	LockRead          // excludes writers
	LockWrite
)

// LockEnd is the last offset of a range that reaches to the end of the file, wherever that is.
const LockEnd = 1<<63 - 1

// Lock is a lock, or a request for one. Flock locks have the range from 0 to LockEnd.
type Lock struct {
	Kind       LockKind
	Mode       LockMode
	Owner      uint64 // as the kernel of the mount names it
	Start, End uint64 // first and last offset
	PID        uint32 // of who asked, for GetLock
}

// Limits of one session, so that nobody fills the memory of all.
const (
	maxLocks       = 1 << 13
	maxLockWaiters = 1 << 10
)

// lockOwner is whose lock it is. Owners of different kernels never coincide.
type lockOwner struct {
	s  *Session
	id uint64
}

// held is a range that is locked. Ranges of one owner and handle that touch and have one mode are joined.
type held struct {
	lockOwner
	h          *Handle // through which it was locked; its end is the lock's end too
	mode       LockMode
	start, end uint64
	pid        uint32
}

func (l *held) overlaps(start, end uint64) bool { return l.start <= end && start <= l.end }

// excludes reports whether w, of somebody else, cannot be had while l is locked.
func (l *held) excludes(w *held) bool {
	return l.lockOwner != w.lockOwner && l.overlaps(w.start, w.end) && (l.mode == LockWrite || w.mode == LockWrite)
}

// waiter is a request that waits, in the order of arrival.
type waiter struct {
	held
	file    *fileLocks    // that has it in its list
	granted chan struct{} // closed under lockTable.mu, with the lock in place
}

// fileLocks are the locks of one kind on one inode.
type fileLocks struct {
	locks   []held
	waiters []*waiter
}

type lockKey struct {
	ino  Ino
	kind LockKind
}

// lockTable holds the locks of all sessions over a volume. mu is a leaf.
type lockTable struct {
	mu      sync.Mutex
	files   map[lockKey]*fileLocks
	held    map[*Session]int
	waiting map[*Session]int
	asking  map[lockOwner][]*waiter // who waits for POSIX locks, for what: one wait for each thread that does
}

func (t *lockTable) init() {
	t.files, t.held, t.waiting = map[lockKey]*fileLocks{}, map[*Session]int{}, map[*Session]int{}
	t.asking = map[lockOwner][]*waiter{}
}

// conflict finds a lock of somebody else that excludes the wanted one; t.mu is held.
func (f *fileLocks) conflict(w *held) *held {
	for i := range f.locks {
		if l := &f.locks[i]; l.excludes(w) {
			return l
		}
	}
	return nil
}

// put makes the range of its owner what w says, whatever it was before; t.mu is held.
func (t *lockTable) put(f *fileLocks, w *held) {
	before := len(f.locks)
	out, cut := f.locks, f.locks[:0]
	if slices.ContainsFunc(f.locks, func(l held) bool { return l.lockOwner == w.lockOwner && l.overlaps(w.start, w.end) }) {
		out, cut = make([]held, 0, before+2), f.locks
	}
	for _, l := range cut {
		if l.lockOwner != w.lockOwner || !l.overlaps(w.start, w.end) {
			out = append(out, l)
			continue
		}
		if l.start < w.start {
			left := l
			left.end = w.start - 1
			out = append(out, left)
		}
		if l.end > w.end {
			right := l
			right.start = w.end + 1
			out = append(out, right)
		}
	}
	if w.mode != Unlock {
		joined := join(&out, *w)
		out = append(out, joined)
	}
	f.locks = out
	t.count(w.s, len(out)-before)
}

// join takes out of the list what continues w in the same mode, and returns w with that.
func join(list *[]held, w held) held {
	*list = slices.DeleteFunc(*list, func(l held) bool {
		if l.lockOwner != w.lockOwner || l.h != w.h || l.mode != w.mode {
			return false
		}
		switch {
		case l.end != LockEnd && l.end+1 == w.start:
			w.start = l.start
		case w.end != LockEnd && w.end+1 == l.start:
			w.end = l.end
		default:
			return false
		}
		return true
	})
	return w
}

func (t *lockTable) count(s *Session, by int) {
	if t.held[s] += by; t.held[s] == 0 {
		delete(t.held, s)
	}
}

// wake grants what can be granted now, first come first served, and forgets a file without locks; t.mu is held.
func (t *lockTable) wake(k lockKey, f *fileLocks) {
	f.waiters = slices.DeleteFunc(f.waiters, func(w *waiter) bool {
		if f.conflict(&w.held) != nil {
			return false
		}
		t.put(f, &w.held)
		t.asked(w)
		close(w.granted)
		return true
	})
	if len(f.locks) == 0 && len(f.waiters) == 0 {
		delete(t.files, k)
	}
}

func (t *lockTable) set(k lockKey, w *held, cancel <-chan struct{}, wait bool) error {
	t.mu.Lock()
	f := t.files[k]
	if f == nil {
		if w.mode == Unlock {
			t.mu.Unlock()
			return nil
		}
		f = &fileLocks{}
		t.files[k] = f
	}
	if w.mode == Unlock || f.conflict(w) == nil {
		defer t.mu.Unlock()
		if w.mode != Unlock && t.held[w.s] >= maxLocks {
			return ErrNoLocks
		}
		t.put(f, w)
		t.wake(k, f)
		return nil
	}
	if !wait {
		t.mu.Unlock()
		return ErrLocked
	}
	if t.waiting[w.s] >= maxLockWaiters || t.held[w.s] >= maxLocks {
		t.mu.Unlock()
		return ErrNoLocks
	}
	if k.kind == FlockLock { // a lock is converted by giving it up first, else two who convert would wait for each other
		gone := *w
		gone.mode = Unlock
		t.put(f, &gone)
	}
	x := &waiter{held: *w, file: f, granted: make(chan struct{})}
	if k.kind == PosixLock {
		if t.deadlock(x) {
			t.mu.Unlock()
			return ErrDeadlock
		}
		t.asking[w.lockOwner] = append(t.asking[w.lockOwner], x)
	}
	f.waiters = append(f.waiters, x)
	t.waiting[w.s]++
	if k.kind == FlockLock {
		t.wake(k, f)
	}
	t.mu.Unlock()
	return t.await(k, x, cancel)
}

func (t *lockTable) await(k lockKey, x *waiter, cancel <-chan struct{}) error {
	err := error(nil)
	select {
	case <-x.granted:
	case <-cancel:
		err = ErrInterrupted
	case <-x.s.ended:
		err = ErrInterrupted
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[x.s]--; t.waiting[x.s] == 0 {
		delete(t.waiting, x.s)
	}
	if err == nil {
		return nil
	}
	f := t.files[k]
	if f == nil {
		return nil // granted at the same moment, and given up by somebody else since
	}
	i := slices.Index(f.waiters, x)
	if i < 0 {
		return nil // granted at the same moment: no call lies about that
	}
	f.waiters = slices.Delete(f.waiters, i, i+1)
	t.asked(x)
	t.wake(k, f)
	return err
}

// asked forgets that somebody waits; t.mu is held.
func (t *lockTable) asked(x *waiter) {
	left := slices.DeleteFunc(t.asking[x.lockOwner], func(w *waiter) bool { return w == x })
	if len(left) == 0 {
		delete(t.asking, x.lockOwner)
		return
	}
	t.asking[x.lockOwner] = left
}

// deadlock reports whether x, were it to wait, would wait for itself: whoever excludes it waits, perhaps through others and on other
// files, for a lock of x's owner. A grant makes no cycle, since it ends a wait of the one who gets it; so it is enough to look before
// each wait. Threads that share their locks count as one, as in Linux. t.mu is held.
func (t *lockTable) deadlock(x *waiter) bool {
	seen := map[lockOwner]bool{}
	next := []*waiter{x}
	for len(next) > 0 {
		w := next[len(next)-1]
		next = next[:len(next)-1]
		for i := range w.file.locks {
			l := &w.file.locks[i]
			if !l.excludes(&w.held) || seen[l.lockOwner] {
				continue
			}
			if l.lockOwner == x.lockOwner {
				return true
			}
			seen[l.lockOwner] = true
			next = append(next, t.asking[l.lockOwner]...)
		}
	}
	return false
}

// drop removes all locks that match.
func (t *lockTable) drop(k lockKey, match func(*held) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.files[k]; f != nil {
		t.dropLocked(k, f, match)
	}
}

func (t *lockTable) dropLocked(k lockKey, f *fileLocks, match func(*held) bool) {
	f.locks = slices.DeleteFunc(f.locks, func(l held) bool {
		if !match(&l) {
			return false
		}
		t.count(l.s, -1)
		return true
	})
	t.wake(k, f)
}

// leave removes all locks of a session; who waits is told by Session.ended.
func (t *lockTable) leave(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, f := range t.files {
		t.dropLocked(k, f, func(l *held) bool { return l.s == s })
	}
}

// request makes a request of this handle comparable with what is locked.
func (h *Handle) request(l Lock) held {
	return held{lockOwner: lockOwner{h.s, l.Owner}, h: h, mode: l.Mode, start: l.Start, end: l.End, pid: l.PID}
}

func (l *Lock) check() error {
	if l.Kind >= lockKinds || l.Mode > LockWrite || l.Start > l.End || l.End > LockEnd {
		return ErrInvalid
	}
	if l.Kind == FlockLock {
		l.Start, l.End = 0, LockEnd
	}
	return nil
}

// GetLock finds a lock of somebody else, on any mount, that excludes l; ok is false if there is none.
func (h *Handle) GetLock(l Lock) (found Lock, ok bool, err error) {
	if err := l.check(); err != nil {
		return Lock{}, false, err
	}
	t := &h.s.hub.locks
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[lockKey{h.ino, l.Kind}]
	if f == nil {
		return Lock{}, false, nil
	}
	w := h.request(l)
	c := f.conflict(&w)
	if c == nil {
		return Lock{}, false, nil
	}
	return Lock{Kind: l.Kind, Mode: c.mode, Owner: c.id, Start: c.start, End: c.end, PID: c.pid}, true, nil
}

// SetLock locks or unlocks a range. If another excludes it, the answer is ErrLocked, or with wait it waits, until cancel is closed
// (ErrInterrupted). Locks hold across all mounts of the volume and ask for no right but the open file. A wait for a POSIX lock that
// would close a circle of waits is refused (ErrDeadlock). A process that waits through two mounts is two owners here, and a circle
// that closes only through it is not seen: such a wait ends when it is interrupted.
func (h *Handle) SetLock(cancel <-chan struct{}, l Lock, wait bool) error {
	if err := l.check(); err != nil {
		return err
	}
	h.locked.Store(true)
	h.s.locking.Store(true)
	w := h.request(l)
	return h.s.hub.locks.set(lockKey{h.ino, l.Kind}, &w, cancel, wait)
}

// UnlockOwner gives up the POSIX locks of an owner on this file, through whichever handle it got them: what close(2) does.
func (h *Handle) UnlockOwner(owner uint64) {
	s := h.s
	if !s.locking.Load() {
		return
	}
	o := lockOwner{s, owner}
	s.hub.locks.drop(lockKey{h.ino, PosixLock}, func(l *held) bool { return l.lockOwner == o })
}

// unlockAll gives up what was locked through this handle.
func (h *Handle) unlockAll() {
	if !h.locked.Load() {
		return
	}
	for kind := range lockKinds {
		h.s.hub.locks.drop(lockKey{h.ino, kind}, func(l *held) bool { return l.h == h })
	}
}
