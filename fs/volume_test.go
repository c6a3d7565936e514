package fs

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sort"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// rig is a volume on stores in memory that survive its closing. Nothing is done in the background, at times of its own.
type rig struct {
	t       testing.TB
	kv      kv.Store
	extents extent.Store
	key     *crypto.DataKey
	anchor  *memAnchor
	v       *Volume
	keys    map[Ino]Keys
}

type memAnchor struct{ state AnchorState }

func (a *memAnchor) Load() (AnchorState, error) { return a.state, nil }
func (a *memAnchor) Store(s AnchorState) error  { a.state = s; return nil }

func newRig(t testing.TB) *rig { return newRigOn(t, memextent.New()) }

func newRigOn(t testing.TB, extents extent.Store) *rig { return newRigWith(t, memkv.New(), extents) }

func newRigWith(t testing.TB, rows kv.Store, extents extent.Store) *rig {
	r := &rig{t: t, kv: rows, extents: extents, key: crypto.NewDataKey(), anchor: &memAnchor{}, keys: map[Ino]Keys{}}
	r.open()
	t.Cleanup(func() { r.ok(r.v.Close()) })
	return r
}

func (r *rig) open() {
	v, err := Open(Config{
		KV: r.kv, Extents: r.extents, Key: r.key, Anchor: r.anchor, EpochEvery: -1, MergeEvery: -1, FlushAfter: -1,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.v = v
}

func (r *rig) reopen() {
	r.ok(r.v.Close())
	r.open()
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) want(target, err error) {
	r.t.Helper()
	if !errors.Is(err, target) {
		r.t.Fatalf("got %v, want %v", err, target)
	}
}

func (r *rig) bucket(name string) Ino {
	r.t.Helper()
	a, err := r.v.Make(RootIno, name, New{Type: Directory, Mode: 0o755, Bucket: &Bucket{}})
	r.ok(err)
	return a.Ino
}

func (r *rig) mkdir(parent Ino, name string) Ino {
	r.t.Helper()
	a, err := r.v.Make(parent, name, New{Type: Directory, Mode: 0o755})
	r.ok(err)
	return a.Ino
}

func testSealing(arn string) Sealing {
	s := Sealing{Method: SSES3, Context: crypto.Context{"aws:s3:arn": "arn:aws:s3:::b/f"}, Keys: []FileKey{{Wrapped: crypto.WrappedKey("w")}}}
	if arn != "" {
		s.Method, s.KeyARN = SSEKMS, arn
	}
	return s
}

func (r *rig) create(parent Ino, name string) *File {
	r.t.Helper()
	a, err := r.v.Make(parent, name, New{Type: Regular, Mode: 0o644, Sealing: testSealing(""), Later: true})
	r.ok(err)
	r.keys[a.Ino] = Keys{1: crypto.NewDataKey()}
	return r.file(a.Ino)
}

func (r *rig) file(ino Ino) *File {
	r.t.Helper()
	f, err := r.v.OpenFile(ino, r.keys[ino], nil)
	r.ok(err)
	return f
}

func (r *rig) read(f *File) []byte {
	r.t.Helper()
	b := make([]byte, f.Size()+10)
	n, err := f.ReadAt(b, 0)
	r.ok(err)
	return b[:n]
}

func (r *rig) list(dir Ino) (names []string) {
	r.t.Helper()
	r.ok(r.v.ReadDir(dir, 0, func(d Dirent) bool { names = append(names, d.Name); return true }))
	sort.Strings(names)
	return names
}

func TestNamespace(t *testing.T) {
	r := newRig(t)
	v := r.v
	_, err := v.Make(RootIno, "x", New{Type: Directory})
	r.want(ErrPermitted, err)
	b := r.bucket("b")
	b2 := r.bucket("b2")
	d := r.mkdir(b, "d")
	f := r.create(d, "f")
	_, err = v.Make(d, "f", New{Type: FIFO})
	r.want(ErrExists, err)
	names, err := v.Names(f.Ino())
	r.ok(err)
	if fmt.Sprint(names) != "[{b d/f}]" {
		t.Fatal(names)
	}
	if names, _ = v.Names(d); fmt.Sprint(names) != "[{b d/}]" {
		t.Fatal(names)
	}
	if names, _ = v.Names(b); fmt.Sprint(names) != "[{b }]" {
		t.Fatal(names)
	}
	_, err = v.Rename(d, "f", b2, "f", 0)
	r.want(ErrCrossBucket, err)
	_, err = v.Rename(b, "d", d, "x", 0)
	r.want(ErrInvalid, err)
	_, err = v.Rmdir(b, "d")
	r.want(ErrNotEmpty, err)
	_, err = v.Unlink(b, "d")
	r.want(ErrIsDir, err)
	_, err = v.Rmdir(d, "f")
	r.want(ErrNotDir, err)
	a, err := v.Link(f.Ino(), b, "g")
	r.ok(err)
	if a.Nlink != 2 {
		t.Fatal(a)
	}
	e := r.mkdir(b, "e")
	_, err = v.Rename(b, "d", b, "e", 0)
	r.ok(err)
	_, err = v.Attr(e)
	r.want(ErrNotFound, err)
	if names, _ = v.Names(f.Ino()); fmt.Sprint(names) != "[{b e/f} {b g}]" {
		t.Fatal(names)
	}
	_, err = v.Rename(b, "g", d, "g", RenameExchange)
	r.want(ErrNotFound, err)
	_, err = v.Rename(b, "g", b, "e", RenameNoReplace)
	r.want(ErrExists, err)
	_, err = v.Rename(b, "g", b, "e", RenameExchange)
	r.ok(err)
	if a, _ = v.Lookup(b, "g"); a.Ino != d || a.Nlink != 2 {
		t.Fatal(a)
	}
	r.ok(f.Close())
	r.reopen()
	if got := fmt.Sprint(r.list(b), r.list(d)); got != "[e g] [f]" {
		t.Fatal(got)
	}
	_, err = r.v.Unlink(d, "f")
	r.ok(err)
	_, err = r.v.Unlink(b, "e")
	r.ok(err)
	_, err = r.v.Rmdir(b, "g")
	r.ok(err)
	_, err = r.v.Rmdir(RootIno, "b")
	r.ok(err)
}

func TestUnlinkedButOpen(t *testing.T) {
	r := newRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	_, err := f.WriteAt([]byte("hello"), 0)
	r.ok(err)
	r.v.Acquire(f.Ino(), 1)
	_, err = r.v.Unlink(b, "f")
	r.ok(err)
	if got := string(r.read(f)); got != "hello" {
		t.Fatal(got)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{1}, 5<<20), 100)
	r.ok(err)
	r.ok(r.v.flush(f.n, flushOptions{}))
	if got := string(r.read(f)[:5]); got != "hello" {
		t.Fatal(got)
	}
	if !r.v.InUse(f.Ino()) {
		t.Fatal("not in use")
	}
	ino := f.Ino()
	r.ok(f.Close())
	if _, err := r.v.Attr(ino); err != nil {
		t.Fatal("a kernel still knows it:", err)
	}
	r.v.Forget(ino, 1)
	_, err = r.v.Attr(ino)
	r.want(ErrNotFound, err)
	if r.v.InUse(ino) {
		t.Fatal("still in use")
	}
}

func TestStaleKeysAndTruncatingOpen(t *testing.T) {
	r := newRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	_, err := f.WriteAt([]byte("old content"), 0)
	r.ok(err)
	r.ok(f.Close())
	fresh := crypto.NewDataKey()
	g, err := r.v.OpenFile(f.Ino(), nil, &Truncation{Sealing: testSealing("arn:aws:kms:us-east-1:0:key/k"), Key: fresh})
	r.ok(err)
	if g.Size() != 0 {
		t.Fatal(g.Size())
	}
	_, err = g.WriteAt([]byte("new"), 0)
	r.ok(err)
	r.ok(g.Close())
	_, err = r.v.OpenFile(f.Ino(), r.keys[f.Ino()], nil)
	r.want(ErrStale, err)
	r.keys[f.Ino()] = Keys{2: fresh}
	if got := string(r.read(r.file(f.Ino()))); got != "new" {
		t.Fatal(got)
	}
	n := 0
	r.ok(r.v.KeyFiles("arn:aws:kms:us-east-1:0:key/k", func(i Ino) bool { n++; return i == f.Ino() }))
	if n != 1 {
		t.Fatal(n)
	}
}

// TestOldWritesAreFlushed: written bytes wait for who closes or syncs the file, but not for ever. Its sleeps move the clock of synctest's
// bubble and take no time.
func TestOldWritesAreFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.ok(r.v.Close())
		v, err := Open(Config{KV: r.kv, Extents: r.extents, Key: r.key, Anchor: r.anchor})
		r.ok(err)
		r.v = v
		f := r.create(r.bucket("b"), "f")
		_, err = f.WriteAt([]byte("text"), 0)
		r.ok(err)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if r.v.size.n.Load() != 4 {
			t.Error("flushed too early")
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := r.v.size.n.Load(); n != 0 {
			t.Errorf("%d bytes still wait", n)
		}
		r.ok(f.Close())
	})
}

// TestRandom compares a volume with byte slices, through flushes, truncations, holes, re-keys and reopening.
func TestRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("KMSFS_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("KMSFS_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := newRig(t)
	b := r.bucket("b")
	const files = 3
	model := make([][]byte, files)
	inos := make([]Ino, files)
	handles := make([]*File, files)
	for i := range inos {
		handles[i] = r.create(b, strconv.Itoa(i))
		inos[i] = handles[i].Ino()
	}
	sizes := []int{1, 100, 4095, 4096, 4097, 16 << 10, 17 << 10, 100 << 10, 1 << 20, 3 << 20}
	for step := range 1500 {
		i := rnd.IntN(files)
		f := handles[i]
		switch op := rnd.IntN(20); {
		case op < 8:
			n := sizes[rnd.IntN(len(sizes)-2*(op%2))]
			off := rnd.IntN(4 << 20)
			if rnd.IntN(2) == 0 {
				off &^= 4095
			}
			p := make([]byte, n)
			for j := range p {
				p[j] = byte(rnd.Uint32())
			}
			_, err := f.WriteAt(p, int64(off))
			r.ok(err)
			model[i] = overlay(model[i], off, p)
		case op < 9:
			p := bytes.Repeat([]byte{byte(step)}, rnd.IntN(5000)+1)
			off, err := f.Append(p)
			r.ok(err)
			if int(off) != len(model[i]) {
				t.Fatalf("step %d: append at %d, want %d", step, off, len(model[i]))
			}
			model[i] = append(model[i], p...)
		case op < 11:
			n := rnd.IntN(5 << 20)
			r.ok(f.Truncate(int64(n)))
			model[i] = resize(model[i], n)
		case op < 12:
			off, n := rnd.IntN(4<<20), rnd.IntN(1<<20)+1
			r.ok(f.Punch(int64(off), int64(n)))
			for j := off; j < min(off+n, len(model[i])); j++ {
				model[i][j] = 0
			}
		case op < 14:
			r.ok(f.Flush())
		case op < 15:
			r.ok(f.Sync(false))
		case op < 16:
			r.ok(f.Close())
			handles[i] = r.file(inos[i])
		case op < 17:
			from, err := r.v.Sealing(inos[i])
			r.ok(err)
			to := from
			fresh := crypto.NewDataKey()
			to.Keys = append(append([]FileKey(nil), from.Keys...), FileKey{Wrapped: crypto.WrappedKey("x")})
			r.ok(r.v.Rekey(inos[i], from, to, fresh))
			now, err := r.v.Sealing(inos[i])
			r.ok(err)
			r.keys[inos[i]][now.Current()] = fresh
		case op < 18 && step%10 == 0:
			for j := range handles {
				r.ok(handles[j].Close())
			}
			r.reopen()
			for j := range handles {
				handles[j] = r.file(inos[j])
			}
		default:
			off := rnd.IntN(5 << 20)
			p := make([]byte, rnd.IntN(1<<20)+1)
			n, err := f.ReadAt(p, int64(off))
			r.ok(err)
			want := model[i][min(off, len(model[i])):min(off+len(p), len(model[i]))]
			if !bytes.Equal(p[:n], want) {
				t.Fatalf("step %d: read %d bytes at %d, want %d; first difference %d", step, n, off, len(want), diff(p[:n], want))
			}
		}
		if step%50 == 0 {
			a, err := r.v.Attr(inos[i])
			r.ok(err)
			if got := r.read(handles[i]); !bytes.Equal(got, model[i]) || int(a.Size) != len(model[i]) {
				t.Fatalf("step %d: file %d has %d bytes, want %d; first difference %d", step, i, len(got), len(model[i]), diff(got, model[i]))
			}
		}
	}
	for i := range handles {
		r.ok(handles[i].Close())
		if n := r.v.size.n.Load(); i == files-1 && n != 0 {
			t.Errorf("%d dirty bytes are counted after the last close", n)
		}
	}
}

func overlay(b []byte, off int, p []byte) []byte {
	b = resize(b, max(len(b), off+len(p)))
	copy(b[off:], p)
	return b
}

func resize(b []byte, n int) []byte {
	if n <= len(b) {
		return b[:n:n]
	}
	return append(b, make([]byte, n-len(b))...)
}

func diff(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestManyPieces empties, punches and shortens a file whose map is too large for one transaction.
func TestManyPieces(t *testing.T) {
	r := newRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	fill := func(f *File) {
		for i := range int64(3 * maxCover) {
			_, err := f.WriteAt([]byte{1}, i*8192)
			r.ok(err)
		}
		r.ok(f.Flush())
	}
	fill(f)
	r.ok(f.Punch(0, 2*maxCover*8192))
	if got, err := f.SeekData(0); err != nil || got != 2*maxCover*8192 {
		t.Fatal(got, err)
	}
	fill(f)
	r.ok(f.Truncate(10))
	if got := r.read(f); !bytes.Equal(got, []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Fatal(got)
	}
	fill(f)
	r.ok(f.Close())
	fresh := crypto.NewDataKey()
	g, err := r.v.OpenFile(f.Ino(), nil, &Truncation{Sealing: testSealing(""), Key: fresh})
	r.ok(err)
	if g.Size() != 0 {
		t.Fatal(g.Size())
	}
	r.ok(g.Close())
	r.reopen()
}

// TestAttributesOfDirtyFile are seen at once and committed with the writes.
func TestAttributesOfDirtyFile(t *testing.T) {
	r := newRig(t)
	f := r.create(r.bucket("b"), "f")
	_, err := f.WriteAt([]byte("x"), 0)
	r.ok(err)
	mode, uid, mtime := uint32(0o4755), uint32(7), int64(12345)
	_, err = r.v.SetAttr(f.Ino(), Change{Mode: &mode})
	r.ok(err)
	_, err = r.v.SetAttr(f.Ino(), Change{UID: &uid, KillPriv: true})
	r.ok(err)
	a, err := r.v.SetAttr(f.Ino(), Change{Mtime: &mtime})
	r.ok(err)
	check := func(a Attr) {
		t.Helper()
		if a.Mode != 0o755 || a.UID != 7 || a.Mtime != 12345 || a.Size != 1 {
			t.Fatalf("%+v", a)
		}
	}
	check(a)
	if row := f.n.committed(); row.UID != 0 || row.Size != 0 {
		t.Fatal("committed before the data")
	}
	r.ok(f.Close())
	r.reopen()
	a, err = r.v.Attr(f.Ino())
	r.ok(err)
	check(a)
	g := r.file(f.Ino())
	uid = 8
	_, err = r.v.SetAttr(f.Ino(), Change{UID: &uid})
	r.ok(err)
	if g.n.committed().UID != 8 {
		t.Fatal("a clean file's attributes wait")
	}
	r.ok(g.Close())
}
