package host

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount/fusefs"
)

// The child that confines itself finds its store in one and what is outside in the other.
const (
	confinedEnv = "KMSFS_TEST_CONFINED"
	outsideEnv  = "KMSFS_TEST_OUTSIDE"
)

// TestConfine confines a process and looks, from inside, at what it can still do.
func TestConfine(t *testing.T) {
	if dir := os.Getenv(confinedEnv); dir != "" {
		confined(t, dir)
		return
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestConfine$", "-test.v")
	cmd.Env = append(os.Environ(), confinedEnv+"="+dir, outsideEnv+"="+outside)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestConfine") {
		t.Errorf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "not checked") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func confined(t *testing.T, dir string) {
	block := make(chan struct{})
	defer close(block)
	go func() { <-block }()
	c, err := Confine(dir)
	if err != nil {
		t.Fatal(err)
	}
	const capabilities = "0000000000000000"
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatal("no threads", err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		status := string(b)
		for _, want := range []string{"CapEff:\t" + capabilities, "CapPrm:\t" + capabilities, "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
			if !strings.Contains(status, want) {
				t.Errorf("%s lacks %q:\n%s", task, want, status)
			}
		}
		if c.Seccomp && !strings.Contains(status, "Seccomp:\t2") {
			t.Errorf("%s has no filter", task)
		}
		if os.Geteuid() == 0 && !strings.Contains(status, "CapBnd:\t"+capabilities) {
			t.Errorf("%s could gain capabilities", task)
		}
	}
	inTheStore(t, dir)
	if c.Landlock == 0 {
		t.Log("not checked: this kernel has no landlock")
	} else {
		outsideTheStore(t)
	}
	if !c.Seccomp {
		t.Log("not checked: this kernel has no seccomp")
		return
	}
	forbidden(t)
}

func inTheStore(t *testing.T, dir string) {
	t.Helper()
	name := filepath.Join(dir, "new")
	for what, err := range map[string]error{
		"write":  os.WriteFile(name, []byte("x"), 0o600),
		"rename": os.Rename(name, name+"2"),
		"mkdir":  os.Mkdir(filepath.Join(dir, "d"), 0o700),
		"rmdir":  os.Remove(filepath.Join(dir, "d")),
		"read":   func() error { _, err := os.ReadFile(filepath.Join(dir, "there")); return err }(),
		"proc":   func() error { _, err := os.ReadFile("/proc/1/status"); return err }(),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.Remove(name + "2"); err != nil {
		t.Error(err)
	}
}

func outsideTheStore(t *testing.T) {
	t.Helper()
	outside := os.Getenv(outsideEnv)
	for _, name := range []string{outside, "/etc/passwd", "/etc/shadow", "/dev/fuse", "/usr"} {
		f, err := os.Open(name)
		if !errors.Is(err, syscall.EACCES) {
			t.Errorf("open %s: %v", name, err)
		}
		_ = f.Close()
	}
	if err := os.WriteFile(outside+"2", nil, 0o600); !errors.Is(err, syscall.EACCES) {
		t.Errorf("create: %v", err)
	}
	if err := os.Remove(outside); !errors.Is(err, syscall.EACCES) {
		t.Errorf("remove: %v", err)
	}
}

func forbidden(t *testing.T) {
	t.Helper()
	listen := func() error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err }
	for what, err := range map[string]error{
		"run a program":  unix.Exec(os.Args[0], []string{os.Args[0], "-test.list=none"}, nil),
		"make a socket":  listen(),
		"mount":          unix.Mount("none", "/proc", "tmpfs", 0, ""),
		"unmount":        unix.Unmount("/proc", unix.MNT_DETACH),
		"trace":          unix.PtraceAttach(os.Getppid()),
		"become another": unix.Setresuid(1, 1, 1),
	} {
		if !errors.Is(err, syscall.EPERM) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Each with arguments for which the kernel itself has another answer.
	const bad = ^uintptr(0)
	for what, args := range map[string][4]uintptr{
		"socket":            {unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM},
		"socketpair":        {unix.SYS_SOCKETPAIR, unix.AF_UNIX, unix.SOCK_STREAM},
		"connect":           {unix.SYS_CONNECT, bad},
		"bind":              {unix.SYS_BIND, bad},
		"listen":            {unix.SYS_LISTEN, bad},
		"unshare":           {unix.SYS_UNSHARE},
		"setns":             {unix.SYS_SETNS, bad},
		"personality":       {unix.SYS_PERSONALITY, 0xffffffff},
		"execveat":          {unix.SYS_EXECVEAT, bad},
		"process_vm_readv":  {unix.SYS_PROCESS_VM_READV},
		"process_vm_writev": {unix.SYS_PROCESS_VM_WRITEV},
		"pidfd_getfd":       {unix.SYS_PIDFD_GETFD, bad},
		"kcmp":              {unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(os.Getpid())},
		"open_by_handle_at": {unix.SYS_OPEN_BY_HANDLE_AT, bad},
		"name_to_handle_at": {unix.SYS_NAME_TO_HANDLE_AT, bad},
		"io_uring_setup":    {unix.SYS_IO_URING_SETUP},
		"io_uring_enter":    {unix.SYS_IO_URING_ENTER, bad},
		"perf_event_open":   {unix.SYS_PERF_EVENT_OPEN},
		"add_key":           {unix.SYS_ADD_KEY},
		"request_key":       {unix.SYS_REQUEST_KEY},
		"setuid":            {unix.SYS_SETUID, bad},
		"setgroups":         {unix.SYS_SETGROUPS, 0, 0},
		"move_mount":        {unix.SYS_MOVE_MOUNT, bad},
		"fsopen":            {unix.SYS_FSOPEN},
		"mknodat":           {unix.SYS_MKNODAT, bad},
	} {
		if _, _, errno := syscall.Syscall6(args[0], args[1], args[2], args[3], 0, 0, 0); errno != syscall.EPERM {
			t.Errorf("%s: %v", what, errno)
		}
	}
}

// TestDeputy asks a supervisor for what it must refuse, and what it must do.
func TestDeputy(t *testing.T) {
	d, theirs, err := DeputyPair()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- ServeDeputy(t.Context(), theirs, "mine") }()
	dir := t.TempDir()
	if uid, gid, err := d.Owner(dir); err != nil || int(uid) != os.Geteuid() || int(gid) != os.Getegid() {
		t.Errorf("owner: %d %d %v", uid, gid, err)
	}
	if _, _, err := d.Owner("/etc/passwd"); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("owner of a file: %v", err)
	}
	if _, _, err := d.Owner(dir + "/none"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("owner of nothing: %v", err)
	}
	if _, ok := d.Group(4294901760); ok {
		t.Error("a group of a user whom nobody knows")
	}
	for what, err := range map[string]error{
		"mount for another store":  func() error { _, _, err := d.Attach(dir, fusefs.Options{Source: SourceOf("other")}); return err }(),
		"unmount a foreign mount":  d.Unmount("/proc", 0),
		"detach a foreign mount":   d.Release(t.Context(), "/proc", Firmly),
		"release no mount":         d.Release(t.Context(), dir, IfUnused),
		"read ahead of another":    d.ReadAhead("8:0", 1<<20),
		"read ahead, another file": d.ReadAhead("../../../../tmp/x", 1),
		"unmount nothing":          d.Unmount("", 0),
		"an unknown operation":     func() error { _, err := d.ask(deputyRequest{Op: "exec", Dir: "/bin/sh"}); return err }(),
	} {
		if !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := d.Unmount(dir, 0); err == nil {
		t.Error("an answer from nobody")
	}
}

// FuzzDeputy gives the supervisor arbitrary requests: it does nothing that is not about a mount of its store, of which there is none.
func FuzzDeputy(f *testing.F) {
	for _, s := range []string{
		`{"id":1,"op":"attach","dir":"/tmp","options":{"Source":"kmsfs:other"}}`, `{"id":2,"op":"release","dir":"/proc","number":1}`,
		`{"id":3,"op":"read-ahead","dev":"0:1","number":1}`, `{"id":4,"op":"owner","dir":"/"}`, `{"id":5,"op":"group","number":0}`, `{}`, `[`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var req deputyRequest
		if decodeRequest(body, &req) != nil {
			return
		}
		k := &countingKernel{}
		a, fd := deputy{storeID: "no-such-store", kernel: k}.serve(t.Context(), req)
		if fd >= 0 || a.ID != req.ID || k.changes > 0 && (req.Op != opAttach || req.Options.Source != SourceOf("no-such-store")) {
			t.Errorf("%s: %+v, %d changes", body, a, k.changes)
		}
	})
}

// countingKernel does nothing and counts what would have changed something.
type countingKernel struct {
	Direct
	changes int
}

func (k *countingKernel) Attach(string, fusefs.Options) (int, string, error) {
	k.changes++
	return -1, "", syscall.EPERM
}

func (k *countingKernel) Unmount(string, int) error { k.changes++; return nil }

func (k *countingKernel) Abort(string, string) error { k.changes++; return nil }

func (k *countingKernel) ReadAhead(string, int) error { k.changes++; return nil }

func (k *countingKernel) Release(context.Context, string, Manner) error { k.changes++; return nil }
func (k *countingKernel) Owner(string) (uint32, uint32, error)          { return 0, 0, nil }
func (k *countingKernel) Group(uint32) (uint32, bool)                   { return 0, false }
