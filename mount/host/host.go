// Package host is what runs a store: the table of its mounts and Dispatch,
// where every command that people give has its one implementation.
//
// A Daemon gets an open volume, keystore, principals and audit log; it opens
// nothing itself. The same Dispatch answers callers on the control socket and
// the command line that acts alone for lack of a daemon; only commands about
// mounts need the former.
//
// Who may do what. The kernel says which uid calls. A caller acts as a
// principal that is bound to his uid; root and the store's owner, who could
// read the root key anyway, may act as any. From then on the principal's
// rights count and nothing else: key commands pass the keystore's policies,
// bucket and file commands go through a mount.Session exactly as system calls
// on a mount do, commands about principals are authorised as the IAM actions
// that they are, the audit log as cloudtrail:LookupEvents. Nobody gains by the
// command line what he lacks elsewhere. Unlock slots and stopping the daemon
// belong to root and the owner, whatever principal they act as.
//
// Mounts. The table knows each mount's principal, the OS user who enters it
// and who asked for it. A caller other than root mounts only a principal of
// his own, on a directory of his own, with harmless options. When the last
// mount goes the daemon is Done, unless it is persistent. Shutdown unmounts
// all, and detaches what is still in use after a while.
//
// Locks. Daemon.mu guards the table; nothing slow is done under it.
//
// What it is not: it parses no flags and prints nothing (cmd/kmsfs does), and
// it speaks no FUSE (mount/fusefs does).
package host

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/principals"
)

// Config is what a Daemon runs. It closes none of it.
type Config struct {
	Dir   string       // the store's directory
	Owner uint32       // uid that owns the store
	Info  rootkey.Info // the store's header, authenticated
	Root  *crypto.DataKey

	Volume     *fs.Volume
	Keystore   *keystore.Service
	Principals *principals.Store
	Audit      *audit.Log
	Configure  func(audit.Settings) error // stores settings of the audit log and puts them in force
	Keeper     Keeper

	Mount      Mounter // how mounts are made; nil in a process that hosts none
	Kernel     Kernel  // with whose rights; nil: this process's own
	Persistent bool    // stay when the last mount goes
	PID        int
	Clock      func() time.Time
	Log        *slog.Logger
	TidyLater  time.Duration // 0: 10 s. After at most that long nothing is left of secrets that were handed out
}

// Daemon runs one store.
type Daemon struct {
	cfg   Config
	hub   *mount.Hub
	log   *slog.Logger
	since time.Time
	done  chan struct{} // closed when there is no reason to go on
	leave sync.Once
	kms   atomic.Pointer[string] // where KMS calls are taken

	slots sync.Mutex // one change of the unlock slots at a time

	// asking guards asked: the callers who write a backup for this process, by session.
	asking sync.Mutex
	asked  map[string]chan BackupAnswer

	// mu guards the table and what decides about its end.
	mu       sync.Mutex
	mounts   map[string]*mounted // by directory; nil while it is being made
	mountsOf map[uint32]int      // by who asked for them
	pending  int                 // mount commands under way
	ending   bool
	tidying  *time.Timer // set while a tidying is due
	tidyDue  time.Time
}

// New makes a Daemon.
func New(c Config) *Daemon {
	if c.Kernel == nil {
		c.Kernel = Direct{}
	}
	if c.TidyLater <= 0 {
		c.TidyLater = tidyLater
	}
	hub := mount.NewHub(mount.HubConfig{Volume: c.Volume, Keystore: c.Keystore, Principals: c.Principals, Log: c.Log})
	return &Daemon{
		cfg: c, hub: hub, log: c.Log, since: c.Clock(), done: make(chan struct{}), mounts: map[string]*mounted{}, mountsOf: map[uint32]int{},
		asked: map[string]chan BackupAnswer{},
	}
}

// Done is closed when the daemon should end: someone stopped it, or its last
// mount is gone and it is not persistent.
func (d *Daemon) Done() <-chan struct{} { return d.done }

func (d *Daemon) stop() { d.leave.Do(func() { close(d.done) }) }

// Shutdown ends all mounts and the hub. Mounts in use are waited for a
// little and then detached; when ctx ends, at once. No call may be dispatched
// afterwards.
func (d *Daemon) Shutdown(ctx context.Context) error {
	d.stop()
	err := d.unmountAll(ctx)
	d.mu.Lock()
	if d.tidying != nil {
		d.tidying.Stop()
	}
	d.mu.Unlock()
	d.hub.Close()
	return err
}

// session opens the door for a principal, for one command.
func (d *Daemon) session(principal string, o mount.Options) (*mount.Session, error) {
	return mount.NewSession(d.sessionConfig(principal, o))
}

func (d *Daemon) sessionConfig(principal string, o mount.Options) mount.SessionConfig {
	return mount.SessionConfig{
		Volume: d.cfg.Volume, Keystore: d.cfg.Keystore, Principals: d.cfg.Principals, Principal: principal,
		Options: o, Hub: d.hub, Log: d.cfg.Log, Clock: d.cfg.Clock,
	}
}
