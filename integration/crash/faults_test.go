package crash

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// order and count are what the program with faults takes and gives: cmd/kmsfs, faulty_test.go.
type order struct {
	Op      string `json:"op"`
	N       int    `json:"n"`
	Applied bool   `json:"applied"`
	NoSpace bool   `json:"noSpace"`
}

// errno is what the caller of a step is told.
func (o order) errno() int {
	if o.NoSpace {
		return int(syscall.ENOSPC)
	}
	return int(syscall.EIO)
}

type count struct {
	Counts map[string]int `json:"counts"`
	Fired  bool           `json:"fired"`
}

// faultyProgram builds the program whose daemon has I/O errors by order.
func faultyProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(program(t)), "faulty")
	if out, err := exec.Command("go", "test", "-c", "-o", path, "../../cmd/kmsfs").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// giveOrders makes the daemon that is about to start take orders.
func (r *rig) giveOrders() {
	r.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	r.orders, r.theirs = os.NewFile(uintptr(pair[0]), "orders"), os.NewFile(uintptr(pair[1]), "theirs")
	r.daemon.Path, r.daemon.ExtraFiles = r.faulty, []*os.File{r.theirs}
	r.daemon.Env = append(os.Environ(), "KMSFS_FAULTY=1")
}

// started lets go of the daemon's end.
func (r *rig) started() {
	if r.theirs != nil {
		_ = r.theirs.Close()
		r.theirs = nil
	}
}

// order gives an order and returns what was counted since the one before.
func (r *rig) order(o order) (c count) {
	r.t.Helper()
	err := r.orders.SetDeadline(time.Now().Add(deadline))
	if err == nil {
		err = json.NewEncoder(r.orders).Encode(o)
	}
	if err == nil {
		err = json.NewDecoder(r.orders).Decode(&c)
	}
	if err != nil {
		r.fatal("order: ", err)
	}
	return c
}

// TestFaultsThroughMounts makes one operation of the rows or of the extents of a real store fail while a workload goes through its mounts,
// once without effect and once after it took effect, at KMSFS_FAULTS of them drawn by the seed (6), or at each (-1). Rows then refuse
// every change, as they do after an I/O error; of extents only the one fails. The error must reach the caller of some step, as EIO, and
// of no step before; the daemon is killed, and what is there after the next start is what was said.
func TestFaultsThroughMounts(t *testing.T) {
	t.Parallel()
	needs(t)
	r := newRig(t, "")
	r.faulty = faultyProgram(t)
	cases := envInt(t, "KMSFS_FAULTS", 6)
	seed := uint64(envInt(t, "KMSFS_CRASH_SEED", int(time.Now().UnixNano()/1000%1e9)))
	rnd := rand.New(rand.NewPCG(seed, 5))
	r.start()
	r.prepare("count", 1)
	r.order(order{})
	r.steps("count", 1)
	counted := r.order(order{}).Counts
	var all []order
	for _, op := range []string{"update", "deferred", "sync", "append", "extent-sync", "read", "view"} {
		if counted[op] == 0 {
			t.Errorf("the workload has no %s", op)
		}
		step := 1
		if op == "view" {
			step = 5 // looks at the rows: many, and alike
		}
		for n := 0; n < counted[op]; n += step {
			all = append(all, order{Op: op, N: n}, order{Op: op, N: n, Applied: true})
			if op == "update" || op == "deferred" {
				all = append(all, order{Op: op, N: n, NoSpace: true})
			}
		}
	}
	rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if cases >= 0 {
		all = all[:min(cases, len(all))]
	}
	t.Logf("seed %d: %v operations, %d faults", seed, counted, len(all))
	fired, reached := 0, 0
	for i, o := range all {
		set, n := fmt.Sprintf("f%d", i), uint64(10+i)
		r.prepare(set, n)
		r.order(o)
		results := r.steps(set, n)
		c := r.order(order{})
		failed := 0
		for step, x := range results {
			if x.Call == "" {
				continue
			}
			if failed++; x.Errno != o.errno() {
				t.Errorf("%+v, step %s: %v", o, step, x)
			}
		}
		if c.Fired {
			fired++
		}
		if failed > 0 {
			reached++
		}
		if c.Fired && failed == 0 && (o.Op == "update" && !o.NoSpace || o.Op == "append") {
			t.Errorf("%+v: nobody was told", o)
		}
		if !c.Fired && failed > 0 {
			t.Errorf("%+v: %d steps failed though nothing did", o, failed)
		}
		r.kill()
		r.unmounted()
		r.start()
		r.inspect(set, n, results)
		if i%8 == 7 {
			r.fsck(fmt.Sprintf("%+v", o))
		}
	}
	if cases != 0 && fired < len(all)/2 {
		t.Errorf("of %d faults %d came about", len(all), fired)
	}
	r.finish()
	t.Logf("%d faults, %d of them told to the caller of a step", fired, reached)
}
