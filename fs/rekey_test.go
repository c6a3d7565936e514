package fs

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

// rewrapped is a sealing as a re-key hands it over: all generations, and one more.
func rewrapped(now Sealing, arn string) Sealing {
	to := Sealing{Method: SSEKMS, KeyARN: arn, Context: now.Context}
	for _, k := range now.Keys {
		to.Keys = append(to.Keys, FileKey{Generation: k.Generation, Wrapped: crypto.WrappedKey("re" + string(k.Wrapped))})
	}
	to.Keys = append(to.Keys, FileKey{Wrapped: crypto.WrappedKey("fresh")})
	return to
}

// opened is an open file with its number.
type opened struct {
	r   *rig
	f   *File
	ino Ino
}

func (r *rig) createUnder(parent Ino, name, arn string) *opened {
	r.t.Helper()
	a, err := r.v.Make(parent, name, New{Type: Regular, Mode: 0o644, Sealing: testSealing(arn)})
	r.ok(err)
	r.keys[a.Ino] = Keys{1: crypto.NewDataKey()}
	return r.openFile(a.Ino)
}

func (r *rig) openFile(ino Ino) *opened {
	r.t.Helper()
	return &opened{r, r.file(ino), ino}
}

func (o *opened) write(off int64, p []byte) {
	o.r.t.Helper()
	_, err := o.f.WriteAt(p, off)
	o.r.ok(err)
}

func (o *opened) close() {
	o.r.t.Helper()
	o.r.ok(o.f.Close())
}

func (r *rig) underKey(arn string) (inos []Ino) {
	r.t.Helper()
	r.ok(r.v.KeyFiles(arn, func(ino Ino) bool { inos = append(inos, ino); return true }))
	var scanned []Ino
	r.ok(r.v.EachEncryption("", func(e Encryption) bool {
		if e.KeyARN == arn {
			scanned = append(scanned, e.Ino)
		}
		return true
	}))
	if !slices.Equal(inos, scanned) {
		r.t.Errorf("the index of %s has %d files, the rows %d", arn, len(inos), len(scanned))
	}
	return inos
}

func (r *rig) changes(inos []Ino, arn string) []KeyChange {
	r.t.Helper()
	out := make([]KeyChange, len(inos))
	for i, ino := range inos {
		now, err := r.v.Sealing(ino)
		r.ok(err)
		out[i] = KeyChange{Ino: ino, From: now, To: rewrapped(now, arn)}
	}
	return out
}

// TestRekeyClosed re-keys a batch in which some files are open, changed, gone, without a name or no files.
func TestRekeyClosed(t *testing.T) {
	r := newRig(t)
	b := r.bucket("bucket")
	var inos []Ino
	for i := range 20 {
		f := r.createUnder(b, fmt.Sprintf("f%d", i), "arn:old")
		f.write(0, []byte("content"))
		f.close()
		inos = append(inos, f.ino)
	}
	open := r.createUnder(b, "open", "arn:old")
	gone := r.createUnder(b, "gone", "arn:old")
	gone.close()
	nameless := r.createUnder(b, "nameless", "arn:old")
	r.v.Acquire(nameless.ino, 1)
	nameless.close()
	all := append(slices.Clone(inos), open.ino, gone.ino, nameless.ino, b, 999999)
	changes := r.changes(all[:23], "arn:new")
	changes = append(changes, KeyChange{Ino: b}, KeyChange{Ino: 999999})
	_, err := r.v.Unlink(b, "gone")
	r.ok(err)
	_, err = r.v.Unlink(b, "nameless")
	r.ok(err)
	if got := r.v.Nameless("arn:old"); !slices.Equal(got, []Ino{nameless.ino}) {
		t.Errorf("without a name: %v", got)
	}
	now, err := r.v.Sealing(inos[0])
	r.ok(err)
	r.ok(r.v.Rekey(inos[0], now, rewrapped(now, "arn:other"), crypto.NewDataKey()))

	errs := r.v.RekeyClosed(changes)
	for i, want := range map[int]error{0: ErrStale, 20: ErrOpen, 21: ErrNotFound, 22: nil, 23: ErrInvalid, 24: ErrNotFound} {
		if !errors.Is(errs[i], want) {
			t.Errorf("change %d: %v, want %v", i, errs[i], want)
		}
	}
	for i := 1; i < 20; i++ {
		r.ok(errs[i])
	}
	if got := r.underKey("arn:new"); !slices.Equal(got, inos[1:]) {
		t.Errorf("under the new key: %v", got)
	}
	if got := r.underKey("arn:old"); !slices.Equal(got, []Ino{open.ino}) {
		t.Errorf("under the old key: %v", got)
	}
	if got := r.v.Nameless("arn:new"); !slices.Equal(got, []Ino{nameless.ino}) {
		t.Errorf("without a name: %v", got)
	}
	r.v.Forget(nameless.ino, 1)
	open.close()
	r.reopen()
	s, err := r.v.Sealing(inos[5])
	r.ok(err)
	if s.KeyARN != "arn:new" || len(s.Keys) != 2 || string(s.Keys[0].Wrapped) != "rew" || s.Current() != 2 {
		t.Errorf("after reopening: %+v", s)
	}
}

// TestRekeyClosedBesideOthers re-keys batches in opposite orders while names come and go: no deadlock, nothing lost.
func TestRekeyClosedBesideOthers(t *testing.T) {
	r := newRig(t)
	b := r.bucket("bucket")
	var inos []Ino
	for i := range 64 {
		f := r.createUnder(b, fmt.Sprintf("f%d", i), "arn:0")
		f.close()
		inos = append(inos, f.ino)
	}
	var g sync.WaitGroup
	for w := range 3 {
		g.Go(func() {
			mine := slices.Clone(inos)
			if w == 1 {
				slices.Reverse(mine)
			}
			for i := range 20 {
				switch w {
				case 2:
					name := fmt.Sprintf("x%d", i)
					if _, err := r.v.Link(mine[i], b, name); err != nil {
						t.Error(err)
					}
					if _, err := r.v.Rename(b, name, b, name+"y", 0); err != nil {
						t.Error(err)
					}
				default:
					for _, err := range r.v.RekeyClosed(r.changes(mine, fmt.Sprintf("arn:%d", i%2))) {
						if err != nil && !errors.Is(err, ErrStale) {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	g.Wait()
	if n := len(r.underKey("arn:0")) + len(r.underKey("arn:1")); n != len(inos) {
		t.Errorf("%d files, want %d", n, len(inos))
	}
}

// TestRenew seals content anew under a fresh data key: content, holes, size and times stay, also what is written meanwhile, and the
// old data key is needed by nobody afterwards. A crash before the epoch is closed leaves the old keys.
func TestRenew(t *testing.T) {
	r := newRig(t)
	b := r.bucket("bucket")
	f := r.createUnder(b, "f", "arn:old")
	big := bytes.Repeat([]byte("0123456789abcdef"), 400000) // 6.4 MB: more than one step
	f.write(0, big)
	r.ok(f.f.Flush())
	f.write(8<<20, []byte("behind a hole"))
	f.close()
	before, err := r.v.Attr(f.ino)
	r.ok(err)
	now, err := r.v.Sealing(f.ino)
	r.ok(err)
	fresh := crypto.NewDataKey()
	r.ok(r.v.Rekey(f.ino, now, rewrapped(now, "arn:new"), fresh))
	r.keys[f.ino][2] = fresh

	g := r.openFile(f.ino)
	g.write(100, []byte("dirty")) // not sealed yet
	copy(big[100:], "dirty")
	stop := errors.New("stop")
	steps := 0
	_, err = g.f.Renew(func() error {
		if steps++; steps == 2 {
			return stop
		}
		return nil
	})
	r.want(stop, err)
	if done, err := r.v.DropOldKeys(f.ino); done || err != nil {
		t.Errorf("old keys dropped while content is under them: %v, %v", done, err)
	}
	n, err := g.f.Renew(func() error { return nil })
	r.ok(err)
	if n == 0 {
		t.Error("nothing was left to seal anew")
	}
	g.close()
	r.ok(r.v.CloseEpoch())
	if done, err := r.v.DropOldKeys(f.ino); !done || err != nil {
		t.Errorf("old keys stay: %v, %v", done, err)
	}
	r.reopen()
	s, err := r.v.Sealing(f.ino)
	r.ok(err)
	if len(s.Keys) != 1 || s.Current() != 2 {
		t.Errorf("sealing: %+v", s)
	}
	r.keys[f.ino] = Keys{2: fresh}
	h := r.openFile(f.ino)
	defer h.close()
	got := make([]byte, 9<<20)
	k, err := h.f.ReadAt(got, 0)
	r.ok(err)
	want := make([]byte, 8<<20+13)
	copy(want, big)
	copy(want[8<<20:], "behind a hole")
	if !bytes.Equal(got[:k], want) {
		t.Error("the content is another one")
	}
	after, err := r.v.Attr(f.ino)
	r.ok(err)
	if after.Size != before.Size || after.Blocks != before.Blocks {
		t.Errorf("attributes: %+v, were %+v", after, before)
	}
	if hole, err := h.f.SeekHole(0); err != nil || hole > 8<<20 {
		t.Errorf("the hole: %d, %v", hole, err)
	}
}

// TestRenewKeepsTimes is a file that nobody writes to.
func TestRenewKeepsTimes(t *testing.T) {
	r := newRig(t)
	f := r.createUnder(r.bucket("bucket"), "f", "arn:old")
	f.write(0, []byte("small, in the rows"))
	f.close()
	now, err := r.v.Sealing(f.ino)
	r.ok(err)
	fresh := crypto.NewDataKey()
	r.ok(r.v.Rekey(f.ino, now, rewrapped(now, "arn:new"), fresh))
	r.keys[f.ino][2] = fresh
	before, err := r.v.Attr(f.ino)
	r.ok(err)
	g := r.openFile(f.ino)
	n, err := g.f.Renew(func() error { return nil })
	r.ok(err)
	g.close()
	after, err := r.v.Attr(f.ino)
	r.ok(err)
	if n != 18 || after != before {
		t.Errorf("%d bytes; %+v, was %+v", n, after, before)
	}
}

// TestWarm reads inodes that stand together by one scan, and such as are far apart one by one.
func TestWarm(t *testing.T) {
	r := newRig(t)
	b := r.bucket("b")
	var near []Ino
	for i := range 4 * scanWorth {
		f := r.create(b, strconv.Itoa(i))
		near = append(near, f.Ino())
		r.ok(f.Close())
	}
	far := make([]Ino, scanWorth)
	for i := range far {
		for j := range 2 * scanDensity {
			f := r.create(b, fmt.Sprint("far", i, "-", j))
			far[i] = f.Ino()
			r.ok(f.Close())
		}
	}
	inMemory := func(inos []Ino) (n int) {
		for _, ino := range inos {
			if r.v.cache.table[ino] != nil {
				n++
			}
		}
		return n
	}
	r.reopen()
	var half []Ino
	for i := 0; i < len(near); i += 2 {
		half = append(half, near[len(near)-1-i]) // in no order
	}
	r.v.Warm(half)
	if n := inMemory(near); n < len(near)-1 {
		t.Errorf("%d of %d in memory after a scan", n, len(near))
	}
	r.reopen()
	r.v.Warm(append(far, near[0], 1<<40)) // one that does not exist
	if n := inMemory(far); n != len(far) {
		t.Errorf("%d of %d in memory", n, len(far))
	}
	if n := inMemory(near); n != 1 {
		t.Errorf("%d that were not asked for in memory", n-1)
	}
	for n := r.v.cache.idle.oldest; n != nil; n = n.newer {
		if n.pins != 0 {
			t.Errorf("inode %d is pinned in the list of those that are not", n.ino)
		}
	}
}
