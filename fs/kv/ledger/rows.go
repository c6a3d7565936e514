package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
)

const (
	prefix     = 'L'
	format     = 1  // first byte of every row's value
	hashSize   = 16 // of a row key
	rowHeader  = 1 + 8 + 2
	rootLength = 1 + 8 + 8 + 32
	maxID      = 1 << 10

	idInfo  = "kmsfs fs/kv/ledger ids v1"
	sumInfo = "kmsfs fs/kv/ledger sums v1"
)

// rootKey cannot be a document's: kind 0 is refused.
var rootKey = []byte{prefix, 0}

// sum is an additive hash of a set: the sum of the documents' keyed hashes modulo 2^256, as four little-endian words. Nobody
// without the key can compute a term, and the sum itself is only stored sealed, so no other set with the same sum can be found.
type sum [4]uint64

func (s *sum) add(t sum) {
	var c uint64
	for i := range s {
		s[i], c = bits.Add64(s[i], t[i], c)
	}
}

func (s *sum) subtract(t sum) {
	var b uint64
	for i := range s {
		s[i], b = bits.Sub64(s[i], t[i], b)
	}
}

// root is the root row. Version 0 means that there is none.
type root struct {
	version uint64
	count   uint64
	sum     sum
}

func (r root) encode() []byte {
	b := make([]byte, 0, rootLength)
	b = append(b, format)
	b = binary.BigEndian.AppendUint64(b, r.version)
	b = binary.BigEndian.AppendUint64(b, r.count)
	for _, w := range r.sum {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

func decodeRoot(b []byte) (root, error) {
	var r root
	if len(b) != rootLength {
		return r, fmt.Errorf("ledger: root row has %d bytes: %w", len(b), kv.ErrCorrupt)
	}
	if b[0] != format {
		return r, fmt.Errorf("ledger: root row has unknown format %d: %w", b[0], kv.ErrCorrupt)
	}
	r.version = binary.BigEndian.Uint64(b[1:])
	r.count = binary.BigEndian.Uint64(b[9:])
	for i := range r.sum {
		r.sum[i] = binary.LittleEndian.Uint64(b[17+8*i:])
	}
	if r.version == 0 {
		return r, fmt.Errorf("ledger: root row has version 0: %w", kv.ErrCorrupt)
	}
	return r, nil
}

func readRoot(r kv.Reader) (root, error) {
	b, err := r.Get(rootKey)
	if errors.Is(err, kv.ErrNotFound) {
		return root{}, nil
	}
	if err != nil {
		return root{}, err
	}
	return decodeRoot(b)
}

// row is a document's row, decoded.
type row struct {
	version uint64
	id      string
	doc     []byte
}

func (r row) encode() []byte {
	b := make([]byte, 0, rowHeader+len(r.id)+len(r.doc))
	b = append(b, format)
	b = binary.BigEndian.AppendUint64(b, r.version)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.id)))
	b = append(b, r.id...)
	return append(b, r.doc...)
}

// decodeRow copies what it keeps.
func decodeRow(b []byte) (row, error) {
	if len(b) < rowHeader {
		return row{}, fmt.Errorf("ledger: row has %d bytes: %w", len(b), kv.ErrCorrupt)
	}
	if b[0] != format {
		return row{}, fmt.Errorf("ledger: row has unknown format %d: %w", b[0], kv.ErrCorrupt)
	}
	n := int(binary.BigEndian.Uint16(b[9:]))
	if n > maxID || n > len(b)-rowHeader {
		return row{}, fmt.Errorf("ledger: row has an id of %d bytes: %w", n, kv.ErrCorrupt)
	}
	return row{
		version: binary.BigEndian.Uint64(b[1:]),
		id:      string(b[rowHeader : rowHeader+n]),
		doc:     bytes.Clone(b[rowHeader+n:]),
	}, nil
}

// codec has the keys.
type codec struct {
	ids, sums *crypto.DataKey
}

func newCodec(key *crypto.DataKey) codec {
	return codec{ids: key.Derive(nil, idInfo), sums: key.Derive(nil, sumInfo)}
}

// rowKey is where a document is kept: its id cannot be told from it.
func (c codec) rowKey(kind byte, id string) []byte {
	h := c.ids.MAC([]byte{kind}, []byte(id))
	return append([]byte{prefix, kind}, h[:hashSize]...)
}

// term is what a document adds to the sum: it binds kind and the whole row.
func (c codec) term(kind byte, encoded []byte) sum {
	digest := c.sums.MAC([]byte{kind}, encoded)
	var s sum
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(digest[8*i:])
	}
	return s
}

// apply computes the state after tx, and the rows to write (nil to delete), by row key.
func (c codec) apply(before state, tx *Tx) (state, map[string][]byte) {
	after := state{root: before.root, docs: tx.docs}
	after.root.version++
	rows := map[string][]byte{}
	for k := range tx.changed {
		kind, id := k[0], k[1:]
		old, had := before.docs.Get(k)
		fresh, has := tx.docs.Get(k)
		if !had && !has {
			continue
		}
		if had {
			after.root.sum.subtract(c.term(kind, row{old.version, id, old.doc}.encode()))
			after.root.count--
		}
		key := string(c.rowKey(kind, id))
		rows[key] = nil
		if has {
			fresh.version = after.root.version
			after.docs.Set(k, fresh)
			encoded := row{fresh.version, id, fresh.doc}.encode()
			after.root.sum.add(c.term(kind, encoded))
			after.root.count++
			rows[key] = encoded
		}
	}
	return after, rows
}

// load reads all rows and verifies them against the root row.
func (l *Ledger) load() (state, error) {
	now := state{docs: new(tree)}
	var found root // what the documents add up to
	err := l.store.View(func(r kv.Reader) error {
		var err error
		if now.root, err = readRoot(r); err != nil {
			return err
		}
		start := []byte{prefix}
		return r.Scan(start, kv.PrefixEnd(start), func(key, value []byte) (bool, error) {
			if bytes.Equal(key, rootKey) {
				return true, nil
			}
			decoded, err := decodeRow(value)
			if err != nil {
				return false, err
			}
			kind := byte(0)
			if len(key) > 1 {
				kind = key[1]
			}
			if kind == 0 || !bytes.Equal(key, l.codec.rowKey(kind, decoded.id)) {
				return false, fmt.Errorf("ledger: row %x is not its document's: %w", key, kv.ErrCorrupt)
			}
			found.count++
			found.sum.add(l.codec.term(kind, value))
			now.docs.Set(treeKey(kind, decoded.id), document{decoded.version, decoded.doc})
			return true, nil
		})
	})
	if err != nil {
		return state{}, fmt.Errorf("ledger: identities, policies, keys or grants cannot be read: %w", err)
	}
	if found.count != now.root.count || found.sum != now.root.sum {
		return state{}, fmt.Errorf("ledger: identities, policies, keys or grants are not those of version %d (%d documents, not %d): a row was removed, "+
			"added or replaced: %w", now.root.version, found.count, now.root.count, kv.ErrCorrupt)
	}
	return now, nil
}
