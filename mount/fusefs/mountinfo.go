package fusefs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FSType is what the kernel calls our mounts.
const FSType = "fuse.kmsfs"

// ErrOtherMount means that something else is mounted where a mount was.
var ErrOtherMount = errors.New("another mount is there")

// MountPoint is a mount of ours, as the kernel lists it.
type MountPoint struct {
	ID     int
	Dir    string // where it is now, however it was called when it was mounted
	Device string // major:minor
	Source string
}

// ParseMounts reads a mountinfo table and gives the mounts of our type, the latest first, so that what lies on another mount comes
// before it.
func ParseMounts(table io.Reader) ([]MountPoint, error) {
	var all []MountPoint
	err := eachMount(table, func(m MountPoint, kind string) {
		if kind == FSType {
			all = append(all, m)
		}
	})
	slices.Reverse(all)
	return all, err
}

// Mounts lists the mounts of our type, the latest first.
func Mounts() (all []MountPoint, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	if all, err = ParseMounts(f); err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return all, nil
}

// topmost finds the mount of ours that is on a directory, without asking the mount itself; ok is false if none is, or if something else
// lies over it.
func topmost(dir string) (top MountPoint, ok bool) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return MountPoint{}, false
	}
	defer f.Close()
	err = eachMount(f, func(m MountPoint, kind string) {
		if m.Dir == dir {
			top, ok = m, kind == FSType
		}
	})
	return top, ok && err == nil
}

// dirOf is where a mount of ours is now; "" if it has no place.
func dirOf(dev string) string {
	all, err := Mounts()
	i := slices.IndexFunc(all, func(m MountPoint) bool { return m.Device == dev })
	if err != nil || i < 0 {
		return ""
	}
	return all[i].Dir
}

// eachMount calls fn for the rows of a table:
//
//	36 35 98:0 /root /mount/point opts [optional…] - type source superopts
func eachMount(table io.Reader, fn func(m MountPoint, kind string)) error {
	lines := bufio.NewScanner(table)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields, tail := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(tail) < 2 {
			continue
		}
		id, err := strconv.Atoi(fields[0])
		if err != nil {
			continue
		}
		fn(MountPoint{ID: id, Device: fields[2], Dir: unescape(fields[4]), Source: unescape(tail[1])}, tail[0])
	}
	return lines.Err()
}

// unescape undoes mountinfo's \ooo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Unmount is umount2(2) of this mount and of no other. The directory may lie in the hands of a user who moves it, or who puts a link
// or another mount in its place in the meantime: nothing above it may be a link, and the mount that is found there must be the one
// meant. With MNT_DETACH or MNT_FORCE it is unmounted through its own descriptor. A plain unmount would find the mount in use by that
// descriptor: it goes through one of the directory above, in which a mount point can be neither renamed nor removed.
// ErrOtherMount if it is another; unix.EBUSY if it is in use.
func (m MountPoint) Unmount(flags int) error {
	parent, err := unix.Openat2(unix.AT_FDCWD, filepath.Dir(m.Dir), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	// O_PATH asks nothing of the file system, so a dead one does not block it.
	root, err := unix.Openat(parent, filepath.Base(m.Dir), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	id, err := mountID(root)
	if err == nil && id != m.ID {
		err = fmt.Errorf("%s: %w", m.Dir, ErrOtherMount)
	}
	if err != nil {
		_ = unix.Close(root)
		return err
	}
	if flags&(unix.MNT_DETACH|unix.MNT_FORCE) != 0 {
		defer unix.Close(root)
		return unix.Unmount("/proc/self/fd/"+strconv.Itoa(root), flags)
	}
	_ = unix.Close(root)
	return unix.Unmount("/proc/self/fd/"+strconv.Itoa(parent)+"/"+filepath.Base(m.Dir), flags|unix.UMOUNT_NOFOLLOW)
}

// mountID tells which mount a descriptor is on, without asking its file system.
func mountID(fd int) (int, error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, errors.New("the kernel does not tell mount ids")
}
