package redo

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// RecordHeader is the length of a record's header in bytes. Records begin at multiples of align.
const (
	RecordHeader = 32
	align        = 8
)

// record is a decoded record; payload points into the segment's bytes.
type record struct {
	seq     uint64
	durable uint64 // all records up to this number were durable when this one was appended
	payload []byte
	length  int // with header and padding
}

// pad appends zeros up to the next multiple of align.
func pad(b []byte) []byte {
	for len(b)%align != 0 {
		b = append(b, 0)
	}
	return b
}

// putRecord fills in the header of a padded record with n bytes of payload.
func putRecord(b []byte, n int, segment, seq, durable uint64) {
	binary.LittleEndian.PutUint32(b[4:], uint32(n))
	binary.LittleEndian.PutUint64(b[8:], segment)
	binary.LittleEndian.PutUint64(b[16:], seq)
	binary.LittleEndian.PutUint64(b[24:], durable)
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:RecordHeader+n], castagnoli))
}

// decodeRecord decodes the record of that segment at the begin of b, and reports whether there is an intact one.
func decodeRecord(b []byte, segment uint64) (record, bool) {
	if len(b) < RecordHeader || binary.LittleEndian.Uint64(b[8:]) != segment {
		return record{}, false
	}
	n := int(binary.LittleEndian.Uint32(b[4:]))
	if n == 0 || n > len(b)-RecordHeader {
		return record{}, false
	}
	if crc32.Checksum(b[4:RecordHeader+n], castagnoli) != binary.LittleEndian.Uint32(b) {
		return record{}, false
	}
	return record{
		seq:     binary.LittleEndian.Uint64(b[16:]),
		durable: binary.LittleEndian.Uint64(b[24:]),
		payload: b[RecordHeader : RecordHeader+n],
		length:  (RecordHeader + n + align - 1) / align * align,
	}, true
}

// Replay calls fn with the records that may be needed, in their order, and makes the log ready for Append. It must be called
// once after Open. next is the number that the first record gets if the log is empty, at least 1. The payload is valid only
// inside fn. The records are durable before fn sees them, and stay in the log until they are Cut.
func (l *Log) Replay(next uint64, fn func(seq uint64, payload []byte) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	live := l.live()
	if len(live) == 0 {
		l.applied = max(next, 1) - 1
	}
	// What fn sees may reach the disk by another way, so it must be durable here first.
	for _, s := range live {
		if err := l.files.Sync(s.file); err != nil {
			return l.fail(fmt.Errorf("replay: %w", err))
		}
	}
	seq, keep, err := l.replay(live, fn)
	if err != nil {
		return err
	}
	// What comes after the end was never synced. It must not come back when there are new records behind the end.
	for _, s := range live[keep:] {
		s.header.live = false
		if _, err := l.files.WriteAt(s.file, s.header.encode(), 0); err != nil {
			return l.fail(fmt.Errorf("cut the end: %w", err))
		}
		if err := l.files.Sync(s.file); err != nil {
			return l.fail(fmt.Errorf("cut the end: %w", err))
		}
	}
	l.next = max(seq, next, l.applied+1)
	l.appended.Store(l.next - 1)
	l.durable.Store(l.next - 1)
	return nil
}

// live returns the segments that are needed, oldest first, and reads from their headers up to where records were applied.
// Older ones look alive on the disk, because a cut is not written down before the next segment begins.
func (l *Log) live() []*segment {
	var live []*segment
	for _, s := range l.segments {
		l.applied = max(l.applied, s.header.applied) // also of the others: Clean may have been interrupted
		if s.header.live {
			live = append(live, s)
		}
	}
	for len(live) > 1 && live[1].header.first <= l.applied+1 {
		live[0].header.live = false
		live = live[1:]
	}
	return live
}

// replay returns the number after the last record, and how many of the segments are part of the log.
func (l *Log) replay(live []*segment, fn func(uint64, []byte) error) (next uint64, keep int, err error) {
	if len(live) > 0 {
		next = min(live[0].header.first, l.applied+1)
	}
	for i, s := range live {
		b := make([]byte, s.size)
		if _, err := s.file.ReadAt(b, 0); err != nil {
			return 0, 0, fmt.Errorf("%w: segment %d: %w", ErrCorrupt, s.header.number, err)
		}
		if s.header.first != next {
			// The segment before ended too early, or is missing.
			return next, i, l.checkEnd(live[i:], nil, 0, next)
		}
		off := headerBlock
		for {
			r, ok := decodeRecord(b[off:], s.header.number)
			if !ok || r.seq != next {
				break
			}
			if next > l.applied {
				if err := fn(next, r.payload); err != nil {
					return 0, 0, err
				}
			}
			next++
			off += r.length
			s.last = r.seq
		}
		if i+1 < len(live) && live[i+1].header.first == next {
			continue
		}
		return next, i + 1, l.checkEnd(live[i+1:], b[off:], s.header.number, next)
	}
	return next, len(live), nil
}

// checkEnd makes sure that no record behind the end says that the first missing one was durable: not in the rest of the last
// segment, and not in those that follow.
func (l *Log) checkEnd(after []*segment, rest []byte, number, missing uint64) error {
	if err := searchDurable(rest, number, missing); err != nil {
		return err
	}
	for _, s := range after {
		b := make([]byte, s.size)
		if _, err := s.file.ReadAt(b, 0); err != nil {
			return fmt.Errorf("%w: segment %d: %w", ErrCorrupt, s.header.number, err)
		}
		if err := searchDurable(b[headerBlock:], s.header.number, missing); err != nil {
			return err
		}
	}
	return nil
}

// searchDurable looks at every place where a record could begin.
func searchDurable(b []byte, number, missing uint64) error {
	for off := 0; off+RecordHeader <= len(b); off += align {
		if r, ok := decodeRecord(b[off:], number); ok && r.durable >= missing {
			return fmt.Errorf("%w: record %d is damaged or missing, but it was synced: record %d, which came later, is intact",
				ErrCorrupt, missing, r.seq)
		}
	}
	return nil
}
