package fs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// Quotas of buckets. What counts is what S3 would bill: the sum of the sizes of all files (holes included, an unlinked file until its last
// close), and the number of names' inodes beneath the bucket.
//
// Only buckets with a quota are counted, in memory: a write that makes a file longer reserves at once, so EDQUOT comes where the
// data comes and never at close. No transaction carries a counter. Each closing of an epoch records the counters (meta.Usage); a
// record is exact only after a clean stop, so after any other the bucket is counted anew in the background, and meanwhile the record is
// the estimate. A bucket that gets a quota is counted before the call returns.
//
// Counting reads a snapshot of all inode rows while the volume is in use. It begins under the namespace lock, so that every inode is
// either in the snapshot or made later. A file that is open while counting runs is counted when it is seen open, with its size in
// memory, and left out of the scan (usage.skip); every change of its size from then on goes to the counter. The rows of all other files
// do not change size.

// ErrQuota says that a bucket's quota is used up.
var ErrQuota = errors.New("quota exceeded")

// Quota is a bucket's limit; a negative number is none.
type Quota struct {
	Bytes, Inodes int64
}

// ParseQuota reads "bytes=N,inodes=N", of which one may be missing. The empty text is no quota.
func ParseQuota(text string) (Quota, error) {
	q := Quota{-1, -1}
	if text == "" {
		return q, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		into := map[string]*int64{"bytes": &q.Bytes, "inodes": &q.Inodes}[name]
		n, err := strconv.ParseUint(value, 10, 63)
		if into == nil || *into >= 0 || err != nil {
			return Quota{}, fmt.Errorf("quota: bytes=N,inodes=N: %w", ErrInvalid)
		}
		*into = int64(n)
	}
	return q, nil
}

// usage counts one bucket. A nil usage counts nothing.
type usage struct {
	bucket              Ino
	maxBytes, maxInodes atomic.Int64 // below 0: none
	bytes, inodes       atomic.Int64
	changes             atomic.Uint64 // of bytes and inodes, counted when they are made
	dead                atomic.Bool   // the bucket was removed

	mu       sync.Mutex // a leaf
	counting bool       // until then bytes and inodes begin at an estimate
	cursor   Ino        // of the scan
	skip     map[Ino]struct{}
	open     int64 // bytes of the inodes in skip, as they were seen
}

// addBytes changes the bytes in use; growing may be refused.
func (u *usage) addBytes(n int64) error {
	if u == nil || n == 0 {
		return nil
	}
	defer u.changes.Add(1)
	if now, limit := u.bytes.Add(n), u.maxBytes.Load(); n > 0 && limit >= 0 && now > limit {
		u.bytes.Add(-n)
		return ErrQuota
	}
	return nil
}

// addInodes is addBytes for inodes.
func (u *usage) addInodes(n int64) error {
	if u == nil {
		return nil
	}
	defer u.changes.Add(1)
	if now, limit := u.inodes.Add(n), u.maxInodes.Load(); n > 0 && limit >= 0 && now > limit {
		u.inodes.Add(-n)
		return ErrQuota
	}
	return nil
}

// force is for bytes that are there already.
func (u *usage) force(n int64) {
	u.bytes.Add(n)
	u.changes.Add(1)
}

// opened is told when a file's data comes into memory.
func (u *usage) opened(row *meta.Inode, size uint64) {
	if u == nil {
		return
	}
	if row.Nlink == 0 { // unlinked already, and not counted since
		u.force(int64(size))
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.counting || row.Ino <= u.cursor {
		return
	}
	if _, ok := u.skip[row.Ino]; !ok {
		u.skip[row.Ino] = struct{}{}
		u.open += int64(size)
	}
}

// quotas are the buckets that are counted.
type quotas struct {
	active atomic.Pointer[map[Ino]*usage]
	mu     sync.Mutex // held while the set changes; before Volume.ns
	gone   []Ino      // whose records are to be removed; guarded by goneMu
	goneMu sync.Mutex
}

func (q *quotas) of(bucket Ino) *usage {
	if m := q.active.Load(); m != nil {
		return (*m)[bucket]
	}
	return nil
}

func (q *quotas) each(fn func(*usage)) {
	if m := q.active.Load(); m != nil {
		for _, u := range *m {
			fn(u)
		}
	}
}

// change replaces the set; q.mu is held.
func (q *quotas) change(bucket Ino, u *usage) {
	m := map[Ino]*usage{}
	q.each(func(u *usage) { m[u.bucket] = u })
	if delete(m, bucket); u != nil {
		m[bucket] = u
	}
	q.active.Store(&m)
	if u == nil {
		q.goneMu.Lock()
		q.gone = append(q.gone, bucket)
		q.goneMu.Unlock()
	}
}

// watch counts a file whose data is in memory from now on; d is new, or n.mu is held.
func (v *Volume) watch(n *inode, d *fileData) {
	u := v.quotas.of(n.row.Bucket)
	if u == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.usage != u {
		d.usage = u
		u.opened(n.row, d.size)
	}
}

// charge accounts for a new size before it is set; d.mu is held.
func (d *fileData) charge(size uint64) error { return d.usage.addBytes(int64(size) - int64(d.size)) }

// discharge ends the accounting of data that leaves memory; n.mu and d.mu are held.
func (d *fileData) discharge(row *meta.Inode) {
	if row.Nlink == 0 {
		_ = d.charge(0) // cannot fail
	}
	d.usage = nil
}

// uncount takes an inode that lost its last name out of the count; its bytes stay while it is open. ns and n.mu are held.
func (v *Volume) uncount(n *inode) {
	u := v.quotas.of(n.row.Bucket)
	if u != nil && n.ino == n.row.Bucket {
		u.dead.Store(true)
	} else if u != nil {
		_ = u.addInodes(-1)
		if n.row.Type == Regular && n.data == nil {
			u.force(-int64(n.row.Size))
		}
	}
}

// recount counts an inode that got a name again; ns and n.mu are held.
func (v *Volume) recount(n *inode) {
	if u := v.quotas.of(n.row.Bucket); u != nil && n.data == nil {
		u.force(int64(n.row.Size))
	}
}

// quotaChanged follows a change of a bucket's configuration.
func (v *Volume) quotaChanged(bucket Ino) error {
	q := &v.quotas
	q.mu.Lock()
	defer q.mu.Unlock()
	b, err := v.Bucket(bucket)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	limit, bad := ParseQuota(b.Quota)
	u := q.of(bucket)
	switch {
	case bad != nil || limit.Bytes < 0 && limit.Inodes < 0:
		if u != nil {
			q.change(bucket, nil)
		}
		return nil
	case u != nil:
		u.limit(limit)
		return nil
	}
	u = &usage{bucket: bucket}
	u.limit(limit)
	return v.count(context.Background(), u)
}

func (u *usage) limit(q Quota) {
	u.maxBytes.Store(q.Bytes)
	u.maxInodes.Store(q.Inodes)
}

// count begins to count a bucket and returns when it is counted; q.mu is held, or the volume is not in use yet.
func (v *Volume) count(ctx context.Context, u *usage) error {
	guess := meta.Usage{Bytes: uint64(u.bytes.Load()), Inodes: uint64(u.inodes.Load())}
	u.counting, u.skip = true, map[Ino]struct{}{}
	var bytes, inodes int64
	unlock := sync.OnceFunc(v.ns.Unlock)
	v.ns.Lock()
	defer unlock()
	if err := v.bearAllLocked(nil); err != nil {
		return err
	}
	v.quotas.change(u.bucket, u)
	v.cache.each(func(n *inode) {
		n.mu.RLock()
		defer n.mu.RUnlock()
		if n.data != nil && n.row.Bucket == u.bucket {
			v.watch(n, n.data)
		}
	})
	err := v.db.View(func(r *meta.Reader) error {
		unlock()
		return r.EachInode(func(_ Ino, row *meta.Inode, err error) error {
			if err != nil {
				return err
			}
			if row.Bucket == u.bucket && row.Ino != u.bucket {
				u.mu.Lock()
				if _, ok := u.skip[row.Ino]; !ok && row.Type == Regular {
					bytes += int64(row.Size)
				}
				u.cursor = row.Ino
				u.mu.Unlock()
				inodes++
			}
			return ctx.Err()
		})
	})
	if err != nil {
		return v.fault("count bucket", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.force(bytes + u.open - int64(guess.Bytes))
	u.inodes.Add(inodes - int64(guess.Inodes))
	u.counting, u.skip = false, nil
	return nil
}

// Snapshot runs fn on a snapshot of the rows that holds every name given out before. counted is what the buckets with a quota have on
// their counters, of those that were at rest: counted, with no file in memory whose size is not that of its row, and unchanged while
// the snapshot was taken.
func (v *Volume) Snapshot(fn func(r *meta.Reader, counted map[Ino]meta.Usage) error) error {
	v.quotas.mu.Lock() // a counting under way ends first
	unlockQuotas := sync.OnceFunc(v.quotas.mu.Unlock)
	defer unlockQuotas()
	v.ns.Lock()
	unlock := sync.OnceFunc(v.ns.Unlock)
	defer unlock()
	born := v.bearAllLocked(nil)
	before := v.atRest()
	return v.db.View(func(r *meta.Reader) error {
		counted := map[Ino]meta.Usage{}
		for u, was := range before {
			if now := u.changes.Load(); now == was.Epoch && born == nil && !u.dead.Load() {
				counted[u.bucket] = meta.Usage{Bytes: was.Bytes, Inodes: was.Inodes}
			}
		}
		unlock()
		unlockQuotas()
		return fn(r, counted)
	})
}

// atRest is what the buckets have on their counters that no file in memory is at odds with; Epoch is the number of changes. quotas.mu
// and ns are held.
func (v *Volume) atRest() map[*usage]meta.Usage {
	out := map[*usage]meta.Usage{}
	v.quotas.each(func(u *usage) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if !u.counting {
			changes := u.changes.Load()
			out[u] = meta.Usage{Epoch: changes, Bytes: uint64(u.bytes.Load()), Inodes: uint64(u.inodes.Load())}
		}
	})
	if len(out) == 0 {
		return out
	}
	v.cache.each(func(n *inode) {
		n.mu.RLock()
		defer n.mu.RUnlock()
		if n.data == nil {
			return
		}
		n.data.mu.RLock()
		defer n.data.mu.RUnlock()
		if n.row.Nlink == 0 || n.data.size != n.row.Size {
			delete(out, v.quotas.of(n.row.Bucket))
		}
	})
	return out
}

// RecountQuotas counts every bucket with a quota anew and records what is found.
func (v *Volume) RecountQuotas(ctx context.Context) error {
	v.quotas.mu.Lock()
	defer v.quotas.mu.Unlock()
	var all []*usage
	v.quotas.each(func(u *usage) { all = append(all, u) })
	for _, u := range all {
		if u.dead.Load() {
			continue
		}
		fresh := &usage{bucket: u.bucket}
		fresh.limit(Quota{u.maxBytes.Load(), u.maxInodes.Load()})
		fresh.bytes.Store(u.bytes.Load())
		fresh.inodes.Store(u.inodes.Load())
		if err := v.count(ctx, fresh); err != nil {
			return err
		}
		v.changed.Store(true)
	}
	return nil
}

// record writes the counters into the transaction that closes an epoch.
func (q *quotas) record(t *meta.Tx, epoch uint64) {
	q.goneMu.Lock()
	for _, bucket := range q.gone {
		t.DeleteUsage(bucket)
	}
	q.goneMu.Unlock()
	q.each(func(u *usage) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.dead.Load() {
			t.DeleteUsage(u.bucket)
		} else if !u.counting {
			t.PutUsage(u.bucket, meta.Usage{Epoch: epoch, Bytes: uint64(max(u.bytes.Load(), 0)), Inodes: uint64(max(u.inodes.Load(), 0))})
		}
	})
}

// settleQuotas makes the counters what the next start will find, for the last closing of an epoch: files without a name will be gone.
func (v *Volume) settleQuotas() {
	if m := v.quotas.active.Load(); m == nil {
		return
	}
	v.cache.each(func(n *inode) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if d := n.data; d != nil && n.row.Nlink == 0 {
			d.mu.Lock()
			d.discharge(n.row)
			d.mu.Unlock()
		}
	})
	v.changed.Store(true)
}

// Usage says what a bucket with a quota holds; ok is false for a bucket without one.
func (v *Volume) Usage(bucket Ino) (bytes, inodes uint64, q Quota, ok bool) {
	u := v.quotas.of(bucket)
	if u == nil {
		return 0, 0, Quota{-1, -1}, false
	}
	return uint64(max(u.bytes.Load(), 0)), uint64(max(u.inodes.Load(), 0)), Quota{u.maxBytes.Load(), u.maxInodes.Load()}, true
}

// StatFSOf measures the volume as an inode's bucket may use it.
func (v *Volume) StatFSOf(ino Ino) (StatFS, error) {
	s, err := v.StatFS()
	if err != nil {
		return s, err
	}
	bucket, err := v.BucketOf(ino)
	if err != nil {
		return s, err
	}
	bytes, inodes, q, ok := v.Usage(bucket)
	if !ok {
		return s, nil
	}
	if q.Bytes >= 0 {
		bs := uint64(s.BlockSize)
		left := uint64(max(q.Bytes-int64(bytes), 0)) / bs
		if s.Blocks > 0 { // else the volume was not measured
			left = min(left, s.BlocksAvail)
		}
		s.Blocks = (uint64(q.Bytes) + bs - 1) / bs
		s.BlocksFree, s.BlocksAvail = left, left
	}
	if q.Inodes >= 0 {
		s.Files, s.FilesFree = uint64(q.Inodes), uint64(max(q.Inodes-int64(inodes), 0))
	}
	return s, nil
}
