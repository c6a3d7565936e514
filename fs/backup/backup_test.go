package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	volume "github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/backup"
	"github.com/kmsfs/kmsfs/fs/check"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/fs/meta"
)

var (
	storeID = [16]byte{1, 2, 3}
	now     = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	discard = slog.New(slog.DiscardHandler)
)

// rig is a store without a keystore: a volume over memory and segments, two shred keys and a log.
type rig struct {
	t                       *testing.T
	root                    *crypto.DataKey
	rowKey, volKey, fileKey *crypto.DataKey
	engine                  kv.Store // sealed rows
	extents                 *segment.Store
	v                       *volume.Volume
	reaper                  *gc.Reaper
	bucket                  volume.Ino
	log                     string // path of the growing file
	slots                   []backup.Slot
	frozen                  bool
	dir                     string // of the backup
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{
		t: t, root: crypto.NewDataKey(), rowKey: crypto.NewDataKey(), volKey: crypto.NewDataKey(), fileKey: crypto.NewDataKey(), engine: memkv.New(),
		log: filepath.Join(t.TempDir(), "0001.audit"), dir: filepath.Join(t.TempDir(), "backup"),
		slots: []backup.Slot{{Index: 0, Owner: [16]byte{7}, Secret: bytes.Repeat([]byte{7}, 32)}, {Index: 3, Owner: [16]byte{9}, Secret: bytes.Repeat([]byte{9}, 32)}},
	}
	r.ok(os.WriteFile(r.log, []byte("first event"), 0o600))
	r.open(t.TempDir())
	b, err := r.v.Make(volume.RootIno, "bucket", volume.New{Type: volume.Directory, Bucket: &volume.Bucket{}})
	r.ok(err)
	r.bucket = b.Ino
	return r
}

func (r *rig) open(segments string) {
	r.t.Helper()
	var err error
	r.extents, err = segment.Open(segments, segment.Options{StoreID: storeID, SegmentSize: 4 << 20})
	r.ok(err)
	r.v, err = volume.Open(volume.Config{KV: sealed.New(r.engine, r.rowKey), Extents: r.extents, Key: r.volKey, StoreID: storeID, EpochEvery: -1, MergeEvery: -1, FlushAfter: -1})
	r.ok(err)
	r.reaper = gc.Start(r.v, r.extents, discard)
	r.t.Cleanup(func() {
		r.reaper.Close()
		_ = r.v.Close()
		_ = r.extents.Close()
	})
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) content(name string, size int) []byte {
	b := make([]byte, size)
	seed := [32]byte{}
	copy(seed[:], name)
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

// file writes a file whose content follows from its name and size.
func (r *rig) file(name string, size int) {
	r.t.Helper()
	a, err := r.v.Make(r.bucket, name, volume.New{Type: volume.Regular, Sealing: volume.Sealing{Method: volume.SSES3, Keys: []volume.FileKey{{Wrapped: []byte("w")}}}})
	r.ok(err)
	f, err := r.v.OpenFile(a.Ino, volume.Keys{1: r.fileKey}, nil)
	r.ok(err)
	_, err = f.WriteAt(r.content(name, size), 0)
	r.ok(err)
	r.ok(f.Close())
}

func (r *rig) read(name string) []byte {
	r.t.Helper()
	a, err := r.v.Lookup(r.bucket, name)
	r.ok(err)
	f, err := r.v.OpenFile(a.Ino, volume.Keys{1: r.fileKey}, nil)
	r.ok(err)
	b := make([]byte, a.Size)
	n, err := f.ReadAt(b, 0)
	r.ok(err)
	r.ok(f.Close())
	return b[:n]
}

func (r *rig) typed(s kv.Store) *meta.DB { return meta.NewDB(sealed.New(s, r.rowKey), r.volKey) }

func (r *rig) source() backup.Source {
	return backup.Source{
		StoreID: storeID, Header: func() ([]byte, error) { return []byte("header"), nil },
		Pin: r.reaper.Pin,
		Freeze: func() ([]backup.Slot, func(), error) {
			r.frozen = true
			slots := slices.Clone(r.slots)
			for i := range slots {
				slots[i].Secret = bytes.Clone(slots[i].Secret)
			}
			return slots, func() { r.frozen = false }, nil
		},
		Rows: r.engine, Typed: r.typed, Extents: r.extents, Position: r.extents.Position,
		Files: func() ([]backup.File, error) {
			st, err := os.Stat(r.log)
			return []backup.File{{Name: filepath.Base(r.log), Path: r.log, Size: st.Size()}}, err
		},
	}
}

func (r *rig) takeFrom(src backup.Source) (backup.Taken, error) {
	r.t.Helper()
	r.ok(r.v.Sync())
	d, err := backup.OpenForWriting(r.dir, true)
	if err != nil {
		return backup.Taken{}, err
	}
	defer d.Close()
	return d.Take(context.Background(), r.root, src, now, nil)
}

func (r *rig) take() backup.Taken {
	r.t.Helper()
	t, err := r.takeFrom(r.source())
	r.ok(err)
	if r.frozen {
		r.t.Fatal("the keys are still frozen")
	}
	return t
}

// verify opens a snapshot of the directory and reads all of it.
func (r *rig) verify(dir string, number uint64) error {
	d, err := backup.Open(dir)
	if err != nil {
		return err
	}
	s, err := d.Snapshot(r.root, storeID, number)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Verify(context.Background(), r.typed, nil)
}

// restore makes another store of a snapshot.
func (r *rig) restore(number uint64) *rig {
	r.t.Helper()
	d, err := backup.Open(r.dir)
	r.ok(err)
	s, err := d.Snapshot(r.root, storeID, number)
	r.ok(err)
	defer s.Close()
	out := &rig{t: r.t, root: r.root, rowKey: r.rowKey, volKey: r.volKey, fileKey: r.fileKey, engine: memkv.New(), bucket: r.bucket, log: filepath.Join(r.t.TempDir(), "log"), dir: r.dir}
	segments := filepath.Join(r.t.TempDir(), "segments")
	w, err := segment.NewRebuild(segments, storeID)
	r.ok(err)
	r.ok(s.Restore(context.Background(), r.typed, backup.Sink{
		Rows: out.engine, Extents: w, Position: w.Close,
		Slots: func(slots []backup.Slot) error {
			for _, s := range slots {
				out.slots = append(out.slots, backup.Slot{Index: s.Index, Owner: s.Owner, Secret: bytes.Clone(s.Secret)})
			}
			return nil
		},
		File: func(_ string, read func(func([]byte) error) error) error {
			return read(func(b []byte) error {
				old, _ := os.ReadFile(out.log)
				return os.WriteFile(out.log, append(old, b...), 0o600)
			})
		},
	}, nil))
	out.open(segments)
	return out
}

func rows(t *testing.T, s kv.Store) (out []string) {
	t.Helper()
	err := s.View(func(r kv.Reader) error {
		return r.Scan(nil, nil, func(k, v []byte) (bool, error) {
			out = append(out, fmt.Sprintf("%x=%x", k, v))
			return true, nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRestoredStoreIsTheSame takes a snapshot, goes on, and gets back what was there then.
func TestRestoredStoreIsTheSame(t *testing.T) {
	r := newRig(t)
	files := map[string]int{"empty": 0, "small": 500, "middle": 60_000, "large": 9 << 20}
	for name, size := range files {
		r.file(name, size)
	}
	a, err := r.v.Lookup(r.bucket, "small")
	r.ok(err)
	r.ok(r.v.SetXattr(a.Ino, "user.a", []byte("1"), volume.XattrEither))
	_, err = r.v.Make(r.bucket, "gone", volume.New{Type: volume.Directory})
	r.ok(err)
	taken := r.take()
	before := rows(t, r.engine)
	_, err = r.v.Unlink(r.bucket, "large")
	r.ok(err)
	r.file("later", 100_000)
	r.ok(r.v.Sync())

	b := r.restore(0)
	if got := b.extents.Position(); got.Before(extent.Position{Segment: 3}) {
		t.Errorf("addresses from %v on are given out again", got)
	}
	for name, size := range files {
		if !bytes.Equal(b.read(name), r.content(name, size)) {
			t.Errorf("%s is not what it was", name)
		}
	}
	if _, err := b.v.Lookup(b.bucket, "later"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a file of later: %v", err)
	}
	rep, err := check.Run(context.Background(), b.v, b.extents, check.Options{Data: true})
	if err != nil || !rep.Clean() || rep.Space.Unreferenced != 0 {
		t.Fatalf("%v %+v", err, rep)
	}
	if taken.Rows != int64(len(before)) || taken.Keys != 2 || taken.Number != 1 || taken.Base != 0 || taken.Added != taken.Bytes || len(taken.Lost) != 0 {
		t.Errorf("%+v", taken)
	}
	if len(b.slots) != 2 || b.slots[1].Index != 3 || !bytes.Equal(b.slots[1].Secret, r.slots[1].Secret) {
		t.Errorf("shred keys %+v", b.slots)
	}
	if log, _ := os.ReadFile(b.log); string(log) != "first event" {
		t.Errorf("the log has %q", log)
	}
	// The rows came back sealed as they were; what differs is what opening the restored volume wrote.
	after := rows(t, b.engine)
	same := 0
	for _, row := range before {
		if slices.Contains(after, row) {
			same++
		}
	}
	if same < len(before)-5 {
		t.Errorf("%d of %d rows came back as they were", same, len(before))
	}
}

// TestIncrementIsSmall wants an increment to be as large as the change, and every snapshot to stay whole.
func TestIncrementIsSmall(t *testing.T) {
	r := newRig(t)
	for i := range 300 {
		r.file(fmt.Sprint("f", i), 200)
	}
	r.file("large", 8<<20)
	full := r.take()
	r.file("one more", 50_000)
	r.ok(os.WriteFile(r.log, []byte("first event, and a second"), 0o600))
	inc := r.take()
	nothing := r.take()
	t.Logf("full %d, one file of 50,000 bytes %d, nothing %d", full.Added, inc.Added, nothing.Added)
	if full.Added < 8<<20 || inc.Added < 50_000 || inc.Added > 2<<20 || inc.Bytes < full.Bytes || inc.Base != 1 {
		t.Errorf("%+v", inc)
	}
	if nothing.Added > 200_000 {
		t.Errorf("nothing changed, and %d bytes were copied", nothing.Added)
	}
	_, err := r.v.Unlink(r.bucket, "large")
	r.ok(err)
	r.take()
	for n := uint64(1); n <= 4; n++ {
		r.ok(r.verify(r.dir, n))
	}
	if got := r.restore(2).read("one more"); !bytes.Equal(got, r.content("one more", 50_000)) {
		t.Error("the file of the increment is not what it was")
	}

	d, err := backup.OpenForWriting(r.dir, false)
	r.ok(err)
	defer d.Close()
	gone, freed, err := d.Forget(r.root, storeID, 2)
	if err != nil || !slices.Equal(gone, []uint64{1, 2}) || freed != 0 { // the third needs the packs of the first
		t.Errorf("forget: %v %d %v", gone, freed, err)
	}
	if gone, freed, err = d.Forget(r.root, storeID, 1); err != nil || len(gone) != 1 {
		t.Errorf("forget: %v %d %v", gone, freed, err)
	}
	r.ok(r.verify(r.dir, 0))
	if err := r.verify(r.dir, 3); !errors.Is(err, backup.ErrNone) {
		t.Errorf("a forgotten snapshot: %v", err)
	}
	if _, _, err := d.Forget(r.root, storeID, 0); err == nil {
		t.Error("all were forgotten")
	}
}

// TestTwoHistories restores an older snapshot and backs that up into the same directory: both histories give out the same addresses for
// different bytes, and must not be mixed up.
func TestTwoHistories(t *testing.T) {
	r := newRig(t)
	r.file("common", 300_000)
	r.take()
	r.file("ours", 300_000)
	r.take()
	b := r.restore(1)
	b.slots = r.slots
	b.file("theirs", 300_000)
	b.take()
	r.file("ours too", 300_000)
	r.take()
	for n := uint64(1); n <= 4; n++ {
		r.ok(r.verify(r.dir, n))
	}
	if c := r.restore(3); !bytes.Equal(c.read("theirs"), r.content("theirs", 300_000)) {
		t.Error("the second history lost its file")
	}
	if c := r.restore(4); !bytes.Equal(c.read("ours"), r.content("ours", 300_000)) || !bytes.Equal(c.read("ours too"), r.content("ours too", 300_000)) {
		t.Error("the first history lost its files")
	}
}

// slow is an extent store that does something before the first read.
type slow struct {
	extent.Store
	first func()
}

func (s *slow) ReadAt(ref extent.Ref, p []byte, off int64) error {
	if s.first != nil {
		s.first()
		s.first = nil
	}
	return s.Store.ReadAt(ref, p, off)
}

// TestNothingIsFreedMeanwhile removes and overwrites everything while the extents are being copied, and lets the reaper run.
func TestNothingIsFreedMeanwhile(t *testing.T) {
	r := newRig(t)
	for i := range 20 {
		r.file(fmt.Sprint("f", i), 300_000)
	}
	r.file("dead before", 300_000)
	_, err := r.v.Unlink(r.bucket, "dead before")
	r.ok(err)
	src := r.source()
	held := uint64(0)
	src.Extents = &slow{Store: r.extents, first: func() {
		for i := range 20 {
			_, err := r.v.Unlink(r.bucket, fmt.Sprint("f", i))
			r.ok(err)
		}
		r.ok(r.v.Sync())
		r.ok(r.reaper.Run(context.Background()))
		_, err := gc.Collect(context.Background(), r.v, r.extents, false)
		r.ok(err)
		held = r.reaper.Stats().Inodes
	}}
	taken, err := r.takeFrom(src)
	r.ok(err)
	if held != 1 {
		t.Errorf("%d inodes were swept meanwhile, and only one was dead before", held)
	}
	if len(taken.Lost) != 0 || taken.Extents < 20 {
		t.Fatalf("%+v", taken)
	}
	r.ok(r.reaper.Run(context.Background()))
	if u, err := gc.Collect(context.Background(), r.v, r.extents, true); err != nil || u.Referenced > 300_000 {
		t.Errorf("afterwards the dead stay: %+v %v", u, err)
	}
	if b := r.restore(0); !bytes.Equal(b.read("f7"), r.content("f7", 300_000)) {
		t.Error("a file that was removed meanwhile is not what it was")
	}
}

// TestDamagedExtentsAreNamed: what the store has lost is missing in the backup, said, and missing after a restore too; the rest is there.
func TestDamagedExtentsAreNamed(t *testing.T) {
	r := newRig(t)
	r.file("good", 300_000)
	r.ok(r.v.Sync())
	first := r.extents.Position()
	r.file("bad", 300_000)
	r.ok(r.v.Sync())
	r.ok(r.extents.Free(extent.Ref{Segment: first.Segment, Offset: first.Offset, Length: 4112}))
	taken := r.take()
	if len(taken.Lost) != 1 || taken.Lost[0].Offset != first.Offset {
		t.Fatalf("%+v", taken)
	}
	r.ok(r.verify(r.dir, 0))
	if b := r.restore(0); !bytes.Equal(b.read("good"), r.content("good", 300_000)) {
		t.Error("the good file is not what it was")
	}
}

// TestFailuresLeaveTheLastSnapshot fails a Take at each step; the one before stays whole, nothing is left, and the next succeeds.
func TestFailuresLeaveTheLastSnapshot(t *testing.T) {
	r := newRig(t)
	r.file("a", 300_000)
	r.take()
	r.file("b", 300_000)
	want := names(t, r.dir)
	oops := errors.New("oops")
	for name, spoil := range map[string]func(*backup.Source){
		"header": func(s *backup.Source) { s.Header = func() ([]byte, error) { return nil, oops } },
		"freeze": func(s *backup.Source) { s.Freeze = func() ([]backup.Slot, func(), error) { return nil, nil, oops } },
		"rows":   func(s *backup.Source) { s.Rows = failing{s.Rows, oops} },
		"extents": func(s *backup.Source) {
			s.Extents = &slow{Store: s.Extents, first: func() { r.ok(os.Chmod(r.dir, 0o700)) }}
			s.Files = func() ([]backup.File, error) { return nil, oops }
		},
		"file": func(s *backup.Source) {
			s.Files = func() ([]backup.File, error) { return []backup.File{{Name: "x", Path: r.log, Size: 1 << 20}}, nil }
		},
	} {
		src := r.source()
		spoil(&src)
		if _, err := r.takeFrom(src); err == nil || name != "file" && !errors.Is(err, oops) {
			t.Errorf("%s: %v", name, err)
		}
		if got := names(t, r.dir); !slices.Equal(got, want) {
			t.Errorf("%s left %v", name, got)
		}
		if r.frozen {
			t.Errorf("%s: the keys are still frozen", name)
		}
		r.ok(r.verify(r.dir, 0))
	}
	if taken := r.take(); taken.Number != 2 {
		t.Errorf("%+v", taken)
	}
	r.ok(r.verify(r.dir, 2))
}

type failing struct {
	kv.Store
	err error
}

func (f failing) View(fn func(kv.Reader) error) error {
	return f.Store.View(func(r kv.Reader) error { return errors.Join(fn(r), f.err) })
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCrashedWriterIsSweptAway: whatever a writer that died could leave is not taken for a snapshot, and goes.
func TestCrashedWriterIsSweptAway(t *testing.T) {
	r := newRig(t)
	r.file("a", 300_000)
	r.take()
	r.file("b", 300_000)
	before := copyTree(t, r.dir)
	r.take()
	after := copyTree(t, r.dir)
	// Every prefix of the order in which files appear: packs, keys, snapshot; each also half written under its other name.
	var fresh []string
	for _, n := range names(t, after) {
		if !slices.Contains(names(t, before), n) {
			fresh = append(fresh, n)
		}
	}
	slices.SortFunc(fresh, func(a, b string) int { return stage(a) - stage(b) })
	if len(fresh) != 3 {
		t.Fatalf("the second snapshot made %v", fresh)
	}
	for cut := range fresh {
		r.dir = copyTree(t, before)
		for i, n := range fresh[:cut+1] {
			b, err := os.ReadFile(after + n)
			r.ok(err)
			if i == cut {
				n, b = n+".tmp", b[:len(b)/2]
			}
			r.ok(os.WriteFile(r.dir+n, b, 0o600))
		}
		if d, err := backup.Open(r.dir); err != nil {
			t.Fatal(err)
		} else if n, err := d.Newest(); err != nil || n != 1 {
			t.Errorf("cut %d: the newest is %d, %v", cut, n, err)
		}
		r.ok(r.verify(r.dir, 0))
		if taken := r.take(); taken.Number != 2 {
			t.Errorf("cut %d: %+v", cut, taken)
		}
		r.ok(r.verify(r.dir, 2))
		d, err := backup.OpenForWriting(r.dir, false)
		r.ok(err)
		_, _, err = d.Forget(r.root, storeID, 5)
		r.ok(err)
		d.Close()
		if got := names(t, r.dir); len(got) != len(names(t, after)) {
			t.Errorf("cut %d left %v", cut, got)
		}
	}
}

func stage(name string) int {
	switch filepath.Ext(name) {
	case ".pack":
		return 0
	case ".keys":
		return 1
	}
	return 2
}

func copyTree(t *testing.T, dir string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(out, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTampering flips, cuts, appends to and removes each file of a backup, at places all over it.
func TestTampering(t *testing.T) {
	r := newRig(t)
	r.file("a", 30_000)
	r.file("b", 100)
	r.take()
	r.file("c", 20_000)
	r.take()
	r.ok(r.verify(r.dir, 0))
	tries := 0
	for _, name := range names(t, r.dir) {
		if strings.HasSuffix(name, "/lock") || strings.Contains(name, "0001.") { // the older snapshot is not asked for
			continue
		}
		path := r.dir + name
		good, err := os.ReadFile(path)
		r.ok(err)
		try := func(what string, b []byte) {
			t.Helper()
			tries++
			r.ok(os.WriteFile(path, b, 0o600))
			err := r.verify(r.dir, 2)
			if err == nil { // what only the older needs
				err = r.verify(r.dir, 1)
			}
			if !errors.Is(err, backup.ErrDamaged) && !errors.Is(err, backup.ErrVersion) {
				t.Errorf("%s of %s: %v", what, name, err)
			}
		}
		for i := 0; i < len(good); i += 1 + len(good)/60 {
			if padding(name, i) {
				continue
			}
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			try(fmt.Sprintf("bit %d of byte %d", i%8, i), bad)
		}
		try("cut to half", good[:len(good)/2])
		try("last byte cut", good[:len(good)-1])
		try("a byte more", append(bytes.Clone(good), 0))
		try("emptied", nil)
		r.ok(os.Remove(path))
		tries++
		if err := r.verify(r.dir, 2); err == nil {
			t.Errorf("%s is missing and nobody noticed", name)
		}
		r.ok(os.WriteFile(path, good, 0o600))
	}
	// Files in each other's place.
	all := names(t, r.dir)
	for _, a := range all {
		for _, b := range all {
			if a == b || filepath.Ext(a) != filepath.Ext(b) {
				continue
			}
			tries++
			was, err := os.ReadFile(r.dir + a)
			r.ok(err)
			other, err := os.ReadFile(r.dir + b)
			r.ok(err)
			r.ok(os.WriteFile(r.dir+a, other, 0o600))
			if r.verify(r.dir, 1) == nil && r.verify(r.dir, 2) == nil {
				t.Errorf("%s in the place of %s is not noticed", b, a)
			}
			r.ok(os.WriteFile(r.dir+a, was, 0o600))
		}
	}
	r.ok(r.verify(r.dir, 0))
	t.Logf("%d changes, all noticed", tries)
}

// padding says which bytes of the files of shred keys mean nothing.
func padding(name string, i int) bool {
	return filepath.Ext(name) == ".keys" && (i >= 16 && i < 64 || i >= 64 && i%64 >= 61)
}

// TestDamagedPackIsCopiedAgain: an increment does not build on what is broken.
func TestDamagedPackIsCopiedAgain(t *testing.T) {
	r := newRig(t)
	r.file("a", 300_000)
	full := r.take()
	for _, n := range names(t, r.dir) {
		if strings.HasSuffix(n, ".pack") {
			r.ok(os.Truncate(r.dir+n, 1000))
		}
	}
	again := r.take()
	if again.Renewed != 1 || again.Added < full.Added/2 {
		t.Errorf("%+v", again)
	}
	r.ok(r.verify(r.dir, 2))
	if err := r.verify(r.dir, 1); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("the damaged snapshot: %v", err)
	}
}

// TestForgetKey destroys one key in all snapshots and leaves the others.
func TestForgetKey(t *testing.T) {
	r := newRig(t)
	r.take()
	r.take()
	d, err := backup.OpenForWriting(r.dir, false)
	r.ok(err)
	if n, err := d.ForgetKey(r.root, storeID, [16]byte{9}); err != nil || n != 2 {
		t.Fatalf("%d %v", n, err)
	}
	if n, err := d.ForgetKey(r.root, storeID, [16]byte{9}); err != nil || n != 0 {
		t.Errorf("twice: %d %v", n, err)
	}
	d.Close()
	list, err := d.List(r.root, storeID)
	if err != nil || len(list) != 2 || list[0].Gone != 1 || list[1].Gone != 1 || list[0].Keys != 2 {
		t.Errorf("%+v %v", list, err)
	}
	b := r.restore(1)
	if len(b.slots[0].Secret) != 32 || len(b.slots[1].Secret) != 0 {
		t.Errorf("%+v", b.slots)
	}
	r.ok(r.verify(r.dir, 2))
}

// TestNothingIsInClear looks for what must not be readable in a backup.
func TestNothingIsInClear(t *testing.T) {
	r := newRig(t)
	r.file("a telling name", 100)
	r.file("another telling name", 50_000)
	r.take()
	for _, n := range names(t, r.dir) {
		b, err := os.ReadFile(r.dir + n)
		r.ok(err)
		for what, secret := range map[string][]byte{
			"a name": []byte("telling name"), "a shred key": r.slots[1].Secret, "a file key": r.fileKey.Expose(), "content": r.content("another telling name", 100),
			"content of a row": r.content("a telling name", 20),
		} {
			if bytes.Contains(b, secret) {
				t.Errorf("%s holds %s", n, what)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	r.take()
	d, err := backup.OpenForWriting(r.dir, true)
	r.ok(err)
	if _, err := backup.OpenForWriting(r.dir, true); !errors.Is(err, backup.ErrBusy) {
		t.Errorf("a second writer: %v", err)
	}
	if _, err := d.Take(context.Background(), crypto.NewDataKey(), r.source(), now, nil); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("another key: %v", err)
	}
	other := r.source()
	other.StoreID[0]++
	if _, err := d.Take(context.Background(), r.root, other, now, nil); !errors.Is(err, backup.ErrForeign) {
		t.Errorf("another store: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Take(ctx, r.root, r.source(), now, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	d.Close()
	r.ok(r.verify(r.dir, 1))
	full := t.TempDir()
	r.ok(os.WriteFile(filepath.Join(full, "somebody's"), nil, 0o600))
	if _, err := backup.OpenForWriting(full, true); !errors.Is(err, backup.ErrForeign) {
		t.Errorf("a directory with files: %v", err)
	}
	if _, err := backup.OpenForWriting(filepath.Join(full, "none"), false); !errors.Is(err, backup.ErrForeign) {
		t.Errorf("none there: %v", err)
	}
	if err := r.verify(r.dir, 7); !errors.Is(err, backup.ErrNone) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
}
