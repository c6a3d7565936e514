package fusefs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

var errNoDescriptor = errors.New("no descriptor received")

// attach opens a FUSE connection and mounts it on a directory. It returns the descriptor and the directory's absolute path.
func attach(dir string, o Options) (fd int, abs string, err error) {
	if abs, err = filepath.Abs(dir); err != nil {
		return -1, "", err
	}
	if os.Geteuid() != 0 {
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return -1, "", err
		}
		fd, err = attachByHelper(abs, o)
		return fd, abs, err
	}
	target, mode, err := openTarget(abs, o.UID, o.GID)
	if err != nil {
		return -1, "", err
	}
	defer unix.Close(target)
	if abs, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(target)); err != nil { // as mountinfo names it
		return -1, "", err
	}
	fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", fmt.Errorf("/dev/fuse: %w", err)
	}
	flags := o.Flags | unix.MS_NOSUID | unix.MS_NODEV
	if o.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	// The kernel takes who may enter from user_id and group_id; every other user is refused, root too.
	data := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d", fd, mode&unix.S_IFMT, o.UID, o.GID, maxWrite)
	if o.AllowOther {
		data += ",allow_other"
	}
	if o.DefaultPermissions {
		data += ",default_permissions"
	}
	if err := unix.Mount(o.source(), "/proc/self/fd/"+strconv.Itoa(target), FSType, flags, data); err != nil {
		_ = unix.Close(fd)
		return -1, "", err
	}
	return fd, abs, nil
}

// openTarget opens the directory to mount on, with the rights of who asked, and refuses to follow a link at its end. What another
// user asks for must be a directory of his.
func openTarget(path string, uid, gid uint32) (fd int, mode uint32, err error) {
	open := func() (int, error) {
		return unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if uid == 0 {
		fd, err = open()
	} else {
		fd, err = as(uid, gid, open)
	}
	if err != nil {
		return -1, 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, 0, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = unix.ENOTDIR
	case uid != 0 && st.Uid != uid:
		err = fmt.Errorf("the directory belongs to uid %d and not to %d: %w", st.Uid, uid, unix.EPERM)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, 0, err
	}
	return fd, st.Mode, nil
}

// as runs fn with the file system rights of another user, without root's: on a thread of its own, which ends with it.
func as(uid, gid uint32, fn func() (int, error)) (int, error) {
	type result struct {
		fd  int
		err error
	}
	c := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		// Raw calls change this thread alone; package syscall's would change all.
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
			c <- result{-1, e}
			return
		}
		if err := unix.Setfsgid(int(gid)); err != nil {
			c <- result{-1, err}
			return
		}
		if err := unix.Setfsuid(int(uid)); err != nil {
			c <- result{-1, err}
			return
		}
		if now, _ := unix.SetfsuidRetUid(-1); now != int(uid) {
			c <- result{-1, unix.EPERM}
			return
		}
		fd, err := fn()
		c <- result{fd, err}
	}()
	r := <-c
	return r.fd, r.err
}

// attachByHelper lets fusermount3, which is set-uid root, mount for an ordinary user; it hands the connection back over a socket.
func attachByHelper(dir string, o Options) (int, error) {
	bin, err := helper()
	if err != nil {
		return -1, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	local, remote := os.NewFile(uintptr(pair[0]), "fusermount"), os.NewFile(uintptr(pair[1]), "fusermount")
	defer local.Close()
	defer remote.Close()
	var stderr strings.Builder
	cmd := exec.CommandContext(context.Background(), bin, "-o", strings.Join(helperOptions(o), ","), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{remote}
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return -1, fmt.Errorf("%s: %s: %w", filepath.Base(bin), strings.TrimSpace(stderr.String()), err)
	}
	return receive(local)
}

func helperOptions(o Options) []string {
	opts := []string{"nosuid", "nodev", "fsname=" + escapeOption(o.source()), "subtype=kmsfs", fmt.Sprintf("max_read=%d", maxWrite)}
	for _, f := range []struct {
		on   bool
		name string
	}{
		{o.ReadOnly, "ro"},
		{o.AllowOther, "allow_other"},
		{o.DefaultPermissions, "default_permissions"},
		{o.Flags&unix.MS_NOEXEC != 0, "noexec"},
		{o.Flags&unix.MS_NOATIME != 0, "noatime"},
		{o.Flags&unix.MS_SYNCHRONOUS != 0, "sync"},
		{o.Flags&unix.MS_DIRSYNC != 0, "dirsync"},
	} {
		if f.on {
			opts = append(opts, f.name)
		}
	}
	return opts
}

func (o Options) source() string {
	if o.Source == "" {
		return "kmsfs"
	}
	return o.Source
}

// escapeOption keeps a value from ending its option.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}

func helper() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
	}
	return "", errors.New("fusermount3 is not installed")
}

// receive takes one descriptor from a socket.
func receive(f *os.File) (int, error) {
	conn, err := net.FileConn(f)
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, errors.New("fusermount: not a Unix socket")
	}
	var data [16]byte
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := u.ReadMsgUnix(data[:], oob)
	if err != nil {
		return -1, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("fusermount: %w", errors.Join(errNoDescriptor, err))
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("fusermount: %w", errors.Join(errNoDescriptor, err))
	}
	unix.CloseOnExec(fds[0])
	return fds[0], nil
}

// unmount unmounts what of ours is on a directory: by itself as root, else through the helper. EINVAL if nothing is.
func unmount(dir string, flags int) error {
	m, ok := topmost(dir)
	if !ok {
		return fmt.Errorf("unmount %s: %w", dir, unix.EINVAL)
	}
	return m.release(flags)
}

func (m MountPoint) release(flags int) error {
	if os.Geteuid() == 0 {
		return m.Unmount(flags)
	}
	bin, err := helper()
	if err != nil {
		return err
	}
	args := []string{"-u"}
	if flags&unix.MNT_DETACH != 0 {
		args = append(args, "-z")
	}
	out, err := exec.CommandContext(context.Background(), bin, append(args, "--", m.Dir)...).CombinedOutput()
	if err == nil {
		return nil
	}
	if strings.Contains(string(out), "busy") {
		return unix.EBUSY
	}
	return fmt.Errorf("%s: %s: %w", filepath.Base(bin), strings.TrimSpace(string(out)), err)
}

// detach takes a mount away whose server did not come up.
func (o Options) detach(dir, dev string) {
	if dev == "" || deviceOf(dir) == dev {
		_ = o.kernel().Unmount(dir, unix.MNT_DETACH)
	}
}

// abort ends a connection by force, through its control file or, as root, through the mount, which it takes away; not if another's lies on it.
func abort(dir, dev string) error {
	m, ok := topmost(dir)
	if !ok || dev != "" && m.Device != dev {
		return nil
	}
	_, minor, _ := strings.Cut(m.Device, ":")
	ended := os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0) == nil
	err := m.release(unix.MNT_FORCE | unix.MNT_DETACH)
	if ended && errors.Is(err, ErrOtherMount) {
		return nil
	}
	return err
}

// deviceOf finds the device number of the topmost mount on a directory, if it is ours. Empty: none is.
func deviceOf(dir string) string {
	m, ok := topmost(dir)
	if !ok {
		return ""
	}
	return m.Device
}
