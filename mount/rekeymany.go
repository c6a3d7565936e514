package mount

import (
	"errors"
	"fmt"

	"github.com/kmsfs/kmsfs/fs"
)

// Rekeyer gives many files another key, each as user.s3.sse would and by the same rights, but many in one transaction. What a file
// has beside its key stays: further pairs of its encryption context, and whether it is under a bucket key. Its methods are safe for
// concurrent use on different files.
type Rekeyer struct {
	s    *Session
	c    Caller
	from string // only files under this key ARN (or AES256); "" for any
	to   string // key ARN, or AES256
	same bool   // also files that are under it already
}

// Rekeyed is what became of one file.
type Rekeyed struct {
	Ino    Ino
	From   string // key ARN, AES256, or "" if it is no file or was not looked at
	Change bool   // it has another key now, or would have
	Err    error
}

// Rekeyer makes one. from and to are key ARNs or AES256, from may be empty. again asks for a fresh data key for files under to as well.
func (s *Session) Rekeyer(c Caller, from, to string, again bool) *Rekeyer {
	return &Rekeyer{s: s, c: c, from: from, to: to, same: again}
}

// keyName is a file's key in the words of Rekeyer.
func keyName(s fs.Sealing) string {
	if s.Method == fs.SSEKMS {
		return s.KeyARN
	}
	return s.Method.String()
}

// Files re-keys files, or with dry only says what would change. No file may be there twice.
func (r *Rekeyer) Files(inos []Ino, dry bool) []Rekeyed {
	s := r.s
	s.vol.Warm(inos)
	out := make([]Rekeyed, len(inos))
	changes := make([]fs.KeyChange, 0, len(inos))
	var at, alone []int
	v := s.view()
	for i, ino := range inos {
		out[i].Ino = ino
		t, now, err := r.look(v, ino, &out[i])
		if err != nil || !out[i].Change || dry {
			out[i].Err = err
			continue
		}
		if !r.together(now, t.attr) {
			alone = append(alone, i)
			continue
		}
		to, fresh, err := s.toKey(t, now, r.choice(now))
		if err != nil {
			out[i].Change, out[i].Err = false, err
			continue
		}
		fresh.Wipe()
		to.Explicit = true
		changes, at = append(changes, fs.KeyChange{Ino: ino, From: now, To: to}), append(at, i)
	}
	tell := s.hub.tell(nil)
	for j, err := range s.vol.RekeyClosed(changes) {
		if errors.Is(err, fs.ErrOpen) || errors.Is(err, ErrStale) {
			alone = append(alone, at[j])
			continue
		}
		o := &out[at[j]]
		if o.Change, o.Err = err == nil, err; err == nil {
			tell.inode(o.Ino, 0, 0)
		}
	}
	if len(changes) > 0 {
		s.hub.Resealed()
	}
	tell.done()
	for _, i := range alone {
		out[i].Err = r.alone(&out[i])
		out[i].Change = out[i].Change && out[i].Err == nil
	}
	return out
}

// look finds out what a file is under and whether that shall change.
func (r *Rekeyer) look(v *view, ino Ino, o *Rekeyed) (*xattrTarget, fs.Sealing, error) {
	s := r.s
	a, err := s.vol.Attr(ino)
	if err != nil || a.Type != Regular {
		return nil, fs.Sealing{}, err
	}
	b, err := s.bucketOf(v, ino)
	if err != nil {
		return nil, fs.Sealing{}, err
	}
	if err := s.mayLook(v, b, ino, Regular); err != nil {
		return nil, fs.Sealing{}, err
	}
	now, err := s.vol.Sealing(ino)
	if err != nil {
		return nil, now, err
	}
	o.From = keyName(now)
	o.Change = (r.from == "" || o.From == r.from) && (o.From != r.to || r.same)
	return &xattrTarget{c: r.c, v: v, b: b, ino: ino, attr: a, keys: s.keysOf(ino)}, now, nil
}

// together reports whether a file goes the way of the many: it has content, and its data key goes to a KMS key.
func (r *Rekeyer) together(now fs.Sealing, a Attr) bool {
	return r.to != fs.SSES3.String() && a.Size > 0 && len(now.Keys) > 0
}

func (r *Rekeyer) choice(now fs.Sealing) choice {
	ch := choice{method: fs.SSES3, header: true, explicit: true}
	if r.to == ch.method.String() {
		return ch
	}
	if now.Method == fs.SSEKMS {
		ch = choiceOf(now)
	}
	ch.method, ch.key = fs.SSEKMS, r.to
	return ch
}

// alone re-keys a file that is open, empty, or goes to SSE-S3.
func (r *Rekeyer) alone(o *Rekeyed) error {
	for range openTries {
		v := r.s.view()
		t, now, err := r.look(v, o.Ino, o)
		if err != nil || !o.Change {
			return err
		}
		err = r.once(t, now)
		if !errors.Is(err, ErrStale) {
			return err
		}
	}
	return fmt.Errorf("re-key inode %d: its keys keep changing: %w", o.Ino, ErrStale)
}

func (r *Rekeyer) once(t *xattrTarget, now fs.Sealing) error {
	ch := r.choice(now)
	if ch.method == fs.SSES3 || keyName(now) != r.to && t.attr.Size == 0 {
		return r.s.rekeyOnce(t, ch)
	}
	to, fresh, err := r.s.toKey(t, now, ch)
	if err != nil {
		return err
	}
	defer fresh.Wipe()
	to.Explicit = true
	return r.s.rekeyed(t, now, to, fresh)
}

// Unfinished reports whether a file under the new key has content, perhaps, under older data keys than its current one.
func (r *Rekeyer) Unfinished(ino Ino) bool {
	now, err := r.s.vol.Sealing(ino)
	return err == nil && keyName(now) == r.to && len(now.Keys) > 1
}

// Renew seals a file's content anew under its current data key: a copy onto itself, by who may read and write it. It says how many
// bytes. The older data keys go with DropOldKeys, after the epoch was closed. more is asked now and then; its error ends the work.
func (r *Rekeyer) Renew(ino Ino, more func() error) (int64, error) {
	s := r.s
	for range openTries {
		v := s.view()
		b, err := s.bucketOf(v, ino)
		if err == nil {
			err = v.object(b, actGet, s.keysOf(ino), anyName, nil)
		}
		if err == nil {
			err = v.object(b, actPut, s.keysOf(ino), allNames, putRequest{s, r.choice(fs.Sealing{})})
		}
		var now fs.Sealing
		if err == nil {
			now, err = s.vol.Sealing(ino)
		}
		if err != nil {
			return 0, err
		}
		if len(now.Keys) < 2 {
			return 0, nil
		}
		n, err := r.renew(v, b, ino, now, more)
		if !errors.Is(err, ErrStale) {
			return n, err
		}
	}
	return 0, fmt.Errorf("seal inode %d anew: its keys keep changing: %w", ino, ErrStale)
}

func (r *Rekeyer) renew(v *view, b *bucketView, ino Ino, now fs.Sealing, more func() error) (n int64, err error) {
	keys, err := r.s.unwrap(v, r.c, "rewrite", b, ino, now)
	if err != nil {
		return 0, err
	}
	defer keys.Wipe()
	f, err := r.s.vol.OpenFile(ino, keys, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Renew(more)
}

// DefaultKey is the ARN of the key that a default gives to new files: of a bucket, or of a directory (value as user.s3.sse writes it).
// AES256 for SSE-S3.
func (s *Session) DefaultKey(b *fs.Bucket, value string) (string, error) {
	var ch choice
	var err error
	if b != nil {
		ch, err = parseEncryption(b.Encryption)
	} else {
		ch, err = parseSSE(value)
	}
	if err != nil || ch.method == fs.SSES3 {
		return fs.SSES3.String(), err
	}
	if ch.key == "" {
		ch.key = "alias/aws/s3"
	}
	arn, err := s.cfg.Keystore.Resolve(ch.key)
	return arn, kmsError("default", err)
}
