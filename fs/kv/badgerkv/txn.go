package badgerkv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv/redo"
)

// Operations in a record's payload: see FORMAT.md.
const (
	opSet    = 1
	opDelete = 2
)

// op is a write of a transaction: where its key and value are in the record.
type op struct {
	key, value span
	before     int // the write before it whose key has the same hash, or -1; set only when there are many ops
	deleted    bool
}

type span struct{ from, to int }

// txn is a running transaction. Its writes are encoded at once into the record that the redo log will get and the overlay will
// point into.
type txn struct {
	reader
	record  []byte  // room for the record's header, then the payload
	scratch *[]byte // where record came from, nil if it is ours
	ops     []op
	index   map[uint64]int // hash of key -> last op with it, only when there are many ops
	reads   []read
	size    int // keys and values
	sets    int // of them set
	deletes int
	tooBig  bool
}

// read is a key that was read with Get, and the version it had: 0 for no row.
type read struct {
	key []byte
	seq uint64
}

// manyOps is from how many writes on they are found by a map.
const manyOps = 16

var indexSeed = maphash.MakeSeed()

// hashKey is the hash of the index; a test weakens it.
var hashKey = func(key []byte) uint64 { return maphash.Bytes(indexSeed, key) }

func (t *txn) bytes(s span) []byte { return t.record[s.from:s.to:s.to] }

// find returns the index of the last write of key, or -1.
func (t *txn) find(key []byte) int {
	if t.index != nil {
		i, ok := t.index[hashKey(key)]
		for ok && i >= 0 && !bytes.Equal(t.bytes(t.ops[i].key), key) {
			i = t.ops[i].before
		}
		if !ok {
			return -1
		}
		return i
	}
	for i := len(t.ops) - 1; i >= 0; i-- {
		if bytes.Equal(t.bytes(t.ops[i].key), key) {
			return i
		}
	}
	return -1
}

func (t *txn) Get(key []byte) ([]byte, error) {
	if i := t.find(key); i >= 0 {
		if t.ops[i].deleted {
			return nil, kv.ErrNotFound
		}
		return append([]byte{}, t.bytes(t.ops[i].value)...), nil
	}
	value, own, seq, err := t.lookup(key)
	if err != nil && err != kv.ErrNotFound { //nolint:errorlint // lookup returns it unwrapped
		return nil, err
	}
	t.reads = append(t.reads, read{bytes.Clone(key), seq})
	if err != nil || own {
		return value, err
	}
	return append(make([]byte, 0, len(value)), value...), nil
}

func (t *txn) Set(key, value []byte) {
	if len(value) > kv.MaxValueSize || !t.begin(opSet, key) {
		t.tooBig = true
		return
	}
	t.record = binary.AppendUvarint(t.record, uint64(len(value)))
	from := len(t.record)
	t.record = append(t.record, value...)
	t.ops[len(t.ops)-1].value = span{from, len(t.record)}
	t.size += len(value)
	t.sets += len(key) + len(value)
}

func (t *txn) Delete(key []byte) {
	if !t.begin(opDelete, key) {
		t.tooBig = true
		return
	}
	t.ops[len(t.ops)-1].deleted = true
	t.deletes++
}

// scratch keeps the buffers in which records are built. A record that is committed is copied once more, so that the overlay,
// which points into it, holds no spare room.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// largeScratch is above which capacity a buffer is not kept. The largest usual transaction re-keys some hundred files.
const largeScratch = 512 << 10

// begin appends the begin of an operation and its key, if they are within the limits.
func (t *txn) begin(code byte, key []byte) bool {
	if len(key) == 0 || len(key) > kv.MaxKeySize || t.size > kv.MaxTxnSize {
		return false
	}
	if t.record == nil {
		t.scratch = scratch.Get().(*[]byte)
		t.record = append((*t.scratch)[:0], make([]byte, redo.RecordHeader)...)
	}
	t.record = append(t.record, code)
	t.record = binary.AppendUvarint(t.record, uint64(len(key)))
	from := len(t.record)
	t.record = append(t.record, key...)
	t.ops = append(t.ops, op{key: span{from, len(t.record)}})
	t.size += len(key)
	if t.index != nil {
		t.indexed(len(t.ops) - 1)
	} else if len(t.ops) > manyOps {
		t.index = make(map[uint64]int, 4*manyOps)
		for i := range t.ops {
			t.indexed(i)
		}
	}
	return true
}

// indexed puts a write into the index.
func (t *txn) indexed(i int) {
	o := &t.ops[i]
	h := hashKey(t.bytes(o.key))
	o.before = -1
	if last, ok := t.index[h]; ok {
		o.before = last
	}
	t.index[h] = i
}

// own replaces the buffer by one that has the right size and belongs to nobody else.
func (t *txn) own() {
	record := make([]byte, len(t.record), (len(t.record)+7)&^7)
	copy(record, t.record)
	t.release()
	t.record = record
}

// release gives the buffer back; t.record must not be used any more.
func (t *txn) release() {
	if t.scratch == nil {
		return
	}
	if cap(t.record) <= largeScratch {
		*t.scratch = t.record
		scratch.Put(t.scratch)
	}
	t.scratch, t.record = nil, nil
}

func (t *txn) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return t.scan(t.ownRows(start, end), start, end, fn)
}

// ownRows returns a cursor over the writes so far in the range, or nil if there are none.
func (t *txn) ownRows(start, end []byte) cursor {
	var own []int
	for i, o := range t.ops {
		key := t.bytes(o.key)
		if bytes.Compare(key, start) < 0 || end != nil && bytes.Compare(key, end) >= 0 || t.find(key) != i {
			continue
		}
		own = append(own, i)
	}
	if own == nil {
		return nil
	}
	slices.SortFunc(own, func(a, b int) int { return bytes.Compare(t.bytes(t.ops[a].key), t.bytes(t.ops[b].key)) })
	return &ownCursor{t: t, ops: own}
}

type ownCursor struct {
	t   *txn
	ops []int
}

func (c *ownCursor) next() ([]byte, []byte, bool, error) {
	if len(c.ops) == 0 {
		return nil, nil, false, nil
	}
	o := c.t.ops[c.ops[0]]
	c.ops = c.ops[1:]
	return c.t.bytes(o.key), c.t.bytes(o.value), o.deleted, nil
}

func (c *ownCursor) close() {}

// frees reports whether the transaction makes space: it may use the second reserve.
func (t *txn) frees() bool { return t.deletes > 0 && t.sets <= kv.FreeingSets }

// into puts the writes into an overlay as commit seq.
func (t *txn) into(o *overlay, seq uint64) {
	versions := make([]version, len(t.ops))
	for i, w := range t.ops {
		versions[i] = version{seq: seq, value: t.bytes(w.value), deleted: w.deleted}
		o.put(t.bytes(w.key), &versions[i])
	}
	o.bytes += int64(cap(t.record) + versionCost*len(t.ops))
	o.last = seq
}

// decodePayload is the inverse of what Set and Delete encode. The spans count from the begin of the record, header included.
func decodePayload(payload []byte) (*txn, error) {
	t := &txn{record: make([]byte, redo.RecordHeader+len(payload))}
	copy(t.record[redo.RecordHeader:], payload)
	pos := redo.RecordHeader
	field := func() (span, bool) {
		n, used := binary.Uvarint(t.record[pos:])
		if used <= 0 || n > uint64(len(t.record)-pos-used) {
			return span{}, false
		}
		s := span{pos + used, pos + used + int(n)}
		pos = s.to
		return s, true
	}
	for pos < len(t.record) {
		code := t.record[pos]
		pos++
		var o op
		var ok bool
		if o.key, ok = field(); !ok || o.key.from == o.key.to || o.key.to-o.key.from > kv.MaxKeySize {
			return nil, fmt.Errorf("badgerkv: redo record: bad key: %w", kv.ErrCorrupt)
		}
		switch code {
		case opSet:
			if o.value, ok = field(); !ok || o.value.to-o.value.from > kv.MaxValueSize {
				return nil, fmt.Errorf("badgerkv: redo record: bad value: %w", kv.ErrCorrupt)
			}
		case opDelete:
			o.deleted = true
		default:
			return nil, fmt.Errorf("badgerkv: redo record: unknown operation %d: %w", code, kv.ErrCorrupt)
		}
		t.ops = append(t.ops, o)
	}
	if len(t.ops) == 0 {
		return nil, fmt.Errorf("badgerkv: redo record: empty: %w", kv.ErrCorrupt)
	}
	return t, nil
}
