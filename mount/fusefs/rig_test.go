package fusefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
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
	"github.com/kmsfs/kmsfs/principals"
)

const account = "000000000000"

// world is a store in memory whose sessions are mounted. A process that uses its own mount can deadlock, so the mounts are used by
// child processes only: see inChild.
type world struct {
	t          testing.TB
	log        *slog.Logger
	vol        *fs.Volume
	keys       *keystore.Service
	principals *principals.Store
	hub        *mount.Hub
	ahead      atomic.Int64      // ns by which the keystore's clock is
	bound      map[string]uint32 // principals whose mounts are those of an OS user
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 && os.Getenv(ordinaryEnv) == "" {
		t.Skip("needs /dev/fuse and root")
	}
	w := &world{t: t, log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	root := crypto.NewDataKey()
	l, err := ledger.Open(sealed.New(memkv.New(), root.Derive(nil, "ledger")), root.Derive(nil, "ledger root"))
	w.ok(err)
	events, err := audit.Open(t.TempDir(), bytes.Repeat([]byte{7}, 32), audit.Options{Clock: time.Now, Logger: w.log})
	w.ok(err)
	w.principals, err = principals.Open(l, account, time.Now)
	w.ok(err)
	w.keys, err = keystore.Open(keystore.Config{
		Ledger: l, Root: root, ShredFile: filepath.Join(t.TempDir(), "shred"), Audit: events, Account: account, Region: "us-east-1",
		Clock: w.now, Logger: w.log, Principals: w.principals,
	})
	w.ok(err)
	w.vol, err = fs.Open(fs.Config{
		KV: sealed.New(memkv.New(), root.Derive(nil, "rows")), Extents: memextent.New(), Key: root.Derive(nil, "meta"), Clock: time.Now,
		Log: w.log, Dir: t.TempDir(),
	})
	w.ok(err)
	w.hub = mount.NewHub(mount.HubConfig{Volume: w.vol, Keystore: w.keys, Principals: w.principals, Log: w.log})
	w.user("admin", "AdministratorAccess")
	t.Cleanup(func() {
		w.hub.Close()
		w.ok(w.vol.Close())
		w.ok(w.keys.Close())
		w.ok(events.Close())
	})
	return w
}

// now is the keystore's clock.
func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) user(name string, policies ...string) {
	w.t.Helper()
	_, err := w.principals.Create(name, nil, policies)
	w.ok(err)
}

func (w *world) call(name string) *keystore.Call {
	who, err := w.principals.Identity(name)
	w.ok(err)
	return &keystore.Call{Who: who}
}

func (w *world) session(name string, o mount.Options) *mount.Session {
	w.t.Helper()
	uid, bound := w.bound[name]
	s, err := mount.NewSession(mount.SessionConfig{
		Volume: w.vol, Keystore: w.keys, Principals: w.principals, Principal: name, Options: o, Hub: w.hub, Clock: time.Now, Log: w.log,
		Bound: bound, UID: uid,
	})
	w.ok(err)
	w.t.Cleanup(func() { w.ok(s.Close()) })
	return s
}

// bucket makes a bucket as the administrator.
func (w *world) bucket(name string) {
	w.t.Helper()
	s := w.session("admin", mount.Options{})
	_, err := s.Mkdir(mount.Caller{}, mount.RootIno, name, 0o777)
	w.ok(err)
}

// mount mounts a principal's session and returns the directory.
func (w *world) mount(name string, opts Options) string {
	w.t.Helper()
	dir := w.t.TempDir()
	w.mountAt(name, dir, opts)
	return dir
}

func (w *world) mountAt(name, dir string, opts Options) *Server {
	w.t.Helper()
	s := w.session(name, mount.Options{ReadOnly: opts.ReadOnly, SSE: opts.SSE, Mount: dir})
	opts.Debug = os.Getenv("KMSFS_TEST_DEBUG") != ""
	srv, err := Mount(s, dir, opts)
	w.ok(err)
	w.t.Cleanup(func() { w.end(srv) })
	return srv
}

func (w *world) end(srv *Server) {
	w.t.Helper()
	if err := srv.Unmount(); err != nil {
		w.t.Errorf("unmount: %v", err)
		_ = srv.Detach()
	}
	select {
	case <-srv.Done():
	case <-time.After(10 * time.Second):
		w.t.Error("the mount does not end; aborted")
		_ = srv.Abort()
	}
}

// soakEnv makes tests do what they do on a larger scale: see make soak.
const soakEnv = "KMSFS_SOAK"

// scale is how much of something a test does: more if it is to soak.
func scale(usual, soak int) int {
	if os.Getenv(soakEnv) != "" {
		return soak
	}
	return usual
}

const (
	childEnv  = "KMSFS_TEST_CHILD"
	childDirs = "KMSFS_TEST_DIRS"
	childTime = 300 * time.Second
)

// childLimit is how long a child may live.
func childLimit() time.Duration { return time.Duration(scale(1, 5)) * childTime }

// TestChild is the door of those processes.
func TestChild(t *testing.T) {
	name := os.Getenv(childEnv)
	if name == "" {
		t.Skip("runs in child processes of other tests only")
	}
	fn := childFunc(name)
	if fn == nil {
		t.Fatalf("no child %q", name)
	}
	fn(t, strings.Split(os.Getenv(childDirs), string(os.PathListSeparator)))
}

// child prepares a process that runs a body on mounted directories.
func child(t testing.TB, name string, cred *syscall.Credential, dirs ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), childLimit())
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^TestChild$", "-test.v=true", "-test.timeout="+(childLimit()-10*time.Second).String())
	cmd.Args[0] = os.Args[0]
	// A program with the race detector sleeps for a second before it ends, unless told otherwise.
	cmd.Env = append(os.Environ(), childEnv+"="+name, childDirs+"="+strings.Join(dirs, string(os.PathListSeparator)), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	cmd.Dir = "/"
	if cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	}
	cmd.WaitDelay = time.Second
	return cmd
}

// inChild runs a body in a child process and reports what it reports.
func inChild(t testing.TB, name string, dirs ...string) {
	t.Helper()
	inChildAs(t, name, nil, dirs...)
}

func inChildAs(t testing.TB, name string, cred *syscall.Credential, dirs ...string) {
	t.Helper()
	out, err := child(t, name, cred, dirs...).CombinedOutput()
	if err != nil {
		t.Errorf("child %s: %v\n%s", name, err, out)
	} else if testing.Verbose() {
		t.Logf("child %s:\n%s", name, out)
	}
}

// Helpers for children.

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err error, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
}

func wantText(t *testing.T, file, text string) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil || string(got) != text {
		if len(got) > 64 {
			got = fmt.Appendf(got[:64:64], "… (%d bytes)", len(got))
		}
		t.Errorf("%s: %q, %v; want %q", file, got, err, text)
	}
}
