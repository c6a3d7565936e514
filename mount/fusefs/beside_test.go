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

// TestWriterBesideCache measures what a writer on one mount pays while another mount has the same tree cached, whole and anew before each
// kind of work: the processor time of daemon and writer, in pairs with the same work in a tree that the other mount never saw. It prints
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
	files, rounds := scale(50, 200), scale(3, 25)
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
	spent, took := make([][2][]float64, len(works)), make([][2][]float64, len(works))
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
			for i := range trees {
				which := (i + round) % 2
				began, cpu := time.Now(), cpuOfBoth(t)
				for i := range files {
					must(t, work.do(filepath.Join(dirs[0], trees[which]), i))
				}
				spent[n][which] = append(spent[n][which], (cpuOfBoth(t) - cpu).Seconds())
				took[n][which] = append(took[n][which], time.Since(began).Seconds())
			}
		}
		for _, tree := range trees {
			must(t, os.RemoveAll(filepath.Join(dirs[0], tree)))
		}
	}
	var sum [2]float64
	for n, work := range works {
		cpu, wall := inPairs(spent[n]), inPairs(took[n])
		us := func(d []float64) float64 { return 1e6 * median(d) / float64(files) }
		t.Logf("%-24s alone %.1f us of processor time, cached elsewhere %.1f: %+.1f %% in the median pair; %.1f and %.1f us passed: %+.1f %%",
			work.name, us(spent[n][0]), us(spent[n][1]), cpu, us(took[n][0]), us(took[n][1]), wall)
		for i := range sum {
			sum[i] += median(spent[n][i])
		}
	}
	more := 100 * (sum[1]/sum[0] - 1)
	t.Logf("all together: %+.1f %% of processor time", more)
	if more > 50 {
		t.Error("a cache elsewhere makes writing half as dear again")
	}
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
func inPairs(d [2][]float64) float64 {
	more := make([]float64, len(d[0]))
	for i := range more {
		more[i] = 100 * (d[1][i]/d[0][i] - 1)
	}
	return median(more)
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
