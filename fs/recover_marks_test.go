package fs

import (
	"bytes"
	"testing"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// A file that was written, closed, opened again and extended in one epoch was empty when the epoch began: what is lost leaves no zeros.
func TestPowerCutOfReopenedFileLeavesNoZeros(t *testing.T) {
	r := newPowerRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	for range 3 {
		_, err := f.Append(bytes.Repeat([]byte{7}, 100<<10))
		r.ok(err)
		r.ok(f.Close())
		f = r.file(f.Ino())
	}
	r.cutPower()
	if got := r.read(r.file(f.Ino())); len(got) != 0 {
		t.Fatalf("%d bytes", len(got))
	}
}

// A truncation counts, too: what was cut off and written again does not come back as zeros.
func TestPowerCutAfterTruncationLeavesNoZeros(t *testing.T) {
	r := newPowerRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	old := bytes.Repeat([]byte{7}, 100<<10)
	_, err := f.WriteAt(old, 0)
	r.ok(err)
	r.ok(f.Sync(false))
	r.ok(r.v.CloseEpoch())
	_, err = f.WriteAt(bytes.Repeat([]byte{8}, 50<<10), 0)
	r.ok(err)
	r.ok(f.Flush())
	r.ok(f.Truncate(10 << 10))
	_, err = f.WriteAt(bytes.Repeat([]byte{9}, 190<<10), 10<<10)
	r.ok(err)
	r.ok(f.Flush())
	r.cutPower()
	if got := r.read(r.file(f.Ino())); len(got) < 10<<10 || len(got) > len(old) || !bytes.Equal(got, old[:len(got)]) {
		t.Fatalf("%d bytes, or others than the old", len(got))
	}
}

// What was synced stays, even if bytes before it are lost later in the same epoch: those were a hole then.
func TestPowerCutKeepsSyncedBytesBehindALostHole(t *testing.T) {
	for name, sync := range map[string]func(*rig, *File){
		"durable flush": func(r *rig, f *File) { r.ok(f.Sync(false)) },
		"clean sync":    func(r *rig, f *File) { r.ok(f.Flush()); r.ok(f.Sync(false)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newPowerRig(t)
			b := r.bucket("b")
			f := r.create(b, "f")
			part := bytes.Repeat([]byte{7}, 50<<10)
			for _, off := range []int64{0, 500 << 10} {
				_, err := f.WriteAt(part, off)
				r.ok(err)
			}
			sync(r, f)
			_, err := f.WriteAt(part, 200<<10)
			r.ok(err)
			r.ok(f.Flush())
			r.cutPower()
			want := make([]byte, 550<<10)
			copy(want, part)
			copy(want[500<<10:], part)
			if got := r.read(r.file(f.Ino())); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, first difference at %d", len(got), diff(got, want))
			}
		})
	}
}

// The same after the file was shorter in the epoch and what was synced had gone into the rows: a sync that finds nothing to write moves
// the mark, too. (Power cuts, seed 413516427.)
func TestPowerCutKeepsWhatACleanSyncVouchedFor(t *testing.T) {
	r := newPowerRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	_, err := f.WriteAt(bytes.Repeat([]byte{7}, 400), 0)
	r.ok(err)
	r.ok(f.Flush())
	r.ok(f.Truncate(0))
	_, err = f.WriteAt(bytes.Repeat([]byte{8}, 422), 0)
	r.ok(err)
	r.ok(f.Truncate(1008))
	r.ok(f.Flush())
	r.ok(f.Sync(false))
	want := r.read(f)
	for _, off := range []int64{0, 1008} {
		_, err = f.WriteAt(bytes.Repeat([]byte{9}, 3000), off)
		r.ok(err)
	}
	r.ok(f.Flush())
	if rep := r.cutPower(); len(rep.Files) != 1 || rep.Files[0].Lost == 0 {
		t.Fatalf("nothing was lost: %+v", rep)
	}
	if got := r.read(r.file(f.Ino())); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes of %d, first difference at %d", len(got), len(want), diff(got, want))
	}
}

// A file that replaced another is complete under the new name from then on, also if later writes are lost over what was a hole in it:
// the mark moves with the rename. (Power cuts, seed 225020872.)
func TestPowerCutAfterReplacingRenameAndMoreWrites(t *testing.T) {
	for _, raced := range []bool{false, true} {
		r := newPowerRig(t)
		b := r.bucket("b")
		over := r.create(b, "over")
		r.ok(over.Close())
		f := r.create(b, "f")
		part := bytes.Repeat([]byte{7}, 100<<10)
		_, err := f.WriteAt(part, 4<<10)
		r.ok(err)
		r.ok(f.Close())
		want := append(make([]byte, 4<<10), part...)
		f = r.file(f.Ino())
		if raced { // more is committed between the sync and the rename
			settled, err := r.v.beforeReplace(b, "f", b, "over")
			r.ok(err)
			_, err = f.Append(part)
			r.ok(err)
			r.ok(f.Flush())
			n, err := r.v.get(f.Ino())
			r.ok(err)
			if settled == n.committed() {
				t.Fatal("a row that was committed since is taken for the one that was synced")
			}
			r.v.put(n)
			continue
		}
		_, err = r.v.Rename(b, "f", b, "over", 0)
		r.ok(err)
		_, err = f.WriteAt(bytes.Repeat([]byte{8}, 200<<10), 0)
		r.ok(err)
		r.ok(f.Flush())
		if rep := r.cutPower(); len(rep.Files) != 1 || rep.Files[0].Lost == 0 {
			t.Fatalf("nothing was lost: %+v", rep)
		}
		a, err := r.v.Lookup(b, "over")
		r.ok(err)
		if got := r.read(r.file(a.Ino)); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes of %d, first difference at %d", len(got), len(want), diff(got, want))
		}
	}
}

// An extent of which recovery cuts off a part is still in use.
func TestRecoveryFreesNothingInUse(t *testing.T) {
	r := newPowerRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	part := bytes.Repeat([]byte{7}, 50<<10)
	for _, off := range []int64{0, 500 << 10} { // one extent with two pieces
		_, err := f.WriteAt(part, off)
		r.ok(err)
	}
	r.ok(f.Flush())
	r.ok(r.extents.Sync()) // it survives, by chance
	_, err := f.WriteAt(part, 200<<10)
	r.ok(err)
	r.ok(f.Flush())
	r.cutPower()
	g := r.file(f.Ino())
	if got := r.read(g); !bytes.Equal(got[:len(part)], part) || len(got) > 200<<10 {
		t.Fatalf("%d bytes", len(got))
	}
	r.ok(r.v.Rows().View(func(rd *meta.Reader) error {
		n, err := rd.Inode(f.Ino())
		if err != nil {
			return err
		}
		pieces, err := rd.Pieces(n)
		if err != nil {
			return err
		}
		return rd.EachReplaced(func(x meta.RawReplaced, err error) error {
			for _, p := range pieces {
				if x.Free && x.Piece.Extent.ID == p.Extent.ID {
					t.Errorf("extent %d is to be freed and in use", p.Extent.ID)
				}
			}
			return err
		})
	}))
}

// Inline bytes of which a part was covered go only when nothing may need them any more.
func TestPowerCutRestoresPartlyCoveredInline(t *testing.T) {
	r := newPowerRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	old := bytes.Repeat([]byte{7}, 8<<10)
	_, err := f.WriteAt(old, 0)
	r.ok(err)
	r.ok(f.Sync(false)) // inline
	r.ok(r.v.CloseEpoch())
	_, err = f.WriteAt(bytes.Repeat([]byte{8}, 7<<10+512), 0)
	r.ok(err)
	r.ok(f.Flush()) // a segment, and lost
	_, err = f.WriteAt(bytes.Repeat([]byte{9}, 512), 7<<10+512)
	r.ok(err)
	r.ok(f.Flush()) // inline again, and there
	r.cutPower()
	want := append(bytes.Clone(old[:7<<10+512]), bytes.Repeat([]byte{9}, 512)...)
	if got := r.read(r.file(f.Ino())); !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, first difference at %d", len(got), diff(got, want))
	}
}
