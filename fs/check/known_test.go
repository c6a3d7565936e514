package check_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/check"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/kv"
)

// lose frees the last block of the newest stored range behind the volume's back.
func (r *rig) lose() {
	r.t.Helper()
	var at extent.Range
	r.ok(r.extents.Ranges(r.extents.Position(), func(x extent.Range) error { at = x; return nil }))
	r.ok(r.extents.Free(extent.Ref{Segment: at.Segment, Offset: at.Offset + at.Length - extent.Align, Length: extent.Align}))
}

// TestKnownLosses: what a repair cannot bring back it writes down, and from then on a check tells it from what is new. Nobody else can write
// such a record.
func TestKnownLosses(t *testing.T) {
	r := newRig(t)
	r.quota("bytes=1000000000")
	dir := r.dir(r.bucket, "dir")
	big := r.file(dir, "big", 300_000, "")
	r.lose()
	rep := r.run(check.Options{})
	r.finds(rep, check.MissingData)
	if p := rep.Problems[0]; p.Ino != big || !strings.Contains(p.Message, `"big" in directory`) || !strings.Contains(p.Message, " sealed bytes of 1 extents, in segment 1") || rep.Clean() {
		t.Fatalf("%+v", rep)
	}
	rep = r.run(check.Options{Repair: true, Now: 1})
	if rep.Clean() || rep.Recorded != 1 || rep.Problems[0].Record == "" || rep.Repaired != 0 {
		t.Fatalf("%+v", rep)
	}
	lost, err := r.v.Lookup(r.bucket, check.LostFound)
	r.ok(err)
	found := r.list(lost.Ino)
	if len(found) != 1 || !strings.HasSuffix(rep.Problems[0].Record, "of its bucket") || !strings.Contains(rep.Problems[0].Record, found[0].Name) {
		t.Fatalf("lost+found holds %v, the report says %+v", found, rep.Problems)
	}
	target, err := r.v.Readlink(found[0].Ino)
	r.ok(err)
	if !strings.HasPrefix(target, `known to be lost since 1970-01-01T00:00:00Z: inode `) || !strings.Contains(target, " sealed bytes of 1 extents") {
		t.Fatal(target)
	}
	for _, o := range []check.Options{{}, {Data: true}, {Repair: true, Now: 2}} {
		if rep = r.run(o); !rep.Clean() || rep.Known != 1 || !rep.Problems[0].Known || rep.Recorded != 0 || rep.Quotas.Busy != 0 {
			t.Fatalf("%+v: %+v", o, rep)
		}
	}
	if n := len(r.list(lost.Ino)); n != 1 {
		t.Fatalf("%d records", n)
	}
	f, err := r.v.OpenFile(big, fs.Keys{1: r.key}, nil)
	r.ok(err)
	if _, err := f.ReadAt(make([]byte, 300_000), 0); err == nil {
		t.Error("what is lost can be read")
	}
	r.ok(f.Close())

	// Another loss is a new one, also of the same file, and whatever the owner of the bucket writes.
	_, err = r.v.Make(r.bucket, "mine", fs.New{Type: fs.Symlink, Target: "known to be lost since yesterday: everything [0011223344556677 8899aabbccddeeff]"})
	r.ok(err)
	other := r.file(dir, "other", 300_000, "")
	r.lose()
	if rep = r.run(check.Options{}); rep.Clean() || rep.Known != 1 || rep.Counts[check.MissingData] != 2 || rep.Problems[1].Known || rep.Problems[1].Ino != other {
		t.Fatalf("%+v", rep)
	}
	rep = r.run(check.Options{Repair: true, Now: 3})
	if rep.Known != 1 || rep.Recorded != 1 {
		t.Fatalf("%+v", rep)
	}
	if rep = r.run(check.Options{}); !rep.Clean() || rep.Known != 2 {
		t.Fatalf("%+v", rep)
	}
	// Without the record it is reported again; without the files there is nothing to report.
	_, err = r.v.Unlink(lost.Ino, found[0].Name)
	r.ok(err)
	if rep = r.run(check.Options{}); rep.Clean() || rep.Known != 1 {
		t.Fatalf("%+v", rep)
	}
	for _, name := range []string{"big", "other"} {
		_, err = r.v.Unlink(dir, name)
		r.ok(err)
	}
	if rep = r.run(check.Options{}); !rep.Clean() || rep.Total() != 0 {
		t.Fatalf("%+v", rep)
	}
}

// TestManyKnownLosses: however many there are of one file, all are written down, in words and hashes that fit into a symbolic link.
func TestManyKnownLosses(t *testing.T) {
	d := newDamagedRig(t)
	name := strings.Repeat("n", 255)
	many := d.rig.file(d.dir, name, 10, "")
	for i := range 400 {
		d.write(many, int64(i)*40_000, 20_000) // each an extent
	}
	d.ok(d.raw.Update(func(tx kv.Txn) error {
		begin := binary.BigEndian.AppendUint64([]byte{'e'}, uint64(many))
		return tx.Scan(begin, kv.PrefixEnd(begin), func(k, v []byte) (bool, error) {
			b := bytes.Clone(v)
			b[len(b)/2] ^= 0xff
			tx.Set(bytes.Clone(k), b)
			return true, nil
		})
	}))
	d.v.DropCaches()
	rep := d.run(check.Options{})
	if rep.Counts[check.BadRow] < 400 {
		t.Fatalf("%+v", rep)
	}
	before := rep.Total()
	rep = d.run(check.Options{Repair: true, Now: 1})
	if rep.Recorded < before {
		t.Fatalf("%d of %d: %+v", rep.Recorded, before, rep.Counts)
	}
	d.v.DropCaches()
	if again := d.run(check.Options{}); !again.Clean() || again.Known != before {
		t.Fatalf("%+v", again)
	}
}
