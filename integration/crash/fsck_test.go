package crash

import (
	"encoding/json"
	"errors"
	"os/exec"
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
	Space struct {
		Stored       int64 `json:"storedBytes"`
		Unreferenced int64 `json:"unreferencedBytes"`
	} `json:"space"`
}

// fsck wants the store to be sound, all of its data included; a daemon may run or not.
func (r *rig) fsck(when string) report {
	r.t.Helper()
	out, err := r.command("--json", "fsck", "--data")
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
