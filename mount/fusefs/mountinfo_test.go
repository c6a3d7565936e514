package fusefs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountPoints(t *testing.T) {
	table := strings.Join([]string{
		`25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw`,
		`40 25 0:50 / /home/al\040ice/s3 rw,nosuid,nodev - fuse.kmsfs kmsfs:1234 rw,user_id=1`,
		`41 40 0:51 / /home/al\040ice/s3/box/in\134ner rw shared:2 master:1 - fuse.kmsfs kmsfs:1234 rw`,
		`42 25 0:52 / /other rw - fuse.kmsfs kmsfs:9999 rw`,
		`43 25 0:53 / /fake rw - fuse.other kmsfs:1234 rw`,
		`broken line`,
	}, "\n")
	got, err := ParseMounts(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []MountPoint{
		{42, "/other", "0:52", "kmsfs:9999"},
		{41, `/home/al ice/s3/box/in\ner`, "0:51", "kmsfs:1234"},
		{40, "/home/al ice/s3", "0:50", "kmsfs:1234"},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%d: %+v, want %+v", i, got[i], want[i])
		}
	}
}

func FuzzMountPoints(f *testing.F) {
	f.Add(`40 25 0:50 / /home/al\040ice rw - fuse.kmsfs kmsfs:1234 rw`)
	f.Add(`40 25 0:50 / /\9 rw - fuse.kmsfs \ `)
	f.Fuzz(func(_ *testing.T, table string) { _, _ = ParseMounts(strings.NewReader(table)) })
}

// TestUnmountFollowsNoLink: a user who controls a directory above his mount cannot send root elsewhere.
func TestUnmountFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("/", filepath.Join(dir, "link")))
	m := MountPoint{Dir: filepath.Join(dir, "link", "proc")}
	if err := m.Unmount(0); !errors.Is(err, unix.ELOOP) {
		t.Errorf("through a link: %v", err)
	}
}

// TestUnmountsNoOther: who puts another mount where a mount of ours was, or over it, does not have it unmounted.
func TestUnmountsNoOther(t *testing.T) {
	w := newWorld(t)
	top := t.TempDir()
	mine, theirs := filepath.Join(top, "mine"), filepath.Join(top, "theirs")
	must(t, os.Mkdir(mine, 0o755))
	must(t, os.Mkdir(theirs, 0o755))
	srv := w.mountAt("admin", mine, Options{})
	was, ok := topmost(mine)
	if !ok || was.Device != srv.Device() {
		t.Fatalf("found %+v, want device %s", was, srv.Device())
	}
	must(t, unix.Mount("none", theirs, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(theirs, unix.MNT_DETACH) })
	// What was looked up as ours is, when the time has come, the other.
	moved := was
	moved.Dir = theirs
	for _, flags := range []int{0, unix.MNT_DETACH, unix.MNT_FORCE} {
		if err := moved.Unmount(flags); !errors.Is(err, ErrOtherMount) {
			t.Errorf("flags %d: %v", flags, err)
		}
	}
	// Over ours.
	must(t, unix.Mount("none", mine, "tmpfs", 0, ""))
	for _, flags := range []int{0, unix.MNT_DETACH, unix.MNT_FORCE} {
		if err := was.Unmount(flags); !errors.Is(err, ErrOtherMount) {
			t.Errorf("flags %d: %v", flags, err)
		}
	}
	if err := srv.Abort(); err != nil && !errors.Is(err, ErrOtherMount) { // where nothing ends a connection but its mount
		t.Error(err)
	}
	must(t, unix.Unmount(mine, 0))
	if now, ok := topmost(mine); !ok || now != was {
		t.Errorf("left %+v", now)
	}
}
