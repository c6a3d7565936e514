package matrix

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/mount/fusefs"
	"github.com/kmsfs/kmsfs/principals"
)

const (
	account = "000000000000"
	content = "#!/bin/true\n" // so that a file can be executed
)

func userARN(name string) string { return "arn:aws:iam::" + account + ":user/" + name }

// world is a store in memory with everybody in it.
type world struct {
	t     *testing.T
	vol   *fs.Volume
	keys  *keystore.Service
	who   *principals.Store
	hub   *mount.Hub
	admin *mount.Session
	later atomic.Int64      // ns that the clock is ahead
	arns  map[string]string // of customer keys, by bucket
	dirs  map[string]mount.Ino
}

func (w *world) clock() time.Time { return time.Now().Add(time.Duration(w.later.Load())) }

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs /dev/fuse and root")
	}
	w := &world{t: t, arns: map[string]string{}, dirs: map[string]mount.Ino{}}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	root := crypto.NewDataKey()
	l, err := ledger.Open(sealed.New(memkv.New(), root.Derive(nil, "ledger")), root.Derive(nil, "ledger root"))
	w.ok(err)
	events, err := audit.Open(t.TempDir(), bytes.Repeat([]byte{7}, 32), audit.Options{Clock: w.clock, Logger: log})
	w.ok(err)
	w.who, err = principals.Open(l, account, w.clock)
	w.ok(err)
	w.keys, err = keystore.Open(keystore.Config{
		Ledger: l, Root: root, ShredFile: filepath.Join(t.TempDir(), "shred"), Audit: events, Account: account, Region: "us-east-1",
		Clock: w.clock, Logger: log,
	})
	w.ok(err)
	w.vol, err = fs.Open(fs.Config{
		KV: sealed.New(memkv.New(), root.Derive(nil, "rows")), Extents: memextent.New(), Key: root.Derive(nil, "meta"), Clock: w.clock,
		Log: log, Dir: t.TempDir(),
	})
	w.ok(err)
	w.hub = mount.NewHub(mount.HubConfig{Volume: w.vol, Keystore: w.keys, Principals: w.who, Log: log})
	t.Cleanup(func() {
		w.hub.Close()
		w.ok(w.vol.Close())
		w.ok(w.keys.Close())
		w.ok(events.Close())
	})
	return w
}

func (w *world) session(name string, o mount.Options) *mount.Session {
	w.t.Helper()
	s, err := mount.NewSession(mount.SessionConfig{
		Volume: w.vol, Keystore: w.keys, Principals: w.who, Principal: name, Options: o, Hub: w.hub, Clock: w.clock,
		Log: slog.New(slog.DiscardHandler),
	})
	w.ok(err)
	w.t.Cleanup(func() { w.ok(s.Close()) })
	return s
}

func (w *world) call() *keystore.Call {
	who, err := w.who.Identity("admin")
	w.ok(err)
	return &keystore.Call{Who: who}
}

// people makes the principals.
func (w *world) people() {
	for i := range everyone {
		p := &everyone[i]
		var policies []string
		if p.managed != "" {
			policies = append(policies, p.managed)
		}
		if own := p.identityDocument(); own != "" {
			w.ok(w.who.PutPolicy("own-"+p.name, []byte(own)))
			policies = append(policies, "own-"+p.name)
		}
		_, err := w.who.Create(p.name, nil, policies)
		w.ok(err)
	}
	w.admin = w.session("admin", mount.Options{})
}

// keysOf makes the keys, all of them usable still, and the buckets.
func (w *world) keysOf() {
	for i := range kinds {
		k := &kinds[i]
		sse := ""
		switch k.state {
		case noKey:
		case managed:
			sse = "aws:kms"
		default:
			in := keystore.CreateKeyInput{Policy: []byte(keyDocument(k.delegates)), BypassLockout: true}
			if k.state == importing {
				in.Origin = "EXTERNAL"
			}
			m, err := w.keys.CreateKey(w.call(), in)
			w.ok(err)
			w.arns[k.name] = m.ARN
			if k.state == importing {
				w.imports(m.ARN)
			}
			sse = "aws:kms:" + m.ARN
			for _, p := range everyone {
				if p.grant != nil && p.only == "" {
					w.grant(k, &p, nil)
				}
			}
		}
		w.bucket(k.name, sse)
	}
	w.bucket("m-other", "")
}

func (w *world) grant(k *kind, p *principal, subset map[string]string) {
	w.t.Helper()
	_, _, err := w.keys.CreateGrant(w.call(), w.arns[k.name], keystore.CreateGrantInput{Grantee: userARN(p.name), Operations: p.grant, Subset: subset})
	w.ok(err)
}

// narrow grants for one object alone.
func (w *world) narrow(k *kind, p *principal, object string) {
	if w.arns[k.name] != "" {
		w.grant(k, p, map[string]string{"aws:s3:arn": object})
	}
}

func (w *world) imports(arn string) {
	w.t.Helper()
	p, err := w.keys.GetParametersForImport(w.call(), arn, "RSAES_OAEP_SHA_256", "RSA_2048")
	w.ok(err)
	public, err := x509.ParsePKIXPublicKey(p.PublicKey)
	w.ok(err)
	encrypted, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), bytes.Repeat([]byte{9}, 32), nil)
	w.ok(err)
	_, _, err = w.keys.ImportKeyMaterial(w.call(), arn, p.Token, encrypted, time.Time{})
	w.ok(err)
}

// bucket makes a bucket with the directories p and q.
func (w *world) bucket(name, sse string) {
	w.t.Helper()
	a, err := w.admin.Mkdir(mount.Caller{}, mount.RootIno, name, 0o777)
	w.ok(err)
	w.dirs[name] = a.Ino
	if sse != "" {
		w.ok(w.admin.SetXattr(mount.Caller{}, a.Ino, "user.s3.sse", []byte(sse), mount.XattrEither))
	}
	if name[0] != 'm' {
		return
	}
	for _, d := range []string{"p", "q"} {
		b, err := w.admin.Mkdir(mount.Caller{}, a.Ino, d, 0o777)
		w.ok(err)
		w.dirs[name+"/"+d] = b.Ino
	}
}

func (w *world) setPolicy(bucket, text string) {
	w.t.Helper()
	w.ok(w.admin.SetXattr(mount.Caller{}, w.dirs[bucket], "user.s3.policy", []byte(text), mount.XattrEither))
}

// make makes the fixture of an operation and gives its inode.
func (w *world) make(bucket, dir, name string, what fixture) mount.Ino {
	w.t.Helper()
	parent := w.dirs[bucket+"/"+dir]
	var a mount.Attr
	var err error
	switch what {
	case nothing, free:
		return 0
	case aDir:
		a, err = w.admin.Mkdir(mount.Caller{}, parent, name, 0o777)
	case aLink:
		a, err = w.admin.Symlink(mount.Caller{}, parent, name, "target")
	case pair:
		w.make(bucket, dir, name+"2", aFile)
		return w.make(bucket, dir, name, aFile)
	case aFile, empty:
		var h *mount.Handle
		a, h, err = w.admin.Create(mount.Caller{}, parent, name, 0o777, mount.OpenFlags{Write: true, Exclusive: true})
		w.ok(err)
		if what == aFile {
			_, err = h.WriteAt([]byte(content), 0, false)
			w.ok(err)
		}
		w.ok(h.Close())
		err = w.admin.SetXattr(mount.Caller{}, a.Ino, "user.note", []byte("x"), mount.XattrEither)
	}
	w.ok(err)
	return a.Ino
}

// lock brings the keys into their states, and sets the policies of the buckets.
func (w *world) lock() {
	w.t.Helper()
	w.ok(w.vol.Sync())
	for i := range kinds {
		k := &kinds[i]
		w.setPolicy(k.name, bucketDocument(k.name))
		arn := w.arns[k.name]
		switch k.state {
		case disabled:
			w.ok(w.keys.DisableKey(w.call(), arn))
		case deleting:
			_, err := w.keys.ScheduleKeyDeletion(w.call(), arn, 30)
			w.ok(err)
		case deleted:
			_, err := w.keys.ScheduleKeyDeletion(w.call(), arn, 7)
			w.ok(err)
		case importing:
			_, _, err := w.keys.DeleteImportedKeyMaterial(w.call(), arn)
			w.ok(err)
		case noKey, managed, enabled:
		}
	}
	w.setPolicy("m-other", bucketDocument("m-other"))
	w.later.Add(int64(8 * 24 * time.Hour))
	w.ok(w.keys.Settle())
}

func (w *world) attr(ino mount.Ino) mount.Attr {
	a, err := w.vol.Attr(ino)
	w.ok(err)
	a.Atime = 0
	return a
}

func (w *world) mount(name string) string {
	w.t.Helper()
	dir := w.t.TempDir()
	srv, err := fusefs.Mount(w.session(name, mount.Options{Mount: dir}), dir, fusefs.Options{})
	w.ok(err)
	w.t.Cleanup(func() {
		if err := srv.Unmount(); err != nil {
			w.t.Errorf("unmount: %v", err)
			_ = srv.Detach()
		}
		select {
		case <-srv.Done():
		case <-time.After(20 * time.Second):
			w.t.Error("the mount does not end; aborted")
			_ = srv.Abort()
		}
	})
	return dir
}
