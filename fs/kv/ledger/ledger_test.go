package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, store kv.Store, key *crypto.DataKey) *Ledger {
	t.Helper()
	l, err := Open(store, key)
	check(t, err)
	return l
}

func put(t testing.TB, l *Ledger, kind byte, id, doc string) {
	t.Helper()
	check(t, l.Update(func(tx *Tx) error { tx.Put(kind, id, []byte(doc)); return nil }))
}

func list(t testing.TB, l *Ledger, kind byte) []string {
	t.Helper()
	var got []string
	check(t, l.Each(kind, func(id string, doc []byte) error {
		got = append(got, id+"="+string(doc))
		return nil
	}))
	return got
}

func TestLedger(t *testing.T) {
	store, key := sealed.New(memkv.New(), crypto.NewDataKey()), crypto.NewDataKey()
	l := open(t, store, key)
	if l.Version() != 0 || list(t, l, 'U') != nil {
		t.Error("a new ledger is not empty")
	}
	check(t, l.Update(func(tx *Tx) error {
		tx.Put('U', "bob", []byte("1"))
		tx.Put('U', "alice", []byte("1"))
		tx.Put('V', "alice", nil)
		tx.Put('U', "gone", []byte("1"))
		tx.Delete('U', "gone")
		if d, ok := tx.Get('U', "bob"); !ok || string(d) != "1" {
			t.Errorf("own write: %q, %t", d, ok)
		}
		if _, ok := l.Get('U', "bob"); ok {
			t.Error("a write was visible before its update ended")
		}
		return nil
	}))
	put(t, l, 'U', "bob", "2")
	check(t, l.Update(func(tx *Tx) error { tx.Delete('U', "never"); return nil }))
	if l.Version() != 2 {
		t.Errorf("version %d, want 2: an update without changes does not count", l.Version())
	}
	boom := errors.New("boom")
	if err := l.Update(func(tx *Tx) error { tx.Delete('U', "bob"); return boom }); !errors.Is(err, boom) {
		t.Errorf("aborted update: %v", err)
	}
	for range 2 {
		if got := list(t, l, 'U'); !slices.Equal(got, []string{"alice=1", "bob=2"}) {
			t.Errorf("documents %q", got)
		}
		if got := list(t, l, 'V'); !slices.Equal(got, []string{"alice="}) {
			t.Errorf("documents %q", got)
		}
		if d, ok := l.Get('V', "alice"); !ok || d == nil && len(d) != 0 {
			t.Errorf("empty document: %v, %t", d, ok)
		}
		l = open(t, store, key)
	}
	if err := l.Update(func(tx *Tx) error { tx.Put('U', string(make([]byte, maxID+1)), nil); return nil }); !errors.Is(err, kv.ErrTooBig) {
		t.Errorf("long id: %v", err)
	}
	if err := l.Update(func(tx *Tx) error { tx.Put('U', "x", make([]byte, kv.MaxValueSize)); return nil }); !errors.Is(err, kv.ErrTooBig) {
		t.Errorf("long document: %v", err)
	}
	if err := l.Each('U', func(string, []byte) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("Each: %v", err)
	}
	open(t, store, key)
}

// rows returns the inner rows of a ledger.
func rows(t *testing.T, s kv.Store) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	check(t, s.View(func(r kv.Reader) error {
		return r.Scan(nil, nil, func(k, v []byte) (bool, error) { all[string(k)] = bytes.Clone(v); return true, nil })
	}))
	return all
}

func restore(t *testing.T, s kv.Store, want map[string][]byte) {
	t.Helper()
	now := rows(t, s)
	check(t, s.Update(func(tx kv.Txn) error {
		for k := range now {
			tx.Delete([]byte(k))
		}
		for k, v := range want {
			tx.Set([]byte(k), v)
		}
		return nil
	}))
}

// TestTampering is somebody who can write into the files but has no key: every row, the root's too, is removed, replaced by each
// of its older versions, moved, or copied in from another ledger.
func TestTampering(t *testing.T) {
	inner, rowKey, key := memkv.New(), crypto.NewDataKey(), crypto.NewDataKey()
	store := sealed.New(inner, rowKey)
	l := open(t, store, key)
	var history []map[string][]byte
	for i := range 4 {
		put(t, l, 'K', "rotated", fmt.Sprint("version ", i))
		put(t, l, 'G', fmt.Sprint("grant", i), "doc")
		if i == 2 {
			check(t, l.Update(func(tx *Tx) error { tx.Delete('G', "grant0"); return nil }))
		}
		history = append(history, rows(t, inner))
	}
	now := history[len(history)-1]
	for k := range now {
		if bytes.Contains([]byte(k), []byte("grant")) || bytes.Contains([]byte(k), []byte("rot")) {
			t.Errorf("row key %q shows an id", k)
		}
	}
	noticed := func(what string, changed map[string][]byte) {
		t.Helper()
		restore(t, inner, changed)
		if _, err := Open(store, key); !errors.Is(err, kv.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for k := range now {
		changed := maps.Clone(now)
		delete(changed, k)
		noticed(fmt.Sprintf("removed %x", k), changed)
		for i, old := range history[:len(history)-1] {
			if v, ok := old[k]; ok && !bytes.Equal(v, now[k]) {
				changed := maps.Clone(now)
				changed[k] = v
				noticed(fmt.Sprintf("row %x as of %d", k, i), changed)
			}
		}
		for other := range now {
			if other != k {
				changed := maps.Clone(now)
				changed[k] = now[other]
				noticed("moved", changed)
			}
		}
	}
	for i, old := range history[:len(history)-1] {
		changed := maps.Clone(now)
		n := 0
		for k, v := range old {
			if _, ok := now[k]; !ok {
				changed[k] = v
				n++
			}
		}
		if n > 0 {
			noticed(fmt.Sprintf("deleted row of %d came back", i), changed)
		}
	}
	only := map[string][]byte{string(rootKey): now[string(rootKey)]}
	noticed("only the root row", only)
	restore(t, inner, now)
	open(t, store, key)
	if _, err := Open(store, crypto.NewDataKey()); !errors.Is(err, kv.ErrCorrupt) {
		t.Errorf("wrong key: %v", err)
	}
}

// TestSealerTampering is somebody who could seal rows but has not the ledger's key: an added row and a wrong place are noticed.
func TestSealerTampering(t *testing.T) {
	store, key := memkv.New(), crypto.NewDataKey()
	l := open(t, store, key)
	put(t, l, 'K', "one", "doc")
	now := rows(t, store)
	for what, c := range map[string]struct{ key, value []byte }{
		"added row":         {append([]byte("LK"), make([]byte, hashSize)...), row{1, "one", []byte("doc")}.encode()},
		"added with no key": {[]byte("L"), row{1, "one", nil}.encode()},
		"another kind":      {l.codec.rowKey('X', "one"), row{1, "one", []byte("doc")}.encode()},
		"foreign document":  {l.codec.rowKey('K', "two"), row{1, "two", nil}.encode()},
		"bad format":        {l.codec.rowKey('K', "one"), []byte{9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9}},
		"short":             {l.codec.rowKey('K', "one"), []byte{format}},
		"short root":        {rootKey, []byte{format}},
		"root of format 2":  {rootKey, append([]byte{2}, make([]byte, rootLength-1)...)},
		"root of version 0": {rootKey, root{}.encode()},
	} {
		changed := maps.Clone(now)
		changed[string(c.key)] = c.value
		restore(t, store, changed)
		if _, err := Open(store, key); !errors.Is(err, kv.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestFaults fails every operation of the store once, in both ways: afterwards memory and store say the same, and an update
// that succeeds is there.
func TestFaults(t *testing.T) {
	for _, op := range []kvtest.Op{kvtest.Update, kvtest.Sync} {
		for _, how := range []kvtest.Fault{kvtest.NotApplied, kvtest.Applied} {
			for _, reading := range []bool{true, false} { // can the state be read again at once?
				store := kvtest.NewFaulty(memkv.New(), nil)
				key := crypto.NewDataKey()
				l := open(t, store, key)
				put(t, l, 'K', "a", "1")
				store.Decide(func(o kvtest.Op, n int) (kvtest.Fault, error) {
					if o == op && n == 0 {
						return how, nil
					}
					if o == kvtest.View && n == 0 && !reading {
						return kvtest.NotApplied, nil
					}
					return kvtest.None, nil
				})
				if err := l.Update(func(tx *Tx) error { tx.Put('K', "a", []byte("2")); return nil }); !errors.Is(err, kvtest.ErrInjected) {
					t.Fatalf("op %d fault %d: %v", op, how, err)
				}
				put(t, l, 'K', "b", "3")
				want := []string{"a=1", "b=3"}
				if op == kvtest.Sync || how == kvtest.Applied {
					want[0] = "a=2"
				}
				if got := list(t, l, 'K'); !slices.Equal(got, want) {
					t.Errorf("op %d fault %d: %q, want %q", op, how, got, want)
				}
				if got := list(t, open(t, store, key), 'K'); !slices.Equal(got, want) {
					t.Errorf("op %d fault %d, opened again: %q, want %q", op, how, got, want)
				}
			}
		}
	}
}

// TestNothingAppliedWithoutSpace keeps its state when the store has no space.
func TestNothingAppliedWithoutSpace(t *testing.T) {
	store := kvtest.NewFaulty(memkv.New(), nil)
	l := open(t, store, crypto.NewDataKey())
	put(t, l, 'K', "a", "1")
	store.Decide(func(o kvtest.Op, n int) (kvtest.Fault, error) {
		if o == kvtest.Update && n == 0 {
			return kvtest.NotApplied, kv.ErrNoSpace
		}
		return kvtest.None, nil
	})
	if err := l.Update(func(tx *Tx) error { tx.Put('K', "a", []byte("2")); return nil }); !errors.Is(err, kv.ErrNoSpace) {
		t.Fatal(err)
	}
	if d, _ := l.Get('K', "a"); string(d) != "1" || store.Count(kvtest.View) != 0 {
		t.Errorf("a = %q after ErrNoSpace", d)
	}
	put(t, l, 'K', "a", "3")
}

// TestSecondOpen has two ledgers on one store: the second to write notices.
func TestSecondOpen(t *testing.T) {
	store, key := memkv.New(), crypto.NewDataKey()
	one, two := open(t, store, key), open(t, store, key)
	put(t, one, 'K', "a", "1")
	if err := two.Update(func(tx *Tx) error { tx.Put('K', "b", nil); return nil }); !errors.Is(err, kv.ErrCorrupt) {
		t.Errorf("write over another's: %v", err)
	}
}

// TestModel applies random updates from several goroutines and compares with a map, from a printed seed.
func TestModel(t *testing.T) {
	store, key := sealed.New(memkv.New(), crypto.NewDataKey()), crypto.NewDataKey()
	l := open(t, store, key)
	rng := rand.New(rand.NewPCG(kvtest.Seed(t), 0))
	want := map[string]string{}
	for i := range 500 {
		next := maps.Clone(want)
		check(t, l.Update(func(tx *Tx) error {
			for range 1 + rng.IntN(4) {
				kind, id := byte('A'+rng.IntN(2)), fmt.Sprint(rng.IntN(20))
				if rng.IntN(3) == 0 {
					tx.Delete(kind, id)
					delete(next, string(kind)+id)
				} else {
					tx.Put(kind, id, fmt.Append(nil, i))
					next[string(kind)+id] = fmt.Sprint(i)
				}
			}
			return nil
		}))
		want = next
		if i%50 == 0 {
			l = open(t, store, key)
		}
		got := map[string]string{}
		for _, kind := range []byte("AB") {
			check(t, l.Each(kind, func(id string, doc []byte) error { got[string(kind)+id] = string(doc); return nil }))
		}
		if !maps.Equal(got, want) {
			t.Fatalf("after %d: %v, want %v", i, got, want)
		}
	}
}

func TestConcurrent(t *testing.T) {
	store, key := memkv.New(), crypto.NewDataKey()
	l := open(t, store, key)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				if err := l.Update(func(tx *Tx) error {
					n := 0
					if d, ok := tx.Get('N', "n"); ok {
						_, _ = fmt.Sscan(string(d), &n)
					}
					tx.Put('N', "n", fmt.Append(nil, n+1))
					tx.Put('W', fmt.Sprint(w, i), nil)
					return nil
				}); err != nil {
					t.Error(err)
				}
				_ = l.Each('W', func(string, []byte) error { l.Version(); return nil })
			}
		})
	}
	wg.Wait()
	if d, _ := l.Get('N', "n"); string(d) != "200" || l.Version() != 200 {
		t.Errorf("counted %s at version %d", d, l.Version())
	}
	open(t, store, key)
}

func FuzzDecodeRow(f *testing.F) {
	f.Add(row{7, "id", []byte("doc")}.encode())
	f.Add([]byte{format})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRow(b)
		if err != nil {
			if !errors.Is(err, kv.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(r.encode(), b) {
			t.Fatalf("%x decodes to %+v", b, r)
		}
	})
}

func FuzzDecodeRoot(f *testing.F) {
	f.Add(root{1, 2, sum{3, 4, 5, 6}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRoot(b)
		if err != nil {
			if !errors.Is(err, kv.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(r.encode(), b) {
			t.Fatalf("%x decodes to %+v", b, r)
		}
	})
}
