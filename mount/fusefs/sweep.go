package fusefs

import (
	"sync"
	"time"

	"github.com/kmsfs/kmsfs/mount"
)

// What is dropped because a right ended may be all that a kernel has, so it is not queued as single jobs but swept: a few goroutines
// walk the records and send as they go, in threads that come before others (mount.Urgently). Each may block in the kernel for as long as
// a page is locked, which is until a READ or WRITE that is under way has its answer.
//
// A notification about a small file costs the kernel some 3 µs of processor time, whoever sends it: the inode is looked up, its page
// unmapped and taken out of the cache. There is none for many inodes at once, so that is the least that a sweep can cost; what is ours
// beside it allocates nothing for each file, lest the collector walk a large heap in the middle of it.
const (
	sweepers   = 8
	sweepBatch = 256 // a channel costs as much as a notification

	entriesFirst = 200 * time.Millisecond // how long content and attributes wait for names to be dropped
	entriesBy    = 700 * time.Millisecond // when names are dropped that a kernel does not drop one by one
)

// Keys implements mount.Notifier.
func (n *notifier) Keys() []string {
	known := map[*string]struct{}{}
	n.interest.eachCached(func(_ mount.Ino, key *string) {
		if key != nil {
			known[key] = struct{}{}
		}
	})
	keys := make([]string, 0, len(known))
	for k := range known {
		keys = append(keys, *k)
	}
	return keys
}

// DropData implements mount.Notifier.
func (n *notifier) DropData(affected func(ino mount.Ino, key string) bool) {
	sweep(func(post func(mount.Ino)) {
		n.interest.eachCached(func(ino mount.Ino, _ *string) { post(ino) })
	}, urgently(func(ino mount.Ino) {
		if affected(ino, n.interest.keyOf(ino)) {
			n.dropInode(ino, 0)
		}
	}))
}

// DropAll implements mount.Notifier.
func (n *notifier) DropAll() {
	entries := n.dropEntries() // first, so that nobody finds what is being dropped
	t := time.NewTimer(entriesFirst)
	defer t.Stop()
	select {
	case <-entries:
	case <-t.C: // someone may hold a directory on purpose, and content and attributes are to go all the same
		go n.overdue(entries, entriesBy-entriesFirst)
	}
	sweep(func(post func(mount.Ino)) {
		n.interest.eachInode(func(ino mount.Ino, _ inodeRecord) { post(ino) })
	}, urgently(func(ino mount.Ino) {
		off := int64(-1)
		if n.interest.caches(ino) {
			off = 0
		}
		n.dropInode(ino, off)
	}))
}

// dropEntries sweeps all entries that are on record now, and closes the channel at the end of that. A sweep that is under way is another's,
// and has passed some of them: it is followed by one more, however many ask for it.
func (n *notifier) dropEntries() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.resweep == nil {
		n.resweep = make(chan struct{})
	}
	if !n.sweeping {
		n.sweeping = true
		go n.sweepEntries()
	}
	return n.resweep
}

func (n *notifier) sweepEntries() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.resweep != nil {
		done := n.resweep
		n.resweep = nil
		n.mu.Unlock()
		sweep(n.interest.eachEntry, n.sweeper)
		close(done)
		n.mu.Lock()
	}
	n.sweeping = false
}

// sweeper drops entries: in a thread that is apart while a directory is open, see there.
func (n *notifier) sweeper(each func(drop func(entryKey))) {
	drop := func(to addressee) func(entryKey) {
		return func(k entryKey) {
			if !n.ended() {
				n.send(to, k, &round{off: -1, end: 1<<63 - 1})
			}
		}
	}
	done := make(chan struct{})
	if n.fd.dirs() > 0 && n.fd.apart(func(to addressee) {
		defer close(done)
		urgently(drop(to))(each)
	}) {
		<-done
		return
	}
	urgently(drop(n.fd))(each)
}

// dropInode makes the kernel forget an inode's attributes and, if off is 0, its content.
func (n *notifier) dropInode(ino mount.Ino, off int64) {
	if off >= 0 {
		n.interest.inodeChanged(ino, 0, 0)
	}
	if n.ended() {
		return
	}
	const end = 1<<63 - 1
	k := entryKey{parent: ino}
	if n.fd.inode(ino, off, end) == 0 { // as a rule: nothing to tell or to repeat
		return
	}
	n.send(n.fd, k, &round{off: off, end: end})
}

// urgently is how a sweeper works in a thread that comes before others.
func urgently[T any](drop func(T)) (sweeper func(each func(drop func(T)))) {
	return func(each func(drop func(T))) { mount.Urgently(func() { each(drop) }) }
}

// sweep has everything that list posts dropped by several sweepers, and returns when all have returned. Each is called in a goroutine, with
// a function that calls another for what there is to drop.
func sweep[T any](list func(post func(T)), sweeper func(each func(drop func(T)))) {
	work := make(chan []T, sweepers)
	used := make(chan []T, 2*sweepers)
	var wait sync.WaitGroup
	for range sweepers {
		wait.Go(func() {
			sweeper(func(drop func(T)) {
				for items := range work {
					for _, it := range items {
						drop(it)
					}
					select {
					case used <- items:
					default:
					}
				}
			})
		})
	}
	var items []T
	list(func(it T) {
		if items == nil {
			select {
			case items = <-used:
				items = items[:0]
			default:
				items = make([]T, 0, sweepBatch)
			}
		}
		if items = append(items, it); len(items) == sweepBatch {
			work <- items
			items = nil
		}
	})
	work <- items
	close(work)
	wait.Wait()
}

func (n *notifier) ended() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}
