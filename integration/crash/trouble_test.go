package crash

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// terminate asks the daemon to end, as it can be asked when its socket cannot be reached, and insists if it does not.
func (r *rig) terminate() {
	r.t.Helper()
	for _, m := range r.mounted() {
		_ = exec.Command("umount", "-l", m).Run()
	}
	r.kill()
	r.unmounted()
}

// TestReadOnlyDisk has ext4 find an error and make itself read-only below a store that is in use, as it does on a failing disk. The error
// reaches write, fsync or close; what was acknowledged before can be read while that lasts, and what was synced is there after it.
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "ext4", 400<<20)
	loop, err := exec.Command("findmnt", "-n", "-o", "SOURCE", d.dir).Output()
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(strings.TrimSpace(string(loop))), "trigger_fs_error")
	if _, serr := os.Stat(trigger); err != nil || serr != nil {
		t.Skip("ext4 cannot be told to find an error: ", err, serr)
	}
	if out, err := exec.Command("mount", "-o", "remount,errors=remount-ro", d.dir).CombinedOutput(); err != nil {
		t.Skipf("errors=remount-ro: %v: %s", err, out)
	}
	r := newRig(t, filepath.Join(d.dir, "store"))
	r.start()
	files := r.fill(1, 300_000, 30).Files
	var synced []filledFile // for ext4 drops what it has not written yet, as a power cut does
	for i, f := range files {
		if i%3 == 0 {
			synced = append(synced, f)
		}
	}
	if err := os.WriteFile(trigger, []byte("a test"), 0); err != nil {
		t.Fatal(err)
	}
	f := r.tryFill(2, 300_000, 2000)
	if f.Other == "" {
		r.fatal("2000 files on a read-only disk: ", f.Failed)
	}
	t.Logf("%d files more, then %s", len(f.Files), f.Other)
	r.hand("readfilled", files) // still there
	again := r.tryFill(3, 5000, 20)
	if again.Other == "" || len(again.Files) > 0 {
		r.fatal("the daemon takes files again that it cannot keep: ", len(again.Files), again.Other)
	}
	r.terminate()
	if out, err := exec.Command("umount", d.dir).CombinedOutput(); err != nil {
		r.fatal(string(out))
	}
	d.on = false
	_ = exec.Command("e2fsck", "-p", "-f", d.image).Run() // ext4 remembers the error
	if out, err := d.mount(); err != nil {
		r.fatal(string(out))
	}
	r.start()
	r.hand("readfilled", synced)
	r.fsck("after the disk was read-only")
	if more := r.tryFill(4, 300_000, 10); more.Other != "" {
		r.fatal("after the disk was mended: ", more.Other)
	}
	r.finish()
}

// TestStoreGone moves the store's directory away from under the daemon, and back after its end. Meanwhile there is no hang, and what is
// acknowledged is there afterwards.
func TestStoreGone(t *testing.T) {
	t.Parallel()
	needs(t)
	r := newRig(t, "")
	r.start()
	files := r.fill(1, 300_000, 30).Files
	away := r.store + ".away"
	if err := os.Rename(r.store, away); err != nil {
		t.Fatal(err)
	}
	for seed, size := range []int64{3 << 20, 0, 9000} { // content, then many rows
		f := r.tryFill(uint64(10+seed), size, 60)
		t.Logf("%d files of %d bytes without the directory; %s", len(f.Files), size, f.Other)
		files = append(files, f.Files...)
	}
	r.hand("readfilled", files)
	_ = r.daemon.Process.Signal(syscall.SIGSTOP) // nothing more reaches the store, wherever it is
	if err := os.Rename(away, r.store); err != nil {
		t.Fatal(err)
	}
	r.terminate()
	r.start()
	r.hand("readfilled", files)
	r.fsck("after the directory came back")
	r.finish()
}
