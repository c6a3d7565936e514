package redo

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoSpaceInPlace has the filesystem find no room for what is written into segments that exist, records and headers, having written none
// or some of it. The log goes on, and what was refused is never replayed, whenever the process dies.
func TestNoSpaceInPlace(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	dir := filepath.Join(t.TempDir(), "redo")
	full, headers, records := false, 0, 0
	opt := small
	opt.Files.WriteAt = func(f *os.File, p []byte, off int64) (int, error) {
		if !full {
			return f.WriteAt(p, off)
		}
		n := 0
		if off == 0 {
			headers++ // one sector: it is written, or not
		} else {
			records++
			stop := off + rng.Int64N(int64(len(p)))
			n = int(max(blockDown(stop)-off, 0)) // a filesystem writes whole blocks, and the last one has the record's end
			if _, err := f.WriteAt(p[:n], off); err != nil {
				return 0, err
			}
		}
		return n, &os.PathError{Op: "write", Path: f.Name(), Err: []error{unix.ENOSPC, unix.EDQUOT}[rng.IntN(2)]}
	}
	l, _ := mustReplay(t, dir, opt)
	next := 0
	for round := range 60 {
		for range rng.IntN(60) {
			add(t, l, text(next))
			next++
		}
		if round%3 == 0 {
			check(t, l.Sync())
		}
		for range rng.IntN(3) {
			record := make([]byte, RecordHeader+1+rng.IntN([]int{700, 60_000}[rng.IntN(2)])) // of bytes that are not there by chance already: rows are ciphertext
			for i := range record {
				record[i] = byte(rng.Uint32())
			}
			full = true
			if _, err := l.Append(record); !errors.Is(err, ErrNoSpace) || errors.Is(err, ErrFailed) {
				t.Fatalf("on a full filesystem: %v", err)
			}
			full = false
		}
		if round%7 == 6 { // the process dies
			check(t, l.Close())
			var got []string
			l, got = mustReplay(t, dir, opt)
			want(t, got, next-len(got), next)
			check(t, l.Sync())
			if round%2 == 0 {
				l.Cut(l.Last())
			}
		}
	}
	check(t, l.Close())
	if headers == 0 || records == 0 {
		t.Fatalf("refused %d headers and %d records: not all cases were met", headers, records)
	}
}
