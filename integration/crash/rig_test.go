package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	roleEnv  = "KMSFS_CRASH_TASK"
	deadline = 30 * time.Second // for whatever must not hang
)

func TestMain(m *testing.M) {
	if text := os.Getenv(roleEnv); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	status := m.Run()
	if built.path != "" {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
	os.Exit(status)
}

func child(text string) error {
	var t task
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return err
	}
	switch t.Role {
	case "worker":
		return runWorker(t)
	case "verify":
		return runVerify(t)
	case "fill":
		return runFill(t)
	case "readfilled":
		return runReadFilled(t)
	case "removefilled":
		return runRemoveFilled(t)
	case "replacefilled":
		return runReplaceFilled(t)
	case "limit":
		return unix.Setxattr(filepath.Join(t.Mounts[0], t.Dir), "user.s3.quota", []byte("bytes=1000000000000,inodes=10000000"), 0)
	case "story":
		return runStory(t)
	case "step":
		return runStep(t)
	case "prepare":
		return runPrepare(t)
	case "inspect":
		return runInspect(t)
	case "mkdir":
		return os.MkdirAll(filepath.Join(t.Mounts[0], t.Dir), 0o755)
	case "remove":
		return os.RemoveAll(filepath.Join(t.Mounts[0], t.Dir))
	}
	return fmt.Errorf("unknown role %q", t.Role)
}

// needs says why a test cannot run here, and skips it.
func needs(t *testing.T, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts, and for some tests loop devices")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs ", tool)
		}
	}
}

var built struct {
	once  sync.Once
	path  string
	child string // this package's tests, whose process plays worker or verifier
	err   error
}

// program builds the program under test once, and what its workers and verifiers run. These are one goroutine each that fills and
// compares a great many bytes, which the race detector makes ten times slower without having anything to see there: so they are built
// without it. TestHarness runs their code with it.
func program(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		dir, err := os.MkdirTemp("", "kmsfs-crash-bin-")
		if err != nil {
			built.err = err
			return
		}
		built.path, built.child = filepath.Join(dir, "kmsfs"), filepath.Join(dir, "child")
		for _, args := range [][]string{{"build", "-o", built.path, "../../cmd/kmsfs"}, {"test", "-c", "-o", built.child, "."}} {
			if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
				built.err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
				return
			}
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// limited is the bucket that gets a quota, of which nobody comes near: what it counts must be right.
const limited = "limited"

// rig is a store, its daemon and its two mounts.
type rig struct {
	t      *testing.T
	kmsfs  string
	dir    string // everything but the store
	store  string
	mounts []string
	keys   []string
	daemon *exec.Cmd
	gone   chan error
	log    *os.File
	faulty string   // the program with I/O errors by order, if the daemon is to be that
	orders *os.File // to it
	theirs *os.File
}

// newRig makes a store in storeDir, or in a directory of its own.
func newRig(t *testing.T, storeDir string) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "kmsfs-crash-")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, kmsfs: program(t), dir: dir, store: storeDir}
	if storeDir == "" {
		r.store = filepath.Join(dir, "store")
	}
	t.Cleanup(r.cleanup)
	if r.log, err = os.Create(filepath.Join(dir, "daemon.log")); err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"m1", "m2"} {
		m = filepath.Join(dir, m)
		if err := os.Mkdir(m, 0o755); err != nil {
			t.Fatal(err)
		}
		r.mounts = append(r.mounts, m)
	}
	r.run("init", "--admin", "admin")
	r.run("principal", "create", "second", "--uid", "0", "--policy", "AdministratorAccess")
	r.keys = []string{"AES256"}
	for i := range 2 {
		id := strings.TrimSpace(r.run("key", "create", "--alias", "k"+strconv.Itoa(i)))
		r.keys = append(r.keys, "aws:kms:"+id)
	}
	r.run("bucket", "create", "bucket")
	r.run("bucket", "create", limited)
	return r
}

// command runs the program under test, with a deadline.
func (r *rig) command(args ...string) (string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-lived(10 * deadline):
			cancel()
		case <-ctx.Done():
		}
	}()
	cmd := exec.CommandContext(ctx, r.kmsfs, append([]string{"--store", r.store}, args...)...)
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kmsfs %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

func (r *rig) run(args ...string) string {
	r.t.Helper()
	out, err := r.command(args...)
	if err != nil {
		r.fatal(err)
	}
	return out
}

// fatal ends the test and shows what the daemon said last.
func (r *rig) fatal(args ...any) {
	r.t.Helper()
	r.t.Log("the daemon's last words:\n" + r.lastWords())
	r.t.Fatal(args...)
}

func (r *rig) lastWords() string {
	b, err := os.ReadFile(r.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "")
}

// start starts the daemon and mounts for both principals.
func (r *rig) start() {
	r.t.Helper()
	_ = os.Remove(filepath.Join(r.store, "control.sock")) // the dead one's
	r.daemon = exec.Command(r.kmsfs, "--store", r.store, "serve", "--foreground")
	if r.faulty != "" {
		r.giveOrders()
	}
	r.daemon.Stdout, r.daemon.Stderr = r.log, r.log
	r.daemon.Dir = "/"
	if err := r.daemon.Start(); err != nil {
		r.fatal(err)
	}
	r.started()
	gone := make(chan error, 1)
	go func(d *exec.Cmd) { gone <- d.Wait() }(r.daemon)
	r.gone = gone
	r.await("the daemon's socket", func() bool {
		select {
		case err := <-gone:
			gone <- err
			r.fatal("the daemon did not start: ", err)
		default:
		}
		_, err := os.Stat(filepath.Join(r.store, "control.sock"))
		return err == nil
	})
	for i, m := range r.mounts {
		r.run("mount", "--principal", []string{"admin", "second"}[i], m)
	}
}

// lived is time.After of the time in which this process ran. Who stops it stops the others as well (SIGSTOP, a machine that sleeps), and when
// they all go on no deadline has passed.
func lived(d time.Duration) <-chan struct{} {
	over := make(chan struct{})
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for range int(d / time.Second) {
			<-tick.C // one alone, however long it was stopped
		}
		close(over)
	}()
	return over
}

// await polls for what another process does.
func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	const every = 5 * time.Millisecond
	for left := deadline; !ok(); left -= every { // counted, as in lived
		if left <= 0 {
			r.fatal("waited in vain for ", what)
		}
		time.Sleep(every)
	}
}

// kill kills the daemon and waits until its mounts are gone.
func (r *rig) kill() {
	r.t.Helper()
	_ = r.daemon.Process.Signal(syscall.SIGKILL)
	select {
	case <-r.gone:
	case <-lived(deadline):
		r.fatal("the daemon survives SIGKILL:\n", stacks(r.daemon.Process.Pid))
	}
	r.daemon = nil
}

// unmounted waits until the supervisor has ended the dead mounts.
func (r *rig) unmounted() {
	r.t.Helper()
	r.await("the dead mounts to be ended", func() bool { return len(r.mounted()) == 0 })
}

func (r *rig) mounted() (dirs []string) {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], r.dir+"/") {
			dirs = append(dirs, f[4])
		}
	}
	return dirs
}

// stop ends the daemon in order.
func (r *rig) stop() {
	r.t.Helper()
	if r.daemon == nil {
		return
	}
	r.run("stop")
	select {
	case err := <-r.gone:
		if err != nil {
			r.fatal("the daemon ended with ", err)
		}
	case <-lived(2 * deadline):
		r.fatal("the daemon does not end:\n", stacks(r.daemon.Process.Pid))
	}
	r.daemon = nil
}

func (r *rig) cleanup() {
	if r.daemon != nil {
		_ = r.daemon.Process.Signal(syscall.SIGKILL)
		select {
		case <-r.gone:
		case <-time.After(5 * time.Second):
		}
	}
	for _, m := range r.mounted() {
		_ = exec.Command("umount", "-f", "-l", m).Run()
	}
	_ = r.log.Close()
	if r.t.Failed() && os.Getenv("KMSFS_CRASH_KEEP") == "1" {
		r.t.Log("kept: ", r.dir)
		return
	}
	_ = os.RemoveAll(r.dir)
}

// stacks shows where the threads of a process hang in the kernel.
func stacks(pid int) string {
	var b strings.Builder
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, t := range tasks {
		w, _ := os.ReadFile(t + "/wchan")
		s, _ := os.ReadFile(t + "/stack")
		fmt.Fprintf(&b, "%s %s\n%s", filepath.Base(t), w, s)
	}
	return b.String()
}

// proc is a child that works on the mounts.
type proc struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	errs bytes.Buffer
	done chan error
}

// spawn starts a child; extra becomes its descriptor 3.
func (r *rig) spawn(t task, extra ...*os.File) *proc {
	r.t.Helper()
	if t.Mounts == nil {
		t.Mounts = r.mounts
	}
	t.Keys = r.keys
	b, err := json.Marshal(t)
	if err != nil {
		r.t.Fatal(err)
	}
	p := &proc{cmd: exec.Command(built.child), done: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), roleEnv+"="+string(b))
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = &p.out, &p.errs, extra
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p
}

// wait wants a child to end well, in time.
func (r *rig) wait(p *proc, what string, limit time.Duration) string {
	r.t.Helper()
	select {
	case err := <-p.done:
		if err != nil {
			r.fatal(what, ": ", err, ": ", p.errs.String())
		}
	case <-lived(limit):
		where := stacks(p.cmd.Process.Pid)
		_ = p.cmd.Process.Kill()
		for _, m := range r.mounted() {
			_ = exec.Command("umount", "-f", "-l", m).Run()
		}
		r.fatal(what, " hangs:\n", where)
	}
	return p.out.String()
}

func envInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, s)
	}
	return n
}
