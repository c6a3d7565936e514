package fusefs

import (
	"bufio"
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

	"github.com/kmsfs/kmsfs/keystore"
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
	c := &teller{t: t, cmd: child(t, "teller", cred, dir)}
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
func (c *teller) within(limit time.Duration, line, answer string) {
	c.t.Helper()
	began := time.Now()
	var got string
	for time.Since(began) < limit {
		if got = c.do(line); got == answer {
			c.t.Logf("%s: %q after %v", line, answer, time.Since(began).Round(10*time.Microsecond))
			return
		}
	}
	c.t.Errorf("%s: still %q after %v, want %q", line, got, limit, answer)
}

func tellerChild(_ *testing.T, dirs []string) {
	open := map[string]*os.File{}
	maps := map[string][]byte{}
	answer := func(text string, err error) {
		if errno, ok := errnoOf(err); ok {
			text = unix.ErrnoName(errno)
		} else if err != nil {
			text = err.Error()
		}
		fmt.Println("> " + text)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		path := filepath.Join(dirs[0], f[1])
		switch f[0] {
		case "cat":
			b, err := os.ReadFile(path)
			answer(string(b), err)
		case "put":
			answer("ok", os.WriteFile(path, []byte(f[2]), 0o644))
		case "ls":
			e, err := os.ReadDir(path)
			answer(fmt.Sprint(len(e)), err)
		case "stat":
			_, err := os.Stat(path)
			answer("ok", err)
		case "open", "edit":
			file, err := os.OpenFile(path, map[string]int{"open": os.O_RDONLY, "edit": os.O_RDWR}[f[0]], 0)
			open[f[1]] = file
			answer("ok", err)
		case "read":
			buf := make([]byte, 100)
			n, err := open[f[1]].ReadAt(buf, 0)
			if err == io.EOF {
				err = nil
			}
			answer(string(buf[:n]), err)
		case "write":
			_, err := open[f[1]].WriteAt([]byte(f[2]), 0)
			answer("ok", err)
		case "close":
			answer("ok", open[f[1]].Close())
		case "map":
			m, err := unix.Mmap(int(open[f[1]].Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
			maps[f[1]] = m
			answer("ok", err)
		case "incore":
			vec := make([]byte, 1)
			_, _, errno := unix.Syscall(unix.SYS_MINCORE, addressOf(maps[f[1]]), 4096, addressOf(vec))
			if errno != 0 {
				answer("", errno)
			} else {
				answer(fmt.Sprint(vec[0]&1), nil)
			}
		case "mkdir":
			answer("ok", os.Mkdir(path, 0o755))
		}
	}
}

// TestRevocation takes rights away while files are open, cached and mapped, and measures how long it takes to show.
func TestRevocation(t *testing.T) {
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.user("carol", "AmazonS3FullAccess")
	policy := func(users ...string) []byte {
		return []byte(`{"Version":"2012-10-17","Statement":[
 {"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},
 {"Effect":"Allow","Principal":{"AWS":["` + strings.Join(users, `","`) + `"]},"Action":["kms:Decrypt","kms:GenerateDataKey"],"Resource":"*"}]}`)
	}
	alice, carol := "arn:aws:iam::"+account+":user/alice", "arn:aws:iam::"+account+":user/carol"
	key, err := w.keys.CreateKey(w.call("admin"), keystore.CreateKeyInput{Alias: "alias/k", Policy: policy(alice, carol)})
	w.ok(err)
	w.bucket("secret")
	admin := w.session("admin", mount.Options{})
	b, err := admin.Lookup(mount.Caller{}, mount.RootIno, "secret")
	w.ok(err)
	w.ok(admin.SetXattr(mount.Caller{}, b.Ino, "user.s3.sse", []byte("aws:kms:alias/k"), mount.XattrEither))
	a := tell(t, nil, w.mount("alice", Options{}))
	c := tell(t, nil, w.mount("carol", Options{}))
	const second = time.Second

	a.want("put secret/f one", "ok")
	a.want("put secret/w one", "ok")
	a.want("edit secret/w", "ok")
	a.want("write secret/w two", "ok")
	for _, u := range []*teller{a, c} {
		u.want("open secret/f", "ok")
		u.want("read secret/f", "one")
		u.want("map secret/f", "ok")
		u.do("read secret/f")
	}

	t.Log("key policy without alice")
	w.ok(w.keys.PutKeyPolicy(w.call("admin"), key.ARN, policy(carol), false))
	a.want("cat secret/f", "EACCES")
	a.within(second, "read secret/f", "EACCES")
	a.within(second, "incore secret/f", "0")
	a.want("write secret/w six", "EACCES")
	c.want("cat secret/w", "two")
	a.want("stat secret/f", "ok")
	c.want("read secret/f", "one")
	c.want("incore secret/f", "1")

	t.Log("and with her again")
	w.ok(w.keys.PutKeyPolicy(w.call("admin"), key.ARN, policy(alice, carol), false))
	a.within(second, "read secret/f", "one")

	t.Log("key disabled")
	w.ok(w.keys.DisableKey(w.call("admin"), key.ARN))
	a.want("cat secret/f", "EKEYREVOKED")
	a.within(second, "read secret/f", "EKEYREVOKED")
	c.within(second, "incore secret/f", "0")
	w.ok(w.keys.EnableKey(w.call("admin"), key.ARN))
	a.within(second, "read secret/f", "one")

	t.Log("bucket policy denies reading to alice")
	w.ok(admin.SetXattr(mount.Caller{}, b.Ino, "user.s3.policy", []byte(`{"Version":"2012-10-17","Statement":[
 {"Effect":"Deny","Principal":{"AWS":"`+alice+`"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::secret/*"}]}`), mount.XattrEither))
	a.want("cat secret/f", "EACCES")
	a.within(second, "read secret/f", "EACCES")
	c.want("read secret/f", "one")
	w.ok(admin.RemoveXattr(mount.Caller{}, b.Ino, "user.s3.policy"))
	a.within(second, "read secret/f", "one")

	t.Log("identity policy detached")
	w.ok(w.principals.Detach("alice", "AmazonS3FullAccess"))
	a.within(second, "read secret/f", "EACCES")
	a.within(second, "stat secret/f", "EACCES")
	a.within(second, "ls secret", "EACCES")
	c.want("cat secret/f", "one")
	w.ok(w.principals.Attach("alice", "AmazonS3FullAccess"))
	a.within(second, "read secret/f", "one")
	a.want("stat secret/f", "ok")

	t.Log("re-keyed to a key that alice may not use")
	other, err := w.keys.CreateKey(w.call("admin"), keystore.CreateKeyInput{Alias: "alias/other"})
	w.ok(err)
	f, err := admin.Lookup(mount.Caller{}, b.Ino, "f")
	w.ok(err)
	w.ok(admin.SetXattr(mount.Caller{}, f.Ino, "user.s3.sse", []byte("aws:kms:"+other.ARN), mount.XattrEither))
	a.within(second, "read secret/f", "EACCES")
	a.want("cat secret/f", "EACCES")
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
