package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount/fusefs"
)

// SourceOf is the device name of a store's mounts, by which they are known as
// that store's and nobody else's.
func SourceOf(storeID string) string { return "kmsfs:" + storeID }

// dirOf is where a device is mounted now: its user may have renamed the
// directories above it. "" if it is mounted nowhere any more.
func dirOf(device string) (string, error) {
	all, err := fusefs.Mounts()
	if err != nil {
		return "", err
	}
	for _, m := range all {
		if m.Device == device {
			return m.Dir, nil
		}
	}
	return "", nil
}

// StoreMounts lists where a store is mounted, dead or alive.
func StoreMounts(storeID string) ([]string, error) {
	all, err := fusefs.Mounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range all {
		if m.Source == SourceOf(storeID) {
			dirs = append(dirs, m.Dir)
		}
	}
	return dirs, nil
}

// EndDead ends what an earlier daemon of this store left mounted, so that
// nobody hangs on it. The caller holds the store's lock, so none is alive.
func EndDead(ctx context.Context, storeID string) (ended []string, err error) {
	dirs, err := StoreMounts(storeID)
	if err != nil {
		return nil, err
	}
	var all []error
	for _, dir := range dirs {
		if err := Detach(ctx, dir, Firmly); err != nil {
			all = append(all, err)
			continue
		}
		ended = append(ended, dir)
	}
	return ended, errors.Join(all...)
}

// helperPatience is how long fusermount3 may take. It waits for the kernel,
// which may wait for the daemon to write things out.
const helperPatience = 30 * time.Second

// Manner says what happens to the calls that hang on a mount.
type Manner int

// The manners of detaching a mount.
const (
	Gently   Manner = iota // its users go on with it until they leave
	Firmly                 // pending calls fail: for a mount whose daemon is dead
	IfUnused               // only if nobody uses it
)

// Detach takes a mount out of the name space even if it is in use: by the
// kernel for root, through fusermount3 for others.
func Detach(ctx context.Context, dir string, how Manner) error { return release(ctx, dir, how) }

// release ends a mount in a manner.
func release(ctx context.Context, dir string, how Manner) error {
	switch how {
	case IfUnused:
		return unmountWith(ctx, dir, 0)
	case Gently:
		return unmountWith(ctx, dir, unix.MNT_DETACH, "-z")
	default:
		return unmountWith(ctx, dir, unix.MNT_DETACH|unix.MNT_FORCE, "-z")
	}
}

// unmountWith unmounts as root or through fusermount3: errInUse while somebody
// uses the mount, unless flags say not to care.
func unmountWith(ctx context.Context, dir string, flags int, helperArgs ...string) error {
	err := unmountAt(dir, flags)
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		ctx, cancel := context.WithTimeout(ctx, helperPatience)
		defer cancel()
		var out []byte
		args := append([]string{"-u"}, helperArgs...)
		out, err = exec.CommandContext(ctx, "fusermount3", append(args, "--", dir)...).CombinedOutput()
		if err != nil && strings.Contains(strings.ToLower(string(out)), "busy") {
			err = unix.EBUSY
		} else if err != nil {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY):
		err = errInUse
	}
	return fmt.Errorf("unmount %s: %w", dir, err)
}

// unmountAt unmounts what of ours is on a directory, and nothing else: see
// fusefs.MountPoint.Unmount.
func unmountAt(dir string, flags int) error {
	all, err := fusefs.Mounts()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(m fusefs.MountPoint) bool { return m.Dir == dir })
	if i < 0 {
		return fmt.Errorf("nothing of ours is mounted there: %w", unix.EINVAL)
	}
	return all[i].Unmount(flags)
}
