package fusefs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestACL sets access control lists through one mount, and looks at them and at what they do through another.
func TestACL(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"setfacl", "getfacl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	w := newWorld(t)
	w.bucket("acl")
	opts := Options{AllowOther: true, DefaultPermissions: true}
	open := func(dir string) string {
		w.ok(os.Chmod(filepath.Dir(dir), 0o755))
		return filepath.Join(dir, "acl")
	}
	a, b := open(w.mount("admin", opts)), open(w.mount("admin", opts))
	plain := filepath.Join(w.mount("admin", Options{}), "acl")
	inChild(t, "acl", a, b)
	bob := &syscall.Credential{Uid: 4321, Gid: 4321}
	file := filepath.Join(b, "for-bob")
	inChildAs(t, "acldeny", bob, file)
	setfacl(t, "-m", "u:4321:r", filepath.Join(a, "for-bob"))
	inChildAs(t, "aclread", bob, file)
	setfacl(t, "-m", "u:4321:-", filepath.Join(a, "for-bob"))
	inChildAs(t, "acldeny", bob, file)
	inChild(t, "acloff", plain)
}

func setfacl(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "setfacl", args...).CombinedOutput(); err != nil {
		t.Fatalf("setfacl %v: %v: %s", args, err, out)
	}
}

// getfacl gives the entries in one line.
func getfacl(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "getfacl", "-cnpE", path).CombinedOutput()
	if err != nil {
		t.Fatalf("getfacl %s: %v: %s", path, err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

func wantACL(t *testing.T, path, want string) {
	t.Helper()
	if got := getfacl(t, path); got != want {
		t.Errorf("%s: %s; want %s", path, got, want)
	}
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s: mode %o, want %o", path, got, want)
	}
}

func aclChild(t *testing.T, dirs []string) {
	a, b := dirs[0], dirs[1]
	f, fb := filepath.Join(a, "f"), filepath.Join(b, "f")
	must(t, os.WriteFile(f, []byte("x"), 0o640))
	wantACL(t, fb, "user::rw- group::r-- other::---")
	setfacl(t, "-m", "u:1000:rwx,g:2000:r", f)
	const named = "user::rw- user:1000:rwx group::r-- group:2000:r-- mask::rwx other::---"
	wantACL(t, f, named)
	wantACL(t, fb, named)
	wantMode(t, fb, 0o670)
	must(t, os.Chmod(fb, 0o604)) // chmod is the mask
	wantACL(t, f, "user::rw- user:1000:rwx group::r-- group:2000:r-- mask::--- other::r--")
	setfacl(t, "-m", "m::rx", f)
	wantMode(t, fb, 0o654)

	out, err := exec.CommandContext(t.Context(), "cp", "-a", f, filepath.Join(a, "copy")).CombinedOutput()
	if err != nil {
		t.Errorf("cp -a: %v: %s", err, out)
	}
	wantACL(t, filepath.Join(b, "copy"), getfacl(t, f))
	list := make([]byte, 256)
	if n, err := unix.Listxattr(f, list); err != nil || n > 0 {
		t.Errorf("an ACL is listed: %q %v", list[:max(n, 0)], err)
	}
	setfacl(t, "-b", f)
	wantACL(t, fb, "user::rw- group::r-- other::r--")
	wantMode(t, fb, 0o644)

	aclInherited(t, a, b)
	must(t, os.WriteFile(filepath.Join(a, "for-bob"), []byte("hello"), 0o600))
}

func aclInherited(t *testing.T, a, b string) {
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	d := filepath.Join(a, "d")
	must(t, os.Mkdir(d, 0o777))
	wantMode(t, d, 0o750)
	must(t, os.WriteFile(filepath.Join(d, "before"), nil, 0o666))
	wantMode(t, filepath.Join(d, "before"), 0o640)

	setfacl(t, "-d", "-m", "u::rwx,u:1000:rwx,g::rx,o::r", d)
	const def = "default:user::rwx default:user:1000:rwx default:group::r-x default:mask::rwx default:other::r--"
	wantACL(t, filepath.Join(b, "d"), "user::rwx group::r-x other::--- "+def)
	g := filepath.Join(b, "d", "file")
	must(t, os.WriteFile(g, nil, 0o660)) // the umask does not count here
	wantACL(t, g, "user::rw- user:1000:rwx group::r-x mask::rw- other::---")
	wantMode(t, filepath.Join(d, "file"), 0o660)
	must(t, os.Mkdir(filepath.Join(b, "d", "sub"), 0o777))
	wantACL(t, filepath.Join(d, "sub"), "user::rwx user:1000:rwx group::r-x mask::rwx other::r-- "+def)
	must(t, unix.Mkfifo(filepath.Join(d, "fifo"), 0o600))
	wantACL(t, filepath.Join(d, "fifo"), "user::rw- user:1000:rwx group::r-x mask::--- other::---")
	setfacl(t, "-k", d)
	wantACL(t, filepath.Join(b, "d"), "user::rwx group::r-x other::---")
	must(t, os.WriteFile(filepath.Join(d, "after"), nil, 0o666))
	wantMode(t, filepath.Join(d, "after"), 0o640)
}

func aclReadChild(t *testing.T, dirs []string) { wantText(t, dirs[0], "hello") }

func aclDenyChild(t *testing.T, dirs []string) {
	_, err := os.ReadFile(dirs[0])
	wantErr(t, "read", err, syscall.EACCES)
}

// aclOffChild is on a mount without default_permissions: there are no ACLs, but what they made of the mode shows and the umask counts.
func aclOffChild(t *testing.T, dirs []string) {
	f := filepath.Join(dirs[0], "copy")
	buf := make([]byte, 64)
	_, err := unix.Getxattr(f, "system.posix_acl_access", buf)
	wantErr(t, "get", err, syscall.EOPNOTSUPP)
	wantErr(t, "set", unix.Setxattr(f, "system.posix_acl_access", buf[:44], 0), syscall.EOPNOTSUPP)
	wantMode(t, f, 0o654)
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	must(t, os.WriteFile(filepath.Join(dirs[0], "masked"), nil, 0o666))
	wantMode(t, filepath.Join(dirs[0], "masked"), 0o600)
}

// TestTemp makes files without a name, and names some.
func TestTemp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bucket("temp")
	a, b := w.mount("admin", Options{}), w.mount("admin", Options{SSE: "aws:kms"})
	inChild(t, "temp", filepath.Join(a, "temp"), filepath.Join(b, "temp"))
	inChild(t, "temp", filepath.Join(b, "temp"), filepath.Join(a, "temp"))
}

func tempChild(t *testing.T, dirs []string) {
	open := func(flags int) *os.File {
		f, err := os.OpenFile(dirs[0], unix.O_TMPFILE|os.O_RDWR|flags, 0o600)
		must(t, err)
		return f
	}
	link := func(f *os.File, path string) error {
		return unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+itoa(f.Fd()), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	}
	f := open(0)
	_, err := f.WriteString(strings.Repeat("nameless ", 10000))
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	if st.Nlink != 0 || st.Size != 90000 {
		t.Errorf("nlink %d, size %d", st.Nlink, st.Size)
	}
	names, err := os.ReadDir(dirs[1])
	if err != nil || len(names) != 0 {
		t.Errorf("a file without a name is listed: %v %v", names, err)
	}
	must(t, link(f, filepath.Join(dirs[0], "named")))
	wantText(t, filepath.Join(dirs[1], "named"), strings.Repeat("nameless ", 10000))
	_, err = f.WriteString("more")
	must(t, err)
	must(t, f.Close())
	wantText(t, filepath.Join(dirs[1], "named"), strings.Repeat("nameless ", 10000)+"more")

	f = open(os.O_EXCL)
	wantErr(t, "O_EXCL", link(f, filepath.Join(dirs[0], "no")), syscall.ENOENT)
	must(t, f.Close())

	f, err = os.Open(filepath.Join(dirs[0], "named"))
	must(t, err)
	must(t, os.Remove(filepath.Join(dirs[1], "named"))) // through the other mount
	wantErr(t, "unlinked", link(f, filepath.Join(dirs[0], "no")), syscall.ENOENT)
	buf := make([]byte, 8)
	if _, err := f.ReadAt(buf, 0); err != nil || string(buf) != "nameless" {
		t.Errorf("unlinked, read: %q %v", buf, err)
	}
	must(t, f.Close())
}
