package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/fusefs"
)

// Mounter puts a session before the kernel. The mount is usable when it
// returns. dir is the caller's: it must belong to opts.UID.
type Mounter func(s *mount.Session, dir string, opts fusefs.Options) (Server, error)

// Server is one mount in the kernel.
type Server interface {
	Wait()          // until the kernel is done with the mount, whoever ended it
	Abort() error   // ends it now, whatever hangs on it: its users get errors
	Device() string // major:minor, by which mountinfo knows it
}

// mounted is a row of the table.
type mounted struct {
	info    MountInfo
	server  Server
	session *mount.Session
	kernel  Kernel
	row     string        // where the table has it: its directory, until it was detached from there; guarded by Daemon.mu
	gone    chan struct{} // closed when the row is out of the table
}

// maxMounts is how many mounts one user other than root and the owner may have.
const maxMounts = 64

const (
	busyGrace   = 3 * time.Second        // how long Shutdown waits for a mount in use
	busyPause   = 50 * time.Millisecond  // between two tries
	umountGrace = 500 * time.Millisecond // how long umount waits for the last user of a mount
)

func (c *call) status() (any, error) {
	d := c.d
	s := Status{
		Running: d.cfg.Mount != nil, Store: d.cfg.Dir, StoreID: d.cfg.Info.StoreID, Account: d.cfg.Info.Account,
		Region: d.cfg.Info.Region, PID: d.cfg.PID, Since: &d.since, Persistent: d.cfg.Persistent, Mounts: []MountInfo{}, KMS: d.kmsAddress(),
		Goroutines: runtime.NumGoroutine(), KeysLocked: crypto.LockedMemory(),
	}
	for _, m := range d.table() {
		// A mount that one may not end one need not see.
		if d.trusted(c.peer.UID) || c.peer.UID == m.info.UID || c.peer.UID == m.info.By {
			s.Mounts = append(s.Mounts, m.info)
		}
	}
	if sp, err := d.cfg.Volume.StatFS(); err == nil {
		s.Space = &Space{Total: sp.Blocks * uint64(sp.BlockSize), Free: sp.BlocksAvail * uint64(sp.BlockSize), Inodes: sp.Files - sp.FilesFree}
		if d.trusted(c.peer.UID) {
			if h, err := d.cfg.Keeper.Held(c.ctx); err != nil {
				d.log.Error("what the store holds was not measured", "err", err)
			} else {
				s.Space.Held = &h
			}
		}
	}
	return s, nil
}

func (c *call) stop() (any, error) {
	if c.d.cfg.Mount == nil {
		return nil, errNoHost
	}
	c.d.stop()
	return nil, nil
}

// table is the mounts that stand, by directory.
func (d *Daemon) table() []*mounted {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*mounted
	for _, dir := range slices.Sorted(maps.Keys(d.mounts)) {
		if m := d.mounts[dir]; m != nil {
			out = append(out, m)
		}
	}
	return out
}

// at finds the mount on a directory.
func (d *Daemon) at(dir string) *mounted {
	d.mu.Lock()
	m := d.mounts[dir]
	d.mu.Unlock()
	if m != nil {
		return m
	}
	for _, m := range d.table() {
		if m.info.Dir == dir {
			return m
		}
	}
	return nil
}

// below says where a path lies on one of the mounts.
func (d *Daemon) below(path string) (rest string, ok bool) {
	if path == "" {
		return "", false
	}
	for _, m := range d.table() {
		if path == m.info.Dir {
			return "", true
		}
		if rest, ok := strings.CutPrefix(path, m.info.Dir+"/"); ok {
			return rest, true
		}
	}
	return "", false
}

// optionSSE is the encryption that a mount gives to everything made at a path
// below it, empty if there is no such mount or option.
func (d *Daemon) optionSSE(path string) string {
	for _, m := range d.table() {
		if path == m.info.Dir || strings.HasPrefix(path, m.info.Dir+"/") {
			return m.session.Options().SSE
		}
	}
	return ""
}

func (c *call) mount(a MountArgs) (any, error) {
	d := c.d
	if d.cfg.Mount == nil {
		return nil, errNoHost
	}
	name := a.Principal
	if name == "" {
		name = c.as
	}
	if err := c.actAs(name); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(a.Dir) || filepath.Clean(a.Dir) != a.Dir || a.Dir == "/" {
		return nil, fmt.Errorf("%w: %q is not an absolute path", errArguments, a.Dir)
	}
	if err := d.reserve(a.Dir, c.peer.UID); err != nil {
		return nil, err
	}
	m, err := c.makeMount(a)
	d.settle(a.Dir, c.peer.UID, m)
	if err != nil {
		return nil, err
	}
	if m.info.AllowOther {
		d.log.Warn("allow_other: every user of this machine enters the mount as its principal", "dir", m.info.Dir, "principal", m.info.Principal)
	}
	d.log.Info("mounted", "dir", m.info.Dir, "principal", m.info.Principal, "uid", m.info.UID, "by", m.info.By)
	if !a.Wait {
		return m.info, nil
	}
	return nil, c.wait(m)
}

// wait answers when the mount has ended, and ends it when the caller hangs up.
func (c *call) wait(m *mounted) error {
	if err := c.emit(m.info); err != nil {
		c.d.log.Info("the caller of a mount in front has gone", "dir", m.info.Dir)
	}
	select {
	case <-m.gone:
		return nil
	case <-c.ctx.Done():
	}
	select {
	case <-m.gone:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), busyGrace)
	defer cancel()
	return c.d.end(ctx, m)
}

// reserve keeps a directory for a mount that is being made.
func (d *Daemon) reserve(dir string, uid uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ending {
		return errEnding
	}
	if _, taken := d.mounts[dir]; taken {
		return fmt.Errorf("%s: %w", dir, errMounted)
	}
	if d.mountsOf[uid] >= maxMounts && !d.trusted(uid) {
		return fmt.Errorf("%w: uid %d has %d mounts already", errTooMany, uid, maxMounts)
	}
	d.mountsOf[uid]++
	d.mounts[dir] = nil
	d.pending++
	return nil
}

// settle puts the mount into the table, or gives the directory back, and then
// watches over its end.
func (d *Daemon) settle(dir string, uid uint32, m *mounted) {
	d.mu.Lock()
	d.pending--
	if m == nil {
		d.remove(dir, uid)
		d.endIfUnused()
		d.mu.Unlock()
		return
	}
	m.row = dir
	d.mounts[dir] = m
	d.mu.Unlock()
	go d.watch(dir, m)
}

// remove takes a row out of the table. mu is held.
func (d *Daemon) remove(dir string, uid uint32) {
	delete(d.mounts, dir)
	if d.mountsOf[uid]--; d.mountsOf[uid] == 0 {
		delete(d.mountsOf, uid)
	}
}

// detached frees the directory of a mount that is not there any more, though who uses it may go on for long: something else can be mounted.
func (d *Daemon) detached(m *mounted) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mounts[m.row] != m || m.row != m.info.Dir {
		return // gone already, or detached before
	}
	delete(d.mounts, m.row)
	m.row = fmt.Sprintf("%s\x00%p", m.info.Dir, m) // no directory's name
	d.mounts[m.row] = m
}

// endIfUnused ends a daemon that was started for its mounts when none is
// left. mu is held.
func (d *Daemon) endIfUnused() {
	if !d.cfg.Persistent && d.pending == 0 && len(d.mounts) == 0 {
		d.ending = true
		d.stop()
	}
}

// watch waits for the end of a mount, whether by umount(8) or by us.
func (d *Daemon) watch(dir string, m *mounted) {
	m.server.Wait()
	if err := m.session.Close(); err != nil {
		d.log.Error("close a mount's session", "dir", dir, "err", err)
	}
	d.log.Info("unmounted", "dir", dir)
	d.mu.Lock()
	d.remove(m.row, m.info.By)
	close(m.gone)
	d.endIfUnused()
	d.tidySoon()
	d.mu.Unlock()
}

// makeMount checks who mounts what where, and mounts.
func (c *call) makeMount(a MountArgs) (*mounted, error) {
	d := c.d
	opts, err := fusefs.ParseOptions(strings.Join(a.Options, ","), c.peer.UID == 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errOption, err)
	}
	var bound bool
	if opts.UID, opts.GID, bound, err = d.entering(c.peer, c.as, a.Dir); err != nil {
		return nil, err
	}
	opts.Source, opts.Kernel = SourceOf(d.cfg.Info.StoreID), d.cfg.Kernel
	cfg := d.sessionConfig(c.as, mount.Options{ReadOnly: opts.ReadOnly, SSE: opts.SSE, Mount: a.Dir})
	cfg.UID, cfg.Bound = opts.UID, bound
	s, err := mount.NewSession(cfg)
	if errors.Is(err, mount.ErrInvalid) || errors.Is(err, mount.ErrUnsupported) {
		return nil, fmt.Errorf("%w: %w", errOption, err)
	}
	if err != nil {
		return nil, err
	}
	server, err := d.cfg.Mount(s, a.Dir, opts)
	if err != nil {
		err = fmt.Errorf("mount %s: %w", a.Dir, err)
		if errors.Is(err, syscall.ENOTCONN) {
			err = &hintedError{err: err, hint: "a dead mount is there: kmsfs umount " + a.Dir + " or umount -l " + a.Dir}
		}
		return nil, errors.Join(err, s.Close())
	}
	dir := a.Dir
	if real, err := dirOf(server.Device()); err == nil && real != "" {
		dir = real // without the links that led there
	}
	return &mounted{
		server: server, session: s, kernel: d.cfg.Kernel, gone: make(chan struct{}),
		info: MountInfo{
			Dir: dir, Principal: c.as, UID: opts.UID, GID: opts.GID, Options: a.Options, Since: d.cfg.Clock(), By: c.peer.UID,
			AllowOther: opts.AllowOther,
		},
	}, nil
}

// entering settles which OS user will enter a mount, and that the directory is
// his. Callers other than root mount for themselves; whether they may see the
// directory at all is found out with their rights, not ours: fusefs opens it
// as that user, checks that it is his, and mounts on what it opened. Root
// mounts for the user whom the principal is bound to; of several, the one
// whose directory it is. bound says that he may enter because the principal is
// bound to him: when that ends, so do the mount's rights. Where root or the
// owner chose a principal for themselves, nothing binds it.
func (d *Daemon) entering(peer control.Peer, principal, dir string) (uid, gid uint32, bound bool, err error) {
	if peer.UID != 0 {
		bound = !d.trusted(peer.UID) || slices.Contains(d.cfg.Principals.ByUID(peer.UID), principal)
		return peer.UID, peer.GID, bound, nil
	}
	owner, group, err := d.cfg.Kernel.Owner(dir)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return 0, 0, false, fmt.Errorf("%w: %s", errDirectory, dir)
	case err != nil:
		return 0, 0, false, fmt.Errorf("%w: %s: %w", errDirectory, dir, err)
	}
	p, err := d.cfg.Principals.Get(principal)
	if err != nil {
		return 0, 0, false, err
	}
	switch {
	case len(p.UIDs) == 0:
		uid = 0
	case slices.Contains(p.UIDs, owner):
		uid = owner
	default:
		uid = p.UIDs[0]
	}
	if owner != uid {
		return 0, 0, false, notHis(dir, owner, uid)
	}
	// His primary group, or that of his directory if the system does not know him.
	if gid, ok := d.cfg.Kernel.Group(uid); ok {
		group = gid
	}
	return uid, group, len(p.UIDs) > 0, nil
}

func notHis(dir string, owner, uid uint32) error {
	return &hintedError{
		err:  fmt.Errorf("%w: %s belongs to uid %d, and the mount would be entered by uid %d", errForbidden, dir, owner, uid),
		hint: fmt.Sprintf("mount on a directory of that user: mkdir DIR && chown %d DIR", uid),
	}
}
