package crash

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disk is a file system on a loop device.
type disk struct {
	t     *testing.T
	kind  string
	image string
	dir   string
	on    bool
}

// newDisk makes a file system of size bytes in a sparse file.
func newDisk(t *testing.T, kind string, size int64) *disk {
	t.Helper()
	needs(t, "mkfs."+kind, "mount", "umount", "losetup")
	dir, err := os.MkdirTemp("", "kmsfs-disk-")
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, kind: kind, image: filepath.Join(dir, "image"), dir: filepath.Join(dir, "disk")}
	t.Cleanup(func() {
		if d.on {
			d.quiet("umount", "-l", d.dir)
		}
		_ = os.RemoveAll(dir)
	})
	f, err := os.Create(d.image)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Mkdir(d.dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-q", d.image}
	if kind == "ext4" {
		args = []string{"-q", "-F", "-E", "lazy_itable_init=1,nodiscard", d.image}
	}
	if out, err := exec.Command("mkfs."+kind, args...).CombinedOutput(); err != nil {
		t.Skipf("cannot make a file system: mkfs.%s: %v\n%s", kind, err, out)
	}
	if out, err := d.mount(); err != nil {
		t.Skipf("cannot mount through a loop device: %v\n%s", err, out)
	}
	return d
}

func (d *disk) mount() ([]byte, error) {
	out, err := exec.Command("mount", "-o", "loop", d.image, d.dir).CombinedOutput()
	d.on = err == nil
	return out, err
}

func (d *disk) quiet(name string, args ...string) { _ = exec.Command(name, args...).Run() }

// Values of FS_IOC_SHUTDOWN: the file system stops at once, and what is not on the disk yet never gets there.
const (
	fsIocShutdown     = 0x8004587d
	shutdownNoLogSync = 2
)

// cut is the loss of power: from now on nothing reaches the disk.
func (d *disk) cut() {
	d.t.Helper()
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	flags := uint32(shutdownNoLogSync)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocShutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		d.t.Skipf("%s cannot be shut down: %v", d.kind, errno)
	}
}

// back is the return of power: the journal of the file system is replayed.
func (d *disk) back(r *rig) {
	d.t.Helper()
	r.await("the file system to be let go", func() bool {
		out, err := exec.Command("umount", d.dir).CombinedOutput()
		return err == nil || strings.Contains(string(out), "not mounted")
	})
	d.on = false
	if out, err := d.mount(); err != nil {
		r.fatal("mount after the cut: ", err, string(out))
	}
}

// TestPower cuts the power under the store in the middle of random work, again and again on the same store.
func TestPower(t *testing.T) {
	t.Parallel()
	rounds := envInt(t, "KMSFS_POWER_ROUNDS", 3)
	seed := uint64(envInt(t, "KMSFS_CRASH_SEED", int(time.Now().UnixNano()/1000%1e9)))
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := newDisk(t, kind, 4<<30)
			r := newRig(t, filepath.Join(d.dir, "store"))
			t.Logf("%d rounds from seed %d", rounds, seed)
			r.start()
			r.wait(r.spawn(task{Role: "limit", Dir: limited}), "limit", deadline)
			ops, lost := 0, 0
			for i := range rounds {
				rd := r.begin(seed+uint64(i), true)
				rd.moment()
				rd.settle()
				d.cut()
				r.kill()
				r.ended(rd)
				r.unmounted()
				d.back(r)
				r.start()
				r.after(rd, i)
				ops += r.check(rd)
				lost += r.recovered()
				if i%4 == 3 {
					r.tidy(rd)
				}
			}
			r.finish()
			t.Logf("%d cuts, %d operations, %d files had lost bytes", rounds, ops, lost)
		})
	}
}

// settle lets the kernel write back some of what is dirty, or none, as time would.
func (rd *round) settle() {
	if rd.rnd.IntN(3) == 0 {
		time.Sleep(time.Duration(rd.rnd.IntN(1500)) * time.Millisecond) // not synchronisation: a later moment
	}
}

// recovered says how many files the newest start had to mend.
func (r *rig) recovered() (n int) {
	for line := range strings.Lines(r.lastWords()) {
		if strings.Contains(line, "never synced are gone") {
			n++
		}
	}
	return n
}
