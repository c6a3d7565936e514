package model

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	seedEnv = "KMSFS_SEED"
	timeEnv = "KMSFS_MODEL_TIME"
	roleEnv = "KMSFS_MODEL_ROLE"

	shownOps = 50
	fullLook = 40 // operations between comparisons of everything
	restarts = 3  // of the daemon in one run, the last one at the end
)

func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano()) % 1e9
	if s := os.Getenv(seedEnv); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
		seed = n
	}
	t.Logf("%s=%d", seedEnv, seed)
	return seed
}

func duration(t *testing.T) time.Duration {
	t.Helper()
	if s := os.Getenv(timeEnv); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("%s: %v", timeEnv, err)
		}
		return d
	}
	if testing.Short() {
		return 5 * time.Second
	}
	return time.Minute
}

// run is one history on one bucket.
type run struct {
	rig    *rig
	bucket string
	t      *tree
	r      *rand.Rand
	ops    []*op
	tally  tally
	quirks map[string]int
}

func newRun(r *rig, name string, seed uint64) (*run, error) {
	x := &run{rig: r, bucket: name, t: newTree(), r: rand.New(rand.NewPCG(seed, 2)), tally: tally{}, quirks: map[string]int{}}
	hard, err := os.ReadFile("/proc/sys/fs/protected_hardlinks")
	x.t.hard = err == nil && strings.TrimSpace(string(hard)) == "1"
	rep, err := r.ask(mountA, name, &op{Kind: opMkdir, Mode: 0o777})
	if err == nil && rep.Errno != 0 {
		err = fmt.Errorf("mkdir of the bucket: %w", rep.Errno)
	}
	return x, err
}

// mismatch is a difference between the program and the model.
type mismatch struct {
	op   *op
	text string
}

func (m *mismatch) Error() string { return fmt.Sprintf("%s\n        %s", m.op, m.text) }

// step does an operation on the program and on the model, and compares what other mounts show afterwards.
func (x *run) step(o *op) error {
	if !x.t.valid(o) {
		return nil
	}
	x.ops = append(x.ops, o)
	switch o.Kind {
	case opRemount:
		return x.remount(o)
	case opRestart:
		return x.restart(o)
	default:
	}
	touched := x.touched(o)
	lo := time.Now().UnixNano()
	rep, err := x.rig.ask(o.Mount, x.bucket, o)
	if err != nil {
		return err
	}
	s := span{lo, time.Now().UnixNano()}
	x.tally.count(o, rep.Errno)
	if rep.Errno != 0 && x.t.tolerated(o, rep.Errno) {
		x.quirks[o.Kind.String()+": "+rep.Errno.Error()]++
		return nil
	}
	if rep.Again {
		x.quirks["rename: a directory that another mount moved: ESTALE at first"]++
	}
	h := x.t.handles[o.H]
	if text := judge(x.t.apply(o, s), rep); text != "" {
		return &mismatch{o, text}
	}
	if h != nil && h.n != nil {
		for _, l := range h.n.links {
			touched = append(touched, pathOf(x.t, l))
			break
		}
	}
	return x.check(o, touched)
}

func pathOf(t *tree, l link) string {
	p := l.name
	for d := l.dir; d != t.root; {
		for name, n := range d.parent.entries {
			if n == d {
				p = name + "/" + p
				break
			}
		}
		d = d.parent
	}
	return p
}

// touched lists what an operation is about: its paths and their directories.
func (x *run) touched(o *op) []string {
	var all []string
	for _, p := range []string{o.Path, o.Path2} {
		if p == "" || o.Kind == opSymlink && p == o.Path2 {
			continue
		}
		all = append(all, p)
		if i := lastSlash(p); i > 0 {
			all = append(all, p[:i])
		} else {
			all = append(all, "")
		}
	}
	return all
}

// check looks at what was touched, something else and a handle, through another mount; at times at everything.
func (x *run) check(o *op, touched []string) error {
	other := (o.Mount + 1 + x.r.IntN(mounts-1)) % mounts
	if o.ID%fullLook == 0 {
		return x.checkAll(o, other)
	}
	var looks []look
	for _, p := range touched {
		looks = append(looks, look{Path: p})
	}
	g := maker{r: x.r, t: x.t}
	looks = append(looks, look{Path: g.path(0)})
	if err := x.compare(o, other, looks); err != nil {
		return err
	}
	// The file itself, through a handle that was open before, wherever that is.
	var n *node
	if h := x.t.handles[o.H]; h != nil {
		n = h.n
	} else if found, errno := x.t.find(who{}, o.Path, true); errno == 0 {
		n = found
	}
	for m := range mounts {
		var handles []look
		for id := range o.ID {
			if h := x.t.handles[id]; h != nil && h.mount == m && h.n == n && n != nil {
				handles = append(handles, look{H: id})
			}
		}
		if len(handles) > 0 {
			if err := x.compare(o, m, handles); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkAll compares everything through a mount, and all handles.
func (x *run) checkAll(o *op, m int) error {
	looks := []look{{}}
	each(x.t.root, "", func(p string, _ *node) { looks = append(looks, look{Path: p}) })
	if err := x.compare(o, m, looks); err != nil {
		return err
	}
	for m := range mounts {
		looks = looks[:0]
		for id := range o.ID + 1 {
			if h := x.t.handles[id]; h != nil && h.mount == m {
				looks = append(looks, look{H: id})
			}
		}
		if err := x.compare(o, m, looks); err != nil {
			return err
		}
	}
	return nil
}

func (x *run) compare(o *op, m int, looks []look) error {
	if len(looks) == 0 {
		return nil
	}
	rep, err := x.rig.ask(m, x.bucket, &op{ID: o.ID, Kind: opLook, Mount: m, Looks: looks})
	if err != nil {
		return err
	}
	for i := range looks {
		text := x.t.compare(m, &looks[i], &rep.Views[i])
		if text == "" {
			continue
		}
		what := fmt.Sprintf("%q", clip(looks[i].Path))
		if looks[i].H != 0 {
			what = fmt.Sprintf("h%d", looks[i].H)
		}
		text = fmt.Sprintf("then mount %s shows for %s: %s", mountNames[m], what, text)
		return &mismatch{o, text + x.again(o, m, looks[i])}
	}
	return nil
}

// again looks once more, to tell what stays wrong from what comes late, and where content differs.
func (x *run) again(o *op, m int, l look) string {
	l.Raw = true
	text := ""
	for _, m := range []int{m, (m + 1) % mounts} {
		if l.H != 0 && x.t.handles[l.H].mount != m {
			continue
		}
		rep, err := x.rig.ask(m, x.bucket, &op{ID: o.ID, Kind: opLook, Mount: m, Looks: []look{l}})
		if err != nil {
			return text + "; again: " + err.Error()
		}
		s := x.t.compare(m, &l, &rep.Views[0])
		if s == "" {
			s = "as it should be"
		}
		text += fmt.Sprintf("\n        again on %s: %s", mountNames[m], s)
	}
	return text
}

// close closes the handles of a mount, or of all.
func (x *run) close(o *op, m int) error {
	for id := range o.ID + 1 {
		h := x.t.handles[id]
		if h == nil || m >= 0 && h.mount != m {
			continue
		}
		rep, err := x.rig.ask(h.mount, x.bucket, &op{ID: o.ID, Kind: opClose, H: id, Mount: h.mount})
		if err != nil {
			return err
		}
		if rep.Errno != 0 {
			return &mismatch{o, fmt.Sprintf("close of h%d answered %s", id, errText(rep.Errno))}
		}
		delete(x.t.handles, id)
	}
	return nil
}

func (x *run) remount(o *op) error {
	if err := x.close(o, o.Mount); err != nil {
		return err
	}
	if err := x.rig.unmount(o.Mount); err != nil {
		return &mismatch{o, err.Error()}
	}
	x.rig.mount(o.Mount)
	x.tally.count(o, 0)
	return x.checkAll(o, o.Mount)
}

// restart ends the daemon, by a crash if Flags say so: what was closed must be there all the same.
func (x *run) restart(o *op) error {
	if err := x.close(o, -1); err != nil {
		return err
	}
	sig := os.Signal(syscall.SIGTERM)
	if o.Flags != 0 {
		sig = os.Kill
	} else {
		for m := range mounts {
			if err := x.rig.unmount(m); err != nil {
				return &mismatch{o, err.Error()}
			}
		}
	}
	for m, k := range x.rig.kids {
		if k != nil {
			k.end()
			x.rig.kids[m] = nil
		}
	}
	if err := x.rig.stop(sig); err != nil {
		return &mismatch{o, err.Error()}
	}
	x.rig.start()
	x.rig.mountAll()
	x.tally.count(o, 0)
	return x.checkAll(o, x.r.IntN(mounts))
}

// TestModel runs random operations over four mounts and compares each with the model.
func TestModel(t *testing.T) {
	seed, limit := seedOf(t), duration(t)
	r := newRig(t)
	x, err := newRun(r, bucket, seed)
	r.must(err)
	g := &maker{r: rand.New(rand.NewPCG(seed, 1)), t: x.t}
	began := time.Now()
	for part := 1; part <= restarts && err == nil; part++ {
		until := limit * time.Duration(part) / restarts
		for err == nil && time.Since(began) < until {
			err = x.step(g.draw())
		}
		if err == nil {
			g.next++
			err = x.step(&op{ID: g.next, Kind: opRestart, Flags: g.r.IntN(2)})
		}
	}
	if err == nil {
		t.Logf("%d operations in %v. %s. Tolerated: %v", len(x.ops), time.Since(began).Round(time.Second), x.tally, x.quirks)
		return
	}
	t.Errorf("%s=%d, after %d operations: %v", seedEnv, seed, len(x.ops), err)
	t.Logf("the last operations:\n%s", history(x.ops))
	var m *mismatch
	if !errors.As(err, &m) {
		t.Logf("where the children wait:\n%s", r.stacks())
		r.dump()
		return
	}
	shrink(x, seed, m.sort())
}

func history(ops []*op) string {
	var b strings.Builder
	for _, o := range ops[max(len(ops)-shownOps, 0):] {
		b.WriteString(o.String())
		b.WriteByte('\n')
	}
	return b.String()
}
