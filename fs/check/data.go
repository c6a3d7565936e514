package check

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/block"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrKeyGone says that a KMS key was deleted, or that its imported material is not there: nobody can open what lies under it.
var ErrKeyGone = errors.New("the KMS key's material is gone")

// Keys opens data keys to see whether content is authentic. It asks no policy and writes no event, so what it opens must go no further.
type Keys interface {
	// Standing is nil if what lies under a KMS key can be opened; else it wraps ErrKeyGone and says why.
	Standing(arn string) error
	// Open unwraps a data key, which the caller wipes. Errors: ErrKeyGone; any other means that it is not what was wrapped.
	Open(wrapped crypto.WrappedKey, ctx crypto.Context) (*crypto.DataKey, error)
}

// maxGoneInodes is how many files of a key that is gone a report lists; all are counted.
const maxGoneInodes = 100

// keyReference notes a file whose KMS key is gone. That is what deleting a key is for, and no damage.
func (c *checker) keyReference(n *meta.Inode) {
	if c.o.Keys == nil || n.Sealing.Method != meta.SSEKMS {
		return
	}
	gone, known := c.gone[n.Sealing.KeyARN]
	if !known {
		if err := c.o.Keys.Standing(n.Sealing.KeyARN); err != nil {
			gone = &KeyGone{ARN: n.Sealing.KeyARN, Why: err.Error()}
		}
		c.gone[n.Sealing.KeyARN] = gone
	}
	if gone == nil {
		return
	}
	gone.Files++
	if len(gone.Inodes) < maxGoneInodes {
		gone.Inodes = append(gone.Inodes, n.Ino)
	}
}

// job is an extent to be read.
type job struct {
	ino meta.Ino
	x   *meta.Extent
}

func (j job) sealed() int { return block.SealedLen(int(j.x.Plain)) }

// data reads and authenticates every extent, in the order of the disk; those in rows first.
func (c *checker) data() error {
	slices.SortFunc(c.jobs, func(a, b job) int {
		if a.x.Inline || b.x.Inline {
			return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a.ino, b.ino), cmp.Compare(a.x.ID, b.x.ID))
		}
		return cmp.Or(cmp.Compare(a.x.Segment, b.x.Segment), cmp.Compare(a.x.Offset, b.x.Offset))
	})
	d := &dataRun{c: c, rep: &Data{Extents: int64(len(c.jobs))}, sums: map[meta.Ino]bool{}, badKeys: map[fileKey]bool{}}
	for _, j := range c.jobs {
		d.rep.Bytes += int64(j.sealed())
	}
	c.rep.Data = d.rep
	const stride = 64
	g, ctx := errgroup.WithContext(c.ctx)
	g.SetLimit(c.o.Workers)
	for len(c.jobs) > 0 && ctx.Err() == nil {
		part := c.jobs[:min(stride, len(c.jobs))]
		c.jobs = c.jobs[len(part):]
		g.Go(func() error {
			w := authenticator{d: d}
			defer w.wipe()
			for _, j := range part {
				if err := ctx.Err(); err != nil {
					return err
				}
				authentic, why := w.look(j)
				d.note(j, authentic, why)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.rep.SumFiles = int64(len(d.sums))
	c.progress("data", d.rep.Bytes, d.rep.Bytes)
	return c.ctx.Err()
}

func place(j job) int {
	if j.x.Inline {
		return 0
	}
	return 1
}

// dataRun is what the readers share.
type dataRun struct {
	c    *checker
	done atomic.Int64

	mu      sync.Mutex // guards the report, and the next
	rep     *Data
	sums    map[meta.Ino]bool // files of which something could only be summed
	badKeys map[fileKey]bool  // that were reported
}

type fileKey struct {
	ino        meta.Ino
	generation uint32
}

const progressBytes = 64 << 20

// note accounts for one extent; why says what is wrong with it.
func (d *dataRun) note(j job, authentic bool, why string) {
	n := int64(j.sealed())
	done := d.done.Add(n)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case why != "":
		d.rep.Bad++
		if !d.c.lacking[j.x.ID] { // that was reported
			d.c.rep.add(BadData, j.ino, "extent %d%s: %s", j.x.ID, where(j.x), why)
		}
	case authentic:
		d.rep.Authentic++
		d.rep.AuthenticBytes += n
	default:
		d.rep.Sums++
		d.rep.SumBytes += n
		if d.c.inodes[j.ino] != nil {
			d.sums[j.ino] = true
		}
	}
	if done/progressBytes != (done-n)/progressBytes {
		d.c.progress("data", done, d.rep.Bytes)
	}
}

func where(x *meta.Extent) string {
	if x.Inline {
		return " in a row"
	}
	return fmt.Sprintf(" at %v", refOf(x))
}

// badKey reports, once, a data key that does not open although its KMS key does.
func (d *dataRun) badKey(k fileKey, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.badKeys[k] {
		d.badKeys[k] = true
		d.c.rep.add(BadSealing, k.ino, "data-key generation %d does not open: %v", k.generation, err)
	}
}

// authenticator is one reader. It keeps the data key that it opened last, and buffers.
type authenticator struct {
	d             *dataRun
	at            fileKey
	key           *crypto.DataKey // of at; nil: it cannot be opened
	sealed, plain []byte
}

func (w *authenticator) wipe() {
	if w.key != nil {
		w.key.Wipe()
	}
	w.key, w.at = nil, fileKey{}
	clear(w.plain[:cap(w.plain)])
}

// look reads one extent. authentic is false where its data key cannot be had; then its checksum alone was compared, or, in a row, nothing
// but the row, which is authenticated itself. Of what was replaced and freed since the snapshot nothing is said.
func (w *authenticator) look(j job) (authentic bool, why string) {
	c := w.d.c
	sealed, err := w.read(j)
	if err != nil {
		switch {
		case j.x.Inline && errors.Is(err, meta.ErrNotFound), !c.stillNamed(j):
			return false, "" // of a row that is not there the rows were found to disagree
		case errors.Is(err, extent.ErrMissing):
			return false, "the bytes are not there"
		}
		return false, err.Error()
	}
	if !j.x.Inline && crc32.Checksum(sealed, castagnoli) != j.x.CRC {
		if !c.stillNamed(j) {
			return false, ""
		}
		return false, "the bytes are not those that were written"
	}
	dk := w.dataKey(j)
	if dk == nil {
		return false, ""
	}
	b := block.Binding{Store: c.o.StoreID, Inode: uint64(j.ino), Extent: uint64(j.x.ID), Length: j.x.Plain}
	key, err := block.NewKey(dk, j.x.Salt, b)
	if err != nil {
		return false, err.Error()
	}
	defer key.Wipe()
	// A part at a time, which stays in the processor's cache.
	const part = 16
	for first := 0; len(sealed) > 0; first += part {
		some := sealed[:min(part*block.Sealed, len(sealed))]
		if w.plain, err = key.Open(w.plain[:0], some, first); err != nil {
			if !c.stillNamed(j) {
				return false, ""
			}
			return false, fmt.Sprintf("the blocks from %d on are not authentic", first)
		}
		sealed = sealed[len(some):]
	}
	return true, ""
}

// read gives an extent's sealed bytes, until the next call.
func (w *authenticator) read(j job) ([]byte, error) {
	n := j.sealed()
	if !j.x.Inline {
		w.sealed = slices.Grow(w.sealed[:0], n)[:n]
		return w.sealed, w.d.c.extents.ReadAt(refOf(j.x), w.sealed, 0)
	}
	var b []byte
	err := w.d.c.vol.Rows().View(func(r *meta.Reader) (err error) {
		b, err = r.Inline(j.ino, j.x.ID)
		return err
	})
	if err == nil && len(b) != n {
		err = fmt.Errorf("the row has %d sealed bytes, the map says %d", len(b), n)
	}
	return b, err
}

// dataKey opens the extent's data key; nil if it cannot be had.
func (w *authenticator) dataKey(j job) *crypto.DataKey {
	c := w.d.c
	at := fileKey{j.ino, j.x.Generation}
	if w.at == at {
		return w.key
	}
	if w.key != nil {
		w.key.Wipe()
	}
	w.at, w.key = at, nil
	n := c.inodes[j.ino]
	if c.o.Keys == nil || n == nil {
		return nil
	}
	dk, err := c.open(&n.row.Sealing, at.generation)
	if err != nil {
		// The file may have come under another KMS key since the snapshot, and the old one may be gone.
		var now *meta.Inode
		if rowErr := c.vol.Rows().View(func(r *meta.Reader) (err error) {
			now, err = r.Inode(j.ino)
			return err
		}); rowErr == nil {
			dk, err = c.open(&now.Sealing, at.generation)
		} else if errors.Is(rowErr, meta.ErrNotFound) {
			return nil
		}
	}
	switch {
	case err == nil:
		w.key = dk
	case errors.Is(err, ErrKeyGone), errors.Is(err, errNoGeneration): // the former was noted, the latter reported, with the rows
	default:
		w.d.badKey(at, err)
	}
	return w.key
}

var errNoGeneration = errors.New("the file has no such data key")

func (c *checker) open(s *meta.Sealing, generation uint32) (*crypto.DataKey, error) {
	for _, k := range s.Keys {
		if k.Generation == generation {
			return c.o.Keys.Open(k.Wrapped, s.Context)
		}
	}
	return nil, errNoGeneration
}

// stillNamed looks into the rows as they are now: an extent may have been replaced and freed since the snapshot.
func (c *checker) stillNamed(j job) bool {
	named := false
	err := c.vol.Rows().View(func(r *meta.Reader) error {
		n, err := r.Inode(j.ino)
		if err != nil {
			return err
		}
		pieces, err := r.Pieces(n)
		for _, p := range pieces {
			named = named || p.Extent.ID == j.x.ID
		}
		return err
	})
	return named || err != nil && !errors.Is(err, meta.ErrNotFound)
}
