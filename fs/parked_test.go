package fs

import (
	"bytes"
	"testing"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// scattered makes a file of so many separate blocks, and closes it.
func (r *rig) scattered(dir Ino, name string, blocks int64) (Ino, []byte) {
	r.t.Helper()
	f := r.create(dir, name)
	want := make([]byte, 2*blocks*4096)
	p := bytes.Repeat([]byte{byte(blocks)}, 4096)
	for i := range blocks {
		off := (2*i + 1) * 4096
		_, err := f.WriteAt(p, off)
		r.ok(err)
		copy(want[off:], p)
	}
	r.ok(f.Close())
	return f.Ino(), want
}

// TestParkedMap closes and opens files with large maps: the map is there again without having been loaded, unless the rows have changed.
func TestParkedMap(t *testing.T) {
	r := newRig(t)
	b := r.bucket("b")
	ino, want := r.scattered(b, "f", 200)
	kept := r.v.parking.byIno[ino].Value.(*parkedMap).extents
	if r.v.parking.pieces != 200 {
		t.Fatalf("%d pieces are kept", r.v.parking.pieces)
	}
	f := r.file(ino)
	if !bytes.Equal(r.read(f), want) {
		t.Error("other content")
	}
	if f.d.extents != kept || r.v.parking.pieces != 0 {
		t.Errorf("the map was loaded; %d pieces are kept", r.v.parking.pieces)
	}
	_, err := f.WriteAt([]byte("more"), 4096)
	r.ok(err)
	copy(want[4096:], "more")
	r.ok(f.Close())
	f = r.file(ino)
	if !bytes.Equal(r.read(f), want) {
		t.Error("other content after a change")
	}
	r.ok(f.Close())

	// Something else has changed the rows.
	kept = r.v.parking.byIno[ino].Value.(*parkedMap).extents
	r.v.parking.byIno[ino].Value.(*parkedMap).rows.Sum[3]++
	f = r.file(ino)
	if !bytes.Equal(r.read(f), want) {
		t.Error("other content after a change from elsewhere")
	}
	if f.d.extents == kept {
		t.Error("a map of other rows was taken")
	}
	r.ok(f.Close())
	_, err = r.v.Unlink(b, "f")
	r.ok(err)
	r.scattered(b, "small", parkFrom-1)
	if n := len(r.v.parking.byIno); n != 1 {
		t.Errorf("%d maps are kept", n)
	}
}

// TestParkingIsBounded keeps the newest.
func TestParkingIsBounded(t *testing.T) {
	var k parking
	k.init()
	p := make([]meta.Piece, parkMost/4)
	for i := range p {
		p[i] = meta.Piece{Off: uint64(i) * 4096, Len: 4096, Extent: &meta.Extent{}}
	}
	rows := meta.Set{Count: parkMost / 4}
	for ino := range Ino(6) {
		n := &inode{ino: ino, row: &meta.Inode{Ino: ino, Nlink: 1, Rows: rows}}
		k.put(n, &fileData{loaded: true, extents: newExtentMap(p)})
		k.put(n, &fileData{loaded: true, extents: newExtentMap(p)}) // in the place of the first
	}
	if k.pieces != parkMost || len(k.byIno) != 4 || k.newest.Len() != 4 {
		t.Errorf("%d pieces, %d maps, %d in the list", k.pieces, len(k.byIno), k.newest.Len())
	}
	if k.take(1, rows) != nil || k.take(5, rows) == nil || k.take(5, rows) != nil {
		t.Error("not the newest are kept")
	}
}
