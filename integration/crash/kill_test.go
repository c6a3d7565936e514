package crash

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// profiles of the workload: the longest write, in bytes, and how many operations of the first worker come before the crash at most.
var profiles = []struct {
	name string
	max  int64
	ops  int
}{
	{"mixed", 300_000, 800},
	{"small", 16 << 10, 2500},
	{"large", 3 << 20, 150},
	{"rows", 500, 3000}, // with large attributes: crosses rotations of the redo log and of tables in memory
}

// round is one stretch of work up to a crash.
type round struct {
	seed    uint64
	tasks   []task
	workers []*proc
	reached *os.File // readable, at its end, when the first worker is where the seed wants it
	rnd     *rand.Rand
	beside  string // a directory that was filled after the crash
}

// begin starts the workers of a round.
func (r *rig) begin(seed uint64, power bool) *round {
	r.t.Helper()
	rd := &round{seed: seed, rnd: rand.New(rand.NewPCG(seed, 99))}
	p := profiles[seed%uint64(len(profiles))]
	signal := 20 + rd.rnd.IntN(p.ops)
	reached, signaller, err := os.Pipe()
	if err != nil {
		r.t.Fatal(err)
	}
	rd.reached = reached
	for i := range 2 {
		t := task{
			Role: "worker", Dir: fmt.Sprintf("%s/r%d-w%d", []string{"bucket", limited}[i], seed, i), Journal: filepath.Join(r.dir, fmt.Sprintf("journal-%d-%d", seed, i)),
			Seed: seed, Worker: i, Max: p.max, Power: power, Ops: 20 * p.ops,
		}
		r.wait(r.spawn(task{Role: "mkdir", Dir: t.Dir}), "mkdir", deadline)
		var extra []*os.File
		if i == 0 {
			t.Signal, extra = signal, []*os.File{signaller}
		}
		rd.tasks = append(rd.tasks, t)
		rd.workers = append(rd.workers, r.spawn(t, extra...))
	}
	_ = signaller.Close()
	return rd
}

// moment waits for the moment of the crash.
func (rd *round) moment() {
	_ = rd.reached.SetReadDeadline(time.Now().Add(4 * time.Second)) // the machine may be slow: then it is now
	_, _ = rd.reached.Read(make([]byte, 1))
	_ = rd.reached.Close()
	time.Sleep(time.Duration(rd.rnd.IntN(20_000)) * time.Microsecond) // not synchronisation: anywhere in an operation
}

// ended waits for the workers, none of which may hang on the dead daemon.
func (r *rig) ended(rd *round) {
	r.t.Helper()
	for i, w := range rd.workers {
		r.wait(w, fmt.Sprintf("seed %d: worker %d, after the crash,", rd.seed, i), deadline)
	}
}

// check verifies what a round left.
func (r *rig) check(rd *round) (ops int) {
	r.t.Helper()
	failed := false
	for i, t := range rd.tasks {
		t.Role = "verify"
		out := r.wait(r.spawn(t), "verify", 20*deadline)
		var problems []string
		if err := json.Unmarshal([]byte(out), &problems); err != nil {
			r.fatal("verify said ", out)
		}
		if len(problems) > 0 {
			failed = true
			r.t.Errorf("seed %d, worker %d:\n  %s", rd.seed, i, strings.Join(problems, "\n  "))
		}
		done, _, _, died, err := readJournal(t.Journal)
		if err != nil {
			r.t.Fatal(err)
		}
		ops += len(done)
		if died == "" && len(done) < t.Ops {
			r.t.Errorf("seed %d, worker %d ended on its own after %d operations", rd.seed, i, len(done))
		}
	}
	if failed {
		r.t.Logf("replay with KMSFS_CRASH_SEED=%d", rd.seed)
		r.fatal("promises were broken")
	}
	return ops
}

// TestKill kills the daemon in the middle of random work, again and again on
// the same store. The stories behind it: gocryptfs 804, JuiceFS 5038, CryFS
// 155, SeaweedFS 7499.
func TestKill(t *testing.T) {
	t.Parallel()
	needs(t)
	r := newRig(t, "")
	rounds := envInt(t, "KMSFS_CRASH_ROUNDS", 20)
	seed := uint64(envInt(t, "KMSFS_CRASH_SEED", int(time.Now().UnixNano()/1000%1e9)))
	if os.Getenv("KMSFS_CRASH_SEED") != "" && os.Getenv("KMSFS_CRASH_ROUNDS") == "" {
		rounds = 1
	}
	t.Logf("%d rounds from seed %d", rounds, seed)
	r.start()
	r.wait(r.spawn(task{Role: "limit", Dir: limited}), "limit", deadline)
	ops := 0
	for i := range rounds {
		rd := r.begin(seed+uint64(i), false)
		if i%4 == 2 { // both work beside others
			r.fsck(fmt.Sprint("beside work, seed ", rd.seed))
			r.run("gc")
		}
		rd.moment()
		r.kill()
		r.ended(rd)
		r.unmounted()
		r.start()
		r.after(rd, i)
		ops += r.check(rd)
		if i%4 == 3 {
			r.tidy(rd)
		}
		for _, x := range rd.tasks {
			_ = os.Remove(x.Journal)
		}
	}
	r.finish()
	t.Logf("%d kills, %d operations", rounds, ops)
}

// after looks at the store after the start that follows an unclean stop. The bucket with a quota is counted in the background meanwhile;
// in some rounds files are made in it beside that.
func (r *rig) after(rd *round, i int) {
	r.t.Helper()
	when := fmt.Sprint("seed ", rd.seed)
	if i%2 == 1 {
		rd.beside = fmt.Sprintf("%s/beside-%d", limited, rd.seed)
		r.wait(r.spawn(task{Role: "mkdir", Dir: rd.beside}), "mkdir", deadline)
		out := r.wait(r.spawn(task{Role: "fill", Dir: rd.beside, Seed: rd.seed, Max: 20_000, Ops: 40}), "fill", deadline)
		var f filled
		if err := json.Unmarshal([]byte(out), &f); err != nil || len(f.Files) != 40 {
			r.fatal(when, ": files beside counting: ", err, out)
		}
	}
	r.fsck(when)
	r.counted(when)
}

// tidy removes what a round left.
func (r *rig) tidy(rd *round) {
	r.t.Helper()
	if rd.beside != "" {
		r.wait(r.spawn(task{Role: "remove", Dir: rd.beside}), "remove", 2*deadline)
	}
	for _, x := range rd.tasks {
		r.wait(r.spawn(task{Role: "remove", Dir: x.Dir}), "remove", 2*deadline)
	}
}
