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
