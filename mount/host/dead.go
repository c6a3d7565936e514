package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
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

// mountPoints lists the mount points in a mountinfo table that have our type
// and source, innermost first.
func mountPoints(table io.Reader, source string) ([]string, error) {
	var dirs []string
	sc := bufio.NewScanner(table)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		left, right, ok := strings.Cut(sc.Text(), " - ")
		fields, tail := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(tail) < 2 || tail[0] != fsType {
			continue
		}
		if unescape(tail[1]) == source {
			dirs = append(dirs, unescape(fields[4]))
		}
	}
	slices.Reverse(dirs)
	return dirs, sc.Err()
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

// StoreMounts lists the mount points of a store's mounts, dead or alive.
func StoreMounts(storeID string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer func() { _ = f.Close() }()
	dirs, err := mountPoints(f, SourceOf(storeID))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
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
	Gently Manner = iota // its users go on with it until they leave
	Firmly               // pending calls fail: for a mount whose daemon is dead
)

// Detach takes a mount out of the name space even if it is in use: by the
// kernel for root, through fusermount3 for others.
func Detach(ctx context.Context, dir string, how Manner) error {
	flags := unix.MNT_DETACH | unix.UMOUNT_NOFOLLOW
	if how == Firmly {
		flags |= unix.MNT_FORCE
	}
	return unmountWith(ctx, dir, flags, "-z")
}

// unmount is the ordinary end of a mount: errInUse while somebody uses it.
func unmount(ctx context.Context, dir string) error {
	return unmountWith(ctx, dir, unix.UMOUNT_NOFOLLOW)
}

func unmountWith(ctx context.Context, dir string, flags int, helperArgs ...string) error {
	err := unix.Unmount(dir, flags)
	if errors.Is(err, unix.EPERM) {
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
