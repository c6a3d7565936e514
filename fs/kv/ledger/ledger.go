// Package ledger keeps documents (identities, policies, keys, grants) under one versioned, authenticated root row.
//
// The store below is a sealed one: a single row can be neither read nor forged nor moved. What sealing alone cannot notice is
// a row that was removed, or replaced by an older version of itself. For the rows that decide who may read what, that would be
// enough to bring back a revoked grant. So the root row holds the number of documents and a keyed, incremental hash over all
// of them; it changes in the same transaction as they do, and everything is verified when the ledger is opened. FORMAT.md
// describes the rows.
//
// A ledger is small and read often: all documents are in memory. Reads take a lock for the length of a map lookup; updates are
// serialised, atomic, and durable against power loss before they return.
//
// What it is not: it cannot notice that the whole store was replaced by an older copy of itself, root row included. Version is
// there for whoever keeps a number outside of the store to compare. And the absence of every row, the root row's too, is a new
// ledger: its version is 0.
//
// # Lock order
//
//	Ledger.updating  held by Update from its begin to its end, over the caller's function and the store's Update and Sync
//	  Ledger.mu      held for the time of a lookup or of replacing the state
package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/tidwall/btree"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
)

// document is immutable once it is in a tree.
type document struct {
	version uint64 // the ledger's version that wrote it
	doc     []byte
}

// tree maps kind and id, one after the other, to the document.
type tree = btree.Map[string, document]

// state is what the rows say: the root, and all documents.
type state struct {
	root root
	docs *tree
}

// Ledger is a set of documents, each known by its kind and id. Safe for concurrent use.
type Ledger struct {
	store kv.Store
	codec codec

	updating sync.Mutex // one Update at a time
	unsure   bool       // guarded by updating: the state could not be read again after an error

	mu  sync.Mutex // guards now
	now state
}

// Open reads and verifies the ledger in store, which must seal its rows; key is not kept, and may be any key that is the same
// at every Open: the keys for row ids and sums are derived from it. The ledger owns the rows whose key begins with 'L'.
// kv.ErrCorrupt if a document was removed, added, replaced by an older version or does not decode.
func Open(store kv.Store, key *crypto.DataKey) (*Ledger, error) {
	l := &Ledger{store: store, codec: newCodec(key)}
	now, err := l.load()
	if err != nil {
		return nil, err
	}
	l.now = now
	return l, nil
}

// Get returns a copy of the document, and whether there is one.
func (l *Ledger) Get(kind byte, id string) ([]byte, bool) {
	d, ok := l.snapshot().docs.Get(treeKey(kind, id))
	if !ok {
		return nil, false
	}
	return bytes.Clone(d.doc), true
}

// Each calls fn for the documents of a kind in the order of their ids, as they are when Each begins, until fn returns an
// error, which Each returns. fn may call the ledger's methods; it must not change doc or keep it.
func (l *Ledger) Each(kind byte, fn func(id string, doc []byte) error) error {
	return each(l.snapshot().docs, kind, fn)
}

// Version returns the number of the last update, 0 for a new ledger.
func (l *Ledger) Version() uint64 {
	return l.snapshot().root.version
}

// snapshot returns the current state with a private copy of the tree.
func (l *Ledger) snapshot() state {
	l.mu.Lock()
	defer l.mu.Unlock()
	return state{l.now.root, l.now.docs.Copy()}
}

func (l *Ledger) publish(s state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = s
}

// Update runs fn once, and if it returns nil applies its writes atomically. When Update returns nil they are visible and
// durable against power loss. If fn returns an error nothing is applied and Update returns that error. After kv.ErrNoSpace and
// kv.ErrTooBig nothing is applied either; after another error of the store it is unknown whether the writes are there, and
// what is then visible is what the store holds. fn must not call Update.
func (l *Ledger) Update(fn func(tx *Tx) error) error {
	l.updating.Lock()
	defer l.updating.Unlock()
	if l.unsure {
		if err := l.reload(); err != nil {
			return fmt.Errorf("ledger: after an earlier failure: %w", err)
		}
	}
	before := l.snapshot()
	tx := &Tx{docs: before.docs.Copy(), changed: map[string]bool{}}
	if err := fn(tx); err != nil {
		return err
	}
	if tx.tooBig {
		return fmt.Errorf("ledger: id of a document: %w", kv.ErrTooBig)
	}
	after, rows := l.codec.apply(before, tx)
	if len(rows) == 0 {
		return nil
	}
	if err := l.write(before.root, after.root, rows); err != nil {
		if !errors.Is(err, kv.ErrNoSpace) && !errors.Is(err, kv.ErrTooBig) {
			if again := l.reload(); again != nil {
				l.unsure = true
			}
		}
		return fmt.Errorf("ledger: update to version %d: %w", after.root.version, err)
	}
	l.publish(after)
	return nil
}

// reload replaces the state by what the store holds.
func (l *Ledger) reload() error {
	now, err := l.load()
	if err != nil {
		return err
	}
	l.publish(now)
	l.unsure = false
	return nil
}

// write commits rows and the new root, provided that the root in the store is the old one.
func (l *Ledger) write(before, after root, rows map[string][]byte) error {
	err := l.store.Update(func(t kv.Txn) error {
		found, err := readRoot(t)
		if err != nil {
			return err
		}
		if found != before {
			return fmt.Errorf("root row is at version %d, not %d: %w", found.version, before.version, kv.ErrCorrupt)
		}
		for key, row := range rows {
			if row == nil {
				t.Delete([]byte(key))
			} else {
				t.Set([]byte(key), row)
			}
		}
		t.Set(rootKey, after.encode())
		return nil
	})
	if err != nil {
		return err
	}
	return l.store.Sync()
}

// Tx is an update under way. It is used by one goroutine, and only inside the function that was given to Update.
type Tx struct {
	docs    *tree
	changed map[string]bool // by treeKey
	tooBig  bool
}

// Get returns a copy of the document as this update leaves it so far, and whether there is one.
func (tx *Tx) Get(kind byte, id string) ([]byte, bool) {
	d, ok := tx.docs.Get(treeKey(kind, id))
	if !ok {
		return nil, false
	}
	return bytes.Clone(d.doc), true
}

// Each is Ledger.Each over what this update leaves so far; fn may Put and Delete.
func (tx *Tx) Each(kind byte, fn func(id string, doc []byte) error) error {
	return each(tx.docs.Copy(), kind, fn)
}

// Put adds or replaces a document, copying doc. An id of more than 1024 bytes, or a document that does not fit into a row, makes
// Update return kv.ErrTooBig. Kind 0 is reserved: it panics.
func (tx *Tx) Put(kind byte, id string, doc []byte) {
	k := treeKey(kind, id)
	if len(id) > maxID {
		tx.tooBig = true
		return
	}
	tx.docs.Set(k, document{doc: append([]byte{}, doc...)})
	tx.changed[k] = true
}

// Delete removes a document, if it is there.
func (tx *Tx) Delete(kind byte, id string) {
	k := treeKey(kind, id)
	tx.docs.Delete(k)
	tx.changed[k] = true
}

func treeKey(kind byte, id string) string {
	if kind == 0 {
		panic("ledger: kind 0 is the root row's")
	}
	return string([]byte{kind}) + id
}

func each(docs *tree, kind byte, fn func(id string, doc []byte) error) error {
	var err error
	docs.Ascend(string([]byte{kind}), func(k string, d document) bool {
		if k[0] != kind {
			return false
		}
		err = fn(k[1:], d.doc)
		return err == nil
	})
	return err
}
