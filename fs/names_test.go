package fs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// rowsIn is the entries of a directory as the rows have them, by the hash of their names.
func (r *rig) rowsIn(dir Ino) map[uint64]meta.Dentry {
	r.t.Helper()
	m := map[uint64]meta.Dentry{}
	r.ok(r.v.db.View(func(t *meta.Reader) error {
		return t.Entries(dir, 0, func(d meta.Dentry, _ uint64) bool {
			m[r.v.db.NameHash(d.Name)] = d
			return true
		})
	}))
	return m
}

// wantNames compares what is kept of names with the rows, and the count with what is kept. It says of how many directories names are kept.
func (r *rig) wantNames() (dirs int) {
	r.t.Helper()
	r.v.cache.each(func(n *inode) {
		d := n.names.Load()
		if d == nil {
			return
		}
		dirs++
		if rows := r.rowsIn(n.ino); !maps.Equal(rows, d.m) {
			r.t.Fatalf("of directory %d is kept %v, the rows have %v", n.ino, d.m, rows)
		}
	})
	t := &r.v.names
	count := namesDir * len(t.dirs)
	seen := map[*inode]bool{}
	for _, n := range t.dirs {
		if d := n.names.Load(); d != nil && !seen[n] {
			count += len(d.m)
		}
		seen[n] = true
	}
	if t.count != count {
		r.t.Fatalf("%d entries are counted, %d kept", t.count, count)
	}
	return dirs
}

// TestNames does random operations, some of which fail before or after they took effect, and compares what is kept of names with the rows
// after each.
func TestNames(t *testing.T) {
	rows := kvtest.NewFaulty(memkv.New(), nil)
	r := newRigWith(t, rows, memextent.New())
	rng := rand.New(rand.NewPCG(kvtest.Seed(t), 0))
	dirs := []Ino{r.bucket("one")}
	name := func() string { return fmt.Sprint(rng.IntN(12)) }
	dir := func() Ino { return dirs[rng.IntN(len(dirs))] }
	kept, failed := 0, 0
	for i := range 1500 {
		if rng.IntN(10) == 0 { // the next commit
			fault := kvtest.NotApplied
			if r.v.unborn.count.Load() == 0 && rng.IntN(2) == 0 { // a birth that took effect and failed is not tried again
				fault = kvtest.Applied
			}
			before := rows.Count(kvtest.Update)
			rows.Decide(func(op kvtest.Op, n int) (kvtest.Fault, error) {
				if op == kvtest.Update && n == before {
					return fault, nil
				}
				return kvtest.None, nil
			})
		}
		d, e, a, b := dir(), dir(), name(), name()
		var err error
		switch rng.IntN(12) {
		case 0, 1:
			_, err = r.v.Make(d, a, New{Type: FIFO})
		case 2:
			var made Attr
			if made, err = r.v.Make(d, a, New{Type: Directory}); err == nil {
				dirs = append(dirs, made.Ino)
			}
		case 3, 4:
			_, err = r.v.Make(d, a, New{Type: Regular, Later: true, Sealing: Sealing{Method: SSES3, Keys: []FileKey{{Wrapped: []byte("w")}}}})
		case 5, 6:
			_, err = r.v.Unlink(d, a)
		case 7:
			_, err = r.v.Rmdir(d, a)
		case 8:
			_, err = r.v.Rename(d, a, e, b, []RenameFlags{0, RenameExchange, RenameNoReplace}[rng.IntN(3)])
		case 9:
			var x Attr
			if x, err = r.v.Lookup(d, a); err == nil {
				_, err = r.v.Link(x.Ino, e, b)
			}
		case 10:
			stop := rng.IntN(12)
			err = r.v.ReadDir(d, 0, func(Dirent) bool { stop--; return stop != 0 })
		case 11:
			if rng.IntN(20) == 0 {
				r.v.DropCaches()
				if len(r.v.names.dirs) != 0 || r.v.names.count != 0 {
					t.Fatal("names are kept after all caches were dropped")
				}
			}
			_, err = r.v.Lookup(d, a)
		}
		if err != nil {
			failed++
		}
		rows.Decide(nil)
		kept += r.wantNames()
		for _, n := range []string{a, b} {
			want := r.rowsIn(d)[r.v.db.NameHash(n)].Ino
			if x := r.v.unborn.find(d, n); x != nil {
				want = x.ino
			}
			if got, _ := r.v.entry(d, n); got.Ino != want {
				t.Fatalf("step %d: %s in directory %d is %d, want %d", i, n, d, got.Ino, want)
			}
		}
	}
	if kept < 1500 || failed < 150 {
		t.Errorf("names were kept of %d directories in all steps, %d operations failed", kept, failed)
	}
}

// TestNamesBound: not more is kept than is allowed, of one directory and of all, and who is let go is found in the rows.
func TestNamesBound(t *testing.T) {
	r := newRig(t)
	b := r.bucket("one")
	var dirs []Ino
	const per = 3000
	for i := range namesInAll/per + 3 {
		dirs = append(dirs, r.mkdir(b, fmt.Sprint(i)))
		r.ok(r.v.with(dirs[i], func(n *inode) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			for j := range per {
				name := fmt.Sprint(j)
				r.v.names.apply(n, meta.NameChange{Dir: n.ino, Hash: r.v.db.NameHash(name), Dentry: meta.Dentry{Name: name, Ino: 5, Type: FIFO}})
			}
			return nil
		}))
		if r.v.names.count > namesInAll {
			t.Fatalf("%d entries are kept", r.v.names.count)
		}
	}
	last := dirs[len(dirs)-1]
	if d, err := r.v.entry(last, "7"); err != nil || d.Ino != 5 {
		t.Errorf("kept: %+v %v", d, err)
	}
	if _, err := r.v.entry(dirs[0], "7"); err == nil {
		t.Error("the oldest is still kept")
	}
	r.ok(r.v.with(last, func(n *inode) error {
		n.mu.Lock()
		defer n.mu.Unlock()
		for j := range namesOfOne {
			name := fmt.Sprint("x", j)
			r.v.names.apply(n, meta.NameChange{Dir: n.ino, Hash: r.v.db.NameHash(name), Dentry: meta.Dentry{Name: name, Ino: 5, Type: FIFO}})
		}
		if n.names.Load() != nil {
			t.Error("a directory with very many entries is kept")
		}
		return nil
	}))
}

// TestNamesOfOneHash: a directory in which two names have one hash is not kept.
func TestNamesOfOneHash(t *testing.T) {
	r := newRig(t)
	b := r.bucket("one")
	has := func(want bool) {
		t.Helper()
		r.ok(r.v.with(b, func(n *inode) error {
			if got := n.names.Load() != nil; got != want {
				t.Errorf("kept: %v", got)
			}
			return nil
		}))
	}
	n, err := r.v.get(b)
	r.ok(err)
	defer r.v.put(n)
	one := meta.Dentry{Name: "one", Ino: 5, Type: FIFO}
	for _, c := range []meta.NameChange{
		{Dir: b, Hash: 7, Tie: 1, Dentry: one},
		{Dir: b, Hash: 7, Dentry: one, Removed: true},
	} {
		has(true)
		n.mu.Lock()
		r.v.names.apply(n, c)
		n.mu.Unlock()
		has(false)
		r.list(b)
	}
	has(true)
	r.v.names.forget(n)
	row := n.row.Clone()
	row.Rows.Count = 2
	n.row = row
	l := &listing{}
	l.add(one, 100)
	l.add(meta.Dentry{Name: "two", Ino: 6, Type: FIFO}, 101) // neighbours: both have the hash 101
	r.v.listed(n, row, l)
	has(false)
	l.cookies[1] = 102
	r.v.listed(n, row.Clone(), l) // another row by now
	has(false)
	r.v.listed(n, row, l)
	has(true)
}

// TestNamesBesideListings lists a directory again and again from several goroutines while its entries change.
func TestNamesBesideListings(t *testing.T) {
	r := newRig(t)
	b := r.bucket("one")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = r.v.ReadDir(b, 0, func(Dirent) bool { return true })
				r.v.names.drop()
			}
		})
	}
	for i := range 2000 {
		name := fmt.Sprint(i % 20)
		if _, err := r.v.Make(b, name, New{Type: FIFO}); err != nil {
			r.want(ErrExists, err)
			_, err = r.v.Unlink(b, name)
			r.ok(err)
		}
		_, err := r.v.entry(b, name)
		if want := r.rowsIn(b)[r.v.db.NameHash(name)].Ino; (err == nil) != (want != 0) {
			t.Fatalf("%s: %v, and the rows have %d", name, err, want)
		}
	}
	close(stop)
	wg.Wait()
	r.wantNames()
}
