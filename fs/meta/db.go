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

// firstCookie is the smallest readdir cookie of a real entry: 1 and 2 belong to "." and "..".
const firstCookie = 3

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

// Dentry finds an entry by name.
func (r *Reader) Dentry(parent Ino, name string) (Dentry, error) {
	d, _, _, err := r.findDentry(parent, name)
	return d, err
}

// Find is Dentry, and says where an absent entry would go, as Free does.
func (r *Reader) Find(parent Ino, name string) (d Dentry, free byte, err error) {
	d, _, tie, err := r.findDentry(parent, name)
	if tie > 255 {
		return d, 0, fmt.Errorf("meta: more than 256 names with one hash")
	}
	return d, byte(tie), err
}

// findDentry walks the entries with the name's hash; free is the first unused tie-break if the name is absent.
func (r *Reader) findDentry(parent Ino, name string) (d Dentry, key []byte, free int, err error) {
	h := r.db.nameHash(name)
	for tie := 0; tie < 256; tie++ {
		key = dentryKey(parent, h, byte(tie))
		v, err := r.get(key)
		if err != nil {
			return Dentry{}, nil, tie, err
		}
		if d, err = decodeDentry(v); err != nil {
			return Dentry{}, nil, tie, err
		}
		if d.Name == name {
			return d, key, tie, nil
		}
	}
	return Dentry{}, nil, 256, ErrNotFound
}

// AddDentry inserts an entry and accounts for it in the directory's row set. ErrExists if there is one of that name.
func (t *Tx) AddDentry(dir *Inode, d Dentry) error {
	free, err := t.Free(dir.Ino, d.Name)
	if err != nil {
		return err
	}
	t.AddDentryAt(dir, d, free)
	return nil
}

// Free says where an entry of that name would go: its tie-break. ErrExists if there is one.
func (r *Reader) Free(parent Ino, name string) (tie byte, err error) {
	_, tie, err = r.Find(parent, name)
	switch {
	case err == nil:
		return 0, ErrExists
	case errors.Is(err, ErrNotFound):
		return tie, nil
	}
	return 0, err
}

// AddDentryAt is AddDentry at a tie-break that Free gave, if the directory has got no entry since.
func (t *Tx) AddDentryAt(dir *Inode, d Dentry, tie byte) {
	t.setDentry(dir, dentryKey(dir.Ino, t.db.nameHash(d.Name), tie), d)
}

func (t *Tx) setDentry(dir *Inode, key []byte, d Dentry) {
	v := encodeDentry(d)
	t.t.Set(key, v)
	dir.Rows.add(t.db.sets.sum(key, v))
	t.nameChanged(dir.Ino, key, d, false)
}

func (t *Tx) dropDentry(dir *Inode, key []byte, d Dentry) {
	t.t.Delete(key)
	dir.Rows.remove(t.db.sets.sum(key, encodeDentry(d)))
	t.nameChanged(dir.Ino, key, d, true)
}

// RemoveDentry removes an entry; the last one with the same hash takes its place, so that tie-breaks have no gaps.
func (t *Tx) RemoveDentry(dir *Inode, name string) error {
	d, key, tie, err := t.findDentry(dir.Ino, name)
	if err != nil {
		return err
	}
	h := t.db.nameHash(name)
	t.dropDentry(dir, key, d)
	var last Dentry
	lastTie := tie
	for next := tie + 1; next < 256; next++ {
		v, err := t.get(dentryKey(dir.Ino, h, byte(next)))
		if errors.Is(err, ErrNotFound) {
			break
		} else if err != nil {
			return err
		}
		if last, err = decodeDentry(v); err != nil {
			return err
		}
		lastTie = next
	}
	if lastTie != tie {
		t.dropDentry(dir, dentryKey(dir.Ino, h, byte(lastTie)), last)
		t.setDentry(dir, key, last)
	}
	return nil
}

// ReplaceDentry points an existing name at another inode.
func (t *Tx) ReplaceDentry(dir *Inode, d Dentry) error {
	old, key, _, err := t.findDentry(dir.Ino, d.Name)
	if err != nil {
		return err
	}
	dir.Rows.remove(t.db.sets.sum(key, encodeDentry(old)))
	t.setDentry(dir, key, d)
	return nil
}

// Entries calls fn for the entries behind the cookie after, in cookie order, until it returns false. A cookie is the name's
// hash: it does not change whatever else is created or removed. (Of several names with one hash only the last carries it,
// so that a listing which stops among them repeats and never skips.) A listing from the start to the end is checked against the
// fingerprint in the directory's row.
func (r *Reader) Entries(dir Ino, after uint64, fn func(d Dentry, cookie uint64) bool) error {
	start := dentryKey(dir, max(after+1, firstCookie), 0)
	end := key1(kindDentry, uint64(dir)+1)
	var group []Dentry
	var hash uint64
	flush := func() bool {
		for i, d := range group {
			c := hash
			if i < len(group)-1 {
				c--
			}
			if !fn(d, c) {
				return false
			}
		}
		return true
	}
	stopped := false
	var set Set
	err := r.r.Scan(start, end, func(k, v []byte) (bool, error) {
		d, err := decodeDentry(v)
		if err != nil {
			return false, err
		}
		if after == 0 {
			set.add(r.db.sets.sum(k, v))
		}
		if h := u64(k[9:17]); h != hash || group == nil {
			if !flush() {
				stopped = true
				return false, nil
			}
			hash, group = h, group[:0]
		}
		group = append(group, d)
		return true, nil
	})
	if err != nil || stopped || !flush() || after != 0 {
		return err
	}
	n, err := r.Inode(dir)
	if errors.Is(err, ErrNotFound) { // removed, but somebody has it open
		return nil
	}
	if err == nil && n.Rows != set {
		err = fmt.Errorf("%w: directory %d has %d entries and its row names %d", ErrCorrupt, dir, set.Count, n.Rows.Count)
	}
	return err
}

// Pieces reads the whole extent map of a file and checks it against the inode's row set. Pieces of one extent share it.
func (r *Reader) Pieces(n *Inode) ([]Piece, error) {
	var out []Piece
	extents := map[ExtentID]*Extent{}
	var set Set
	var end uint64
	if n.Rows.Count == 0 {
		return nil, nil
	}
	if p, ok := r.onlyPiece(n); ok {
		return []Piece{p}, nil
	}
	err := r.r.Scan(key1(kindPiece, uint64(n.Ino)), key1(kindPiece, uint64(n.Ino)+1), func(k, v []byte) (bool, error) {
		p, err := decodePieceRow(u64(k[9:17]), v)
		if err != nil {
			return false, err
		}
		if p.Off < end {
			return false, fmt.Errorf("%w: overlapping pieces of inode %d", ErrCorrupt, n.Ino)
		}
		end = p.End()
		if x, ok := extents[p.Extent.ID]; ok {
			if *x != *p.Extent {
				return false, fmt.Errorf("%w: pieces of inode %d disagree about extent %d", ErrCorrupt, n.Ino, x.ID)
			}
			p.Extent = x
		} else {
			extents[p.Extent.ID] = p.Extent
		}
		set.add(r.db.sets.sum(k, v))
		out = append(out, p)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	if set != n.Rows {
		return nil, fmt.Errorf("%w: the extent map of inode %d is not the one its row names (%d rows, %d expected)", ErrCorrupt, n.Ino, set.Count, n.Rows.Count)
	}
	return out, nil
}

// onlyPiece spares the scan for a file with one piece at its start, which is what most files are.
func (r *Reader) onlyPiece(n *Inode) (p Piece, ok bool) {
	if n.Rows.Count != 1 {
		return p, false
	}
	k := pieceKey(n.Ino, 0)
	v, err := r.get(k)
	if err != nil {
		return p, false
	}
	var set Set
	set.add(r.db.sets.sum(k, v))
	p, err = decodePieceRow(0, v)
	return p, err == nil && set == n.Rows
}

// AddPiece writes a piece row and accounts for it.
func (t *Tx) AddPiece(n *Inode, p Piece) {
	k, v := pieceKey(n.Ino, p.Off), encodePieceRow(p)
	t.t.Set(k, v)
	n.Rows.add(t.db.sets.sum(k, v))
}

// RemovePiece deletes a piece row that holds exactly p and accounts for it.
func (t *Tx) RemovePiece(n *Inode, p Piece) {
	k := pieceKey(n.Ino, p.Off)
	t.t.Delete(k)
	n.Rows.remove(t.db.sets.sum(k, encodePieceRow(p)))
}

// Inline reads the sealed bytes of an inline extent.
func (r *Reader) Inline(ino Ino, id ExtentID) ([]byte, error) {
	v, err := r.get(inlineKey(ino, id))
	if err != nil {
		return nil, fmt.Errorf("inline extent %d of inode %d: %w", id, ino, err)
	}
	return v, nil
}

// PutInline writes the sealed bytes of an inline extent.
func (t *Tx) PutInline(ino Ino, id ExtentID, sealed []byte) { t.t.Set(inlineKey(ino, id), sealed) }

// DeleteInline removes the sealed bytes of an inline extent.
func (t *Tx) DeleteInline(ino Ino, id ExtentID) { t.t.Delete(inlineKey(ino, id)) }

// Xattr reads an extended attribute.
func (r *Reader) Xattr(ino Ino, name string) ([]byte, error) {
	v, err := r.get(r.xattrKey(ino, name))
	if err != nil {
		return nil, err
	}
	got, value, err := decodeXattr(v)
	if err == nil && got != name {
		err = fmt.Errorf("%w: attribute names collide on inode %d", ErrCorrupt, ino)
	}
	return value, err
}

func (r *Reader) xattrKey(ino Ino, name string) []byte {
	return xattrKey(ino, r.db.names.sum([]byte{'x'}, []byte(name)))
}

// Xattrs calls fn for every extended attribute of an inode.
func (r *Reader) Xattrs(ino Ino, fn func(name string, value []byte) error) error {
	return r.r.Scan(key1(kindXattr, uint64(ino)), key1(kindXattr, uint64(ino)+1), func(_, v []byte) (bool, error) {
		name, value, err := decodeXattr(v)
		if err == nil {
			err = fn(name, value)
		}
		return err == nil, err
	})
}

// XattrNames lists the names of an inode's attributes and checks that all are there.
func (r *Reader) XattrNames(ino Ino) (names []string, err error) {
	var set Set
	err = r.r.Scan(key1(kindXattr, uint64(ino)), key1(kindXattr, uint64(ino)+1), func(k, v []byte) (bool, error) {
		name, _, err := decodeXattr(v)
		if err != nil {
			return false, err
		}
		set.add(r.db.sets.sum(k, v))
		names = append(names, name)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	n, err := r.Inode(ino)
	if errors.Is(err, ErrNotFound) {
		return names, nil
	}
	if err == nil && n.Xattrs != set {
		err = fmt.Errorf("%w: inode %d has %d attributes and its row names %d", ErrCorrupt, ino, set.Count, n.Xattrs.Count)
	}
	return names, err
}

// SetXattr writes an extended attribute and accounts for it; it reports whether it was there before.
func (t *Tx) SetXattr(n *Inode, name string, value []byte) (existed bool, err error) {
	existed, err = t.RemoveXattr(n, name)
	if err != nil {
		return false, err
	}
	k, v := t.xattrKey(n.Ino, name), encodeXattr(name, value)
	t.t.Set(k, v)
	n.Xattrs.add(t.db.sets.sum(k, v))
	return existed, nil
}

// RemoveXattr deletes an extended attribute and accounts for it; it reports whether it was there.
func (t *Tx) RemoveXattr(n *Inode, name string) (existed bool, err error) {
	if n.Xattrs.Count == 0 {
		return false, nil
	}
	value, err := t.Xattr(n.Ino, name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	k := t.xattrKey(n.Ino, name)
	t.t.Delete(k)
	n.Xattrs.remove(t.db.sets.sum(k, encodeXattr(name, value)))
	return true, nil
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
