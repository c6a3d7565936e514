package fs

import (
	"bytes"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// TestLone: a file of one piece that was open before is read without a look into the rows, and always what was written last.
func TestLone(t *testing.T) {
	rows := kvtest.NewFaulty(memkv.New(), nil)
	r := newRigWith(t, rows, memextent.New())
	b := r.bucket("one")
	f := r.create(b, "f")
	ino := f.Ino()
	var want []byte
	write := func(f *File, text string, off int) {
		t.Helper()
		_, err := f.WriteAt([]byte(text), int64(off))
		r.ok(err)
		want = append(want, make([]byte, max(0, off+len(text)-len(want)))...)
		copy(want[off:], text)
	}
	reads := func(views int) {
		t.Helper()
		before := rows.Count(kvtest.View)
		f := r.file(ino)
		if got := r.read(f); !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, want %d: not what was written", len(got), len(want))
		}
		r.ok(f.Close())
		if n := rows.Count(kvtest.View) - before; n != views {
			t.Errorf("%d looks into the rows, want %d", n, views)
		}
	}
	first := string(bytes.Repeat([]byte("a"), 5000))
	write(f, first, 0)
	r.ok(f.Close())
	reads(0)
	f = r.file(ino)
	write(f, string(bytes.Repeat([]byte("b"), 6000)), 0) // all of it is replaced: one piece, another one
	r.ok(f.Close())
	reads(0)
	f = r.file(ino)
	write(f, string(bytes.Repeat([]byte("c"), 2000)), 20_000)
	r.ok(f.Close())
	reads(1) // two pieces
	f = r.file(ino)
	r.ok(f.Truncate(4000))
	want = want[:4000]
	r.ok(f.Close())
	reads(0)
	r.v.DropCaches()
	reads(2) // the inode, the piece
	reads(0)
}
