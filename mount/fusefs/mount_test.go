package fusefs

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func childBodies() map[string]func(*testing.T, []string) {
	return map[string]func(*testing.T, []string){
		"mkdir": mkdirChild,
		"files": filesChild,

		"coherence": coherenceChild,
		"mirror":    mirrorChild,
		"beside":    besideChild,
		"appends":   appendsChild,
		"dirs":      dirsChild,
		"told":      toldChild,
		"sizes":     sizesChild,
		"teller":    tellerChild,
		"many":      manyChild,
		"cross":     crossChild,
		"hold":      holdChild,
		"rates":     ratesChild,
		"tools":     toolsChild,

		"locks":    locksChild,
		"holdlock": holdLockChild,
		"trylock":  tryLockChild,
		"sqlite":   sqliteChild,

		"acl":     aclChild,
		"aclread": aclReadChild,
		"acldeny": aclDenyChild,
		"acloff":  aclOffChild,
		"temp":    tempChild,

		"ranges":    rangesChild,
		"writeonly": writeOnlyChild,
		"times":     timesChild,
		"quota":     quotaChild,
		"chown":     chownChild,
	}
}

// TestFiles goes through ordinary use of one mount.
func TestFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := w.mount("admin", Options{})
	inChild(t, "files", dir)
}

func filesChild(t *testing.T, dirs []string) {
	root := dirs[0]
	for _, bad := range []string{"ab", "Upper", "a..b", "192.168.1.1", "-x-", "x_y"} {
		wantErr(t, bad, os.Mkdir(filepath.Join(root, bad), 0o755), syscall.EINVAL)
	}
	b := filepath.Join(root, "bucket")
	must(t, os.Mkdir(b, 0o755))
	wantErr(t, "bucket twice", os.Mkdir(b, 0o755), syscall.EEXIST)
	wantErr(t, "file in /", os.WriteFile(filepath.Join(root, "file"), nil, 0o644), syscall.EPERM)
	wantErr(t, "rename of a bucket", os.Rename(b, filepath.Join(root, "bucket2")), syscall.EPERM)
	must(t, os.Mkdir(filepath.Join(root, "other"), 0o755))

	f := filepath.Join(b, "f")
	big := make([]byte, 5<<20+123)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	must(t, os.WriteFile(f, big, 0o640))
	got, err := os.ReadFile(f)
	if err != nil || !bytes.Equal(got, big) {
		t.Fatalf("5 MiB: %d bytes back, %v", len(got), err)
	}
	wantErr(t, "to another bucket", os.Rename(f, filepath.Join(root, "other", "f")), syscall.EXDEV)
	must(t, os.WriteFile(f, []byte("short"), 0o640))
	wantText(t, f, "short")
	appended(t, f)
	attributes(t, b)
	mapped(t, filepath.Join(b, "m"))
	wantErr(t, "bucket not empty", os.Remove(b), syscall.ENOTEMPTY)
	must(t, os.RemoveAll(b))
	must(t, os.Remove(filepath.Join(root, "other")))
	left, err := os.ReadDir(root)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func appended(t *testing.T, f string) {
	a, err := os.OpenFile(f, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	b, err := os.OpenFile(f, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	for range 3 {
		_, err = a.WriteString("-a")
		must(t, err)
		_, err = b.WriteString("-b")
		must(t, err)
	}
	wantText(t, f, "short-a-b-a-b-a-b")
	must(t, a.Close())
	must(t, b.Close())
	must(t, os.Truncate(f, 7))
	wantText(t, f, "short-a")
	must(t, os.Truncate(f, 0))
	wantText(t, f, "")
}

func attributes(t *testing.T, b string) {
	f := filepath.Join(b, "x")
	must(t, os.WriteFile(f, []byte("data"), 0o644))
	get := func(name string) (string, error) {
		buf := make([]byte, 4096)
		n, err := unix.Getxattr(f, name, buf)
		return string(buf[:max(n, 0)]), err
	}
	if v, err := get("user.s3.sse"); v != "AES256" || err != nil {
		t.Errorf("user.s3.sse: %q %v", v, err)
	}
	must(t, unix.Setxattr(f, "user.s3.sse", []byte("aws:kms"), 0))
	if v, err := get("user.s3.sse"); v != "aws:kms" || err != nil {
		t.Errorf("user.s3.sse: %q %v", v, err)
	}
	wantText(t, f, "data")
	wantErr(t, "nonsense", unix.Setxattr(f, "user.s3.sse", []byte("rot13"), 0), syscall.EINVAL)
	wantErr(t, "dsse", unix.Setxattr(f, "user.s3.sse", []byte("aws:kms:dsse"), 0), syscall.EOPNOTSUPP)
	wantErr(t, "read-only attribute", unix.Setxattr(f, "user.s3.sse-kms-key-id", []byte("x"), 0), syscall.EPERM)
	must(t, unix.Setxattr(f, "user.note", []byte("n"), 0))
	list := make([]byte, 256)
	n, err := unix.Listxattr(f, list)
	if err != nil || string(list[:max(n, 0)]) != "user.note\x00" {
		t.Errorf("listxattr: %q %v", list[:max(n, 0)], err)
	}
	_, err = get("system.posix_acl_access")
	wantErr(t, "acl", err, syscall.EOPNOTSUPP)
	_, err = get("user.absent")
	wantErr(t, "absent", err, syscall.ENODATA)
	must(t, os.Remove(f))
}

func mapped(t *testing.T, f string) {
	file, err := os.OpenFile(f, os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	defer file.Close()
	must(t, file.Truncate(8192))
	m, err := unix.Mmap(int(file.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	copy(m[4090:], "across pages")
	must(t, unix.Msync(m, unix.MS_SYNC))
	buf := make([]byte, 12)
	_, err = file.ReadAt(buf, 4090)
	if err != nil || string(buf) != "across pages" {
		t.Errorf("mapped: %q %v", buf, err)
	}
	must(t, unix.Munmap(m))
}
