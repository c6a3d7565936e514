package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fsType is what the kernel calls our mounts.
const fsType = "fuse.kmsfs"

// SourceOf is the device name of a store's mounts, by which they are known as
// that store's and nobody else's.
func SourceOf(storeID string) string { return "kmsfs:" + storeID }

// mountPoint is a row of mountinfo.
type mountPoint struct {
	dir    string // where it is now, however it was called when it was mounted
	device string // major:minor
	source string
}

// mountPoints lists the mounts of our type in a mountinfo table, the latest
// first, so that what lies on another mount comes before it.
func mountPoints(table io.Reader) ([]mountPoint, error) {
	var all []mountPoint
	sc := bufio.NewScanner(table)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		left, right, ok := strings.Cut(sc.Text(), " - ")
		fields, tail := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(tail) < 2 || tail[0] != fsType {
			continue
		}
		all = append(all, mountPoint{dir: unescape(fields[4]), device: fields[2], source: unescape(tail[1])})
	}
	slices.Reverse(all)
	return all, sc.Err()
}

func allMounts() ([]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer func() { _ = f.Close() }()
	all, err := mountPoints(f)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return all, nil
}

// dirOf is where a device is mounted now: its user may have renamed the
// directories above it. "" if it is mounted nowhere any more.
func dirOf(device string) (string, error) {
	all, err := allMounts()
	if err != nil {
		return "", err
	}
	for _, m := range all {
		if m.device == device {
			return m.dir, nil
		}
	}
	return "", nil
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// StoreMounts lists where a store is mounted, dead or alive.
func StoreMounts(storeID string) ([]string, error) {
	all, err := allMounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range all {
		if m.source == SourceOf(storeID) {
			dirs = append(dirs, m.dir)
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

// unmountAt is umount2(2) for a directory that may lie in another user's
// hands. He could put a link in place of a directory above it and have root
// unmount something else; so nothing above it may be a link, and the last step
// goes through a descriptor of its parent.
func unmountAt(dir string, flags int) error {
	parent, err := unix.Openat2(unix.AT_FDCWD, filepath.Dir(dir), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(parent) }()
	return unix.Unmount("/proc/self/fd/"+strconv.Itoa(parent)+"/"+filepath.Base(dir), flags|unix.UMOUNT_NOFOLLOW)
}
