package backup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sort"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// Snapshot is one that is being read. Everything it gives out has been authenticated.
type Snapshot struct {
	dir   *Dir
	keys  *keys
	m     *manifest
	slots []Slot
	blobs map[id]blob
}

// blob is where a blob is.
type blob struct {
	pack *pack
	entry
}

// Snapshot opens the snapshot of that number, 0 for the newest, and authenticates what it consists of: ErrDamaged if a pack, an
// index or a shred key is missing or not what was written. The blobs are authenticated as they are read.
func (d *Dir) Snapshot(key *crypto.DataKey, store [16]byte, number uint64) (s *Snapshot, err error) {
	if number == 0 {
		if number, err = d.Newest(); err != nil {
			return nil, err
		}
	}
	s = &Snapshot{dir: d, keys: newKeys(key), blobs: map[id]blob{}}
	defer func() {
		if err != nil {
			s.Close()
			s = nil
		}
	}()
	if s.m, err = d.manifest(s.keys, store, number); err != nil {
		return s, err
	}
	if s.slots, err = d.slots(s.keys, s.m); err != nil {
		return s, err
	}
	sizes, err := d.files.List(dirPacks)
	if err != nil {
		return s, fmt.Errorf("backup: %w", err)
	}
	for _, ref := range s.m.Packs {
		p, err := openPack(d.files, sizes, s.keys, store, ref)
		if err != nil {
			return s, err
		}
		for _, e := range p.index {
			s.blobs[e.name] = blob{p, e}
		}
		p.index = nil
	}
	return s, nil
}

// Newest is the number of the newest snapshot: ErrNone if there is none.
func (d *Dir) Newest() (uint64, error) {
	numbers, err := d.Numbers()
	if err != nil {
		return 0, err
	}
	if len(numbers) == 0 {
		return 0, ErrNone
	}
	return numbers[len(numbers)-1], nil
}

// Close lets go of the snapshot and wipes its secrets.
func (s *Snapshot) Close() {
	for _, slot := range s.slots {
		clear(slot.Secret)
	}
	s.keys.wipe()
}

// Info describes the snapshot.
func (s *Snapshot) Info() Info {
	i := s.m.info()
	for _, slot := range s.slots {
		if len(slot.Secret) == 0 {
			i.Gone++
		}
	}
	return i
}

// Header is the store's header.
func (s *Snapshot) Header() []byte { return s.m.header }

func (s *Snapshot) blob(kd kind, name id) ([]byte, error) {
	b, ok := s.blobs[name]
	if !ok || b.kind != kd {
		return nil, fmt.Errorf("%w: a blob of snapshot %d is in none of its packs", ErrDamaged, s.m.Number)
	}
	return b.pack.read(s.keys, b.entry)
}

// eachRow calls fn for the rows of chunks [from, …) until it says no more. Keys must ascend, also from chunk to chunk.
func (s *Snapshot) eachRow(from int, fn func(key, value []byte) (bool, error)) error {
	var last []byte
	for i := from; i < len(s.m.Rows); i++ {
		ref := s.m.Rows[i]
		if len(ref.Name) != len(id{}) {
			return fmt.Errorf("%w: a chunk without a name", ErrDamaged)
		}
		b, err := s.blob(rowChunk, id(ref.Name))
		if err != nil {
			return err
		}
		for first := true; len(b) > 0; first = false {
			key, value, rest, ok := nextRow(b)
			if !ok || first && !bytes.Equal(key, ref.First) || last != nil && bytes.Compare(key, last) <= 0 {
				return fmt.Errorf("%w: chunk %d of the rows", ErrDamaged, i)
			}
			more, err := fn(key, value)
			if err != nil || !more {
				return err
			}
			last, b = key, rest
		}
	}
	return nil
}

// nextRow takes a row off a chunk.
func nextRow(b []byte) (key, value, rest []byte, ok bool) {
	if len(b) < 6 {
		return nil, nil, nil, false
	}
	n, m := int(binary.BigEndian.Uint16(b)), int(binary.BigEndian.Uint32(b[2:]))
	if b = b[6:]; n == 0 || m > maxBlob || len(b) < n+m {
		return nil, nil, nil, false
	}
	return b[:n:n], b[n : n+m : n+m], b[n+m:], true
}

// rowsOf reads a snapshot's rows as a kv.Reader.
type rowsOf struct{ s *Snapshot }

// Scan implements kv.Reader.
func (r rowsOf) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	rows := r.s.m.Rows
	from := sort.Search(len(rows), func(i int) bool { return bytes.Compare(rows[i].First, start) > 0 })
	return r.s.eachRow(max(from-1, 0), func(key, value []byte) (bool, error) {
		if bytes.Compare(key, start) < 0 {
			return true, nil
		}
		if end != nil && bytes.Compare(key, end) >= 0 {
			return false, nil
		}
		return fn(key, value)
	})
}

// Get implements kv.Reader.
func (r rowsOf) Get(key []byte) (out []byte, err error) {
	err = r.Scan(key, append(bytes.Clone(key), 0), func(_, value []byte) (bool, error) {
		out = bytes.Clone(value)
		return false, nil
	})
	if err == nil && out == nil {
		err = kv.ErrNotFound
	}
	return out, err
}

// Verify reads and authenticates everything that the snapshot consists of, and that nothing which its rows name is missing.
func (s *Snapshot) Verify(ctx context.Context, typed func(kv.Store) *meta.DB, progress func(Progress)) error {
	return s.copy(ctx, typed, nil, progress)
}

// Restore puts the snapshot into an empty store. Each part is authenticated before it is handed over; after an error the store under
// construction is of no use.
func (s *Snapshot) Restore(ctx context.Context, typed func(kv.Store) *meta.DB, to Sink, progress func(Progress)) error {
	return s.copy(ctx, typed, &to, progress)
}

// copy walks through everything; without a sink it only looks.
func (s *Snapshot) copy(ctx context.Context, typed func(kv.Store) *meta.DB, to *Sink, progress func(Progress)) error {
	if progress == nil {
		progress = func(Progress) {}
	}
	for _, step := range []func() error{
		func() error { return s.copyRows(ctx, to, progress) },
		func() error { return s.copyExtents(ctx, typed, to, progress) },
		func() error { return s.copyFiles(ctx, to) },
		func() error {
			if to == nil {
				return nil
			}
			return errors.Join(to.Slots(s.slots), to.Position(s.m.position()))
		},
	} {
		if err := step(); err != nil {
			return fmt.Errorf("snapshot %d: %w", s.m.Number, err)
		}
	}
	return nil
}

// batchBytes is how many bytes of rows go into one transaction.
const batchBytes = kv.MaxTxnSize / 4

func (s *Snapshot) copyRows(ctx context.Context, to *Sink, progress func(Progress)) error {
	type row struct{ key, value []byte }
	var batch []row
	var size int
	var count int64
	flush := func() error {
		if to == nil || len(batch) == 0 {
			return nil
		}
		err := to.Rows.Update(func(t kv.Txn) error {
			for _, r := range batch {
				t.Set(r.key, r.value)
			}
			return nil
		})
		batch, size = batch[:0], 0
		return err
	}
	err := s.eachRow(0, func(key, value []byte) (bool, error) {
		if count++; count%rowTick == 0 {
			progress(Progress{"rows", count, s.m.CountRows})
		}
		if to != nil {
			batch = append(batch, row{key, value})
			if size += len(key) + len(value); size >= batchBytes {
				if err := flush(); err != nil {
					return false, err
				}
			}
		}
		return true, ctx.Err()
	})
	if err != nil {
		return err
	}
	if count != s.m.CountRows {
		return fmt.Errorf("%w: %d rows, not %d", ErrDamaged, count, s.m.CountRows)
	}
	progress(Progress{"rows", count, count})
	return flush()
}

func (s *Snapshot) copyExtents(ctx context.Context, typed func(kv.Store) *meta.DB, to *Sink, progress func(Progress)) error {
	type named struct {
		blob
		ref extent.Ref
	}
	lost := map[extent.Ref]bool{}
	for _, l := range s.m.Lost {
		lost[l.ref()] = true
	}
	var all []named
	var total, done, told int64
	err := typed(snapshot{rowsOf{s}}).View(func(r *meta.Reader) error {
		return eachExtent(r, func(ino meta.Ino, x *meta.Extent) error {
			b, ok := s.blobs[s.keys.extentID(ino, x)]
			switch {
			case ok && b.kind == extentBlob && b.length == x.Sealed:
				all = append(all, named{b, refOf(x)})
				total += int64(x.Sealed)
			case !lost[refOf(x)]:
				return fmt.Errorf("%w: extent %d of inode %d is in none of its packs", ErrDamaged, x.ID, ino)
			}
			return ctx.Err()
		})
	})
	if err != nil {
		return err
	}
	if int64(len(all)+len(lost)) != s.m.CountExtents {
		return fmt.Errorf("%w: %d extents, not %d", ErrDamaged, len(all)+len(lost), s.m.CountExtents)
	}
	slices.SortFunc(all, func(a, b named) int {
		if a.ref.Segment != b.ref.Segment {
			return compare(a.ref.Segment, b.ref.Segment)
		}
		return compare(uint64(a.ref.Offset), uint64(b.ref.Offset))
	})
	for _, x := range all {
		b, err := x.pack.read(s.keys, x.entry)
		if err != nil {
			return err
		}
		if to != nil {
			if err := to.Extents.Put(x.ref, b); err != nil {
				return err
			}
		}
		if done += int64(len(b)); done-told >= tick {
			told = done
			progress(Progress{"data", done, total})
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	progress(Progress{"data", done, total})
	return nil
}

func (s *Snapshot) copyFiles(ctx context.Context, to *Sink) error {
	for _, f := range s.m.Files {
		if filepath.Base(f.Name) != f.Name || f.Name == "." || f.Name == ".." {
			return fmt.Errorf("%w: a file named %.64q", ErrDamaged, f.Name)
		}
		read := func(fn func([]byte) error) error {
			var size int64
			for _, name := range f.Chunks {
				if len(name) != len(id{}) {
					return fmt.Errorf("%w: a chunk without a name", ErrDamaged)
				}
				b, err := s.blob(fileChunk, id(name))
				if err != nil {
					return err
				}
				size += int64(len(b))
				if err := errors.Join(fn(b), ctx.Err()); err != nil {
					return err
				}
			}
			if size != f.Size {
				return fmt.Errorf("%w: %s has %d bytes, not %d", ErrDamaged, f.Name, size, f.Size)
			}
			return nil
		}
		err := error(nil)
		if to == nil {
			err = read(func([]byte) error { return nil })
		} else {
			err = to.File(f.Name, read)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
