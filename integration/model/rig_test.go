package model

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	deadline  = 40 * time.Second // of one command; the machine may be busy
	unmountIn = 30 * time.Second
)

// rig is a store, its daemon, the mounts, and a child on each of them.
type rig struct {
	t       testing.TB
	dir     string
	bin     string
	daemon  *exec.Cmd
	ended   chan error
	log     *os.File
	kids    [mounts]*kid
	mounted [mounts]bool
}

// kid is a child process.
type kid struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *gob.Encoder
	dec *gob.Decoder
	got chan answer
}

type answer struct {
	r   *reply
	err error
}

func newRig(t testing.TB) *rig {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs /dev/fuse and root: one of the mounts belongs to another user")
	}
	dir, err := os.MkdirTemp("", "kmsfs-model.") // not TempDir: another user has to get through
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, bin: os.Getenv("KMSFS_BIN")}
	t.Cleanup(r.end)
	r.must(os.Chmod(dir, 0o711))
	if r.bin == "" {
		r.bin = filepath.Join(dir, "kmsfs")
		out, err := exec.Command("go", "build", "-o", r.bin, "../../cmd/kmsfs").CombinedOutput() // takes what it takes
		if err != nil {
			t.Fatalf("build kmsfs: %v\n%s", err, out)
		}
	}
	r.log, err = os.Create(filepath.Join(dir, "daemon.log"))
	r.must(err)
	r.kmsfs("init")
	r.start()
	r.kmsfs("principal", "create", "bob", "--policy", "AmazonS3FullAccess")
	r.kmsfs("principal", "create", "alice", "--uid", fmt.Sprint(aliceUID), "--policy", "AdministratorAccess")
	r.kmsfs("key", "create", "--alias", "k1")
	for m := range mounts {
		r.must(os.Mkdir(r.mnt(m), 0o755))
		if users[m].uid != 0 {
			r.must(os.Chown(r.mnt(m), int(users[m].uid), -1))
		}
	}
	r.mountAll()
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) mnt(m int) string { return filepath.Join(r.dir, mountNames[m]) }

// try runs a program with a limit.
func (r *rig) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (r *rig) run(name string, args ...string) {
	r.t.Helper()
	_, err := r.try(name, args...)
	r.must(err)
}

func (r *rig) kmsfs(args ...string) {
	r.t.Helper()
	r.run(r.bin, append([]string{"--store", r.store()}, args...)...)
}

func (r *rig) store() string { return filepath.Join(r.dir, "store") }

// start starts the daemon and waits until it is the one that serves: the socket of a daemon that was killed is still there, and a command
// that found nobody behind it would start a daemon of its own.
func (r *rig) start() {
	r.t.Helper()
	r.daemon = exec.Command(r.bin, "--store", r.store(), "serve", "--foreground")
	r.daemon.Stdout, r.daemon.Stderr = r.log, r.log
	r.must(r.daemon.Start())
	r.ended = make(chan error, 1)
	go func(cmd *exec.Cmd, ended chan error) { ended <- cmd.Wait() }(r.daemon, r.ended)
	var out string
	var err error
	for began := time.Now(); time.Since(began) < deadline; {
		select {
		case err := <-r.ended:
			r.daemon = nil
			r.t.Fatalf("the daemon ended at its start: %v", err)
		default:
		}
		if out, err = r.try(r.bin, "--store", r.store(), "--json", "status"); err == nil {
			var status struct {
				PID int `json:"pid"`
			}
			if err = json.Unmarshal([]byte(out), &status); err == nil && status.PID == r.daemon.Process.Pid {
				return
			}
		}
	}
	r.t.Fatalf("the daemon does not serve: %v\n%s", err, out)
}

// stop ends the daemon: politely, or by a crash.
func (r *rig) stop(sig os.Signal) error {
	if r.daemon == nil {
		return nil
	}
	_ = r.daemon.Process.Signal(sig)
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	var err error
	select {
	case err = <-r.ended:
	case <-timer.C:
		r.dump()
		_ = r.daemon.Process.Kill()
		<-r.ended
		err = errors.New("it did not end")
	}
	r.daemon = nil
	if err != nil && sig != os.Kill {
		return fmt.Errorf("end of the daemon: %w", err)
	}
	return nil
}

// dump makes the daemon write its goroutines to its log, and shows the log's end. It ends the daemon.
func (r *rig) dump() {
	if r.daemon == nil {
		return
	}
	_ = r.daemon.Process.Signal(syscall.SIGQUIT)
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case err := <-r.ended:
		r.ended <- err
	case <-timer.C:
	}
	r.showLog(200<<10, "")
}

// showLog shows the end of the daemon's log, without the lines that have a word.
func (r *rig) showLog(limit int, without string) {
	raw, err := os.ReadFile(r.log.Name())
	if err != nil {
		return
	}
	var text []byte
	for line := range bytes.Lines(raw) {
		if without == "" || !bytes.Contains(line, []byte(without)) {
			text = append(text, line...)
		}
	}
	if len(text) > limit {
		text = text[len(text)-limit:]
	}
	r.t.Logf("the daemon's log:\n%s", text)
}

func (r *rig) mount(m int) {
	r.t.Helper()
	args := []string{"mount"}
	switch m {
	case mountC:
		args = append(args, "--principal", "bob")
	case mountD:
		args = append(args, "--principal", "alice", "-o", "allow_other,default_permissions")
	}
	r.kmsfs(append(args, r.mnt(m))...)
	r.mounted[m] = true
	r.kids[m] = r.startKid(m, "")
}

func (r *rig) mountAll() {
	r.t.Helper()
	for m := range mounts {
		r.mount(m)
	}
}

// unmount ends a child and its mount.
func (r *rig) unmount(m int) error {
	r.kids[m].end()
	r.kids[m] = nil
	_, err := r.try(r.bin, "--store", r.store(), "umount", r.mnt(m))
	if err == nil {
		r.mounted[m] = false
	}
	return err
}

// end is the cleanup: whatever happened, nothing stays mounted and nothing runs.
func (r *rig) end() {
	if r.t.Failed() && r.log != nil {
		r.showLog(8<<10, "level=INFO")
	}
	for m := range mounts {
		if r.kids[m] != nil {
			r.kids[m].end()
		}
		if r.mounted[m] {
			_ = unix.Unmount(r.mnt(m), 0)
		}
	}
	if err := r.stop(syscall.SIGTERM); err != nil && !r.t.Failed() {
		r.t.Error(err)
	}
	r.complaints()
	for m := range mounts {
		for unix.Unmount(r.mnt(m), unix.MNT_DETACH) == nil { // what is left, also by a dead daemon
		}
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Error(err)
	}
}

// complaints fails the test if the daemon met what should not be.
func (r *rig) complaints() {
	if r.log == nil {
		return
	}
	text, err := os.ReadFile(r.log.Name())
	if err != nil {
		return
	}
	for _, word := range []string{"level=ERROR", "DATA RACE", "panic:"} {
		if _, after, found := bytes.Cut(text, []byte(word)); found {
			r.t.Errorf("the daemon's log: %s%s", word, after[:min(len(after), 4000)])
		}
	}
}

// prepare makes a child process for a mount.
func (r *rig) prepare(m int, role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), childEnv+"="+filepath.Join(r.mnt(m), bucket), roleEnv+"="+role, "GOMAXPROCS=2")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if uid := users[m].uid; uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	return cmd
}

func (r *rig) startKid(m int, role string) *kid {
	r.t.Helper()
	k := &kid{cmd: r.prepare(m, role), got: make(chan answer, 1)}
	var err error
	k.in, err = k.cmd.StdinPipe()
	r.must(err)
	out, err := k.cmd.StdoutPipe()
	r.must(err)
	k.cmd.Stderr = r.log
	r.must(k.cmd.Start())
	k.enc, k.dec = gob.NewEncoder(k.in), gob.NewDecoder(out)
	return k
}

// end ends a child. One that hangs in the kernel is left to the end of the connection.
func (k *kid) end() {
	_ = k.in.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = k.cmd.Wait()
	}()
	timer := time.NewTimer(unmountIn)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		_ = k.cmd.Process.Kill()
	}
}

var errDeadline = errors.New("no answer in time")

// ask has a child execute an operation.
func (r *rig) ask(m int, root string, o *op) (*reply, error) {
	k := r.kids[m]
	if err := k.enc.Encode(&request{Root: filepath.Join(r.mnt(m), root), Op: *o}); err != nil {
		return nil, fmt.Errorf("child of mount %s: %w", mountNames[m], err)
	}
	go func() {
		var rep reply
		err := k.dec.Decode(&rep)
		k.got <- answer{&rep, err}
	}()
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	select {
	case a := <-k.got:
		if a.err != nil {
			return nil, fmt.Errorf("child of mount %s: %w", mountNames[m], a.err)
		}
		return a.r, nil
	case <-timer.C:
		return nil, fmt.Errorf("mount %s, %s: %w after %v", mountNames[m], o, errDeadline, deadline)
	}
}

// stacks shows where the children wait, for a hang.
func (r *rig) stacks() string {
	var b bytes.Buffer
	for m, k := range r.kids {
		if k == nil {
			continue
		}
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stack", k.cmd.Process.Pid))
		for _, task := range tasks {
			if s, err := os.ReadFile(task); err == nil && bytes.Contains(s, []byte("fuse")) {
				fmt.Fprintf(&b, "mount %s, %s:\n%s", mountNames[m], task, s)
			}
		}
	}
	return b.String()
}
