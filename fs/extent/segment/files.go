package segment

import (
	"container/list"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// files is a bounded cache of open segment files. A file in use is never closed,
// so more than limit are open if more than limit are in use.
type files struct {
	dir   string
	limit int

	mu   sync.Mutex // guards what follows and the files' refs, elem and doomed
	open map[uint64]*file
	idle *list.List // of *file without users, most recently used first
}

// file is one open segment. Whoever holds a reference may use f.
type file struct {
	number uint64
	ready  chan struct{} // closed when f or err is set
	f      *os.File
	err    error
	direct direct
	around around

	refs   int
	elem   *list.Element // in idle, if refs is 0
	doomed bool          // no longer in open: close with the last reference
}

func newFiles(dir string, limit int) *files {
	return &files{dir: dir, limit: limit, open: make(map[uint64]*file), idle: list.New()}
}

// acquire returns the segment's file with a reference for the caller to release,
// or extent.ErrMissing if there is no such segment.
func (c *files) acquire(number uint64) (*file, error) {
	c.mu.Lock()
	e := c.open[number]
	if e != nil {
		c.use(e)
		c.mu.Unlock()
		<-e.ready
	} else {
		e = &file{number: number, ready: make(chan struct{}), refs: 1}
		c.open[number] = e
		c.mu.Unlock()
		e.f, e.err = os.OpenFile(filepath.Join(c.dir, segmentName(number)), os.O_RDWR, 0)
		close(e.ready)
	}
	if e.err != nil {
		err := e.err
		c.forget(e)
		c.release(e)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("segment %d: %w", number, extent.ErrMissing)
		}
		return nil, fmt.Errorf("segment %d: %w", number, err)
	}
	return e, nil
}

// adopt takes over a file just made, with a reference for the caller.
func (c *files) adopt(number uint64, f *os.File) *file {
	e := &file{number: number, ready: make(chan struct{}), f: f, refs: 1}
	close(e.ready)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[number] = e
	return e
}

// retain takes another reference to a file the caller has one of.
func (c *files) retain(e *file) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.refs++
}

// release gives a reference back.
func (c *files) release(e *file) {
	var victims []*file
	c.mu.Lock()
	e.refs--
	if e.refs == 0 {
		if e.doomed {
			victims = append(victims, e)
		} else {
			e.elem = c.idle.PushFront(e)
		}
	}
	for len(c.open) > c.limit && c.idle.Len() > 0 {
		v := c.idle.Remove(c.idle.Back()).(*file)
		v.elem = nil
		delete(c.open, v.number)
		victims = append(victims, v)
	}
	c.mu.Unlock()
	for _, v := range victims {
		if v.f != nil {
			v.direct.close()
			_ = v.f.Close() // whatever was written has been synced, or its users were told
		}
	}
}

// forget makes later acquires open the file anew: it was unlinked, or failed to
// open. The caller holds a reference.
func (c *files) forget(e *file) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.doomed = true
	if c.open[e.number] == e {
		delete(c.open, e.number)
	}
}

// closeAll closes every idle file.
func (c *files) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for el := c.idle.Front(); el != nil; el = el.Next() {
		e := el.Value.(*file)
		delete(c.open, e.number)
		e.direct.close()
		_ = e.f.Close()
	}
	c.idle.Init()
}

// use takes a reference. The caller holds mu.
func (c *files) use(e *file) {
	e.refs++
	if e.elem != nil {
		c.idle.Remove(e.elem)
		e.elem = nil
	}
}
