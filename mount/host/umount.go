package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// umount is allowed to root, the store's owner, who asked for the mount and
// who enters it.
func (c *call) umount(a UmountArgs) (any, error) {
	d := c.d
	if d.cfg.Mount == nil {
		return nil, errNoHost
	}
	m := d.at(a.Dir)
	if m == nil {
		return nil, fmt.Errorf("%s: %w", a.Dir, errNoMount)
	}
	if !d.trusted(c.peer.UID) && c.peer.UID != m.info.UID && c.peer.UID != m.info.By {
		return nil, fmt.Errorf("%w: %s is another user's mount", errForbidden, a.Dir)
	}
	// What was closed is in the volume already; this makes it durable, and
	// tells of a full disk while there is still something to be done about it.
	if err := d.cfg.Volume.Sync(); err != nil {
		return nil, fmt.Errorf("write %s out: %w", a.Dir, err)
	}
	if a.Lazy {
		if err := m.detach(c.ctx, Gently); err != nil {
			return nil, err
		}
		d.detached(m)
		return nil, nil
	}
	if err := c.patiently(m); err != nil {
		return nil, err
	}
	select {
	case <-m.gone:
		return nil, nil
	case <-c.ctx.Done():
	}
	select {
	case <-m.gone: // and with it, perhaps, the daemon's reason to go on
		return nil, nil
	default:
		return nil, c.ctx.Err()
	}
}

// patiently unmounts a mount whose last user may be just about to leave.
func (c *call) patiently(m *mounted) error {
	ctx, cancel := context.WithTimeout(c.ctx, umountGrace)
	defer cancel()
	tick := time.NewTicker(busyPause)
	defer tick.Stop()
	for {
		err := m.unmount(ctx)
		if !errors.Is(err, errInUse) {
			return err
		}
		select {
		case <-m.gone:
			return nil
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// where is the mount's place in the tree as it is now; "" if it has none.
func (m *mounted) where() (string, error) {
	if m.server.Device() == "" {
		return m.info.Dir, nil
	}
	return dirOf(m.server.Device())
}

// unmount tries once. A mount that is gone already is fine.
func (m *mounted) unmount(ctx context.Context) error {
	dir, err := m.where()
	if err != nil || dir == "" {
		return err
	}
	return m.kernel.Release(context.WithoutCancel(ctx), dir, IfUnused)
}

func (m *mounted) detach(ctx context.Context, how Manner) error {
	dir, err := m.where()
	if err != nil || dir == "" {
		return err
	}
	return m.kernel.Release(context.WithoutCancel(ctx), dir, how)
}

// kill ends the connection and takes the mount away. Root does it through the
// mount itself; a user has the connection's control file for the first part.
func (m *mounted) kill(ctx context.Context) error {
	var err error
	if os.Geteuid() != 0 {
		err = m.server.Abort()
	}
	return errors.Join(err, m.detach(ctx, Firmly))
}

// end unmounts one mount. It waits for its users until ctx ends; then it takes
// the mount away from them: what they wrote is in the volume already.
func (d *Daemon) end(ctx context.Context, m *mounted) error {
	tick := time.NewTicker(busyPause)
	defer tick.Stop()
	for {
		err := m.unmount(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-m.gone:
			return nil
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		d.log.Warn("ending a mount that is in use", "dir", m.info.Dir, "err", err)
		return m.kill(ctx)
	}
}

// unmountAll ends every mount, all at once.
func (d *Daemon) unmountAll(ctx context.Context) error {
	d.mu.Lock()
	d.ending = true
	d.mu.Unlock()
	grace, cancel := context.WithTimeout(ctx, busyGrace)
	defer cancel()
	all := d.table()
	failed := make(chan error, len(all))
	for _, m := range all {
		go func() { failed <- d.end(grace, m) }()
	}
	var errs []error
	for range all {
		errs = append(errs, <-failed)
	}
	// A kernel that does not let go is not waited for.
	settle := time.NewTimer(time.Second)
	defer settle.Stop()
	for _, m := range all {
		select {
		case <-m.gone:
		case <-settle.C:
			return errors.Join(errs...)
		}
	}
	return errors.Join(errs...)
}
