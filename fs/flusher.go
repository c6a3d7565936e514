package fs

import (
	"context"
	"errors"
	"sync"
	"time"
)

// flusher knows the inodes with dirty data, each pinned, and flushes them in the background: at once when there is much, otherwise
// after Config.FlushAfter. A flush that fails leaves the data dirty; it is tried again until it succeeds.
type flusher struct {
	v     *Volume
	queue chan *inode
	wg    sync.WaitGroup

	mu    sync.Mutex
	dirty map[*inode]time.Time // since when
}

func (f *flusher) start(ctx context.Context, v *Volume, workers int) {
	f.v, f.queue, f.dirty = v, make(chan *inode, 1024), map[*inode]time.Time{}
	for range workers {
		f.wg.Add(1)
		go func() {
			defer f.wg.Done()
			for {
				select {
				case <-ctx.Done():
					return
				case n := <-f.queue:
					_ = f.flushOne(n) // it stays dirty, and whoever syncs or closes is told
				}
			}
		}()
	}
	if v.cfg.FlushAfter > 0 {
		f.wg.Add(1)
		go f.flushOld(ctx)
	}
}

func (f *flusher) wait() { f.wg.Wait() }

func (f *flusher) flushOld(ctx context.Context) {
	defer f.wg.Done()
	repeat(ctx, time.Second, func() {
		now := f.v.cfg.Clock()
		for n, since := range f.snapshot() {
			if now.Sub(since) >= f.v.cfg.FlushAfter {
				_ = f.flushOne(n)
			}
		}
	})
}

func (f *flusher) snapshot() map[*inode]time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[*inode]time.Time, len(f.dirty))
	for n, t := range f.dirty {
		out[n] = t
	}
	return out
}

// add records that an inode became dirty.
func (f *flusher) add(n *inode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.dirty[n]; ok {
		return
	}
	f.dirty[n] = f.v.cfg.Clock()
	f.v.cache.mu.Lock()
	f.v.cache.hold(n)
	f.v.cache.mu.Unlock()
}

// kick asks for a flush soon. If the queue is full the writer will do it itself when its limit is reached.
func (f *flusher) kick(n *inode) {
	select {
	case f.queue <- n:
	default:
	}
}

func (f *flusher) flushOne(n *inode) error {
	err := f.v.flush(n, flushOptions{})
	if err != nil {
		f.v.log.Error("flush failed, the data stays in memory", "inode", uint64(n.ino), "err", err)
	}
	f.retire(n)
	return err
}

// retire takes an inode off the list if it is clean.
func (f *flusher) retire(n *inode) {
	n.mu.RLock()
	clean := n.data == nil && !n.unborn.Load()
	if d := n.data; d != nil {
		d.mu.RLock()
		clean = !d.isDirty() && len(d.flushing.runs) == 0 && !n.unborn.Load()
		d.mu.RUnlock()
	}
	n.mu.RUnlock()
	if !clean {
		return
	}
	f.mu.Lock()
	_, ok := f.dirty[n]
	delete(f.dirty, n)
	f.mu.Unlock()
	if ok {
		f.v.put(n)
	}
}

func (f *flusher) flushAll() error {
	var all error
	for n := range f.snapshot() {
		all = errors.Join(all, f.flushOne(n))
	}
	return all
}
