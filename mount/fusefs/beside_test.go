package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWriterBesideCache measures what a writer on one mount pays while another mount has the same tree cached, whole and anew before each
// kind of work: the processor time of daemon and writer, in pairs with the same work in a tree that the other mount never saw, a few
// files of the one and a few of the other in turns. It prints that, and fails if it is out of all proportion; what a busy machine measures
// is no more exact. What does not depend on the machine is how often the other kernel is told, and that may be no more than it is.
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
	files, rounds := scale(50, 200), scale(3, 12)
	content := make([]byte, 4096)
	works := []struct {
		name string
		told float64 // notifications of one
		do   func(dir string, i int) error
	}{
		{"overwrite", 1, func(dir string, i int) error {
			f, err := os.OpenFile(fmt.Sprintf("%s/f%d", dir, i), os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt(content, 0)
			}
			if err == nil {
				err = f.Close()
			}
			return err
		}},
		{"replace by truncation", 1, func(dir string, i int) error { return os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), content, 0o644) }},
		{"write and rename over", 2, func(dir string, i int) error {
			if err := os.WriteFile(dir+"/tmp", content, 0o644); err != nil {
				return err
			}
			return os.Rename(dir+"/tmp", fmt.Sprintf("%s/f%d", dir, i))
		}},
		{"chmod", 1, func(dir string, i int) error { return os.Chmod(fmt.Sprintf("%s/f%d", dir, i), 0o600+os.FileMode(i%64)) }},
		{"create", 0, func(dir string, i int) error { return os.WriteFile(fmt.Sprintf("%s/new%d", dir, i), content, 0o644) }},
		{"append", 1, func(dir string, i int) error {
			f, err := os.OpenFile(fmt.Sprintf("%s/f%d", dir, i), os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = f.Write(content[:100])
			}
			if err == nil {
				err = f.Close()
			}
			return err
		}},
		{"rename", 2, func(dir string, i int) error {
			return os.Rename(fmt.Sprintf("%s/new%d", dir, i), fmt.Sprintf("%s/old%d", dir, i))
		}},
		{"remove", 2, func(dir string, i int) error { return os.Remove(fmt.Sprintf("%s/old%d", dir, i)) }},
	}
	got := make([][2]samples, len(works))
	for round := range rounds {
		trees := [2]string{fmt.Sprintf("alone%d", round), fmt.Sprintf("shared%d", round)}
		for _, tree := range trees {
			must(t, os.Mkdir(filepath.Join(dirs[0], tree), 0o755))
			for i := range files {
				must(t, os.WriteFile(fmt.Sprintf("%s/%s/f%d", dirs[0], tree, i), content, 0o644))
			}
		}
		for n, work := range works {
			cacheAll(t, filepath.Join(dirs[1], trees[1]))
			time.Sleep(2 * time.Duration(straggle)) // the state to be measured: no answer to the other mount is on its way
			for first := 0; first < files; first += inTurn {
				for i := range trees {
					which := (i + first/inTurn + round) % 2
					before := sampled(t)
					for i := range inTurn {
						must(t, work.do(filepath.Join(dirs[0], trees[which]), first+i))
					}
					got[n][which].add(before, sampled(t))
				}
			}
		}
		for _, tree := range trees {
			must(t, os.RemoveAll(filepath.Join(dirs[0], tree)))
		}
	}
	var sum [2]float64
	for n, work := range works {
		alone, shared := &got[n][0], &got[n][1]
		told := (shared.writes - alone.writes) / float64(files*rounds)
		t.Logf("%-22s %6.1f us of processor time alone, cached elsewhere %6.1f: %+5.1f us, %+5.1f %% in the median of %d pairs; %6.1f and %6.1f us passed: %+5.1f %%; %.2f notifications",
			work.name, median(alone.spent), median(shared.spent), median(differences(alone.spent, shared.spent)), inPairs(alone.spent, shared.spent), len(alone.spent),
			median(alone.took), median(shared.took), inPairs(alone.took, shared.took), told)
		if told > work.told+0.5 {
			t.Errorf("%s: %.2f notifications, want %.0f", work.name, told, work.told)
		}
		sum[0] += median(alone.spent)
		sum[1] += median(shared.spent)
	}
	more := 100 * (sum[1]/sum[0] - 1)
	t.Logf("all together: %+.1f %% of processor time", more)
	if more > 50 {
		t.Error("a cache elsewhere makes writing half as dear again")
	}
}

const inTurn = 10 // files of one tree, before as many of the other

// samples are what inTurn pieces of work cost, in µs for each.
type samples struct {
	spent, took []float64
	writes      float64 // system calls of the daemon, in all
}

// sample is what was used so far.
type sample struct {
	at     time.Time
	spent  time.Duration
	writes float64
}

func sampled(t *testing.T) sample {
	t.Helper()
	w := writesOfDaemon(t)
	return sample{time.Now(), cpuOfBoth(t), w}
}

func (s *samples) add(from, to sample) {
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) / inTurn }
	s.spent = append(s.spent, us(to.spent-from.spent))
	s.took = append(s.took, us(to.at.Sub(from.at)))
	s.writes += to.writes - from.writes
}

// writesOfDaemon counts the writing system calls of the parent, the daemon: answers and notifications, and few others.
func writesOfDaemon(t *testing.T) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", os.Getppid()))
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "syscw: ")
	n, err := strconv.ParseFloat(strings.SplitN(rest, "\n", 2)[0], 64)
	must(t, err)
	return n
}

// cacheAll has a mount's kernel know a tree: names, attributes, content.
func cacheAll(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		_, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		_, err = os.Stat(filepath.Join(dir, e.Name()))
		must(t, err)
	}
}

// inPairs is by how many per cent the second exceeds the first, in the median of all pairs.
func inPairs(a, b []float64) float64 {
	more := make([]float64, len(a))
	for i := range more {
		more[i] = 100 * (b[i]/a[i] - 1)
	}
	return median(more)
}

func differences(a, b []float64) []float64 {
	d := make([]float64, len(a))
	for i := range d {
		d[i] = b[i] - a[i]
	}
	return d
}

func median(d []float64) float64 {
	s := slices.Sorted(slices.Values(d))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
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
