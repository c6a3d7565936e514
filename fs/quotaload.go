package fs

import (
	"context"
	"errors"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// loadQuotas finds the buckets with a quota. Their records are exact if the volume was stopped cleanly; otherwise they are counted in
// the background. So they are where the record is damaged. A bucket whose row is damaged is as inaccessible with a quota as without.
func (v *Volume) loadQuotas(ctx context.Context) error {
	buckets, err := v.bucketInos()
	if err != nil {
		return err
	}
	for _, ino := range buckets {
		b, err := v.Bucket(ino)
		if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) {
			v.log.Error("a bucket cannot be read; restore it from a backup (kmsfs fsck says what else is damaged)", "inode", uint64(ino), "err", err)
			continue
		} else if err != nil {
			return err
		}
		limit, bad := ParseQuota(b.Quota)
		if bad != nil || limit.Bytes < 0 && limit.Inodes < 0 {
			continue
		}
		u := &usage{bucket: ino}
		u.limit(limit)
		var last meta.Usage
		err = v.db.View(func(r *meta.Reader) (err error) {
			last, err = r.Usage(ino)
			return err
		})
		err = v.fault("usage of bucket", err)
		damaged := errors.Is(err, ErrCorrupt)
		if damaged {
			v.log.Error("the counters of a bucket's quota are damaged: it is counted anew", "bucket", uint64(ino))
		} else if err != nil {
			return err
		}
		u.bytes.Store(int64(last.Bytes))
		u.inodes.Store(int64(last.Inodes))
		if !v.report.Unclean && !damaged && last.Epoch == v.closed.Load() {
			v.quotas.change(ino, u)
			continue
		}
		v.done.Add(1)
		go func() {
			defer v.done.Done()
			v.quotas.mu.Lock()
			defer v.quotas.mu.Unlock()
			if err := v.count(ctx, u); err != nil && ctx.Err() == nil {
				v.log.Error("a bucket with a quota could not be counted", "bucket", uint64(ino), "err", err)
			}
		}()
	}
	return nil
}

// bucketInos lists the buckets: by the entries of the root, or where one of those is damaged by the inodes.
func (v *Volume) bucketInos() (inos []Ino, err error) {
	err = v.ReadDir(RootIno, 0, func(d Dirent) bool {
		inos = append(inos, d.Ino)
		return true
	})
	if !errors.Is(err, ErrCorrupt) {
		return inos, err
	}
	v.log.Error("the list of buckets is damaged: one of them can perhaps not be found by its name, the others can", "err", err)
	inos = nil
	err = v.db.View(func(r *meta.Reader) error {
		return r.EachInode(func(ino Ino, row *meta.Inode, err error) error {
			if err == nil && row.BucketInfo != nil {
				inos = append(inos, ino)
			}
			return nil
		})
	})
	if errors.Is(v.fault("list buckets", err), ErrCorrupt) {
		v.log.Error("inodes are damaged as well: quotas of buckets behind them are not watched", "err", err)
		return inos, nil
	}
	return inos, v.fault("list buckets", err)
}
