package mount

import (
	"strconv"
	"testing"

	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
)

// BenchmarkCreate4K is what a small file costs from the session down, on the stores that a daemon uses: look up, create, write 4 KiB,
// close. What FUSE adds is not in it.
func BenchmarkCreate4K(b *testing.B) {
	for _, sse := range []string{"AES256", "aws:kms"} {
		b.Run(sse, func(b *testing.B) {
			dir := b.TempDir()
			rows, err := badgerkv.Open(dir+"/kv", badgerkv.Options{})
			if err != nil {
				b.Fatal(err)
			}
			extents, err := segment.Open(dir+"/segments", segment.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = rows.Close(); _ = extents.Close() })
			w := newWorldOn(b, rows, extents)
			w.user("admin", "AdministratorAccess")
			u := w.as("admin")
			bucket, err := u.s.Mkdir(u.c, RootIno, "bench", 0o755)
			w.ok(err)
			w.ok(u.s.SetXattr(u.c, bucket.Ino, "user.s3.sse", []byte(sse), 0))
			p := make([]byte, 4096)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				name := strconv.Itoa(i)
				if _, err := u.s.Lookup(u.c, bucket.Ino, name); err == nil {
					b.Fatal("there already")
				}
				a, h, err := u.s.Create(u.c, bucket.Ino, name, 0o644, OpenFlags{Write: true})
				w.ok(err)
				u.s.Acquire(a.Ino, 1)
				_, err = h.WriteAt(p, 0, false)
				w.ok(err)
				w.ok(h.Flush())
				w.ok(h.Close())
				u.s.Forget(a.Ino, 1)
			}
		})
	}
}

// BenchmarkCachedDecision is what the gates cost where nothing has changed: of a name in a bucket that the principal may use as a
// whole, as lookup and open ask for it, and of a file under a KMS key that is open, as every read asks.
func BenchmarkCachedDecision(b *testing.B) {
	w := tableWorld(b)
	u := w.as("alice")
	a, err := u.walk("pay/f")
	w.ok(err)
	b.Run("name", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			v := u.s.view()
			bucket, err := u.s.bucketOf(v, a.Ino)
			if err == nil {
				err = v.object(bucket, actGet, u.s.keysOf(a.Ino), anyName, nil)
			}
			w.ok(err)
		}
	})
	b.Run("handle", func(b *testing.B) {
		h, err := u.s.Open(u.c, a.Ino, OpenFlags{Read: true})
		w.ok(err)
		defer h.Close()
		b.ReportAllocs()
		for b.Loop() {
			_, err := h.begin()
			w.ok(err)
			h.mu.RUnlock()
		}
	})
}
