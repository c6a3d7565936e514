package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

const (
	chunkMask = 1<<8 - 1  // a chunk ends behind a row whose hash has these bits clear: one in 256
	maxChunk  = 1 << 20   // bytes after which it ends in any case
	filePart  = 1 << 20   // bytes of a file's chunk
	tick      = 64 << 20  // bytes between two reports of progress
	rowTick   = 10_000    // rows
	maxLost   = 100_000   // extents that a snapshot lists as lost before it is given up
	maxKey    = 1<<16 - 1 // bytes of a row's key
)

// Taken is a snapshot that was made.
type Taken struct {
	Info
	Base    uint64 `json:"base,omitempty"` // the snapshot that this is an increment to
	Renewed int    `json:"renewedPacks"`   // damaged packs of the base whose content was copied again
}

// Take makes a snapshot. The directory must be open for writing. key is derived from the store's root key, by purpose; it is not kept.
func (d *Dir) Take(ctx context.Context, key *crypto.DataKey, src Source, now time.Time, progress func(Progress)) (out Taken, err error) {
	k := newKeys(key)
	defer k.wipe()
	if progress == nil {
		progress = func(Progress) {}
	}
	t := &taking{
		ctx: ctx, d: d, keys: k, src: src, progress: progress,
		w: &writer{keys: k, store: src.StoreID, files: d.files},
		m: &manifest{Store: src.StoreID[:], Number: 1, Created: now.UTC(), salt: newSalt()},
	}
	begun := false
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up: %w", err)
			if begun {
				err = errors.Join(err, t.abandon())
			}
		}
		for _, s := range t.slots {
			clear(s.Secret)
		}
	}()
	if out.Base, err = t.base(); err != nil {
		return out, err
	}
	begun = true
	if t.m.header, err = src.Header(); err != nil {
		return out, err
	}
	if len(t.m.header) > maxHeader {
		return out, fmt.Errorf("the store's header has %d bytes", len(t.m.header))
	}
	release := src.Pin()
	defer release()
	for _, step := range []func() error{t.rows, t.extents, t.files, t.finish} {
		if err := step(); err != nil {
			return out, err
		}
	}
	out.Info, out.Renewed = t.m.info(), t.w.damaged
	return out, nil
}

// abandon removes what was made: the snapshot's file first, because it may be there although it was not finished.
func (t *taking) abandon() error {
	for _, suffix := range []string{snapSuffix, keysSuffix} {
		if err := t.d.files.Remove(fileOf(t.m.Number, suffix)); err != nil {
			return err // its packs stay
		}
	}
	return t.w.abandon()
}

// taking is a snapshot under way.
type taking struct {
	ctx      context.Context
	d        *Dir
	keys     *keys
	src      Source
	w        *writer
	m        *manifest
	slots    []Slot
	wanted   []wanted
	progress func(Progress)
}

// wanted is an extent that the snapshot names and the last one does not have.
type wanted struct {
	name id
	ino  meta.Ino
	ref  extent.Ref
	crc  uint32
}

// base opens the last snapshot and clears away what a Take that died has left.
func (t *taking) base() (uint64, error) {
	numbers, err := t.d.Numbers()
	if err != nil {
		return 0, err
	}
	if len(numbers) == 0 {
		_, err := t.d.sweepPacks(t.keys, t.src.StoreID)
		return 0, errors.Join(err, t.w.base(nil))
	}
	last := numbers[len(numbers)-1]
	m, err := t.d.manifest(t.keys, t.src.StoreID, last)
	if err != nil {
		return 0, err
	}
	t.m.Number = last + 1
	return last, t.w.base(m.Packs)
}

// rows copies all rows, and notes the extents that they name.
func (t *taking) rows() error {
	slots, thaw, err := t.src.Freeze()
	if err != nil {
		return err
	}
	thaw = sync.OnceFunc(thaw)
	defer thaw()
	t.slots = slots
	for i := range slots {
		t.m.Slots = append(t.m.Slots, slotRef{slots[i].Index, slots[i].Owner[:]})
	}
	return t.src.Rows.View(func(r kv.Reader) error {
		thaw() // the snapshot has begun
		p := t.src.Position()
		t.m.Segment, t.m.Offset = p.Segment, p.Offset
		if err := t.chunks(r); err != nil {
			return err
		}
		return t.names(t.src.Typed(snapshot{r}))
	})
}

// chunks copies the rows in chunks.
func (t *taking) chunks(r kv.Reader) error {
	var b, first []byte
	flush := func() error {
		if len(b) == 0 {
			return nil
		}
		name, err := t.w.chunk(rowChunk, b)
		t.m.Rows = append(t.m.Rows, rowRef{name[:], first})
		b, first = b[:0], nil
		return err
	}
	err := r.Scan(nil, nil, func(key, value []byte) (bool, error) {
		if len(key) > maxKey {
			return false, fmt.Errorf("a key of %d bytes", len(key))
		}
		if len(b) == 0 {
			first = append([]byte(nil), key...)
		}
		b = appendRow(b, key, value)
		if t.m.CountRows++; t.m.CountRows%rowTick == 0 {
			t.progress(Progress{"rows", t.m.CountRows, 0})
		}
		if len(b) >= maxChunk || endsChunk(key) {
			if err := flush(); err != nil {
				return false, err
			}
		}
		return true, t.ctx.Err()
	})
	if err == nil {
		err = flush()
	}
	t.progress(Progress{"rows", t.m.CountRows, t.m.CountRows})
	return err
}

// appendRow is a row in a chunk: u16 length of the key, u32 length of the value, key, value.
func appendRow(b, key, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
	return append(append(b, key...), value...)
}

// endsChunk says where chunks end. It depends on the key alone, so that rows which come, go or change elsewhere do not move the ends.
func endsChunk(key []byte) bool {
	h := fnv.New64a()
	_, _ = h.Write(key) // cannot fail
	s := h.Sum64()
	return (s^s>>32)&chunkMask == 0
}

// names notes the extents of all files that are there. What is only remembered, or belongs to removed files, is not needed.
func (t *taking) names(db *meta.DB) error {
	return db.View(func(r *meta.Reader) error {
		super, err := r.Super()
		if err != nil {
			return fmt.Errorf("the volume's own row: %w", err)
		}
		t.m.Epoch = super.Epoch
		return eachExtent(r, func(ino meta.Ino, x *meta.Extent) error {
			t.m.CountExtents++
			if name := t.keys.extentID(ino, x); !t.w.has(name) {
				t.wanted = append(t.wanted, wanted{name, ino, refOf(x), x.CRC})
			}
			return t.ctx.Err()
		})
	})
}

func refOf(x *meta.Extent) extent.Ref {
	return extent.Ref{Segment: x.Segment, Offset: x.Offset, Length: x.Sealed}
}

// eachExtent calls fn once for each extent in the segments that a file's map names.
func eachExtent(r *meta.Reader, fn func(meta.Ino, *meta.Extent) error) error {
	removed := map[meta.Ino]bool{}
	err := r.EachTomb(func(t meta.Tomb, err error) error {
		removed[t.Ino] = true
		return err
	})
	if err != nil {
		return err
	}
	var at meta.Ino
	seen := map[meta.ExtentID]bool{} // of this inode
	return r.EachPiece(func(p meta.RawPiece, err error) error {
		if err != nil {
			return err
		}
		if p.Ino != at {
			at = p.Ino
			clear(seen)
		}
		if p.Extent.Inline || removed[p.Ino] || seen[p.Extent.ID] {
			return nil
		}
		seen[p.Extent.ID] = true
		return fn(p.Ino, p.Extent)
	})
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// extents copies the extents that are new, in the order of the disk.
func (t *taking) extents() error {
	slices.SortFunc(t.wanted, func(a, b wanted) int {
		if a.ref.Segment != b.ref.Segment {
			return compare(a.ref.Segment, b.ref.Segment)
		}
		return compare(uint64(a.ref.Offset), uint64(b.ref.Offset))
	})
	var total, done, told int64
	for _, x := range t.wanted {
		total += int64(x.ref.Length)
	}
	var buf []byte
	for _, x := range t.wanted {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		if x.ref.Length > maxBlob {
			return fmt.Errorf("extent at %v is too long", x.ref)
		}
		buf = slices.Grow(buf[:0], int(x.ref.Length))[:x.ref.Length]
		err := t.src.Extents.ReadAt(x.ref, buf, 0)
		if err == nil && crc32.Checksum(buf, castagnoli) != x.crc {
			err = errors.New("the bytes are not those that were written")
		}
		if err != nil { // the store's own damage: all the more reason to save the rest
			if errors.Is(err, extent.ErrClosed) || len(t.m.Lost) >= maxLost {
				return err
			}
			t.m.Lost = append(t.m.Lost, Lost{x.ino, x.ref.Segment, x.ref.Offset, x.ref.Length, err.Error()})
			continue
		}
		if err := t.w.put(extentBlob, x.name, t.keys.blobMAC(extentBlob, x.name, buf), buf); err != nil {
			return err
		}
		if done += int64(len(buf)); done-told >= tick {
			told = done
			t.progress(Progress{"data", done, total})
		}
	}
	t.progress(Progress{"data", done, total})
	return nil
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// files copies the files that only grow, in parts: what was complete once is there already.
func (t *taking) files() error {
	files, err := t.src.Files()
	if err != nil {
		return err
	}
	buf := make([]byte, filePart)
	for _, f := range files {
		ref, err := t.file(f, buf)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its time was over
		}
		if err != nil {
			return err
		}
		t.m.Files = append(t.m.Files, ref)
	}
	return nil
}

func (t *taking) file(f File, buf []byte) (fileRef, error) {
	ref := fileRef{Name: f.Name, Size: f.Size}
	in, err := os.Open(f.Path)
	if err != nil {
		return ref, fmt.Errorf("copy %s: %w", f.Name, err)
	}
	defer func() { _ = in.Close() }() // read-only
	for left := f.Size; left > 0; {
		b := buf[:min(left, filePart)]
		if _, err := io.ReadFull(in, b); err != nil {
			return ref, fmt.Errorf("copy %s: %w", f.Name, err)
		}
		left -= int64(len(b))
		name, err := t.w.chunk(fileChunk, b)
		if err != nil {
			return ref, err
		}
		ref.Chunks = append(ref.Chunks, name[:])
		if err := t.ctx.Err(); err != nil {
			return ref, err
		}
	}
	return ref, nil
}

// finish makes the snapshot durable: packs, shred keys, and then the file that makes it one.
func (t *taking) finish() error {
	packs, err := t.w.finish()
	if err != nil {
		return err
	}
	t.m.Packs, t.m.Added, t.m.Bytes = packs, t.w.added, t.w.all
	b, err := t.m.encode(t.keys)
	if err != nil {
		return err
	}
	if len(b) > maxSnapshot {
		return fmt.Errorf("the snapshot's list has %d bytes, more than %d", len(b), maxSnapshot)
	}
	if err := t.d.writeSlots(t.keys, t.m, t.slots); err != nil {
		return err
	}
	return writeFile(t.d.files, fileOf(t.m.Number, snapSuffix), b)
}

// snapshot is a kv.Store for reading one state.
type snapshot struct{ r kv.Reader }

var errReadOnly = errors.New("backup: a snapshot is not written to")

func (s snapshot) View(fn func(kv.Reader) error) error { return fn(s.r) }
func (s snapshot) Update(func(kv.Txn) error) error     { return errReadOnly }
func (s snapshot) Sync() error                         { return nil }
func (s snapshot) Close() error                        { return nil }
