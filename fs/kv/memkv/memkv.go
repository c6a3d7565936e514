// Package memkv keeps rows in memory. It is the engine for tests of what stands above kv.Store, and the model that other
// engines are compared with: simple, correct, and as fast as a copy-on-write tree can be. It is not persistent: Sync does
// nothing, and Close drops everything.
//
// The rows are in a copy-on-write B-tree, so a snapshot is a pointer. A transaction writes into a copy of its own and records
// the version of every key that it read; under the lock it is checked that none of them changed, and the writes are repeated
// on the shared tree. There is one lock, and no user function runs under it.
package memkv

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/tidwall/btree"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// row is immutable once it is in a tree.
type row struct {
	value   []byte
	version uint64 // number of the commit that wrote it; 0 in a transaction that has not committed
}

type tree = btree.Map[string, row]

// Store is an in-memory kv.Store.
type Store struct {
	mu     sync.Mutex // guards everything below
	rows   *tree
	commit uint64
	closed bool
	users  sync.WaitGroup // running Views and Updates
}

// New returns an empty store.
func New() *Store {
	return &Store{rows: new(tree)}
}

var _ kv.Store = (*Store)(nil)

// begin returns a private copy of the current state; the caller must call users.Done.
func (s *Store) begin() (*tree, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("memkv: %w", kv.ErrClosed)
	}
	s.users.Add(1)
	return s.rows.Copy(), nil
}

// View implements kv.Store.
func (s *Store) View(fn func(kv.Reader) error) error {
	rows, err := s.begin()
	if err != nil {
		return err
	}
	defer s.users.Done()
	return fn(reader{rows})
}

// Update implements kv.Store.
func (s *Store) Update(fn func(kv.Txn) error) error {
	for {
		err := s.try(fn)
		if !errors.Is(err, kv.ErrConflict) {
			return err
		}
		runtime.Gosched()
	}
}

func (s *Store) try(fn func(kv.Txn) error) error {
	rows, err := s.begin()
	if err != nil {
		return err
	}
	defer s.users.Done()
	tx := &txn{reader: reader{rows}, read: map[string]uint64{}, written: map[string]bool{}}
	if err := fn(tx); err != nil {
		return err
	}
	if tx.tooBig || tx.size > kv.MaxTxnSize {
		return fmt.Errorf("memkv: %w", kv.ErrTooBig)
	}
	return s.apply(tx)
}

func (s *Store) apply(tx *txn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, version := range tx.read {
		if now, _ := s.rows.Get(key); now.version != version {
			return kv.ErrConflict
		}
	}
	s.commit++
	for key := range tx.written {
		if r, ok := tx.rows.Get(key); ok {
			s.rows.Set(key, row{value: r.value, version: s.commit})
		} else {
			s.rows.Delete(key)
		}
	}
	return nil
}

// Sync implements kv.Store. There is nothing to sync.
func (s *Store) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("memkv: %w", kv.ErrClosed)
	}
	return nil
}

// Close implements kv.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("memkv: %w", kv.ErrClosed)
	}
	s.closed = true
	s.mu.Unlock()
	s.users.Wait()
	return nil
}

type reader struct{ rows *tree }

func (r reader) Get(key []byte) ([]byte, error) {
	found, ok := r.rows.Get(string(key))
	if !ok {
		return nil, kv.ErrNotFound
	}
	return append([]byte{}, found.value...), nil
}

func (r reader) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	var err error
	limit := string(end)
	r.rows.Ascend(string(start), func(key string, found row) bool {
		if end != nil && key >= limit {
			return false
		}
		var more bool
		// Copies, so that a caller who writes into what he was lent breaks nothing but his own.
		more, err = fn([]byte(key), append([]byte{}, found.value...))
		return more && err == nil
	})
	return err
}

type txn struct {
	reader
	read    map[string]uint64 // key -> version seen, 0 for no row
	written map[string]bool
	size    int
	tooBig  bool
}

func (t *txn) Get(key []byte) ([]byte, error) {
	if !t.written[string(key)] {
		found, _ := t.rows.Get(string(key))
		t.read[string(key)] = found.version
	}
	return t.reader.Get(key)
}

// Scan walks a copy of the transaction's tree, so that fn may write.
func (t *txn) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return reader{t.rows.Copy()}.Scan(start, end, fn)
}

func (t *txn) Set(key, value []byte) {
	if !t.note(key, value) {
		return
	}
	t.rows.Set(string(key), row{value: append([]byte{}, value...)})
}

func (t *txn) Delete(key []byte) {
	if !t.note(key, nil) {
		return
	}
	t.rows.Delete(string(key))
}

// note records that key is written, and reports whether it may be.
func (t *txn) note(key, value []byte) bool {
	if len(key) == 0 || len(key) > kv.MaxKeySize || len(value) > kv.MaxValueSize {
		t.tooBig = true
		return false
	}
	t.size += len(key) + len(value)
	t.written[string(key)] = true
	return true
}
