package backup

import (
	"errors"
	"fmt"
)

// writer gathers the blobs of one snapshot: what the last one has is named, the rest goes into packs.
type writer struct {
	keys  *keys
	store [16]byte
	files Files

	old     []packRef
	known   map[id]place // of the last snapshot
	fresh   map[id]bool  // added by this one
	used    []bool       // by index in old: something in it is needed
	pack    *packWriter
	made    []packRef
	added   int64 // bytes of new blobs
	all     int64 // bytes of all blobs
	damaged int   // packs of the last snapshot that could not be used
}

// place is where the last snapshot has a blob.
type place struct {
	pack   int
	length uint32
}

// base takes the packs of the last snapshot. One that is damaged is left out, so that what was in it is copied again.
func (w *writer) base(refs []packRef) error {
	sizes, err := w.files.List(dirPacks)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	w.old, w.used, w.known, w.fresh = refs, make([]bool, len(refs)), map[id]place{}, map[id]bool{}
	for i, ref := range refs {
		p, err := openPack(w.files, sizes, w.keys, w.store, ref)
		if errors.Is(err, ErrDamaged) {
			w.damaged++
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range p.index {
			w.known[e.name] = place{i, e.length}
		}
	}
	return nil
}

// has says whether a blob is there, and counts it as needed.
func (w *writer) has(name id) bool {
	if at, ok := w.known[name]; ok {
		w.used[at.pack] = true
		w.all += int64(at.length)
		return true
	}
	return w.fresh[name]
}

// chunk adds a chunk unless it is there.
func (w *writer) chunk(kd kind, b []byte) (id, error) {
	name := w.keys.chunk(kd, b)
	if w.has(name) {
		return name, nil
	}
	return name, w.put(kd, name, name, b)
}

func (w *writer) put(kd kind, name, mac id, b []byte) error {
	if w.pack != nil && w.pack.at >= packLimit {
		if err := w.finishPack(); err != nil {
			return err
		}
	}
	if w.pack == nil {
		w.pack = newPack(w.files, w.keys, w.store)
	}
	if err := w.pack.add(kd, name, mac, b); err != nil {
		return err
	}
	w.fresh[name] = true
	w.added += int64(len(b))
	w.all += int64(len(b))
	return nil
}

func (w *writer) finishPack() error {
	p := w.pack
	if p == nil {
		return nil
	}
	w.pack = nil
	ref, err := p.finish()
	if err == nil {
		w.made = append(w.made, ref)
	}
	return err
}

// finish makes the packs durable and returns those that the snapshot needs.
func (w *writer) finish() ([]packRef, error) {
	if err := w.finishPack(); err != nil {
		return nil, err
	}
	var refs []packRef
	for i, ref := range w.old {
		if w.used[i] {
			refs = append(refs, ref)
		}
	}
	return append(refs, w.made...), nil
}

// abandon removes the packs of a snapshot that did not come about.
func (w *writer) abandon() error {
	var errs []error
	if w.pack != nil {
		errs = append(errs, w.pack.abandon())
	}
	for _, ref := range w.made {
		errs = append(errs, w.files.Remove(ref.name()))
	}
	return errors.Join(errs...)
}
