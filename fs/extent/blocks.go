package extent

// Blocks is a set of aligned blocks: a bit for every Align bytes, so 8 KiB for a segment of 256 MiB. A collector and a checker put in
// what the metadata names and ask what a store holds beyond that. It is not safe for concurrent use. The zero Blocks is empty.
type Blocks struct {
	segments map[uint64][]uint64
	count    int64
}

// maxBlocks bounds what one reference can make Blocks allocate: 1 TiB of segment.
const maxBlocks = 1 << 28

// Add puts the extent's blocks in. It reports whether one was in already, which extents that do not overlap never cause. A reference
// that no store gave out is left out.
func (b *Blocks) Add(r Ref) (overlap bool) {
	if !r.Valid() || r.End()/Align > maxBlocks {
		return false
	}
	if b.segments == nil {
		b.segments = map[uint64][]uint64{}
	}
	bits := b.segments[r.Segment]
	first, end := r.Offset/Align, r.End()/Align
	if need := int(end+63) / 64; need > len(bits) {
		bits = append(bits, make([]uint64, need-len(bits))...)
		b.segments[r.Segment] = bits
	}
	for i := first; i < end; i++ {
		mask := uint64(1) << (i % 64)
		if bits[i/64]&mask != 0 {
			overlap = true
			continue
		}
		bits[i/64] |= mask
		b.count++
	}
	return overlap
}

// Has reports whether the block at an offset of a segment is in.
func (b *Blocks) Has(segment uint64, offset int64) bool {
	bits, i := b.segments[segment], offset/Align
	return i >= 0 && i/64 < int64(len(bits)) && bits[i/64]&(1<<(i%64)) != 0
}

// Bytes is how many bytes are in.
func (b *Blocks) Bytes() int64 { return b.count * Align }

// maxGap bounds a reference to a gap, whose length has 32 bits.
const maxGap = 1 << 30

// Gaps calls fn for the parts of a stored range that are not in, as references that Free takes. An error of fn ends it.
func (b *Blocks) Gaps(r Range, fn func(Ref) error) error {
	end := r.Offset + r.Length
	for at := r.Offset; at < end; {
		if b.Has(r.Segment, at) {
			at += Align
			continue
		}
		from := at
		for at < end && at-from < maxGap && !b.Has(r.Segment, at) {
			at += Align
		}
		if err := fn(Ref{Segment: r.Segment, Offset: from, Length: uint32(at - from)}); err != nil {
			return err
		}
	}
	return nil
}
