package check_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/check"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

const arn = "arn:aws:kms:us-east-1:000000000000:key/k"

// rig is a volume whose rows and bytes the test can reach.
type rig struct {
	t       *testing.T
	kv      kv.Store
	extents *segment.Store
	v       *fs.Volume
	bucket  fs.Ino
	key     *crypto.DataKey
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOver(t, memkv.New())
}

func newRigOver(t *testing.T, rows kv.Store) *rig {
	t.Helper()
	r := &rig{t: t, kv: rows, key: crypto.NewDataKey()}
	var err error
	r.extents, err = segment.Open(t.TempDir(), segment.Options{SegmentSize: 8 << 20})
	r.ok(err)
	r.v, err = fs.Open(fs.Config{KV: r.kv, Extents: r.extents, Key: crypto.NewDataKey(), EpochEvery: -1, MergeEvery: -1, FlushAfter: -1})
	r.ok(err)
	b, err := r.v.Make(fs.RootIno, "bucket", fs.New{Type: fs.Directory, Bucket: &fs.Bucket{}})
	r.ok(err)
	r.bucket = b.Ino
	t.Cleanup(func() {
		_ = r.v.Close()
		r.ok(r.extents.Close())
	})
	return r
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) file(dir fs.Ino, name string, size int, keyARN string) fs.Ino {
	r.t.Helper()
	s := fs.Sealing{Method: fs.SSES3, Keys: []fs.FileKey{{Wrapped: []byte("w")}}}
	if keyARN != "" {
		s.Method, s.KeyARN = fs.SSEKMS, keyARN
	}
	a, err := r.v.Make(dir, name, fs.New{Type: fs.Regular, Sealing: s})
	r.ok(err)
	r.write(a.Ino, 0, size)
	return a.Ino
}

func (r *rig) write(ino fs.Ino, off int64, size int) {
	r.t.Helper()
	f, err := r.v.OpenFile(ino, fs.Keys{1: r.key}, nil)
	r.ok(err)
	_, err = f.WriteAt(bytes.Repeat([]byte{7}, size), off)
	r.ok(err)
	r.ok(f.Close())
}

func (r *rig) dir(parent fs.Ino, name string) fs.Ino {
	r.t.Helper()
	a, err := r.v.Make(parent, name, fs.New{Type: fs.Directory})
	r.ok(err)
	return a.Ino
}

// change does something to the rows behind the volume's back.
func (r *rig) change(fn func(kv.Txn) error) { r.t.Helper(); r.ok(r.kv.Update(fn)) }

func (r *rig) run(o check.Options) *check.Report {
	r.t.Helper()
	rep, err := check.Run(context.Background(), r.v, r.extents, o)
	r.ok(err)
	return rep
}

// finds wants exactly these kinds of problems.
func (r *rig) finds(rep *check.Report, kinds ...string) {
	r.t.Helper()
	var got []string
	for k := range rep.Counts {
		got = append(got, k)
	}
	slices.Sort(got)
	slices.Sort(kinds)
	if !slices.Equal(got, kinds) {
		r.t.Fatalf("found %v, want %v\n%+v", got, kinds, rep.Problems)
	}
}

func inodeKey(ino fs.Ino) []byte { return binary.BigEndian.AppendUint64([]byte{'i'}, uint64(ino)) }

func (r *rig) dropEntries(dir fs.Ino) {
	r.t.Helper()
	r.change(func(t kv.Txn) error {
		start := binary.BigEndian.AppendUint64([]byte{'d'}, uint64(dir))
		return t.Scan(start, kv.PrefixEnd(start), func(k, _ []byte) (bool, error) {
			t.Delete(bytes.Clone(k))
			return true, nil
		})
	})
}

// populate makes one of everything; a removed file stays open until close.
func (r *rig) populate() (dir, big fs.Ino, closed func() error) {
	r.t.Helper()
	dir = r.dir(r.bucket, "dir")
	sub := r.dir(dir, "sub")
	r.file(sub, "small", 10_000, "")
	big = r.file(dir, "big", 5<<20, arn)
	r.write(big, 12345, 200_000)
	r.write(big, 7<<20, 50) // a hole before it
	_, err := r.v.Link(big, sub, "again")
	r.ok(err)
	_, err = r.v.Make(dir, "link", fs.New{Type: fs.Symlink, Target: "big"})
	r.ok(err)
	r.ok(r.v.SetXattr(big, "user.a", []byte("1"), fs.XattrEither))
	gone := r.file(dir, "gone", 2<<20, arn)
	open, err := r.v.OpenFile(gone, fs.Keys{1: r.key}, nil)
	r.ok(err)
	_, err = r.v.Unlink(dir, "gone")
	r.ok(err)
	return dir, big, open.Close
}

func TestSoundVolumeIsClean(t *testing.T) {
	r := newRig(t)
	_, _, closed := r.populate()
	defer func() { r.ok(closed()) }()
	calls := 0
	rep := r.run(check.Options{Data: true, Progress: func(check.Progress) { calls++ }})
	r.finds(rep)
	if !rep.Clean() || rep.Inodes != 7 || rep.Files != 2 || rep.Directories != 4 || rep.Entries != 7 || rep.Removed != 1 || calls == 0 {
		t.Fatalf("%+v", rep)
	}
	if s := rep.Space; s == nil || s.Unreferenced != 0 || s.Stored < 5<<20 || rep.Data.Extents == 0 || rep.Data.Bad != 0 {
		t.Fatalf("%+v %+v", rep.Space, rep.Data)
	}
	_, err := r.extents.Append(make([]byte, 5000))
	r.ok(err)
	if rep = r.run(check.Options{}); rep.Space.Unreferenced != 8192 {
		t.Fatalf("%+v", rep.Space)
	}
}

// TestRandomWorkIsClean runs random operations, checking now and then.
func TestRandomWorkIsClean(t *testing.T) {
	r := newRig(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	r.quota("inodes=1000000")
	dirs := []fs.Ino{r.bucket}
	for i := range 3 {
		dirs = append(dirs, r.dir(r.bucket, fmt.Sprint("d", i)))
	}
	for i := range 1500 {
		dir, name := dirs[rnd.IntN(4)], fmt.Sprint("f", rnd.IntN(20))
		a, err := r.v.Lookup(dir, name)
		switch op := rnd.IntN(8); {
		case errors.Is(err, fs.ErrNotFound):
			r.file(dir, name, rnd.IntN(60_000), []string{"", arn, arn + "2"}[rnd.IntN(3)])
		case err != nil:
			t.Fatal(err)
		case op < 3:
			r.write(a.Ino, rnd.Int64N(100_000), 1+rnd.IntN(40_000))
		case op == 3:
			f, err := r.v.OpenFile(a.Ino, fs.Keys{1: r.key}, nil)
			r.ok(err)
			r.ok(f.Truncate(rnd.Int64N(50_000)))
			r.ok(f.Close())
		case op == 4:
			_, err = r.v.Unlink(dir, name)
			r.ok(err)
		case op == 5:
			_, err = r.v.Rename(dir, name, dirs[rnd.IntN(4)], fmt.Sprint("f", rnd.IntN(20)), 0)
			r.ok(err)
		case op == 6:
			if _, err = r.v.Link(a.Ino, dirs[rnd.IntN(4)], fmt.Sprint("f", rnd.IntN(20))); err != nil && !errors.Is(err, fs.ErrExists) {
				t.Fatal(err)
			}
		default:
			r.ok(r.v.CloseEpoch())
		}
		if i%300 == 299 {
			rep := r.run(r.withKeys(nil))
			r.finds(rep)
			if rep.Data.Authentic == 0 || rep.Quotas.Checked != 1 {
				t.Fatalf("%+v %+v", rep.Data, rep.Quotas)
			}
		}
	}
}

func TestNamelessInodeGoesToLostAndFound(t *testing.T) {
	r := newRig(t)
	dir, big, closed := r.populate()
	r.ok(closed())
	r.dropEntries(dir)
	r.update(dir, func(t *meta.Tx, n *meta.Inode) { n.Rows.Count++; t.PutInode(n) }) // it lacks more than the inodes remember
	rep := r.run(check.Options{})
	r.finds(rep, check.Nameless, check.BadLinks, check.BadSet)
	rep = r.run(check.Options{Repair: true, Now: 1})
	if rep.Repaired == 0 {
		t.Fatalf("%+v", rep)
	}
	lost, err := r.v.Lookup(r.bucket, check.LostFound)
	r.ok(err)
	var names []string
	r.ok(r.v.ReadDir(lost.Ino, 0, func(d fs.Dirent) bool {
		if !strings.HasPrefix(d.Name, "loss-") { // a record of what stays
			names = append(names, d.Name)
		}
		return true
	}))
	if len(names) != 2 { // the subdirectory and the symbolic link; the file has its other name
		t.Fatalf("lost+found holds %q", names)
	}
	a, err := r.v.Attr(big)
	r.ok(err)
	if a.Nlink != 1 {
		t.Fatalf("%d links", a.Nlink)
	}
	r.finds(r.run(check.Options{}), check.BadSet) // what is missing from the directory stays noticed
}

// TestLostEntriesArePutBack: what a directory accounts for and the inodes remember is known to the last bit.
func TestLostEntriesArePutBack(t *testing.T) {
	r := newRig(t)
	dir, _, closed := r.populate()
	r.ok(closed())
	before := r.list(dir)
	r.dropEntries(dir)
	r.v.DropCaches()
	if _, err := r.v.Lookup(dir, before[0].Name); err == nil {
		t.Fatal("the entries are there")
	}
	r.finds(r.run(check.Options{}), check.LostEntry)
	if rep := r.run(check.Options{Repair: true}); !rep.Clean() || rep.Repaired != 1 {
		t.Fatalf("%+v", rep)
	}
	if after := r.list(dir); !slices.Equal(after, before) {
		t.Errorf("%v, want %v", after, before)
	}
	r.finds(r.run(check.Options{}))
}

// TestEntryWithoutInodeLeavesARecord: what can be told of it is in lost+found; nothing is dropped in silence.
func TestEntryWithoutInodeLeavesARecord(t *testing.T) {
	r := newRig(t)
	r.quota("bytes=1000000")
	d := r.dir(r.bucket, "d")
	ino := r.file(d, "f \n", 100, "")
	r.file(d, "g", 100, "")
	r.ok(r.v.CloseEpoch())
	r.change(func(t kv.Txn) error {
		t.Delete(inodeKey(ino))
		return nil
	})
	rep := r.run(check.Options{Repair: true})
	r.finds(rep, check.Dangling, check.Orphan, check.BadQuota)
	if _, err := r.v.Lookup(d, "f \n"); !errors.Is(err, fs.ErrNotFound) {
		t.Fatal(err)
	}
	if n := len(r.list(d)); n != 1 {
		t.Fatalf("%d entries", n)
	}
	lost, err := r.v.Lookup(r.bucket, check.LostFound)
	r.ok(err)
	found := r.list(lost.Ino)
	if len(found) != 1 {
		t.Fatalf("lost+found holds %v", found)
	}
	target, err := r.v.Readlink(found[0].Ino)
	r.ok(err)
	if want := fmt.Sprintf(`entry "f \n" of directory inode %d named inode %d, which is gone`, d, ino); target != want {
		t.Fatalf("%s, want %s", target, want)
	}
	for _, p := range rep.Problems {
		if p.Kind == check.Dangling && !strings.Contains(p.Repair, found[0].Name) {
			t.Errorf("%+v", p)
		}
	}
	r.finds(r.run(check.Options{}), check.Orphan)
}

func (r *rig) list(dir fs.Ino) (all []fs.Dirent) {
	r.t.Helper()
	r.ok(r.v.ReadDir(dir, 0, func(d fs.Dirent) bool {
		all = append(all, d)
		return true
	}))
	return all
}

// update changes an inode row.
func (r *rig) update(ino fs.Ino, fn func(t *meta.Tx, n *meta.Inode)) {
	r.t.Helper()
	r.ok(r.v.Repair(func(t *meta.Tx) error {
		n, err := t.Inode(ino)
		if err == nil {
			fn(t, n)
			t.PutInode(n)
		}
		return err
	}))
}

func TestCountsAndIndexAreCorrected(t *testing.T) {
	r := newRig(t)
	f, h := r.file(r.bucket, "f", 100, arn), r.file(r.bucket, "h", 100, "")
	r.file(r.bucket, "g", 100, arn)
	d := r.dir(r.bucket, "d")
	r.dir(d, "e")
	r.update(f, func(_ *meta.Tx, n *meta.Inode) { n.Nlink = 5 })
	r.update(d, func(_ *meta.Tx, n *meta.Inode) { n.Nlink = 2 })
	r.update(h, func(_ *meta.Tx, n *meta.Inode) { n.Links[0].Name = "another" })
	// The one row of the index that both need goes; one that no file needs comes, and is none of a checker's business.
	r.change(func(tx kv.Txn) error {
		return tx.Scan([]byte{'K'}, []byte{'L'}, func(k, _ []byte) (bool, error) { tx.Delete(k); return true, nil })
	})
	r.update(h, func(tx *meta.Tx, n *meta.Inode) {
		c := n.Clone()
		c.Sealing.Method, c.Sealing.KeyARN = fs.SSEKMS, arn+"other"
		tx.AddKeyUse(c)
	})
	rep := r.run(check.Options{})
	r.finds(rep, check.BadLinks, check.BadKeyIndex)
	if rep.Counts[check.BadLinks] != 3 || rep.Counts[check.BadKeyIndex] != 2 {
		t.Fatalf("%+v", rep)
	}
	if rep = r.run(check.Options{Repair: true}); !rep.Clean() || rep.Repaired != 5 || rep.Problems[0].Repair == "" {
		t.Fatalf("%+v", rep)
	}
	r.finds(r.run(check.Options{}))
}

func TestDataDamageIsFound(t *testing.T) {
	r := newRig(t)
	r.file(r.bucket, "f", 3<<20, "")
	var at extent.Range
	r.ok(r.extents.Ranges(r.extents.Position(), func(x extent.Range) error { at = x; return nil }))
	r.ok(r.extents.Free(extent.Ref{Segment: at.Segment, Offset: at.Offset + 8192, Length: 4096}))
	rep := r.run(check.Options{Data: true})
	r.finds(rep, check.MissingData) // which is said once
	if rep.Data.Bad != 1 {
		t.Fatalf("%+v", rep.Data)
	}
}

// TestInlineDamageIsFound changes sealed bytes in a row, which the row store of this test does not authenticate.
func TestInlineDamageIsFound(t *testing.T) {
	r := newRig(t)
	r.file(r.bucket, "f", 100, "")
	r.change(func(t kv.Txn) error {
		return t.Scan([]byte{'b'}, []byte{'b' + 1}, func(k, v []byte) (bool, error) {
			v = bytes.Clone(v)
			v[10] ^= 1
			t.Set(bytes.Clone(k), v)
			return true, nil
		})
	})
	r.finds(r.run(check.Options{}))
	rep := r.run(r.withKeys(nil))
	r.finds(rep, check.BadData)
	if rep.Data.Bad != 1 {
		t.Fatalf("%+v", rep.Data)
	}
}

// ring opens the one data key of the rig's files; keys by the ARNs in gone are gone.
type ring struct {
	r    *rig
	gone []string
	bad  string // wrapped keys that do not open
}

func (k ring) Standing(arn string) error {
	if slices.Contains(k.gone, arn) {
		return fmt.Errorf("%s: %w", arn, check.ErrKeyGone)
	}
	return nil
}

func (k ring) Open(wrapped crypto.WrappedKey, ctx crypto.Context) (*crypto.DataKey, error) {
	switch {
	case string(wrapped) == k.bad:
		return nil, errors.New("it is not what was wrapped")
	case slices.Contains(k.gone, ctx["arn"]):
		return nil, check.ErrKeyGone
	}
	return k.r.key.Clone(), nil
}

func (r *rig) withKeys(gone []string) check.Options {
	return check.Options{Data: true, Keys: ring{r: r, gone: gone}}
}

// TestDataIsAuthenticated changes bytes and their checksum, as an attacker could if he had the key of the rows, and the row's alone.
func TestDataIsAuthenticated(t *testing.T) {
	r := newRig(t)
	_, big, closed := r.populate()
	r.ok(closed())
	rep := r.run(r.withKeys(nil))
	r.finds(rep)
	d := rep.Data
	// The removed file's extents are not of a file any more.
	if d.Authentic == 0 || d.Authentic+d.Sums != d.Extents || d.AuthenticBytes+d.SumBytes != d.Bytes || d.SumFiles != 0 || d.SumBytes > 3<<20 {
		t.Fatalf("%+v", d)
	}
	// Two extents of one length change places, checksums included: no checksum tells.
	r.update(big, func(tx *meta.Tx, n *meta.Inode) {
		pieces, err := tx.Pieces(n)
		r.ok(err)
		var swap []meta.Piece
		for _, p := range pieces {
			if !p.Extent.Inline && (len(swap) == 0 || swap[0].Extent.ID != p.Extent.ID && swap[0].Extent.Plain == p.Extent.Plain) {
				swap = append(swap, p)
			}
		}
		if len(swap) < 2 {
			t.Fatalf("no two extents of one length among %d", len(pieces))
		}
		a, b := *swap[0].Extent, *swap[1].Extent
		a.Segment, a.Offset, a.CRC, b.Segment, b.Offset, b.CRC = b.Segment, b.Offset, b.CRC, a.Segment, a.Offset, a.CRC
		for _, p := range pieces {
			q := p
			switch p.Extent.ID {
			case a.ID:
				q.Extent = &a
			case b.ID:
				q.Extent = &b
			default:
				continue
			}
			tx.RemovePiece(n, p)
			tx.AddPiece(n, q)
		}
	})
	r.finds(r.run(check.Options{Data: true}))
	rep = r.run(r.withKeys(nil))
	r.finds(rep, check.BadData)
	if rep.Data.Bad != 2 {
		t.Fatalf("%+v", rep.Data)
	}
}

// TestKeysThatAreGone: files whose KMS key was deleted are told apart; they are no damage, and their bytes are still summed.
func TestKeysThatAreGone(t *testing.T) {
	r := newRig(t)
	sealed := func(name, arn, wrapped string, size int) fs.Ino {
		a, err := r.v.Make(r.bucket, name, fs.New{Type: fs.Regular, Sealing: fs.Sealing{
			Method: fs.SSEKMS, KeyARN: arn, Context: crypto.Context{"arn": arn}, Keys: []fs.FileKey{{Wrapped: []byte(wrapped)}},
		}})
		r.ok(err)
		r.write(a.Ino, 0, size)
		return a.Ino
	}
	sealed("kept", arn, "w", 300_000)
	f, g := sealed("f", arn+"2", "w", 300_000), sealed("g", arn+"2", "w", 100)
	sealed("empty", arn+"3", "w", 0)
	o := r.withKeys([]string{arn + "2", arn + "3"})
	rep := r.run(o)
	r.finds(rep)
	if k := rep.KeysGone; !rep.Clean() || len(k) != 2 || k[0].ARN != arn+"2" || k[0].Files != 2 || !slices.Equal(k[0].Inodes, []fs.Ino{f, g}) || k[1].Files != 1 {
		t.Fatalf("%+v", rep)
	}
	if d := rep.Data; d.SumFiles != 2 || d.Sums != 2 || d.Authentic != 1 {
		t.Fatalf("%+v", d)
	}
	if rep = r.run(check.Options{}); len(rep.KeysGone) != 0 {
		t.Fatalf("%+v without keys", rep.KeysGone)
	}
	o.Keys = ring{r: r, bad: "w"}
	rep = r.run(o)
	r.finds(rep, check.BadSealing)
	if rep.Counts[check.BadSealing] != 3 || rep.Data.Authentic != 0 {
		t.Fatalf("%+v %+v", rep, rep.Data)
	}
}

func (r *rig) quota(text string) {
	r.t.Helper()
	r.ok(r.v.SetBucket(r.bucket, func(b *fs.Bucket) error {
		b.Quota = text
		return nil
	}))
}

func TestQuotasAreCheckedAndCountedAnew(t *testing.T) {
	r := newRig(t)
	ino := r.file(r.bucket, "f", 70_000, "")
	r.file(r.bucket, "g", 100, "")
	r.dir(r.bucket, "d")
	rep := r.run(check.Options{})
	if rep.Quotas != (check.Quotas{}) {
		t.Fatalf("%+v", rep.Quotas)
	}
	r.quota("bytes=100000,inodes=10")
	rep = r.run(check.Options{})
	r.finds(rep)
	if rep.Quotas != (check.Quotas{Checked: 1}) {
		t.Fatalf("%+v", rep.Quotas)
	}
	// Something at work is not compared.
	f, err := r.v.OpenFile(ino, fs.Keys{1: r.key}, nil)
	r.ok(err)
	_, err = f.WriteAt([]byte("longer"), 70_000)
	r.ok(err)
	if rep = r.run(check.Options{}); rep.Quotas != (check.Quotas{Busy: 1}) {
		t.Fatalf("%+v", rep.Quotas)
	}
	r.ok(f.Close())

	r.update(ino, func(_ *meta.Tx, n *meta.Inode) { n.Size += 1000 }) // beneath the counters
	rep = r.run(check.Options{})
	r.finds(rep, check.BadQuota)
	rep = r.run(check.Options{Repair: true})
	if r.finds(rep, check.BadQuota); !rep.Clean() || rep.Problems[0].Repair == "" {
		t.Fatalf("%+v", rep)
	}
	r.finds(r.run(check.Options{}))
	if b, n, q, ok := r.v.Usage(r.bucket); !ok || b != 71_106 || n != 3 || q != (fs.Quota{Bytes: 100_000, Inodes: 10}) {
		t.Fatalf("%d bytes, %d inodes, %+v", b, n, q)
	}
}

func TestMapDamageIsFound(t *testing.T) {
	r := newRig(t)
	f, g := r.file(r.bucket, "f", 100_000, ""), r.file(r.bucket, "g", 100_000, "")
	var stolen meta.Piece
	r.ok(r.v.Rows().View(func(rd *meta.Reader) error {
		n, err := rd.Inode(f)
		if err != nil {
			return err
		}
		pieces, err := rd.Pieces(n)
		stolen = pieces[0]
		return err
	}))
	stolen.Off = 200_000
	r.update(g, func(t *meta.Tx, n *meta.Inode) { t.AddPiece(n, stolen) })
	r.finds(r.run(check.Options{}), check.BadMap, check.Overlap)
}

func TestNothingIsRepairedWhileRowsAreNotLookedAt(t *testing.T) {
	r := newRig(t)
	dir, big, closed := r.populate()
	r.ok(closed())
	r.dropEntries(dir)
	r.change(func(t kv.Txn) error {
		t.Set(append(inodeKey(big), 0), []byte("?")) // no key that a row may have: the scan ends
		return nil
	})
	rep := r.run(check.Options{Repair: true})
	if rep.Complete || rep.Clean() || rep.Repaired != 0 || rep.Counts[check.Unrepairable] != 1 || rep.Counts[check.BadRow] != 1 {
		t.Fatalf("%+v", rep)
	}
	if _, err := r.v.Lookup(r.bucket, check.LostFound); !errors.Is(err, fs.ErrNotFound) {
		t.Fatal(err)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	_, _, closed := r.populate()
	defer func() { r.ok(closed()) }()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := check.Run(ctx, r.v, r.extents, check.Options{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
