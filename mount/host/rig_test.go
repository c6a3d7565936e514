package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/fusefs"
	"github.com/kmsfs/kmsfs/principals"
)

// The people of the tests: who they are to the kernel, and which principals.
const (
	uidRoot    = 0
	uidOwner   = 500  // owns the store, bound to admin
	uidAlice   = 1001 // AmazonS3FullAccess
	uidBob     = 1002 // no policy at all
	uidPower   = 1003 // AWSKeyManagementServicePowerUser
	uidTwins   = 1004 // bound to twin1 and twin2
	uidAuditor = 1005 // may read the audit log
	uidNobody  = 1006 // bound to nothing
)

type rig struct {
	t    testing.TB
	d    *Daemon
	dir  string
	key  string // id of alias/my-key
	vol  *fs.Volume
	keys *keystore.Service

	mu      sync.Mutex
	servers map[string]*fakeServer
}

// fakeServer is a mount without a kernel.
type fakeServer struct {
	opts fusefs.Options
	end  sync.Once
	gone chan struct{}
}

func (f *fakeServer) Wait()          { <-f.gone }
func (f *fakeServer) Abort() error   { f.end.Do(func() { close(f.gone) }); return nil }
func (f *fakeServer) Device() string { return "0:0" }

func newRig(t testing.TB, persistent bool) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), servers: map[string]*fakeServer{}}
	log := slog.New(slog.DiscardHandler)
	secret, err := rootkey.NewKeyFile(r.dir, rootkey.DefaultKeyFile)
	r.ok(err)
	info, root, err := rootkey.Init(r.dir, rootkey.InitOptions{Secret: secret, Now: time.Now()})
	r.ok(err)
	rows := sealed.New(memkv.New(), root.Derive(nil, "rows"))
	l, err := ledger.Open(rows, root.Derive(nil, "ledger"))
	r.ok(err)
	events, err := audit.Open(filepath.Join(r.dir, "audit"), bytes.Repeat([]byte{7}, 32), audit.Options{Clock: time.Now, Logger: log})
	r.ok(err)
	people, err := principals.Open(l, info.Account, time.Now)
	r.ok(err)
	r.keys, err = keystore.Open(keystore.Config{
		Ledger: l, Root: root, ShredFile: filepath.Join(r.dir, "shred"), Audit: events, Account: info.Account, Region: info.Region,
		Clock: time.Now, Logger: log, Principals: people,
	})
	r.ok(err)
	r.vol, err = fs.Open(fs.Config{
		KV: rows, Extents: memextent.New(), Key: root.Derive(nil, "volume"), StoreID: info.Store, Clock: time.Now, Log: log,
	})
	r.ok(err)
	r.d = New(Config{
		Dir: r.dir, Owner: uidOwner, Info: info, Root: root, Volume: r.vol, Keystore: r.keys, Principals: people, Audit: events, Configure: events.Configure, Keeper: fakeKeeper{},
		Mount: r.mount, Persistent: persistent, Clock: time.Now, Log: log,
	})
	t.Cleanup(func() {
		r.mu.Lock()
		for _, s := range r.servers {
			_ = s.Abort()
		}
		r.mu.Unlock()
		r.ok(r.d.Shutdown(context.Background()))
		r.ok(r.vol.Close())
		r.ok(r.keys.Close())
		r.ok(events.Close())
	})
	r.people(people)
	return r
}

func (r *rig) people(people *principals.Store) {
	r.ok(people.PutPolicy("reads-the-log", []byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"cloudtrail:LookupEvents","Resource":"*"}]}`)))
	for _, p := range []struct {
		name     string
		uid      uint32
		policies []string
	}{
		{"admin", uidOwner, []string{"AdministratorAccess"}},
		{"alice", uidAlice, []string{"AmazonS3FullAccess"}},
		{"bob", uidBob, nil},
		{"power", uidPower, []string{"AWSKeyManagementServicePowerUser"}},
		{"twin1", uidTwins, nil},
		{"twin2", uidTwins, nil},
		{"auditor", uidAuditor, []string{"reads-the-log"}},
	} {
		_, err := people.Create(p.name, []uint32{p.uid}, p.policies)
		r.ok(err)
	}
	var k KeyInfo
	r.must(uidOwner, CmdKeyCreate, KeyCreateArgs{Alias: "my-key"}, &k)
	r.key = k.KeyID
	r.must(uidOwner, CmdBucketCreate, BucketCreateArgs{Name: "box", SSE: "aws:kms:alias/my-key"}, nil)
	r.file("box", "f")
}

// file makes a file as the administrator.
func (r *rig) file(bucket, name string) {
	s, err := r.d.session("admin", mount.Options{})
	r.ok(err)
	defer func() { r.ok(s.Close()) }()
	b, err := s.Lookup(mount.Caller{}, mount.RootIno, bucket)
	r.ok(err)
	_, h, err := s.Create(mount.Caller{}, b.Ino, name, 0o644, mount.OpenFlags{Write: true})
	r.ok(err)
	_, err = h.WriteAt([]byte("content"), 0, false)
	r.ok(err)
	r.ok(h.Close())
}

// mount is the rig's Mounter.
func (r *rig) mount(_ *mount.Session, dir string, opts fusefs.Options) (Server, error) {
	if filepath.Base(dir) == "broken" {
		return nil, errors.New("the kernel does not want to")
	}
	f := &fakeServer{opts: opts, gone: make(chan struct{})}
	r.mu.Lock()
	r.servers[dir] = f
	r.mu.Unlock()
	return f, nil
}

func (r *rig) server(dir string) *fakeServer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.servers[dir]
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// do calls Dispatch and returns the items too.
func (r *rig) do(uid uint32, as, command string, args any) ([]json.RawMessage, control.Response) {
	r.t.Helper()
	raw, err := json.Marshal(args)
	r.ok(err)
	var items []json.RawMessage
	resp := r.d.Dispatch(context.Background(), control.Peer{UID: uid, GID: uid, PID: 1}, control.Request{Command: command, As: as, Args: raw},
		func(item any) error {
			b, err := json.Marshal(item)
			items = append(items, b)
			return err
		})
	return items, resp
}

func (r *rig) must(uid uint32, command string, args, result any) []json.RawMessage {
	r.t.Helper()
	items, resp := r.do(uid, "", command, args)
	if resp.Error != nil {
		r.t.Fatalf("%s by uid %d: %s: %s", command, uid, resp.Error.Code, resp.Error.Message)
	}
	if result != nil {
		r.ok(json.Unmarshal(resp.Result, result))
	}
	return items
}
