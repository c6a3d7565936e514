package fusefs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

func TestParseOptions(t *testing.T) {
	for text, want := range map[string]Options{
		"":                                   {},
		"rw,defaults":                        {},
		"ro,errno=posix":                     {ReadOnly: true, PosixErrno: true},
		"default_permissions,noexec":         {DefaultPermissions: true, Flags: unix.MS_NOEXEC},
		"noexec,exec":                        {},
		"sse=AES256":                         {SSE: "AES256"},
		"sse=aws:kms:alias/x,bucket-key":     {SSE: "aws:kms:alias/x;bucket-key=true"},
		"sse=aws:kms,sse-kms-key-id=alias/x": {SSE: "aws:kms:alias/x"},
	} {
		got, err := ParseOptions(text, false)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{
		"dev", "suid", "user_id=0", "fd=3", "rootmode=40000", "group_id=0", "context=x", "remount", "bind", "sse-kms-key-id=x", "bucket-key",
		"sse=AES256,sse-kms-key-id=x", "allow_other", "errno=linux", "max_read=1", "subtype=ext4", "ro ", "RO", "blkdev",
	} {
		if o, err := ParseOptions(bad, false); err == nil {
			t.Errorf("%q was taken: %+v", bad, o)
		}
	}
	if o, err := ParseOptions("allow_other", true); err != nil || !o.AllowOther {
		t.Errorf("allow_other for root: %+v %v", o, err)
	}
}

func TestErrno(t *testing.T) {
	for _, e := range errnos {
		wrapped := fmt.Errorf("while testing: %w", e.err)
		if got := Errno(wrapped, false); got != e.errno {
			t.Errorf("%v: %v", wrapped, got)
		}
	}
	for _, err := range []error{mount.ErrNoKey, mount.ErrKeyRevoked} {
		if got := Errno(err, true); got != syscall.EACCES {
			t.Errorf("errno=posix: %v: %v", err, got)
		}
	}
	if got := Errno(fmt.Errorf("something else"), false); got != syscall.EIO {
		t.Errorf("unknown: %v", got)
	}
	if got := Errno(&mount.RefusedError{}, false); got != syscall.EACCES {
		t.Errorf("refused: %v", got)
	}
}

func TestUnescape(t *testing.T) {
	for in, out := range map[string]string{`/a`: "/a", `/a\040b`: "/a b", `/a\134b`: `/a\b`, `/a\`: `/a\`, `/a\9`: `/a\9`} {
		if got := unescape(in); got != out {
			t.Errorf("%q: %q", in, got)
		}
	}
}

const ordinaryEnv = "KMSFS_TEST_ORDINARY"

// TestOrdinaryUser runs TestFiles as a user without rights, who mounts through fusermount3.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	if _, err := helper(); err != nil {
		t.Skip(err)
	}
	const uid = 65534 // nobody: fusermount3 wants a user with a name
	top := t.TempDir()
	must(t, os.Chmod(filepath.Dir(top), 0o755))
	must(t, os.Chmod(top, 0o755))
	tmp := filepath.Join(top, "tmp")
	must(t, os.Mkdir(tmp, 0o700))
	must(t, os.Chown(tmp, uid, uid))
	letAllUseFUSE(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^(TestFiles|TestMirror)$", "-test.v", "-test.timeout=100s")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, ordinaryEnv+"=1", "HOME="+tmp, "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "SKIP") {
		t.Errorf("as uid %d: %v\n%s", uid, err, out)
	}
}

// letAllUseFUSE makes the device as every distribution has it, until the end of the test; some bare machines do not.
func letAllUseFUSE(t *testing.T) {
	t.Helper()
	const dev = "/dev/fuse"
	fi, err := os.Stat(dev)
	must(t, err)
	if fi.Mode().Perm() == 0o666 {
		return
	}
	must(t, os.Chmod(dev, 0o666))
	t.Cleanup(func() { _ = os.Chmod(dev, fi.Mode().Perm()) })
}
