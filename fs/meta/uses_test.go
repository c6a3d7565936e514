package meta

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// useRig is a DB with files that have nothing but a number and a key.
type useRig struct {
	*testing.T
	store kv.Store
	db    *DB
}

func newUseRig(t *testing.T) *useRig {
	s := memkv.New()
	return &useRig{t, s, NewDB(s, testKey(t))}
}

func (r *useRig) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func underKey(i Ino, arn string) *Inode {
	n := &Inode{Ino: i, Type: Regular, Nlink: 1, Sealing: Sealing{Method: SSES3, Keys: []FileKey{{1, []byte("w")}}}, NextKey: 2}
	if arn != "" {
		n.Sealing.Method, n.Sealing.KeyARN = SSEKMS, arn
	}
	return n
}

func (r *useRig) put(i Ino, arn string) {
	r.Helper()
	r.ok(r.db.Update(func(t *Tx) error { t.PutInode(underKey(i, arn)); return nil }))
}

func (r *useRig) remove(i Ino) {
	r.Helper()
	r.ok(r.db.Update(func(t *Tx) error { t.Bury(underKey(i, ""), 1, false); return nil }))
}

// files are those under a key, by the index; by the rows they must be the same.
func (r *useRig) files(arn string) (got []Ino) {
	r.Helper()
	var want []Ino
	r.ok(r.db.View(func(rd *Reader) error {
		err := rd.EachUse(func(u Use, err error) error {
			if string(u.KeyARN) == arn {
				want = append(want, u.Ino)
			}
			return err
		})
		if err != nil {
			return err
		}
		return rd.KeyUses(arn, 0, func(i Ino) bool { got = append(got, i); return true })
	}))
	if !slices.Equal(got, want) {
		r.Fatalf("the index of %s leads to %v, the rows say %v", arn, got, want)
	}
	return got
}

func (r *useRig) rows() (all []KeyUse) {
	r.Helper()
	r.ok(r.db.View(func(rd *Reader) error {
		return rd.EachKeyUse(func(u KeyUse, err error) error { all = append(all, u); return err })
	}))
	return all
}

func (r *useRig) sweep() (rows, swept int) {
	r.Helper()
	rows, swept, err := r.db.SweepKeyUses(context.Background())
	r.ok(err)
	return rows, swept
}

// TestKeyUses: one row for 256 files, none for a change of something else, and what is left behind leads to nothing and goes.
func TestKeyUses(t *testing.T) {
	r := newUseRig(t)
	for i := Ino(200); i < 600; i++ {
		r.put(i, "arn:a")
	}
	r.put(100_000, "arn:a")
	r.put(100_001, "")
	if got := r.files("arn:a"); len(got) != 401 {
		t.Fatalf("%d files", len(got))
	}
	if n := len(r.rows()); n != 4 { // blocks 0, 1, 2 and 390
		t.Fatalf("%d rows", n)
	}
	for i := Ino(200); i < 600; i++ {
		if i%2 == 0 {
			r.put(i, "arn:b")
		} else if i > 300 {
			r.remove(i)
		}
	}
	r.put(100_000, "arn:b")
	if got := r.files("arn:a"); len(got) != 50 {
		t.Fatalf("%d files", len(got))
	}
	r.files("arn:b")
	var some []Ino
	r.ok(r.db.View(func(rd *Reader) error {
		return rd.KeyUses("arn:b", 513, func(i Ino) bool { some = append(some, i); return len(some) < 43 })
	}))
	if len(some) != 43 || some[0] != 514 || some[42] != 598 {
		t.Fatalf("from 513 on: %v", some)
	}
	if rows, swept := r.sweep(); rows != 8 || swept != 2 {
		t.Fatalf("%d of %d rows swept", swept, rows)
	}
	if got := r.files("arn:a"); len(got) != 50 {
		t.Fatalf("%d files", len(got))
	}
	r.put(550, "arn:a") // its row was known before the sweep
	if got := r.files("arn:a"); len(got) != 51 {
		t.Fatalf("%d files", len(got))
	}
	seen := 0
	r.ok(r.db.EachUseSweeping("arn:b", func(_ Use, err error) error { seen++; return err }))
	if rows, swept := r.sweep(); rows != 7 || swept != 0 || seen != len(r.files("arn:a"))+len(r.files("arn:b"))+1 {
		t.Fatalf("%d of %d rows swept, %d seen", swept, rows, seen)
	}
	for _, i := range r.files("arn:b") {
		r.remove(i)
	}
	r.ok(r.db.EachUseSweeping("arn:b", func(_ Use, err error) error { return err }))
	if rows, swept := r.sweep(); rows != 3 || swept != 0 {
		t.Fatalf("%d of %d rows swept", swept, rows)
	}
	stop := errors.New("stop")
	r.remove(550)
	if err := r.db.EachUseSweeping("arn:a", func(Use, error) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if rows, swept := r.sweep(); rows != 3 || swept != 1 {
		t.Fatalf("%d of %d rows swept", swept, rows)
	}
}

// TestSweepBesideCommits has files come under the key between a sweep's snapshot and its end, in every way there is.
func TestSweepBesideCommits(t *testing.T) {
	const arn = "arn:a"
	for name, step := range map[string]func(r *useRig){
		"the row written anew":         func(r *useRig) { r.put(5, arn) },
		"and relied on":                func(r *useRig) { r.put(5, arn); r.put(6, arn); r.remove(5) },
		"known ones forgotten between": func(r *useRig) { r.put(5, arn); r.db.uses.known = nil },
		"another block":                func(r *useRig) { r.put(5, arn); r.put(1000, arn) },
		"an aborted one, then another": func(r *useRig) {
			abort := errors.New("abort")
			if err := r.db.Update(func(t *Tx) error { t.PutInode(underKey(5, arn)); return abort }); !errors.Is(err, abort) {
				r.Fatal(err)
			}
			r.put(6, arn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newUseRig(t)
			r.put(1, arn)
			r.remove(1)
			_, err := r.db.sweep(r.db.keyHash(arn), func(rd *Reader, empty blocks) error {
				if got := empty.list(); !slices.Equal(got, []uint64{0}) {
					t.Fatal(got)
				}
				done := make(chan struct{})
				go func() { defer close(done); step(r) }()
				<-done
				return nil
			})
			r.ok(err)
			if len(r.files(arn)) == 0 {
				t.Fatal("the file is lost")
			}
		})
	}
}

// TestSweepWaitsForCommits: a commit that relies on a known row is either in the snapshot of a sweep or finds the row unknown.
func TestSweepWaitsForCommits(t *testing.T) {
	const arn = "arn:a"
	r := newUseRig(t)
	r.put(1, arn)
	r.remove(1)
	written, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 2)
	go func() {
		done <- r.db.Update(func(t *Tx) error {
			t.PutInode(underKey(2, arn)) // the row of its block is known
			close(written)
			<-goOn
			return nil
		})
	}()
	<-written
	var looked atomic.Bool
	go func() {
		_, err := r.db.sweep(r.db.keyHash(arn), func(rd *Reader, empty blocks) error {
			looked.Store(true)
			return rd.removeUsed(context.Background(), r.db.keyHash(arn), empty.list(), empty)
		})
		done <- err
	}()
	for !looked.Load() && r.db.uses.gate.TryRLock() { // until the sweep waits at the gate
		r.db.uses.gate.RUnlock()
	}
	if looked.Load() {
		t.Error("the sweep took its snapshot beside a commit")
	}
	close(goOn)
	r.ok(<-done)
	r.ok(<-done)
	if got := r.files(arn); !slices.Equal(got, []Ino{2}) {
		t.Fatal(got)
	}
}

// slowStore calls after when a transaction was committed and its Update has not returned.
type slowStore struct {
	kv.Store
	after func()
}

func (s *slowStore) Update(fn func(kv.Txn) error) error {
	err := s.Store.Update(fn)
	s.after()
	return err
}

// TestSweepEndsAfterCommits: a row that was committed and is not noted yet is not deleted.
func TestSweepEndsAfterCommits(t *testing.T) {
	const arn = "arn:a"
	r := newUseRig(t)
	r.put(1, arn)
	r.remove(1)
	committed, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	r.db.store = &slowStore{r.store, func() {
		once.Do(func() { close(committed); <-goOn })
	}}
	_, err := r.db.sweep(r.db.keyHash(arn), func(*Reader, blocks) error {
		go func() {
			done <- r.db.Update(func(t *Tx) error { t.PutInode(underKey(2, arn)); return nil })
		}()
		<-committed
		go func() { // once the sweep waits at the gate, or would have gone on
			for range 1000 {
				if !r.db.uses.gate.TryRLock() {
					break
				}
				r.db.uses.gate.RUnlock()
				runtime.Gosched()
			}
			close(goOn)
		}()
		return nil
	})
	r.ok(err)
	r.ok(<-done)
	if got := r.files(arn); !slices.Equal(got, []Ino{2}) {
		t.Fatal(got)
	}
}

// TestKeyUsesModel changes files at random from several goroutines while others sweep, and compares with what was done.
func TestKeyUsesModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := newUseRig(t)
	arns := []string{"", "arn:a", "arn:b", "arn:c"}
	model := make([]map[Ino]string, 4)
	var workers, sweepers sync.WaitGroup
	stop := make(chan struct{})
	for w := range model {
		model[w] = map[Ino]string{}
		rng := rand.New(rand.NewPCG(seed, uint64(w)))
		workers.Go(func() {
			for range 1000 {
				i := Ino(rng.IntN(12)*64*4 + rng.IntN(4)*4 + w) // few files in many blocks, which all share
				var arn string
				if rng.IntN(3) > 0 {
					arn = arns[rng.IntN(len(arns))]
					r.put(i, arn)
					model[w][i] = arn
				} else {
					r.remove(i)
					delete(model[w], i)
				}
			}
		})
	}
	for s := range 2 {
		sweepers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if s == 0 {
					r.sweep()
				} else {
					r.ok(r.db.EachUseSweeping("arn:a", func(_ Use, err error) error { return err }))
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	sweepers.Wait()
	want := map[string][]Ino{}
	for _, m := range model {
		for i, arn := range m {
			want[arn] = append(want[arn], i)
		}
	}
	for _, arn := range arns[1:] {
		if got := r.files(arn); !slices.Equal(got, slices.Sorted(slices.Values(want[arn]))) {
			t.Fatalf("%s: %v, want %v", arn, got, want[arn])
		}
	}
	r.sweep()
	if rows, swept := r.sweep(); swept != 0 || rows > 36 {
		t.Errorf("%d of %d rows swept after all", swept, rows)
	}
}

// TestUpgradeKeyUses: the rows of version 1 lead to the same files, also if it was interrupted anywhere, and go afterwards.
func TestUpgradeKeyUses(t *testing.T) {
	r := newUseRig(t)
	old := map[string][]Ino{}
	for i := Ino(0); i < 3*dropBite; i++ {
		ino := i * (1 + i%7*50)
		arn := fmt.Sprintf("arn:%d", i%3)
		if slices.Contains(old[arn], ino) || ino == 0 {
			continue
		}
		old[arn] = append(old[arn], ino)
		h := r.db.keyHash(arn)
		r.ok(r.store.Update(func(tx kv.Txn) error {
			tx.Set(inodeKey(ino), encodeInode(underKey(ino, arn)))
			tx.Set(append(append([]byte{'k'}, h[:]...), key1(0, uint64(ino))[1:]...), []byte{rowVersion})
			return nil
		}))
	}
	owner := map[Ino]string{}
	for _, arn := range slices.Sorted(maps.Keys(old)) {
		for _, i := range old[arn] {
			owner[i] = arn // the last inode row wins
		}
	}
	for range 2 { // the second time over what the first has written
		_, err := r.db.UpgradeKeyUses()
		r.ok(err)
	}
	total := 0
	for arn := range old {
		total += len(r.files(arn))
	}
	if total != len(owner) {
		t.Fatalf("%d files of %d", total, len(owner))
	}
	count := func() (n int) {
		r.ok(r.store.View(func(rd kv.Reader) error {
			return rd.Scan([]byte{'k'}, []byte{'l'}, func(_, _ []byte) (bool, error) { n++; return true, nil })
		}))
		return n
	}
	if count() < dropBite {
		t.Fatal("the older rows are gone before they may")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.db.DropFileUses(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r.ok(r.db.DropFileUses(context.Background()))
	if n := count(); n != 0 {
		t.Fatalf("%d older rows are left", n)
	}
	for arn := range old {
		r.files(arn)
	}
}
