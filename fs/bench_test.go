package fs

import (
	"bytes"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
)

// newDiskRig is a volume on the stores that a daemon uses.
func newDiskRig(b *testing.B) *rig {
	dir := b.TempDir()
	kv, err := badgerkv.Open(dir+"/kv", badgerkv.Options{})
	if err != nil {
		b.Fatal(err)
	}
	ext, err := segment.Open(dir+"/segments", segment.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = kv.Close(); _ = ext.Close() })
	return newRigWith(b, sealed.New(kv, crypto.NewDataKey()), ext)
}

// BenchmarkCreate4K is a small file's life in the volume: make, open, write 4 KiB, close.
func BenchmarkCreate4K(b *testing.B) {
	r := newDiskRig(b)
	dir := r.bucket("b")
	p := bytes.Repeat([]byte{1}, 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f := r.create(dir, strconv.Itoa(i))
		_, err := f.WriteAt(p, 0)
		r.ok(err)
		r.ok(f.Close())
	}
}

// BenchmarkWriteSequential writes 1 MiB at a time and seals it.
func BenchmarkWriteSequential(b *testing.B) {
	r := newDiskRig(b)
	f := r.create(r.bucket("b"), "f")
	p := bytes.Repeat([]byte{1}, 1<<20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, err := f.WriteAt(p, int64(i%64)<<20)
		r.ok(err)
	}
	r.ok(f.Close())
}

// BenchmarkWriteRandom4K writes 4 KiB blocks in a 256 MiB file in no order.
func BenchmarkWriteRandom4K(b *testing.B) {
	r := newDiskRig(b)
	f := r.create(r.bucket("b"), "f")
	p := bytes.Repeat([]byte{1}, 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, err := f.WriteAt(p, int64(i*7919%65536)*4096)
		r.ok(err)
	}
	r.ok(f.Close())
}

// BenchmarkSync4K writes a 256 MiB file over, 4 KiB at a time, in order, each followed by an fsync.
func BenchmarkSync4K(b *testing.B) {
	r := newDiskRig(b)
	f := r.create(r.bucket("b"), "f")
	p := bytes.Repeat([]byte{1}, 1<<20)
	for i := range int64(256) {
		_, err := f.WriteAt(p, i<<20)
		r.ok(err)
	}
	r.ok(f.Sync(false))
	p = p[:4096]
	b.ReportAllocs()
	used := processorTime(b)
	for i := 0; b.Loop(); i++ {
		_, err := f.WriteAt(p, int64(i%65536)*4096)
		r.ok(err)
		r.ok(f.Sync(false))
	}
	b.ReportMetric(float64(processorTime(b)-used)/float64(b.N)/1e3, "cpu-µs/op")
	r.ok(f.Close())
}

// processorTime is what the process has used of the processors, in nanoseconds.
func processorTime(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkRead4K reads blocks of a sealed 64 MiB file in no order.
func BenchmarkRead4K(b *testing.B) {
	r := newDiskRig(b)
	f := r.create(r.bucket("b"), "f")
	_, err := f.WriteAt(make([]byte, 64<<20), 0)
	r.ok(err)
	r.ok(f.Flush())
	p := make([]byte, 4096)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, err := f.ReadAt(p, int64(i*7919%16384)*4096)
		r.ok(err)
	}
	r.ok(f.Close())
}

// BenchmarkAttr is a stat of a cached inode, BenchmarkLookup of a name in a directory of 10,000.
func BenchmarkAttr(b *testing.B) {
	r := newDiskRig(b)
	ino := r.bucket("b")
	for b.Loop() {
		_, err := r.v.Attr(ino)
		r.ok(err)
	}
}

func BenchmarkLookup(b *testing.B) {
	r := newDiskRig(b)
	dir := r.bucket("b")
	for i := range 10000 {
		r.ok(r.create(dir, strconv.Itoa(i)).Close())
	}
	for i := 0; b.Loop(); i++ {
		_, err := r.v.Lookup(dir, strconv.Itoa(i%10000))
		r.ok(err)
	}
}
