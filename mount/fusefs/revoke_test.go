package fusefs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// teller is a child that does what it is told, line by line, and answers each line.
type teller struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func tell(t *testing.T, cred *syscall.Credential, dir string) *teller {
	t.Helper()
	return start(t, child(t, "teller", cred, dir))
}

// tellAs starts another body that serves lines.
func tellAs(t *testing.T, name string, args ...string) *teller {
	t.Helper()
	return start(t, child(t, name, nil, args...))
}

func start(t *testing.T, cmd *exec.Cmd) *teller {
	t.Helper()
	c := &teller{t: t, cmd: cmd}
	var err error
	c.in, err = c.cmd.StdinPipe()
	must(t, err)
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	c.cmd.Stderr = os.Stderr
	c.out = bufio.NewScanner(out)
	must(t, c.cmd.Start())
	t.Cleanup(func() {
		_ = c.in.Close()
		_ = c.cmd.Wait()
	})
	return c
}

// do sends a line and gives the answer.
func (c *teller) do(line string) string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		c.t.Fatal(err)
	}
	for c.out.Scan() {
		if a, ok := strings.CutPrefix(c.out.Text(), "> "); ok {
			return a
		}
	}
	c.t.Fatalf("%s: the child is gone: %v", line, c.out.Err())
	return ""
}

func (c *teller) want(line, answer string) {
	c.t.Helper()
	if got := c.do(line); got != answer {
		c.t.Errorf("%s: %q, want %q", line, got, answer)
	}
}

// within repeats a line until it is answered as wanted, and reports how long that took.
func (c *teller) within(limit time.Duration, line, answer string) time.Duration {
	c.t.Helper()
	began := time.Now()
	var got string
	for time.Since(began) < limit {
		if got = c.do(line); got == answer {
			return time.Since(began)
		}
	}
	c.t.Errorf("%s: still %q after %v, want %q", line, got, limit, answer)
	return time.Since(began)
}

// serve answers lines in a child.
func serve(do func(words []string) (string, error)) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		text, err := do(strings.Fields(lines.Text()))
		if errno, ok := errnoOf(err); ok {
			text = unix.ErrnoName(errno)
		} else if err != nil {
			text = err.Error()
		}
		fmt.Println("> " + text)
	}
}

// inCore reports whether the kernel has a mapped page.
func inCore(page []byte) (bool, error) {
	vec := make([]byte, 1)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, addressOf(page), 4096, addressOf(vec))
	if errno != 0 {
		return false, errno
	}
	return vec[0]&1 != 0, nil
}

func tellerChild(_ *testing.T, dirs []string) {
	runtime.LockOSThread() // the kernel tells threads apart
	open := map[string]*os.File{}
	maps := map[string][]byte{}
	grips := map[string]int{}
	serve(func(f []string) (string, error) {
		path := filepath.Join(dirs[0], f[1])
		switch f[0] {
		case "cat":
			b, err := os.ReadFile(path)
			return string(b), err
		case "put":
			return "ok", os.WriteFile(path, []byte(f[2]), 0o644)
		case "ls":
			e, err := os.ReadDir(path)
			return fmt.Sprint(len(e)), err
		case "stat":
			_, err := os.Stat(path)
			return "ok", err
		case "grip": // as little as one can have of a file: it is not opened
			fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
			grips[f[1]] = fd
			return "ok", err
		case "fstat":
			var st unix.Stat_t
			return "ok", unix.Fstat(grips[f[1]], &st)
		case "let": // go
			return "ok", unix.Close(grips[f[1]])
		case "open", "edit":
			file, err := os.OpenFile(path, map[string]int{"open": os.O_RDONLY, "edit": os.O_RDWR}[f[0]], 0)
			open[f[1]] = file
			return "ok", err
		case "read":
			buf := make([]byte, 100)
			n, err := open[f[1]].ReadAt(buf, 0)
			if err == io.EOF {
				err = nil
			}
			return string(buf[:n]), err
		case "write":
			_, err := open[f[1]].WriteAt([]byte(f[2]), 0)
			return "ok", err
		case "copy":
			to, err := os.OpenFile(filepath.Join(dirs[0], f[2]), os.O_WRONLY|os.O_CREATE, 0o644)
			if err != nil {
				return "", err
			}
			n, err := unix.CopyFileRange(int(open[f[1]].Fd()), nil, int(to.Fd()), nil, 1<<20, 0)
			return fmt.Sprint(n), errors.Join(err, to.Close())
		case "close":
			return "ok", open[f[1]].Close()
		case "map":
			m, err := unix.Mmap(int(open[f[1]].Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
			maps[f[1]] = m
			return "ok", err
		case "incore":
			in, err := inCore(maps[f[1]])
			return map[bool]string{true: "1", false: "0"}[in], err
		case "touch":
			return touch(maps[f[1]])
		case "rename":
			return "ok", os.Rename(path, filepath.Join(dirs[0], f[2]))
		case "mkdir":
			return "ok", os.Mkdir(path, 0o755)
		}
		return "what?", nil
	})
}

// touch reads a mapped page; a page that the kernel cannot get is SIGBUS.
func touch(page []byte) (text string, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			text = "SIGBUS"
		}
	}()
	return fmt.Sprintf("%c", page[0]), nil
}

// TestForeignUID mounts for another uid as root: the kernel lets that uid in and nobody else, and the directory must be his.
func TestForeignUID(t *testing.T) {
	w := newWorld(t)
	const uid, gid = 54321, 54321
	top := t.TempDir()
	must(t, os.Chmod(top, 0o755))
	must(t, os.Chmod(filepath.Dir(top), 0o755))
	his, roots, link := filepath.Join(top, "his"), filepath.Join(top, "roots"), filepath.Join(top, "link")
	must(t, os.Mkdir(his, 0o700))
	must(t, os.Chown(his, uid, gid))
	must(t, os.Mkdir(roots, 0o755))
	must(t, os.Symlink(roots, link))
	s := w.session("admin", mount.Options{})
	for _, bad := range []string{roots, link, "/etc", filepath.Join(top, "absent")} {
		if srv, err := Mount(s, bad, Options{UID: uid, GID: gid}); err == nil {
			w.end(srv)
			t.Errorf("mounted for uid %d on %s", uid, bad)
		}
	}
	srv := w.mountAt("admin", his, Options{UID: uid, GID: gid})
	cred := &syscall.Credential{Uid: uid, Gid: gid}
	u := tell(t, cred, his)
	u.want("mkdir bucket", "ok")
	u.want("put bucket/f text", "ok")
	u.want("cat bucket/f", "text")
	r := tell(t, nil, his)
	r.want("cat bucket/f", "EACCES")
	r.want("ls .", "EACCES")
	info, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if !strings.Contains(string(info), his+" rw,nosuid,nodev") || !strings.Contains(string(info), "user_id=54321,group_id=54321") {
		t.Errorf("mount options of %s:\n%s", srv.Dir(), info)
	}
}

// TestAbort ends a mount that has open files.
func TestAbort(t *testing.T) {
	w := newWorld(t)
	w.bucket("bucket")
	srv := w.mountAt("admin", t.TempDir(), Options{})
	u := tell(t, nil, srv.Dir())
	u.want("put bucket/f text", "ok")
	u.want("open bucket/f", "ok")
	if err := srv.Unmount(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("unmount with open files: %v", err)
	}
	must(t, srv.Abort())
	if got := u.do("stat bucket/f"); got == "ok" {
		t.Error("the mount is still there")
	}
	select {
	case <-srv.Done():
	case <-time.After(5 * time.Second):
		t.Error("the mount does not end")
	}
}
