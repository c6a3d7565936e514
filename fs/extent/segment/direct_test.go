package segment

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// TestDirect reads ranges of long extents past the page cache, from and to any alignment, and compares.
func TestDirect(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	rnd := rand.New(rand.NewPCG(1, 2))
	var refs []extent.Ref
	var want [][]byte
	for _, n := range []int{directFrom, directFrom + 1, 1<<20 + 4096, 1<<20 + 4111, 300_001} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		ref, err := s.Append(b)
		must(t, err)
		refs, want = append(refs, ref), append(want, b)
	}
	must(t, s.Sync())
	f, err := s.files.acquire(refs[0].Segment)
	must(t, err)
	defer s.files.release(f)
	if s.readDirect(f, aligned(directFrom), refs[0].Offset) {
		t.Error("what was just written was not read from the page cache")
	}
	must(t, unix.Fadvise(int(f.f.Fd()), 0, 0, unix.FADV_DONTNEED))
	if cached(f.f, refs[0].Offset, directFrom) {
		t.Skip("the kernel does not say what is cached, or keeps it: reads are not direct here")
	}
	probe := aligned(directFrom)
	if !s.readDirect(f, probe, refs[0].Offset) {
		t.Skip("no direct reads on this file system")
	}
	if !bytes.Equal(probe, want[0][:directFrom]) {
		t.Error("wrong bytes")
	}
	if s.readDirect(f, probe[:directFrom-1], refs[0].Offset) {
		t.Error("a short read was direct")
	}
	for i, ref := range refs {
		for _, off := range []int{0, 1, 512, 4096, 4112, 20_000} {
			for _, skew := range []int{0, 1, 512} {
				n := min(len(want[i])-off, directFrom+off*3)
				if n < directFrom {
					continue
				}
				p := aligned(skew + n + 1)[skew:]
				p[n] = 0xa5
				if !s.readDirect(f, p[:n], ref.Offset+int64(off)) {
					if cached(f.f, ref.Offset+int64(off), int64(n)) {
						t.Logf("extent %d, %d bytes at %d: somebody has read them, and they are in the cache", i, n, off)
						continue
					}
					t.Fatalf("extent %d, %d bytes at %d, to %d: not direct", i, n, off, skew)
				}
				if !bytes.Equal(p[:n], want[i][off:off+n]) || p[n] != 0xa5 {
					t.Errorf("extent %d, %d bytes at %d, to %d: wrong bytes", i, n, off, skew)
				}
				q := make([]byte, n)
				must(t, s.ReadAt(ref, q, int64(off)))
				if !bytes.Equal(q, p[:n]) {
					t.Errorf("extent %d, %d bytes at %d: ReadAt differs", i, n, off)
				}
			}
		}
	}
	must(t, s.Free(refs...)) // the last user of the descriptors
}

// TestDirectBeyond reads past the end of the file, which is the usual way's affair.
func TestDirectBeyond(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	ref, err := s.Append(make([]byte, directFrom))
	must(t, err)
	must(t, s.Sync())
	f, err := s.files.acquire(ref.Segment)
	must(t, err)
	defer s.files.release(f)
	must(t, unix.Fadvise(int(f.f.Fd()), 0, 0, unix.FADV_DONTNEED))
	if s.readDirect(f, aligned(directFrom), 1<<40) {
		t.Error("bytes behind the end of the file")
	}
	if n := testing.AllocsPerRun(10, func() { cached(f.f, ref.Offset, directFrom) }); n > 2 {
		t.Errorf("%v allocations to ask what is cached", n)
	}
}
