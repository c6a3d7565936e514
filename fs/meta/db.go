package meta

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
)

// DB is the typed view of the rows in a (sealed) key-value store. It holds no state but its keys and what it knows of the index of files by
// key, whose gate (uses.go) is its only lock: each Update holds it for reading. Whatever changes the rows of a volume has to go through one DB.
type DB struct {
	store kv.Store
	names *hasher // 63-bit name hashes, hashes of attribute names and key ARNs
	sets  *hasher // fingerprints of row sets
	// nameHash is hash of a name; tests weaken it to make collisions.
	nameHash func(name string) uint64

	uses useIndex
	arns [16]atomic.Pointer[hashedARN] // by the ARN's last byte: hashes that were asked for, of which there are few
}

// hashedARN is an ARN and its hash.
type hashedARN struct {
	arn  string
	hash [32]byte
}

// NewDB returns the rows of store; key is the volume's own secret, from which the hash keys are derived.
func NewDB(store kv.Store, key *crypto.DataKey) *DB {
	nk, sk := key.Derive(nil, "kmsfs name hash v1"), key.Derive(nil, "kmsfs row set v1")
	defer nk.Wipe()
	defer sk.Wipe()
	d := &DB{store: store, names: newHasher(nk), sets: newHasher(sk)}
	d.nameHash = func(name string) uint64 {
		s := d.names.sum([]byte{'n'}, []byte(name))
		return max(u64(s[:8])>>1, firstCookie)
	}
	return d
}

// View calls fn with a consistent snapshot.
func (d *DB) View(fn func(*Reader) error) error {
	return d.store.View(func(r kv.Reader) error { return fn(&Reader{db: d, r: r}) })
}

// Update calls fn, perhaps more than once, and commits what it wrote.
func (d *DB) Update(fn func(*Tx) error) error { return d.update(d.store.Update, fn) }

// UpdateDeferred is Update for who calls Sync next and says nothing to anybody before: see kv.Deferrer.
func (d *DB) UpdateDeferred(fn func(*Tx) error) error {
	return d.update(func(fn func(kv.Txn) error) error { return kv.UpdateDeferred(d.store, fn) }, fn)
}

func (d *DB) update(commit func(func(kv.Txn) error) error, fn func(*Tx) error) error {
	d.uses.gate.RLock()
	defer d.uses.gate.RUnlock()
	var tx *Tx
	err := commit(func(t kv.Txn) error {
		tx = &Tx{Reader: Reader{db: d, r: t}, t: t}
		return fn(tx)
	})
	if err == nil {
		d.uses.learn(tx.uses)
	}
	return err
}

// Sync makes everything committed before durable.
func (d *DB) Sync() error { return d.store.Sync() }

// Reader reads rows.
type Reader struct {
	db *DB
	r  kv.Reader
}

// Tx reads and writes rows.
type Tx struct {
	Reader
	t     kv.Txn
	row   []byte       // reused from row to row: Set keeps nothing
	uses  []KeyUse     // index rows that it writes
	names []NameChange // entries that it makes and removes
}

func (r *Reader) get(key []byte) ([]byte, error) {
	v, err := r.r.Get(key)
	if errors.Is(err, kv.ErrNotFound) {
		return nil, ErrNotFound
	}
	return v, err
}

// Super reads the volume's row.
func (r *Reader) Super() (Super, error) {
	v, err := r.get(superKey())
	if err != nil {
		return Super{}, err
	}
	return decodeSuper(v)
}

// PutSuper writes the volume's row.
func (t *Tx) PutSuper(s Super) { t.t.Set(superKey(), encodeSuper(s)) }

// makesSpace deletes a row that is not there: on a full disk the store takes a small transaction for that reason alone.
func (t *Tx) makesSpace() { t.t.Delete(touchedKey(0, 0)) }

// PutSuperFreeing is PutSuper, also on a full disk: without it the volume does not open, and nobody can remove anything.
func (t *Tx) PutSuperFreeing(s Super) {
	t.PutSuper(s)
	t.makesSpace()
}

// Inode reads an inode row.
func (r *Reader) Inode(ino Ino) (*Inode, error) {
	v, err := r.get(inodeKey(ino))
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	return decodeInode(ino, v)
}

// Inodes calls fn for the inode rows with numbers in [first, end), in their order.
func (r *Reader) Inodes(first, end Ino, fn func(*Inode)) error {
	return r.r.Scan(inodeKey(first), inodeKey(end), func(k, v []byte) (bool, error) {
		n, err := decodeInode(Ino(u64(k[1:9])), v)
		if err != nil {
			return false, fmt.Errorf("inode %d: %w", u64(k[1:9]), err)
		}
		fn(n)
		return true, nil
	})
}

// PutInode writes an inode row, and that of the index of files by key which it needs.
func (t *Tx) PutInode(n *Inode) {
	if t.row == nil {
		t.row = make([]byte, 0, 768)
	}
	t.row = appendInode(t.row[:0], n)
	t.t.Set(inodeKey(n.Ino), t.row)
	t.needUse(n)
}

// Bury removes an inode row and leaves a tombstone for the sweeper if the inode has rows, or if it is in use and may get some.
// epoch is the current epoch: the extents may be freed when it is closed.
func (t *Tx) Bury(n *Inode, epoch uint64, inUse bool) {
	t.t.Delete(inodeKey(n.Ino))
	if n.Type == Regular && (n.Rows.Count != 0 || inUse) || n.Xattrs.Count != 0 {
		e := newEnc(16)
		e.u(epoch)
		t.t.Set(tombKey(n.Ino), e.b)
	}
}

// Unbury takes the tombstone away again, for an inode that was made without a name and gets one. Its row is written by the caller.
func (t *Tx) Unbury(n *Inode) { t.t.Delete(tombKey(n.Ino)) }

// Touch records that an inode got extents in an epoch, or was made shorter, and the least size that it had in the epoch until then.
func (t *Tx) Touch(epoch uint64, ino Ino, size uint64) error {
	k := touchedKey(epoch, ino)
	v, err := t.get(k)
	switch {
	case err == nil:
		d := newDec(v)
		size = min(size, d.u())
		if err := d.end("touched inode"); err != nil {
			return err
		}
	case !errors.Is(err, ErrNotFound):
		return err
	}
	t.TouchNew(epoch, ino, size)
	return nil
}

// TouchNew is Touch for an inode that was not recorded in the epoch before.
func (t *Tx) TouchNew(epoch uint64, ino Ino, size uint64) {
	e := newEnc(12)
	e.u(size)
	t.t.Set(touchedKey(epoch, ino), e.b)
}

// Touched calls fn for the inodes that got extents in epochs from first on.
func (r *Reader) Touched(first uint64, fn func(epoch uint64, ino Ino, size uint64) error) error {
	return r.r.Scan(key1(kindTouched, first), []byte{kindTouched + 1}, func(k, v []byte) (bool, error) {
		d := newDec(v)
		size := d.u()
		err := d.end("touched inode")
		if err == nil {
			err = fn(u64(k[1:9]), Ino(u64(k[9:17])), size)
		}
		return err == nil, err
	})
}

// PutReplaced remembers a piece that a flush of the given epoch covered.
func (t *Tx) PutReplaced(epoch, seq uint64, r Replaced) {
	t.t.Set(replacedKey(epoch, r.Ino, seq), encodeReplaced(r))
}

// Replacements calls fn for what was remembered in [first, end) of the epochs, in order of epoch, inode and sequence.
func (r *Reader) Replacements(first, end uint64, fn func(epoch, seq uint64, x Replaced) (more bool, err error)) error {
	return r.r.Scan(key1(kindReplaced, first), key1(kindReplaced, end), func(k, v []byte) (bool, error) {
		x, err := decodeReplaced(Ino(u64(k[9:17])), v)
		if err != nil {
			return false, err
		}
		return fn(u64(k[1:9]), u64(k[17:25]), x)
	})
}

func (d *DB) arnHash(arn string) [32]byte {
	last := 0
	if arn != "" {
		last = int(arn[len(arn)-1])
	}
	slot := &d.arns[last%len(d.arns)]
	if h := slot.Load(); h != nil && h.arn == arn {
		return h.hash
	}
	h := &hashedARN{arn: arn, hash: d.names.sum([]byte{'k'}, []byte(arn))}
	slot.Store(h)
	return h.hash
}
