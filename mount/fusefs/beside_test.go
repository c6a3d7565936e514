package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWriterBesideCache measures in pairs what a writer on one mount pays while another mount has the same tree cached, whole and anew
// before each kind of work: the median and the least time of several rounds, in turns, and the processor time of daemon and writer in all of them. It prints
// that, and fails if it is out of all proportion; what a busy machine measures is no more exact.
func TestWriterBesideCache(t *testing.T) {
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("shared")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{})
	out, err := child(t, "beside", nil, filepath.Join(a, "shared"), filepath.Join(b, "shared")).CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	t.Logf("%s", out)
}

func besideChild(t *testing.T, dirs []string) {
	files, rounds := scale(50, 500), scale(2, 15)
	content := make([]byte, 4096)
	works := []struct {
		name string
		do   func(dir string, i int) error
	}{
		{"overwrite", func(dir string, i int) error {
			f, err := os.OpenFile(fmt.Sprintf("%s/f%d", dir, i), os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt(content, 0)
			}
			if err == nil {
				err = f.Close()
			}
			return err
		}},
		{"replace by truncation", func(dir string, i int) error { return os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), content, 0o644) }},
		{"write and rename over", func(dir string, i int) error {
			if err := os.WriteFile(dir+"/tmp", content, 0o644); err != nil {
				return err
			}
			return os.Rename(dir+"/tmp", fmt.Sprintf("%s/f%d", dir, i))
		}},
		{"chmod", func(dir string, i int) error { return os.Chmod(fmt.Sprintf("%s/f%d", dir, i), 0o600+os.FileMode(i%64)) }},
		{"create", func(dir string, i int) error { return os.WriteFile(fmt.Sprintf("%s/new%d", dir, i), content, 0o644) }},
		{"append", func(dir string, i int) error {
			f, err := os.OpenFile(fmt.Sprintf("%s/f%d", dir, i), os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = f.Write(content[:100])
			}
			if err == nil {
				err = f.Close()
			}
			return err
		}},
		{"rename", func(dir string, i int) error {
			return os.Rename(fmt.Sprintf("%s/new%d", dir, i), fmt.Sprintf("%s/old%d", dir, i))
		}},
		{"remove", func(dir string, i int) error { return os.Remove(fmt.Sprintf("%s/old%d", dir, i)) }},
	}
	least := make([][2]time.Duration, len(works))
	all := make([][2][]time.Duration, len(works))
	var cpu [2]time.Duration
	each := make([][2]time.Duration, len(works)) // of that
	for round := range 2 * rounds {
		cached := round % 2
		sub := fmt.Sprintf("r%d", round)
		dir, other := filepath.Join(dirs[0], sub), filepath.Join(dirs[1], sub)
		must(t, os.Mkdir(dir, 0o755))
		for i := range files {
			must(t, os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), content, 0o644))
		}
		for n, work := range works {
			if cached == 1 {
				entries, err := os.ReadDir(other)
				must(t, err)
				for _, e := range entries {
					_, err := os.ReadFile(filepath.Join(other, e.Name()))
					must(t, err)
					_, err = os.Stat(filepath.Join(other, e.Name()))
					must(t, err)
				}
			}
			began, spent := time.Now(), cpuOfBoth(t)
			for i := range files {
				must(t, work.do(dir, i))
			}
			took := time.Since(began)
			spent = cpuOfBoth(t) - spent
			cpu[cached] += spent
			each[n][cached] += spent
			all[n][cached] = append(all[n][cached], took)
			if least[n][cached] == 0 || took < least[n][cached] {
				least[n][cached] = took
			}
		}
		must(t, os.RemoveAll(dir))
	}
	more := func(d [2]time.Duration) float64 { return 100 * (float64(d[1])/float64(d[0]) - 1) }
	var sum [2]time.Duration
	for n, work := range works {
		quickest := [2]time.Duration{least[n][0] / time.Duration(files), least[n][1] / time.Duration(files)}
		sum[0], sum[1] = sum[0]+least[n][0], sum[1]+least[n][1]
		var median [2]time.Duration
		for i := range median {
			slices.Sort(all[n][i])
			median[i] = all[n][i][rounds/2] / time.Duration(files)
		}
		t.Logf("%-24s alone %v, cached elsewhere %v: %+.1f %%; medians %v, %v: %+.1f %%; processor time %+.1f %%",
			work.name, quickest[0], quickest[1], more(quickest), median[0], median[1], more(median), more(each[n]))
	}
	t.Logf("all together: %+.1f %% of time, %+.1f %% of the processors' (%v and %v)", more(sum), more(cpu), cpu[0], cpu[1])
	if more(sum) > 100 && more(cpu) > 100 {
		t.Error("a cache elsewhere doubles what writing costs")
	}
}

// cpuOfBoth is the processor time of this process and its parent, the daemon.
func cpuOfBoth(t *testing.T) (sum time.Duration) {
	t.Helper()
	for _, pid := range []int{os.Getpid(), os.Getppid()} {
		var ts unix.Timespec
		must(t, unix.ClockGettime(int32(^pid<<3|2), &ts)) // as clock_getcpuclockid(3) makes it
		sum += time.Duration(ts.Nano())
	}
	return sum
}
