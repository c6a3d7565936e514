package crash

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// report is what the rounds want to know of fsck's report.
type report struct {
	Complete bool           `json:"complete"`
	Counts   map[string]int `json:"problemCounts"`
	Problems []struct {
		Kind    string `json:"kind"`
		Ino     uint64 `json:"inode"`
		Message string `json:"message"`
	} `json:"problems"`
	Quotas struct {
		Checked int `json:"checked"`
		Busy    int `json:"busy"`
	} `json:"quotas"`
	Space struct {
		Stored       int64 `json:"storedBytes"`
		Unreferenced int64 `json:"unreferencedBytes"`
	} `json:"space"`
}

// fsck wants the store to be sound, all of its data included; a daemon may run or not.
func (r *rig) fsck(when string) report { return r.sound(when, "--data") }

// counted wants the counters of the bucket with a quota to be exact, as soon as they are counted: nobody works.
func (r *rig) counted(when string) {
	r.t.Helper()
	r.await("the bucket with a quota to be counted", func() bool {
		rep := r.sound(when)
		return rep.Quotas.Checked == 1 && rep.Quotas.Busy == 0
	})
}

func (r *rig) sound(when string, args ...string) report {
	r.t.Helper()
	out, err := r.command(append([]string{"--json", "fsck"}, args...)...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.fatal(when, ": ", err)
	}
	var rep report
	if jsonErr := json.Unmarshal([]byte(out), &rep); jsonErr != nil {
		r.fatal(when, ": fsck: ", err, out)
	}
	if err != nil || !rep.Complete || len(rep.Problems) > 0 {
		for i, p := range rep.Problems {
			if i == 20 {
				break
			}
			r.t.Logf("%s, inode %d: %s", p.Kind, p.Ino, p.Message)
		}
		r.fatal(when, ": fsck finds problems: ", err)
	}
	return rep
}

// finish stops the daemon and wants the store to be sound, and to hold nothing that is not referred to.
func (r *rig) finish() {
	r.t.Helper()
	r.stop()
	r.run("gc")
	if rep := r.fsck("at the end"); rep.Space.Unreferenced != 0 {
		r.t.Errorf("after gc %d of %d bytes are referred to by nothing", rep.Space.Unreferenced, rep.Space.Stored)
	}
}

// TestFsckCommand finds a flipped byte, says so by its exit status, and repairs nothing under mounts.
func TestFsckCommand(t *testing.T) {
	t.Parallel()
	needs(t)
	r := newRig(t, "")
	r.start()
	rd := r.begin(6, false) // large files
	rd.moment()
	r.kill()
	r.ended(rd)
	r.unmounted()
	r.start()
	if _, err := r.command("fsck", "--repair"); status(err) != 1 {
		r.fatal("fsck --repair under mounts: ", err)
	}
	r.fsck("online")
	r.finish()

	name, at := r.anExtent()
	flip := func() {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	flip()
	r.run("fsck") // looks at rows alone
	out, err := r.command("--json", "fsck", "--data")
	var rep report
	if jsonErr := json.Unmarshal([]byte(out), &rep); jsonErr != nil || status(err) != 5 || rep.Counts["bad-data"] != 1 {
		r.fatal("a flipped byte: ", err, jsonErr, rep)
	}
	flip()
	r.fsck("mended")
}

// anExtent gives a place in a segment where there is content.
func (r *rig) anExtent() (name string, at int64) {
	r.t.Helper()
	all, err := filepath.Glob(filepath.Join(r.store, "segments", "*.seg"))
	if err != nil || len(all) == 0 {
		r.fatal("no segments: ", err)
	}
	for _, name := range all {
		f, err := os.Open(name)
		if err != nil {
			r.t.Fatal(err)
		}
		at, err := unix.Seek(int(f.Fd()), 4096, unix.SEEK_DATA)
		_ = f.Close()
		if err == nil {
			return name, at + 100
		}
	}
	r.fatal("no content in the segments")
	return "", 0
}

func status(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
