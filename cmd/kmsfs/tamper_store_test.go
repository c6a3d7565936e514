package main

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/mount"
)

// image is a store's directory in memory, without the zeros.
type image map[string]*blob

type blob struct {
	b     []byte
	pages []int // offsets of pages that are not zeros
}

const page = 4096

func newBlob(b []byte) *blob {
	f := &blob{b: b}
	zero := make([]byte, page)
	for at := 0; at < len(b); at += page {
		if p := b[at:min(at+page, len(b))]; !bytes.Equal(p, zero[:len(p)]) {
			f.pages = append(f.pages, at)
		}
	}
	return f
}

// readImage reads all files of a store. If it is open, compaction may go on while its files are read one after the other; what is read
// twice alike is what they all were in between.
func readImage(t *testing.T, dir string) image {
	t.Helper()
	var last image
	for range 1000 {
		im, err := readFiles(dir)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if maps.EqualFunc(im, last, func(a, b *blob) bool { return bytes.Equal(a.b, b.b) }) {
			return im
		}
		last = im
	}
	t.Fatal("the store's files do not come to rest")
	return nil
}

func readFiles(dir string) (image, error) {
	im := image{}
	err := filepath.WalkDir(dir, func(p string, d iofs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if rel != "lock" && rel != "daemon.log" {
			im[rel] = newBlob(b)
		}
		return err
	})
	return im, err
}

func (f *blob) write(name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = out.Truncate(int64(len(f.b)))
	for _, at := range f.pages {
		if err == nil {
			_, err = out.WriteAt(f.b[at:min(at+page, len(f.b))], int64(at))
		}
	}
	return errors.Join(err, out.Close())
}

// put writes the store into a directory of its own.
func (im image) put(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for name, f := range im {
		if err := f.write(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// buildTampered makes a store with everything in it. older is what its files once were; crashed is the same store, copied while it was
// open, as a crash would leave it.
func buildTampered(t *testing.T) (clean, older, crashed image) {
	t.Helper()
	dir := cleanEnv(t)
	must := func(args ...string) {
		t.Helper()
		if code, _, stderr := kmsfs(t, args...); code != exitOK {
			t.Fatal(args, stderr)
		}
	}
	must("init", "--admin", "admin")
	must("principal", "create", "alice", "--uid", "1000", "--policy", "AmazonS3ReadOnlyAccess")
	must("key", "create", "--alias", "one")
	must("key", "create", "--alias", "two")
	work := func(fn func(s *store, u *hand)) image {
		s, err := openStore(dir, openOptions{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		u := newHand(t, s)
		fn(s, u)
		u.ok(s.volume.Sync())
		u.ok(s.audit.Flush())
		open := readImage(t, dir)
		u.end()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return open
	}
	work(func(_ *store, u *hand) {
		u.mkdir("bkt")
		u.mkdir("kms")
		u.set("kms", "user.s3.sse", "aws:kms:alias/one")
		u.mkdir("bkt/dir")
		u.mkdir("bkt/dir/deep")
		for i := range 30 {
			u.write(fmt.Sprintf("bkt/dir/small%d", i), i*37)
		}
		u.write("bkt/large", 1<<20+12345)
		u.write("bkt/append", 5000)
		u.write("kms/secret", 100_000)
		u.write("kms/note", 300)
		u.write("bkt/gone", 40_000)
		u.symlink("bkt/link", "dir/small1")
		u.link("bkt/large", "bkt/dir/hard")
		u.set("bkt/dir/small3", "user.color", "red")
		u.set("bkt/dir/small3", "user.long", strings.Repeat("x", 9000))
		u.fifo("bkt/fifo")
	})
	older = readImage(t, dir)
	must("key", "create", "--alias", "three")
	must("principal", "delete", "alice")
	crashed = work(func(_ *store, u *hand) {
		u.remove("bkt", "gone")
		u.set("kms/secret", "user.s3.sse", "aws:kms:alias/two")
		u.write("kms/secret", 60_000) // under the next generation of its data key
		u.write("bkt/dir/small7", 900)
		u.set("bkt/dir/small3", "user.color", "blue")
		u.rename("bkt/dir/small9", "bkt/dir/deep/moved")
		u.write("bkt/append", 9000)
		u.write("bkt/late", 250_000)
	})
	return readImage(t, dir), older, crashed
}

// hand works on a store as its administrator.
type hand struct {
	t   *testing.T
	s   *mount.Session
	hub *mount.Hub
	n   byte
}

func newHand(t *testing.T, s *store) *hand {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	hub := mount.NewHub(mount.HubConfig{Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Log: log})
	ses, err := mount.NewSession(mount.SessionConfig{
		Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Principal: "admin", Hub: hub, Clock: time.Now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &hand{t: t, s: ses, hub: hub}
}

func (u *hand) end() {
	u.ok(u.s.Close())
	u.hub.Close()
}

func (u *hand) ok(err error) {
	u.t.Helper()
	if err != nil {
		u.t.Fatal(err)
	}
}

func (u *hand) at(p string) (ino mount.Ino) {
	u.t.Helper()
	ino = mount.RootIno
	for part := range strings.SplitSeq(p, "/") {
		if part == "" {
			continue
		}
		a, err := u.s.Lookup(mount.Caller{}, ino, part)
		u.ok(err)
		ino = a.Ino
	}
	return ino
}

func (u *hand) split(p string) (mount.Ino, string) {
	u.t.Helper()
	dir, name := filepath.Split(p)
	return u.at(dir), name
}

func (u *hand) mkdir(p string) {
	u.t.Helper()
	dir, name := u.split(p)
	_, err := u.s.Mkdir(mount.Caller{}, dir, name, 0o755)
	u.ok(err)
}

// write writes n bytes to a file, from its beginning, all of which differ from what any other write wrote there.
func (u *hand) write(p string, n int) {
	u.t.Helper()
	dir, name := u.split(p)
	u.n++
	var h *mount.Handle
	a, err := u.s.Lookup(mount.Caller{}, dir, name)
	if err == nil {
		h, err = u.s.Open(mount.Caller{}, a.Ino, mount.OpenFlags{Write: true})
	} else {
		_, h, err = u.s.Create(mount.Caller{}, dir, name, 0o644, mount.OpenFlags{Write: true})
	}
	u.ok(err)
	_, err = h.WriteAt(bytes.Repeat([]byte{u.n, byte(n), byte(n >> 8)}, n/3+1)[:n], 0, false)
	u.ok(err)
	u.ok(h.Flush())
	u.ok(h.Close())
}

// read reads all of a file, whatever it holds.
func (u *hand) read(p string) {
	u.t.Helper()
	h, err := u.s.Open(mount.Caller{}, u.at(p), mount.OpenFlags{Read: true})
	u.ok(err)
	_, err = h.ReadAt(make([]byte, 1<<20), 0)
	u.ok(err)
	u.ok(h.Close())
}

func (u *hand) set(p, name, value string) {
	u.t.Helper()
	u.ok(u.s.SetXattr(mount.Caller{}, u.at(p), name, []byte(value), mount.XattrEither))
}

func (u *hand) symlink(p, to string) {
	u.t.Helper()
	dir, name := u.split(p)
	_, err := u.s.Symlink(mount.Caller{}, dir, name, to)
	u.ok(err)
}

func (u *hand) fifo(p string) {
	u.t.Helper()
	dir, name := u.split(p)
	_, err := u.s.Mknod(mount.Caller{}, dir, name, mount.FIFO, 0o600, 0)
	u.ok(err)
}

func (u *hand) link(p, to string) {
	u.t.Helper()
	dir, name := u.split(to)
	_, err := u.s.Link(mount.Caller{}, u.at(p), dir, name)
	u.ok(err)
}

func (u *hand) remove(dir, name string) {
	u.t.Helper()
	u.ok(u.s.Unlink(mount.Caller{}, u.at(dir), name))
}

func (u *hand) rename(p, to string) {
	u.t.Helper()
	from, old := u.split(p)
	dir, name := u.split(to)
	_, err := u.s.Rename(mount.Caller{}, from, old, dir, name, 0)
	u.ok(err)
}
