package badgerkv

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/dgraph-io/badger/v4"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// Rows in Badger: the key behind one byte, which keeps them apart from our own row and from Badger's reserved prefix, and the
// value behind one byte, because Badger cannot tell an empty value from none.
const (
	rowSpace  = 0x01
	metaSpace = 0x00
	valueMark = 0x01
)

// badgerKey returns the key that the row has in Badger.
func badgerKey(key []byte) []byte {
	b := make([]byte, 0, 1+len(key))
	b = append(b, rowSpace)
	return append(b, key...)
}

// guard turns a panic or a memory fault inside Badger, which a damaged table file can cause, into kv.ErrCorrupt. To be deferred
// around calls of Badger only.
func guard(what string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("badgerkv: %s: badger panicked: %.300s: %w", what, fmt.Sprint(r), kv.ErrCorrupt) // it may print a whole index
	}
}

// badgerGet returns the row's value and version in Badger at the generation's base; kv.ErrNotFound.
func badgerGet(t *badger.Txn, key []byte) (value []byte, seq uint64, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard("get", &err)
	item, err := t.Get(badgerKey(key))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, 0, kv.ErrNotFound
	}
	if err != nil {
		return nil, 0, fmt.Errorf("badgerkv: get %x: %w: %w", key, kv.ErrCorrupt, err)
	}
	// The item is ours alone, so its buffer can be handed out.
	err = item.Value(func(v []byte) error {
		if len(v) == 0 || v[0] != valueMark {
			return fmt.Errorf("badgerkv: get %x: bad value in badger: %w", key, kv.ErrCorrupt)
		}
		value = v[1:len(v):len(v)]
		return nil
	})
	return value, item.Version(), err
}

// reader reads a snapshot.
type reader struct {
	s   *Store
	gen *generation
	seq uint64
}

// lookup returns the row's value, which the caller must not change unless own is set, and its version. A deleted or missing row
// has version 0 and err kv.ErrNotFound.
func (r *reader) lookup(key []byte) (value []byte, own bool, seq uint64, err error) {
	r.s.mu.RLock()
	v := r.gen.active.get(key, r.seq)
	r.s.mu.RUnlock()
	for i := 0; v == nil && i < len(r.gen.frozen); i++ {
		v = r.gen.frozen[i].get(key, r.seq)
	}
	if v == nil {
		value, seq, err = badgerGet(r.gen.badger, key)
		return value, true, seq, err
	}
	if v.deleted {
		return nil, false, 0, kv.ErrNotFound
	}
	return v.value, false, v.seq, nil
}

func (r *reader) Get(key []byte) ([]byte, error) {
	value, own, _, err := r.lookup(key)
	if err != nil || own {
		return value, err
	}
	return append(make([]byte, 0, len(value)), value...), nil
}

func (r *reader) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return r.scan(nil, start, end, fn)
}

// scan merges the sources, newest first: own (may be nil), the overlays, Badger.
func (r *reader) scan(own cursor, start, end []byte, fn func(key, value []byte) (bool, error)) (err error) {
	start, end = bytes.Clone(start), bytes.Clone(end)
	var m merge
	defer m.close()
	if own != nil {
		m.add(own)
	}
	m.add(newOverlayCursor(r.gen.active, &r.s.mu, r.seq, start, end))
	for _, o := range r.gen.frozen {
		m.add(newOverlayCursor(o, nil, r.seq, start, end))
	}
	m.add(newBadgerCursor(r.gen.badger, start, end))
	for {
		key, value, err := m.next()
		if err != nil || key == nil {
			return err
		}
		more, err := fn(key, value)
		if err != nil || !more {
			return err
		}
	}
}

// merge walks several cursors at once; of rows with the same key the first cursor's counts.
type merge struct {
	heads []head
	row   [2][]byte // copies of what next returned last
}

type head struct {
	cursor     cursor
	key, value []byte
	deleted    bool
	stale      bool // key was returned or hidden: move on before comparing
}

func (m *merge) add(c cursor) {
	m.heads = append(m.heads, head{cursor: c, stale: true})
}

func (m *merge) close() {
	for i := range m.heads {
		m.heads[i].cursor.close()
	}
}

// next returns the next row that is not deleted; a nil key at the end. The slices are valid until the next call.
func (m *merge) next() (key, value []byte, err error) {
	for {
		least := -1
		for i := range m.heads {
			h := &m.heads[i]
			if h.stale {
				if h.key, h.value, h.deleted, err = h.cursor.next(); err != nil {
					return nil, nil, err
				}
				h.stale = false
			}
			if h.key != nil && (least < 0 || bytes.Compare(h.key, m.heads[least].key) < 0) {
				least = i
			}
		}
		if least < 0 {
			return nil, nil, nil
		}
		first := &m.heads[least]
		for i := range m.heads {
			if h := &m.heads[i]; h.key != nil && bytes.Equal(h.key, first.key) {
				h.stale = true
			}
		}
		if first.deleted {
			continue
		}
		// A caller may write into what he is lent, but rows of an overlay are shared.
		m.row[0] = append(m.row[0][:0], first.key...)
		m.row[1] = append(m.row[1][:0], first.value...)
		return m.row[0], m.row[1], nil
	}
}

// badgerCursor walks Badger's rows.
type badgerCursor struct {
	txn        *badger.Txn
	it         *badger.Iterator
	start, end []byte
	value      []byte
	begun      bool
}

func newBadgerCursor(t *badger.Txn, start, end []byte) *badgerCursor {
	return &badgerCursor{txn: t, start: start, end: end}
}

func (c *badgerCursor) next() (key, value []byte, deleted bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard("scan", &err)
	if !c.begun {
		c.begun = true
		c.it = c.txn.NewIterator(badger.IteratorOptions{Prefix: c.prefix()})
		c.it.Seek(badgerKey(c.start))
	} else if c.it.Valid() {
		c.it.Next()
	}
	if !c.it.Valid() {
		return nil, nil, false, nil
	}
	item := c.it.Item()
	key = item.Key()[1:]
	if c.end != nil && bytes.Compare(key, c.end) >= 0 {
		return nil, nil, false, nil
	}
	if c.value, err = item.ValueCopy(c.value[:0]); err != nil {
		return nil, nil, false, fmt.Errorf("badgerkv: scan at %x: %w: %w", key, kv.ErrCorrupt, err)
	}
	if len(c.value) == 0 || c.value[0] != valueMark {
		return nil, nil, false, fmt.Errorf("badgerkv: scan at %x: bad value in badger: %w", key, kv.ErrCorrupt)
	}
	return key, c.value[1:], false, nil
}

// prefix returns what all keys of the range have in common, so that Badger opens only the tables that may have them.
func (c *badgerCursor) prefix() []byte {
	if c.end != nil && bytes.Equal(kv.PrefixEnd(c.start), c.end) {
		return badgerKey(c.start)
	}
	n := 0
	for n < len(c.start) && n < len(c.end) && c.start[n] == c.end[n] {
		n++
	}
	return badgerKey(c.start[:n])
}

func (c *badgerCursor) close() {
	if c.it != nil {
		c.it.Close()
	}
}
