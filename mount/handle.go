package mount

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Handle is an open file. It remembers what its rights rest on, and decides anew when that changed: a handle that lost its right seals
// and commits what was written before, wipes its keys and refuses from then on. If the right comes back, so does the handle, unless it
// rested on a data key that its principal may not ask for.
type Handle struct {
	s      *Session
	ino    Ino
	bucket Ino
	caller Caller
	flags  OpenFlags
	direct bool        // the kernel must not cache through this handle
	locked atomic.Bool // something was locked through it

	epoch atomic.Uint64 // the hub's, when this handle last decided

	// mu is held for reading while file is used.
	mu      sync.RWMutex
	file    *fs.File // nil: closed, or the right is lost
	refused error    // why the right is lost
	ending  *ending  // of what was written before the right was lost
	closed  bool

	key atomic.Pointer[string] // ARN of the KMS key that the content is under; empty: of none

	// What the last decision rested on; guarded by mu.
	fresh                                       bool // the data key came from GenerateDataKey, not from Decrypt
	who                                         *policy.Identity
	method                                      fs.Method
	keyARN                                      string
	context                                     crypto.Context
	keys                                        []string // object keys as last seen, for a file that has lost its names
	policyEpoch, nameEpoch, sealEpoch, keyEpoch uint64
}

// stamp is the state of the hub's counters before a decision: what changes after it makes the handle decide again.
type stamp struct{ name, seal, keys uint64 }

func (h *Hub) stamp() stamp {
	return stamp{h.nameEpoch.Load(), h.sealEpoch.Load(), h.keysChanged.Load()}
}

func (s *Session) newHandle(v *view, at stamp, c Caller, b *bucketView, ino Ino, f OpenFlags, file *fs.File, sealing fs.Sealing, fresh bool) *Handle {
	h := &Handle{
		s: s, ino: ino, bucket: b.ino, caller: c, flags: f, file: file,
		fresh: fresh, who: v.who, method: sealing.Method, keyARN: sealing.KeyARN, context: sealing.Context,
	}
	h.key.Store(s.hub.intern(h.keyARN))
	h.direct = f.Append || s.hub.writtenElsewhere(ino, s)
	if f.Write {
		s.hub.writing(ino, s, 1)
	}
	if v.constant(b, actGet) == depends || v.constant(b, actPut) == depends {
		h.keys, _ = s.keysOf(ino)()
	}
	// h.epoch is 0: the first use decides again if anything happened since the stamp was taken.
	h.policyEpoch, h.nameEpoch, h.sealEpoch = v.epoch, at.name, at.seal
	if h.keyEpoch = s.hub.keyEpoch(h.keyARN); at.keys != s.hub.keysChanged.Load() {
		h.keyEpoch = ^uint64(0)
	}
	s.mu.Lock()
	s.handles[h] = struct{}{}
	s.opened.Add(1)
	s.mu.Unlock()
	return h
}

// Ino is the file.
func (h *Handle) Ino() Ino { return h.ino }

// Key is the ARN of the KMS key that the content read just now was under; empty: of none.
func (h *Handle) Key() *string { return h.key.Load() }

// Flags are those the file was opened with.
func (h *Handle) Flags() OpenFlags { return h.flags }

// Direct reports that the kernel must not cache through this handle: it appends, or another mount is writing.
func (h *Handle) Direct() bool { return h.direct }

// begin gives the open file for one use, after deciding anew if need be. The caller unlocks h.mu for reading afterwards, unless there
// is an error.
func (h *Handle) begin() (*fs.File, error) {
	if h.epoch.Load() != h.s.hub.epoch.Load() {
		if e := h.look(); e != nil {
			_ = e.finish() // Flush tells the writer
		}
	}
	h.mu.RLock()
	if h.file == nil {
		defer h.mu.RUnlock()
		if h.refused != nil {
			return nil, h.refused
		}
		return nil, ErrBadHandle
	}
	return h.file, nil
}

// ReadAt reads; short only at the end of the file.
func (h *Handle) ReadAt(p []byte, off int64) (int, error) {
	if !h.flags.Read {
		return 0, ErrBadHandle
	}
	f, err := h.begin()
	if err != nil {
		return 0, err
	}
	defer h.mu.RUnlock()
	return f.ReadAt(p, off)
}

// Size is the file's length in bytes; 0 if the right is lost.
func (h *Handle) Size() int64 {
	f, err := h.begin()
	if err != nil {
		return 0
	}
	defer h.mu.RUnlock()
	return f.Size()
}

// Show reads a file of exactly len(p) bytes into p and calls show. Until show returns, the content stays as it is on all mounts, and
// the right that was looked at stands: who ends it finds the handle afterwards. Show does not wait: if the file has another size, or
// content is being changed (of this file or, by chance, another), it returns false and nothing is shown. show may not use the volume.
func (h *Handle) Show(p []byte, show func()) bool {
	if !h.flags.Read {
		return false
	}
	f, err := h.begin()
	if err != nil {
		return false
	}
	defer h.mu.RUnlock()
	g := h.s.hub.growth(h.ino)
	if !g.TryLock() {
		return false
	}
	defer g.Unlock()
	if f.Size() != int64(len(p)) {
		return false
	}
	if n, err := f.ReadAt(p, 0); err != nil || n != len(p) {
		return false
	}
	show()
	return true
}

// WriteAt writes, and tells the other kernels.
func (h *Handle) WriteAt(p []byte, off int64, killPriv bool) (int, error) {
	if !h.flags.Write {
		return 0, ErrBadHandle
	}
	f, err := h.begin()
	if err != nil {
		return 0, err
	}
	g := h.s.hub.growth(h.ino)
	g.RLock()
	n, err := f.WriteAt(p, off)
	h.mu.RUnlock()
	t := h.wrote(off, int64(n), killPriv)
	g.RUnlock()
	t.done()
	return n, err
}

// Append writes at the true end of the file and says where that was. The handle's own kernel is not among those that are told: for its
// sake grown, which may be nil, is called before Settled returns to anybody who may have seen the new size, and must not wait for a
// kernel; what it returns is called next, and may.
func (h *Handle) Append(p []byte, killPriv bool, grown func(off int64) (drop func())) (off int64, err error) {
	if !h.flags.Write {
		return 0, ErrBadHandle
	}
	f, err := h.begin()
	if err != nil {
		return 0, err
	}
	g := h.s.hub.growth(h.ino)
	g.RLock()
	off, err = f.Append(p)
	h.mu.RUnlock()
	var t telling
	drop := func() {}
	if err == nil {
		t = h.wrote(off, int64(len(p)), killPriv)
		if grown != nil {
			drop = grown(off)
		}
	}
	g.RUnlock()
	drop()
	t.done()
	return off, err
}

// wrote posts what the other kernels must hear; the caller waits for them.
func (h *Handle) wrote(off, n int64, killPriv bool) telling {
	t := h.s.hub.tell(h.s)
	if n == 0 {
		return t
	}
	if killPriv {
		h.s.killPriv(h.ino)
	}
	t.inode(h.ino, off, n)
	return t
}

// Truncate sets the size.
func (h *Handle) Truncate(size int64, killPriv bool) error {
	if !h.flags.Write {
		return ErrBadHandle
	}
	f, err := h.begin()
	if err != nil {
		return err
	}
	g := h.s.hub.growth(h.ino)
	g.RLock()
	before := f.Size()
	err = f.Truncate(size)
	h.mu.RUnlock()
	t := h.s.hub.tell(h.s)
	if err == nil {
		if killPriv {
			h.s.killPriv(h.ino)
		}
		t.inode(h.ino, min(size, before), 0)
	}
	g.RUnlock()
	t.done()
	return err
}

// Punch makes a range read as zeros and gives its space back; the size stays.
func (h *Handle) Punch(off, n int64, killPriv bool) error {
	if !h.flags.Write {
		return ErrBadHandle
	}
	f, err := h.begin()
	if err != nil {
		return err
	}
	g := h.s.hub.growth(h.ino)
	g.RLock()
	err = f.Punch(off, n)
	h.mu.RUnlock()
	var t telling
	if err == nil {
		t = h.wrote(off, n, killPriv)
	}
	g.RUnlock()
	t.done()
	return err
}

// SeekData finds the next data (or hole) at or behind off. ErrNotFound: there is none.
func (h *Handle) SeekData(off int64, data bool) (int64, error) {
	f, err := h.begin()
	if err != nil {
		return 0, err
	}
	defer h.mu.RUnlock()
	if data {
		return f.SeekData(off)
	}
	return f.SeekHole(off)
}

// Flush seals and commits what was written: it is then safe from a crash of the process.
func (h *Handle) Flush() error {
	if !h.flags.Write {
		return nil
	}
	return h.settle(func(f *fs.File) error { return f.Flush() })
}

// Sync makes the file durable against power loss.
func (h *Handle) Sync(dataOnly bool) error {
	return h.settle(func(f *fs.File) error { return f.Sync(dataOnly) })
}

// settle does not ask for rights: what was answered belongs to the volume, whether the writer's right is still there or not.
func (h *Handle) settle(fn func(*fs.File) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.file != nil {
		return fn(h.file)
	}
	if h.closed {
		return ErrBadHandle
	}
	if h.ending == nil {
		return nil
	}
	return h.ending.finish()
}

// Close ends the handle. What was written stays with the volume.
func (h *Handle) Close() error {
	h.mu.Lock()
	file, was, ending := h.file, h.closed, h.ending
	h.file, h.closed = nil, true
	h.mu.Unlock()
	if was {
		return nil
	}
	if ending != nil {
		_ = ending.finish() // whoever wrote was told by Flush
	}
	s := h.s
	h.unlockAll()
	s.mu.Lock()
	delete(s.handles, h)
	s.mu.Unlock()
	s.opened.Add(-1)
	if h.flags.Write {
		s.hub.writing(h.ino, s, -1)
	}
	if file == nil {
		return nil
	}
	return file.Close()
}

// ending is an open file whose handle has lost its right: what was written through it is still to be sealed and committed.
type ending struct {
	file *fs.File
	once sync.Once
	err  error
}

// finish seals, commits and closes, which wipes the data keys unless somebody else has the file open. It says what went wrong with
// the data, each time it is called.
func (e *ending) finish() error {
	e.once.Do(func() {
		e.err = e.file.Flush()
		if err := e.file.Close(); e.err == nil {
			e.err = err
		}
	})
	return e.err
}

// look decides anew if something changed that the handle's right rests on. If the right was lost just now, the handle refuses from
// then on, and the caller has to finish what is returned.
func (h *Handle) look() *ending {
	hub := h.s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	now := hub.epoch.Load()
	if h.closed || h.epoch.Load() == now {
		return nil
	}
	err := h.decide()
	if errors.Is(err, ErrStale) {
		return nil // changed while looking: the next use decides
	}
	h.epoch.Store(now)
	if err == nil {
		h.refused = nil
		return nil
	}
	lost := h.file != nil
	h.refused = err
	if !lost {
		return nil
	}
	h.ending = &ending{file: h.file}
	h.file = nil
	h.s.log.Info("right lost while open", "inode", h.ino, "why", err)
	return h.ending
}

// decide asks the gates again, each only if something it rests on changed. mu is held.
func (h *Handle) decide() error {
	s := h.s
	v := s.view()
	names, seals := s.hub.nameEpoch.Load(), s.hub.sealEpoch.Load()
	if h.file == nil || v.epoch != h.policyEpoch || names != h.nameEpoch {
		if err := h.decideS3(v); err != nil {
			return err
		}
	}
	sealing := fs.Sealing{Method: h.method, KeyARN: h.keyARN, Context: h.context}
	resealed := seals != h.sealEpoch
	if resealed || h.file == nil {
		var err error
		if sealing, err = s.vol.Sealing(h.ino); err != nil {
			return err
		}
		resealed = sealing.Method != h.method || sealing.KeyARN != h.keyARN
	}
	keyEpoch := s.hub.keyEpoch(sealing.KeyARN)
	if h.file == nil || resealed || sealing.Method == fs.SSEKMS && (keyEpoch != h.keyEpoch || v.who != h.who || v.timed) {
		if err := h.decideKMS(v, sealing); err != nil {
			return err
		}
	}
	h.policyEpoch, h.nameEpoch, h.sealEpoch, h.keyEpoch = v.epoch, names, seals, keyEpoch
	h.who, h.method, h.keyARN, h.context = v.who, sealing.Method, sealing.KeyARN, sealing.Context
	if *h.key.Load() != h.keyARN {
		h.key.Store(s.hub.intern(h.keyARN))
	}
	return nil
}

func (h *Handle) decideS3(v *view) error {
	b, err := h.s.bucketView(v, h.bucket)
	if err != nil {
		return err
	}
	names := func() ([]string, error) {
		keys, err := h.s.keysOf(h.ino)()
		if err != nil {
			return nil, err
		}
		if len(keys) > 0 {
			h.keys = keys
		}
		if len(h.keys) == 0 {
			return nil, fmt.Errorf("the file has no name any more: %w", ErrAccess)
		}
		return h.keys, nil
	}
	if h.flags.Read {
		if err := v.object(b, actGet, names, anyName, nil); err != nil {
			return err
		}
	}
	if h.flags.Write {
		return v.object(b, actPut, names, allNames, putRequest{h.s, choice{method: h.method, key: h.keyARN, header: h.s.override.header}})
	}
	return nil
}

// decideKMS asks for the right that the handle was opened with. A handle that lost its file gets it back if keys can be had.
func (h *Handle) decideKMS(v *view, now fs.Sealing) error {
	s := h.s
	b, err := s.bucketView(v, h.bucket)
	if err != nil {
		return err
	}
	if h.fresh && h.file != nil && now.Method == fs.SSEKMS {
		call, err := s.callOn(v, h.caller, "revalidate", b, h.ino)
		if err != nil {
			return err
		}
		dk, _, _, err := s.cfg.Keystore.GenerateDataKey(call, now.KeyARN, now.Context)
		if err != nil {
			return kmsError("data key", err)
		}
		dk.Wipe()
		return nil
	}
	if len(now.Keys) == 0 {
		if now, err = s.vol.Sealing(h.ino); err != nil {
			return err
		}
	}
	keys, err := s.unwrap(v, h.caller, "revalidate", b, h.ino, now)
	if err != nil {
		return err
	}
	defer keys.Wipe()
	if h.file != nil {
		return nil
	}
	h.file, err = s.vol.OpenFile(h.ino, keys, nil)
	if err == nil {
		h.fresh = false
	}
	return err
}
