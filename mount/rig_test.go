package mount

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals"
)

const account = "000000000000"

// world is a store in memory with the principals, keys and buckets of the truth table.
type world struct {
	t          testing.TB
	vol        *fs.Volume
	keys       *keystore.Service
	audit      *audit.Log
	recorder   recorder // what the keystore has as its log
	principals *principals.Store
	hub        *Hub
	key        string // ARN of alias/my-key
}

// recorder passes events on to the log of its world, unless it is deaf.
type recorder struct {
	*world
	deaf atomic.Bool
}

func (r *recorder) Append(e *audit.Event) error {
	if r.deaf.Load() {
		return nil
	}
	return r.audit.Append(e)
}

func userARN(name string) string { return "arn:aws:iam::" + account + ":user/" + name }

func newWorld(t testing.TB) *world { return newWorldOn(t, memkv.New(), memextent.New()) }

// newWorldOn makes a world whose files are in the given stores.
func newWorldOn(t testing.TB, rows kv.Store, extents extent.Store) *world {
	t.Helper()
	w := &world{t: t}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w.recorder.world = w
	root := crypto.NewDataKey()
	l, err := ledger.Open(sealed.New(memkv.New(), root.Derive(nil, "ledger")), root.Derive(nil, "ledger root"))
	w.ok(err)
	w.audit, err = audit.Open(t.TempDir(), bytes.Repeat([]byte{7}, 32), audit.Options{Clock: time.Now, Logger: log})
	w.ok(err)
	w.principals, err = principals.Open(l, account, time.Now)
	w.ok(err)
	w.keys, err = keystore.Open(keystore.Config{
		Ledger: l, Root: root, ShredFile: path.Join(t.TempDir(), "shred"), Audit: &w.recorder, Account: account, Region: "us-east-1",
		Clock: time.Now, Logger: log, Principals: w.principals,
	})
	w.ok(err)
	w.vol, err = fs.Open(fs.Config{
		KV: sealed.New(rows, root.Derive(nil, "rows")), Extents: extents, Key: root.Derive(nil, "meta"), Clock: time.Now, Log: log,
	})
	w.ok(err)
	w.hub = NewHub(HubConfig{Volume: w.vol, Keystore: w.keys, Principals: w.principals, Log: log})
	t.Cleanup(func() {
		w.hub.Close()
		w.ok(w.vol.Close())
		w.ok(w.keys.Close())
		w.ok(w.audit.Close())
	})
	return w
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// user makes a principal with attached policies; a policy that begins with "{" is stored under a name first.
func (w *world) user(name string, policies ...string) {
	w.t.Helper()
	names := make([]string, len(policies))
	for i, p := range policies {
		names[i] = p
		if strings.HasPrefix(p, "{") {
			names[i] = fmt.Sprintf("%s-%d", name, i)
			w.ok(w.principals.PutPolicy(names[i], []byte(p)))
		}
	}
	_, err := w.principals.Create(name, nil, names)
	w.ok(err)
}

func (w *world) call(name string) *keystore.Call {
	who, err := w.principals.Identity(name)
	w.ok(err)
	return &keystore.Call{Who: who}
}

// as opens a session for a principal.
func (w *world) as(name string, o ...Options) *user {
	w.t.Helper()
	var opts Options
	if len(o) > 0 {
		opts = o[0]
	}
	s, err := NewSession(SessionConfig{
		Volume: w.vol, Keystore: w.keys, Principals: w.principals, Principal: name, Options: opts, Hub: w.hub, Clock: time.Now,
		Log: slog.New(slog.DiscardHandler),
	})
	w.ok(err)
	w.t.Cleanup(func() { w.ok(s.Close()) })
	return &user{w: w, s: s}
}

// user drives a session by paths, as a shell would.
type user struct {
	w *world
	s *Session
	c Caller
}

func (u *user) walk(p string) (Attr, error) {
	a := Attr{Ino: RootIno, Type: Directory}
	for part := range strings.SplitSeq(p, "/") {
		var err error
		if a, err = u.s.Lookup(u.c, a.Ino, part); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (u *user) dir(p string) (Ino, string, error) {
	d, name := path.Split(p)
	if d == "" {
		return RootIno, name, nil
	}
	a, err := u.walk(strings.TrimSuffix(d, "/"))
	return a.Ino, name, err
}

func (u *user) mkdir(p string) error {
	d, name, err := u.dir(p)
	if err == nil {
		_, err = u.s.Mkdir(u.c, d, name, 0o755)
	}
	return err
}

// open is open(2): it looks up, creates, and opens.
func (u *user) open(p string, flags int) (*Handle, error) {
	d, name, err := u.dir(p)
	if err != nil {
		return nil, err
	}
	acc := flags & syscall.O_ACCMODE
	f := OpenFlags{
		Read: acc != os.O_WRONLY, Write: acc != os.O_RDONLY, Append: flags&os.O_APPEND != 0, Truncate: flags&os.O_TRUNC != 0,
		Exclusive: flags&os.O_EXCL != 0,
	}
	a, err := u.s.Lookup(u.c, d, name)
	switch {
	case err == nil && f.Exclusive && flags&os.O_CREATE != 0:
		return nil, ErrExists
	case err == nil:
		return u.s.Open(u.c, a.Ino, f)
	case errors.Is(err, ErrNotFound) && flags&os.O_CREATE != 0:
		_, h, err := u.s.Create(u.c, d, name, 0o644, f)
		return h, err
	}
	return nil, err
}

func (u *user) cat(p string) (string, error) {
	h, err := u.open(p, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer h.Close()
	return read(h)
}

func read(h *Handle) (string, error) {
	buf := make([]byte, 1<<20)
	n, err := h.ReadAt(buf, 0)
	return string(buf[:n]), err
}

func (u *user) write(p, text string, flags int) error {
	h, err := u.open(p, flags)
	if err != nil {
		return err
	}
	if h.flags.Append {
		_, err = h.Append([]byte(text), false, nil)
	} else {
		_, err = h.WriteAt([]byte(text), 0, false)
	}
	return errors.Join(err, h.Flush(), h.Close())
}

// cp is cp(1) of a short text to a new or existing file.
func (u *user) cp(p, text string) error {
	if _, err := u.walk(p); err == nil {
		return u.write(p, text, os.O_WRONLY|os.O_TRUNC)
	}
	return u.write(p, text, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
}

func (u *user) touch(p string) error {
	h, err := u.open(p, os.O_WRONLY|os.O_CREATE)
	if err != nil {
		return err
	}
	return h.Close()
}

func (u *user) mv(from, to string) error {
	d1, n1, err := u.dir(from)
	if err != nil {
		return err
	}
	d2, n2, err := u.dir(to)
	if err != nil {
		return err
	}
	_, err = u.s.Rename(u.c, d1, n1, d2, n2, 0)
	return err
}

func (u *user) rm(p string) error {
	d, name, err := u.dir(p)
	if err == nil {
		err = u.s.Unlink(u.c, d, name)
	}
	return err
}

func (u *user) truncate(p string, n int64) error {
	a, err := u.walk(p)
	if err == nil {
		_, err = u.s.SetAttr(u.c, a.Ino, nil, Change{Size: &n})
	}
	return err
}

func (u *user) chmod(p string, mode uint32) error {
	a, err := u.walk(p)
	if err == nil {
		_, err = u.s.SetAttr(u.c, a.Ino, nil, Change{Mode: &mode})
	}
	return err
}

func (u *user) getx(p, name string) (string, error) {
	a, err := u.walk(p)
	if err != nil {
		return "", err
	}
	v, err := u.s.GetXattr(u.c, a.Ino, name)
	return string(v), err
}

func (u *user) setx(p, name, value string) error {
	a, err := u.walk(p)
	if err == nil {
		err = u.s.SetXattr(u.c, a.Ino, name, []byte(value), XattrEither)
	}
	return err
}

func (u *user) rmx(p, name string) error {
	a, err := u.walk(p)
	if err == nil {
		err = u.s.RemoveXattr(u.c, a.Ino, name)
	}
	return err
}

func (u *user) ls(p string) ([]string, error) {
	ino := RootIno
	if p != "" {
		a, err := u.walk(p)
		if err != nil {
			return nil, err
		}
		ino = a.Ino
	}
	d, err := u.s.OpenDir(u.c, ino)
	if err != nil {
		return nil, err
	}
	var names []string
	err = d.Read(0, func(e Dirent) bool {
		names = append(names, e.Name)
		return true
	})
	return names, err
}

func (u *user) link(p, to string) error {
	a, err := u.walk(p)
	if err != nil {
		return err
	}
	d, name, err := u.dir(to)
	if err == nil {
		_, err = u.s.Link(u.c, a.Ino, d, name)
	}
	return err
}
