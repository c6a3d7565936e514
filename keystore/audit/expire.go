package audit

import (
	"bufio"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// The file that says where a log begins whose oldest files have been removed (FORMAT.md).
const (
	beginningFile  = "beginning"
	beginningMagic = "KMSFSAB\x00"
	beginningSize  = 112
	beginningLabel = "kmsfs audit beginning"

	expiredEvent = "ExpireAuditLog"
	tendEvery    = time.Hour
)

// A beginning is where the log begins. The zero value is the beginning of a log from which nothing was removed.
type beginning struct {
	logID [16]byte
	index uint64 // of the oldest file that is kept
	first uint64 // sequence of its first record
	chain mac    // before that record
}

// position is where a walk from the beginning starts.
func (b beginning) position() position {
	if b.index == 0 {
		return position{}
	}
	return position{file: b.index - 1, seq: b.first - 1, chain: b.chain}
}

func (b beginning) encode(k *keys) []byte {
	out := append(make([]byte, 0, beginningSize), beginningMagic...)
	out = binary.BigEndian.AppendUint16(out, version)
	out = binary.BigEndian.AppendUint16(out, 0) // feature flags
	out = binary.BigEndian.AppendUint32(out, beginningSize)
	out = append(out, b.logID[:]...)
	out = binary.BigEndian.AppendUint64(out, b.index)
	out = binary.BigEndian.AppendUint64(out, b.first)
	out = append(out, b.chain[:]...)
	m := k.labelledMAC(beginningLabel, out)
	return append(out, m[:]...)
}

// parseBeginning is strict: one byte too many is one too many.
func parseBeginning(k *keys, b []byte) (beginning, error) {
	if len(b) != beginningSize || string(b[:8]) != beginningMagic || binary.BigEndian.Uint32(b[12:]) != beginningSize {
		return beginning{}, fmt.Errorf("%w: the file %q is damaged", ErrBroken, beginningFile)
	}
	if v, flags := binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b[10:]); v != version || flags != 0 {
		return beginning{}, fmt.Errorf("%w: the file %q has version %d, flags %#x", ErrVersion, beginningFile, v, flags)
	}
	want := k.labelledMAC(beginningLabel, b[:beginningSize-macSize])
	if !hmac.Equal(want[:], b[beginningSize-macSize:]) {
		return beginning{}, fmt.Errorf("%w: the file %q does not authenticate", ErrBroken, beginningFile)
	}
	var out beginning
	copy(out.logID[:], b[16:])
	out.index = binary.BigEndian.Uint64(b[32:])
	out.first = binary.BigEndian.Uint64(b[40:])
	copy(out.chain[:], b[48:])
	if out.index < 2 || out.first == 0 || out.first > maxSequence {
		return beginning{}, fmt.Errorf("%w: the file %q is damaged", ErrBroken, beginningFile)
	}
	return out, nil
}

// beginning reads where the log begins. ErrBroken if that was changed; the zero beginning comes with it.
func (r *reader) beginning() (beginning, error) {
	b, err := os.ReadFile(filepath.Join(r.dir, beginningFile))
	if errors.Is(err, os.ErrNotExist) {
		return beginning{}, nil
	}
	if err != nil {
		return beginning{}, fmt.Errorf("audit: %w", err)
	}
	return parseBeginning(r.keys, b)
}

// began is the time of the first event in a file; the zero time if it holds none.
func (r *reader) began(index uint64) (time.Time, error) {
	h, err := r.readHeader(index)
	if err != nil {
		return time.Time{}, err
	}
	f, err := os.Open(filepath.Join(r.dir, fileName(index)))
	if err != nil {
		return time.Time{}, fmt.Errorf("audit: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return time.Time{}, fmt.Errorf("audit: %w", err)
	}
	left := min(st.Size()-headerSize, maxRecord)
	if left <= 0 {
		return time.Time{}, nil
	}
	rec, err := peek(bufio.NewReaderSize(io.NewSectionReader(f, headerSize, left), int(left)), left)
	if errors.Is(err, errShort) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	line, err := r.keys.open(h.logID, rec)
	if err != nil {
		return time.Time{}, err
	}
	e, err := ParseEvent(line)
	return e.EventTime.Time, err
}

// Expired is what Expire removed: records First to Last, in so many files.
type Expired struct {
	Files       int
	First, Last uint64
	Breaks      []Break // that were found in them
}

// Expire removes the oldest files as far as the settings ask for it. Before they go, the place where the log begins from then on is
// written down, authenticated; afterwards an event tells what was removed, and what was wrong with it. The log does so by
// itself, whenever a file begins and every hour. If somebody is reading, it is left for the next time.
func (l *Log) Expire() (Expired, error) {
	if !l.kept.TryLock() {
		return Expired{}, nil
	}
	gone, err := l.expire()
	l.kept.Unlock()
	if err != nil {
		return gone, fmt.Errorf("audit: remove old files: %w", err)
	}
	if gone.Files == 0 {
		return gone, nil
	}
	details := map[string]any{"firstRecord": gone.First, "lastRecord": gone.Last, "files": gone.Files}
	if len(gone.Breaks) > 0 {
		words := make([]string, 0, len(gone.Breaks))
		for _, b := range gone.Breaks[:min(len(gone.Breaks), 100)] {
			words = append(words, b.String())
		}
		details["breaks"] = words
	}
	l.logger.Info("audit log: old files removed", "files", gone.Files, "first", gone.First, "last", gone.Last)
	err = l.Append(&Event{
		UserIdentity: UserIdentity{Type: "AWSService", InvokedBy: "AWS Internal"}, EventName: expiredEvent, EventSource: "kmsfs.internal",
		SourceIPAddress: "AWS Internal", UserAgent: "AWS Internal", EventType: "AwsServiceEvent", ManagementEvent: true, ServiceEventDetails: details,
	})
	if errors.Is(err, ErrClosed) {
		err = nil // the file "beginning" tells of it, too
	}
	return gone, err
}

// Hold keeps the log from removing files until release is called, so that they can be copied.
func (l *Log) Hold() (release func()) {
	l.kept.RLock()
	return l.kept.RUnlock
}

func (l *Log) expire() (Expired, error) {
	begin, err := l.reader.beginning()
	if err != nil {
		return Expired{}, err
	}
	all, err := l.reader.indexes()
	if err != nil {
		return Expired{}, err
	}
	l.mu.Lock()
	newest := l.durable.file
	l.mu.Unlock()
	var files []uint64
	for _, index := range all {
		switch {
		case index < begin.index: // what a crash left of the last time
			if err := l.remove(index); err != nil {
				return Expired{}, err
			}
		case index <= newest:
			files = append(files, index)
		}
	}
	n, err := l.surplus(files)
	if n == 0 || err != nil {
		return Expired{}, err
	}
	h, err := l.reader.readHeader(files[n])
	if err != nil || h.index != files[n] || h.first == 0 {
		return Expired{}, errors.Join(err, fmt.Errorf("%w: %s cannot become the first file", ErrBroken, fileName(files[n])))
	}
	gone := Expired{Files: n, First: max(begin.first, 1), Last: h.first - 1}
	w := walk{r: l.reader, end: position{file: files[n], offset: headerSize}, broken: func(b Break) error {
		gone.Breaks = append(gone.Breaks, b)
		return nil
	}}
	if err := w.run(); err != nil {
		return Expired{}, err
	}
	begin = beginning{logID: h.logID, index: h.index, first: h.first, chain: h.chain}
	if err := writeFile(l.reader.dir, beginningFile, begin.encode(l.reader.keys)); err != nil {
		return Expired{}, err
	}
	for _, index := range files[:n] {
		if err := l.remove(index); err != nil {
			return gone, err
		}
	}
	return gone, nil
}

// surplus is how many of the files, oldest first, are not to be kept. The newest always is.
func (l *Log) surplus(files []uint64) (int, error) {
	s := l.settings.Load()
	if s.KeepSize == 0 && s.KeepAge == 0 || len(files) < 2 {
		return 0, nil
	}
	total, sizes := int64(0), make([]int64, len(files))
	for i, index := range files {
		st, err := os.Stat(filepath.Join(l.reader.dir, fileName(index)))
		if err != nil {
			return 0, err
		}
		sizes[i] = st.Size()
		total += sizes[i]
	}
	n := 0
	for ; n < len(files)-1; n++ {
		if s.KeepSize > 0 && total > s.KeepSize {
			total -= sizes[n]
			continue
		}
		if s.KeepAge == 0 {
			break
		}
		// All events of a file are older than the first of the next.
		next, err := l.reader.began(files[n+1])
		if err != nil {
			return 0, err
		}
		if next.IsZero() || l.clock().Sub(next) < s.KeepAge {
			break
		}
	}
	return n, nil
}

func (l *Log) remove(index uint64) error {
	return os.Remove(filepath.Join(l.reader.dir, fileName(index)))
}

// writeFile makes or replaces a file; it is whole and durable when it has its name.
func writeFile(dir, name string, content []byte) error {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(dir)
}

// tend removes what has grown too old to be kept.
func (l *Log) tend() {
	defer close(l.tended)
	timer := time.NewTicker(tendEvery)
	defer timer.Stop()
	for {
		select {
		case <-l.closed:
			return
		case <-l.older:
		case <-timer.C:
		}
		if _, err := l.Expire(); err != nil {
			l.logger.Error("audit log: old files could not be removed", "error", err)
		}
	}
}
