package fusefs

import (
	"sync"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/mount"
)

const (
	interestShards = 64
	maxEntries     = 1 << 17 // entries on record for one kernel; beyond, it is made to forget some
	evictAtOnce    = 256
)

// interest is what one kernel may believe. Inode records are as many as the kernel knows inodes; entries are bounded.
type interest struct {
	now    func() int64 // ns, monotonic
	shards [interestShards]interestShard
	known  atomic.Int64 // entries on record, of all shards

	// blind counts requests that may tell the kernel of inodes and entries that have no record yet.
	blind   atomic.Int64
	blindAt atomic.Int64 // when the last of them was answered

	// evict makes the kernel forget entries, in the background, and calls evicted for each shard when that is done. If it is not for long,
	// overflow makes the kernel forget all and calls forgotten.
	evict    func(shard int, keys []entryKey)
	overflow func()
	flowing  atomic.Bool // overflow was called
}

type interestShard struct {
	mu      sync.Mutex
	inodes  map[mount.Ino]inodeRecord
	entries map[entryKey]entryRecord
	leaving bool // some entries are being evicted
}

// inodeRecord says what the kernel knows of an inode.
type inodeRecord struct {
	lookups uint64  // as FORGET takes them back
	lo, hi  int64   // content between may be cached; lo == hi: none is
	told    int64   // when attributes were last given
	attr    bool    // attributes may be cached
	open    int32   // handles that the kernel has
	key     *string // what the content is under: see mount.Handle.Key
}

type entryKey struct {
	parent mount.Ino
	name   string
}

// entryRecord says that the kernel may have an entry, positive or negative.
type entryRecord struct {
	asking int32 // LOOKUPs in flight
	told   int64 // when one was last answered
}

func newInterest(now func() int64) *interest {
	t := &interest{now: now}
	for i := range t.shards {
		t.shards[i].inodes = map[mount.Ino]inodeRecord{}
		t.shards[i].entries = map[entryKey]entryRecord{}
	}
	return t
}

func (t *interest) shard(ino mount.Ino) *interestShard { return &t.shards[ino%interestShards] }

// beginBlind announces a request whose answer may name anything.
func (t *interest) beginBlind() { t.blind.Add(1) }

func (t *interest) endBlind() {
	t.blindAt.Store(t.now())
	t.blind.Add(-1)
}

// unsettled reports whether an answer about something without a record may still be on its way to the kernel, and for how long (ns; 0
// if it is not even given).
func (t *interest) unsettled() (since int64, fresh bool) {
	if t.blind.Load() > 0 {
		return 0, true
	}
	since = t.now() - t.blindAt.Load()
	return since, since < straggle
}

// learn records that the kernel is told of an inode, with attributes.
func (t *interest) learn(ino mount.Ino) {
	s := t.shard(ino)
	s.mu.Lock()
	r := s.inodes[ino]
	r.lookups++
	r.attr, r.told = true, t.now()
	s.inodes[ino] = r
	s.mu.Unlock()
}

// attrs records that the kernel asks for attributes.
func (t *interest) attrs(ino mount.Ino) {
	s := t.shard(ino)
	s.mu.Lock()
	r := s.inodes[ino]
	if !r.attr {
		r.attr = true
		s.inodes[ino] = r
	}
	s.mu.Unlock()
}

// content records that the kernel may cache a range, of content that is under a key.
func (t *interest) content(ino mount.Ino, off, n int64, key *string) {
	s := t.shard(ino)
	s.mu.Lock()
	r := s.inodes[ino]
	lo, hi := r.lo, r.hi
	if lo == hi {
		lo, hi = off, off+n
	} else {
		lo, hi = min(lo, off), max(hi, off+n)
	}
	if lo != r.lo || hi != r.hi || key != r.key {
		r.lo, r.hi, r.key = lo, hi, key
		s.inodes[ino] = r
	}
	s.mu.Unlock()
}

// keyOf is the key of what the kernel may have of an inode's content; empty if there is none.
func (t *interest) keyOf(ino mount.Ino) string {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.inodes[ino]; r.key != nil {
		return *r.key
	}
	return ""
}

// caches reports whether the kernel may have content of an inode.
func (t *interest) caches(ino mount.Ino) bool {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.inodes[ino]
	return r.lo < r.hi
}

// forget takes lookups back, and says how many: no more than the kernel was given, whatever it says.
func (t *interest) forget(ino mount.Ino, n uint64) uint64 {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.inodes[ino]
	if !ok {
		return 0
	}
	if r.lookups > n {
		r.lookups -= n
		s.inodes[ino] = r
		return n
	}
	delete(s.inodes, ino)
	return r.lookups
}

// inodeChanged says what the kernel must be told when a range (off < 0: only attributes) changed, and takes it off the record. idle says
// that it has no handle of the inode.
func (t *interest) inodeChanged(ino mount.Ino, off, n int64) (tell, pages, idle bool) {
	s := t.shard(ino)
	s.mu.Lock()
	r, ok := s.inodes[ino]
	if !ok {
		s.mu.Unlock()
		_, fresh := t.unsettled()
		return fresh, off >= 0, false
	}
	end := off + n
	if n == 0 {
		end = 1<<63 - 1
	}
	if off >= 0 && r.lo < r.hi && off < r.hi && end > r.lo {
		pages = true
		switch {
		case off <= r.lo && end >= r.hi:
			r.lo, r.hi = 0, 0
		case off <= r.lo:
			r.lo = end &^ 4095 // the page at the edge stays on record
		case end >= r.hi:
			r.hi = (off + 4095) &^ 4095
		}
		if r.lo >= r.hi {
			r.lo, r.hi = 0, 0
		}
	}
	tell = pages || r.attr || t.now()-r.told < straggle
	r.attr = false
	idle = r.open == 0
	s.inodes[ino] = r
	s.mu.Unlock()
	return tell, pages, idle
}

// opens counts the handles of an inode that the kernel has: before it is told of one, and after it has given one back.
func (t *interest) opens(ino mount.Ino, by int32) {
	s := t.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.inodes[ino]; ok {
		r.open += by
		s.inodes[ino] = r
	}
}

// fresh reports whether the first answer about an inode may still be on its way, and for how long.
func (t *interest) fresh(ino mount.Ino) (since int64, fresh bool) {
	s := t.shard(ino)
	s.mu.Lock()
	r, ok := s.inodes[ino]
	s.mu.Unlock()
	if ok {
		since = t.now() - r.told
		return since, since < straggle
	}
	return t.unsettled()
}

// asking records a LOOKUP in flight; told records its answer.
func (t *interest) asking(k entryKey) {
	s := t.shard(k.parent)
	s.mu.Lock()
	r, ok := s.entries[k]
	r.asking++
	leave := t.put(s, k, r, ok)
	s.mu.Unlock()
	if leave != nil {
		t.evict(int(k.parent%interestShards), leave)
	}
}

// put writes a record (had: there was one) and picks entries that have to go if there are too many of them now: of this shard, which
// has most of them if one directory does. They stay on record until the kernel has forgotten them. s.mu is held.
func (t *interest) put(s *interestShard, k entryKey, r entryRecord, had bool) (leave []entryKey) {
	s.entries[k] = r
	if had {
		return nil
	}
	known := t.known.Add(1)
	if known > 2*maxEntries && t.flowing.CompareAndSwap(false, true) {
		go t.overflow()
	}
	if known <= maxEntries || s.leaving {
		return nil
	}
	s.leaving = true
	for k, r := range s.entries {
		if r.asking == 0 {
			leave = append(leave, k)
		}
		if len(leave) == evictAtOnce {
			break
		}
	}
	return leave
}

// evicted takes entries off the record that the kernel was made to forget after the time at.
func (t *interest) evicted(shard int, keys []entryKey, at int64) {
	s := &t.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = false
	for _, k := range keys {
		if r, ok := s.entries[k]; ok && r.asking == 0 && r.told < at-straggle {
			t.remove(s, k)
		}
	}
}

// forgotten takes all entries off the record: the kernel was made to forget them after the time at.
func (t *interest) forgotten(at int64) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for k, r := range s.entries {
			if r.asking == 0 && r.told < at-straggle {
				t.remove(s, k)
			}
		}
		s.mu.Unlock()
	}
	t.flowing.Store(false)
}

// remove takes an entry off the record that is on it; s.mu is held.
func (t *interest) remove(s *interestShard, k entryKey) {
	delete(s.entries, k)
	t.known.Add(-1)
}

func (t *interest) told(k entryKey) {
	s := t.shard(k.parent)
	s.mu.Lock()
	if r, ok := s.entries[k]; ok {
		r.asking = max(r.asking-1, 0)
		r.told = t.now()
		s.entries[k] = r
	}
	s.mu.Unlock()
}

// entry records that the kernel is told of an entry by other means than LOOKUP.
func (t *interest) entry(k entryKey) {
	s := t.shard(k.parent)
	s.mu.Lock()
	r, ok := s.entries[k]
	r.told = t.now()
	leave := t.put(s, k, r, ok)
	s.mu.Unlock()
	if leave != nil {
		t.evict(int(k.parent%interestShards), leave)
	}
}

// dropped takes an entry off the record that the kernel itself has dropped: it was removed through this mount.
func (t *interest) dropped(k entryKey) {
	s := t.shard(k.parent)
	s.mu.Lock()
	if r, ok := s.entries[k]; ok && r.asking == 0 {
		t.remove(s, k)
	}
	s.mu.Unlock()
}

// entryChanged says whether the kernel must be told of an entry; it is taken off the record, unless an answer is on its way.
func (t *interest) entryChanged(k entryKey) bool {
	s := t.shard(k.parent)
	s.mu.Lock()
	r, ok := s.entries[k]
	if ok && r.asking == 0 && t.now()-r.told >= straggle {
		t.remove(s, k)
	}
	s.mu.Unlock()
	if !ok {
		_, ok = t.unsettled() // READDIRPLUS holds the directory until its answer is in the kernel, so once is enough
	}
	return ok
}

// entryFresh reports whether the answer to a LOOKUP may still be on its way, and for how long.
func (t *interest) entryFresh(k entryKey) (since int64, fresh bool) {
	s := t.shard(k.parent)
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.entries[k]
	if !ok {
		return 0, false
	}
	if r.asking > 0 {
		return 0, true
	}
	since = t.now() - r.told
	return since, since < straggle
}

// eachInode calls fn for all inodes on record, outside of all locks.
func (t *interest) eachInode(fn func(mount.Ino, inodeRecord)) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		inos := make([]mount.Ino, 0, len(s.inodes))
		recs := make([]inodeRecord, 0, len(s.inodes))
		for ino, r := range s.inodes {
			inos, recs = append(inos, ino), append(recs, r)
		}
		s.mu.Unlock()
		for j, ino := range inos {
			fn(ino, recs[j])
		}
	}
}

// eachCached calls fn for all inodes of which the kernel may have content, outside of all locks, with the content's key.
func (t *interest) eachCached(fn func(mount.Ino, *string)) {
	var inos []mount.Ino
	var keys []*string
	for i := range t.shards {
		s := &t.shards[i]
		inos, keys = inos[:0], keys[:0]
		s.mu.Lock()
		for ino, r := range s.inodes {
			if r.lo < r.hi {
				inos, keys = append(inos, ino), append(keys, r.key)
			}
		}
		s.mu.Unlock()
		for j, ino := range inos {
			fn(ino, keys[j])
		}
	}
}

// eachEntry calls fn for all entries on record.
func (t *interest) eachEntry(fn func(entryKey)) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		keys := make([]entryKey, 0, len(s.entries))
		for k := range s.entries {
			keys = append(keys, k)
		}
		s.mu.Unlock()
		for _, k := range keys {
			fn(k)
		}
	}
}

// drained takes all inode records away and gives their lookup counts, for the end of a mount.
func (t *interest) drained(fn func(ino mount.Ino, lookups uint64)) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		old := s.inodes
		t.known.Add(-int64(len(s.entries)))
		s.inodes, s.entries = map[mount.Ino]inodeRecord{}, map[entryKey]entryRecord{}
		s.mu.Unlock()
		for ino, r := range old {
			if r.lookups > 0 {
				fn(ino, r.lookups)
			}
		}
	}
}
