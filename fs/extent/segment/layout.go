package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

const (
	headerSize = 4096 // the header block: extents start behind it
	headerLen  = 64   // the part of it that holds the header
	markOff    = 512  // the close mark has a disk sector of its own
	markLen    = 32

	magic     = "KMSFSSEG"
	markMagic = "KMSFSEND"
	version   = 1

	segmentSuffix = ".seg"
	tempSuffix    = ".tmp"
)

// Errors of Open that concern what is in the directory.
var (
	// ErrVersion says that a segment was written by a newer kmsfs.
	ErrVersion = errors.New("segment: unknown format version or flags")
	// ErrForeign says that a segment belongs to another store, or to another
	// place in this one.
	ErrForeign = errors.New("segment: belongs elsewhere")
	// ErrLocked says that another process has the directory open.
	ErrLocked = errors.New("segment: directory is in use")

	errDamaged = errors.New("segment: damaged header")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the first block of a segment file.
type header struct {
	number uint64
	store  [16]byte
	size   int64 // where the segment was meant to end, bytes
}

// encode returns the header block, without a close mark.
func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.BigEndian.PutUint32(b[8:], version)
	binary.BigEndian.PutUint32(b[12:], 0) // flags
	binary.BigEndian.PutUint64(b[16:], h.number)
	copy(b[24:40], h.store[:])
	binary.BigEndian.PutUint64(b[40:], uint64(h.size))
	binary.BigEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

// parseHeader reads what encode wrote. A wrong checksum is errDamaged; a right
// one over a version or flag that this code does not know is ErrVersion.
func parseHeader(b []byte) (header, error) {
	if len(b) < headerLen || string(b[:8]) != magic || crc32.Checksum(b[:60], castagnoli) != binary.BigEndian.Uint32(b[60:]) {
		return header{}, errDamaged
	}
	v, flags := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	if v != version || flags != 0 {
		return header{}, fmt.Errorf("%w: version %d, flags %#x", ErrVersion, v, flags)
	}
	h := header{number: binary.BigEndian.Uint64(b[16:]), size: int64(binary.BigEndian.Uint64(b[40:]))}
	copy(h.store[:], b[24:40])
	for _, c := range b[48:60] {
		if c != 0 {
			return header{}, fmt.Errorf("%w: reserved bytes are set", ErrVersion)
		}
	}
	return h, nil
}

// encodeMark returns the close mark: nothing was appended at or behind end.
func encodeMark(number uint64, end int64) []byte {
	b := make([]byte, markLen)
	copy(b, markMagic)
	binary.BigEndian.PutUint64(b[8:], number)
	binary.BigEndian.PutUint64(b[16:], uint64(end))
	binary.BigEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	return b
}

// parseMark returns the end that a close mark tells, or false if there is no
// mark of this segment.
func parseMark(b []byte, number uint64) (end int64, ok bool) {
	if len(b) < markLen || string(b[:8]) != markMagic ||
		crc32.Checksum(b[:28], castagnoli) != binary.BigEndian.Uint32(b[28:]) ||
		binary.BigEndian.Uint64(b[8:]) != number {
		return 0, false
	}
	e := binary.BigEndian.Uint64(b[16:])
	if e < headerSize || e%headerSize != 0 || e > maxSegmentSize {
		return 0, false
	}
	return int64(e), true
}

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

func tempName(number uint64) string { return fmt.Sprintf("%016x%s", number, tempSuffix) }

// parseName returns the number of a segment file's name.
func parseName(name string) (number uint64, ok bool) {
	digits, found := strings.CutSuffix(name, segmentSuffix)
	if !found {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	if err != nil || n == 0 || segmentName(n) != name {
		return 0, false
	}
	return n, true
}
