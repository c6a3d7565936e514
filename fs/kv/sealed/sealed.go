// Package sealed puts authenticated encryption between a kv.Store and whoever uses it, so that the engine below, its files and
// its backups see ciphertext only.
//
// Every value is sealed with XAES-256-GCM under one key, with a 192-bit nonce, and with the row's key as associated data:
//
//	version (1 byte, 1) | nonce (24) | ciphertext (as long as the value) | tag (16)
//
// A row that was changed, or moved to another key, or written by another store, is kv.ErrCorrupt when it is read. The error
// names the row's key in hex, never anything of the value. FORMAT.md has the details.
//
// What it is not: row keys are not hidden (their owners put only numbers and keyed hashes into them), the length of a value is
// not hidden, and a row that was deleted or replaced by an older version of itself is not noticed here. Package ledger and the
// extent counters of package meta notice that for the rows where it matters.
package sealed

import (
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
)

// Version is the first byte of every sealed value.
const Version = 1

// Overhead is by how many bytes a sealed value is longer than the value, and the limit for values lower than kv.MaxValueSize.
const Overhead = 1 + nonceSize + tagSize

// keyInfo separates the key of the rows from whatever else is derived from the same key.
const keyInfo = "kmsfs fs/kv/sealed rows v1"

// New returns a store that keeps its rows sealed in inner, under a key derived from key, which is not kept: the caller may wipe
// it. Closing the store closes inner.
func New(inner kv.Store, key *crypto.DataKey) kv.Store {
	rows := key.Derive(nil, keyInfo)
	defer rows.Wipe()
	x, err := newXAES(rows.Expose())
	if err != nil {
		panic("sealed: " + err.Error()) // a DataKey has 32 bytes
	}
	return &store{Store: inner, box: newBox(x)}
}

// store passes Sync through.
type store struct {
	kv.Store
	box  *box
	once sync.Once
}

// Close closes the store beneath, after which no row is opened or sealed, and wipes the keys.
func (s *store) Close() error {
	err := s.Store.Close()
	s.once.Do(s.box.wipe)
	return err
}

func (s *store) View(fn func(kv.Reader) error) error {
	return s.Store.View(func(r kv.Reader) error {
		return fn(&reader{inner: r, box: s.box})
	})
}

func (s *store) Update(fn func(kv.Txn) error) error { return s.Store.Update(s.sealing(fn)) }

// UpdateDeferred implements kv.Deferrer, as far as the store beneath does.
func (s *store) UpdateDeferred(fn func(kv.Txn) error) error {
	return kv.UpdateDeferred(s.Store, s.sealing(fn))
}

func (s *store) sealing(fn func(kv.Txn) error) func(kv.Txn) error {
	return func(t kv.Txn) error {
		room := sealedRoom.Get().(*[]byte)
		own := &txn{reader: reader{inner: t, box: s.box}, inner: t, sealed: *room}
		defer func() {
			*room = own.sealed
			sealedRoom.Put(room)
		}()
		return fn(own)
	}
}

// sealedRoom keeps the buffers in which transactions seal their values; the engine takes copies.
var sealedRoom = sync.Pool{New: func() any { return new([]byte) }}

type reader struct {
	inner kv.Reader
	box   *box
}

func (r *reader) Get(key []byte) ([]byte, error) {
	value, err := r.inner.Get(key)
	if err != nil {
		return nil, err
	}
	// The copy is ours, and its ciphertext is decrypted in place.
	return r.box.open(key, value, nil)
}

func (r *reader) Scan(start, end []byte, fn func(key, value []byte) (bool, error)) error {
	return r.ScanDamaged(start, end, func(key, value []byte, damage error) (bool, error) {
		if damage != nil {
			return false, damage
		}
		return fn(key, value)
	})
}

// ScanDamaged implements kv.DamageScanner.
func (r *reader) ScanDamaged(start, end []byte, fn func(key, value []byte, damage error) (bool, error)) error {
	var plain []byte // reused from row to row
	return r.inner.Scan(start, end, func(key, value []byte) (bool, error) {
		out, err := r.box.open(key, value, plain[:0:cap(plain)])
		if err != nil {
			return fn(key, nil, err)
		}
		plain = out
		return fn(key, out, nil)
	})
}

type txn struct {
	reader
	inner  kv.Txn
	sealed []byte // reused from Set to Set
}

func (t *txn) Set(key, value []byte) {
	t.sealed = t.box.seal(t.sealed[:0], key, value)
	t.inner.Set(key, t.sealed)
}

func (t *txn) Delete(key []byte) { t.inner.Delete(key) }

// box seals and opens values. Safe for concurrent use.
type box struct {
	x     *xaes
	turn  atomic.Pointer[turn]
	known [knownKeys]atomic.Pointer[derived] // by a byte of the prefix: rows that were written together are read together
}

// turn is the use of one nonce prefix for the rows that are sealed next: deriving its key costs more than sealing a row. It holds the key.
type turn struct {
	*derived
	left atomic.Int64
}

const (
	prefixRows = 1 << 16 // rows sealed with one prefix: see FORMAT.md, "Limits"
	knownKeys  = 64
)

func newBox(x *xaes) *box {
	b := &box{x: x}
	b.turn.Store(&turn{}) // over before its first row
	return b
}

// sealer returns the key for the next row, and makes the caller one of its holders.
func (b *box) sealer() *derived {
	t := b.turn.Load()
	if t.left.Add(-1) >= 0 && t.aead.Hold() {
		return t.derived
	}
	var prefix [prefixSize]byte
	_, _ = rand.Read(prefix[:]) // never fails: crypto/rand ends the process instead
	d := b.x.derive(prefix)
	next := &turn{derived: d}
	next.left.Store(prefixRows - 1)
	d.aead.Hold() // for the turn
	switch {
	case !b.turn.CompareAndSwap(t, next):
		d.aead.Wipe() // who comes second uses his prefix for one row
	case t.derived != nil:
		t.aead.Wipe()
	}
	return d
}

// opener returns the key of a nonce, and makes the caller one of its holders.
func (b *box) opener(nonce []byte) *derived {
	prefix := [prefixSize]byte(nonce)
	slot := &b.known[prefix[0]%knownKeys]
	if d := slot.Load(); d != nil && d.prefix == prefix && d.aead.Hold() {
		return d
	}
	d := b.x.derive(prefix)
	d.aead.Hold() // for the slot
	if old := slot.Swap(d); old != nil {
		old.aead.Wipe()
	}
	return d
}

// wipe lets all keys go. Nothing is sealed or opened any more.
func (b *box) wipe() {
	if t := b.turn.Swap(&turn{}); t.derived != nil {
		t.aead.Wipe()
	}
	for i := range b.known {
		if d := b.known[i].Swap(nil); d != nil {
			d.aead.Wipe()
		}
	}
	b.x.wipe()
}

// seal appends the sealed value to dst.
func (b *box) seal(dst, key, value []byte) []byte {
	d := b.sealer()
	defer d.aead.Wipe()
	dst = append(dst, Version)
	dst = append(dst, d.prefix[:]...)
	at := len(dst)
	dst = append(dst, make([]byte, nonceSize-prefixSize)...)
	nonce := dst[at:]
	_, _ = rand.Read(nonce) // never fails: crypto/rand ends the process instead
	return d.aead.Seal(dst, nonce, value, key)
}

// open appends the value to dst; with a nil dst it decrypts in place and returns a part of sealed.
func (b *box) open(key, sealed, dst []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, fmt.Errorf("sealed: row %x is truncated: %w", key, kv.ErrCorrupt)
	}
	if sealed[0] != Version {
		return nil, fmt.Errorf("sealed: row %x has unknown version %d: %w", key, sealed[0], kv.ErrCorrupt)
	}
	nonce, ciphertext := sealed[1:1+nonceSize], sealed[1+nonceSize:]
	if dst == nil {
		dst = ciphertext[:0]
	}
	d := b.opener(nonce)
	defer d.aead.Wipe()
	value, err := d.aead.Open(dst, nonce[prefixSize:], ciphertext, key)
	if err != nil {
		return nil, fmt.Errorf("sealed: row %x is not authentic: %w", key, kv.ErrCorrupt)
	}
	return value, nil
}
