package meta

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

var update = flag.Bool("update", false, "write the vectors anew")

func testKey(t testing.TB) *crypto.DataKey {
	b := make([]byte, crypto.KeySize)
	for i := range b {
		b[i] = byte(i)
	}
	k, err := crypto.DataKeyFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sampleInodes() map[string]*Inode {
	return map[string]*Inode{
		"file": {
			Ino: 5, Type: Regular, Mode: 0o644, UID: 1000, GID: 1000, Nlink: 2, Size: 12345, Alloc: 12000, Bucket: 2,
			Atime: 1, Mtime: -2, Ctime: 1700000000000000000, Btime: 4, Links: []Link{{3, "a"}, {4, "b\xff"}},
			Sealing: Sealing{
				Method: SSEKMS, KeyARN: "arn:aws:kms:us-east-1:000000000000:key/x", BucketKey: true, Explicit: true,
				Context: crypto.Context{"aws:s3:arn": "arn:aws:s3:::b/a", "z": ""},
				Keys:    []FileKey{{1, crypto.WrappedKey("one")}, {7, crypto.WrappedKey("seven")}},
			},
			NextKey: 8, Rows: Set{Count: 3, Sum: [4]uint64{1, 2, 3, 4}}, Xattrs: Set{Count: 1, Sum: [4]uint64{5, 6, 7, 8}},
		},
		"bucket": {
			Ino: 2, Type: Directory, Mode: 0o755, Nlink: 3, Bucket: 2, Links: []Link{{1, "b"}}, Default: "aws:kms",
			BucketInfo: &Bucket{Name: "b", Encryption: "{}", Policy: []byte("{}"), Created: 9, Quota: "bytes=1"},
		},
		"symlink": {Ino: 6, Type: Symlink, Mode: 0o777, Nlink: 1, Size: 3, Bucket: 2, Links: []Link{{3, "l"}}, Target: "a/b"},
		"device":  {Ino: 7, Type: CharDevice, Nlink: 1, Rdev: 0x103, Bucket: 2, Links: []Link{{3, "null"}}},
	}
}

func TestInodeRoundTrip(t *testing.T) {
	for name, n := range sampleInodes() {
		got, err := decodeInode(n.Ino, encodeInode(n))
		if err != nil || !reflect.DeepEqual(got, n) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", name, err, got, n)
		}
		sameUse(t, encodeInode(n), n)
	}
}

// sameUse checks that decodeUse reads from a row what decodeInode does.
func sameUse(t *testing.T, b []byte, n *Inode) {
	t.Helper()
	u, err := decodeUse(n.Ino, b)
	got := Inode{Ino: u.Ino, Type: u.Type, Default: u.Default, BucketInfo: u.Bucket, Sealing: Sealing{Method: u.Method, KeyARN: string(u.KeyARN)}}
	want := Inode{
		Ino: n.Ino, Type: n.Type, Default: n.Default, BucketInfo: n.BucketInfo,
		Sealing: Sealing{Method: n.Sealing.Method, KeyARN: n.Sealing.KeyARN},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%x: %v\n got %+v\nwant %+v", b, err, got, want)
	}
	for cut := range len(b) {
		if u, err := decodeUse(n.Ino, b[:cut]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d of %d bytes: %+v, %v", cut, len(b), u, err)
		}
	}
}

func samplePieces() []Piece {
	return []Piece{
		{Off: 0, Len: 100, Inside: 0, Extent: &Extent{ID: 9, Plain: 100, Generation: 1, Salt: [16]byte{1}, Inline: true}},
		{Off: 1 << 40, Len: 1 << 20, Inside: 0, Extent: &Extent{
			ID: 10, Plain: 1 << 20, Generation: 2, Salt: [16]byte{2}, Segment: 3, Offset: 8192, Sealed: 1052672, CRC: 0xdeadbeef, Epoch: 77,
		}},
	}
}

// TestVectors pins the bytes of the format: they must never change.
func TestVectors(t *testing.T) {
	got := map[string]string{}
	for name, n := range sampleInodes() {
		got["inode "+name] = hex.EncodeToString(encodeInode(n))
	}
	for i, p := range samplePieces() {
		got[fmt.Sprintf("piece %d", i)] = hex.EncodeToString(encodePieceRow(p))
		got[fmt.Sprintf("replaced %d", i)] = hex.EncodeToString(encodeReplaced(Replaced{Restore: true, Free: i == 1, Piece: p}))
	}
	got["dentry"] = hex.EncodeToString(encodeDentry(Dentry{"name", 300, Regular}))
	got["super"] = hex.EncodeToString(encodeSuper(Super{1, 2, 3, 4}))
	got["usage"] = hex.EncodeToString(encodeUsage(Usage{Epoch: 7, Bytes: 300, Inodes: 2}))
	got["xattr"] = hex.EncodeToString(encodeXattr("user.a", []byte("v")))
	db := NewDB(memkv.New(), testKey(t))
	got["name hash of report.txt"] = fmt.Sprintf("%016x", db.nameHash("report.txt"))
	got["arn hash"] = fmt.Sprintf("%x", db.arnHash("arn:aws:kms:us-east-1:000000000000:key/x"))
	var s Set
	s.add(db.sets.sum([]byte("key"), []byte("value")))
	got["set of one"] = fmt.Sprintf("%x", s.Sum)
	const file = "testdata/vectors.json"
	if *update {
		b, _ := json.MarshalIndent(got, "", " ")
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the format has changed\n got %v\nwant %v", got, want)
	}
}

func TestCollidingNames(t *testing.T) {
	db := NewDB(memkv.New(), testKey(t))
	db.nameHash = func(string) uint64 { return 100 }
	dir := &Inode{Ino: 1, Type: Directory, Nlink: 2}
	apply := func(fn func(*Tx) error) error {
		return db.Update(func(t *Tx) error {
			if err := fn(t); err != nil {
				return err
			}
			t.PutInode(dir)
			return nil
		})
	}
	for i, name := range []string{"a", "b", "c", "d"} {
		if err := apply(func(t *Tx) error { return t.AddDentry(dir, Dentry{name, Ino(i + 10), Regular}) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := apply(func(t *Tx) error { return t.RemoveDentry(dir, "b") }); err != nil {
		t.Fatal(err)
	}
	var names []string
	list := func(after uint64, limit int) (last uint64) {
		err := db.View(func(r *Reader) error {
			return r.Entries(1, after, func(d Dentry, c uint64) bool {
				if len(names) == limit {
					return false
				}
				names, last = append(names, d.Name), c
				return true
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		return last
	}
	if list(0, 10); fmt.Sprint(names) != "[a d c]" {
		t.Fatal(names)
	}
	names = nil
	cookie := list(0, 2)
	list(cookie, 10)
	slices.Sort(names)
	if names = slices.Compact(names); fmt.Sprint(names) != "[a c d]" {
		t.Fatal("a listing that stops among collisions skips:", names)
	}
	for name, ino := range map[string]Ino{"a": 10, "c": 12, "d": 13} {
		err := db.View(func(r *Reader) error {
			d, err := r.Dentry(1, name)
			if err == nil && d.Ino != ino {
				err = fmt.Errorf("%s is %d", name, d.Ino)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if dir.Rows.Count != 3 {
		t.Fatal(dir.Rows)
	}
}

func TestDroppedRowsAreNoticed(t *testing.T) {
	store := memkv.New()
	db := NewDB(store, testKey(t))
	dir := &Inode{Ino: 1, Type: Directory, Nlink: 2}
	file := &Inode{Ino: 2, Type: Regular, Nlink: 1, Sealing: Sealing{Method: SSES3}}
	err := db.Update(func(t *Tx) error {
		*dir, *file = Inode{Ino: 1, Type: Directory, Nlink: 2}, Inode{Ino: 2, Type: Regular, Nlink: 1}
		for i, name := range []string{"x", "y"} {
			if err := t.AddDentry(dir, Dentry{name, Ino(i + 2), Regular}); err != nil {
				return err
			}
		}
		for _, p := range samplePieces() {
			t.AddPiece(file, p)
		}
		if _, err := t.SetXattr(file, "user.a", []byte("1")); err != nil {
			return err
		}
		t.PutInode(dir)
		t.PutInode(file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	checks := map[string]func(*Reader) error{
		"dentry": func(r *Reader) error { return r.Entries(1, 0, func(Dentry, uint64) bool { return true }) },
		"piece":  func(r *Reader) error { _, err := r.Pieces(file); return err },
		"xattr":  func(r *Reader) error { _, err := r.XattrNames(2); return err },
	}
	for name, check := range checks {
		if err := db.View(check); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	err = db.Update(func(t *Tx) error {
		t.t.Delete(dentryKey(1, db.nameHash("y"), 0))
		t.t.Delete(pieceKey(2, 0))
		t.t.Delete(t.xattrKey(2, "user.a"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, check := range checks {
		if err := db.View(check); !errors.Is(err, ErrCorrupt) {
			t.Errorf("a missing %s row is not noticed: %v", name, err)
		}
	}
}

func FuzzDecodeInode(f *testing.F) {
	for _, n := range sampleInodes() {
		f.Add(encodeInode(n))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := decodeInode(5, b)
		if err == nil && string(encodeInode(n)) != string(b) {
			t.Errorf("%x decodes, but is not what is written for it: %x", b, encodeInode(n))
		}
		if err == nil && len(b) < 4096 {
			sameUse(t, b, n)
		}
	})
}

func FuzzDecodeRows(f *testing.F) {
	for _, p := range samplePieces() {
		f.Add(encodePieceRow(p))
		f.Add(encodeReplaced(Replaced{Restore: true, Piece: p}))
	}
	f.Add(encodeDentry(Dentry{"n", 3, Symlink}))
	f.Add(encodeSuper(Super{1, 2, 3, 4}))
	f.Add(encodeXattr("user.a", []byte("v")))
	f.Add(encodeUsage(Usage{Epoch: 7, Bytes: 300, Inodes: 2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodePieceRow(0, b); err == nil && string(encodePieceRow(p)) != string(b) {
			t.Errorf("piece %x", b)
		}
		if r, err := decodeReplaced(1, b); err == nil && string(encodeReplaced(r)) != string(b) {
			t.Errorf("replaced %x", b)
		}
		if d, err := decodeDentry(b); err == nil && string(encodeDentry(d)) != string(b) {
			t.Errorf("dentry %x", b)
		}
		if s, err := decodeSuper(b); err == nil && string(encodeSuper(s)) != string(b) {
			t.Errorf("super %x", b)
		}
		if n, v, err := decodeXattr(b); err == nil && string(encodeXattr(n, v)) != string(b) {
			t.Errorf("xattr %x", b)
		}
		if u, err := decodeUsage(b); err == nil && string(encodeUsage(u)) != string(b) {
			t.Errorf("usage %x", b)
		}
	})
}

// TestARNHash asks in turns for ARNs that share a place among those that are remembered.
func TestARNHash(t *testing.T) {
	db := NewDB(memkv.New(), testKey(t))
	for range 3 {
		for _, arn := range []string{"", "a1", "b1", "a2", "aA"} {
			if got, want := db.arnHash(arn), db.names.sum([]byte{'k'}, []byte(arn)); got != want {
				t.Errorf("hash of %q: %x, want %x", arn, got, want)
			}
		}
	}
}
