package fs

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// ErrOpen says that a file is open, or has writes that are not sealed yet.
var ErrOpen = errors.New("open")

// Rekey replaces a file's sealing, if it still is from. to.Keys holds the same generations as from.Keys, rewrapped, and one more that
// seals what is written from now on: fresh is its plaintext. A nil fresh adds no generation. If the file is empty, to.Keys may be
// the one new generation alone. The generation numbers in to.Keys behind from's are set here. No data is touched.
func (v *Volume) Rekey(ino Ino, from, to Sealing, fresh *crypto.DataKey) error {
	return v.withRoom(func() error { return v.rekey(ino, from, to, fresh) })
}

func (v *Volume) rekey(ino Ino, from, to Sealing, fresh *crypto.DataKey) error {
	return v.with(ino, func(n *inode) error {
		n.flushMu.Lock()
		defer n.flushMu.Unlock()
		if err := v.bear(n); err != nil {
			return err
		}
		if fresh != nil {
			// What was written before is sealed under the key that was current then.
			if err := v.flushLocked(n, flushOptions{}); err != nil {
				return err
			}
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		return v.rekeyLocked(n, from, to, fresh)
	})
}

func (v *Volume) rekeyLocked(n *inode, from, to Sealing, fresh *crypto.DataKey) error {
	if err := n.mayRekey(from); err != nil {
		return err
	}
	err := v.commit("re-key", []*inode{n}, func(_ *meta.Tx, rows []*meta.Inode) error {
		return v.reseal(rows[0], from, to, fresh != nil)
	})
	if err == nil && fresh != nil && n.data != nil {
		n.data.addKey(n.row.Sealing.Current(), fresh)
	}
	return err
}

// mayRekey looks whether a re-key that rests on a sealing still fits; n.mu is held.
func (n *inode) mayRekey(from Sealing) error {
	switch {
	case n.gone:
		return ErrNotFound
	case n.row.Type != Regular:
		return ErrInvalid
	case !n.row.Sealing.Same(from):
		return ErrStale
	}
	return nil
}

// reseal changes a row's sealing.
func (v *Volume) reseal(row *meta.Inode, from, to Sealing, fresh bool) error {
	to.Keys = slices.Clone(to.Keys)
	if fresh {
		if len(to.Keys) == 0 || len(to.Keys) != len(from.Keys)+1 && (len(to.Keys) != 1 || row.Rows.Count != 0) {
			return fmt.Errorf("%w: a new generation is added to all that the file has", ErrInvalid)
		}
		to.Keys[len(to.Keys)-1].Generation = row.NextKey
		row.NextKey++
	} else if len(to.Keys) != len(from.Keys) {
		return fmt.Errorf("%w: a re-key keeps the generations", ErrInvalid)
	}
	for i := range len(to.Keys) - 1 {
		if to.Keys[i].Generation != from.Keys[i].Generation {
			return fmt.Errorf("%w: a re-key keeps the generations", ErrInvalid)
		}
	}
	row.Sealing = to
	row.Ctime = v.now()
	return nil
}

// KeyChange is what RekeyClosed does to one file: as Rekey with a fresh key whose plaintext nobody needs now.
type KeyChange struct {
	Ino      Ino
	From, To Sealing
}

// RekeyClosed re-keys many files in one transaction. The answer has one error for each: nil; ErrOpen for a file that is open or has
// unsealed writes, which is Rekey's business; or what Rekey would say. No file may be there twice.
func (v *Volume) RekeyClosed(changes []KeyChange) []error {
	errs := make([]error, len(changes))
	inos := make([]Ino, len(changes))
	order := make([]int, len(changes))
	for i, c := range changes {
		inos[i], order[i] = c.Ino, i
	}
	slices.SortFunc(order, func(a, b int) int { return int(int64(inos[a]) - int64(inos[b])) })
	ns := v.getMany(inos, errs)
	defer func() {
		for _, n := range ns {
			if n != nil {
				v.put(n)
			}
		}
	}()
	v.ns.Lock() // who holds it may lock more than one inode
	defer v.ns.Unlock()
	var inodes []*inode
	var which []int
	for _, i := range order {
		n := ns[i]
		if n == nil {
			continue
		}
		if errs[i] = v.bearLocked(n); errs[i] != nil {
			continue
		}
		n.mu.Lock()
		errs[i] = n.mayRekey(changes[i].From)
		if errs[i] == nil && n.data != nil {
			errs[i] = ErrOpen
		}
		if errs[i] != nil {
			n.mu.Unlock()
			continue
		}
		inodes, which = append(inodes, n), append(which, i)
	}
	defer func() {
		for _, n := range inodes {
			n.mu.Unlock()
		}
	}()
	if len(inodes) == 0 {
		return errs
	}
	err := v.commit("re-key", inodes, func(_ *meta.Tx, rows []*meta.Inode) error {
		for j, row := range rows {
			c := &changes[which[j]]
			if err := v.reseal(row, c.From, c.To, true); err != nil {
				return err
			}
		}
		return nil
	})
	for _, i := range which {
		errs[i] = err
	}
	return errs
}

// getMany is get for many inodes, whose rows are read in one go. Where it fails, the inode is nil and errs has the reason.
func (v *Volume) getMany(inos []Ino, errs []error) []*inode {
	out := make([]*inode, len(inos))
	var missing []int
	for i, ino := range inos {
		if out[i] = v.cache.pin(ino); out[i] == nil {
			missing = append(missing, i)
		}
	}
	if len(missing) > 0 {
		v.readMany(inos, missing, out, errs)
	}
	for i, n := range out {
		if n == nil {
			continue
		}
		n.mu.RLock()
		gone := n.gone
		n.mu.RUnlock()
		if gone {
			v.cache.drop(n)
			v.cache.unpin(n)
			out[i], errs[i] = v.get(inos[i])
		}
	}
	return out
}

// readMany reads rows into the cache. It takes the loading locks in order, of which everybody else takes one.
func (v *Volume) readMany(inos []Ino, which []int, out []*inode, errs []error) {
	c := &v.cache
	var need [len(c.loading)]bool
	for _, i := range which {
		need[inos[i]%Ino(len(need))] = true
	}
	for i, n := range need {
		if n {
			c.loading[i].Lock()
			defer c.loading[i].Unlock()
		}
	}
	err := v.db.View(func(r *meta.Reader) error {
		for _, i := range which {
			if out[i] = c.pin(inos[i]); out[i] != nil {
				continue
			}
			row, err := r.Inode(inos[i])
			if err != nil {
				errs[i] = v.fault("read inode", err)
				continue
			}
			out[i] = c.insert(row)
		}
		return nil
	})
	if err == nil {
		return
	}
	for _, i := range which {
		if out[i] == nil && errs[i] == nil {
			errs[i] = v.fault("read inode", err)
		}
	}
}

// KeyFiles calls fn for every file with a name whose data keys are wrapped by the KMS key, until it returns false. fn may change the
// files.
func (v *Volume) KeyFiles(keyARN string, fn func(Ino) bool) error {
	if err := v.bearAll(); err != nil {
		return err
	}
	var batch []Ino
	for first := Ino(0); ; first = batch[len(batch)-1] + 1 {
		batch = batch[:0]
		err := v.db.View(func(r *meta.Reader) error {
			return r.KeyUses(keyARN, first, func(ino Ino) bool {
				batch = append(batch, ino)
				return len(batch) < 1024
			})
		})
		if err != nil {
			return v.fault("list files of key", err)
		}
		for _, ino := range batch {
			if !fn(ino) {
				return nil
			}
		}
		if len(batch) < 1024 {
			return nil
		}
	}
}

// Nameless lists the files under a KMS key that have no name any more, or none yet, and are still in use.
func (v *Volume) Nameless(keyARN string) []Ino {
	v.zombies.mu.Lock()
	all := make([]*inode, 0, len(v.zombies.n))
	for _, n := range v.zombies.n {
		all = append(all, n)
	}
	v.zombies.mu.Unlock()
	var out []Ino
	for _, n := range all {
		n.mu.RLock()
		if !n.gone && n.row.Type == Regular && n.row.Nlink == 0 && n.row.Sealing.Method == SSEKMS && n.row.Sealing.KeyARN == keyARN {
			out = append(out, n.ino)
		}
		n.mu.RUnlock()
	}
	slices.Sort(out)
	return out
}

// Encryption is what EachEncryption tells of an inode.
type Encryption struct {
	Ino     Ino
	Type    FileType
	KeyARN  string  // of a file under a KMS key
	Default string  // of a directory: as user.s3.sse writes it
	Bucket  *Bucket // of a bucket
}

// EachEncryption reads every inode's row, not the index of keys, and calls fn for each until it returns false. The state is that of
// one moment. If it comes to the end, the index of one key forgets on the way where files under it were once and are not now.
func (v *Volume) EachEncryption(keyARN string, fn func(Encryption) bool) error {
	if err := v.bearAll(); err != nil {
		return err
	}
	stop := errors.New("stop")
	arn := "" // the last file's: as a rule it is the next one's, too
	err := v.db.EachUseSweeping(keyARN, func(u meta.Use, err error) error {
		if err != nil {
			return err
		}
		e := Encryption{Ino: u.Ino, Type: u.Type, Default: u.Default, Bucket: u.Bucket}
		if u.Type == Regular && u.Method == SSEKMS {
			if string(u.KeyARN) != arn {
				arn = string(u.KeyARN)
			}
			e.KeyARN = arn
		}
		if !fn(e) {
			return stop
		}
		return nil
	})
	if errors.Is(err, stop) {
		return nil
	}
	return v.fault("read every inode", err)
}

// Warm reads the rows of many inodes into memory in one go. Where they stand close together it scans them, which costs a fraction of
// looking for each.
func (v *Volume) Warm(inos []Ino) {
	var missing []Ino
	v.cache.mu.Lock()
	for _, ino := range inos {
		if v.cache.table[ino] == nil {
			missing = append(missing, ino)
		}
	}
	v.cache.mu.Unlock()
	if len(missing) >= scanWorth {
		first, end := slices.Min(missing), slices.Max(missing)+1
		if end-first <= min(scanAtMost, Ino(len(missing)*scanDensity), Ino(v.cache.max/2)) {
			for ; first < end; first += scanAtOnce {
				if v.readRange(first, min(end, first+scanAtOnce)) != nil {
					break // a row that cannot be read concerns only who asks for it
				}
			}
		}
	}
	for _, n := range v.getMany(inos, make([]error, len(inos))) {
		if n != nil {
			v.put(n)
		}
	}
}
