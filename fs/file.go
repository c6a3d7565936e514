package fs

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// File is an open regular file. Its methods are safe for concurrent use, except that nothing may follow Close.
type File struct {
	v      *Volume
	n      *inode
	d      *fileData
	closed atomic.Bool
}

// OpenFile opens a regular file with its plaintext data keys, of which it takes clones. Without trunc the keys must cover every
// generation of the current sealing, else the answer is ErrStale and the caller looks at the sealing again. With trunc the file is
// emptied and gets the fresh key, in one transaction that is committed before OpenFile returns.
func (v *Volume) OpenFile(ino Ino, keys Keys, trunc *Truncation) (f *File, err error) {
	if trunc == nil {
		return v.openFile(ino, keys, nil)
	}
	err = v.withRoom(func() error {
		f, err = v.openFile(ino, keys, trunc)
		return err
	})
	return f, err
}

func (v *Volume) openFile(ino Ino, keys Keys, trunc *Truncation) (*File, error) {
	n, err := v.get(ino)
	if err != nil {
		return nil, err
	}
	if trunc != nil {
		n.flushMu.Lock()
		defer n.flushMu.Unlock()
		err := v.bear(n)
		if err == nil {
			err = v.shrinkLarge(n)
		}
		if err != nil {
			v.put(n)
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f, err := v.openLocked(n, keys, trunc)
	if err != nil {
		if n.data != nil && n.data.opens == 0 {
			v.endData(n, n.data)
		}
		v.put(n)
		return nil, err
	}
	return f, nil
}

func (v *Volume) openLocked(n *inode, keys Keys, trunc *Truncation) (*File, error) {
	switch {
	case n.gone:
		return nil, ErrNotFound
	case n.row.Type == Directory:
		return nil, ErrIsDir
	case n.row.Type != Regular:
		return nil, ErrInvalid
	}
	if trunc == nil {
		for _, k := range n.row.Sealing.Keys {
			if keys[k.Generation] == nil {
				return nil, fmt.Errorf("%w: the file's data keys", ErrStale)
			}
		}
	}
	if n.data == nil {
		n.data = newFileData(n.row)
		v.watch(n, n.data)
	}
	d := n.data
	if trunc != nil {
		if err := v.truncateOpen(n, d, trunc); err != nil {
			return nil, err
		}
	} else {
		for _, k := range n.row.Sealing.Keys {
			d.addKey(k.Generation, keys[k.Generation])
		}
	}
	d.opens++
	return &File{v: v, n: n, d: d}, nil
}

// truncateOpen empties the file under a fresh data key; flushMu and n.mu are held.
func (v *Volume) truncateOpen(n *inode, d *fileData, trunc *Truncation) error {
	var pieces []meta.Piece
	err := v.db.View(func(r *meta.Reader) (err error) {
		pieces, err = r.Pieces(n.row)
		return err
	})
	if err != nil {
		return v.fault("truncate", err)
	}
	ed := newExtentMap(pieces).edit()
	ed.cover(0, endOfFile)
	gen := n.row.NextKey
	err = v.commit("truncate", []*inode{n}, func(t *meta.Tx, rows []*meta.Inode) error {
		row := rows[0]
		if row.Nlink != 0 && row.Rows.Count != 0 {
			if err := t.Touch(v.epoch, n.ino, 0); err != nil {
				return err
			}
		}
		ed.write(t, row, v.epoch, v.nextSeq, false)
		row.Sealing = trunc.Sealing
		row.Sealing.Keys = []FileKey{{Generation: gen, Wrapped: trunc.Sealing.Keys[0].Wrapped}}
		row.NextKey++
		d.pending.write(row) // set under n.mu only
		row.Size = 0
		row.Mtime = v.now()
		row.Ctime = row.Mtime
		return nil
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	v.size.add(-d.dirty.bytes)
	d.dirty.recycle()
	d.extents, d.loaded = newExtentMap(nil), true
	d.version++
	_ = d.charge(0) // cannot fail
	d.cut, d.size, d.changed, d.pending = endOfFile, 0, false, pendingAttr{}
	d.mtime, d.ctime = n.row.Mtime, n.row.Ctime
	d.mu.Unlock()
	d.addKey(gen, trunc.Key)
	d.keepKeys(n.row.Sealing)
	return nil
}

// Ino is the file's inode number.
func (f *File) Ino() Ino { return f.n.ino }

// Size is the file's length in bytes.
func (f *File) Size() int64 {
	f.d.mu.RLock()
	defer f.d.mu.RUnlock()
	return int64(f.d.size)
}

// WriteAt writes p at off. When it returns, every reader on every mount sees the bytes; Flush commits them.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, ErrInvalid
	}
	_, err := f.write(p, uint64(off), false)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Append writes p at the end of the file, wherever that is now, and says where that was.
func (f *File) Append(p []byte) (off int64, err error) {
	at, err := f.write(p, 0, true)
	return int64(at), err
}

func (f *File) write(p []byte, off uint64, atEnd bool) (uint64, error) {
	if err := f.v.makeRoom(f.n, f.d); err != nil {
		return 0, err
	}
	d := f.d
	d.mu.Lock()
	if atEnd {
		off = d.size
	}
	end := off + uint64(len(p))
	if end > MaxSize || end < off {
		d.mu.Unlock()
		return 0, ErrFileTooBig
	}
	if len(p) == 0 {
		d.mu.Unlock()
		return off, nil
	}
	if end > d.size {
		if err := d.charge(end); err != nil {
			d.mu.Unlock()
			return 0, err
		}
	}
	clean := !d.isDirty()
	before := d.dirty.bytes
	d.dirty.write(off, p)
	grown := d.dirty.bytes - before
	d.size = max(d.size, end)
	d.mtime = f.v.now()
	d.ctime = d.mtime
	d.changed = true
	full := d.dirty.bytes >= flushAt
	d.mu.Unlock()
	f.v.size.add(grown)
	if clean {
		f.v.flusher.add(f.n)
	}
	if full {
		f.v.flusher.kick(f.n)
	}
	return off, nil
}

// Flush seals and commits what was written through any handle: it survives a crash of the daemon. Nothing is done for a file
// without a name.
func (f *File) Flush() error {
	f.n.mu.RLock()
	nameless := f.n.row.Nlink == 0
	f.n.mu.RUnlock()
	if nameless {
		return nil
	}
	return f.v.flush(f.n, flushOptions{})
}

// Sync is Flush, and makes it durable together with everything that was committed before. fdatasync costs the same: content and
// attributes are one transaction.
func (f *File) Sync(_ /* dataOnly */ bool) error { return f.v.flush(f.n, flushOptions{durable: true}) }

// Truncate sets the length; what is added reads as zeros. It is committed before it returns.
func (f *File) Truncate(size int64) error {
	if size < 0 {
		return ErrInvalid
	}
	return f.v.withRoom(func() error {
		f.n.flushMu.Lock()
		defer f.n.flushMu.Unlock()
		return f.v.truncateLocked(f.n, f.d, uint64(size))
	})
}

// Punch makes [off, off+length) read as zeros and gives its space back; the size stays.
func (f *File) Punch(off, length int64) error {
	if off < 0 || length <= 0 || off+length < off {
		return ErrInvalid
	}
	return f.v.withRoom(func() error { return f.punch(uint64(off), uint64(off+length)) })
}

func (f *File) punch(from, end uint64) error {
	f.n.flushMu.Lock()
	defer f.n.flushMu.Unlock()
	if err := f.v.loadExtents(f.n, f.d); err != nil {
		return err
	}
	now := f.v.now()
	for _, to := range append(f.d.bites(from, end), end) {
		if err := f.v.flushLocked(f.n, flushOptions{punch: &span{from, to}, now: now}); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// SeekData finds the next data at or behind off. If there is none it answers ErrNotFound (ENXIO).
func (f *File) SeekData(off int64) (int64, error) { return f.seek(off, true) }

// SeekHole finds the next hole at or behind off; the end of the file is one. Beyond it the answer is ErrNotFound (ENXIO).
func (f *File) SeekHole(off int64) (int64, error) { return f.seek(off, false) }

func (f *File) seek(off int64, data bool) (int64, error) {
	if err := f.Flush(); err != nil {
		return 0, err
	}
	if err := f.v.loadExtents(f.n, f.d); err != nil {
		return 0, err
	}
	d := f.d
	d.mu.RLock()
	defer d.mu.RUnlock()
	if off < 0 || uint64(off) >= d.size {
		return 0, ErrNotFound
	}
	spans := d.dataSpans(uint64(off))
	at := uint64(off)
	for _, s := range spans {
		if data {
			return int64(max(s.off, at)), nil
		}
		if s.off > at {
			return int64(at), nil
		}
		at = s.end
	}
	if data {
		return 0, ErrNotFound
	}
	return int64(min(at, d.size)), nil
}

// dataSpans lists the ranges from off on that hold data, joined where they touch. What is being flushed counts; d.mu is held.
func (d *fileData) dataSpans(off uint64) []span {
	var all []span
	limit := min(d.size, d.cut)
	d.extents.each(off, limit, func(p meta.Piece) bool {
		all = append(all, span{p.Off, min(p.End(), limit)})
		return true
	})
	for _, s := range []*runSet{&d.flushing, &d.dirty} {
		for i := s.first(off); i < len(s.runs); i++ {
			all = append(all, span{s.runs[i].off, s.runs[i].end()})
		}
	}
	return joinSpans(all)
}

// Close ends the handle. What is dirty is committed first; an error says that it could not be and is kept for a later try.
func (f *File) Close() error {
	if f.closed.Swap(true) {
		return errors.New("fs: file closed twice")
	}
	v, n := f.v, f.n
	err := f.Flush()
	n.flushMu.Lock()
	n.mu.Lock()
	f.d.opens--
	if f.d.opens == 0 {
		v.endData(n, f.d)
	}
	nameless := n.row.Nlink == 0
	n.mu.Unlock()
	n.flushMu.Unlock()
	v.flusher.retire(n)
	if nameless {
		v.release(n.ino)
	}
	v.put(n)
	return err
}

// endData drops what an inode that nobody has open keeps in memory, unless it is still dirty; flushMu and n.mu are held. (OpenFile does
// without flushMu for data that it has just made.)
func (v *Volume) endData(n *inode, d *fileData) {
	d.mu.Lock()
	if n.row.Nlink == 0 {
		v.size.add(-d.dirty.bytes)
		d.dirty.recycle()
		d.changed, d.cut = false, endOfFile
	}
	busy := d.isDirty() || len(d.flushing.runs) > 0
	if !busy {
		d.discharge(n.row)
		n.keepLone(d)
	}
	d.mu.Unlock()
	if busy {
		return
	}
	v.parking.put(n, d)
	d.wipe()
	n.data = nil
}
