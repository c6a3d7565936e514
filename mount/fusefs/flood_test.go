package fusefs

import (
	"encoding/binary"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

const (
	opLookup      = 1
	opNotifyReply = 41
)

// bare is a request of which only the header has a meaning, followed by anything.
func bare(op uint32, node uint64, rest ...byte) []byte {
	h := fuse.InHeader{Opcode: op, NodeId: node, Caller: fuse.Caller{Owner: fuse.Owner{Uid: 1, Gid: 1}, Pid: 1}}
	return append(unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h)), rest...)
}

func numbers(n ...uint64) (b []byte) {
	for _, x := range n {
		b = binary.NativeEndian.AppendUint64(b, x)
	}
	return b
}

// batch is a BATCH_FORGET that says it has so many; it has the pairs of node and count that follow.
func batch(says uint32, pairs ...uint64) []byte {
	b := binary.NativeEndian.AppendUint32(nil, says)
	return bare(opBatchForget, 0, append(binary.NativeEndian.AppendUint32(b, 0), numbers(pairs...)...)...)
}

// TestFloods plays a kernel that forgets what it never knew, more than it knew and more than there is, and answers notifications that nobody
// sent. None of that is answered, and it takes nothing from anybody: neither what another mount holds of a removed file, nor
// what this one has open; it leaves nothing in memory, and the next request is answered.
func TestFloods(t *testing.T) {
	w := newWorld(t)
	w.bucket("shared")
	w.user("alice", "AmazonS3FullAccess")
	admin := w.session("admin", mount.Options{})
	dir, err := admin.Lookup(mount.Caller{}, mount.RootIno, "shared")
	w.ok(err)
	_, made, err := admin.Create(mount.Caller{}, dir.Ino, "f", 0o644, mount.OpenFlags{Write: true})
	w.ok(err)
	_, err = made.WriteAt([]byte("content"), 0, false)
	w.ok(err)
	w.ok(made.Close())
	f, err := admin.Lookup(mount.Caller{}, dir.Ino, "f")
	w.ok(err)

	m := w.raw("alice")
	k := talkTo(t, m)
	ask := func(p []byte) (status int32) {
		t.Helper()
		n := k.send(p)
		got, status, _ := k.hear()
		if got != n {
			t.Fatalf("a reply to %d, not to %d: a FORGET or an answer is answered", got, n)
		}
		return status
	}
	lookup := func() {
		t.Helper()
		if s := ask(bare(opLookup, uint64(dir.Ino), []byte("f\x00")...)); s != 0 {
			t.Fatalf("lookup: %d", s)
		}
	}
	lookup()
	var opened fuse.OpenOut
	if s := m.Open(nil, &fuse.OpenIn{InHeader: head(uint64(f.Ino)), Flags: unix.O_RDONLY}, &opened); s != fuse.OK {
		t.Fatal(s)
	}
	admin.Acquire(f.Ino, 1) // the other mount's kernel knows it
	w.ok(admin.Unlink(mount.Caller{}, dir.Ino, "f"))

	nodes := []uint64{uint64(f.Ino), uint64(dir.Ino), 1, 0, 1 << 40, 1<<64 - 1}
	for range scale(300, 30_000) {
		for _, node := range nodes {
			for _, n := range []uint64{0, 1, 1 << 63, 1<<64 - 1} {
				k.send(bare(opForget, node, numbers(n)...))
			}
			k.send(batch(2, node, 1, node, 1<<64-1))
			k.send(batch(1<<32-1, node, 1<<63)) // it says more than there are
			k.send(bare(opNotifyReply, node, make([]byte, 40)...))
			k.send(bare(opNotifyReply, node, make([]byte, 40+4096)...))
		}
		k.send(batch(0))
		k.send(batch(1 << 31))
	}
	long := make([]uint64, 0, 2*10_000)
	for i := range uint64(10_000) {
		long = append(long, 1<<41+i, i)
	}
	k.send(batch(10_000, long...))
	buf := make([]byte, 100)
	r, s := m.Read(nil, &fuse.ReadIn{InHeader: head(uint64(f.Ino)), Fh: opened.Fh, Size: 100}, buf)
	if s != fuse.OK || string(bytesOf(r)) != "content" {
		t.Errorf("an open file that was forgotten: %v", s)
	}
	if s := ask(bare(opGetattr, uint64(dir.Ino), make([]byte, 16)...)); s != 0 {
		t.Errorf("afterwards: %d", s)
	}
	if a, err := admin.GetAttr(mount.Caller{}, f.Ino); err != nil || a.Size != 7 {
		t.Errorf("a removed file that another mount's kernel knows: %v, %v", a.Size, err)
	}
	m.Release(nil, &fuse.ReleaseIn{InHeader: head(uint64(f.Ino)), Fh: opened.Fh})
	if a, err := admin.GetAttr(mount.Caller{}, f.Ino); err != nil || a.Size != 7 {
		t.Errorf("and that this one has closed: %v, %v", a.Size, err)
	}
	known := 0
	m.interest.eachInode(func(ino mount.Ino, _ inodeRecord) {
		if ino != dir.Ino {
			known++
		}
	})
	if known > 1 {
		t.Errorf("%d inodes on record for a kernel that has forgotten all", known)
	}
	admin.Forget(f.Ino, 1)
}

// talkTo starts a loop over a file system and is its kernel, until the test ends.
func talkTo(t *testing.T, m *rawFS) *kernelEnd {
	t.Helper()
	_, k := newKernelEnd(t, m, m.fuseOptions(), nil)
	must(t, unix.SetsockoptTimeval(k.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(childTime / time.Second)}))
	return k
}
