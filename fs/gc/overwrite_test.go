package gc_test

import (
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
)

// BenchmarkOverwrite writes 4 KiB blocks of a 256 MiB file over in no order, for as many operations as it is told (-benchtime 2000000x),
// on the stores that a daemon uses, with epochs and the reaper at work. It reports the rate of the first and of the last quarter, and
// how much room the extents took at most and at the end, as a multiple of the file.
func BenchmarkOverwrite(b *testing.B) {
	const size = 256 << 20
	dir := b.TempDir()
	rows, err := badgerkv.Open(dir, badgerkv.Options{})
	check(b, err)
	extents, err := segment.Open(dir+"/segments", segment.Options{})
	check(b, err)
	v, err := fs.Open(fs.Config{KV: sealed.New(rows, crypto.NewDataKey()), Extents: extents, Key: crypto.NewDataKey(), EpochEvery: time.Second})
	check(b, err)
	reaper := gc.Start(v, extents, slog.New(slog.DiscardHandler))
	v.OnEpochClosed(reaper.Wake)
	bucket, err := v.Make(fs.RootIno, "bucket", fs.New{Type: fs.Directory, Bucket: &fs.Bucket{}})
	check(b, err)
	a, err := v.Make(bucket.Ino, "f", fs.New{Type: fs.Regular, Sealing: fs.Sealing{Method: fs.SSES3, Keys: []fs.FileKey{{Wrapped: []byte("w")}}}})
	check(b, err)
	f, err := v.OpenFile(a.Ino, fs.Keys{1: crypto.NewDataKey()}, nil)
	check(b, err)
	p := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(p)) {
		_, err := f.WriteAt(p, off)
		check(b, err)
	}
	used := func() float64 {
		u, err := extents.Usage()
		check(b, err)
		return float64(u.Stored) / size
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	quarter, most := max(1, b.N/4), 0.0
	var times []time.Duration
	began := time.Now()
	b.ResetTimer()
	for i := range b.N {
		if i%quarter == 0 && i > 0 {
			times, began = append(times, time.Since(began)), time.Now()
		}
		if i%50_000 == 0 {
			most = max(most, used())
		}
		_, err := f.WriteAt(p[:4096], rnd.Int64N(size/4096)*4096)
		check(b, err)
	}
	check(b, f.Flush())
	times = append(times, time.Since(began))
	b.StopTimer()
	b.ReportMetric(float64(quarter)/times[0].Seconds(), "first/s")
	b.ReportMetric(float64(quarter)/times[min(3, len(times)-1)].Seconds(), "last/s")
	b.ReportMetric(max(most, used()), "most-x")
	b.ReportMetric(used(), "end-x")
	check(b, f.Close())
	reaper.Close()
	check(b, v.Close())
	check(b, rows.Close())
	check(b, extents.Close())
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
