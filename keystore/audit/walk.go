package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const fileSuffix = ".audit"

func fileName(index uint64) string { return fmt.Sprintf("%016d%s", index, fileSuffix) }

// reader reads the files of one log. It holds no state of its own and may be used by many at once.
type reader struct {
	dir  string
	keys *keys
}

// position is a place in the log: the next byte to read, and what the chain is there.
type position struct {
	file   uint64 // index; 0 = before the first file
	offset int64  // 0 = the file's header comes next
	seq    uint64 // of the last record before this place
	chain  mac    // after that record
}

// Break is one place where the log is not what was written.
type Break struct {
	File   string // name of the file in the log's directory
	Offset int64  // bytes from its start
	First  uint64 // sequence of the first record concerned; 0 if none can be named
	Last   uint64 // and of the last; 0 = unknown
	What   string // in words
}

func (b Break) String() string {
	switch {
	case b.First == 0:
		return fmt.Sprintf("%s at byte %d: %s", b.File, b.Offset, b.What)
	case b.Last == b.First:
		return fmt.Sprintf("%s at byte %d, record %d: %s", b.File, b.Offset, b.First, b.What)
	case b.Last == 0:
		return fmt.Sprintf("%s at byte %d, record %d and later: %s", b.File, b.Offset, b.First, b.What)
	}
	return fmt.Sprintf("%s at byte %d, records %d to %d: %s", b.File, b.Offset, b.First, b.Last, b.What)
}

// Torn is the end of a file that a crash left incomplete. Nothing that was acknowledged as durable is in it.
type Torn struct {
	File   string
	Offset int64
	Bytes  int64
}

// indexes lists the log's files in order.
func (r *reader) indexes() ([]uint64, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("audit: list %w", err)
	}
	var out []uint64
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), fileSuffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || n == 0 || fileName(n) != e.Name() {
			continue
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// readHeader reads one file's header.
func (r *reader) readHeader(index uint64) (header, error) {
	f, err := os.Open(filepath.Join(r.dir, fileName(index)))
	if err != nil {
		return header{}, fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	b := make([]byte, headerSize)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return header{}, fmt.Errorf("audit: read %s: %w", fileName(index), err)
	}
	return parseHeader(r.keys, b[:n])
}

// walk reads records from a place to another and tells what it finds. It goes on behind damage as far as there is
// anything that authenticates. An error is an error of reading, or one of the visitor's.
type walk struct {
	r      *reader
	pos    position
	end    position                            // reading stops at (file, offset); file 0 = at the end of the last file
	record func(rec record, line []byte) error // nil = chain only; line is the opened event
	seen   func(seq uint64, chain mac)         // every record whose place in the chain is right
	broken func(Break) error                   // nil = ignore
	torn   func(t Torn, lastFile bool)         // nil = ignore
	logID  [16]byte                            //
	haveID bool                                //
	alt    *mac                                // a second candidate for the chain behind a damaged record
}

func (w *walk) run() error {
	begin, err := w.r.beginning()
	switch {
	case errors.Is(err, ErrBroken):
		if err := w.report(Break{File: beginningFile, What: "changed or damaged: it does not say any more where the log begins"}); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if w.pos.file == 0 && begin.index > 0 {
		w.pos, w.logID, w.haveID = begin.position(), begin.logID, true
	}
	files, err := w.r.indexes()
	if err != nil {
		return err
	}
	for i, index := range files {
		if index < w.pos.file || index < begin.index || (w.end.file != 0 && index > w.end.file) {
			continue
		}
		next := uint64(0)
		if i+1 < len(files) {
			next = files[i+1]
		}
		if err := w.file(index, next); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) report(b Break) error {
	if w.broken == nil {
		return nil
	}
	return w.broken(b)
}

// limit is the number of bytes of a file that count: as its successor's header says, or all.
func (w *walk) limit(index, next uint64, size int64) (limit int64, last bool) {
	if w.end.file == index {
		return min(size, w.end.offset), false
	}
	if next == 0 {
		return size, true
	}
	h, err := w.r.readHeader(next)
	if err != nil || next != index+1 || h.index != next || (w.haveID && h.logID != w.logID) {
		return size, false
	}
	if h.prevTorn > 0 && w.torn != nil {
		w.torn(Torn{File: fileName(index), Offset: h.prevLength, Bytes: h.prevTorn}, false)
	}
	return h.prevLength, false
}

func (w *walk) file(index, next uint64) error {
	name := fileName(index)
	f, err := os.Open(filepath.Join(w.r.dir, name))
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	limit, last := w.limit(index, next, st.Size())
	if limit > st.Size() {
		if err := w.report(Break{File: name, Offset: st.Size(), What: fmt.Sprintf("cut short: %d bytes are missing", limit-st.Size())}); err != nil {
			return err
		}
		limit = st.Size()
	}
	if index != w.pos.file || w.pos.offset == 0 {
		if err := w.enter(index, name); err != nil {
			return err
		}
	}
	if w.pos.offset > limit {
		return w.report(Break{File: name, Offset: limit, First: w.pos.seq, What: "cut short"})
	}
	if !w.haveID {
		h, err := w.r.readHeader(index)
		if err != nil {
			return fmt.Errorf("audit: %s: %w", name, err)
		}
		w.logID, w.haveID = h.logID, true
	}
	if _, err := f.Seek(w.pos.offset, io.SeekStart); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return w.records(bufio.NewReaderSize(f, int(min(maxRecord, limit))), name, limit, last)
}

// enter checks a file's header against the place the walk has reached.
func (w *walk) enter(index uint64, name string) error {
	h, err := w.r.readHeader(index)
	start := w.pos.file == 0 // nothing was read before
	expected := w.pos.file + 1
	w.pos.file, w.pos.offset = index, headerSize
	switch {
	case errors.Is(err, ErrVersion):
		return fmt.Errorf("audit: %s: %w", name, err)
	case err != nil:
		// The chain does not run through headers, so the records can still be followed.
		return w.report(Break{File: name, What: "the file header is damaged"})
	}
	var b *Break
	switch {
	case h.index != index || (w.haveID && h.logID != w.logID):
		b = &Break{File: name, What: fmt.Sprintf("holds file %d", h.index)}
		if h.logID != w.logID {
			b.What = "holds a file of another log"
		}
	case index != expected:
		b = &Break{File: name, What: fmt.Sprintf("files %d to %d before it are missing", expected, index-1)}
	case start && h.chain != w.r.keys.genesis(h.logID):
		b = &Break{File: name, What: "does not begin at the log's beginning"}
	case !start && (h.first != w.pos.seq+1 || h.chain != w.pos.chain):
		b = &Break{File: name, What: "does not continue where the file before it ends"}
		if h.first > w.pos.seq+1 {
			b.What = "missing: this file begins behind them"
		}
	}
	if b != nil && h.first > w.pos.seq+1 {
		b.First, b.Last = w.pos.seq+1, h.first-1
	}
	w.logID, w.haveID = h.logID, true
	w.pos.seq, w.pos.chain, w.alt = h.first-1, h.chain, nil
	if b == nil {
		return nil
	}
	return w.report(*b)
}

// records reads one file's records from the walk's place up to limit.
func (w *walk) records(br *bufio.Reader, name string, limit int64, last bool) error {
	for w.pos.offset < limit {
		rec, err := peek(br, limit-w.pos.offset)
		if err != nil && !errors.Is(err, errShort) && !errors.Is(err, errFormat) {
			return fmt.Errorf("audit: read %s: %w", name, err)
		}
		if err == nil {
			fits, err := w.accept(name, rec)
			if err != nil {
				return err
			}
			if fits {
				if _, err := br.Discard(int(rec.size())); err != nil {
					return fmt.Errorf("audit: read %s: %w", name, err)
				}
				w.pos.offset += rec.size()
				continue
			}
		}
		if err := w.resync(br, name, limit, last); err != nil {
			return err
		}
	}
	return nil
}

// peek parses the record at the reader's place, which has `left` bytes that count.
func peek(br *bufio.Reader, left int64) (record, error) {
	b, err := br.Peek(int(min(recordPrefix, left)))
	if err != nil && !errors.Is(err, io.EOF) {
		return record{}, err
	}
	n, err := recordSize(b)
	if err != nil {
		return record{}, err
	}
	if int64(n) > left {
		return record{}, errShort
	}
	b, err = br.Peek(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return record{}, err
	}
	return parseRecord(b)
}

// accept judges a well-formed record: false if it does not authenticate at all, so that the walk must look for the next.
func (w *walk) accept(name string, rec record) (bool, error) {
	expected := w.pos.seq + 1
	chain := w.r.keys.link(w.pos.chain, rec.signed)
	fits := rec.seq == expected && chain == rec.chain
	if !fits && rec.seq == expected && w.alt != nil {
		fits = w.r.keys.link(*w.alt, rec.signed) == rec.chain
	}
	var line []byte
	if !fits || w.record != nil {
		var err error
		if line, err = w.r.keys.open(w.logID, rec); err != nil {
			return false, nil //nolint:nilerr // damaged: the walk says so when it knows how far
		}
	}
	w.alt = nil
	b := Break{File: name, Offset: w.pos.offset, First: rec.seq, Last: rec.seq}
	switch {
	case fits:
		w.pos.seq, w.pos.chain = rec.seq, rec.chain
		if w.seen != nil {
			w.seen(rec.seq, rec.chain)
		}
	case rec.seq < expected:
		b.What = "out of order, or there twice"
	case rec.seq > expected:
		b.First, b.Last, b.What = expected, rec.seq-1, "missing here"
		w.pos.seq, w.pos.chain = rec.seq, rec.chain
	default:
		b.What = "the chain does not fit"
		w.pos.seq, w.pos.chain, w.alt = rec.seq, rec.chain, &chain
	}
	if !fits {
		if err := w.report(b); err != nil {
			return false, err
		}
	}
	if w.record != nil {
		return true, w.record(rec, line)
	}
	return true, nil
}

// resync looks behind damage for the next record that authenticates.
func (w *walk) resync(br *bufio.Reader, name string, limit int64, last bool) error {
	from, expected := w.pos.offset, w.pos.seq+1
	var before mac // the 32 bytes before the place: the chain of the damaged record, if that is whole
	for w.pos.offset < limit {
		c, err := br.ReadByte()
		if err != nil {
			return fmt.Errorf("audit: read %s: %w", name, err)
		}
		copy(before[:], before[1:])
		before[macSize-1] = c
		w.pos.offset++
		rec, err := peek(br, limit-w.pos.offset)
		if errors.Is(err, errShort) || errors.Is(err, errFormat) {
			continue
		}
		if err != nil {
			return fmt.Errorf("audit: read %s: %w", name, err)
		}
		if rec.seq < expected {
			continue
		}
		if _, err := w.r.keys.open(w.logID, rec); err != nil {
			continue
		}
		b := Break{File: name, Offset: from, First: expected, Last: rec.seq - 1, What: "changed or damaged"}
		if rec.seq == expected {
			b.First, b.Last, b.What = rec.seq, rec.seq, fmt.Sprintf("%d foreign bytes before it", w.pos.offset-from)
		} else {
			w.pos.seq, w.pos.chain = rec.seq-1, before
		}
		// If the chain fits neither the bytes before the record nor the last good link, accept reports that as well.
		return w.report(b)
	}
	if last {
		if w.torn != nil {
			w.torn(Torn{File: name, Offset: from, Bytes: limit - from}, true)
		}
		return nil
	}
	return w.report(Break{File: name, Offset: from, First: expected, What: "changed or damaged up to the end of the file"})
}
