package audit

import (
	"errors"
	"fmt"
	"slices"
)

// Head is the end of the log at some moment: the sequence of the last record and the chain after it. Kept somewhere else
// (and authenticated there), it makes a later removal of the log's end visible.
type Head struct {
	Sequence uint64
	Chain    [32]byte
}

// Report is what Verify found.
type Report struct {
	Files   int
	Records uint64 // whose place in the chain is right
	First   uint64 // sequence of the oldest record that is kept; 1 unless old files were removed as the settings say
	Head    Head   // the end of the log
	Torn    []Torn // ends of files that a crash left; harmless, and listed so that they can be compared with known crashes
	Breaks  []Break
}

// OK says that nothing was changed.
func (r Report) OK() bool { return len(r.Breaks) == 0 }

// Verify reads the whole log and checks every link of the chain, from the oldest file that is kept. Each anchor, and those given to
// Open, must be in the log. The error is ErrBroken (wrapped) if anything is not as it was written; the report then says where. What
// cannot be seen without an anchor: that the newest records were cut off while no process had the log open.
func (l *Log) Verify(anchors ...Head) (Report, error) {
	l.kept.RLock()
	defer l.kept.RUnlock()
	end, err := l.drain()
	if err != nil {
		return Report{}, err
	}
	rep, err := l.reader.verify(end, append(slices.Clone(l.anchors), anchors...))
	if err != nil {
		return rep, err
	}
	if rep.Head.Sequence != end.seq || rep.Head.Chain != [32]byte(end.chain) {
		rep.Breaks = append(rep.Breaks, Break{
			File: fileName(end.file), Offset: end.offset, First: rep.Head.Sequence + 1, Last: end.seq,
			What: "the end of the log is missing",
		})
	}
	return rep, rep.err()
}

// Contains checks that the log still holds the record that head names: nil, ErrBroken, or an error of reading. It reads
// only the files from that record on. Of a record that was removed because of its age nothing can be said: nil.
func (l *Log) Contains(head Head) error {
	l.kept.RLock()
	defer l.kept.RUnlock()
	if head.Sequence == 0 {
		return nil
	}
	end, err := l.drain()
	if err != nil {
		return err
	}
	if begin, err := l.reader.beginning(); err != nil || head.Sequence < begin.first {
		return err
	}
	start, err := l.reader.startFor(head.Sequence)
	if err != nil {
		return err
	}
	found := false
	w := walk{r: l.reader, pos: start, end: end, seen: func(seq uint64, chain mac) {
		found = found || seq == head.Sequence && [32]byte(chain) == head.Chain
	}}
	if err := w.run(); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: record %d is not the one that was anchored", ErrBroken, head.Sequence)
	}
	return nil
}

func (r Report) err() error {
	if r.OK() {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrBroken, r.Breaks[0])
}

// verify walks everything up to end.
func (r *reader) verify(end position, anchors []Head) (Report, error) {
	var rep Report
	files, err := r.indexes()
	if err != nil {
		return rep, err
	}
	rep.Files = len(files)
	begin, err := r.beginning()
	if err != nil && !errors.Is(err, ErrBroken) {
		return rep, err
	}
	rep.First = max(begin.first, 1)
	missing := make(map[uint64]Head, len(anchors))
	for _, a := range anchors {
		if a.Sequence >= rep.First {
			missing[a.Sequence] = a
		}
	}
	w := walk{
		r:   r,
		end: end,
		seen: func(seq uint64, chain mac) {
			rep.Records++
			if a, ok := missing[seq]; ok && a.Chain == [32]byte(chain) {
				delete(missing, seq)
			}
		},
		broken: func(b Break) error { rep.Breaks = append(rep.Breaks, b); return nil },
		torn:   func(t Torn, _ bool) { rep.Torn = append(rep.Torn, t) },
	}
	if err := w.run(); err != nil {
		return rep, err
	}
	rep.Head = Head{Sequence: w.pos.seq, Chain: w.pos.chain}
	for _, a := range missing {
		if slices.ContainsFunc(rep.Breaks, func(b Break) bool { return b.First <= a.Sequence && a.Sequence <= b.Last }) {
			continue // it is among those that are missing
		}
		rep.Breaks = append(rep.Breaks, Break{
			File: fileName(w.pos.file), Offset: w.pos.offset, First: a.Sequence, Last: a.Sequence,
			What: "an anchored record is not in the log as it was anchored",
		})
	}
	return rep, nil
}

// startFor is a place at or before the record with a sequence: the start of the last file that begins no later.
func (r *reader) startFor(seq uint64) (position, error) {
	files, err := r.indexes()
	if err != nil {
		return position{}, err
	}
	for i := len(files) - 1; i > 0; i-- {
		h, err := r.readHeader(files[i])
		if errors.Is(err, ErrVersion) {
			return position{}, fmt.Errorf("audit: %s: %w", fileName(files[i]), err)
		}
		if err == nil && h.index == files[i] && h.first <= seq {
			return position{file: files[i], offset: headerSize, seq: h.first - 1, chain: h.chain}, nil
		}
	}
	return position{}, nil
}
