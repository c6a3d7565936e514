package fusefs

import "time"

// Held directories. A kernel keeps a directory locked while a listing of it is copied to whoever lists, and the memory that it is copied to
// may be a mapped file of a file system that never answers: so the user of a mount can hold a directory in his kernel for as long as he
// likes, and no notification about its entries is taken meanwhile. That must neither delay others, nor leave him what he has cached, nor
// grow here.
//
// The first who waits for such a notification does so for maxWait; then the directory is known to be held, and nobody waits for it until
// the kernel has taken that notification. What is to be told meanwhile is told by an epoch (Linux 6.16): the kernel then asks again
// about every name that it learned before, and takes no lock for that. It is for no other occasion, since it also detaches what is
// mounted on directories of the mount and unhashes open files.
//
// Without epochs it is held back until the directory is free. If that becomes too much, or names that its user may not see any more cannot
// be dropped, the mount ends by force: he who holds a directory that long does it on purpose, or his machine has ceased to work.

const maxHeld = 4096 // jobs that are held back of one mount

// holdBack has nobody wait for a directory any more, unless the kernel has taken the notification at last.
func (n *notifier) holdBack(k entryKey, r *round) {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-r.sent:
		return
	default:
	}
	if k.name == "" || n.isStuck(k) {
		return
	}
	n.log.Warn("a directory is held in the kernel", "inode", k.parent)
	n.stuck[k.parent] = nil
	if n.epochs {
		n.forgetNames("") // also what is queued about it already
	}
}

// isStuck reports whether nobody waits for notifications about an entry's directory. n.mu is held.
func (n *notifier) isStuck(k entryKey) bool {
	_, is := n.stuck[k.parent]
	return is && k.name != ""
}

// heldBack reports whether a job is not to be sent now: about a directory that is held. n.mu is held.
func (n *notifier) heldBack(j *job) bool {
	if !n.isStuck(j.key) {
		return false
	}
	if n.epochs { // since it was queued there was one
		j.current, j.next = j.next, nil
		n.finish(j)
		return true
	}
	if n.held++; n.held > maxHeld {
		n.forgetNames("too much is held back about directories that are held in the kernel")
	}
	n.stuck[j.key.parent] = append(n.stuck[j.key.parent], j)
	return true
}

// free queues what was held back about a directory: its kernel has taken a notification. n.mu is held.
func (n *notifier) free(k entryKey) {
	if !n.isStuck(k) {
		return
	}
	list := n.stuck[k.parent]
	delete(n.stuck, k.parent)
	n.held -= len(list)
	for _, j := range list {
		n.enqueue(j)
	}
	if n.epochs {
		n.forgetNames("") // the end of that listing may have told it names of before
	}
}

// forgetNames makes the kernel doubt all names, at once and whatever is locked in it; if it has no way to, the mount ends, and why says for
// what reason. n.mu is held.
func (n *notifier) forgetNames(why string) {
	switch {
	case n.closed || n.aborted:
	case n.epochs:
		if errno := n.fd.epoch(); errno != 0 && !hasEnded(errno) {
			n.log.Error("the kernel takes no epoch", "err", errno)
		}
	case n.abort != nil:
		n.aborted = true
		n.log.Error("the mount is ended by force", "why", why, "held_back", n.held)
		go n.abort()
	}
}

// evict makes the kernel forget entries for want of room.
func (n *notifier) evict(shard int, keys []entryKey) {
	n.fd.apart(func(to addressee) {
		at := n.interest.now()
		for _, k := range keys {
			_ = to.entry(k.parent, k.name, n.expire) // what it does not know it need not forget
		}
		n.interest.evicted(shard, keys, at)
	})
}

// overflow makes the kernel forget all entries, because it does not take the notifications that would make it forget some.
func (n *notifier) overflow() {
	at := n.interest.now()
	n.mu.Lock()
	n.forgetNames("it takes no notification that would make it forget names, and asks for more and more of them")
	n.mu.Unlock()
	n.interest.forgotten(at)
}

// overdue waits for the sweep of names that a user may not see any more, and then makes his kernel doubt them all at once.
func (n *notifier) overdue(swept <-chan struct{}, by time.Duration) {
	if !n.epochs {
		by = maxWait
	}
	t := time.NewTimer(by)
	defer t.Stop()
	select {
	case <-swept:
		return
	case <-t.C:
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.forgetNames("it does not take that names are to be dropped whose user may not see them any more")
}
