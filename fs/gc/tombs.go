package gc

import (
	"context"
	"errors"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// Files that are removed together were made together as a rule: their rows stand together and so do their bytes. They are swept together,
// which saves a scan for each kind of rows of each inode, a commit for each inode, and a hole for each extent.
const (
	together = 256 // inodes swept at once
	near     = 8   // numbers from one to the next, at most
)

func (r *Reaper) tombs(ctx context.Context) error {
	db, closed := r.vol.Rows(), r.ripe()
	for first := meta.Ino(0); ctx.Err() == nil; {
		var work []meta.Tomb
		err := db.View(func(rd *meta.Reader) error {
			return rd.Tombs(first, func(t meta.Tomb) bool {
				work = append(work, t)
				return len(work) < bite
			})
		})
		if err != nil || len(work) == 0 {
			return err
		}
		first = work[len(work)-1].Ino + 1
		var group []meta.Ino
		for _, t := range work {
			if t.Epoch > closed || r.vol.InUse(t.Ino) {
				continue
			}
			if n := len(group); n == together || n > 0 && t.Ino-group[n-1] > near {
				if err := r.sweep(ctx, group); err != nil {
					return err
				}
				group = group[:0]
			}
			group = append(group, t.Ino)
		}
		if err := r.sweep(ctx, group); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// sweep sweeps removed inodes that nobody uses any more, in the order of their numbers.
func (r *Reaper) sweep(ctx context.Context, inos []meta.Ino) error {
	for done := len(inos) == 0; !done; {
		if err := ctx.Err(); err != nil {
			return err
		}
		var dead freed
		err := r.vol.Rows().Update(func(t *meta.Tx) (err error) {
			dead = freed{} // it may run again
			done, err = t.SweepTombs(inos, bite, dead.add)
			if err != nil {
				return err
			}
			return r.free(dead)
		})
		if errors.Is(err, meta.ErrSparse) && len(inos) > 1 {
			half := len(inos) / 2
			if err := r.sweep(ctx, inos[:half]); err != nil {
				return err
			}
			return r.sweep(ctx, inos[half:])
		}
		if err != nil {
			return err
		}
		r.count(dead)
	}
	r.inodes.Add(uint64(len(inos)))
	return nil
}
