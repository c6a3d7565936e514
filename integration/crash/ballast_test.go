package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// ballast is a file of somebody else's that fills the disk.
type ballast struct {
	d *disk
	f *os.File
}

func (d *disk) ballast() *ballast {
	d.t.Helper()
	f, err := os.Create(filepath.Join(d.dir, "ballast"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = f.Close() })
	return &ballast{d, f}
}

// leave fills the disk so that n bytes are free, or nearly.
func (b *ballast) leave(n int64) {
	b.d.t.Helper()
	for range 20 { // the file system takes some for its own purposes meanwhile, or gives some back
		var fs unix.Statfs_t
		var st unix.Stat_t
		if err := unix.Fstatfs(int(b.f.Fd()), &fs); err != nil {
			b.d.t.Fatal(err)
		}
		if err := unix.Fstat(int(b.f.Fd()), &st); err != nil {
			b.d.t.Fatal(err)
		}
		more := int64(fs.Bavail)*fs.Bsize - n
		if more == 0 {
			return
		}
		var err error
		if size := st.Size + more; more > 0 {
			err = unix.Fallocate(int(b.f.Fd()), 0, st.Size, more)
		} else {
			err = b.f.Truncate(max(size, 0))
		}
		if err != nil && !errors.Is(err, unix.ENOSPC) {
			b.d.t.Fatal(err)
		}
	}
}

func (b *ballast) release() {
	b.d.t.Helper()
	if err := b.f.Truncate(0); err != nil {
		b.d.t.Fatal(err)
	}
}

// TestBallast has others fill the disk to the last block, or to some less, before each step of the workload in turn, and give the space
// back at the end: so each write of the store, also those by mappings, has its turn at meeting what is left. The error reaches the caller;
// no step hangs; and after each round the same daemon does everything.
func TestBallast(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "ext4", 300<<20)
	r := newRig(t, filepath.Join(d.dir, "store"))
	r.start()
	b := d.ballast()
	seed, total := uint64(1), 0
	for _, kib := range []int64{0, 16, 256, 4 << 10, 12 << 10, 24 << 10, 60 << 10} {
		set := fmt.Sprintf("left%d", kib)
		r.prepare(set, seed)
		results := map[string]result{}
		for _, step := range stepNames {
			b.leave(kib << 10)
			results[step] = r.step(set, step, seed)
		}
		b.release()
		n := refusedSteps(t, results)
		t.Logf("%d KiB left: %d of %d steps refused", kib, n, len(stepNames))
		total += n
		r.goesOn(set, seed, results)
		seed += 2
	}
	r.fsck("after the ballast")
	r.kill()
	r.unmounted()
	r.start()
	r.finish()
	t.Logf("%d steps met a full disk", total)
}
