package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// A daemon that runs has its store open, its sockets bound and a supervisor
// that mounts for it. From then on it needs to read and write below its store,
// to accept on its sockets, to answer /dev/fuse through descriptors that it is
// handed, and nothing else; and that is all that is left to it:
//
//   - no capability, also none to gain: the bounding set is empty and
//     no_new_privs set. Root without capabilities is still the owner of root's
//     files, hence landlock.
//   - landlock: files below the store, and reading in /proc (the groups of
//     callers, the table of mounts) and the time zone; no TCP port to bind or
//     connect to; no signal and no abstract socket to the outside.
//   - seccomp: no program is run, no socket made, nothing mounted, traced,
//     loaded or changed for the whole machine, no identity changed.
//
// The supervisor keeps what mounting takes and gives up the rest. Each part is
// done where the kernel has it, and the log says which were.

// Confinement says what is in force.
type Confinement struct {
	Landlock int  // the kernel's ABI version; 0: it has none
	Seccomp  bool // there is a filter
}

// ErrNotConfined says that a part failed although the kernel has it.
var ErrNotConfined = errors.New("cannot confine the daemon")

// Confine leaves the process the rights that serving the store in dir takes.
// It holds for all threads and cannot be undone. The store belongs to this
// process's user.
func Confine(dir string) (Confinement, error) {
	var c Confinement
	if os.Geteuid() == 0 { // what root may do without limit and others by these
		_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}) // keys
		_ = unix.Setrlimit(unix.RLIMIT_NICE, &unix.Rlimit{Cur: 40, Max: 40})                                    // revocation
	}
	if err := dropCapabilities(nil); err != nil {
		return c, fmt.Errorf("%w: capabilities: %w", ErrNotConfined, err)
	}
	if _, errno := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); errno != nil {
		return c, fmt.Errorf("%w: no_new_privs: %w", ErrNotConfined, errno)
	}
	if v, err := llsys.LandlockGetABIVersion(); err == nil && v > 0 {
		if err := restrictFiles(dir); err != nil {
			return c, fmt.Errorf("%w: landlock: %w", ErrNotConfined, err)
		}
		c.Landlock = v
	}
	var err error
	if c.Seccomp, err = filterCalls(slices.Concat(neverCalls, servingNever)); err != nil {
		return c, fmt.Errorf("%w: seccomp: %w", ErrNotConfined, err)
	}
	return c, nil
}

// ConfineSupervisor leaves the supervisor what it takes to mount and unmount
// for others: as root its capabilities for that, without any program to gain
// more by. An ordinary user's supervisor has none and runs fusermount3, which
// is set-uid root: it stays as it is.
func ConfineSupervisor() error {
	if os.Geteuid() != 0 {
		return nil
	}
	err := dropCapabilities([]uintptr{
		unix.CAP_SYS_ADMIN,               // mount(2), umount2(2)
		unix.CAP_SETUID, unix.CAP_SETGID, // to look at a directory with the rights of who wants to mount on it
		unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, // directories above a mount that are closed to others
	})
	if err != nil {
		return fmt.Errorf("%w: capabilities: %w", ErrNotConfined, err)
	}
	if _, err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("%w: no_new_privs: %w", ErrNotConfined, err)
	}
	if _, err := filterCalls(neverCalls); err != nil {
		return fmt.Errorf("%w: seccomp: %w", ErrNotConfined, err)
	}
	return nil
}

// LogConfinement says what is in force.
func LogConfinement(log *slog.Logger, c Confinement) {
	log.Info("confined", "landlock", c.Landlock, "seccomp", c.Seccomp)
	if c.Landlock == 0 {
		log.Warn("this kernel has no landlock: the daemon could open files outside its store")
	}
}

// allThreads makes a system call on every thread.
func allThreads(number, a, b, c uintptr) (uintptr, error) {
	r, _, errno := psx.Syscall6(number, a, b, c, 0, 0, 0)
	if errno != 0 {
		return r, errno
	}
	return r, nil
}

const lastCapability = 63 // of the kernel's two words

// dropCapabilities leaves what of keep there is, and empties the bounding set.
func dropCapabilities(keep []uintptr) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have, want [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return err
	}
	for _, c := range keep {
		want[c/32].Permitted |= have[c/32].Permitted & (1 << (c % 32))
	}
	for i := range want {
		want[i].Effective = want[i].Permitted
	}
	if have[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		for c := uintptr(0); c <= lastCapability; c++ {
			if slices.Contains(keep, c) {
				continue
			}
			if set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil || set == 0 {
				continue // unknown to this kernel, or gone already
			}
			if _, err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); err != nil {
				return err
			}
		}
	}
	if _, err := allThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	header = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var pins runtime.Pinner // psx takes numbers, which keep nothing in its place
	defer pins.Unpin()
	pins.Pin(&header)
	pins.Pin(&want)
	_, err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want)), 0)
	return err
}

func restrictFiles(dir string) error {
	const look = landlock.AccessFSSet(llsys.AccessFSReadFile | llsys.AccessFSReadDir)
	return landlock.V7.BestEffort().Restrict(
		landlock.RWDirs(dir).WithRefer(),
		landlock.PathAccess(look, "/proc"),
		landlock.PathAccess(look, "/usr/share/zoneinfo").IgnoreIfMissing(),
		landlock.ROFiles("/etc/localtime").IgnoreIfMissing(),
	)
}

// neverCalls are the system calls that neither process makes.
var neverCalls = []string{
	"execve", "execveat", "fork", "vfork", "chroot", "pivot_root", "setns", "unshare", "personality",
	"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "perf_event_open", "bpf", "userfaultfd",
	"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd",
	"settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "syslog", "iopl", "ioperm", "vhangup",
	"add_key", "request_key", "keyctl", "mknod", "mknodat", "open_by_handle_at", "name_to_handle_at", "fanotify_init",
	"io_uring_setup", "io_uring_enter", "io_uring_register",
}

// servingNever are those that the daemon alone does not make.
var servingNever = []string{
	"mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
	"socket", "socketpair", "connect", "bind", "listen",
	"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid", "capset",
}

// filterCalls makes system calls fail with EPERM, on all threads. false: the kernel has no seccomp, or the architecture no table.
func filterCalls(names []string) (bool, error) {
	if !seccomp.Supported() {
		return false, nil
	}
	info, err := arch.GetInfo("")
	if err != nil {
		return false, nil //nolint:nilerr // an architecture without a table; the log says that there is no filter
	}
	known := slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		_, ok := info.SyscallNames[n]
		return !ok
	})
	return true, seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls:      []seccomp.SyscallGroup{{Names: known, Action: seccomp.ActionErrno}},
		},
	})
}
