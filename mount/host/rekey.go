package host

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/mount"
)

const (
	rekeyBatch    = 512                    // files of one metadata transaction
	rekeyRounds   = 3                      // how often files that came under the old key meanwhile are taken as well
	rekeyInterval = 200 * time.Millisecond // between two items that count
	sseS3         = "AES256"
)

// rekeying is one rekey command under way. Files go through in batches, by
// several workers; each batch is one transaction, so that what was done stays
// done whenever the work is interrupted, and the same command goes on from
// there: what has the new key already is not among the files of the old one.
type rekeying struct {
	c     *call
	s     *mount.Session
	a     RekeyArgs
	from  string // key ARN, AES256, or "" for any
	to    string // key ARN or AES256
	r     *mount.Rekeyer
	began time.Time

	mu     sync.Mutex // guards what follows, and emit
	sum    RekeyResult
	done   int // files looked at
	total  int // 0: unknown
	told   time.Time
	failed map[mount.Ino]bool
}

// rekey does to each file what user.s3.sse does, so it needs exactly the
// rights that setfattr on a mount needs, and takes as long: a constant time
// per file. With Rewrite the content is sealed anew as well.
func (c *call) rekey(a RekeyArgs) (any, error) {
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	r := &rekeying{c: c, s: s, a: a, began: c.d.cfg.Clock(), failed: map[mount.Ino]bool{}}
	r.sum.DryRun = a.DryRun
	if r.from, err = c.keyOrNone(a.From); err != nil {
		return nil, err
	}
	if r.to, err = c.keyOrNone(a.To); err != nil {
		return nil, err
	}
	switch {
	case r.to == "":
		return nil, fmt.Errorf("%w: no key to change to", errArguments)
	case r.from == r.to && !a.Rewrite:
		return nil, fmt.Errorf("%w: the old key is the new one; only --rewrite does something then", errArguments)
	}
	r.r = s.Rekeyer(c.caller(), r.from, r.to, a.Rewrite && (r.from == r.to || r.from == ""))
	if len(a.Paths) == 0 {
		err = r.wholeKey()
	} else {
		err = r.paths(a.Paths)
	}
	if err == nil && !a.DryRun {
		err = c.d.cfg.Volume.Sync()
	}
	if err != nil {
		return nil, err
	}
	r.sum.Seconds = r.seconds()
	return r.sum, r.progress(true)
}

func (r *rekeying) seconds() float64 { return r.c.d.cfg.Clock().Sub(r.began).Seconds() }

// keyOrNone resolves a key; AES256 and nothing stand for themselves.
func (c *call) keyOrNone(ref string) (string, error) {
	if ref == "" || ref == sseS3 {
		return ref, nil
	}
	if ref == "aws:kms" {
		return c.d.cfg.Keystore.ManagedS3Key()
	}
	return c.d.cfg.Keystore.Resolve(strings.TrimPrefix(ref, "aws:kms:"))
}

// wholeKey takes every file under one key, those without a name included, and
// then looks whether any is left.
func (r *rekeying) wholeKey() error {
	if r.from == "" || r.from == sseS3 {
		return fmt.Errorf("%w: paths are needed unless --from names a key", errArguments)
	}
	inodes, err := r.under()
	if err == nil && r.a.Rewrite && r.from != r.to {
		inodes, err = r.unfinished(inodes)
	}
	for round := 1; err == nil; round++ {
		r.total += len(inodes)
		err = r.work(func(_ context.Context, give func(...mount.Ino) error) error { return give(inodes...) })
		if err != nil || r.a.DryRun || r.from == r.to {
			return err
		}
		if inodes, err = r.prove(); len(inodes) == 0 || round == rekeyRounds {
			return err
		}
	}
	return err
}

// under lists what is under the old key.
func (r *rekeying) under() ([]mount.Ino, error) {
	inodes, err := r.c.d.filesUnder(r.from)
	if err != nil {
		return nil, err
	}
	return append(inodes, r.c.d.cfg.Volume.Nameless(r.from)...), nil
}

// unfinished adds the files under the new key that an interrupted rewrite has
// re-wrapped and not sealed anew.
func (r *rekeying) unfinished(inodes []mount.Ino) ([]mount.Ino, error) {
	if r.to == sseS3 {
		return inodes, nil
	}
	more, err := r.c.d.filesUnder(r.to)
	for _, ino := range more {
		if r.r.Unfinished(ino) {
			inodes = append(inodes, ino)
		}
	}
	return inodes, err
}

// work has batches of files re-keyed by several workers. feed gives them.
func (r *rekeying) work(feed func(ctx context.Context, give func(...mount.Ino) error) error) error {
	g, ctx := errgroup.WithContext(r.c.ctx)
	batches := make(chan []mount.Ino)
	g.Go(func() error {
		defer close(batches)
		var batch []mount.Ino
		send := func() error {
			slices.Sort(batch) // a name may lead to a file that came by another one
			select {
			case batches <- slices.Compact(batch):
				batch = nil
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := feed(ctx, func(inodes ...mount.Ino) error {
			for _, ino := range inodes {
				if batch = append(batch, ino); len(batch) == rekeyBatch {
					if err := send(); err != nil {
						return err
					}
				}
			}
			return ctx.Err()
		})
		if err == nil && len(batch) > 0 {
			err = send()
		}
		return err
	})
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for batch := range batches {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := r.batch(ctx, batch); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// batch re-keys some files and, if asked, seals their content anew.
func (r *rekeying) batch(ctx context.Context, inodes []mount.Ino) error {
	out := r.r.Files(inodes, r.a.DryRun)
	if err := r.count(out); err != nil || !r.a.Rewrite || r.a.DryRun {
		return err
	}
	var renewed []mount.Ino
	for _, o := range out {
		if o.Err != nil || !o.Change && !r.r.Unfinished(o.Ino) {
			continue
		}
		n, err := r.r.Renew(o.Ino, ctx.Err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.mu.Lock()
		r.sum.Bytes += n
		r.mu.Unlock()
		if err != nil {
			if err := r.refused(o, err); err != nil {
				return err
			}
			continue
		}
		renewed = append(renewed, o.Ino)
		if err := r.progress(false); err != nil {
			return err
		}
	}
	if len(renewed) == 0 {
		return nil
	}
	vol := r.c.d.cfg.Volume
	if err := vol.CloseEpoch(); err != nil { // only what is durable takes the place of the old
		return err
	}
	for _, ino := range renewed {
		if _, err := vol.DropOldKeys(ino); err != nil && !errors.Is(err, mount.ErrNotFound) {
			return err
		}
	}
	return nil
}

// count notes what became of some files.
func (r *rekeying) count(out []mount.Rekeyed) error {
	for i := range out {
		o := &out[i]
		if o.Err != nil {
			if err := r.refused(*o, o.Err); err != nil {
				return err
			}
			continue
		}
		r.mu.Lock()
		r.done++
		switch {
		case o.Change:
			r.sum.Changed++
		case o.From == r.to:
			r.sum.Same++
		}
		r.mu.Unlock()
		if o.Change && r.a.List {
			if err := r.item(o.Ino, RekeyItem{From: o.From, To: r.to}); err != nil {
				return err
			}
		}
	}
	return r.progress(false)
}

// refused notes a file that could not be re-keyed; one that is gone is none.
func (r *rekeying) refused(o mount.Rekeyed, err error) error {
	if errors.Is(err, mount.ErrNotFound) {
		return nil
	}
	r.mu.Lock()
	r.sum.Failed++
	r.done++
	r.failed[o.Ino] = true
	r.mu.Unlock()
	return r.item(o.Ino, RekeyItem{From: o.From, To: r.to, Error: answer(err).Message})
}

// item tells of one file. Files whose names the caller may not see are counted.
func (r *rekeying) item(ino mount.Ino, item RekeyItem) error {
	path, err := r.c.pathOf(r.s, ino)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(err, mount.ErrAccess):
		r.sum.Hidden++
		return nil
	case errors.Is(err, mount.ErrNotFound):
		path = fmt.Sprintf("(inode %d, without a name)", ino)
	case err != nil:
		return err
	}
	item.Path = path
	return r.c.emit(item)
}

// progress tells how far the work is, not too often.
func (r *rekeying) progress(last bool) error {
	if !r.a.Progress {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.c.d.cfg.Clock()
	if !last && now.Sub(r.told) < rekeyInterval {
		return nil
	}
	r.told = now
	return r.c.emit(RekeyItem{Progress: &RekeyProgress{
		Done: r.done, Total: r.total, Failed: r.sum.Failed, Bytes: r.sum.Bytes, Seconds: r.seconds(),
	}})
}

// paths takes files, and directories with all beneath them.
func (r *rekeying) paths(paths []Path) error {
	return r.work(func(ctx context.Context, give func(...mount.Ino) error) error {
		for _, p := range paths {
			path, err := r.c.d.bucketPath(p)
			var o object
			if err == nil {
				o, err = r.c.find(r.s, path)
			}
			if err == nil && !o.found {
				err = mount.ErrNotFound
			}
			if err == nil {
				err = r.tree(ctx, o.path, o.attr.Ino, o.attr.Type, give)
			} else {
				err = r.unreadable(p.Typed, err)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *rekeying) unreadable(path string, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Failed++
	return r.c.emit(RekeyItem{Path: path, To: r.to, Error: answer(err).Message})
}

func (r *rekeying) tree(ctx context.Context, path string, ino mount.Ino, t mount.FileType, give func(...mount.Ino) error) error {
	switch t {
	case mount.Regular:
		return give(ino)
	case mount.Directory:
	default:
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var entries []mount.Dirent
	dir, err := r.s.OpenDir(r.c.caller(), ino)
	if err == nil {
		err = dir.Read(0, func(e mount.Dirent) bool {
			entries = append(entries, e)
			return true
		})
	}
	if err != nil {
		return r.unreadable(path+"/", err)
	}
	for _, e := range entries {
		if err := r.tree(ctx, path+"/"+e.Name, e.Ino, e.Type, give); err != nil {
			return err
		}
	}
	return nil
}

// prove looks at every inode of the store, not at the index that led here,
// and at the files without a name: what is still under the old key, and which
// defaults still give it to new files? It lists those that came under the old
// key meanwhile, or were not refused.
func (r *rekeying) prove() (more []mount.Ino, err error) {
	vol := r.c.d.cfg.Volume
	left := &KeyUse{}
	note := func(ino mount.Ino) {
		if !r.failed[ino] {
			more = append(more, ino)
		}
	}
	var defaults []fs.Encryption
	err = vol.EachEncryption(r.from, func(e fs.Encryption) bool {
		switch {
		case e.KeyARN == r.from:
			left.Files++
			note(e.Ino)
		case e.Bucket != nil || e.Default != "":
			if d, err := r.s.DefaultKey(e.Bucket, e.Default); err == nil && d == r.from {
				defaults = append(defaults, e)
			}
		}
		return r.c.ctx.Err() == nil
	})
	if err == nil {
		err = r.c.ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	nameless := vol.Nameless(r.from)
	left.Nameless = len(nameless)
	for _, ino := range nameless {
		note(ino)
	}
	r.sum.Left, r.sum.Defaults = left, nil
	for _, e := range defaults {
		path, err := r.c.pathOf(r.s, e.Ino)
		if err != nil {
			path = fmt.Sprintf("(inode %d)", e.Ino)
		}
		value := e.Default
		if e.Bucket != nil {
			value = e.Bucket.Encryption
		}
		r.sum.Defaults = append(r.sum.Defaults, KeyDefault{Path: strings.TrimSuffix(path, "/"), Value: value})
	}
	return more, nil
}
