package fusefs

import (
	"sync"

	"github.com/kmsfs/kmsfs/mount"
)

// What is dropped because a right ended may be all that a kernel has, so it is not queued as single jobs but swept: a few goroutines
// walk the records and send as they go. Each may block in the kernel for as long as a page is locked, which is until a READ or WRITE
// that is under way has its answer.
const sweepers = 8

// Keys implements mount.Notifier.
func (n *notifier) Keys() []string {
	known := map[*string]struct{}{}
	n.interest.eachInode(func(_ mount.Ino, r inodeRecord) {
		if r.lo < r.hi && r.key != nil {
			known[r.key] = struct{}{}
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
	n.sweep(func(post func(entryKey, int64)) {
		n.interest.eachInode(func(ino mount.Ino, r inodeRecord) {
			if r.lo < r.hi {
				post(entryKey{parent: ino}, 0)
			}
		})
	}, func(k entryKey) bool {
		key := n.interest.keyOf(k.parent)
		return affected(k.parent, key)
	})
}

// DropAll implements mount.Notifier.
func (n *notifier) DropAll() {
	n.sweep(func(post func(entryKey, int64)) {
		n.interest.eachEntry(func(k entryKey) { post(k, -1) }) // first, so that nobody finds what is being dropped
		n.interest.eachInode(func(ino mount.Ino, r inodeRecord) {
			off := int64(-1)
			if r.lo < r.hi {
				off = 0
			}
			post(entryKey{parent: ino}, off)
		})
	}, func(entryKey) bool { return true })
}

// sweep sends a notification for everything that list posts and wanted confirms, and returns when the kernel has them all.
func (n *notifier) sweep(list func(post func(k entryKey, off int64)), wanted func(entryKey) bool) {
	type item struct {
		key entryKey
		off int64
	}
	const batch = 64 // a channel costs as much as a notification
	work := make(chan []item, sweepers)
	var wait sync.WaitGroup
	for range sweepers {
		wait.Go(func() {
			for items := range work {
				for _, it := range items {
					if !wanted(it.key) {
						continue
					}
					r := &round{off: it.off, end: 1<<63 - 1}
					if it.off >= 0 {
						n.interest.inodeChanged(it.key.parent, 0, 0)
					}
					if n.ended() {
						continue
					}
					n.send(it.key, r)
				}
			}
		})
	}
	var items []item
	list(func(k entryKey, off int64) {
		if items = append(items, item{k, off}); len(items) == batch {
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
