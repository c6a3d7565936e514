package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sample is what must not grow with the life of a daemon, measured while nothing is stored and nobody works.
type sample struct {
	at          time.Duration
	goroutines  int
	descriptors int
	anonymous   int64  // bytes of memory: RssAnon
	store       int64  // bytes on disk
	parts       string // of it, in MiB
}

func (s sample) String() string {
	return fmt.Sprintf("%v: %d goroutines, %d descriptors, %d MiB of memory, store %d MiB (%s)",
		s.at.Round(time.Second), s.goroutines, s.descriptors, s.anonymous>>20, s.store>>20, s.parts)
}

func (r *rig) sample(began time.Time) (s sample) {
	r.t.Helper()
	s.at = time.Since(began)
	var status struct {
		PID        int `json:"pid"`
		Goroutines int `json:"goroutines"`
	}
	if err := json.Unmarshal([]byte(r.run("--json", "status")), &status); err != nil || status.PID != r.daemon.Process.Pid {
		r.fatal("status: ", err, status)
	}
	s.goroutines = status.Goroutines
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", status.PID))
	if err != nil {
		r.fatal(err)
	}
	s.descriptors = len(fds)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", status.PID))
	if err != nil {
		r.fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssAnon:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				r.fatal(err)
			}
			s.anonymous = kib << 10
		}
	}
	parts := map[string]int64{}
	err = filepath.WalkDir(r.store, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the daemon removes files meanwhile
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err == nil {
			n := info.Sys().(*syscall.Stat_t).Blocks * 512
			s.store += n
			rel, _ := filepath.Rel(r.store, name)
			part, _, _ := strings.Cut(rel, "/")
			parts[part] += n
		}
		return nil
	})
	if err != nil || s.goroutines == 0 || s.anonymous == 0 || s.store == 0 {
		r.fatal("cannot measure: ", err, s)
	}
	for _, part := range slices.Sorted(maps.Keys(parts)) {
		if n := parts[part]; n >= 1<<20 {
			s.parts += fmt.Sprintf(" %s %d", part, n>>20)
		}
	}
	s.parts = strings.TrimSpace(s.parts)
	return s
}

// flat judges a row of measurements: the middle of its last third is not above that of the third before by more than a tenth and slack.
// The first third is for warming up.
func flat(values []int64, slack int64) bool {
	third := len(values) / 3
	middle := func(v []int64) int64 {
		v = slices.Sorted(slices.Values(v))
		return v[len(v)/2]
	}
	before, after := middle(values[third:2*third]), middle(values[2*third:])
	return after <= before+before/10+slack
}

// TestFlat is about the judge.
func TestFlat(t *testing.T) {
	grow := func(from, by int64) (v []int64) {
		for i := range int64(30) {
			v = append(v, from+by*i+i%3)
		}
		return v
	}
	if !flat(grow(100, 0), 5) || flat(grow(100, 5), 5) {
		t.Error("it cannot tell what grows from what does not")
	}
}

// TestLongLife has several workers of two principals do mixed work for KMSFS_LIFE_MINUTES, beside fsck, gc, mounting and unmounting and
// changes of keys. After each stretch all files are compared with what was done, and removed. What the daemon holds then must stay flat.
func TestLongLife(t *testing.T) {
	needs(t)
	minutes := envInt(t, "KMSFS_LIFE_MINUTES", 0)
	if minutes == 0 {
		t.Skip("takes KMSFS_LIFE_MINUTES; make soak runs it")
	}
	r := newRig(t, "")
	seed := uint64(envInt(t, "KMSFS_CRASH_SEED", int(time.Now().UnixNano()/1000%1e9)))
	t.Logf("%d minutes from seed %d", minutes, seed)
	r.start()
	r.run("audit", "keep", "--file-size", "4MiB", "--size", "16MiB") // it keeps every event for ever unless told otherwise
	began := time.Now()
	var samples []sample
	ops, checks := 0, 0
	for i := 0; time.Since(began) < time.Duration(minutes)*time.Minute || len(samples) < 6; i++ {
		p := profiles[i%len(profiles)]
		rd := &round{seed: seed + uint64(i), rnd: rand.New(rand.NewPCG(seed, uint64(i)))}
		for w := range 3 {
			x := task{
				Role: "worker", Dir: fmt.Sprintf("bucket/r%d-w%d", rd.seed, w), Journal: filepath.Join(r.dir, fmt.Sprintf("journal-%d", w)),
				Seed: rd.seed, Worker: w, Max: p.max, Ops: p.ops,
			}
			r.wait(r.spawn(task{Role: "mkdir", Dir: x.Dir}), "mkdir", deadline)
			rd.tasks = append(rd.tasks, x)
			rd.workers = append(rd.workers, r.spawn(x))
		}
		switch i % 4 {
		case 0:
			r.fsck(fmt.Sprint("beside work, seed ", rd.seed))
			checks++
		case 1:
			r.run("gc")
		case 2:
			id := strings.TrimSpace(r.run("key", "create", "--alias", fmt.Sprint("life", i)))
			r.run("key", "disable", id)
		}
		for w, x := range rd.workers {
			r.wait(x, fmt.Sprintf("seed %d: worker %d", rd.seed, w), 20*time.Minute)
		}
		ops += r.check(rd)
		r.tidy(rd)
		for _, x := range rd.tasks {
			_ = os.Remove(x.Journal)
		}
		if i%4 == 3 {
			r.run("umount", "--lazy", r.mounts[1]) // somebody else on the machine may just be looking
			r.run("mount", "--principal", "second", r.mounts[1])
		}
		r.run("gc")
		samples = append(samples, r.sample(began))
		t.Log(samples[i])
	}
	t.Logf("%d operations, %d times fsck beside them, %d samples; the last %v", ops, checks, len(samples), samples[len(samples)-1])
	for _, m := range []struct {
		what  string
		slack int64
		of    func(sample) int64
	}{
		{"goroutines", 10, func(s sample) int64 { return int64(s.goroutines) }},
		{"descriptors", 20, func(s sample) int64 { return int64(s.descriptors) }},
		{"memory", 48 << 20, func(s sample) int64 { return s.anonymous }},
		{"the store's size", 64 << 20, func(s sample) int64 { return s.store }},
	} {
		var values []int64
		for _, s := range samples {
			values = append(values, m.of(s))
		}
		if !flat(values, m.slack) {
			t.Errorf("%s grow: %v", m.what, values)
		}
	}
	r.finish()
}

// TestRestarts stops the daemon and starts it again, KMSFS_RESTARTS times, with a file written by each: all are there at the end, and
// the store has not grown by more than they need.
func TestRestarts(t *testing.T) {
	t.Parallel()
	needs(t)
	r := newRig(t, "")
	n := envInt(t, "KMSFS_RESTARTS", 12)
	var files []filledFile
	for i := range n {
		r.start()
		f := r.fill(uint64(1000+i), int64(3000+i*517), 1)
		if len(f.Files) != 1 {
			r.fatal("start ", i, ": ", f)
		}
		files = append(files, f.Files...)
		if i%10 == 9 {
			r.hand("readfilled", files)
		}
		r.stop()
	}
	r.start()
	r.hand("readfilled", files)
	s := r.sample(time.Now())
	if s.store > 200<<20 {
		t.Errorf("after %d starts the store takes %d MiB", n, s.store>>20)
	}
	r.finish()
	t.Logf("%d starts and stops; %v", n, s)
}
