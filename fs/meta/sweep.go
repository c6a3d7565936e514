package meta

import (
	"bytes"
	"errors"
	"math"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// The rows that the reaper (fs/gc) works through: tombstones of removed inodes and replaced pieces of closed epochs.

// Tomb is a removed inode whose rows are still there.
type Tomb struct {
	Ino   Ino
	Epoch uint64 // its extents may be freed when this epoch is closed
}

// Tombs calls fn for the removed inodes from first on.
func (r *Reader) Tombs(first Ino, fn func(Tomb) bool) error {
	return r.r.Scan(key1(kindTomb, uint64(first)), []byte{kindTomb + 1}, func(k, v []byte) (bool, error) {
		d := newDec(v)
		t := Tomb{Ino(u64(k[1:])), d.u()}
		if err := d.end("tombstone"); err != nil {
			return false, err
		}
		return fn(t), nil
	})
}

// TombExtents calls fn for each piece of a removed inode that SweepTombs has not deleted yet.
func (r *Reader) TombExtents(ino Ino, fn func(*Extent) error) error {
	return r.r.Scan(key1(kindPiece, uint64(ino)), key1(kindPiece, uint64(ino)+1), func(k, v []byte) (bool, error) {
		p, err := decodePieceRow(u64(k[9:17]), v)
		if err != nil {
			return false, err
		}
		return true, fn(p.Extent)
	})
}

// DeleteReplaced removes a remembered piece, once its extent is freed.
func (t *Tx) DeleteReplaced(epoch, seq uint64, ino Ino) { t.t.Delete(replacedKey(epoch, ino, seq)) }

// Settled records, for an inode that was touched in an epoch that is not closed, that all of its extents are durable now and that it
// has this size: what is lost later is lost from here on. If touch is not set, an inode without a mark gets none; marked says whether it
// has one now. It writes nothing if that is what the rows say already.
func (t *Tx) Settled(closed, epoch uint64, ino Ino, size uint64, touch bool) (marked bool, err error) {
	e := newEnc(12)
	e.u(size)
	for at := closed + 1; at <= epoch; at++ {
		switch mark, err := t.get(touchedKey(at, ino)); {
		case err == nil && at == epoch && bytes.Equal(mark, e.b):
			return true, nil
		case err == nil:
			touch = true
			t.t.Delete(touchedKey(at, ino))
		case !errors.Is(err, ErrNotFound):
			return false, err
		}
	}
	if touch {
		t.t.Set(touchedKey(epoch, ino), e.b)
	}
	return touch, nil
}

// MoveMark records an inode's mark in an epoch in place of the one that it has in an earlier one; 0: it has none there.
func (t *Tx) MoveMark(from, epoch uint64, ino Ino, size uint64) {
	if from != 0 && from != epoch {
		t.t.Delete(touchedKey(from, ino))
	}
	t.TouchNew(epoch, ino, size)
}

// CloseEpoch records that everything of an epoch is durable and drops the marks of inodes touched in it, as many as one transaction
// takes: those of closed epochs mean nothing, and the rest goes the next time. It deletes something in any case, if only a mark that is
// not there, because closing an epoch makes space: on a full disk the store takes it for that reason alone.
func (t *Tx) CloseEpoch(epoch uint64) error {
	s, err := t.Super()
	if err != nil {
		return err
	}
	s.Epoch = epoch
	t.PutSuper(s)
	t.makesSpace()
	return t.deleteSome(key1(kindTouched, 0), touchedKey(epoch, math.MaxUint64), maxMarks)
}

// maxMarks is how many marks one transaction drops.
const maxMarks = 1 << 15

func (t *Tx) deleteSome(start, end []byte, limit int) error {
	var keys [][]byte
	err := kv.ScanDamaged(t.r, start, end, func(k, _ []byte, _ error) (bool, error) { // what they say is not asked for
		keys = append(keys, append([]byte(nil), k...))
		return len(keys) < limit, nil
	})
	for _, k := range keys {
		t.t.Delete(k)
	}
	return err
}
