package segment

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// cpu returns what the process has spent, kernel time included.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAppend appends 256 MiB in extents of one size per round, syncs, and
// frees everything. It reports the processor time per MiB and the length of the
// final Sync.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{16 << 10, 128 << 10, 1 << 20, 4 << 20} {
		for _, writers := range []int{1, 2} {
			b.Run(fmt.Sprintf("%dKiB/%dwriters", size>>10, writers), func(b *testing.B) {
				s, err := Open(b.TempDir(), Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				const total = 256 << 20
				data := make([]byte, size)
				b.SetBytes(total)
				var spent, syncing time.Duration
				for b.Loop() {
					before := cpu(b)
					refs := make([][]extent.Ref, writers)
					var wg sync.WaitGroup
					for w := range writers {
						wg.Go(func() {
							for range total / size / writers {
								ref, err := s.Append(data)
								if err != nil {
									b.Error(err)
									return
								}
								refs[w] = append(refs[w], ref)
							}
						})
					}
					wg.Wait()
					spent += cpu(b) - before
					start := b.Elapsed()
					if err := s.Sync(); err != nil {
						b.Fatal(err)
					}
					syncing += b.Elapsed() - start
					b.StopTimer()
					for _, r := range refs {
						if err := s.Free(r...); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
				}
				b.ReportMetric(float64(spent.Microseconds())/float64(b.N)/(total>>20), "cpu-µs/MiB")
				b.ReportMetric(float64(syncing.Milliseconds())/float64(b.N), "sync-ms")
			})
		}
	}
}

// BenchmarkSmallSync appends 16 KiB and syncs, alone and with company.
func BenchmarkSmallSync(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("%dcallers", callers), func(b *testing.B) {
			s, err := Open(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			data := make([]byte, 16<<10)
			b.SetParallelism(callers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Append(data); err != nil {
						b.Error(err)
					}
					if err := s.Sync(); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
