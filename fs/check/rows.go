package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// rows looks at all rows, in one snapshot.
func (c *checker) rows() error {
	c.inodes, c.damaged, c.tombs = map[meta.Ino]*node{}, map[meta.Ino]*damaged{}, map[meta.Ino]bool{}
	c.unread = map[meta.Ino]bool{}
	c.inline, c.uses = map[inlineID]bool{}, map[meta.KeyUse]bool{}
	c.known = map[string]bool{}
	c.gone, c.held = map[string]*KeyGone{}, map[meta.Ino]meta.Usage{}
	var err error
	if c.super, err = c.r.Super(); err != nil {
		c.rep.Complete = false
		c.rep.add(BadRow, 0, "the volume's own row: %v", err)
	}
	for _, s := range []struct {
		what string
		run  func() error
	}{
		{"tombstones", c.scanTombs},
		{"inodes", c.scanInodes},
		{"entries", c.scanEntries},
		{"remembered pieces", c.scanReplaced},
		{"marks of epochs", c.scanTouched},
		{"extent maps", c.scanPieces},
		{"inline extents", c.scanInline},
		{"attributes", c.scanXattrs},
		{"key index", c.scanUses},
	} {
		if err := c.scan(s.what, s.run()); err != nil {
			return err
		}
	}
	c.judge()
	c.quotas()
	for _, arn := range slices.Sorted(maps.Keys(c.gone)) {
		if k := c.gone[arn]; k != nil {
			c.rep.KeysGone = append(c.rep.KeysGone, *k)
		}
	}
	c.progress("rows", c.seen.Load(), c.seen.Load())
	return nil
}

func (c *checker) bad(what string, ino meta.Ino, err error) error {
	c.rep.Complete = false
	c.rep.add(BadRow, ino, "%s: %v", what, err)
	return c.step()
}

func (c *checker) scanTombs() error {
	return c.r.EachTomb(func(t meta.Tomb, err error) error {
		c.rep.Removed++
		c.tombs[t.Ino] = true
		if err != nil {
			c.fixes = append(c.fixes, fix{kind: renewTomb, ino: t.Ino, problem: len(c.rep.Problems)})
			return c.bad("tombstone", t.Ino, err)
		}
		return c.step()
	})
}

func (c *checker) scanInodes() error {
	return c.r.EachInode(func(ino meta.Ino, n *meta.Inode, err error) error {
		if err != nil {
			c.rep.Complete = false
			c.damaged[ino] = &damaged{why: err}
			return c.step()
		}
		c.rep.Inodes++
		switch n.Type {
		case meta.Directory:
			c.rep.Directories++
		case meta.Regular:
			c.rep.Files++
		case meta.Symlink, meta.FIFO, meta.Socket, meta.CharDevice, meta.BlockDevice:
		}
		if c.super.NextIno != 0 && ino >= c.super.NextIno {
			c.rep.add(BadCounter, ino, "its number is beyond the counter, %d", c.super.NextIno)
		}
		if c.tombs[ino] {
			c.rep.add(Orphan, ino, "it is there and has a tombstone")
		}
		c.sealing(n)
		c.keyReference(n)
		c.account(n)
		if n.Type == meta.Symlink {
			c.remember(n.Target)
		}
		n.Target, n.BucketInfo = "", nil
		c.inodes[ino] = &node{row: n}
		return c.step()
	})
}

// account adds an inode to what its bucket holds.
func (c *checker) account(n *meta.Inode) {
	if n.BucketInfo != nil && n.BucketInfo.Quota != "" {
		c.limited = append(c.limited, n.Ino)
	}
	if n.Ino == n.Bucket || n.Ino == meta.RootIno {
		return
	}
	u := c.held[n.Bucket]
	u.Inodes++
	if n.Type == meta.Regular {
		u.Bytes += n.Size
	}
	c.held[n.Bucket] = u
}

// quotas compares the counters of buckets with a quota with what they hold.
func (c *checker) quotas() {
	if !c.rep.Complete {
		return
	}
	for _, bucket := range c.limited {
		got, ok := c.counted[bucket]
		if !ok {
			c.rep.Quotas.Busy++
			continue
		}
		c.rep.Quotas.Checked++
		if want := c.held[bucket]; got.Bytes != want.Bytes || got.Inodes != want.Inodes {
			at := c.rep.add(BadQuota, bucket, "its quota counts %d bytes in %d inodes, there are %d bytes in %d",
				got.Bytes, got.Inodes, want.Bytes, want.Inodes)
			c.fixes = append(c.fixes, fix{kind: recount, ino: bucket, problem: at})
		}
	}
}

func (c *checker) sealing(n *meta.Inode) {
	if (n.Type == meta.Regular) != (n.Sealing.Method != meta.None && len(n.Sealing.Keys) > 0) {
		c.rep.add(BadSealing, n.Ino, "a regular file, and nothing else, has data keys; this one has %d", len(n.Sealing.Keys))
	}
	last := uint32(0)
	for _, k := range n.Sealing.Keys {
		if k.Generation <= last || len(k.Wrapped) == 0 {
			c.rep.add(BadSealing, n.Ino, "data-key generation %d is out of order or empty", k.Generation)
		}
		last = k.Generation
	}
	if n.Type == meta.Regular && n.NextKey <= last {
		c.rep.add(BadSealing, n.Ino, "the next data-key generation, %d, has been used", n.NextKey)
	}
}

func (c *checker) scanEntries() error {
	return c.r.EachDentry(func(d meta.RawDentry, err error) error {
		if err != nil {
			c.unread[d.Parent] = true
			return c.bad("entry of directory", d.Parent, err)
		}
		c.rep.Entries++
		if !d.Placed {
			c.rep.add(BadEntry, d.Parent, "entry %q lies at another name's place", d.Name)
		}
		dir, n := c.inodes[d.Parent], c.inodes[d.Ino]
		switch {
		case c.damaged[d.Parent] != nil:
			c.damaged[d.Parent].held++
		case dir == nil && n != nil: // the inode tells
		case dir == nil:
			c.rep.add(Orphan, d.Parent, "entry %q of a directory that is not there", d.Name)
		case dir.row.Type != meta.Directory:
			c.rep.add(BadEntry, d.Parent, "entry %q of an inode that is no directory", d.Name)
		default:
			dir.set.Add(d)
		}
		if x := c.damaged[d.Ino]; x != nil {
			x.entries = append(x.entries, link{meta.Link{Parent: d.Parent, Name: d.Name}})
			if d.Type == meta.Directory && dir != nil {
				dir.subdirs++
			}
			return c.step()
		}
		if n == nil {
			at := c.rep.add(Dangling, d.Ino, "entry %q of directory %d names an inode that is not there", d.Name, d.Parent)
			if dir != nil {
				c.fixes = append(c.fixes, fix{kind: keepEntry, ino: d.Ino, link: meta.Link{Parent: d.Parent, Name: d.Name}, problem: at})
			}
			return c.step()
		}
		if n.row.Type != d.Type {
			c.rep.add(BadEntry, d.Ino, "entry %q of directory %d says type %d, the inode %d", d.Name, d.Parent, d.Type, n.row.Type)
		}
		if dir == nil {
			n.stray = append(n.stray, d)
			return c.step()
		}
		n.entries = append(n.entries, link{meta.Link{Parent: d.Parent, Name: d.Name}})
		if n.row.Type == meta.Directory {
			dir.subdirs++
		}
		return c.step()
	})
}

func (c *checker) scanXattrs() error {
	return c.r.EachXattr(func(x meta.RawXattr, err error) error {
		if err != nil {
			return c.bad("attribute", x.Ino, err)
		}
		if n := c.inodes[x.Ino]; n != nil {
			n.attrs.Add(x)
		} else if d := c.damaged[x.Ino]; d != nil {
			d.attrs++
		} else if !c.tombs[x.Ino] {
			c.rep.add(Orphan, x.Ino, "an attribute of an inode that is not there")
		}
		return c.step()
	})
}

func (c *checker) scanUses() error {
	return c.r.EachKeyUse(func(u meta.KeyUse, err error) error {
		c.uses[u] = true
		if err != nil {
			c.fixes = append(c.fixes, fix{kind: renewUse, use: u, problem: len(c.rep.Problems)})
			return c.bad("index of files by key", 0, err)
		}
		return c.step()
	})
}

// judge compares what the scans gathered.
func (c *checker) judge() {
	db := c.vol.Rows()
	for _, ino := range slices.Sorted(maps.Keys(c.damaged)) {
		c.hanging(ino, c.damaged[ino])
	}
	c.remembered()
	for _, ino := range slices.Sorted(maps.Keys(c.inodes)) {
		n := c.inodes[ino]
		if n.set != n.row.Rows {
			c.rep.add(BadSet, ino, "it has %d rows (entries or pieces), its row accounts for %d others", n.set.Count, n.row.Rows.Count)
		}
		if n.attrs != n.row.Xattrs {
			c.rep.add(BadSet, ino, "it has %d attributes, its row accounts for %d others", n.attrs.Count, n.row.Xattrs.Count)
		}
		if n.row.Type == meta.Regular && !n.mapWrong && n.covered != n.row.Alloc {
			c.rep.add(BadMap, ino, "its extents cover %d bytes, its row says %d", n.covered, n.row.Alloc)
		}
		if u, ok := db.KeyUseOf(n.row); ok && !c.uses[u] {
			at := c.rep.add(BadKeyIndex, ino, "not listed under its KMS key")
			c.fixes = append(c.fixes, fix{kind: addUse, ino: ino, problem: at})
		}
		c.links(ino, n)
	}
	for _, ino := range slices.Sorted(maps.Keys(c.inodes)) {
		c.climb(ino)
	}
}

// hanging reports an inode whose row cannot be read.
func (c *checker) hanging(ino meta.Ino, d *damaged) {
	names := "no entry names it"
	if len(d.entries) > 0 {
		names = fmt.Sprintf("entry %q of directory %d names it", d.entries[0].Name, d.entries[0].Parent)
	}
	if more := len(d.entries) - 1; more > 0 {
		names += fmt.Sprintf(", and %d more", more)
	}
	c.rep.add(BadRow, ino, "inode: %v; %s; on it hang %d entries, %d pieces, %d attributes", d.why, names, d.held, d.pieces, d.attrs)
}

// links compares the names in the row with the entries.
func (c *checker) links(ino meta.Ino, n *node) {
	if ino == meta.RootIno {
		if n.row.Nlink != 2+n.subdirs || len(n.row.Links) != 0 {
			at := c.rep.add(BadLinks, ino, "the root has %d links, %d buckets are there", n.row.Nlink, n.subdirs)
			c.fixes = append(c.fixes, fix{kind: setLinks, ino: ino, nlink: 2 + n.subdirs, problem: at})
		}
		return
	}
	if len(n.entries) == 0 && len(n.stray) > 0 {
		at := c.rep.add(Nameless, ino, "its only entry, %q, is in directory %d, which is not there or cannot be read", n.stray[0].Name, n.stray[0].Parent)
		c.fixes = append(c.fixes, fix{kind: adopt, ino: ino, stray: n.stray, problem: at})
		return
	}
	if len(n.entries) == 0 {
		at := c.rep.add(Nameless, ino, "no entry names it; its row knows %d names", len(n.row.Links))
		c.fixes = append(c.fixes, fix{kind: adopt, ino: ino, problem: at})
		return
	}
	names := make([]meta.Link, 0, len(n.entries))
	for _, e := range n.entries {
		names = append(names, e.Link)
	}
	want := uint32(len(names))
	if n.row.Type == meta.Directory {
		want = 2 + n.subdirs
		if len(names) > 1 {
			c.rep.add(BadTree, ino, "a directory with %d names", len(names))
			return
		}
	}
	if n.row.Nlink == want && sameLinks(names, n.row.Links) {
		return
	}
	lost := slices.ContainsFunc(n.row.Links, func(l meta.Link) bool { return c.unread[l.Parent] && !slices.Contains(names, l) })
	if lost {
		c.rep.add(BadLinks, ino, "its row has %d names, and one of the entries that cannot be read may be one of them", len(n.row.Links))
		return
	}
	at := c.rep.add(BadLinks, ino, "its row has %d links and %d names, there are %d names and the count should be %d", n.row.Nlink, len(n.row.Links), len(names), want)
	c.fixes = append(c.fixes, fix{kind: setLinks, ino: ino, links: names, nlink: want, stray: n.stray, problem: at})
}

func sameLinks(a, b []meta.Link) bool {
	order := func(x, y meta.Link) int { return cmp.Or(cmp.Compare(x.Parent, y.Parent), cmp.Compare(x.Name, y.Name)) }
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, order)
	slices.SortFunc(b, order)
	return slices.Equal(a, b)
}

// climb follows the names upwards: to the root without meeting itself, through the bucket that the row says.
func (c *checker) climb(ino meta.Ino) {
	if n := c.inodes[ino]; n.row.Type != meta.Directory {
		for _, e := range n.entries {
			if dir := c.inodes[e.Parent]; dir != nil && dir.row.Bucket != n.row.Bucket {
				c.rep.add(BadTree, ino, "it is in bucket %d, its row says %d", dir.row.Bucket, n.row.Bucket)
			}
		}
		return
	}
	var path []*node
	bucket := meta.Ino(0)
	for at := ino; ; {
		n := c.inodes[at]
		if n == nil || n.reached == 2 || at == meta.RootIno {
			break
		}
		if n.reached == 1 {
			c.rep.add(BadTree, at, "it lies beneath itself")
			break
		}
		n.reached = 1
		path = append(path, n)
		if len(n.entries) == 0 {
			break // nameless: reported
		}
		parent := n.entries[0].Parent
		bucket = n.row.Bucket
		if parent == meta.RootIno {
			bucket = at
		} else if up := c.inodes[parent]; up != nil {
			bucket = up.row.Bucket
		}
		if bucket != n.row.Bucket {
			c.rep.add(BadTree, at, "it is in bucket %d, its row says %d", bucket, n.row.Bucket)
		}
		at = parent
	}
	for _, n := range path {
		n.reached = 2
	}
}
