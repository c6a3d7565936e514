package check_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/check"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
)

// damagedRig is a volume whose sealed rows can be damaged.
type damagedRig struct {
	*rig
	raw                 kv.Store
	dir, sub, file, big fs.Ino
	other, under        fs.Ino
}

func newDamagedRig(t *testing.T) *damagedRig {
	t.Helper()
	raw := memkv.New()
	d := &damagedRig{rig: newRigOver(t, sealed.New(raw, crypto.NewDataKey())), raw: raw}
	d.dir = d.rig.dir(d.bucket, "dir")
	d.sub = d.rig.dir(d.dir, "sub")
	d.file = d.rig.file(d.dir, "file", 100, "") // in a row
	d.big = d.rig.file(d.dir, "big", 300_000, "")
	d.other = d.rig.file(d.bucket, "other", 100, "")
	d.under = d.rig.file(d.bucket, "under", 200_000, arn)
	_, err := d.v.Link(d.other, d.dir, "again")
	d.ok(err)
	d.ok(d.v.SetXattr(d.big, "user.x", []byte("y"), fs.XattrEither))
	gone := d.rig.file(d.bucket, "gone", 100_000, "")
	_, err = d.v.Unlink(d.bucket, "gone")
	d.ok(err)
	d.v.Forget(gone, 1<<30)
	d.write(d.big, 100_000, 50_000) // a piece is remembered
	d.v.DropCaches()
	d.finds(d.run(check.Options{}))
	return d
}

// damage inverts a byte of the first row whose key begins so.
func (d *damagedRig) damage(kind byte, numbers ...fs.Ino) {
	d.t.Helper()
	begin := []byte{kind}
	for _, n := range numbers {
		begin = append(begin, inodeKey(n)[1:]...)
	}
	found := false
	d.ok(d.raw.Update(func(tx kv.Txn) error {
		return tx.Scan(begin, kv.PrefixEnd(begin), func(k, v []byte) (bool, error) {
			b := bytes.Clone(v)
			b[len(b)/2] ^= 0xff
			tx.Set(bytes.Clone(k), b)
			found = true
			return false, nil
		})
	}))
	if !found {
		d.t.Fatalf("no row %q %v", kind, numbers)
	}
	d.v.DropCaches()
}

func (d *damagedRig) names(dir fs.Ino) (all []string) {
	d.t.Helper()
	for _, e := range d.list(dir) {
		all = append(all, e.Name)
	}
	return all
}

// problem wants one of a kind about an inode, which says that.
func (d *damagedRig) problem(rep *check.Report, kind string, ino fs.Ino, says string) {
	d.t.Helper()
	for _, p := range rep.Problems {
		if p.Kind == kind && p.Ino == ino && strings.Contains(p.Message+" "+p.Repair, says) {
			return
		}
	}
	d.t.Fatalf("no %s of inode %d that says %q: %+v", kind, ino, says, rep.Problems)
}

// TestSingleDamagedRows damages a row of each kind. The check goes on behind it, names it and what hangs on it; a repair does what can be
// done, and loses nothing.
func TestSingleDamagedRows(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(d *damagedRig)
		kinds  []string // what is found
		about  func(d *damagedRig, rep *check.Report)
		after  []string // what is found after a repair
		look   func(d *damagedRig)

		lasting bool // there is no place where a repair can write the loss down
	}{
		{"inode of a file", func(d *damagedRig) { d.damage('i', d.big) }, []string{check.BadRow}, func(d *damagedRig, rep *check.Report) {
			d.problem(rep, check.BadRow, d.big, fmt.Sprintf(`entry "big" of directory %d names it; on it hang 0 entries, `, d.dir))
		}, []string{check.BadRow}, func(d *damagedRig) {
			if n := d.names(d.dir); len(n) != 4 {
				d.t.Errorf("the directory has %v", n)
			}
		}, false},
		{"inode of a directory", func(d *damagedRig) { d.damage('i', d.dir) }, []string{check.BadRow, check.Nameless, check.BadLinks}, func(d *damagedRig, rep *check.Report) {
			d.problem(rep, check.BadRow, d.dir, `entry "dir" of directory`)
			d.problem(rep, check.BadRow, d.dir, "on it hang 4 entries")
			d.problem(rep, check.Nameless, d.file, `its only entry, "file", is in directory`)
		}, []string{check.BadRow}, func(d *damagedRig) {
			lost, err := d.v.Lookup(d.bucket, check.LostFound)
			d.ok(err)
			if n := d.names(lost.Ino); len(n) != 4 { // sub, file, big, and what says that the directory is lost; the other has another name
				d.t.Errorf("lost+found has %v", n)
			}
			a, err := d.v.Attr(d.other)
			d.ok(err)
			if a.Nlink != 1 {
				d.t.Errorf("%d links", a.Nlink)
			}
			f, err := d.v.OpenFile(d.big, fs.Keys{1: d.key}, nil)
			d.ok(err)
			b := make([]byte, 300_000)
			_, err = f.ReadAt(b, 0)
			d.ok(err)
			if !bytes.Equal(b, bytes.Repeat([]byte{7}, len(b))) {
				d.t.Error("its content is another")
			}
			d.ok(f.Close())
		}, false},
		{"inode of a bucket", func(d *damagedRig) { d.damage('i', d.bucket) }, []string{check.BadRow, check.Nameless, check.BadLinks}, func(d *damagedRig, rep *check.Report) {
			d.problem(rep, check.BadRow, d.bucket, `entry "bucket" of directory 1 names it; on it hang 3 entries`)
		}, []string{check.BadRow, check.Nameless}, nil, true},
		{"entry", func(d *damagedRig) { d.damage('d', d.sub-1) }, nil, nil, nil, nil, false},
		{"piece", func(d *damagedRig) { d.damage('e', d.big) }, []string{check.BadRow, check.BadSet}, func(d *damagedRig, rep *check.Report) {
			d.problem(rep, check.BadRow, d.big, "piece of inode")
		}, []string{check.BadRow, check.BadSet}, nil, false},
		{"content in a row", func(d *damagedRig) { d.damage('b', d.file) }, []string{check.BadRow, check.BadData}, func(d *damagedRig, rep *check.Report) {
			d.problem(rep, check.BadRow, d.file, "inline extent")
		}, []string{check.BadRow, check.BadData}, nil, false},
		{"attribute", func(d *damagedRig) { d.damage('x', d.big) }, []string{check.BadRow, check.BadSet}, func(d *damagedRig, rep *check.Report) {
			d.problem(rep, check.BadRow, d.big, "attribute")
		}, []string{check.BadRow, check.BadSet}, nil, false},
		{"tombstone", func(d *damagedRig) { d.damage('t') }, []string{check.BadRow}, nil, []string{}, func(d *damagedRig) {
			d.ok(d.v.CloseEpoch())
		}, false},
		{"remembered piece", func(d *damagedRig) { d.ok(d.v.CloseEpoch()); d.damage('f') }, []string{check.BadRow}, func(d *damagedRig, rep *check.Report) {
			d.problem(rep, check.BadRow, d.big, "remembered piece")
		}, []string{}, nil, false},
		{"mark of an epoch", func(d *damagedRig) { d.damage('u') }, []string{check.BadRow}, func(d *damagedRig, rep *check.Report) {
			d.problem(rep, check.BadRow, rep.Problems[0].Ino, "mark of an epoch")
		}, []string{}, func(d *damagedRig) {
			d.write(d.big, 0, 100)
			d.ok(d.v.CloseEpoch())
		}, false},
		{"the volume's own row", func(d *damagedRig) { d.damage('s') }, []string{check.BadRow}, func(d *damagedRig, rep *check.Report) {
			d.problem(rep, check.BadRow, 0, "the volume's own row")
		}, []string{check.BadRow}, nil, true},
		{"index of files by key", func(d *damagedRig) { d.damage('K') }, []string{check.BadRow}, nil, []string{}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDamagedRig(t)
			c.damage(d)
			rep := d.run(check.Options{Data: true})
			if rep.Complete || rep.Clean() || rep.Counts[check.BadRow] != 1 || rep.Inodes < 7 {
				t.Fatalf("%+v", rep)
			}
			if c.name == "entry" { // which of them is first in the directory is a hash's affair
				d.oneEntry(rep)
				return
			}
			d.finds(rep, c.kinds...)
			if c.about != nil {
				c.about(d, rep)
			}
			before := rep.Inodes
			rep = d.run(check.Options{Data: true, Repair: true, Now: 1})
			d.v.DropCaches()
			if c.look != nil {
				c.look(d)
			}
			again := d.run(check.Options{Data: true})
			d.finds(again, c.after...)
			if again.Inodes < before {
				t.Errorf("of %d inodes %d are left: %+v", before, again.Inodes, rep.Problems)
			}
			if c.lasting != !again.Clean() {
				t.Errorf("after a repair: %+v", again)
			}
		})
	}
}

// oneEntry: an unreadable entry is put back, for its inode and its directory know it.
func (d *damagedRig) oneEntry(rep *check.Report) {
	d.t.Helper()
	d.problem(rep, check.BadRow, d.dir, "entry of directory")
	inodes := rep.Inodes
	rep = d.run(check.Options{Repair: true, Now: 1})
	d.v.DropCaches()
	again := d.run(check.Options{})
	d.problem(rep, check.LostEntry, d.dir, "put back")
	if !again.Clean() || again.Inodes != inodes || len(d.names(d.dir)) != 4 || rep.Counts[check.Unrepairable] != 0 {
		d.t.Errorf("%+v\n%+v", rep, again)
	}
	a, err := d.v.Attr(d.other)
	d.ok(err)
	if a.Nlink != 2 {
		d.t.Errorf("the other file has %d links", a.Nlink)
	}
}
