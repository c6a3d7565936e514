package badgerkv

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
)

func key8(prefix byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefix}, n)
}

// BenchmarkUpdate4 is what creating a small file costs: one row read, four rows of 200 bytes set. Movements into Badger go on.
func BenchmarkUpdate4(b *testing.B) { benchmarkUpdate4(b, Options{}) }

// BenchmarkUpdate4Burst is the same while nothing is moved: the cost of the commit itself.
func BenchmarkUpdate4Burst(b *testing.B) {
	benchmarkUpdate4(b, Options{Overlay: 4 << 30, Batch: 4 << 30, RedoSegment: 512 << 20})
}

func benchmarkUpdate4(b *testing.B, opt Options) {
	s := openTest(b, b.TempDir(), opt)
	value := make([]byte, 200)
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		n++
		err := s.Update(func(tx kv.Txn) error {
			if _, err := tx.Get(key8('p', n%16)); err != nil && !errors.Is(err, kv.ErrNotFound) {
				return err
			}
			tx.Set(key8('p', n%16), value)
			tx.Set(key8('i', n), value)
			tx.Set(key8('d', n*0x9e3779b97f4a7c15), value)
			tx.Set(key8('x', n), value)
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// filled returns a store with n rows in Badger's tables, or in the overlay.
func filled(b *testing.B, n int, inBadger bool) *Store {
	dir := b.TempDir()
	opt := Options{Overlay: 1 << 30, RedoSegment: 64 << 20}
	s := openTest(b, dir, opt)
	value := make([]byte, 200)
	for i := 0; i < n; i += 100 {
		err := s.Update(func(tx kv.Txn) error {
			for j := range 100 {
				tx.Set(key8('i', uint64(2*(i+j))), value)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if !inBadger {
		return s
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	return openTest(b, dir, opt)
}

func benchmarkGet(b *testing.B, inBadger bool, odd uint64) {
	n := uint64(200_000)
	if !inBadger {
		n = 40_000 // about what a batch holds
	}
	s := filled(b, int(n), inBadger)
	b.ReportAllocs()
	b.ResetTimer()
	key := key8('i', 0)
	_ = s.View(func(r kv.Reader) error {
		for b.Loop() {
			binary.BigEndian.PutUint64(key[1:], 2*rand.Uint64N(n)+odd)
			_, err := r.Get(key)
			if (err == nil) != (odd == 0) {
				b.Fatal(err)
			}
		}
		return nil
	})
	b.StopTimer()
	_ = s.Close()
}

func BenchmarkGetOverlay(b *testing.B)       { benchmarkGet(b, false, 0) }
func BenchmarkGetBadger(b *testing.B)        { benchmarkGet(b, true, 0) }
func BenchmarkGetBadgerMissing(b *testing.B) { benchmarkGet(b, true, 1) }

func BenchmarkViewGet(b *testing.B) {
	s := filled(b, 1000, false)
	for b.Loop() {
		_ = s.View(func(r kv.Reader) error { _, err := r.Get(key8('i', 10)); return err })
	}
	_ = s.Close()
}

// BenchmarkScan100 reads 100 neighbouring rows.
func BenchmarkScan100(b *testing.B) {
	const n = 200_000
	s := filled(b, n, true)
	b.ResetTimer()
	_ = s.View(func(r kv.Reader) error {
		for b.Loop() {
			from := 2 * rand.Uint64N(n-200)
			if err := r.Scan(key8('i', from), key8('i', from+200), func(_, _ []byte) (bool, error) { return true, nil }); err != nil {
				b.Fatal(err)
			}
		}
		return nil
	})
	b.StopTimer()
	_ = s.Close()
}

// BenchmarkSync is one small commit and its sync.
func BenchmarkSync(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{})
	value := make([]byte, 200)
	n := uint64(0)
	for b.Loop() {
		n++
		if err := s.Update(func(tx kv.Txn) error { tx.Set(key8('i', n), value); return nil }); err != nil {
			b.Fatal(err)
		}
		if err := s.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	_ = s.Close()
}

// BenchmarkSyncShared has eight committers that sync.
func BenchmarkSyncShared(b *testing.B) {
	s := openTest(b, b.TempDir(), Options{})
	value := make([]byte, 200)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Update(func(tx kv.Txn) error { tx.Set(key8('i', rand.Uint64()), value); return nil }); err != nil {
				b.Error(err)
			}
			if err := s.Sync(); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/float64(s.Stats().Redo.Syncs), "commits/sync")
	_ = s.Close()
}
