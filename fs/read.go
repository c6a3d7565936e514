package fs

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"github.com/kmsfs/kmsfs/crypto/block"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// ReadAt fills p from off. It is short at the end of the file, and returns no error then.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, ErrInvalid
	}
	if err := f.v.loadExtents(f.n, f.d); err != nil {
		return 0, err
	}
	for {
		n, version, err := f.readOnce(p, uint64(off))
		if err == nil {
			return n, nil
		}
		// Extents that were replaced while we read may be freed already: then there is a newer map, and the answer is in it.
		f.d.mu.RLock()
		replaced := f.d.version != version
		f.d.mu.RUnlock()
		if !replaced {
			f.v.log.Error("read failed", "inode", uint64(f.n.ino), "offset", off, "err", err)
			return 0, err
		}
	}
}

// fetch is a part of a read that comes from an extent.
type fetch struct {
	piece meta.Piece
	dst   []byte
}

func (f *File) readOnce(p []byte, off uint64) (n int, version uint64, err error) {
	d := f.d
	d.mu.RLock()
	version = d.version
	if off >= d.size {
		d.mu.RUnlock()
		return 0, version, nil
	}
	p = p[:min(uint64(len(p)), d.size-off)]
	end := off + uint64(len(p))
	want := []span{{off, end}}
	want = d.dirty.fill(p, off, want)
	want = d.flushing.fill(p, off, want)
	var few [4]fetch
	todo := few[:0]
	for _, w := range want {
		at := w.off
		d.extents.each(w.off, min(w.end, d.cut), func(x meta.Piece) bool {
			from, to := max(x.Off, w.off), min(x.End(), w.end, d.cut)
			clear(p[at-off : from-off])
			todo = append(todo, fetch{part(x, from, to), p[from-off : to-off]})
			at = to
			return true
		})
		clear(p[at-off : w.end-off])
	}
	d.mu.RUnlock()
	for _, t := range todo {
		if err := f.v.readPiece(f.n.ino, d, t.piece, t.dst); err != nil {
			return 0, version, err
		}
	}
	return len(p), version, nil
}

// sealedBuffers hold what was read and is to be opened. They begin where a page does, so that a disk can write into them.
var sealedBuffers = sync.Pool{New: func() any {
	const page = 4096
	b := make([]byte, block.SealedLen(maxRun)+page)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (page - 1))
	b = b[skip:skip:len(b)]
	return &b
}}

// readPiece reads and opens the blocks that hold a piece and copies the piece to dst.
func (v *Volume) readPiece(ino Ino, d *fileData, p meta.Piece, dst []byte) error {
	x := p.Extent
	key, err := v.openingKey(ino, d, x)
	if err != nil {
		return err
	}
	defer key.Wipe()
	first := int(p.Inside / block.Size)
	last := int((p.Inside + p.Len - 1) / block.Size)
	start := uint32(first) * block.Size
	stop := min(uint32(last+1)*block.Size, x.Plain)

	buf := sealedBuffers.Get().(*[]byte)
	defer sealedBuffers.Put(buf)
	sealed := slices.Grow((*buf)[:0], block.SealedLen(int(stop-start)))[:block.SealedLen(int(stop-start))]
	if x.Inline {
		sealed, err = v.inlineBytes(ino, x, first, len(sealed))
	} else {
		ref := extent.Ref{Segment: x.Segment, Offset: x.Offset, Length: x.Sealed}
		err = v.cfg.Extents.ReadAt(ref, sealed, int64(first)*block.Sealed)
	}
	if err != nil {
		return v.bad(ino, x, err)
	}
	if p.Inside == start && p.Len == stop-start { // whole blocks: straight into dst
		out, err := key.Open(dst[:0:len(dst)], sealed, first)
		if err != nil || len(out) != len(dst) {
			return v.bad(ino, x, errors.Join(err, ErrCorrupt))
		}
		return nil
	}
	plain := sealedBuffers.Get().(*[]byte)
	defer sealedBuffers.Put(plain)
	out, err := key.Open((*plain)[:0], sealed, first)
	if err != nil {
		return v.bad(ino, x, err)
	}
	copy(dst, out[p.Inside-start:])
	clear(out)
	return nil
}

func (v *Volume) inlineBytes(ino Ino, x *meta.Extent, first, n int) (b []byte, err error) {
	err = v.db.View(func(r *meta.Reader) (err error) {
		b, err = r.Inline(ino, x.ID)
		return err
	})
	at := first * block.Sealed
	if err == nil && at+n > len(b) {
		err = fmt.Errorf("%w: inline extent is cut", ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	return b[at : at+n], nil
}

func (v *Volume) bad(ino Ino, x *meta.Extent, err error) error {
	switch {
	case errors.Is(err, block.ErrAuth), errors.Is(err, extent.ErrMissing), errors.Is(err, meta.ErrNotFound), errors.Is(err, ErrCorrupt):
		return fmt.Errorf("extent %d of inode %d: %w: %w", x.ID, ino, ErrCorrupt, err)
	}
	return fmt.Errorf("extent %d of inode %d: %w", x.ID, ino, err)
}

func (v *Volume) binding(ino Ino, x *meta.Extent) block.Binding {
	return block.Binding{Store: v.cfg.StoreID, Inode: uint64(ino), Extent: uint64(x.ID), Length: x.Plain}
}

// joinSpans sorts spans and joins those that touch or overlap.
func joinSpans(all []span) []span {
	slices.SortFunc(all, func(a, b span) int {
		switch {
		case a.off < b.off:
			return -1
		case a.off > b.off:
			return 1
		}
		return 0
	})
	out := all[:0]
	for _, s := range all {
		if n := len(out); n > 0 && s.off <= out[n-1].end {
			out[n-1].end = max(out[n-1].end, s.end)
		} else {
			out = append(out, s)
		}
	}
	return out
}
