package fs

import (
	"slices"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// A listing with attributes wants the rows of all the inodes of a directory, in the order of its names, which is no order at all. One
// by one they would cost a search each. As a rule the inodes of a directory were made one after the other, so that their rows stand
// together: a scan over the range brings all of them, also those that the next pieces of the listing will ask for.

const (
	scanAtOnce  = 512     // numbers of inodes that one scan goes over; readers of single rows wait for it
	scanAtMost  = 1 << 14 // and those over which the scans of one call go
	scanDensity = 4       // numbers in the range to one entry of the directory, at most: else rows are read one by one
	scanWorth   = 8       // fewer rows than these are read one by one
)

// AttrsIn gives the attributes of inodes that a directory's listing named. Where an inode is not there any more, or cannot be read,
// got[i].Ino is 0. It reads ahead the rows of the directory's other inodes, if they stand close by. len(got) is len(inos).
func (v *Volume) AttrsIn(dir Ino, inos []Ino, got []Attr) {
	missing := v.attrsInMemory(inos, got)
	if len(missing) == 0 {
		return
	}
	slices.SortFunc(missing, func(a, b int) int { return int(int64(inos[a] - inos[b])) })
	if first, end := inos[missing[0]], inos[missing[len(missing)-1]]+1; len(missing) >= scanWorth && v.dense(dir, first, end) {
		for ; first < end; first += scanAtOnce {
			if v.readRange(first, min(end, first+scanAtOnce)) != nil {
				break // a row that cannot be read concerns only who asks for it
			}
		}
	}
	for _, i := range missing {
		got[i], _ = v.Attr(inos[i])
	}
}

// attrsInMemory gives what is in the cache and says at which places it is not.
func (v *Volume) attrsInMemory(inos []Ino, got []Attr) (missing []int) {
	c := &v.cache
	nodes := make([]*inode, len(inos))
	c.mu.Lock()
	for i, ino := range inos {
		if n := c.table[ino]; n != nil {
			c.hold(n)
			nodes[i] = n
		}
	}
	c.mu.Unlock()
	for i, n := range nodes {
		got[i] = Attr{}
		if n != nil {
			n.mu.RLock()
			if !n.gone {
				got[i] = n.attr()
			}
			n.mu.RUnlock()
		}
		if got[i].Ino == 0 {
			missing = append(missing, i)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range nodes {
		if n != nil {
			c.release(n)
		}
	}
	return missing
}

// dense reports whether a directory has so many entries that a range of inode numbers may well hold little else.
func (v *Volume) dense(dir, first, end Ino) bool {
	if end-first > scanAtMost || int(end-first) > v.cache.max/2 {
		return false
	}
	var entries uint64
	err := v.with(dir, func(n *inode) error {
		entries = n.committed().Rows.Count
		return nil
	})
	return err == nil && uint64(end-first) <= entries*scanDensity
}

// readRange brings the rows of [first, end) into the cache.
func (v *Volume) readRange(first, end Ino) error {
	c := &v.cache
	for i := range c.loading {
		c.loading[i].Lock()
		defer c.loading[i].Unlock()
	}
	var rows []*meta.Inode
	err := v.db.View(func(r *meta.Reader) error {
		return r.Inodes(first, end, func(row *meta.Inode) { rows = append(rows, row) })
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, row := range rows {
		if c.table[row.Ino] == nil {
			c.release(c.insertLocked(row))
		}
	}
	return nil
}
