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

// BenchmarkCreateAudit is what the audit log adds to the creation of small files under a KMS key, each of which is an event. An
// operation is a block of files whose events are thrown away and one whose events are logged and made durable, in one store and in
// turns, so that whatever else goes on concerns both. The processor time is that of the whole process, the log's writer included.
// events/s is how many there were a second while the log was on.
func BenchmarkCreateAudit(b *testing.B) {
	const block = 2000
	w, create := createBench(b, "aws:kms")
	defer debug.SetGCPercent(debug.SetGCPercent(300)) // as the daemon has it
	var took, used [2]time.Duration
	blocks := 0
	w.ok(w.audit.Flush())
	first := w.audit.Head().Sequence
	for b.Loop() {
		for turn := range 2 {
			with := (turn + blocks) % 2 // who is first takes turns, too
			w.recorder.deaf.Store(with == 0)
			cpu, began := cpuTime(b), time.Now()
			for range block {
				create()
			}
			w.ok(w.audit.Flush())
			took[with] += time.Since(began)
			used[with] += cpuTime(b) - cpu
		}
		blocks++
	}
	files, events := float64(blocks*block), float64(w.audit.Head().Sequence-first)
	if events < files {
		b.Fatalf("%v events of %v files", events, files)
	}
	micros := func(d time.Duration) float64 { return float64(d.Microseconds()) / files }
	b.ReportMetric(micros(used[0]), "cpu-µs/file-without")
	b.ReportMetric(micros(used[1]), "cpu-µs/file-with")
	b.ReportMetric(100*(float64(used[1])/float64(used[0])-1), "%cpu-more")
	b.ReportMetric(events/took[1].Seconds(), "events/s")
	b.ReportMetric(events/files, "events/file")
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
