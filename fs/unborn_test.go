package fs

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// rowsOf reports whether an inode has a row, and its directory an entry of that name.
func (r *rig) rowsOf(dir Ino, name string, ino Ino) (row, entry bool) {
	r.t.Helper()
	r.ok(r.v.db.View(func(t *meta.Reader) error {
		_, err := t.Inode(ino)
		row = err == nil
		_, err = t.Dentry(dir, name)
		entry = err == nil
		return nil
	}))
	return row, entry
}

// TestUnborn does every operation on a file that was made and never flushed, or beside it, and looks before and after a restart.
func TestUnborn(t *testing.T) {
	type state struct {
		*rig
		dir, sub, other Ino
		f               *File
	}
	for name, c := range map[string]struct {
		do   func(s state) error
		fail error
		want []string // names in dir afterwards; nil: f
		bear bool     // the operation itself makes the rows
	}{
		"nothing":    {do: func(state) error { return nil }},
		"lookup":     {do: func(s state) error { return second(s.v.Lookup(s.dir, "f")) }},
		"attributes": {do: func(s state) error { return second(s.v.Attr(s.f.Ino())) }},
		"write":      {do: func(s state) error { return second(s.f.WriteAt([]byte("bytes"), 3)) }},
		"chmod":      {do: func(s state) error { m := uint32(0o600); return second(s.v.SetAttr(s.f.Ino(), Change{Mode: &m})) }},
		"chmod dir":  {do: func(s state) error { m := uint32(0o700); return second(s.v.SetAttr(s.dir, Change{Mode: &m})) }},
		"flush":      {do: func(s state) error { return s.f.Flush() }, bear: true},
		"sync":       {do: func(s state) error { return s.f.Sync(false) }, bear: true},
		"sync another": {do: func(s state) error {
			g := s.create(s.other, "y")
			s.ok(g.Sync(false))
			return g.Close()
		}, bear: true},
		"sync dir":     {do: func(s state) error { return s.v.SyncDir() }, bear: true},
		"sync all":     {do: func(s state) error { return s.v.Sync() }, bear: true},
		"truncate":     {do: func(s state) error { return s.f.Truncate(10) }, bear: true},
		"punch":        {do: func(s state) error { return s.f.Punch(0, 10) }, bear: true},
		"list":         {do: func(s state) error { s.list(s.dir); return nil }, bear: true},
		"unlink":       {do: func(s state) error { return second(s.v.Unlink(s.dir, "f")) }, want: []string{"sub"}},
		"unlink other": {do: func(s state) error { return second(s.v.Unlink(s.other, "x")) }},
		"rmdir":        {do: func(s state) error { return second(s.v.Rmdir(s.other, "dir")) }, fail: ErrNotEmpty, bear: true},
		"make again":   {do: func(s state) error { return second(s.v.Make(s.dir, "f", New{Type: Directory})) }, fail: ErrExists},
		"create again": {do: func(s state) error {
			return second(s.v.Make(s.dir, "f", New{Type: Regular, Sealing: testSealing(""), Later: true}))
		}, fail: ErrExists},
		"mkdir beside":   {do: func(s state) error { return second(s.v.Make(s.dir, "g", New{Type: Directory})) }, want: []string{"f", "g", "sub"}},
		"link":           {do: func(s state) error { return second(s.v.Link(s.f.Ino(), s.dir, "g")) }, want: []string{"f", "g", "sub"}, bear: true},
		"link over":      {do: func(s state) error { x, _ := s.v.Lookup(s.other, "x"); return second(s.v.Link(x.Ino, s.dir, "f")) }, fail: ErrExists, bear: true},
		"rename":         {do: func(s state) error { return second(s.v.Rename(s.dir, "f", s.dir, "g", 0)) }, want: []string{"g", "sub"}, bear: true},
		"rename away":    {do: func(s state) error { return second(s.v.Rename(s.dir, "f", s.sub, "f", 0)) }, want: []string{"sub"}},
		"rename over it": {do: func(s state) error { return second(s.v.Rename(s.other, "x", s.dir, "f", 0)) }, want: []string{"f", "sub"}},
		"noreplace":      {do: func(s state) error { return second(s.v.Rename(s.other, "x", s.dir, "f", RenameNoReplace)) }, fail: ErrExists, bear: true},
		"exchange":       {do: func(s state) error { return second(s.v.Rename(s.other, "x", s.dir, "f", RenameExchange)) }},
		"dir over dir":   {do: func(s state) error { return second(s.v.Rename(s.other, "empty", s.other, "dir", 0)) }, fail: ErrNotEmpty, bear: true},
		"rename dir":     {do: func(s state) error { return second(s.v.Rename(s.other, "dir", s.other, "moved", 0)) }},
		"setxattr":       {do: func(s state) error { return s.v.SetXattr(s.f.Ino(), "user.a", []byte("v"), 0) }, bear: true},
		"explicit":       {do: func(s state) error { return s.v.SetExplicit(s.f.Ino(), true) }, bear: true},
		"rekey": {do: func(s state) error {
			now, err := s.v.Sealing(s.f.Ino())
			s.ok(err)
			to := testSealing("arn:key")
			to.Keys = []FileKey{now.Keys[0]}
			return s.v.Rekey(s.f.Ino(), now, to, nil)
		}, bear: true},
		"open truncating": {do: func(s state) error {
			f, err := s.v.OpenFile(s.f.Ino(), nil, &Truncation{Sealing: testSealing(""), Key: s.keys[s.f.Ino()][1]})
			if err != nil {
				return err
			}
			return f.Close()
		}, bear: true},
		"quota": {do: func(s state) error {
			b, err := s.v.BucketOf(s.dir)
			s.ok(err)
			s.quota(b, "bytes=1000000")
			s.wantUsage(b)
			return nil
		}, bear: true},
		"key files": {do: func(s state) error { return s.v.KeyFiles("arn:none", func(Ino) bool { return true }) }, bear: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			s := state{rig: r, other: r.bucket("b")}
			s.dir = r.mkdir(s.other, "dir")
			s.sub = r.mkdir(s.dir, "sub")
			r.mkdir(s.other, "empty")
			r.ok(r.create(s.other, "x").Close())
			before, err := r.v.Attr(s.dir)
			r.ok(err)
			s.f = r.create(s.dir, "f")
			if row, entry := r.rowsOf(s.dir, "f", s.f.Ino()); row || entry {
				t.Fatal("the rows are there already")
			}
			if now, err := r.v.Attr(s.dir); err != nil || now.Mtime <= before.Mtime {
				t.Errorf("the directory's times do not show the new name: %+v, %v", now, err)
			}
			if err := c.do(s); !errors.Is(err, c.fail) || c.fail == nil && err != nil {
				t.Fatalf("%v, want %v", err, c.fail)
			}
			if c.bear {
				if row, _ := r.rowsOf(s.dir, "f", s.f.Ino()); !row {
					t.Error("no rows were made")
				}
			}
			bytes := r.read(s.f)
			attr, err := r.v.Attr(s.f.Ino())
			r.ok(err)
			want := c.want
			if want == nil {
				want = []string{"f", "sub"}
			}
			r.ok(s.f.Close())
			if got := r.list(s.dir); !slices.Equal(got, want) {
				t.Errorf("names %v, want %v", got, want)
			}
			if n := r.v.unborn.count.Load(); n != 0 {
				t.Errorf("%d files are unborn after the last close", n)
			}
			r.reopen()
			if got := r.list(s.dir); !slices.Equal(got, want) {
				t.Errorf("after a restart: names %v, want %v", got, want)
			}
			if attr.Nlink == 0 {
				return
			}
			after, err := r.v.Attr(attr.Ino)
			r.ok(err)
			if after.Ctime < attr.Ctime || after.Mode != attr.Mode || after.Nlink != attr.Nlink || after.Size != attr.Size {
				t.Errorf("after a restart: %+v, before %+v", after, attr)
			}
			if name == "rekey" || name == "open truncating" {
				return
			}
			f := r.file(attr.Ino)
			if got := r.read(f); !slices.Equal(got, bytes) {
				t.Errorf("after a restart: %q, before %q", got, bytes)
			}
			r.ok(f.Close())
		})
	}
}

func second[T any](_ T, err error) error { return err }

// TestUnbornCrash: a file that was never closed may be forgotten, one that was closed may not, and what is beside it is whole.
func TestUnbornCrash(t *testing.T) {
	r := newRig(t)
	b := r.bucket("b")
	closed, open := r.create(b, "closed"), r.create(b, "open")
	r.ok(second(closed.WriteAt([]byte("kept"), 0)))
	r.ok(second(open.WriteAt([]byte("may go"), 0)))
	r.ok(closed.Close())
	kept := closed.Ino()
	r.crash()
	if got := r.list(b); !slices.Equal(got, []string{"closed"}) {
		t.Fatalf("names %v", got)
	}
	f := r.file(kept)
	if got := string(r.read(f)); got != "kept" {
		t.Errorf("content %q", got)
	}
	r.ok(f.Close())
}

// TestUnbornNoSpace: what could not get its rows stays in memory with its bytes, and gets them when there is room.
func TestUnbornNoSpace(t *testing.T) {
	store := kvtest.NewFaulty(memkv.New(), nil)
	r := newRigWith(t, store, memextent.New())
	b := r.bucket("b")
	empty, f := r.create(b, "empty"), r.create(b, "f")
	r.ok(second(f.WriteAt([]byte("bytes"), 0)))
	store.Decide(func(op kvtest.Op, _ int) (kvtest.Fault, error) {
		if op == kvtest.Update {
			return kvtest.NotApplied, kv.ErrNoSpace
		}
		return kvtest.None, nil
	})
	r.want(ErrNoSpace, f.Close())
	r.want(ErrNoSpace, empty.Close())
	for _, name := range []string{"empty", "f"} {
		r.ok(second(r.v.Lookup(b, name)))
	}
	r.want(ErrNoSpace, r.v.ReadDir(b, 0, func(Dirent) bool { return true }))
	store.Decide(nil)
	if got := r.list(b); !slices.Equal(got, []string{"empty", "f"}) {
		t.Errorf("names %v", got)
	}
	r.ok(r.v.Sync())
	r.reopen()
	g := r.file(f.Ino())
	if got := string(r.read(g)); got != "bytes" {
		t.Errorf("content %q", got)
	}
	r.ok(g.Close())
}

// TestBirthThatWasAppliedAllTheSame: the commit that gives a file its rows is applied and said to have failed. The next one must know the rows
// for the file's own, and leave what is written then, not more.
func TestBirthThatWasAppliedAllTheSame(t *testing.T) {
	for _, size := range []int{0, 5000, 300_000} {
		for _, listed := range []bool{false, true} {
			t.Run(fmt.Sprint(size, listed), func(t *testing.T) {
				store := kvtest.NewFaulty(memkv.New(), nil)
				r := newRigWith(t, store, memextent.New())
				b := r.bucket("b")
				if listed {
					r.list(b)
				}
				f := r.create(b, "f")
				r.ok(second(f.WriteAt(bytes.Repeat([]byte{1}, size), 0)))
				store.Decide(func(op kvtest.Op, _ int) (kvtest.Fault, error) {
					if op == kvtest.Update {
						return kvtest.Applied, nil
					}
					return kvtest.None, nil
				})
				r.want(kvtest.ErrInjected, f.Flush())
				store.Decide(nil)
				want := bytes.Repeat([]byte{2}, size/2)
				r.ok(f.Truncate(0))
				r.ok(second(f.WriteAt(want, 0)))
				r.ok(f.Flush())
				r.ok(f.Close())
				if got := r.list(b); !slices.Equal(got, []string{"f"}) {
					t.Errorf("names %v", got)
				}
				r.reopen()
				g := r.file(f.Ino())
				if !bytes.Equal(r.read(g), want) {
					t.Error("another content")
				}
				r.ok(g.Close())
				if got := r.list(b); !slices.Equal(got, []string{"f"}) {
					t.Errorf("names %v", got)
				}
			})
		}
	}
}

// TestUnbornIsRemovedFromAFullDisk: a file that found no space when it was closed can be removed while there is none, and is not there
// later. While it is open it stays.
func TestUnbornIsRemovedFromAFullDisk(t *testing.T) {
	rows := &fullRows{Store: memkv.New()}
	r := newRigWith(t, rows, memextent.New())
	b := r.bucket("bucket")
	d := r.mkdir(b, "d")
	r.ok(r.v.CloseEpoch())
	a, err := r.v.Make(d, "f", New{Type: Regular, Sealing: testSealing(""), Later: true})
	r.ok(err)
	dk := crypto.NewDataKey()
	r.keys[a.Ino] = Keys{1: dk}
	f, err := r.v.OpenFile(a.Ino, Keys{1: dk}, nil)
	r.ok(err)
	_, err = f.WriteAt(make([]byte, 100_000), 0)
	r.ok(err)
	rows.full.Store(true)
	r.want(ErrNoSpace, f.Flush())
	r.want(ErrNoSpace, second(r.v.Unlink(d, "f")))
	if _, err := r.v.Lookup(d, "f"); err != nil {
		t.Fatal("an open file is gone: ", err)
	}
	r.want(ErrNoSpace, f.Close())
	gone, err := r.v.Unlink(d, "f")
	r.ok(err)
	if gone.Nlink != 0 || gone.Ino != a.Ino {
		t.Errorf("%+v", gone)
	}
	if _, err := r.v.Lookup(d, "f"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a removed file: %v", err)
	}
	if dirty := r.v.size.n.Load(); dirty != 0 {
		t.Errorf("%d bytes of it stay in memory", dirty)
	}
	_ = r.v.flusher.flushAll() // lets go of it
	rows.full.Store(false)
	r.v.Forget(a.Ino, 0)
	r.ok(r.v.Sync())
	r.reopen()
	if row, entry := r.rowsOf(d, "f", a.Ino); row || entry {
		t.Errorf("it has rows: inode %t, entry %t", row, entry)
	}
	if names := r.list(d); len(names) != 0 {
		t.Errorf("the directory has %v", names)
	}
}
