package segment

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/fs/extent"
)

// Rebuild makes the directory of a store again from extents whose addresses are known, for a restored backup. Nothing in it can be used
// before Close. It is not for concurrent use.
type Rebuild struct {
	dir    string
	store  [16]byte
	number uint64   // of the open segment
	f      *os.File // nil: none
	end    int64    // of the open segment
	last   uint64   // the highest number so far
}

// NewRebuild begins in a directory that must not exist.
func NewRebuild(dir string, store [16]byte) (*Rebuild, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("segment: rebuild: %w", err)
	}
	return &Rebuild{dir: dir, store: store}, nil
}

// Put writes an extent where it was. Extents come in the order of their addresses.
func (r *Rebuild) Put(ref extent.Ref, sealed []byte) error {
	if !ref.Valid() || ref.Offset < headerSize || int(ref.Length) != len(sealed) || ref.End() > maxSegmentSize {
		return fmt.Errorf("segment: rebuild %v: %w", ref, extent.ErrInvalid)
	}
	if r.f == nil || ref.Segment != r.number {
		if err := r.begin(ref.Segment); err != nil {
			return err
		}
	}
	if ref.Offset < r.end {
		return fmt.Errorf("segment: rebuild %v: it overlaps another: %w", ref, extent.ErrInvalid)
	}
	if _, err := r.f.WriteAt(sealed, ref.Offset); err != nil {
		return fmt.Errorf("segment: rebuild %v: %w", ref, noSpace(err))
	}
	r.end = ref.End()
	return nil
}

// begin goes on to the next segment.
func (r *Rebuild) begin(number uint64) error {
	if err := r.finish(); err != nil {
		return err
	}
	if number <= r.last {
		return fmt.Errorf("segment: rebuild segment %d after %d: %w", number, r.last, extent.ErrInvalid)
	}
	f, err := os.OpenFile(filepath.Join(r.dir, segmentName(number)), os.O_CREATE|os.O_EXCL|os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("segment: rebuild: %w", err)
	}
	r.f, r.number, r.last, r.end = f, number, number, headerSize
	if _, err := f.WriteAt(header{number: number, store: r.store, size: DefaultSegmentSize}.encode(), 0); err != nil {
		return fmt.Errorf("segment: rebuild segment %d: %w", number, noSpace(err))
	}
	return nil
}

// finish makes the open segment durable, in whole blocks.
func (r *Rebuild) finish() error {
	if r.f == nil {
		return nil
	}
	f := r.f
	r.f = nil
	err := f.Truncate(r.end)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("segment: rebuild segment %d: %w", r.number, noSpace(err))
	}
	return nil
}

// Close makes everything durable. No address before the position will be given out: the store's next segment has a higher number.
func (r *Rebuild) Close(p extent.Position) error {
	if p.Segment > r.last {
		if err := r.begin(p.Segment); err != nil {
			return err
		}
	}
	if err := r.finish(); err != nil {
		return err
	}
	return syncDir(r.dir)
}
