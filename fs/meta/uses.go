package meta

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// The index of files by KMS key is coarse: a row (key, block) says that some of the 256 inodes of that block MAY be files under that key. What
// holds at every moment:
//
//	a committed inode row under a KMS key has the index row of its key and block.
//
// The reverse need not hold. A file that is removed or gets another key touches no index row, so one may stay behind under which nothing is
// found; who looks for the files of a key reads the inode rows of the blocks named. In exchange the index costs one row in 256 files, not
// one for each creation, one for each removal and two for each re-key. Index rows are written blindly, by PutInode, unless it is known
// that they are committed: they cannot make transactions conflict.
//
// # Sweeping
//
// Rows left behind are swept when somebody has looked at every inode anyway, and by package gc. To delete one is to claim that no inode row
// needs it, while commits go on that rely on it. Of those there are two kinds: one that found the row among the known ones and writes an
// inode row without it, and one that writes both. A sweep of one key
//
//  1. takes useIndex.gate alone, which every Update holds for reading from before its function runs until what it wrote is known; makes all
//     rows of the key unknown and begins to note those that are written from now on; and lets go;
//  2. takes a snapshot, lists the key's index rows in it and looks for files in their blocks;
//  3. takes the gate alone again and deletes those rows under which it found nothing and that nobody has written since 1.
//
// An Update that began before 1 had ended by then, so that its inode row is in the snapshot, unless a later one took it away. One that began
// later did not find the row among the known ones unless another had written it after 1; so it was noted either way, and is not deleted.
// During 3 there is no Update. An Update that failed in a way that leaves open whether it was applied (kv.ErrFailed) is the last one
// that the store takes, and a sweep is one as well. A crash leaves all of a transaction or nothing; a row too many is allowed.
//
// # The older index
//
// Volumes of version 1 had one row for each file, 'k' hash:16 ino:8. UpgradeKeyUses writes the rows of today beside those when the
// volume is opened; they are deleted in the background (DropFileUses).

const (
	useBits   = 8  // inodes of a block, as a power of two
	pageBits  = 12 // blocks of a page, likewise
	maxPages  = 4096
	useAtOnce = 64   // blocks that one scan lists before it looks into them
	dropBite  = 1024 // rows that one transaction deletes
)

func useBlock(i Ino) uint64 { return uint64(i) >> useBits }

// blocks is a set of numbers of blocks. Those of one key stand together as a rule.
type blocks map[uint64]*blockPage

type blockPage [1 << pageBits / 64]uint64

func (p *blockPage) at(b uint64) (word *uint64, bit uint64) {
	b &= 1<<pageBits - 1
	return &p[b/64], 1 << (b % 64)
}

func (p *blockPage) has(b uint64) bool {
	if p == nil {
		return false
	}
	word, bit := p.at(b)
	return *word&bit != 0
}

func (s blocks) has(b uint64) bool { return s[b>>pageBits].has(b) }

func (s blocks) add(b uint64) {
	p := s[b>>pageBits]
	if p == nil {
		p = new(blockPage)
		s[b>>pageBits] = p
	}
	word, bit := p.at(b)
	*word |= bit
}

func (s blocks) remove(b uint64) {
	if p := s[b>>pageBits]; p != nil {
		word, bit := p.at(b)
		*word &^= bit
	}
}

// list gives the members in ascending order.
func (s blocks) list() (all []uint64) {
	pages := make([]uint64, 0, len(s))
	for page := range s {
		pages = append(pages, page)
	}
	slices.Sort(pages)
	for _, page := range pages {
		for b := page << pageBits; b < (page+1)<<pageBits; b++ {
			if s[page].has(b) {
				all = append(all, b)
			}
		}
	}
	return all
}

// KeyUse is a row of the index of files by key.
type KeyUse struct {
	Key   KeyHash
	Block uint64 // of 256 inode numbers
}

// KeyUseOf is the row that an inode needs; ok is false for one that is not under a KMS key.
func (d *DB) KeyUseOf(n *Inode) (u KeyUse, ok bool) {
	if n.Sealing.Method != SSEKMS {
		return u, false
	}
	return KeyUse{d.keyHash(n.Sealing.KeyARN), useBlock(n.Ino)}, true
}

func (d *DB) keyHash(arn string) KeyHash {
	h := d.arnHash(arn)
	return KeyHash(h[:16])
}

// useIndex is what a DB knows of the index of files by key.
type useIndex struct {
	gate sync.RWMutex // before mu; see above

	sweeping sync.Mutex // one sweep at a time; before gate

	mu    sync.Mutex // a leaf; guards what follows
	known map[knownPage]*blockPage
	noted *notedUses // of the sweep under way
}

type knownPage struct {
	key  KeyHash
	page uint64
}

type notedUses struct {
	key    KeyHash
	blocks blocks
}

func (x *useIndex) knows(u KeyUse) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.known[knownPage{u.Key, u.Block >> pageBits}].has(u.Block)
}

// learn notes what a transaction has committed. The gate is held.
func (x *useIndex) learn(uses []KeyUse) {
	if len(uses) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, u := range uses {
		at := knownPage{u.Key, u.Block >> pageBits}
		p := x.known[at]
		if p == nil {
			if x.known == nil || len(x.known) >= maxPages {
				x.known = map[knownPage]*blockPage{}
			}
			p = new(blockPage)
			x.known[at] = p
		}
		word, bit := p.at(u.Block)
		*word |= bit
		if x.noted != nil && x.noted.key == u.Key {
			x.noted.blocks.add(u.Block)
		}
	}
}

// begin is step 1 of a sweep.
func (x *useIndex) begin(key KeyHash) {
	x.gate.Lock()
	defer x.gate.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	for at := range x.known {
		if at.key == key {
			delete(x.known, at)
		}
	}
	x.noted = &notedUses{key, blocks{}}
}

func (x *useIndex) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.noted = nil
}

// unnoted leaves of some blocks those that nobody has written since the sweep began.
func (x *useIndex) unnoted(some []uint64) []uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.DeleteFunc(some, x.noted.blocks.has)
}

// needUse writes the index row that an inode row needs, unless it is known to be there.
func (t *Tx) needUse(n *Inode) {
	u, ok := t.db.KeyUseOf(n)
	if !ok || slices.Contains(t.uses, u) || t.db.uses.knows(u) {
		return
	}
	t.setUse(u)
}

func (t *Tx) setUse(u KeyUse) {
	t.t.Set(keyUseKey(u.Key, u.Block), []byte{rowVersion})
	t.uses = append(t.uses, u)
}

// AddKeyUse writes the index row of an inode whether it is known or not: for the checker, which found that it is not there.
func (t *Tx) AddKeyUse(n *Inode) {
	if u, ok := t.db.KeyUseOf(n); ok {
		t.setUse(u)
	}
}

// EachKeyUse calls fn for every row of the index of files by key.
func (r *Reader) EachKeyUse(fn func(KeyUse, error) error) error {
	return r.each(kindKeyUse, 25, func(k, _ []byte, err error) error { return fn(KeyUse{KeyHash(k[1:17]), u64(k[17:25])}, err) })
}

// RenewKeyUse writes a row of the index anew. It says nothing but its key.
func (t *Tx) RenewKeyUse(u KeyUse) { t.setUse(u) }

// keyBlocks lists the blocks of a key from first on, at most limit of them.
func (r *Reader) keyBlocks(key KeyHash, first uint64, limit int) (all []uint64, err error) {
	err = r.r.Scan(keyUseKey(key, first), kv.PrefixEnd(keyUseKey(key, 0)[:17]), func(k, _ []byte) (bool, error) {
		all = append(all, u64(k[17:25]))
		return len(all) < limit, nil
	})
	return all, err
}

// uses calls fn for the inode rows of [first, end), in order, until it returns false.
func (r *Reader) usesIn(first, end Ino, fn func(Use) bool) error {
	return r.r.Scan(inodeKey(first), inodeKey(end), func(k, v []byte) (bool, error) {
		u, err := decodeUse(Ino(u64(k[1:9])), v)
		return err == nil && fn(u), err
	})
}

// KeyUses calls fn for the files under a KMS key, in inode order, from the inode first on, until it returns false.
func (r *Reader) KeyUses(arn string, first Ino, fn func(Ino) bool) error {
	key, from := r.db.keyHash(arn), useBlock(first)
	for {
		list, err := r.keyBlocks(key, from, useAtOnce)
		if err != nil {
			return err
		}
		stopped := false
		for at := 0; at < len(list) && !stopped; {
			run := at + 1
			for run < len(list) && list[run] == list[run-1]+1 {
				run++
			}
			err := r.usesIn(max(first, Ino(list[at]<<useBits)), Ino((list[run-1]+1)<<useBits), func(u Use) bool {
				stopped = u.Method == SSEKMS && string(u.KeyARN) == arn && !fn(u.Ino)
				return !stopped
			})
			if err != nil {
				return err
			}
			at = run
		}
		if stopped || len(list) < useAtOnce {
			return nil
		}
		from = list[len(list)-1] + 1
	}
}

// EachUseSweeping is EachUse in a View of its own, and sweeps the index rows of a key: fn sees every inode there is, so what it does not see
// under the key is not there. If fn stops it with an error nothing is swept.
func (d *DB) EachUseSweeping(arn string, fn func(u Use, err error) error) error {
	_, err := d.sweep(d.keyHash(arn), func(r *Reader, empty blocks) error {
		return r.EachUse(func(u Use, err error) error {
			if err == nil && u.Method == SSEKMS && string(u.KeyARN) == arn {
				empty.remove(useBlock(u.Ino))
			}
			return fn(u, err)
		})
	})
	return err
}

// SweepKeyUses sweeps the index rows of every key. It says how many rows there were and how many went.
func (d *DB) SweepKeyUses(ctx context.Context) (rows, swept int, err error) {
	for next := (KeyHash{}); ; {
		key, found := next, false
		err := d.View(func(r *Reader) error {
			return r.r.Scan(keyUseKey(next, 0), []byte{kindKeyUse + 1}, func(k, _ []byte) (bool, error) {
				key, found = KeyHash(k[1:17]), true
				return false, nil
			})
		})
		if err != nil || !found {
			return rows, swept, err
		}
		n, err := d.sweep(key, func(r *Reader, empty blocks) error {
			all := empty.list()
			rows += len(all)
			return r.removeUsed(ctx, key, all, empty)
		})
		swept += n
		if err != nil {
			return rows, swept, err
		}
		after := kv.PrefixEnd(key[:])
		if after == nil {
			return rows, swept, nil
		}
		next = KeyHash{}
		copy(next[:], after)
	}
}

// removeUsed looks into blocks and takes those out of empty in which there is a file under the key.
func (r *Reader) removeUsed(ctx context.Context, key KeyHash, all []uint64, empty blocks) error {
	var arn []byte // the last one under the key: as a rule it is the next one's, too
	for _, b := range all {
		err := r.usesIn(Ino(b<<useBits), Ino((b+1)<<useBits), func(u Use) bool {
			if u.Method != SSEKMS {
				return true
			}
			if !bytes.Equal(u.KeyARN, arn) {
				if r.db.keyHash(string(u.KeyARN)) != key {
					return true
				}
				arn = append(arn[:0], u.KeyARN...)
			}
			empty.remove(b)
			return false
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sweep deletes the index rows of a key under which nothing is found. look gets a snapshot and all blocks that the index names in it, and
// leaves those in which there is no file under the key. It must not Update.
func (d *DB) sweep(key KeyHash, look func(r *Reader, empty blocks) error) (swept int, err error) {
	x := &d.uses
	x.sweeping.Lock()
	defer x.sweeping.Unlock()
	x.begin(key)
	defer x.end()
	empty := blocks{}
	err = d.View(func(r *Reader) error {
		err := r.r.Scan(keyUseKey(key, 0), kv.PrefixEnd(keyUseKey(key, 0)[:17]), func(k, _ []byte) (bool, error) {
			empty.add(u64(k[17:25]))
			return true, nil
		})
		if err != nil {
			return err
		}
		return look(r, empty)
	})
	if err != nil {
		return 0, err
	}
	for some := range slices.Chunk(empty.list(), dropBite) {
		n, err := d.dropUses(key, some)
		if err != nil {
			return swept, err
		}
		swept += n
	}
	return swept, nil
}

// dropUses is step 3 of a sweep.
func (d *DB) dropUses(key KeyHash, some []uint64) (int, error) {
	d.uses.gate.Lock()
	defer d.uses.gate.Unlock()
	some = d.uses.unnoted(some)
	if len(some) == 0 {
		return 0, nil
	}
	return len(some), d.store.Update(func(t kv.Txn) error {
		for _, b := range some {
			t.Delete(keyUseKey(key, b))
		}
		return nil
	})
}
