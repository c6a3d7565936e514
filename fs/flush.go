package fs

import (
	"errors"
	"hash/crc32"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/kmsfs/kmsfs/crypto/block"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

const (
	inlineMax   = 16 << 10  // a flush of so little plaintext goes into the rows if it is to be durable, so that an fsync is one sync
	tinyMax     = 1 << 10   // one of so little always does. More is cheaper in a segment: a row is written three times (log, table, compaction)
	inlineTotal = 256 << 10 // of plaintext of one file in the rows; then it moves to the segments
	flushAt     = 8 << 20   // dirty bytes of a file that start a flush in the background
	waitAt      = 32 << 20  // dirty bytes of a file that make its writer wait
	maxRuns     = 8192      // dirty runs of a file that make its writer wait
	sealers     = 2         // extents of one flush that are sealed at once
	manyCovered = 512       // pieces that a flush covers, from which on it makes its bytes durable before its rows
)

type flushOptions struct {
	durable bool   // make it durable, and everything committed before
	punch   *span  // take this range out of the map as well
	now     int64  // the time of the punch
	merge   int64  // bytes to seal again of what should be together, also if nothing is dirty
	renew   *int64 // seal content of older generations anew, some at a time; how many bytes it was
}

// flush commits what is dirty. No lock is held.
func (v *Volume) flush(n *inode, o flushOptions) error {
	return v.withRoom(func() error { return v.flushOnce(n, o) })
}

func (v *Volume) flushOnce(n *inode, o flushOptions) error {
	if o.durable { // with the names that were made before it
		if err := v.bearOthers(n); err != nil {
			return err
		}
	}
	n.flushMu.Lock()
	defer n.flushMu.Unlock()
	return v.flushLocked(n, o)
}

// batch is one flush of a file.
type batch struct {
	size  uint64
	cut   uint64
	gauge int64  // dirty bytes that it took
	own   runSet // what was dirty, without what is only sealed again
}

// sealedExtent is an extent of a flush: appended to the segments, or, if inline, to be put into the rows.
type sealedExtent struct {
	extent *meta.Extent
	inline []byte
	pieces []meta.Piece
}

// flushLocked seals what is dirty and commits it in one transaction; flushMu is held. If it fails, everything is dirty as before.
func (v *Volume) flushLocked(n *inode, o flushOptions) error {
	n.mu.RLock()
	d, sealing := n.data, n.row.Sealing
	n.mu.RUnlock()
	if d == nil {
		if err := v.bear(n); err != nil {
			return err
		}
		return v.syncIf(o.durable)
	}
	if err := v.loadExtents(n, d); err != nil {
		return err
	}
	b, any, err := v.take(n, d, o)
	if err != nil {
		return err
	}
	if !any {
		if err := v.bear(n); err != nil {
			return err
		}
		if o.durable {
			err = v.syncClean(n, d)
		}
		v.settle(n, d)
		return err
	}
	v.appends.begin()
	defer v.appends.end()
	exts, err := v.seal(n.ino, d, sealing.Current(), o.durable)
	applied := false
	if err == nil && o.durable {
		err = v.syncExtents(d, exts)
	}
	if err == nil {
		err = v.commitFlush(n, d, b, exts, o)
		applied = err != nil && !errors.Is(err, ErrNoSpace) // nobody knows
	}
	if applied {
		v.appends.inDoubt.Store(true)
	}
	if err != nil {
		if !applied {
			v.discard(exts)
		}
		v.giveBack(d, b)
		d.merge.failed = true
		v.settle(n, d) // it may have lost its name meanwhile
		return v.fault("flush", err)
	}
	d.merge.failed = false
	d.merge.flushes++
	v.merger.noticed(n, d)
	v.settle(n, d)
	if o.durable {
		return v.fault("sync", v.db.Sync())
	}
	return nil
}

// take moves what is dirty to flushing; nothing moves if nothing is dirty.
func (v *Volume) take(n *inode, d *fileData, o flushOptions) (b batch, any bool, err error) {
	absorbed, err := v.absorb(n, d)
	if err == nil && o.renew != nil {
		err = v.outdated(n, d, &absorbed)
		*o.renew = absorbed.bytes
	}
	if err != nil {
		return b, false, err
	}
	v.gather(n, d, &absorbed, o)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.isDirty() && o.punch == nil && len(absorbed.runs) == 0 {
		return b, false, nil
	}
	if o.punch != nil {
		before := d.dirty.bytes
		d.dirty.cut(o.punch.off, o.punch.end)
		absorbed.cut(o.punch.off, o.punch.end)
		v.size.add(d.dirty.bytes - before)
		d.mtime, d.ctime = o.now, o.now
	}
	b = batch{size: d.size, cut: d.cut, gauge: d.dirty.bytes, own: d.dirty}
	if len(absorbed.runs) > 0 {
		absorbed.cut(d.cut, endOfFile)
		for _, r := range d.dirty.runs {
			absorbed.write(r.off, r.buf)
		}
		d.flushing = absorbed
	} else {
		d.flushing = d.dirty
	}
	d.dirty = runSet{}
	d.changed = false
	return b, true, nil
}

// giveBack makes a batch that was not committed dirty again, beneath what was written meanwhile.
func (v *Volume) giveBack(d *fileData, b batch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	newer := d.dirty
	counted := b.gauge + newer.bytes
	d.dirty, d.flushing = b.own, runSet{}
	for _, r := range newer.runs {
		d.dirty.write(r.off, r.buf)
	}
	d.changed = true
	v.size.add(d.dirty.bytes - counted)
}

// absorb reads the inline extents of a file that has gathered too many of them, so that they go to the segments with this flush.
func (v *Volume) absorb(n *inode, d *fileData) (runSet, error) {
	var out runSet
	d.mu.RLock()
	dirty := d.dirty.bytes
	d.mu.RUnlock()
	if dirty == 0 || dirty > inlineMax || d.extents.inline+int(dirty) <= inlineTotal {
		return out, nil
	}
	var pieces []meta.Piece
	for _, at := range slices.Sorted(maps.Keys(d.extents.inlineAt)) {
		if p, ok := d.extents.pieces.Get(at); ok && d.hasKey(p.Extent.Generation) {
			pieces = append(pieces, p)
		}
	}
	room := make([]byte, inlineMax)
	defer clear(room)
	for _, p := range pieces {
		buf := room[:p.Len]
		if err := v.readPiece(n.ino, d, p, buf); err != nil {
			return out, err
		}
		out.write(p.Off, buf)
	}
	return out, nil
}

// chunk is a part of a run at its place in an extent.
type chunk struct {
	off uint64 // in the file
	buf []byte
	at  int // in the extent's plaintext, a multiple of block.Size
}

// plan packs runs into extents. Every run starts on a block, so that reading one block never needs two.
func plan(runs []*run, durable bool) (groups [][]chunk, inline bool) {
	var group []chunk
	at, total := 0, 0
	for _, r := range runs {
		for off, buf := r.off, r.buf; len(buf) > 0; {
			if at == maxRun {
				groups, group, at = append(groups, group), nil, 0
			}
			n := min(len(buf), maxRun-at)
			group = append(group, chunk{off, buf[:n], at})
			at += (n + block.Size - 1) / block.Size * block.Size
			total += n
			off, buf = off+uint64(n), buf[n:]
		}
	}
	if group != nil {
		groups = append(groups, group)
	}
	if len(groups) != 1 {
		return groups, false
	}
	return groups, total <= tinyMax || durable && at <= inlineMax
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal seals the batch in flushing into extents and appends them.
func (v *Volume) seal(ino Ino, d *fileData, gen uint32, durable bool) ([]*sealedExtent, error) {
	groups, inline := plan(d.flushing.runs, durable)
	out := make([]*sealedExtent, len(groups))
	if len(groups) == 1 {
		var err error
		out[0], err = v.sealOne(ino, d, gen, groups[0], inline)
		return out, err
	}
	var g errgroup.Group
	g.SetLimit(sealers)
	for i := range groups {
		g.Go(func() (err error) {
			out[i], err = v.sealOne(ino, d, gen, groups[i], false)
			return err
		})
	}
	return out, g.Wait()
}

func (v *Volume) sealOne(ino Ino, d *fileData, gen uint32, chunks []chunk, inline bool) (*sealedExtent, error) {
	id, err := v.ids.nextExtent()
	if err != nil {
		return nil, err
	}
	last := chunks[len(chunks)-1]
	x := &meta.Extent{ID: id, Plain: uint32(last.at + len(last.buf)), Generation: gen, Salt: block.NewSalt(), Inline: inline}
	key, err := d.blockKey(gen, x.Salt, v.binding(ino, x))
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	s := &sealedExtent{extent: x}
	buf := sealedBuffers.Get().(*[]byte)
	defer sealedBuffers.Put(buf)
	sealed := (*buf)[:0]
	for i, c := range chunks {
		s.pieces = append(s.pieces, meta.Piece{Off: c.off, Len: uint32(len(c.buf)), Inside: uint32(c.at), Extent: x})
		sealed = sealChunk(key, sealed, c, i == len(chunks)-1)
	}
	if inline {
		s.inline = slices.Clone(sealed)
		return s, nil
	}
	x.Sealed, x.CRC = uint32(len(sealed)), crc32.Checksum(sealed, castagnoli)
	ref, err := v.cfg.Extents.Append(sealed)
	if err != nil {
		return nil, err
	}
	x.Segment, x.Offset = ref.Segment, ref.Offset
	return s, nil
}

// sealChunk seals one chunk; unless it is the extent's last, its last block is filled up with zeros.
func sealChunk(key *block.Key, dst []byte, c chunk, isLast bool) []byte {
	first := c.at / block.Size
	whole := len(c.buf) / block.Size * block.Size
	if isLast {
		whole = len(c.buf)
	}
	if whole > 0 {
		dst = key.Seal(dst, c.buf[:whole], first)
	}
	if whole < len(c.buf) {
		var pad [block.Size]byte
		copy(pad[:], c.buf[whole:])
		dst = key.Seal(dst, pad[:], first+whole/block.Size)
	}
	return dst
}

// discard frees extents that no committed row names.
func (v *Volume) discard(exts []*sealedExtent) {
	for _, s := range exts {
		if s == nil || s.extent.Inline || s.extent.Sealed == 0 {
			continue
		}
		ref := extent.Ref{Segment: s.extent.Segment, Offset: s.extent.Offset, Length: s.extent.Sealed}
		if err := v.cfg.Extents.Free(ref); err != nil {
			v.log.Warn("an extent that was not committed stays", "extent", ref.String(), "err", err)
		}
	}
}

func inSegments(exts []*sealedExtent) bool {
	return slices.ContainsFunc(exts, func(s *sealedExtent) bool { return !s.extent.Inline })
}

// commitFlush commits a batch that is sealed.
func (v *Volume) commitFlush(n *inode, d *fileData, b batch, exts []*sealedExtent, o flushOptions) error {
	ed := d.extents.edit()
	if b.cut != endOfFile {
		ed.cover(b.cut, endOfFile)
	}
	if o.punch != nil {
		ed.cover(o.punch.off, o.punch.end)
	}
	for _, s := range exts {
		for _, p := range s.pieces {
			ed.insert(p)
		}
	}
	segments := inSegments(exts)
	// What is durable before its rows are needs nothing to be put back in its place. One sync is less work than many rows that are deleted
	// again when the epoch is closed.
	durable := o.durable
	if segments && !durable && len(ed.covered) >= manyCovered {
		if err := v.syncExtents(d, exts); err != nil {
			return err
		}
		durable = true
	}
	dir, unlock, err := v.lockRow(n)
	if err != nil {
		return err
	}
	defer unlock()
	d.mu.RLock()
	mtime, ctime, pending := d.mtime, d.ctime, d.pending
	d.mu.RUnlock()
	update := v.db.Update
	if o.durable { // flushLocked will sync before it lets go of flushMu, and whoever asks for less waits for that
		update = v.db.UpdateDeferred
	}
	var epoch uint64
	var known mark
	err = v.commitRow(update, "flush", n, dir, func(t *meta.Tx, row *meta.Inode) error {
		epoch = v.epoch
		for _, s := range exts {
			if s.extent.Inline {
				t.PutInline(n.ino, s.extent.ID, s.inline)
			} else {
				s.extent.Epoch = epoch
			}
		}
		// Recovery must not fill what it cannot bring back with zeros, so it has to know how short the file has been.
		least := min(row.Size, b.cut, b.size)
		var err error
		if known, err = v.record(t, n, d, o.durable, segments, least, b.size); err != nil {
			return err
		}
		ed.write(t, row, epoch, v.nextSeq, segments && !durable)
		row.Size, row.Mtime, row.Ctime = b.size, mtime, max(row.Ctime, ctime)
		pending.write(row)
		return nil
	})
	if err != nil {
		return err
	}
	if d.mark = known; known.row != nil {
		d.mark.row = n.row
	}
	held := d.extents.held
	for _, s := range exts {
		held += footprint(s.extent)
	}
	d.mu.Lock()
	d.extents = ed.apply()
	dead := held - d.extents.held
	d.version++
	d.cut = endOfFile
	d.pending = pendingAttr{} // set under n.mu only, so this is what was committed
	if segments {
		n.extentEpoch = epoch
		d.touched = epoch
		d.unsynced = d.unsynced || !durable
	}
	d.flushing.recycle()
	d.mu.Unlock()
	v.size.add(-b.gauge)
	v.died(dead)
	return nil
}

// settle ends what a file keeps in memory if nobody has it open and nothing is dirty; flushMu is held.
func (v *Volume) settle(n *inode, d *fileData) {
	n.mu.Lock()
	if n.data == d && d.opens == 0 {
		v.endData(n, d)
	}
	over := n.data == nil && n.row.Nlink == 0
	n.mu.Unlock()
	if over {
		v.release(n.ino)
	}
}

// makeRoom makes a writer wait while too much is dirty: of its own file, or of all files together.
func (v *Volume) makeRoom(n *inode, d *fileData) error {
	d.mu.RLock()
	own, runs := d.dirty.bytes, len(d.dirty.runs)
	d.mu.RUnlock()
	if own <= waitAt && runs <= maxRuns && !v.size.over() {
		return nil
	}
	if err := v.flush(n, flushOptions{}); err != nil {
		return err
	}
	if !v.size.over() {
		return nil
	}
	if err := v.flusher.flushAll(); err != nil && v.size.over() {
		return err
	}
	return nil
}

// intact reports whether an extent's sealed bytes are what was written.
func (v *Volume) intact(x *meta.Extent) (bool, error) {
	buf := make([]byte, x.Sealed)
	err := v.cfg.Extents.ReadAt(extent.Ref{Segment: x.Segment, Offset: x.Offset, Length: x.Sealed}, buf, 0)
	if errors.Is(err, extent.ErrMissing) {
		return false, nil
	}
	return err == nil && crc32.Checksum(buf, castagnoli) == x.CRC, err
}
