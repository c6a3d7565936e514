package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/check"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/extenttest"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/keystore"
)

// The fault test runs one small workload of two sessions again and again, and each time makes another operation of the rows or of the
// extents fail: once without effect, once after it took effect. Rows fail as badgerkv does: from then on every change is refused until
// the store is opened again. Extents fail once. The error must reach somebody; then the process dies, and what is there after the next
// start must be what was acknowledged, or that with one of the failed steps done.

// faultFile is a file of the model.
type faultFile struct {
	versions []string // what it may hold: the content at its last close or fsync, and since
	attrs    map[string]string
	sure     bool // closed or synced once: it must be there
}

type faultState map[string]*faultFile

func (s faultState) clone() faultState {
	out, seen := faultState{}, map[*faultFile]*faultFile{}
	for name, f := range s {
		if seen[f] == nil {
			seen[f] = &faultFile{slices.Clone(f.versions), maps.Clone(f.attrs), f.sure}
		}
		out[name] = seen[f]
	}
	return out
}

func (f *faultFile) now() string { return f.versions[len(f.versions)-1] }
func (f *faultFile) write(off int, text string) {
	b := []byte(f.now())
	if n := off + len(text); n > len(b) {
		b = append(b, make([]byte, n-len(b))...)
	}
	copy(b[off:], text)
	f.versions = append(f.versions, string(b))
}

func (f *faultFile) settle() { f.versions, f.sure = []string{f.now()}, true }

// faultStep is a call, and what it means. A step whose file could not be opened is left out.
type faultStep struct {
	what  string
	do    func(l *faultLab) error
	means func(s faultState)
	quiet bool // in the background: an error has no caller
}

var errLeftOut = errors.New("left out")

// faultLab is the stores of a run and the volume over them.
type faultLab struct {
	w       *world
	root    *crypto.DataKey
	rows    kv.Store
	extents extent.Store
	kv      *kvtest.Faulty
	ext     *extenttest.Faulty
	plan    func(op string, n int) kvtest.Fault // 0: pass
	failed  bool                                // the rows have failed
	dead    bool
	vol     *fs.Volume
	hub     *Hub
	a, b    *user
	handles map[string]*Handle
	reaper  *gc.Reaper
	log     *slog.Logger
}

func (l *faultLab) decideRows(op kvtest.Op, n int) (kvtest.Fault, error) {
	if (l.dead || l.failed) && op != kvtest.View {
		return kvtest.NotApplied, kv.ErrFailed
	}
	fault := l.plan([]string{"view", "update", "sync", "deferred"}[op], n)
	if fault != kvtest.None && op != kvtest.View && !l.dead {
		l.failed = true
		return fault, kv.ErrFailed
	}
	return fault, nil
}

func (l *faultLab) decideExtents(op extenttest.Op, n int) extenttest.Fault {
	if l.dead && op != extenttest.ReadAt {
		return extenttest.NotApplied
	}
	switch l.plan([]string{"append", "read", "extent sync", "free"}[op], n) {
	case kvtest.NotApplied:
		return extenttest.NotApplied
	case kvtest.Applied:
		return extenttest.Applied
	case kvtest.None:
	}
	return extenttest.Pass
}

func newFaultLab(w *world) *faultLab {
	l := &faultLab{w: w, root: crypto.NewDataKey(), rows: memkv.New(), extents: memextent.New(), log: slog.New(slog.DiscardHandler)}
	l.plan = func(string, int) kvtest.Fault { return kvtest.None }
	l.open()
	return l
}

// open starts as the program does, counting operations from here on.
func (l *faultLab) open() {
	w := l.w
	l.failed, l.dead, l.handles = false, false, map[string]*Handle{}
	l.kv = kvtest.NewFaulty(l.rows, l.decideRows)
	l.ext = extenttest.WithFaults(l.extents, l.decideExtents)
	var err error
	l.vol, err = fs.Open(fs.Config{
		KV: sealed.New(l.kv, l.root.Derive(nil, "rows")), Extents: l.ext, Key: l.root.Derive(nil, "meta"), Clock: time.Now, EpochEvery: -1, MergeEvery: -1, FlushAfter: -1, Log: l.log,
	})
	w.ok(err)
	l.hub = NewHub(HubConfig{Volume: l.vol, Keystore: w.keys, Principals: w.principals, Log: l.log})
	l.a, l.b = l.session("root"), l.session("second")
	l.reaper = gc.Start(l.vol, l.ext, l.log)
}

func (l *faultLab) session(name string) *user {
	s, err := NewSession(SessionConfig{
		Volume: l.vol, Keystore: l.w.keys, Principals: l.w.principals, Principal: name, Hub: l.hub, Clock: time.Now, Log: l.log,
	})
	l.w.ok(err)
	return &user{w: l.w, s: s}
}

// die ends the process: what it would do now has no effect.
func (l *faultLab) die() {
	l.dead = true
	_ = l.close()
}

func (l *faultLab) close() error {
	l.reaper.Close()
	for _, h := range l.handles {
		_ = h.Close()
	}
	err := errors.Join(l.a.s.Close(), l.b.s.Close())
	l.hub.Close()
	return errors.Join(err, l.vol.Close())
}

func (l *faultLab) hold(name string, h *Handle, err error) error {
	if err == nil {
		l.handles[name] = h
	}
	return err
}

// with calls fn with a handle, if the step that should have opened it did.
func with(name string, fn func(h *Handle) error) func(l *faultLab) error {
	return func(l *faultLab) error {
		h := l.handles[name]
		if h == nil {
			return errLeftOut
		}
		return fn(h)
	}
}

func text(seed byte, n int) string {
	return strings.Repeat(string([]byte{'a' + seed, 'A' + seed, '0' + seed%10}), n/3+1)[:n]
}

func faultSteps() []faultStep {
	open := func(who func(l *faultLab) *user, id, p string, flags int) func(l *faultLab) error {
		return func(l *faultLab) error {
			h, err := who(l).open(p, flags)
			return l.hold(id, h, err)
		}
	}
	a, b := func(l *faultLab) *user { return l.a }, func(l *faultLab) *user { return l.b }
	nothing := func(faultState) {}
	on := func(name string, fn func(f *faultFile)) func(faultState) {
		return func(s faultState) {
			if f := s[name]; f != nil {
				fn(f)
			}
		}
	}
	born := func(name string) func(faultState) {
		return func(s faultState) { s[name] = &faultFile{versions: []string{""}, attrs: map[string]string{}} }
	}
	write := func(id, name string, off int, t string) faultStep {
		return faultStep{
			"write " + name, with(id, func(h *Handle) error { _, err := h.WriteAt([]byte(t), int64(off), false); return err }),
			on(name, func(f *faultFile) { f.write(off, t) }), false,
		}
	}
	closed := func(id, name string) []faultStep {
		return []faultStep{
			{"close " + name, with(id, func(h *Handle) error { return h.Flush() }), on(name, (*faultFile).settle), false},
			{"release " + name, func(l *faultLab) error {
				h := l.handles[id]
				if h == nil {
					return errLeftOut
				}
				delete(l.handles, id)
				return h.Close()
			}, nothing, true},
		}
	}
	synced := func(id, name string) faultStep {
		return faultStep{"fsync " + name, with(id, func(h *Handle) error { return h.Sync(false) }), on(name, (*faultFile).settle), false}
	}
	set := func(who func(l *faultLab) *user, p, attr, value string) faultStep {
		return faultStep{
			"set " + attr + " of " + p, func(l *faultLab) error { return who(l).setx(p, attr, value) },
			on(p, func(f *faultFile) { f.attrs[attr] = value; f.sure = true }), false,
		}
	}
	read := func(who func(l *faultLab) *user, p string) faultStep {
		return faultStep{"read " + p, func(l *faultLab) error { _, err := who(l).cat(p); return err }, nothing, false}
	}
	var steps []faultStep
	do := func(more ...faultStep) { steps = append(steps, more...) }
	do(faultStep{"create f", open(a, "f1", "bkt/f", os.O_CREATE|os.O_EXCL|os.O_RDWR), born("bkt/f"), false})
	do(write("f1", "bkt/f", 0, text(1, 30_000)))
	do(closed("f1", "bkt/f")...)
	do(faultStep{"open f to append", open(b, "f2", "bkt/f", os.O_WRONLY|os.O_APPEND), nothing, false})
	do(faultStep{
		"append to f", with("f2", func(h *Handle) error { _, err := h.Append([]byte(text(2, 5000)), false, nil); return err }),
		on("bkt/f", func(f *faultFile) { f.write(len(f.now()), text(2, 5000)) }), false,
	})
	do(synced("f2", "bkt/f"))
	do(closed("f2", "bkt/f")...)
	do(faultStep{"truncate f", func(l *faultLab) error { return l.a.truncate("bkt/f", 7000) }, on("bkt/f", func(f *faultFile) {
		f.versions = append(f.versions, f.now()[:min(7000, len(f.now()))])
		f.settle()
	}), false})
	do(faultStep{"epoch", func(l *faultLab) error { return l.vol.CloseEpoch() }, nothing, true})
	do(faultStep{"create g", open(b, "g1", "bkt/g", os.O_CREATE|os.O_EXCL|os.O_RDWR), born("bkt/g"), false})
	do(write("g1", "bkt/g", 0, text(3, 40_000)), write("g1", "bkt/g", 60_000, text(4, 200)), synced("g1", "bkt/g"))
	do(write("g1", "bkt/g", 20_000, text(5, 15_000)))
	do(closed("g1", "bkt/g")...)
	do(set(b, "bkt/f", "user.x", "1"))
	do(faultStep{"link f h", func(l *faultLab) error { return l.a.link("bkt/f", "bkt/h") }, func(s faultState) {
		if s["bkt/f"] != nil {
			s["bkt/h"] = s["bkt/f"]
		}
	}, false})
	do(read(a, "bkt/g"))
	do(faultStep{"rename g over f", func(l *faultLab) error { return l.b.mv("bkt/g", "bkt/f") }, func(s faultState) {
		if g := s["bkt/g"]; g != nil {
			s["bkt/f"] = g
			delete(s, "bkt/g")
		}
	}, false})
	do(faultStep{"re-key f", func(l *faultLab) error { return l.a.setx("bkt/f", "user.s3.sse", "aws:kms:alias/fault") }, nothing, false})
	do(faultStep{"open f", open(a, "f3", "bkt/f", os.O_RDWR), nothing, false})
	do(write("f3", "bkt/f", 30_000, text(6, 25_000)), synced("f3", "bkt/f"))
	do(closed("f3", "bkt/f")...)
	do(faultStep{"epoch", func(l *faultLab) error { return l.vol.CloseEpoch() }, nothing, true})
	do(faultStep{"reap", func(l *faultLab) error { return l.reaper.Run(context.Background()) }, nothing, true})
	do(faultStep{"unlink h", func(l *faultLab) error { return l.b.rm("bkt/h") }, func(s faultState) { delete(s, "bkt/h") }, false})
	do(faultStep{"mkdir d", func(l *faultLab) error { return l.a.mkdir("bkt/d") }, nothing, false})
	do(read(b, "bkt/f"))
	do(faultStep{"epoch", func(l *faultLab) error { return l.vol.CloseEpoch() }, nothing, true})
	do(faultStep{"reap", func(l *faultLab) error { return l.reaper.Run(context.Background()) }, nothing, true})
	return steps
}

// look compares what sessions show with a state. Files that were never closed or synced may be missing, and hold less.
func (l *faultLab) look(s faultState, afterDeath bool) error {
	u := l.a
	names, err := u.ls("bkt")
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, n := range names {
		if n != "d" {
			there["bkt/"+n] = true
		}
	}
	for name := range there {
		if s[name] == nil {
			return fmt.Errorf("%s should not be there", name)
		}
	}
	for name, f := range s {
		if !there[name] {
			if f.sure || !afterDeath {
				return fmt.Errorf("%s is not there", name)
			}
			continue
		}
		got, err := u.cat(name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if afterDeath && !slices.Contains(f.versions, got) || !afterDeath && got != f.now() {
			return fmt.Errorf("%s holds %d bytes %.20q, which is none of %d versions, of which the last is %d bytes %.20q", name, len(got), got, len(f.versions), len(f.now()), f.now())
		}
		for attr, want := range f.attrs {
			if v, err := u.getx(name, attr); err != nil || v != want {
				return fmt.Errorf("%s of %s is %q (%w), want %q", attr, name, v, err, want)
			}
		}
	}
	return nil
}

// run does the steps and gives the states that are allowed, and how many steps failed.
func (l *faultLab) run() (states []faultState, failed []string) {
	states = []faultState{{}}
	for _, step := range faultSteps() {
		refusedBefore := l.failed
		err := step.do(l)
		if errors.Is(err, errLeftOut) {
			continue
		}
		if err != nil && step.quiet {
			failed = append(failed, step.what)
			continue
		}
		next := states[:0:0]
		for _, s := range states {
			if err == nil {
				step.means(s)
				next = append(next, s)
				continue
			}
			next = append(next, s)
			if refusedBefore {
				continue // it cannot have taken effect
			}
			did := s.clone()
			step.means(did)
			for _, f := range did { // half of it: not settled, whatever it says
				if was := s.find(did, f); was != nil && len(f.versions) < len(was.versions) {
					f.versions = slices.Concat(was.versions, f.versions)
				}
			}
			next = append(next, did)
		}
		states = next
		if err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", step.what, err))
		}
	}
	return states, failed
}

// find gives the file of s that f, of other, was made from.
func (s faultState) find(other faultState, f *faultFile) *faultFile {
	for name, x := range other {
		if x == f {
			return s[name]
		}
	}
	return nil
}

func anyState(l *faultLab, states []faultState, afterDeath bool) error {
	var all []error
	for _, s := range states {
		err := l.look(s, afterDeath)
		if err == nil {
			return nil
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// TestEveryFault is about s3fs 2120 (a refused overwrite that destroys the file), SeaweedFS 4485 (an error of a write that nobody
// returned) and gocryptfs 1024 (shrunk files that come back damaged), too: they would be seen here.
func TestEveryFault(t *testing.T) {
	w := newWorld(t)
	w.user("root", "AdministratorAccess")
	w.user("second", "AdministratorAccess")
	_, err := w.keys.CreateKey(w.call("root"), keystore.CreateKeyInput{Alias: "alias/fault"})
	w.ok(err)
	prepare := func() *faultLab {
		l := newFaultLab(w)
		w.ok(l.a.mkdir("bkt"))
		w.ok(l.close())
		return l
	}
	// Without a fault, to count.
	l := prepare()
	count := map[string]int{}
	l.plan = func(op string, n int) kvtest.Fault { count[op] = n + 1; return kvtest.None }
	l.open()
	opened := maps.Clone(count)
	states, failed := l.run()
	if len(failed) > 0 || len(states) != 1 {
		t.Fatal("without a fault: ", failed)
	}
	total := maps.Clone(count)
	w.ok(anyState(l, states, false))
	l.die()
	l.plan = func(string, int) kvtest.Fault { return kvtest.None }
	l.open()
	w.ok(anyState(l, states, true))
	w.ok(l.close())

	runs, told := 0, 0
	for _, op := range []string{"update", "deferred", "sync", "view", "append", "read", "extent sync", "free"} {
		step := 1
		if op == "view" {
			step = 3
		}
		for n := opened[op]; n < total[op]; n += step {
			for _, fault := range []kvtest.Fault{kvtest.NotApplied, kvtest.Applied} {
				name := fmt.Sprintf("%s %d of %d, %s", op, n, total[op], map[kvtest.Fault]string{kvtest.NotApplied: "not applied", kvtest.Applied: "applied"}[fault])
				l := prepare()
				l.plan = func(o string, i int) kvtest.Fault {
					if o == op && i == n {
						return fault
					}
					return kvtest.None
				}
				l.open()
				states, failed := l.run()
				runs++
				told += min(len(failed), 1)
				if len(failed) == 0 && op != "free" && op != "view" { // what is not freed is found later; not every look is needed
					t.Errorf("%s: nobody was told", name)
				}
				if !l.failed {
					if err := anyState(l, states, false); err != nil {
						t.Errorf("%s: while it runs: %v\nfailed: %v", name, err, failed)
					}
				}
				l.die()
				l.plan = func(string, int) kvtest.Fault { return kvtest.None }
				l.open()
				if err := anyState(l, states, true); err != nil {
					t.Errorf("%s: after the next start: %v\nfailed: %v", name, err, failed)
				}
				rep, err := check.Run(context.Background(), l.vol, l.ext, check.Options{Data: true})
				if err != nil || len(rep.Problems) > 0 {
					t.Errorf("%s: fsck: %v, %+v\nfailed: %v", name, err, rep.Problems, failed)
				}
				w.ok(l.close())
			}
		}
	}
	t.Logf("%d faults (%v), %d told of at once", runs, total, told)
}
