package mount

import (
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
)

// BenchmarkCreate4K is what a small file costs from the session down, on the stores that a daemon uses: look up, create, write 4 KiB,
// close. What FUSE adds is not in it.
func BenchmarkCreate4K(b *testing.B) {
	for _, sse := range []string{"AES256", "aws:kms"} {
		b.Run(sse, func(b *testing.B) {
			_, create := createBench(b, sse)
			b.ReportAllocs()
			for b.Loop() {
				create()
			}
		})
	}
}

// createBench makes a world on disk with an empty bucket, and a function that makes the next file of 4 KiB in it.
func createBench(b *testing.B, sse string) (*world, func()) {
	b.Helper()
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
	i := 0
	return w, func() {
		name := strconv.Itoa(i)
		i++
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
}

// BenchmarkCreateAudit is what the audit log adds to the creation of small files under a KMS key, each of which is an event: the same
// with the log, made durable at the end, and with events that are thrown away. The processor time is that of the whole process, the
// log's writer included. Use -benchtime 50000x: shorter runs see little of what the stores do in the background.
func BenchmarkCreateAudit(b *testing.B) {
	for _, name := range []string{"without", "with"} {
		b.Run(name, func(b *testing.B) {
			defer debug.SetGCPercent(debug.SetGCPercent(300)) // as the daemon has it
			w, create := createBench(b, "aws:kms")
			w.ok(w.audit.Flush())
			w.recorder.deaf.Store(name == "without")
			first, files := w.audit.Head().Sequence, 0
			cpu, began := cpuTime(b), time.Now()
			for b.Loop() {
				create()
				files++
			}
			w.ok(w.audit.Flush())
			took, used := time.Since(began), cpuTime(b)-cpu
			events := float64(w.audit.Head().Sequence - first)
			if name == "with" && events < float64(files) {
				b.Fatalf("%v events of %v files", events, files)
			}
			b.ReportMetric(float64(used.Microseconds())/float64(files), "cpu-µs/file")
			b.ReportMetric(events/took.Seconds(), "events/s")
		})
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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

// BenchmarkUnlink4K is what the removal of a small file costs from the session down, on the stores that a daemon uses. The processor time
// is that of the whole process. Use -benchtime 20000x.
func BenchmarkUnlink4K(b *testing.B) {
	w, create := createBench(b, "AES256")
	u := w.as("admin")
	bucket, err := u.s.Lookup(u.c, RootIno, "bench")
	w.ok(err)
	for range b.N {
		create()
	}
	cpu := cpuTime(b)
	b.ResetTimer()
	for i := range b.N {
		w.ok(u.s.Unlink(u.c, bucket.Ino, strconv.Itoa(i)))
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
}
