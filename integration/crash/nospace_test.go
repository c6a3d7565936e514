package crash

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tracer is strace at the daemon: while it is there, chosen system calls on chosen files fail.
type tracer struct {
	cmd *exec.Cmd
	out string
}

// inject makes system calls on files of the store fail, all or by strace's "when".
func (r *rig) inject(calls, fault string, files ...string) *tracer {
	r.t.Helper()
	x := &tracer{out: filepath.Join(r.dir, "strace")}
	args := []string{"-f", "-y", "-o", x.out, "-p", fmt.Sprint(r.daemon.Process.Pid), "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + fault}
	for _, f := range files {
		args = append(args, "-P", f)
	}
	x.cmd = exec.Command("strace", args...)
	said, err := x.cmd.StderrPipe()
	if err == nil {
		err = x.cmd.Start()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	attached := make(chan string, 1)
	go func() {
		var all string
		for sc := bufio.NewScanner(said); sc.Scan(); {
			all += sc.Text() + "\n"
			if strings.Contains(sc.Text(), " attached") {
				select {
				case attached <- "":
				default:
				}
			}
		}
		attached <- all
	}()
	select {
	case failed := <-attached:
		if failed != "" {
			_ = x.cmd.Wait()
			r.t.Skip("strace cannot attach: ", failed)
		}
	case <-lived(deadline):
		r.fatal("strace does not attach")
	}
	return x
}

// await waits until a system call has failed, for a while: some are made in the background.
func (x *tracer) await() {
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if b, err := os.ReadFile(x.out); err == nil && bytes.Contains(b, []byte("(INJECTED)")) {
			return
		}
	}
}

// end lets the system calls be, and counts those that failed, by name and file.
func (x *tracer) end(r *rig) map[string]int {
	r.t.Helper()
	_ = x.cmd.Process.Signal(syscall.SIGINT)
	_ = x.cmd.Wait()
	b, err := os.ReadFile(x.out)
	if err != nil {
		r.t.Fatal(err)
	}
	met := map[string]int{}
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, "(INJECTED)") {
			continue
		}
		_, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, args, _ := strings.Cut(strings.TrimSpace(call), "(")
		file := "?"
		if i := strings.Index(args, r.store); i >= 0 {
			file, _, _ = strings.Cut(args[i+len(r.store):], ">")
			file, _, _ = strings.Cut(file, `"`)
		}
		met[name+" "+file]++
	}
	return met
}

// steps does all steps on a set of files of its own, and says what became of each.
func (r *rig) steps(set string, seed uint64) map[string]result {
	r.t.Helper()
	all := map[string]result{}
	for _, step := range stepNames {
		all[step] = r.step(set, step, seed)
	}
	return all
}

func (r *rig) step(set, step string, seed uint64) (x result) {
	r.t.Helper()
	out := r.wait(r.spawn(task{Role: "step", Dir: "bucket", Note: set, Step: step, Seed: seed}), set+", step "+step, deadline)
	if err := json.Unmarshal([]byte(out), &x); err != nil {
		r.fatal(err, ": ", out)
	}
	return x
}

func (r *rig) prepare(set string, seed uint64) {
	r.t.Helper()
	r.wait(r.spawn(task{Role: "prepare", Dir: "bucket", Note: set, Seed: seed}), "prepare "+set, deadline)
}

// inspect compares what is there with what became of the steps.
func (r *rig) inspect(set string, seed uint64, results map[string]result) {
	r.t.Helper()
	name := filepath.Join(r.dir, "results.json")
	b, err := json.Marshal(results)
	if err == nil {
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.wait(r.spawn(task{Role: "inspect", Dir: "bucket", Note: set, Seed: seed, Journal: name}), "inspect "+set, deadline)
}

// writes are the kinds of writes that the store makes by system calls: to which files, and what makes it make them beside the steps.
var writes = []struct {
	name, calls string
	files       []string // patterns below the store
	commands    [][]string
	refused     []string // the steps that must be refused
	once        bool     // the store tries again by itself: there is one way to refuse them
	burst       int      // files with large attributes: they rotate the redo log and the tables in memory
}{
	{name: "segment", calls: "pwrite64", files: []string{"segments/*.seg"}, refused: []string{"large", "large-synced", "overwrite", "append", "rewrite"}},
	{
		name: "redo", calls: "pwrite64", files: []string{"redo/*.redo"}, commands: [][]string{{"principal", "create", "somebody"}, {"bucket", "create", "another"}},
		refused: slices.DeleteFunc(slices.Clone(stepNames), func(s string) bool { return s == "read" }),
	},
	{name: "audit", calls: "pwrite64", files: []string{"audit/*.audit"}, once: true},
	{name: "epoch", calls: "pwrite64", files: []string{"epoch"}, commands: [][]string{{"gc"}}, once: true},
	{name: "shred", calls: "pwrite64", files: []string{"shred"}, commands: [][]string{{"key", "create"}}, once: true},
	{name: "manifest", calls: "write", files: []string{"db/MANIFEST"}, burst: 1500, once: true},
}

// named lists the files of a kind of write.
func (r *rig) named(patterns []string) (files []string) {
	r.t.Helper()
	for _, p := range patterns {
		all, err := filepath.Glob(filepath.Join(r.store, p))
		if err != nil {
			r.t.Fatal(err)
		}
		files = append(files, all...)
	}
	if len(files) == 0 {
		r.fatal("no files ", patterns)
	}
	return files
}

// TestNoSpaceAtEveryWrite has every kind of write meet a full disk, whatever the reserves say: all such writes while the steps are done,
// then each of the first ones alone, while others go well. The error reaches the caller, and nobody else; afterwards the same daemon
// does all steps without any, and everything is as was said. (What Badger writes by mappings cannot be refused in this way:
// TestBallast. And where a filesystem is known to write in place the redo log relies on that, for commits whose owner syncs next: so the
// store is on one that is not.)
func TestNoSpaceAtEveryWrite(t *testing.T) {
	t.Parallel()
	needs(t, "strace")
	r := newRig(t, filepath.Join(inMemory(t, 1<<30), "store")) // a small one, where tables in memory are small
	r.start()
	seed, total := uint64(1), 0
	for _, c := range writes {
		for _, when := range []string{"", ":when=1", ":when=2+3"} {
			if when != "" && c.once {
				continue
			}
			set := fmt.Sprint(c.name, seed)
			r.prepare(set, seed)
			x := r.inject(c.calls, "error=ENOSPC"+when, r.named(c.files)...)
			results := r.steps(set, seed)
			for _, args := range c.commands {
				if _, err := r.command(args...); status(err) != 1 && when == "" {
					t.Errorf("%s: kmsfs %v ends with %v", c.name, args, err)
				}
			}
			if c.burst > 0 {
				t.Logf("%s: refused of %d files with attributes: %v", c.name, c.burst, r.burst(seed, c.burst))
			}
			if c.once {
				x.await()
			}
			met := x.end(r)
			n := 0
			for _, k := range met {
				n += k
			}
			if n == 0 && when != ":when=2+3" { // strace counts each thread's calls by themselves, and a thread may make one only
				t.Errorf("%s%s: no write met the full disk", c.name, when)
			}
			total += n
			t.Logf("%s%s: %d refused writes, of %d steps: %v", c.name, when, n, refusedSteps(t, results), met)
			for _, step := range c.refused {
				if results[step].Errno != int(syscall.ENOSPC) && when == "" {
					t.Errorf("%s, step %s: %v", c.name, step, results[step])
				}
			}
			r.goesOn(set, seed, results)
			seed += 2
		}
	}
	r.kill()
	r.unmounted()
	r.start()
	r.finish()
	t.Logf("%d writes met a full disk", total)
}

// inMemory makes a file system in memory.
func inMemory(t *testing.T, size int64) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kmsfs-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprint("size=", size), "kmsfs-test", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return dir
}

// burst writes files with large attributes, by three processes at once, and says how many were refused, by call.
func (r *rig) burst(seed uint64, n int) map[string]int {
	r.t.Helper()
	var all []*proc
	for i := range 3 {
		x := task{Role: "fill", Dir: "bucket", Seed: seed<<4 + uint64(i), Ops: n / 3, Note: fmt.Sprintf("burst%d-%d-", seed, i), Attr: largeAttr}
		all = append(all, r.spawn(x))
	}
	failed := map[string]int{}
	for _, p := range all {
		var f filled
		out := r.wait(p, "burst", 2*deadline)
		if err := json.Unmarshal([]byte(out), &f); err != nil || f.Other != "" {
			r.fatal("burst: ", err, f.Other)
		}
		for call, k := range f.Failed {
			failed[call] += k
		}
	}
	return failed
}

// refusedSteps counts the steps that failed, all of which for want of space.
func refusedSteps(t *testing.T, results map[string]result) (n int) {
	t.Helper()
	for step, x := range results {
		if x.Call == "" {
			continue
		}
		if n++; x.Errno != int(syscall.ENOSPC) {
			t.Errorf("step %s: %v", step, x)
		}
	}
	return n
}

// goesOn wants the same daemon to do all steps, now that there is space, and what is there to be what was said.
func (r *rig) goesOn(set string, seed uint64, results map[string]result) {
	r.t.Helper()
	after := set + "-after"
	r.prepare(after, seed+1)
	again := r.steps(after, seed+1)
	for step, x := range again {
		if x.Call != "" {
			r.t.Errorf("%s, step %s, with space again: %v", set, step, x)
		}
	}
	r.inspect(set, seed, results)
	r.inspect(after, seed+1, again)
}
