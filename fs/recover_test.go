package fs

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// forgetful is an extent store that loses what was not synced when the power is cut.
type forgetful struct {
	extent.Store
	mu       sync.Mutex
	unsynced map[extent.Ref]bool
	lost     map[extent.Ref]bool
}

func newForgetful() *forgetful {
	return &forgetful{Store: memextent.New(), unsynced: map[extent.Ref]bool{}, lost: map[extent.Ref]bool{}}
}

func (f *forgetful) Append(b []byte) (extent.Ref, error) {
	ref, err := f.Store.Append(b)
	f.mu.Lock()
	f.unsynced[ref] = true
	f.mu.Unlock()
	return ref, err
}

func (f *forgetful) Sync() error {
	f.mu.Lock()
	clear(f.unsynced)
	f.mu.Unlock()
	return f.Store.Sync()
}

func (f *forgetful) ReadAt(ref extent.Ref, p []byte, off int64) error {
	f.mu.Lock()
	lost := f.lost[ref]
	f.mu.Unlock()
	if lost {
		clear(p)
		return nil
	}
	return f.Store.ReadAt(ref, p, off)
}

// cutPower loses what was not synced and opens the volume again, without having closed it. All rows survive: the worst case, where the
// kernel wrote the rows back and not the bytes.
func (r *rig) cutPower() RecoveryReport {
	r.t.Helper()
	f := r.extents.(*forgetful)
	r.v.stop()
	r.v.flusher.wait()
	r.v.done.Wait()
	for ref := range f.unsynced {
		f.lost[ref] = true
	}
	clear(f.unsynced)
	r.open()
	return r.v.Recovery()
}

func newPowerRig(t *testing.T) *rig {
	return newRigOn(t, newForgetful())
}

func TestPowerCutKeepsOldOrShorter(t *testing.T) {
	r := newPowerRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	old := bytes.Repeat([]byte("old."), 50<<10)
	_, err := f.WriteAt(old, 0)
	r.ok(err)
	r.ok(f.Sync(false))
	r.ok(r.v.CloseEpoch())

	// Overwritten in the middle and extended, flushed but never synced.
	_, err = f.WriteAt(bytes.Repeat([]byte("new!"), 20<<10), 10000)
	r.ok(err)
	_, err = f.Append(bytes.Repeat([]byte("tail"), 30<<10))
	r.ok(err)
	r.ok(f.Flush())
	rep := r.cutPower()
	if !rep.Unclean || len(rep.Files) != 1 || rep.Files[0].Size != uint64(len(old)) {
		t.Fatalf("%+v", rep)
	}
	if got := r.read(r.file(f.Ino())); !bytes.Equal(got, old) {
		t.Fatalf("%d bytes, first difference at %d", len(got), diff(got, old))
	}
	// Everything is as before a second cut too, and writing goes on.
	r.cutPower()
	g := r.file(f.Ino())
	if got := r.read(g); !bytes.Equal(got, old) {
		t.Fatal("second opening changed the file")
	}
	_, err = g.WriteAt([]byte("again"), 0)
	r.ok(err)
	r.ok(g.Close())
}

func TestPowerCutOfNewFileIsEmptyNotZeros(t *testing.T) {
	r := newPowerRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	_, err := f.WriteAt(bytes.Repeat([]byte{7}, 100<<10), 0)
	r.ok(err)
	r.ok(f.Flush())
	r.cutPower()
	if got := r.read(r.file(f.Ino())); len(got) != 0 {
		t.Fatalf("%d bytes that nobody wrote", len(got))
	}
}

func TestPowerCutRestoresInline(t *testing.T) {
	r := newPowerRig(t)
	f := r.create(r.bucket("b"), "f")
	small := bytes.Repeat([]byte("s"), 5000)
	_, err := f.WriteAt(small, 0)
	r.ok(err)
	r.ok(f.Sync(false))
	_, err = f.WriteAt(bytes.Repeat([]byte("L"), 200<<10), 0)
	r.ok(err)
	r.ok(f.Flush())
	rep := r.cutPower()
	// The size before the epoch was 5000 when the first extent came in it.
	if got := r.read(r.file(f.Ino())); !bytes.Equal(got, small) {
		t.Fatalf("got %d bytes; %+v", len(got), rep)
	}
}

// TestPowerCutAfterReplacingRename: without any fsync the new name has the old content or the new, complete.
func TestPowerCutAfterReplacingRename(t *testing.T) {
	for _, evicted := range []bool{false, true} {
		r := newPowerRig(t)
		b := r.bucket("b")
		f := r.create(b, "f")
		_, err := f.WriteAt(bytes.Repeat([]byte("old."), 10<<10), 0)
		r.ok(err)
		r.ok(f.Close())
		r.ok(r.v.Sync())
		g := r.create(b, "g")
		want := bytes.Repeat([]byte("new!"), 30<<10)
		_, err = g.WriteAt(want, 0)
		r.ok(err)
		r.ok(g.Close())
		if evicted {
			r.v.cache.drop(g.n)
		}
		_, err = r.v.Rename(b, "g", b, "f", 0)
		r.ok(err)
		r.cutPower()
		a, err := r.v.Lookup(b, "f")
		r.ok(err)
		if got := r.read(r.file(a.Ino)); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes", len(got))
		}
	}
}

func TestSyncedSurvivesPowerCut(t *testing.T) {
	r := newPowerRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	want := []byte{}
	for i := range 200 {
		p := bytes.Repeat([]byte{byte(i + 1)}, 3000+i*100)
		_, err := f.Append(p)
		r.ok(err)
		want = append(want, p...)
		if i%3 == 0 {
			r.ok(f.Flush())
		}
	}
	r.ok(f.Sync(false))
	if rep := r.cutPower(); len(rep.Files) != 0 {
		t.Fatalf("%+v", rep)
	}
	if got := r.read(r.file(f.Ino())); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
}

func TestOlderRowsAreRefused(t *testing.T) {
	r := newPowerRig(t)
	r.bucket("b")
	r.ok(r.v.CloseEpoch())
	r.ok(r.v.Close())
	r.anchor.state.Epoch += 3
	_, err := Open(Config{KV: r.kv, Extents: r.extents, Key: r.key, Anchor: r.anchor, EpochEvery: -1})
	r.want(ErrOlder, err)
	v, err := Open(Config{KV: r.kv, Extents: r.extents, Key: r.key, Anchor: r.anchor, EpochEvery: -1, AcceptOlder: true})
	r.ok(err)
	r.ok(v.Close())
}

func TestFileAnchor(t *testing.T) {
	path := t.TempDir() + "/epoch"
	key := crypto.NewDataKey()
	a, err := OpenFileAnchor(path, key)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(5) {
		if err := a.Store(AnchorState{Epoch: i, Clean: i == 4}); err != nil {
			t.Fatal(err)
		}
	}
	_ = a.Close()
	a, _ = OpenFileAnchor(path, key)
	if s, err := a.Load(); err != nil || s != (AnchorState{4, true}) {
		t.Fatal(s, err)
	}
	_ = a.Close()
	a, _ = OpenFileAnchor(path, crypto.NewDataKey())
	if _, err := a.Load(); err == nil {
		t.Fatal("another key opened the epoch file")
	}
	_ = a.Close()
}

// The epoch file also keeps what somebody else wants to be reminded of, beside the epoch and independently of it.
func TestFileAnchorWitness(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "epoch"), crypto.NewDataKey()
	open := func() *FileAnchor {
		t.Helper()
		a, err := OpenFileAnchor(path, key)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		return a
	}
	want := func(state AnchorState, w Witness) {
		t.Helper()
		a := open()
		if got, err := a.Witness(); err != nil || got != w {
			t.Errorf("%v %v, want %v", got, err, w)
		}
		if got, err := a.Load(); err != nil || got != state {
			t.Errorf("%v %v, want %v", got, err, state)
		}
	}
	want(AnchorState{}, Witness{})
	// A slot as it was written before there were witnesses.
	body := binary.BigEndian.AppendUint64([]byte(anchorMagicOld), 7)
	body = append(binary.BigEndian.AppendUint64(body, 33), 1)
	slot := make([]byte, 2*anchorSlot)
	copy(slot[anchorSlot:], append(body, open().mac(body)...))
	if err := os.WriteFile(path, slot, 0o600); err != nil {
		t.Fatal(err)
	}
	want(AnchorState{33, true}, Witness{})

	a, first, second := open(), Witness{1, 39: 2}, Witness{3}
	if _, err := a.Load(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		do    func() error
		state AnchorState
		w     Witness
	}{
		{func() error { return a.SetWitness(first) }, AnchorState{33, true}, first},
		{func() error { return a.Store(AnchorState{34, false}) }, AnchorState{34, false}, first},
		{func() error { return a.SetWitness(second) }, AnchorState{34, false}, second},
		{func() error { return a.Store(AnchorState{35, true}) }, AnchorState{35, true}, second},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		want(step.state, step.w)
	}
	// A torn write leaves the state before.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[int(a.seq%2)*anchorSlot+30] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	want(AnchorState{34, false}, second)
}

// TestManyCoveredPieces writes every second block of a file over and loses the power: a flush of so many pieces has made its bytes durable
// before its rows, instead of remembering each piece.
func TestManyCoveredPieces(t *testing.T) {
	r := newPowerRig(t)
	f := r.create(r.bucket("b"), "f")
	const size = 2 * manyCovered * 4096
	want := bytes.Repeat([]byte("old."), size/4)
	_, err := f.WriteAt(want, 0)
	r.ok(err)
	r.ok(f.Sync(false))
	r.ok(r.v.CloseEpoch())
	p := bytes.Repeat([]byte("new."), 1024)
	for off := int64(0); off < size; off += 8192 {
		_, err := f.WriteAt(p, off)
		r.ok(err)
		copy(want[off:], p)
	}
	r.ok(f.Flush())
	r.ok(r.v.Rows().View(func(rows *meta.Reader) error {
		return rows.Replacements(0, math.MaxUint64, func(_, _ uint64, x meta.Replaced) (bool, error) {
			t.Errorf("a piece is remembered: %+v", x)
			return false, nil
		})
	}))
	rep := r.cutPower()
	if rep.Checked == 0 || len(rep.Files) > 0 {
		t.Errorf("recovery: %+v", rep)
	}
	g := r.file(f.Ino())
	if !bytes.Equal(r.read(g), want) {
		t.Error("content lost")
	}
	r.ok(g.Close())
}
