package fs

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kmsfs/kmsfs/crypto/block"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// An extent is freed when nothing of it is in the map any more, so random writes leave extents behind of which a part is dead; and
// they leave a map of many small pieces. Both are cured by sealing again what is there, beneath what is being flushed, while somebody
// who may write holds the file, for it takes the data key. The content stays as it is.
//
//   - A file whose extents take more than four thirds of the room of its content is wasteful. Each of its flushes then also
//     seals again what is left in the extents that are the most dead, as much as it writes, and twice that from seven fifths on: the
//     writer pays, and the file grows no further.
//   - In the background, files that were flushed and are still open are brought below one and a quarter, and neighbouring small
//     pieces are sealed together, a megabyte of the file at a time.
const (
	mergeSlack   = 4 << 20  // of dead room in a file is no waste
	mergeStep    = 8 << 20  // of plaintext that a step in the background seals again, at most
	mergeBeside  = 2 << 20  // the same for a file that others flush meanwhile, of which a round takes one step only
	mergeMost    = 24 << 20 // of plaintext that a writer's flush seals again, at most
	mergePieces  = 6144     // that one flush takes out of the map for it, at most: its transaction has a limit
	mergeRate    = 64 << 20 // of plaintext of one file that is sealed again in the background before others have their turn
	mergeVictims = 512      // extents that are chosen at once, since choosing looks at the whole map
	mergeWindow  = 1 << 20  // of a file in which neighbouring pieces are counted
	mergeJoins   = 16       // neighbours in a window that are worth it
)

// mergeState is what a file remembers between the flushes that merge; guarded by flushMu.
type mergeState struct {
	victims []victim // chosen, and not taken yet; the map may have changed since
	at      uint64   // where to look for small neighbours
	calm    int      // pieces of the map when there were none
	flushes int      // of others, since the last step in the background
	failed  bool     // the last flush failed: the next one brings away what is dirty and no more
	over    bool     // an extent cannot be read, or there is none to choose: left alone until the file is opened anew
}

// victim is an extent of which much is dead, and where what is left of it was mapped.
type victim struct {
	extent *meta.Extent
	spans  []span
}

// wasteful reports whether the extents take more than num/den of the room of what they hold.
func (m *extentMap) wasteful(num, den int64) bool { return (m.held-mergeSlack)*den > m.covered*num }

// ragged reports whether there may be small neighbours that were not looked at; flushMu is held.
func (d *fileData) ragged() bool {
	n := d.extents.pieces.Len()
	return n > 4*mergeJoins && n > d.merge.calm+d.merge.calm/8
}

// gather adds to what a flush seals what it should seal again; flushMu is held. Everything that it reads lies beneath what is dirty.
func (v *Volume) gather(n *inode, d *fileData, out *runSet, o flushOptions) {
	if d.merge.failed || d.merge.over {
		return
	}
	d.mu.RLock()
	budget := d.dirty.bytes
	d.mu.RUnlock()
	var err error
	switch {
	case o.merge > 0 && !d.extents.wasteful(5, 4):
		err = v.join(n, d, out, o.merge)
	case o.merge > 0:
		err = v.evacuate(n, d, out, o.merge)
	case budget < maxRun || !d.extents.wasteful(4, 3):
		return
	default:
		if d.extents.wasteful(7, 5) {
			budget *= 2
		}
		err = v.evacuate(n, d, out, min(budget, mergeMost))
	}
	if err != nil { // the flush goes on without: whoever reads the bytes will be told
		d.merge.over = true
		v.log.Warn("extents are not merged", "inode", uint64(n.ino), "err", err)
	}
}

// evacuate reads what is left in the extents that are the most dead.
func (v *Volume) evacuate(n *inode, d *fileData, out *runSet, budget int64) error {
	for taken := 0; budget > 0 && taken < mergePieces; {
		if len(d.merge.victims) == 0 {
			if d.merge.victims = d.chooseVictims(); len(d.merge.victims) == 0 {
				d.merge.over = true
				return nil
			}
		}
		last := len(d.merge.victims) - 1
		x := d.merge.victims[last]
		d.merge.victims = d.merge.victims[:last]
		var left []meta.Piece
		for _, s := range x.spans {
			d.extents.each(s.off, s.end, func(p meta.Piece) bool {
				if p.Extent == x.extent {
					left = append(left, part(p, max(p.Off, s.off), min(p.End(), s.end)))
				}
				return true
			})
		}
		size, err := v.readLeft(n.ino, d, x.extent, left, out)
		if err != nil {
			return err
		}
		budget -= size
		taken += len(left)
	}
	return nil
}

// chooseVictims finds the extents of which the least is left, the best last. It is called for a wasteful file only.
func (d *fileData) chooseVictims() []victim {
	left := make(map[*meta.Extent]uint32, len(d.extents.refs))
	all := func(fn func(meta.Piece)) {
		d.extents.pieces.Scan(func(_ uint64, p meta.Piece) bool {
			if !p.Extent.Inline && d.hasKey(p.Extent.Generation) {
				fn(p)
			}
			return true
		})
	}
	all(func(p meta.Piece) { left[p.Extent] += p.Len })
	var chosen []*meta.Extent
	for x, n := range left {
		if uint64(n)*8 < uint64(x.Plain)*7 {
			chosen = append(chosen, x)
		}
	}
	share := func(x *meta.Extent) float64 { return float64(left[x]) / float64(x.Plain) }
	slices.SortFunc(chosen, func(a, b *meta.Extent) int { return cmp.Compare(share(b), share(a)) })
	chosen = chosen[max(0, len(chosen)-mergeVictims):]
	out := make([]victim, len(chosen))
	at := make(map[*meta.Extent]int, len(chosen))
	for i, x := range chosen {
		out[i].extent, at[x] = x, i
	}
	all(func(p meta.Piece) {
		if i, ok := at[p.Extent]; ok {
			out[i].spans = append(out[i].spans, span{p.Off, p.End()})
		}
	})
	return out
}

// readLeft reads pieces of one extent, from the store at once, and writes them into out.
func (v *Volume) readLeft(ino Ino, d *fileData, x *meta.Extent, left []meta.Piece, out *runSet) (size int64, err error) {
	if len(left) == 0 {
		return 0, nil
	}
	key, err := d.blockKey(x.Generation, x.Salt, v.binding(ino, x))
	if err != nil {
		return 0, err
	}
	defer key.Wipe()
	buf, opened := sealedBuffers.Get().(*[]byte), sealedBuffers.Get().(*[]byte)
	defer sealedBuffers.Put(buf)
	defer sealedBuffers.Put(opened)
	first, stop := x.Plain/block.Size, uint32(0)
	for _, p := range left {
		first, stop = min(first, p.Inside/block.Size), max(stop, min((p.Inside+p.Len+block.Size-1)/block.Size*block.Size, x.Plain))
	}
	sealed := slices.Grow((*buf)[:0], block.SealedLen(int(x.Plain)))[:block.SealedLen(int(stop-first*block.Size))]
	ref := extent.Ref{Segment: x.Segment, Offset: x.Offset, Length: x.Sealed}
	if err := v.cfg.Extents.ReadAt(ref, sealed, int64(first)*block.Sealed); err != nil {
		return 0, v.bad(ino, x, err)
	}
	for _, p := range left {
		from := p.Inside / block.Size
		to := min((p.Inside+p.Len+block.Size-1)/block.Size*block.Size, x.Plain)
		blocks := sealed[int(from-first)*block.Sealed:][:block.SealedLen(int(to-from*block.Size))]
		plain, err := key.Open((*opened)[:0], blocks, int(from))
		if err != nil {
			return size, v.bad(ino, x, err)
		}
		out.write(p.Off, plain[p.Inside-from*block.Size:][:p.Len])
		clear(plain)
		size += int64(p.Len)
	}
	return size, nil
}

// join reads windows of the file in which many small pieces are neighbours.
func (v *Volume) join(n *inode, d *fileData, out *runSet, budget int64) error {
	for taken, size := 0, int64(0); size < budget && taken < mergePieces; {
		window, next := d.nextWindow()
		d.merge.at = next
		if window == nil {
			d.merge.calm = d.extents.pieces.Len() // the end of the file
			return nil
		}
		for _, p := range window {
			buf := make([]byte, p.Len)
			if err := v.readPiece(n.ino, d, p, buf); err != nil {
				return err
			}
			out.write(p.Off, buf)
			clear(buf)
			size += int64(p.Len)
		}
		taken += len(window)
	}
	return nil
}

// nextWindow finds, from merge.at on, pieces that are worth joining, and where to go on.
func (d *fileData) nextWindow() (window []meta.Piece, next uint64) {
	joins := 0
	next = d.merge.at
	d.extents.each(d.merge.at, endOfFile, func(p meta.Piece) bool {
		if len(window) > 0 && p.Off >= next {
			if joins >= mergeJoins {
				return false
			}
			window, joins = window[:0], 0
		}
		if len(window) == 0 {
			next = (p.Off/mergeWindow + 1) * mergeWindow
		}
		if p.Extent.Inline || !d.hasKey(p.Extent.Generation) || p.Len >= mergeWindow/4 {
			return true
		}
		if k := len(window); k > 0 && window[k-1].End() == p.Off {
			joins++
		}
		window = append(window, p)
		return true
	})
	if joins < mergeJoins {
		return nil, 0
	}
	return window, next
}

// merger works in the background on files that were flushed and are wasteful or ragged, each pinned.
type merger struct {
	v  *Volume
	wg sync.WaitGroup

	mu    sync.Mutex
	files map[*inode]bool
}

func (m *merger) start(ctx context.Context, v *Volume, every time.Duration) {
	m.v = v
	if every <= 0 {
		return
	}
	m.files = map[*inode]bool{}
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		repeat(ctx, every, func() { m.round(ctx) })
	}()
}

// stop waits for the worker, which ctx has ended, and lets go of the files.
func (m *merger) stop() {
	m.wg.Wait()
	for _, n := range m.list() {
		m.forget(n)
	}
}

// noticed records what a flush has left behind; flushMu is held.
func (m *merger) noticed(n *inode, d *fileData) {
	if !d.extents.wasteful(5, 4) && !d.ragged() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil || m.files[n] || m.v.shut.Load() {
		return
	}
	m.files[n] = true
	m.v.cache.mu.Lock()
	m.v.cache.hold(n)
	m.v.cache.mu.Unlock()
}

func (m *merger) list() []*inode {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*inode, 0, len(m.files))
	for n := range m.files {
		out = append(out, n)
	}
	return out
}

func (m *merger) forget(n *inode) {
	m.mu.Lock()
	known := m.files[n]
	delete(m.files, n)
	m.mu.Unlock()
	if known {
		m.v.put(n)
	}
}

// round gives each file its turn.
func (m *merger) round(ctx context.Context) {
	for _, n := range m.list() {
		for done := int64(0); done < mergeRate && ctx.Err() == nil; done += mergeStep {
			more, beside, err := m.step(n)
			if err != nil {
				m.v.log.Warn("extents were not merged", "inode", uint64(n.ino), "err", err)
			}
			if err != nil || !more {
				m.forget(n)
				break
			}
			if beside || m.v.written(n) {
				break // its writer has the disk first
			}
		}
	}
}

// step merges once, and reports whether there is more to do, and whether others have flushed the file since the last step.
func (m *merger) step(n *inode) (more, beside bool, err error) {
	n.flushMu.Lock()
	defer n.flushMu.Unlock()
	n.mu.RLock()
	d := n.data
	open := d != nil && d.opens > 0 && n.row.Nlink > 0
	n.mu.RUnlock()
	if !open {
		return false, false, nil
	}
	if err := m.v.loadExtents(n, d); err != nil {
		return false, false, err
	}
	if d.merge.over || !d.extents.wasteful(5, 4) && !d.ragged() {
		return false, false, nil
	}
	budget := int64(mergeStep)
	if beside = d.merge.flushes > 0; beside {
		budget = mergeBeside
	}
	err = m.v.flushLocked(n, flushOptions{merge: budget})
	d.merge.flushes = 0
	if err != nil {
		return false, false, fmt.Errorf("merge: %w", err)
	}
	return true, beside, nil
}

// written reports whether a file has dirty bytes.
func (v *Volume) written(n *inode) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	d := n.data
	if d == nil {
		return false
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.dirty.bytes > 0
}
