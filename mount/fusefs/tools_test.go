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
)

// TestTools lets ordinary programs copy, compare and remove trees through two mounts, one of them with default_permissions.
func TestTools(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("bucket")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{DefaultPermissions: true})
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	w.ok(err)
	src := filepath.Join(strings.TrimSpace(string(root)), "src", "encoding")
	if os.Getenv(soakEnv) != "" {
		src = filepath.Join(filepath.Dir(src), "crypto")
	}
	inChild(t, "tools", filepath.Join(a, "bucket"), filepath.Join(b, "bucket"), src)
}

func toolsChild(t *testing.T, dirs []string) {
	a, b, src := dirs[0], dirs[1], dirs[2]
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Errorf("%s %v: %v\n%.2000s", name, args, err, out)
		}
	}
	run("ls", "-lR", b)
	run("cp", "-a", src, a+"/one")
	run("diff", "-r", src, b+"/one")
	run("cp", "-a", a+"/one", b+"/two")
	run("diff", "-r", a+"/one", a+"/two")
	run("ls", "-lR", a)
	run("sh", "-c", "cd '"+b+"/two' && tar cf ../two.tar . && mkdir ../three && tar xf ../two.tar -C ../three")
	run("diff", "-r", src, a+"/three")
	run("rm", "-rf", a+"/one", b+"/two", a+"/three", b+"/two.tar")
	for _, d := range []string{a, b} {
		if e, err := os.ReadDir(d); err != nil || len(e) != 0 {
			t.Errorf("left in %s: %v %v", d, e, err)
		}
	}
	manyNames(t, a, b)
	flags(t, a, b)
}

// manyNames removes every second name of a listing while it goes on: no name that stays is missed or seen twice.
func manyNames(t *testing.T, a, b string) {
	names := scale(2000, 10000)
	dir := filepath.Join(a, "many")
	must(t, os.Mkdir(dir, 0o755))
	for i := range names {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("n%04d", i)), nil, 0o644))
	}
	d, err := os.Open(filepath.Join(b, "many"))
	must(t, err)
	defer d.Close()
	seen := map[string]int{}
	for gone := 0; ; gone += 40 {
		list, err := d.Readdirnames(100)
		for _, n := range list {
			seen[n]++
		}
		if err != nil {
			break
		}
		for i := gone; i < min(gone+40, names); i += 2 {
			must(t, os.Remove(filepath.Join(dir, fmt.Sprintf("n%04d", i))))
		}
	}
	for i := range names {
		n := fmt.Sprintf("n%04d", i)
		if seen[n] > 1 || i%2 == 1 && seen[n] != 1 {
			t.Errorf("%s was listed %d times", n, seen[n])
		}
	}
	must(t, os.RemoveAll(dir))
}

// flags tries what programs ask of a file system more rarely.
func flags(t *testing.T, a, b string) {
	f, g := filepath.Join(a, "f"), filepath.Join(a, "g")
	must(t, os.WriteFile(f, []byte("ff"), 0o644))
	must(t, os.WriteFile(g, []byte("gg"), 0o644))
	wantErr(t, "RENAME_NOREPLACE", unix.Renameat2(unix.AT_FDCWD, f, unix.AT_FDCWD, g, unix.RENAME_NOREPLACE), syscall.EEXIST)
	must(t, unix.Renameat2(unix.AT_FDCWD, f, unix.AT_FDCWD, g, unix.RENAME_EXCHANGE))
	wantText(t, f, "gg")
	wantText(t, filepath.Join(b, "g"), "ff")

	must(t, unix.Mkfifo(filepath.Join(a, "fifo"), 0o644))
	must(t, os.Symlink("f", filepath.Join(a, "sym")))
	wantText(t, filepath.Join(b, "sym"), "gg")
	must(t, os.Link(f, filepath.Join(a, "hard")))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(b, "hard"), &st))
	if st.Nlink != 2 {
		t.Errorf("nlink through the other mount: %d", st.Nlink)
	}

	var sx unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, f, 0, unix.STATX_BTIME|unix.STATX_BASIC_STATS, &sx))
	if sx.Mask&unix.STATX_BTIME == 0 || sx.Btime.Sec == 0 {
		t.Error("no time of birth")
	}
	must(t, os.Chmod(f, 0o4755|os.ModeSetuid))
	must(t, os.Chown(f, 1000, 1000))
	must(t, unix.Stat(f, &st))
	if st.Mode&unix.S_ISUID != 0 || st.Uid != 1000 {
		t.Errorf("after chown: mode %o uid %d", st.Mode, st.Uid)
	}
	must(t, os.Chown(f, 0, 0))

	in, err := os.Open(f)
	must(t, err)
	out, err := os.Create(filepath.Join(a, "copy"))
	must(t, err)
	n, err := unix.CopyFileRange(int(in.Fd()), nil, int(out.Fd()), nil, 100, 0)
	if err != nil || n != 2 {
		t.Errorf("copy_file_range: %d %v", n, err)
	}
	must(t, out.Close())
	must(t, in.Close())
	wantText(t, filepath.Join(b, "copy"), "gg")

	nameless, err := os.OpenFile(g, os.O_RDWR, 0)
	must(t, err)
	must(t, os.Remove(filepath.Join(b, "g")))
	if _, err := nameless.WriteAt([]byte("still"), 0); err != nil {
		t.Errorf("write to an unlinked file: %v", err)
	}
	buf := make([]byte, 5)
	if _, err := nameless.ReadAt(buf, 0); err != nil || string(buf) != "still" {
		t.Errorf("read of an unlinked file: %q %v", buf, err)
	}
	must(t, nameless.Close())
	d, err := os.Open(a)
	must(t, err)
	must(t, d.Sync())
	must(t, d.Close())
}
