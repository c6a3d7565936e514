package mount

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
)

// openTries bounds how often an open looks again because the file's keys changed meanwhile.
const openTries = 16

// contextARN is the pair of the encryption context that S3 itself adds.
const contextARN = "aws:s3:arn"

// order decides which encryption a new object gets: the mount option, else the directory's default, else the bucket's. The file's own
// choice, which goes before all of them, is the caller's business.
func (s *Session) order(b *bucketView, dir Ino) (choice, error) {
	if s.override.method != fs.None {
		return s.override, nil
	}
	if dir != b.ino && dir != 0 {
		d, err := s.vol.Default(dir)
		if err != nil {
			return choice{}, err
		}
		if d.Value != "" {
			return parseSSE(d.Value)
		}
	}
	return b.def, b.defErr
}

// reorder decides which encryption an emptied file gets: its own choice if it has one, else what a new one would get now.
func (s *Session) reorder(b *bucketView, ino Ino, now fs.Sealing) (choice, error) {
	if now.Explicit {
		return choiceOf(now), nil
	}
	if s.override.method != fs.None {
		return s.override, nil
	}
	dir, err := s.dirOf(b, ino)
	if err != nil {
		return choice{}, err
	}
	return s.order(b, dir)
}

// choiceOf is the encryption that a file has, as a choice.
func choiceOf(now fs.Sealing) choice {
	c := choice{method: now.Method, key: now.KeyARN, bucketKey: now.BucketKey, header: true, explicit: true}
	for k, v := range now.Context {
		if k != contextARN {
			if c.context == nil {
				c.context = crypto.Context{}
			}
			c.context[k] = v
		}
	}
	return c
}

// dirOf finds the directory of a file's first name; 0 if it has none any more.
func (s *Session) dirOf(b *bucketView, ino Ino) (Ino, error) {
	keys, err := s.keysOf(ino)()
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	dir := b.ino
	parts := strings.Split(keys[0], "/")
	for _, p := range parts[:len(parts)-1] {
		a, err := s.vol.Lookup(dir, p)
		if errors.Is(err, ErrNotFound) {
			return 0, nil // moved meanwhile
		}
		if err != nil {
			return 0, err
		}
		dir = a.Ino
	}
	return dir, nil
}

// putRequest are the condition keys of a PutObject that asks for an encryption, resolved when a policy wants to know.
type putRequest struct {
	s *Session
	c choice
}

// Lookup implements policy.Keys.
func (p putRequest) Lookup(name string) ([]string, bool) {
	if !p.c.header {
		return nil, false
	}
	k := putKeys{method: p.c.method.String()}
	if p.c.key != "" {
		if arn, err := p.s.cfg.Keystore.Resolve(p.c.key); err == nil {
			k.arn = arn
		}
	}
	return k.Lookup(name)
}

// birth draws a data key for an object that is made or emptied, wrapped as the choice says. This is the KMS gate of writing: for a
// KMS key it asks for kms:GenerateDataKey.
func (s *Session) birth(v *view, c Caller, op string, b *bucketView, ch choice, names keysFunc, ino Ino) (fs.Sealing, *crypto.DataKey, error) {
	if ch.method == fs.SSES3 {
		dk, wrapped, err := s.cfg.Keystore.GenerateStoreKey(nil)
		if err != nil {
			return fs.Sealing{}, nil, kmsError("generate data key", err)
		}
		return fs.Sealing{Method: fs.SSES3, Explicit: ch.explicit, Keys: []fs.FileKey{{Generation: 1, Wrapped: wrapped}}}, dk, nil
	}
	keys, err := names()
	if err != nil {
		return fs.Sealing{}, nil, err
	}
	if len(keys) == 0 {
		return fs.Sealing{}, nil, fmt.Errorf("new data key for a file without a name: %w", ErrStale)
	}
	ctx, err := contextFor(b, keys[0], ch)
	if err != nil {
		return fs.Sealing{}, nil, err
	}
	call, err := s.call(v, c, op, b, keys[0], ino)
	if err != nil {
		return fs.Sealing{}, nil, err
	}
	key, err := s.keyOf(ch)
	if err != nil {
		return fs.Sealing{}, nil, err
	}
	var dk *crypto.DataKey
	var wrapped crypto.WrappedKey
	var arn string
	if ch.bucketKey {
		dk, wrapped, arn, err = s.underBucketKey(v, call, key, ctx)
	} else {
		dk, wrapped, arn, err = s.cfg.Keystore.GenerateDataKey(call, key, ctx)
	}
	if err != nil {
		return fs.Sealing{}, nil, kmsError("generate data key", err)
	}
	return fs.Sealing{
		Method: fs.SSEKMS, KeyARN: arn, Context: ctx, BucketKey: ch.bucketKey, Explicit: ch.explicit,
		Keys: []fs.FileKey{{Generation: 1, Wrapped: wrapped}},
	}, dk, nil
}

// keyOf names the key of a choice to the keystore: aws/s3 if it says none.
func (s *Session) keyOf(ch choice) (string, error) {
	if ch.key != "" {
		return ch.key, nil
	}
	arn, err := s.cfg.Keystore.ManagedS3Key()
	return arn, kmsError("aws/s3", err)
}

// contextFor is the encryption context of an object: S3's pair, and what the choice adds.
func contextFor(b *bucketView, key string, ch choice) (crypto.Context, error) {
	ctx := crypto.Context{}
	maps.Copy(ctx, ch.context)
	arn := ObjectARN(b.name, key)
	if ch.bucketKey {
		arn = b.arn
	}
	if got, ok := ctx[contextARN]; ok && got != arn {
		return nil, fmt.Errorf("encryption context: %s is not the object's: %w", contextARN, ErrInvalid)
	}
	ctx[contextARN] = arn
	return ctx, nil
}

// unwrap opens all generations of a file's data key. This is the KMS gate of reading and changing: for a KMS key it asks for kms:Decrypt.
func (s *Session) unwrap(v *view, c Caller, op string, b *bucketView, ino Ino, sealing fs.Sealing) (fs.Keys, error) {
	keys := make(fs.Keys, len(sealing.Keys))
	call := sync.OnceValues(func() (*keystore.Call, error) { return s.callOn(v, c, op, b, ino) })
	for _, k := range sealing.Keys {
		dk, err := s.openKey(v, sealing, k.Wrapped, call)
		if err != nil {
			keys.Wipe()
			return nil, kmsError("data key", err)
		}
		keys[k.Generation] = dk
	}
	return keys, nil
}

// callOn is call for an inode that exists.
func (s *Session) callOn(v *view, c Caller, op string, b *bucketView, ino Ino) (*keystore.Call, error) {
	keys, err := s.keysOf(ino)()
	if err != nil {
		return nil, err
	}
	var key string
	if len(keys) > 0 {
		key = keys[0]
	}
	return s.call(v, c, op, b, key, ino)
}

// Create makes a regular file and opens it. If the name exists already, it is opened instead, unless flags say Exclusive.
func (s *Session) Create(c Caller, parent Ino, name string, mode uint32, f OpenFlags) (Attr, *Handle, error) {
	a, h, err := s.create(c, parent, name, mode, &f)
	if !errors.Is(err, ErrExists) || f.Exclusive {
		return a, h, err
	}
	if a, err = s.Lookup(c, parent, name); err != nil {
		return Attr{}, nil, err
	}
	if h, err = s.Open(c, a.Ino, f); err != nil {
		return Attr{}, nil, err
	}
	if f.Truncate {
		a, err = s.vol.Attr(a.Ino)
	}
	return a, h, err
}

// create makes a regular file, and opens it unless f is nil.
func (s *Session) create(c Caller, parent Ino, name string, mode uint32, f *OpenFlags) (Attr, *Handle, error) {
	if err := s.writable(); err != nil {
		return Attr{}, nil, err
	}
	if err := s.roomToOpen(); f != nil && err != nil {
		return Attr{}, nil, err
	}
	at := s.hub.stamp()
	v := s.view()
	b, err := s.bucketOf(v, parent)
	if err != nil {
		return Attr{}, nil, err
	}
	ch, err := s.order(b, parent)
	if err != nil {
		return Attr{}, nil, err
	}
	names := s.childKeys(parent, name)
	if err := v.object(b, actPut, names, allNames, putRequest{s, ch}); err != nil {
		return Attr{}, nil, err
	}
	if ch.method == fs.SSEKMS {
		if _, err := s.vol.Lookup(parent, name); err == nil {
			return Attr{}, nil, ErrExists // no key is asked for, and no event written, where another mount made the name meanwhile
		}
	}
	sealing, dk, err := s.birth(v, c, "create", b, ch, names, 0)
	if err != nil {
		return Attr{}, nil, err
	}
	defer dk.Wipe()
	a, err := s.make(c, parent, name, fs.New{Type: Regular, Mode: mode, Sealing: sealing, Later: f != nil && f.Write})
	if err != nil || f == nil {
		return a, nil, err
	}
	file, err := s.vol.OpenFile(a.Ino, fs.Keys{sealing.Keys[0].Generation: dk}, nil)
	if errors.Is(err, ErrStale) { // re-keyed by somebody else before it was open
		f.Truncate = false
		h, err := s.Open(c, a.Ino, *f)
		return a, h, err
	}
	if err != nil {
		return Attr{}, nil, err
	}
	return a, s.newHandle(v, at, c, b, a.Ino, *f, file, sealing, true), nil
}

// Open opens a regular file. Both gates are passed before anything is discarded.
func (s *Session) Open(c Caller, ino Ino, f OpenFlags) (*Handle, error) {
	if f.Truncate {
		f.Write = true
	}
	if f.Write {
		if err := s.writable(); err != nil {
			return nil, err
		}
	}
	if err := s.roomToOpen(); err != nil {
		return nil, err
	}
	for range openTries {
		h, err := s.openOnce(c, ino, f)
		if !errors.Is(err, ErrStale) {
			return h, err
		}
	}
	return nil, fmt.Errorf("open inode %d: its keys keep changing: %w", ino, ErrStale)
}

func (s *Session) openOnce(c Caller, ino Ino, f OpenFlags) (*Handle, error) {
	a, err := s.vol.Attr(ino)
	if err != nil {
		return nil, err
	}
	switch a.Type {
	case Regular:
	case Directory:
		return nil, ErrIsDir
	default:
		return nil, fmt.Errorf("open: not a regular file: %w", ErrInvalid)
	}
	at := s.hub.stamp()
	v := s.view()
	b, err := s.bucketOf(v, ino)
	if err != nil {
		return nil, err
	}
	sealing, err := s.vol.Sealing(ino)
	if err != nil {
		return nil, err
	}
	if f.Read {
		if err := v.object(b, actGet, s.keysOf(ino), anyName, nil); err != nil {
			return nil, err
		}
	}
	if f.Truncate {
		return s.openEmptied(v, at, c, b, ino, f, sealing)
	}
	// A drop-box principal may fill a file that is still empty: that is a PutObject, with a data key of its own.
	if f.Write && !f.Read && !f.Append && a.Size == 0 && sealing.Method == fs.SSEKMS {
		h, err := s.openEmpty(v, at, c, b, ino, f, sealing)
		if !errors.Is(err, errFilled) {
			return h, err
		}
	}
	if f.Write {
		if err := v.object(b, actPut, s.keysOf(ino), allNames, nil); err != nil {
			return nil, err
		}
	}
	keys, err := s.unwrap(v, c, "open", b, ino, sealing)
	if err != nil {
		return nil, err
	}
	defer keys.Wipe()
	file, err := s.vol.OpenFile(ino, keys, nil)
	if err != nil {
		return nil, err
	}
	return s.newHandle(v, at, c, b, ino, f, file, sealing, false), nil
}

// openEmptied is O_TRUNC: a fresh data key first, then the old content goes, in one step.
func (s *Session) openEmptied(v *view, at stamp, c Caller, b *bucketView, ino Ino, f OpenFlags, now fs.Sealing) (*Handle, error) {
	ch, err := s.reorder(b, ino, now)
	if err != nil {
		return nil, err
	}
	if err := v.object(b, actPut, s.keysOf(ino), allNames, putRequest{s, ch}); err != nil {
		return nil, err
	}
	sealing, dk, err := s.birth(v, c, "truncate", b, ch, s.keysOf(ino), ino)
	if err != nil {
		return nil, err
	}
	defer dk.Wipe()
	sealing.Explicit = now.Explicit
	g := s.hub.growth(ino)
	g.RLock()
	file, err := s.vol.OpenFile(ino, nil, &fs.Truncation{Sealing: sealing, Key: dk})
	t := s.hub.tell(s)
	if err == nil {
		if f.KillPriv {
			s.killPriv(ino)
		}
		t.inode(ino, 0, 0)
	}
	g.RUnlock()
	if err != nil {
		return nil, err
	}
	if now.Method != sealing.Method || now.KeyARN != sealing.KeyARN {
		s.hub.Resealed()
	}
	h := s.newHandle(v, at, c, b, ino, f, file, sealing, true)
	t.done()
	return h, nil
}

// errFilled says that a file is not empty any more.
var errFilled = errors.New("no longer empty")

// openEmpty opens an empty file under a KMS key for writing: it gets a fresh data key, as if it were made now.
func (s *Session) openEmpty(v *view, at stamp, c Caller, b *bucketView, ino Ino, f OpenFlags, now fs.Sealing) (*Handle, error) {
	ch, err := s.reorder(b, ino, now)
	if err != nil {
		return nil, err
	}
	if err := v.object(b, actPut, s.keysOf(ino), allNames, putRequest{s, ch}); err != nil {
		return nil, err
	}
	sealing, dk, err := s.birth(v, c, "open", b, ch, s.keysOf(ino), ino)
	if err != nil {
		return nil, err
	}
	defer dk.Wipe()
	sealing.Explicit = now.Explicit
	if err := s.vol.Rekey(ino, now, sealing, dk); errors.Is(err, ErrInvalid) {
		return nil, errFilled
	} else if err != nil {
		return nil, err
	}
	s.hub.InodeChanged(nil, ino, -1, 0) // ctime
	if sealing, err = s.vol.Sealing(ino); err != nil {
		return nil, err
	}
	file, err := s.vol.OpenFile(ino, fs.Keys{sealing.Current(): dk}, nil)
	if err != nil {
		return nil, err
	}
	if now.KeyARN != sealing.KeyARN {
		s.hub.Resealed()
	}
	return s.newHandle(v, at, c, b, ino, f, file, sealing, true), nil
}

// killPriv clears set-id bits where there are any.
func (s *Session) killPriv(ino Ino) {
	a, err := s.vol.Attr(ino)
	if err != nil || a.Mode&0o6000 == 0 {
		return
	}
	if _, err := s.vol.SetAttr(ino, fs.Change{KillPriv: true}); err != nil {
		s.log.Error("set-id bits stay after a write", "inode", ino, "err", err)
	}
}

// truncate changes a file's size: through a handle, or as truncate(2) does.
func (s *Session) truncate(c Caller, ino Ino, h *Handle, size int64, killPriv bool) error {
	if size < 0 {
		return ErrInvalid
	}
	if h != nil {
		return h.Truncate(size, killPriv)
	}
	f := OpenFlags{Write: true, Truncate: size == 0, Append: size > 0, KillPriv: killPriv}
	h, err := s.Open(c, ino, f)
	if err != nil {
		return err
	}
	if size > 0 {
		err = h.Truncate(size, killPriv)
	}
	return errors.Join(err, h.Close())
}
