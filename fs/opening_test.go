package fs

import (
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// TestOpeningKeys: keys of long extents stay derived while the file is open, are bounded over all files, and go with the data keys.
func TestOpeningKeys(t *testing.T) {
	r := newRig(t)
	b := r.bucket("b")
	f := r.create(b, "f")
	_, err := f.WriteAt(make([]byte, 3*maxRun), 0)
	r.ok(err)
	r.ok(f.Flush())
	small := r.create(b, "small")
	_, err = small.WriteAt(make([]byte, keepFrom-1), 0)
	r.ok(err)
	r.ok(small.Flush())
	p := make([]byte, 4096)
	before := crypto.LiveKeys()
	for range 2 {
		for off := range int64(3) {
			_, err := f.ReadAt(p, off*maxRun+8192)
			r.ok(err)
		}
		_, err := small.ReadAt(p, 0)
		r.ok(err)
	}
	extents := map[meta.ExtentID]bool{}
	for x := range f.d.extents.refs {
		extents[x.ID] = true
	}
	if n := len(f.d.opening); n != len(extents) || r.v.opening.Load() != int64(n) || len(small.d.opening) != 0 {
		t.Errorf("%d keys kept of %d extents, %d counted, %d of a small file", n, len(extents), r.v.opening.Load(), len(small.d.opening))
	}
	if n := crypto.LiveKeys() - before; n != len(extents) {
		t.Errorf("%d keys are in memory, %d are kept", n, len(extents))
	}
	x := f.d.extents
	f.d.wipe()
	if n := crypto.LiveKeys() - before; n != -1 { // nor is the file's data key
		t.Errorf("%d keys are in memory, of a file that has none", n)
	}
	for e := range x.refs {
		if _, err := r.v.openingKey(f.Ino(), f.d, e); err == nil {
			t.Error("a key is found although the data key is gone")
		}
	}
	if n := r.v.opening.Load(); n != 0 {
		t.Errorf("%d keys counted when none is there", n)
	}
	f.d.addKey(1, r.keys[f.Ino()][1])
	r.v.opening.Store(maxOpening)
	_, err = f.ReadAt(p, 0)
	r.ok(err)
	if len(f.d.opening) != 0 || r.v.opening.Load() != maxOpening {
		t.Errorf("%d keys kept beyond the bound, %d counted", len(f.d.opening), r.v.opening.Load())
	}
	r.v.opening.Store(maxOpening - 1)
	for off := range int64(3) {
		_, err := f.ReadAt(p, off*maxRun)
		r.ok(err)
	}
	if len(f.d.opening) != 1 || r.v.opening.Load() != maxOpening {
		t.Errorf("%d keys kept at the bound, %d counted", len(f.d.opening), r.v.opening.Load())
	}
	r.ok(f.Close())
	r.ok(small.Close())
	if n := r.v.opening.Load(); n != maxOpening-1 {
		t.Errorf("%d keys counted after the files were closed", n-(maxOpening-1))
	}
	r.v.opening.Store(0)
}
