package fusefs

import "sync"

// crew is goroutines that send queued jobs: as many as block in the kernel at once, up to a limit. It is guarded by notifier.mu.
type crew struct {
	limit   int
	idle    sync.Cond
	queue   []*job
	workers int
	waiting int // workers without work
}

func (n *notifier) crewOf(k entryKey) *crew {
	if k.name == "" {
		return &n.inodes
	}
	return &n.names
}

// enqueue has a job sent. n.mu is held.
func (n *notifier) enqueue(j *job) {
	c := n.crewOf(j.key)
	c.queue = append(c.queue, j)
	if c.waiting > 0 {
		c.waiting-- // whom the signal wakes is not waiting any more: a second job needs another worker
		c.idle.Signal()
	} else if c.workers < c.limit {
		c.workers++
		go n.work(c)
	}
}

// work sends what is queued. One worker stays when there is nothing to do.
func (n *notifier) work(c *crew) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		for len(c.queue) == 0 {
			if n.closed || c.waiting > 0 {
				c.workers--
				return
			}
			c.waiting++
			c.idle.Wait()
		}
		j := c.queue[0]
		c.queue[0] = nil
		if c.queue = c.queue[1:]; len(c.queue) == 0 {
			c.queue = nil
		}
		if n.heldBack(j) {
			continue
		}
		r := j.next
		j.current, j.next = r, nil
		n.mu.Unlock()
		n.send(n.fd, j.key, r)
		n.mu.Lock()
		n.free(j.key)
		n.finish(j)
	}
}

// finish notes that the kernel has what was being sent of a job. n.mu is held.
func (n *notifier) finish(j *job) {
	close(j.current.sent)
	j.current.release()
	j.current = nil
	if j.next != nil {
		n.enqueue(j)
	} else {
		n.drop(j)
	}
}
