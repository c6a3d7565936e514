package mount

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/keystore"
)

// What users of such systems lost data to, each by its name, told to this one. CryFS 155 (folders gone after an unclean stop) and s3fs
// 2621 (zeros from a full disk) need a whole machine: integration/crash, TestKill and TestFullDisk.

// swapped is an extent store in which somebody has exchanged two extents, or put zeros in place of all.
type swapped struct {
	extent.Store
	mu    sync.Mutex
	refs  []extent.Ref
	swap  bool
	zeros bool
}

func (s *swapped) Append(b []byte) (extent.Ref, error) {
	ref, err := s.Store.Append(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs = append(s.refs, ref)
	return ref, err
}

func (s *swapped) ReadAt(ref extent.Ref, p []byte, off int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.zeros {
		clear(p)
		return nil
	}
	if s.swap {
		for i, r := range s.refs[:2] {
			if r == ref {
				ref = s.refs[1-i]
				break
			}
		}
	}
	return s.Store.ReadAt(ref, p, off)
}

func storyWorld(t *testing.T, ext extent.Store) (*world, *user) {
	t.Helper()
	w := newWorldOn(t, memkv.New(), ext)
	w.user("root", "AdministratorAccess")
	_, err := w.keys.CreateKey(w.call("root"), keystore.CreateKeyInput{Alias: "alias/story"})
	w.ok(err)
	u := w.as("root")
	w.ok(u.mkdir("bkt"))
	return w, u
}

// gocryptfs 804: the ciphertexts of two files can be exchanged. JuiceFS 5038: zeros in place of data.
func TestStorySwappedAndZeroed(t *testing.T) {
	ext := &swapped{Store: memextent.New()}
	w, u := storyWorld(t, ext)
	one, two := strings.Repeat("one ", 20_000), strings.Repeat("two ", 20_000)
	w.ok(u.cp("bkt/one", one))
	w.ok(u.cp("bkt/two", two))
	if len(ext.refs) != 2 || ext.refs[0].Length != ext.refs[1].Length {
		t.Fatal("want two extents of one length: ", ext.refs)
	}
	for what, lie := range map[string]*bool{"swapped": &ext.swap, "zeroed": &ext.zeros} {
		*lie = true
		for _, p := range []string{"bkt/one", "bkt/two"} {
			if got, err := u.cat(p); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrIntegrity) {
				t.Errorf("%s: %s reads as %.20q, %v", what, p, got, err)
			}
		}
		*lie = false
	}
	if got, err := u.cat("bkt/one"); err != nil || got != one {
		t.Error("afterwards: ", err)
	}
}

// gocryptfs 1024: write, shrink, write, shrink, and the file is damaged.
func TestStoryShrinkAgain(t *testing.T) {
	w, u := storyWorld(t, memextent.New())
	h, err := u.open("bkt/f", os.O_CREATE|os.O_RDWR)
	w.ok(err)
	var want []byte
	for i, step := range []struct{ off, n, shrink int }{
		{0, 10_000, 4097}, {4097, 5000, 4095}, {8000, 300, 8001}, {0, 100_000, 1}, {3, 20, 2}, {0, 8192, 4096}, {4096, 4096, 5000}, {5000, 1 << 20, 0}, {100, 7, 50},
	} {
		b := bytes.Repeat([]byte{byte('a' + i)}, step.n)
		_, err := h.WriteAt(b, int64(step.off), false)
		w.ok(err)
		if grow := step.off + step.n - len(want); grow > 0 {
			want = append(want, make([]byte, grow)...)
		}
		copy(want[step.off:], b)
		if i%2 == 0 {
			w.ok(h.Flush())
		}
		w.ok(h.Truncate(int64(step.shrink), false))
		want = want[:step.shrink]
		if i%3 == 0 {
			w.ok(h.Sync(false))
		}
		got := make([]byte, len(want)+10)
		n, err := h.ReadAt(got, 0)
		w.ok(err)
		if !bytes.Equal(got[:n], want) {
			t.Fatalf("step %d: %d bytes, want %d", i, n, len(want))
		}
	}
	w.ok(h.Flush())
	w.ok(h.Close())
	if got, err := u.cat("bkt/f"); err != nil || got != string(want) {
		t.Fatal("opened again: ", len(got), err)
	}
}

// SeaweedFS 7499: an object of more than 5 MB under a KMS key comes back damaged.
func TestStoryLargeUnderKey(t *testing.T) {
	w, u := storyWorld(t, memextent.New())
	w.ok(u.touch("bkt/large"))
	w.ok(u.setx("bkt/large", "user.s3.sse", "aws:kms:alias/story"))
	h, err := u.open("bkt/large", os.O_RDWR)
	w.ok(err)
	want := make([]byte, 11<<20+77)
	for i := range want {
		want[i] = byte(i>>12) ^ byte(i)
	}
	for off := 0; off < len(want); off += 1 << 20 {
		_, err := h.WriteAt(want[off:min(off+1<<20, len(want))], int64(off), false)
		w.ok(err)
	}
	w.ok(h.Flush())
	w.ok(h.Close())
	h, err = u.open("bkt/large", os.O_RDONLY)
	w.ok(err)
	got := make([]byte, len(want)+1)
	n, err := h.ReadAt(got, 0)
	w.ok(err)
	if !bytes.Equal(got[:n], want) {
		t.Fatalf("%d bytes, want %d", n, len(want))
	}
	w.ok(h.Close())
}

// s3fs 2120: an overwrite that is refused destroys the old content.
func TestStoryRefusedOverwrite(t *testing.T) {
	w, u := storyWorld(t, memextent.New())
	w.ok(u.cp("bkt/f", "what was there"))
	w.user("reader", "AmazonS3ReadOnlyAccess")
	r := w.as("reader")
	if err := r.write("bkt/f", "other", os.O_WRONLY|os.O_TRUNC); !errors.Is(err, ErrAccess) {
		t.Error("overwrite: ", err)
	}
	if err := r.truncate("bkt/f", 0); !errors.Is(err, ErrAccess) {
		t.Error("truncate: ", err)
	}
	if got, err := u.cat("bkt/f"); err != nil || got != "what was there" {
		t.Errorf("%q, %v", got, err)
	}
}
