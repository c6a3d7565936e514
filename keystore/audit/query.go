package audit

import (
	"context"
	"strings"
	"time"
)

// Filter chooses events. The zero value chooses all.
type Filter struct {
	Key       string    // a key's ARN, id or alias: matches the resources and the request's key fields
	Principal string    // ARN, name or unique id of who asked
	Name      string    // of the event, e.g. Decrypt
	Denied    bool      // only what failed
	Since     time.Time // inclusive; zero = no bound
	Until     time.Time // exclusive; zero = no bound
	After     uint64    // only sequences greater than this
	Last      int       // only the last n of what matches; 0 = all
}

// Match says whether the filter chooses an event; Last is not looked at.
func (f *Filter) Match(e *Event) bool {
	switch {
	case e.Sequence <= f.After:
		return false
	case f.Denied && e.ErrorCode == "":
		return false
	case f.Name != "" && !strings.EqualFold(f.Name, e.EventName):
		return false
	case !f.Since.IsZero() && e.EventTime.Before(f.Since):
		return false
	case !f.Until.IsZero() && !e.EventTime.Before(f.Until):
		return false
	case f.Principal != "" && !f.matchPrincipal(&e.UserIdentity):
		return false
	case f.Key != "" && !f.matchKey(e):
		return false
	}
	return true
}

func (f *Filter) matchPrincipal(u *UserIdentity) bool {
	return f.Principal == u.ARN || f.Principal == u.UserName || f.Principal == u.PrincipalID ||
		strings.HasSuffix(u.ARN, ":"+f.Principal) // user/alice
}

func (f *Filter) matchKey(e *Event) bool {
	for _, r := range e.Resources {
		if r.ARN == f.Key || strings.HasSuffix(r.ARN, "/"+f.Key) {
			return true
		}
	}
	p := e.RequestParameters
	return p != nil && (p.KeyID == f.Key || p.SourceKeyID == f.Key || p.DestinationKeyID == f.Key || p.TargetKeyID == f.Key ||
		p.AliasName == f.Key)
}

// Query calls fn with the chosen events, oldest first, up to what was appended before the call. An error of fn ends it and is
// returned. Where the log is broken, Query goes on with what authenticates and returns ErrBroken at the end.
func (l *Log) Query(filter Filter, fn func(Event) error) error {
	l.kept.RLock()
	defer l.kept.RUnlock()
	end, err := l.drain()
	if err != nil {
		return err
	}
	start := position{}
	if filter.After > 0 {
		if start, err = l.reader.startFor(filter.After + 1); err != nil {
			return err
		}
	}
	var ring []Event // the last filter.Last events; next is the oldest once it is full
	next := 0
	var rep Report
	w := walk{
		r: l.reader, pos: start, end: end,
		broken: func(b Break) error { rep.Breaks = append(rep.Breaks, b); return nil },
		record: func(rec record, line []byte) error {
			e, ok, err := decode(rec, line, &filter)
			switch {
			case err != nil || !ok:
				return err
			case filter.Last <= 0:
				return fn(e)
			case len(ring) < filter.Last:
				ring = append(ring, e)
			default:
				ring[next] = e
				next = (next + 1) % len(ring)
			}
			return nil
		},
	}
	if err := w.run(); err != nil {
		return err
	}
	for i := range ring {
		if err := fn(ring[(next+i)%len(ring)]); err != nil {
			return err
		}
	}
	return rep.err()
}

func decode(rec record, line []byte, filter *Filter) (Event, bool, error) {
	e, err := ParseEvent(line)
	if err != nil {
		return Event{}, false, err
	}
	e.Sequence = rec.seq
	return e, filter.Match(&e), nil
}

// Follow calls fn with every event appended from now on, until the context ends (its error is returned), fn fails, or the log
// is closed (ErrClosed).
func (l *Log) Follow(ctx context.Context, fn func(Event) error) error {
	end, err := l.drain()
	if err != nil {
		return err
	}
	return l.follow(ctx, end, Filter{}, fn)
}

// FollowAfter is Follow from an event on: it begins with the first chosen event behind filter.After, so that what Query gave is
// continued without a gap. Last is not looked at.
func (l *Log) FollowAfter(ctx context.Context, filter Filter, fn func(Event) error) error {
	l.kept.RLock()
	start, err := l.reader.startFor(filter.After + 1)
	l.kept.RUnlock()
	if err != nil {
		return err
	}
	return l.follow(ctx, start, filter, fn)
}

func (l *Log) follow(ctx context.Context, from position, filter Filter, fn func(Event) error) error {
	w := walk{r: l.reader, pos: from}
	w.record = func(rec record, line []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, ok, err := decode(rec, line, &filter)
		if err != nil || !ok {
			return err
		}
		return fn(e)
	}
	for {
		l.mu.Lock()
		end, progress := l.written, l.progress
		l.mu.Unlock()
		if end.seq > w.pos.seq {
			w.end = end
			l.kept.RLock()
			err := w.run()
			l.kept.RUnlock()
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-progress:
		case <-l.ended:
			return ErrClosed
		}
	}
}
