package fs

import (
	"bytes"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/meta"
)

func (r *rig) temp(parent Ino, linkable bool) *File {
	r.t.Helper()
	a, err := r.v.MakeTemp(parent, New{Type: Regular, Mode: 0o600, Sealing: testSealing("arn:key")}, linkable)
	r.ok(err)
	if a.Nlink != 0 {
		r.t.Errorf("%d links", a.Nlink)
	}
	r.keys[a.Ino] = Keys{1: crypto.NewDataKey()}
	return r.file(a.Ino)
}

func (r *rig) tombs() (inos []Ino) {
	r.t.Helper()
	r.ok(r.v.Rows().View(func(rd *meta.Reader) error {
		return rd.Tombs(0, func(t meta.Tomb) bool {
			inos = append(inos, t.Ino)
			return true
		})
	}))
	return inos
}

func TestTempFileGetsAName(t *testing.T) {
	for _, size := range []int{100, 3 << 20} {
		r := newPowerRig(t)
		b := r.bucket("temp")
		f := r.temp(b, true)
		ino := f.Ino()
		content := bytes.Repeat([]byte{'x'}, size)
		_, err := f.WriteAt(content, 0)
		r.ok(err)
		if got := r.tombs(); len(got) != 1 || got[0] != ino {
			t.Errorf("tombstones: %v", got)
		}
		_, err = r.v.Link(ino, b, "named")
		r.ok(err)
		if got := r.tombs(); len(got) != 0 || r.v.InUse(ino) {
			t.Errorf("tombstones of a named file: %v", got)
		}
		r.ok(r.v.Rows().Update(func(tx *meta.Tx) error { // by a reaper that has seen the tombstone before
			_, err := tx.SweepTombs([]meta.Ino{ino}, 100, func(*meta.Extent) { t.Error("an extent of a named file is freed") })
			return err
		}))
		used := 0
		r.ok(r.v.KeyFiles("arn:key", func(Ino) bool {
			used++
			return true
		}))
		if used != 1 {
			t.Errorf("indexed %d times under its key", used)
		}
		// It was not closed since it has a name, but a crash of the daemon leaves it whole.
		r.crash()
		g := r.file(ino)
		if got := r.read(g); !bytes.Equal(got, content) {
			t.Errorf("%d bytes after a crash, want %d", len(got), size)
		}
		r.ok(g.Close())
		r.want(ErrExists, errOf(r.v.Link(ino, b, "named")))
		_, err = r.v.Unlink(b, "named")
		r.ok(err)
		r.want(ErrNotFound, errOf(r.v.Attr(ino)))
	}
}

func errOf(_ Attr, err error) error { return err }

func TestTempFileOfALostPower(t *testing.T) {
	r := newPowerRig(t)
	b := r.bucket("temp")
	f := r.temp(b, true)
	ino := f.Ino()
	_, err := f.WriteAt(make([]byte, 3<<20), 0)
	r.ok(err)
	_, err = r.v.Link(ino, b, "named")
	r.ok(err)
	r.ok(f.Flush())
	if rep := r.cutPower(); len(rep.Files) != 1 {
		t.Errorf("recovery: %+v", rep)
	}
	g := r.file(ino) // shorter, but readable
	if got := r.read(g); len(got) != 0 {
		t.Errorf("%d bytes nobody wrote", len(got))
	}
	r.ok(g.Close())
}

func TestTempFileWithoutAName(t *testing.T) {
	r := newRig(t)
	b := r.bucket("temp")
	f := r.temp(b, false)
	ino := f.Ino()
	r.want(ErrNotFound, errOf(r.v.Link(ino, b, "no")))
	_, err := f.WriteAt([]byte("secret"), 0)
	r.ok(err)
	if got := r.read(f); string(got) != "secret" {
		t.Errorf("%q", got)
	}
	r.ok(f.Close())
	r.want(ErrNotFound, errOf(r.v.Attr(ino)))
	if r.v.InUse(ino) {
		t.Error("still in use")
	}
	g := r.temp(b, true)
	ino = g.Ino()
	r.v.Acquire(ino, 1)
	r.ok(g.Close())
	if !r.v.InUse(ino) {
		t.Error("a kernel knows it")
	}
	r.v.Forget(ino, 1)
	r.want(ErrNotFound, errOf(r.v.Link(ino, b, "late")))
}
