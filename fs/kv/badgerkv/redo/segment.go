package redo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	magic         = "kmsfredo"
	formatVersion = 1
	headerBlock   = 4096 // bytes before the first record
	headerLength  = 80   // of them used
	suffix        = ".redo"

	flagLive = 1 << 0
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the first block of a segment. It is in one sector, which a disk writes or does not.
type header struct {
	id      [16]byte // of the log
	size    int64    // of the segment in bytes
	number  uint64   // of this life of the segment: each is larger than all before; 0 = never used
	live    bool     // has records that may be needed
	first   uint64   // number of the first record
	applied uint64   // records up to here were not needed any more when this was written
}

func (h header) encode() []byte {
	b := make([]byte, headerBlock)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	if h.live {
		binary.LittleEndian.PutUint32(b[12:], flagLive)
	}
	copy(b[16:], h.id[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(h.size))
	binary.LittleEndian.PutUint64(b[40:], h.number)
	binary.LittleEndian.PutUint64(b[48:], h.first)
	binary.LittleEndian.PutUint64(b[56:], h.applied)
	binary.LittleEndian.PutUint32(b[headerLength-4:], crc32.Checksum(b[:headerLength-4], castagnoli))
	return b
}

func decodeHeader(b []byte) (header, error) {
	var h header
	if len(b) < headerLength || string(b[:8]) != magic {
		return h, fmt.Errorf("%w: not a segment of a redo log", ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return h, fmt.Errorf("%w: version %d, this program knows %d", ErrFormat, v, formatVersion)
	}
	if crc32.Checksum(b[:headerLength-4], castagnoli) != binary.LittleEndian.Uint32(b[headerLength-4:]) {
		return h, fmt.Errorf("%w: header checksum", ErrCorrupt)
	}
	flags := binary.LittleEndian.Uint32(b[12:])
	if flags&^flagLive != 0 {
		return h, fmt.Errorf("%w: flags %#x", ErrFormat, flags)
	}
	h.live = flags&flagLive != 0
	copy(h.id[:], b[16:])
	h.size = int64(binary.LittleEndian.Uint64(b[32:]))
	h.number = binary.LittleEndian.Uint64(b[40:])
	h.first = binary.LittleEndian.Uint64(b[48:])
	h.applied = binary.LittleEndian.Uint64(b[56:])
	if h.live && (h.number == 0 || h.first == 0) || h.size < headerBlock {
		return h, fmt.Errorf("%w: header fields", ErrCorrupt)
	}
	return h, nil
}

// load opens the segments in dir and reads their headers.
func (l *Log) load() error {
	names, err := os.ReadDir(l.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("redo: %w", err)
	}
	for _, e := range names {
		path := filepath.Join(l.dir, e.Name())
		if strings.HasSuffix(e.Name(), suffix+".tmp") {
			// Never part of the log: it is renamed when it is complete.
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("redo: %w", err)
			}
			continue
		}
		var slot int
		if _, err := fmt.Sscanf(e.Name(), "%d"+suffix, &slot); err != nil || slotName(slot) != e.Name() {
			continue
		}
		if err := l.loadSegment(path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		l.slots = max(l.slots, slot+1)
	}
	l.order()
	return nil
}

func (l *Log) loadSegment(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("redo: %w", err)
	}
	seg := &segment{file: f, direct: l.openDirect(path)}
	l.segments = append(l.segments, seg)
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("redo: %w", err)
	}
	b := make([]byte, headerBlock)
	if _, err := f.ReadAt(b, 0); err != nil {
		return fmt.Errorf("%w: reading the header: %w", ErrCorrupt, err)
	}
	if seg.header, err = decodeHeader(b); err != nil {
		return err
	}
	if seg.size = seg.header.size; seg.size != st.Size() {
		return fmt.Errorf("%w: segment has %d bytes, should have %d", ErrCorrupt, st.Size(), seg.size)
	}
	if len(l.segments) == 1 {
		l.id = seg.header.id
	} else if l.id != seg.header.id {
		return fmt.Errorf("%w: segment of another log", ErrCorrupt)
	}
	return nil
}

func slotName(slot int) string { return fmt.Sprintf("%04d%s", slot, suffix) }

// order sorts the segments by number: the oldest first. mu is held, or the log not yet shared.
func (l *Log) order() {
	slices.SortStableFunc(l.segments, func(a, b *segment) int {
		switch {
		case a.header.number < b.header.number:
			return -1
		case a.header.number > b.header.number:
			return 1
		}
		return 0
	})
}

func (l *Log) topNumber() uint64 {
	return l.segments[len(l.segments)-1].header.number
}

// oldestFree returns the free segment that was used longest ago. Taking always the oldest keeps the numbers of those that still
// look alive on the disk without gaps.
func (l *Log) oldestFree(need int64) *segment {
	for _, s := range l.segments {
		if !s.header.live && s.size-headerBlock >= need {
			return s
		}
	}
	return nil
}

// create makes a free segment and adds it. mu is held, or the log not yet shared.
func (l *Log) create() (*segment, error) {
	slot := l.slots
	l.slots++
	seg, err := l.makeFile(slot)
	if err != nil {
		return nil, err
	}
	l.segments = append(l.segments, seg)
	l.order()
	return seg, nil
}

// makeFile writes a segment full of zeros under a temporary name, syncs it, and gives it its name. An error leaves no file.
func (l *Log) makeFile(slot int) (*segment, error) {
	path := filepath.Join(l.dir, slotName(slot))
	f, err := os.OpenFile(path+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("redo: %w", err)
	}
	seg := &segment{file: f, size: l.opt.SegmentSize, header: header{id: l.id, size: l.opt.SegmentSize}}
	err = fill(f, seg.header)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err == nil {
		err = syncDir(l.dir)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(path + ".tmp")
		if noSpace(err) {
			return nil, fmt.Errorf("%w: new segment: %w", ErrNoSpace, err)
		}
		return nil, fmt.Errorf("redo: new segment: %w", err)
	}
	seg.direct = l.openDirect(path)
	return seg, nil
}

// fill allocates and writes all of the segment, so that later writes change data only.
func fill(f *os.File, h header) error {
	if err := unix.Fallocate(int(f.Fd()), 0, 0, h.size); err != nil && err != unix.EOPNOTSUPP && err != unix.ENOSYS {
		return err
	}
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < h.size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), h.size-off)], off); err != nil {
			return err
		}
	}
	_, err := f.WriteAt(h.encode(), 0)
	return err
}
