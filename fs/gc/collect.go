package gc

import (
	"context"
	"errors"
	"fmt"

	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// Bytes that nothing refers to are what a crash leaves: an extent was appended, and the process died before the transaction that
// names it, or after the one that freed it had gone to disk and before the hole was punched. Collect finds them while the volume is
// in use. It notes a position; waits until every append that may lie before it was committed or given up; takes one snapshot of the
// rows; lists what is stored before the position; subtracts what any row of the snapshot names; and frees the rest. An extent that
// was referenced at some time and is not now has been through a Replaced row or a tombstone, which were durable before it was freed:
// so no power cut brings a row back that names what is freed here.

// Unreferenced is what a collection found.
type Unreferenced struct {
	Stored     int64 `json:"storedBytes"`     // held by the extent store before the position
	Referenced int64 `json:"referencedBytes"` // named by rows, in aligned blocks
	Bytes      int64 `json:"unreferencedBytes"`
	Ranges     int   `json:"unreferencedRanges"`
}

// ErrUnlisted says that the extent store cannot list what it holds.
var ErrUnlisted = errors.New("the extent store cannot list what it holds")

// batch is how many ranges are freed at once.
const batch = 256

// Collect finds unreferenced bytes and frees them, or, if dry, only counts them.
func Collect(ctx context.Context, vol Volume, extents extent.Store, dry bool) (Unreferenced, error) {
	var u Unreferenced
	ranger, ok := extents.(extent.Ranger)
	if !ok {
		return u, ErrUnlisted
	}
	position := ranger.Position()
	if err := vol.SettleAppends(); err != nil {
		return u, fmt.Errorf("collect unreferenced bytes: %w", err)
	}
	var named extent.Blocks
	err := vol.Rows().View(func(r *meta.Reader) error {
		return r.EachExtent(func(_ meta.Ino, x *meta.Extent) error {
			named.Add(extent.Ref{Segment: x.Segment, Offset: x.Offset, Length: x.Sealed})
			return ctx.Err()
		})
	})
	if err != nil {
		return u, fmt.Errorf("collect unreferenced bytes: %w", err)
	}
	u.Referenced = named.Bytes()
	var dead []extent.Ref
	free := func() error {
		defer func() { dead = dead[:0] }()
		if dry || len(dead) == 0 {
			return nil
		}
		return extents.Free(dead...)
	}
	err = ranger.Ranges(position, func(stored extent.Range) error {
		u.Stored += stored.Length
		err := named.Gaps(stored, func(ref extent.Ref) error {
			u.Ranges++
			u.Bytes += int64(ref.Length)
			dead = append(dead, ref)
			return ctx.Err()
		})
		if err == nil && len(dead) >= batch {
			err = free()
		}
		return err
	})
	if err == nil {
		err = free()
	}
	if err != nil {
		return u, fmt.Errorf("free unreferenced bytes: %w", err)
	}
	return u, nil
}

// Held is what an extent store holds, in bytes of aligned blocks.
type Held struct {
	Live int64 // content of files, and what a crash may have left behind (Collect)
	Dead int64 // of removed and replaced content: freed when its epoch is closed and nobody has it open
}

// Measure counts what is held. It reads the rows of what is dead and asks the file system for the rest, so it costs the more the more
// waits to be freed.
func Measure(ctx context.Context, vol Volume, extents extent.Store) (Held, error) {
	ranger, ok := extents.(extent.Ranger)
	if !ok {
		return Held{}, ErrUnlisted
	}
	var dead extent.Blocks // an extent may be named by several rows
	add := func(x *meta.Extent) error {
		if !x.Inline {
			dead.Add(extent.Ref{Segment: x.Segment, Offset: x.Offset, Length: x.Sealed})
		}
		return ctx.Err()
	}
	err := vol.Rows().View(func(r *meta.Reader) error {
		err := r.EachReplaced(func(x meta.RawReplaced, err error) error {
			if err != nil || !x.Free {
				return err
			}
			return add(x.Piece.Extent)
		})
		if err != nil {
			return err
		}
		return r.EachTomb(func(t meta.Tomb, err error) error {
			if err != nil {
				return err
			}
			return r.TombExtents(t.Ino, add)
		})
	})
	if err != nil {
		return Held{}, fmt.Errorf("measure what is dead: %w", err)
	}
	var h Held
	err = ranger.Ranges(ranger.Position(), func(r extent.Range) error {
		h.Live += r.Length
		at := r.Offset
		for end := r.Offset + r.Length; at < end; at += extent.Align {
			if dead.Has(r.Segment, at) {
				h.Live -= extent.Align
				h.Dead += extent.Align
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return Held{}, fmt.Errorf("measure what is stored: %w", err)
	}
	return h, nil
}
