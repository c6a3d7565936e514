package meta

import (
	"errors"
	"fmt"
)

// firstCookie is the smallest readdir cookie of a real entry: 1 and 2 belong to "." and "..".
const firstCookie = 3

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
