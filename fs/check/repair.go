package check

import (
	"fmt"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// fixKind is what may be done about a problem.
type fixKind uint8

const (
	keepEntry fixKind = iota
	setLinks
	adopt
	addUse
	restore
	renewUse
	renewTomb
	forget
	settle
	recount
)

// fix is something that repair would do. problem is the problem's place in the report, -1 if it is not listed.
type fix struct {
	kind     fixKind
	ino      meta.Ino
	link     meta.Link
	links    []meta.Link
	nlink    uint32
	stray    []meta.RawDentry // to be taken away: their directories account for nothing
	use      meta.KeyUse
	entries  []meta.Dentry
	replaced meta.RawReplaced
	problem  int
}

// LostFound is the name of the directory that takes in what has no name.
const LostFound = "lost+found"

// repair does what can be done; each fix is one transaction.
func (c *checker) repair() error {
	if len(c.fixes) == 0 {
		return nil
	}
	if c.ended {
		c.rep.add(Unrepairable, 0, "nothing is repaired while rows cannot be looked at: what they name would look lost")
		return nil
	}
	// What changes no count first. Link counts then: they were taken before the others, which keep them right. Quotas last: the others do not count.
	for _, turn := range []func(fixKind) bool{
		func(k fixKind) bool { return k == restore },
		func(k fixKind) bool { return k == setLinks },
		func(k fixKind) bool { return k != restore && k != setLinks && k != recount },
	} {
		for _, f := range c.fixes {
			if !turn(f.kind) {
				continue
			}
			if err := c.ctx.Err(); err != nil {
				return err
			}
			c.fixed(f)(c.fix(f))
		}
	}
	if !c.rep.Complete {
		return nil // what cannot be read cannot be counted
	}
	err := c.vol.RecountQuotas(c.ctx)
	for _, f := range c.fixes {
		if f.kind == recount {
			c.fixed(f)("counted anew", err)
		}
	}
	return err
}

// fixed notes in the report what came of a fix.
func (c *checker) fixed(f fix) func(done string, err error) {
	return func(done string, err error) {
		if err != nil {
			c.rep.add(Unrepairable, f.ino, "%v", err)
			return
		}
		c.rep.Repaired++
		if f.problem >= 0 && f.problem < len(c.rep.Problems) { // it is listed
			c.rep.Problems[f.problem].Repair = done
		}
	}
}

func (c *checker) fix(f fix) (done string, err error) {
	switch f.kind {
	case keepEntry:
		return c.keepEntry(f)
	case setLinks:
		done = fmt.Sprintf("set %d names and link count %d", len(f.links), f.nlink)
		err = c.vol.Repair(func(t *meta.Tx) error {
			if err := dropStray(t, f.stray); err != nil {
				return err
			}
			return t.SetLinks(f.ino, f.links, f.nlink)
		})
	case restore:
		done = "put back"
		err = c.vol.Repair(func(t *meta.Tx) error { return t.RestoreEntries(f.ino, f.entries) })
	case renewUse:
		done = "wrote it anew"
		err = c.vol.Repair(func(t *meta.Tx) error { t.RenewKeyUse(f.use); return nil })
	case renewTomb:
		done = "wrote it anew: what is left of the removed inode is freed"
		err = c.vol.Repair(func(t *meta.Tx) error { return t.RenewTomb(f.ino, c.super.Epoch+1) })
	case addUse:
		done = "listed it"
		err = c.vol.Repair(func(t *meta.Tx) error {
			n, err := t.Inode(f.ino)
			if err == nil {
				t.AddKeyUse(n)
			}
			return err
		})
	case forget:
		done = "dropped it: what it named is found by kmsfs gc"
		err = c.vol.Repair(func(t *meta.Tx) error { t.DeleteReplaced(f.replaced.Epoch, f.replaced.Seq, f.ino); return nil })
	case settle:
		done = "made everything durable, after which the mark means nothing, and dropped it"
		if err = c.vol.Repair(func(*meta.Tx) error { return nil }); err == nil {
			err = c.vol.CloseEpoch()
		}
	case adopt:
		return c.adopt(f)
	case recount: // not here
	}
	return done, err
}

// adopt moves a nameless inode into lost+found of its bucket.
func (c *checker) adopt(f fix) (done string, err error) {
	row := c.inodes[f.ino].row
	bucket := c.inodes[row.Bucket]
	if row.Bucket == f.ino || bucket == nil || bucket.row.Type != meta.Directory || len(bucket.entries) == 0 {
		return "", fmt.Errorf("inode %d has no name and its bucket, %d, is not there either", f.ino, row.Bucket)
	}
	fresh, err := c.vol.NewIno()
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("inode-%d", f.ino)
	err = c.vol.Repair(func(t *meta.Tx) error {
		dir, err := c.lostFound(t, row.Bucket, fresh)
		if err != nil {
			return err
		}
		if err := dropStray(t, f.stray); err != nil {
			return err
		}
		return t.Adopt(f.ino, dir, name)
	})
	return fmt.Sprintf("moved to %s/%s of its bucket", LostFound, name), err
}

func dropStray(t *meta.Tx, all []meta.RawDentry) error {
	for _, d := range all {
		if err := t.DropStray(d); err != nil {
			return err
		}
	}
	return nil
}

// keepEntry takes an entry whose inode is gone out of its directory, and leaves a symbolic link in lost+found of the bucket whose target
// says in words what it was. An entry of the root has no bucket: what it was stands in the report alone.
func (c *checker) keepEntry(f fix) (done string, err error) {
	dir := c.inodes[f.link.Parent]
	if f.link.Parent == meta.RootIno {
		err = c.vol.Repair(func(t *meta.Tx) error { return t.DropEntry(f.link.Parent, f.link.Name) })
		return "dropped the entry; a bucket that is gone leaves nothing but this report", err
	}
	ino, err := c.vol.NewIno()
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("entry-%d", ino) // a number that nothing else has
	target := fmt.Sprintf("entry %q of directory inode %d named inode %d, which is gone", f.link.Name, f.link.Parent, f.ino)
	err = c.leave(dir.row.Bucket, ino, name, target, func(t *meta.Tx) error { return t.DropEntry(f.link.Parent, f.link.Name) })
	return fmt.Sprintf("took the entry out of the directory; %s/%s of its bucket is a symbolic link whose target says what it was", LostFound, name), err
}

// leave makes a symbolic link in lost+found of a bucket, as inode ino, after what first does.
func (c *checker) leave(bucket, ino meta.Ino, name, target string, first func(*meta.Tx) error) error {
	fresh, err := c.vol.NewIno()
	if err != nil {
		return err
	}
	return c.vol.Repair(func(t *meta.Tx) error {
		if first != nil {
			if err := first(t); err != nil {
				return err
			}
		}
		at, err := c.lostFound(t, bucket, fresh)
		if err != nil {
			return err
		}
		lost, err := t.Inode(at)
		if err != nil {
			return err
		}
		row := &meta.Inode{
			Ino: ino, Type: meta.Symlink, Mode: 0o777, Nlink: 1, Size: uint64(len(target)), Target: target, Bucket: lost.Bucket,
			Atime: c.o.Now, Mtime: c.o.Now, Ctime: c.o.Now, Btime: c.o.Now, Links: []meta.Link{{Parent: at, Name: name}},
		}
		if err := t.AddDentry(lost, meta.Dentry{Name: name, Ino: ino, Type: meta.Symlink}); err != nil {
			return err
		}
		t.PutInode(lost)
		t.PutInode(row)
		return nil
	})
}

// lostFound finds or makes the directory.
func (c *checker) lostFound(t *meta.Tx, bucket, fresh meta.Ino) (meta.Ino, error) {
	d, err := t.Dentry(bucket, LostFound)
	if err == nil {
		return d.Ino, nil
	}
	dir, err := t.Inode(bucket)
	if err != nil {
		return 0, err
	}
	row := &meta.Inode{
		Ino: fresh, Type: meta.Directory, Mode: 0o700, Nlink: 2, Atime: c.o.Now, Mtime: c.o.Now, Ctime: c.o.Now, Btime: c.o.Now,
		Bucket: bucket, Links: []meta.Link{{Parent: bucket, Name: LostFound}},
	}
	if err := t.AddDentry(dir, meta.Dentry{Name: LostFound, Ino: fresh, Type: meta.Directory}); err != nil {
		return 0, err
	}
	dir.Nlink++
	t.PutInode(dir)
	t.PutInode(row)
	return fresh, nil
}
