package fs

import (
	"strconv"
	"sync"
	"testing"
)

// TestAttrsIn lists directories whose inodes are mixed with another's, after a restart, and compares with Attr.
func TestAttrsIn(t *testing.T) {
	r := newRig(t)
	b := r.bucket("b")
	d, other := r.mkdir(b, "d"), r.mkdir(b, "other")
	var inos []Ino
	for i := range 3 * scanWorth {
		f := r.create(d, strconv.Itoa(i))
		_, err := f.WriteAt(make([]byte, i), 0)
		r.ok(err)
		r.ok(f.Close())
		inos = append(inos, f.Ino())
		r.ok(r.create(other, strconv.Itoa(i)).Close())
	}
	r.reopen()
	open := r.file(inos[5])
	_, err := open.WriteAt(make([]byte, 100), 0)
	r.ok(err)
	_, err = r.v.Unlink(d, "7")
	r.ok(err)

	got := make([]Attr, len(inos))
	r.v.AttrsIn(d, inos[1:3], got[1:3]) // too few for a scan
	if n := len(r.v.cache.table); n > 8 {
		t.Errorf("%d inodes in memory after two were asked for", n)
	}
	r.v.AttrsIn(d, inos, got)
	for i, ino := range inos {
		if i == 7 {
			if got[i] != (Attr{}) {
				t.Errorf("a removed inode has attributes: %+v", got[i])
			}
			continue
		}
		want, err := r.v.Attr(ino)
		r.ok(err)
		if got[i] != want {
			t.Errorf("inode %d: %+v, want %+v", ino, got[i], want)
		}
	}
	if got[5].Size != 100 {
		t.Errorf("size of an open file: %d", got[5].Size)
	}
	if n := len(r.v.cache.table); n < 2*len(inos)-2 {
		t.Errorf("%d inodes in memory after a scan over %d", n, 2*len(inos))
	}
	for n := r.v.cache.idle.oldest; n != nil; n = n.newer {
		if n.pins != 0 {
			t.Errorf("inode %d is pinned in the list of those that are not", n.ino)
		}
	}
	r.ok(open.Close())
}

// TestAttrsInIsNew changes inodes while the cache, too small for them, is filled by scans: what a change left is what the next look
// sees.
func TestAttrsInIsNew(t *testing.T) {
	r := newRig(t)
	r.v.cache.max = 8 * scanWorth
	b := r.bucket("b")
	d := r.mkdir(b, "d")
	var inos []Ino
	for i := range 3 * scanWorth {
		f := r.create(d, strconv.Itoa(i))
		r.ok(f.Close())
		inos = append(inos, f.Ino())
	}
	for i := range r.v.cache.max { // beside them
		r.ok(r.create(b, strconv.Itoa(i)).Close())
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	for range 2 {
		others.Go(func() {
			got := make([]Attr, len(inos))
			for {
				select {
				case <-stop:
					return
				default:
				}
				r.v.cache.mu.Lock()
				for r.v.cache.idle.oldest != nil {
					old := r.v.cache.idle.oldest
					r.v.cache.idle.remove(old)
					delete(r.v.cache.table, old.ino)
				}
				r.v.cache.mu.Unlock()
				r.v.AttrsIn(d, inos, got)
			}
		})
	}
	got := make([]Attr, len(inos))
	for round := range 200 {
		mode, i := uint32(round%0o777), round%len(inos)
		_, err := r.v.SetAttr(inos[i], Change{Mode: &mode})
		r.ok(err)
		r.v.AttrsIn(d, inos, got)
		if got[i].Mode != mode {
			t.Fatalf("round %d: mode %o after it was set to %o", round, got[i].Mode, mode)
		}
	}
	close(stop)
	others.Wait()
}
