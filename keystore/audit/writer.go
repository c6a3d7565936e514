package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// chunkSize is how many bytes of records the writer hands to the operating system at once.
const chunkSize = 1 << 20

// writer is what belongs to the writer goroutine (and to Open before it starts).
type writer struct {
	file    File
	began   time.Time // of the first event in file; zero = none yet
	logID   [16]byte
	pos     position // where the next record goes
	buf     []byte
	pending []entry // taken from the queue, not yet written
	dirty   bool    // written since the last sync
	suspect bool    // the last sync failed
	fresh   bool    // the last file must not be continued: a new one comes first
	next    header  // that file's header, without index and label
}

// recover finds the end of the log on disk.
func (l *Log) recover() error {
	w := &l.w
	begin, err := l.reader.beginning()
	if err != nil {
		l.logger.Error("audit log is broken", "where", err) // Verify says so too
	}
	files, err := l.reader.indexes()
	if err != nil {
		return err
	}
	if len(files) == 0 || files[len(files)-1] < begin.index {
		w.logID = begin.logID
		w.pos = begin.position()
		if begin.index == 0 {
			rand.Read(w.logID[:])
			w.pos.chain = l.reader.keys.genesis(w.logID)
		}
		w.fresh = true
		l.missing()
		w.next = header{logID: w.logID, first: w.pos.seq + 1, chain: w.pos.chain}
		return l.beginFile()
	}
	h, err := l.newest(files)
	if err != nil {
		return err
	}
	w.logID = h.logID
	var torn int64
	damaged := false
	walk := walk{
		r:   l.reader,
		pos: position{file: h.index, offset: headerSize, seq: h.first - 1, chain: h.chain},
		broken: func(b Break) error {
			damaged = true
			l.logger.Error("audit log is broken", "where", b.String())
			return nil
		},
		torn: func(t Torn, _ bool) {
			torn = t.Bytes
			l.logger.Warn("audit log was cut by a crash", "file", t.File, "offset", t.Offset, "bytes", t.Bytes)
		},
	}
	if err := walk.run(); err != nil {
		return err
	}
	w.pos = walk.pos
	last := w.pos.file
	f, err := os.OpenFile(filepath.Join(l.reader.dir, fileName(last)), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	w.file = l.wrap(f)
	// What an earlier process wrote may not be durable yet; Head must not name it before it is.
	if err := f.Sync(); err != nil {
		f.Close()
		return fmt.Errorf("audit: sync: %w", err)
	}
	w.pos.offset -= torn // the walk has gone to the end of the file in search of a record
	cut := l.missing()
	w.began, _ = l.reader.began(last) // zero: its age is not known, and it ends by its size
	if damaged || torn > 0 || cut {
		w.fresh = true
		w.next = header{logID: w.logID, first: w.pos.seq + 1, prevLength: w.pos.offset, prevTorn: torn, chain: w.pos.chain}
		return l.beginFile()
	}
	if h.flags&flagPacked == 0 { // an older program's: it shall be able to read it to the end
		w.fresh = true
		w.next = header{logID: w.logID, first: w.pos.seq + 1, prevLength: w.pos.offset, chain: w.pos.chain}
	}
	return nil
}

// newest is the header of the newest file that has a good one. Without any, the key may be the wrong one, and nothing is written.
func (l *Log) newest(files []uint64) (header, error) {
	var first error
	for _, index := range slices.Backward(files) {
		h, err := l.reader.readHeader(index)
		if err == nil && h.index != index {
			err = fmt.Errorf("%w: holds file %d", ErrKey, h.index)
		}
		if err == nil {
			return h, nil
		}
		err = fmt.Errorf("audit: %s: %w", fileName(index), err)
		if errors.Is(err, ErrVersion) {
			return header{}, err
		}
		if first == nil {
			first = err
		}
	}
	return header{}, first
}

// missing compares the end that was found with the anchors. Where an anchor lies behind it, the records between were cut off: the log
// goes on behind the anchor, and the next file's header, which then does not continue where the one before ends, says so for ever.
func (l *Log) missing() bool {
	w := &l.w
	cut := false
	for _, a := range l.anchors {
		if a.Sequence > w.pos.seq && a.Sequence <= maxSequence {
			if !cut {
				l.logger.Error("audit log was cut at its end: records are missing", "first", w.pos.seq+1, "last", a.Sequence)
			}
			w.pos.seq, w.pos.chain, cut = a.Sequence, a.Chain, true
		}
	}
	return cut
}

// beginFile makes the file that w.next describes, complete before it has its name.
func (l *Log) beginFile() error {
	w := &l.w
	h := w.next
	h.index, h.flags = w.pos.file+1, flagPacked
	path := filepath.Join(l.reader.dir, fileName(h.index))
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	_, err = f.WriteAt(h.encode(l.reader.keys), 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err == nil {
		err = syncDir(l.reader.dir)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("audit: begin %s: %w", fileName(h.index), err)
	}
	if w.file != nil {
		w.file.Close() // synced before; nothing is left to lose
	}
	w.file, w.fresh, w.began = l.wrap(f), false, time.Time{}
	w.pos.file, w.pos.offset = h.index, headerSize
	l.mu.Lock()
	l.durable = w.pos
	l.mu.Unlock()
	signal(l.older)
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// run is the writer goroutine.
func (l *Log) run() {
	defer close(l.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	retry := time.Duration(0)
	for closing := false; !closing; {
		if retry == 0 {
			closing = l.await(timer)
		} else {
			closing = l.pause(timer, retry)
		}
		err := l.writePending() // what a failed round left
		flushes := l.take(err == nil)
		if err == nil {
			err = l.writePending()
		}
		if err == nil && l.w.dirty && (closing || wantsSync(flushes)) {
			err = l.sync()
		}
		l.publish(err, flushes)
		switch {
		case err == nil:
			retry = 0
		case retry == 0:
			l.logger.Error("audit log cannot be written", "error", err)
			retry = firstRetry
		default:
			retry = min(2*retry, lastRetry)
		}
	}
	l.finish()
}

// await waits for work, and then a little for more of it unless somebody is waiting. True: the log is being closed.
func (l *Log) await(timer *time.Timer) bool {
	select {
	case <-l.closed:
		return true
	case <-l.wake:
	}
	return l.pause(timer, linger)
}

// pause waits for d, or until somebody waits for the result.
func (l *Log) pause(timer *time.Timer, d time.Duration) bool {
	timer.Reset(d)
	select {
	case <-l.closed:
		return true
	case <-l.urgent:
	case <-timer.C:
	}
	return false
}

// take moves the queue to the writer, and who waits for it. While writing fails the queue stays, so that its bound holds.
func (l *Log) take(healthy bool) []flush {
	l.mu.Lock()
	defer l.mu.Unlock()
	flushes := l.flushes
	l.flushes = nil
	if healthy {
		l.w.pending, l.queue = l.queue, l.w.pending[:0]
		l.room.Broadcast()
	}
	return flushes
}

func wantsSync(flushes []flush) bool {
	for _, f := range flushes {
		if f.sync {
			return true
		}
	}
	return false
}

// writePending writes records until nothing is pending. What it could not write stays pending.
func (l *Log) writePending() error {
	w := &l.w
	for len(w.pending) > 0 {
		if err := l.makeRoom(); err != nil {
			return err
		}
		n, pos := 0, w.pos
		maxFile, awaited := l.settings.Load().MaxFileSize, false
		w.buf = w.buf[:0]
		if w.began.IsZero() {
			w.began = w.pending[0].at
		}
		for n < len(w.pending) && len(w.buf) < chunkSize && w.pos.offset+int64(len(w.buf)) < maxFile {
			awaited = awaited || w.pending[n].done != nil
			pos.seq++
			w.buf, pos.chain = l.reader.keys.seal(w.buf, w.logID, pos.seq, pos.chain, *w.pending[n].line)
			n++
		}
		// Written at its place, so that what a failed attempt left is overwritten by the next.
		if _, err := w.file.WriteAt(w.buf, w.pos.offset); err != nil {
			return fmt.Errorf("audit: write: %w", err)
		}
		pos.offset += int64(len(w.buf))
		w.pos, w.dirty = pos, true
		if awaited {
			if err := l.sync(); err != nil {
				return err
			}
			for _, e := range w.pending[:n] {
				if e.done != nil {
					e.done <- nil
				}
			}
		}
		for i := range n {
			w.pending[i].release()
		}
		rest := copy(w.pending, w.pending[n:])
		clear(w.pending[rest:])
		w.pending = w.pending[:rest]
	}
	return nil
}

// makeRoom begins a new file when the present one is full or must not be continued.
func (l *Log) makeRoom() error {
	w := &l.w
	if !w.fresh {
		s := l.settings.Load()
		old := s.MaxFileAge > 0 && !w.began.IsZero() && l.clock().Sub(w.began) >= s.MaxFileAge
		if w.pos.offset < s.MaxFileSize && !old {
			return nil
		}
		if err := l.sync(); err != nil {
			return err
		}
		w.fresh = true
		w.next = header{logID: w.logID, first: w.pos.seq + 1, prevLength: w.pos.offset, chain: w.pos.chain}
	}
	return l.beginFile()
}

// encode appends an event's line to dst, which is empty. An event that has none, or too long a one, is replaced by what can be said of
// it.
func (l *Log) encode(dst []byte, e *Event) []byte {
	e.complete()
	line, err := e.appendPacked(dst)
	if err == nil && len(line) <= maxLine {
		return line
	}
	reason := "too long to be logged in full"
	if err != nil {
		reason = "could not be encoded"
	}
	l.logger.Error("audit event shortened", "event", e.EventName, "id", e.EventID, "reason", reason)
	short := Event{
		EventVersion: e.EventVersion, UserIdentity: UserIdentity{Type: e.UserIdentity.Type, ARN: cut(e.UserIdentity.ARN)},
		EventTime: e.EventTime, EventSource: cut(e.EventSource), EventName: cut(e.EventName), AWSRegion: cut(e.AWSRegion),
		ErrorCode: cut(e.ErrorCode), ErrorMessage: cut(e.ErrorMessage), RequestID: cut(e.RequestID), EventID: cut(e.EventID),
		ReadOnly: e.ReadOnly, Resources: e.Resources[:min(len(e.Resources), 2)], EventType: cut(e.EventType),
		EventCategory:       cut(e.EventCategory),
		ServiceEventDetails: map[string]any{"x-kmsfs-shortened": reason},
	}
	line, err = short.appendPacked(nil)
	if err != nil || len(line) > maxLine {
		return []byte(`{"eventName":"Unknown"}`)
	}
	return line
}

func cut(s string) string { return s[:min(len(s), 4096)] }

// sync makes what was written durable. After a failed fsync the kernel takes the pages for clean, so what was not synced is
// written once more before the next attempt.
func (l *Log) sync() error {
	w := &l.w
	if w.suspect {
		if err := l.rewrite(); err != nil {
			return err
		}
	}
	if err := w.file.Sync(); err != nil {
		w.suspect = true
		return fmt.Errorf("audit: sync: %w", err)
	}
	w.dirty, w.suspect = false, false
	l.mu.Lock()
	l.durable = w.pos
	l.mu.Unlock()
	return nil
}

// rewrite reads what is not durable and writes it at its place again. A sync precedes every new file, so all of it is in the
// present one.
func (l *Log) rewrite() error {
	w := &l.w
	l.mu.Lock()
	from := l.durable.offset
	l.mu.Unlock()
	b := make([]byte, w.pos.offset-from)
	if _, err := w.file.ReadAt(b, from); err != nil {
		return fmt.Errorf("audit: read back: %w", err)
	}
	if _, err := w.file.WriteAt(b, from); err != nil {
		return fmt.Errorf("audit: write again: %w", err)
	}
	return nil
}

// publish tells what the last round achieved to whoever waits for it.
func (l *Log) publish(err error, flushes []flush) {
	if err != nil {
		// Who waits is told that the event is not durable, and refuses what it was about. The others' events stay.
		l.w.pending = slices.DeleteFunc(l.w.pending, func(e entry) bool {
			if e.done == nil {
				return false
			}
			e.done <- err
			return true
		})
	}
	l.mu.Lock()
	l.failure = err
	if l.written != l.w.pos {
		l.written = l.w.pos
		close(l.progress)
		l.progress = make(chan struct{})
	}
	l.mu.Unlock()
	for _, f := range flushes {
		f.done <- err
	}
}

// finish ends the writer: nobody may be left waiting.
func (l *Log) finish() {
	l.mu.Lock()
	left := append(l.w.pending, l.queue...)
	flushes := l.flushes
	l.queue, l.flushes, l.lost = nil, nil, len(left)
	failure := l.failure
	close(l.progress)
	l.mu.Unlock()
	if failure == nil {
		failure = ErrClosed
	}
	for _, e := range left {
		if e.done != nil {
			e.done <- failure
		}
	}
	for _, f := range flushes {
		f.done <- failure
	}
	if l.w.file != nil {
		if err := l.w.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			l.logger.Error("audit log close", "error", err)
		}
	}
}
