package fusefs

import (
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTestAwake is what NewAwake gives where there are two processors, with a thread that keeps one awake.
func newTestAwake(t *testing.T) (a *Awake, f *os.File) {
	t.Helper()
	if runtime.NumCPU() < 2 {
		t.Skip("needs two processors: with one there is nothing to keep awake")
	}
	a, f, err := newAwake()
	if err != nil {
		t.Fatal(err)
	}
	if n := a.all.Count(); n < 2 {
		t.Fatalf("this thread may have %d processor", n)
	}
	return a, f
}

// until fails if something does not become true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// TestAwake: the thread runs while somebody asks, on the processor that he is not on; it sleeps when nobody does, and is woken again.
func TestAwake(t *testing.T) {
	a, f := newTestAwake(t)
	defer f.Close()
	go func() { // for as long as this process lives; at the priority of all others, or beside other tests it would hardly ever run
		runtime.LockOSThread()
		t.Error("the thread has ended", keepAwake(a.page))
	}()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test, and what it may not have with it
	var set unix.CPUSet
	for round := range 6 {
		mine := processorOf(a.all, round%2)
		set.Zero()
		set.Set(mine)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			t.Fatal(err)
		}
		until(t, "the thread does not run, or where the client is", func() bool {
			a.beat(uint32(unix.Gettid()))
			kept := a.page.kept.Load()
			return a.page.asleep.Load() == 0 && kept >= 0 && kept != int32(mine)
		})
		until(t, "the thread does not sleep although nobody asks", func() bool { return a.page.asleep.Load() == 1 && a.page.kept.Load() == -1 })
	}
}

// processorOf is the i-th of a set.
func processorOf(set unix.CPUSet, i int) int {
	for cpu := 0; ; cpu++ {
		if set.IsSet(cpu) {
			if i == 0 {
				return cpu
			}
			i--
		}
	}
}

// TestGoesAway: a reader leaves the processor that is kept, and may have all of them afterwards.
func TestGoesAway(t *testing.T) {
	a, f := newTestAwake(t)
	defer f.Close()
	runtime.LockOSThread() // and never unlocked, as in TestAwake
	a.page.asleep.Store(0)
	for i := range 20 {
		kept := processorOf(a.all, i%2)
		a.page.kept.Store(int32(kept))
		until(t, "it stays on the processor that is kept", func() bool { // at once, but the scheduler may bring it back
			var set unix.CPUSet
			set.Set(kept)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				t.Fatal(err)
			}
			a.beat(1)
			if err := unix.SchedGetaffinity(0, &set); err != nil || set != a.all {
				t.Fatalf("afterwards it may have %d processors (%v)", set.Count(), err)
			}
			return processorNow() != int32(kept)
		})
	}
}

// TestWhoKeepsAwake: requests of one thread that come soon are told, those of several are not.
func TestWhoKeepsAwake(t *testing.T) {
	a, f := newTestAwake(t)
	defer f.Close() // and nobody who wakes
	gates := &answers{}
	close(gates.gate(1))
	var looks atomic.Int64
	_, k := newTunedRig(t, gates, func(l *loop) {
		l.awake = a
		l.now = func() time.Duration { return time.Duration(looks.Add(1)) * soon / 4 } // every request comes soon, however slow this machine is
	})
	for i := range uint32(100) {
		k.getattrOf(1+i%2, 1)
		k.hear()
	}
	if n := a.page.beats.Load(); n != 0 {
		t.Errorf("%d requests of two threads are told", n)
	}
	until(t, "no request of one thread is told", func() bool {
		k.getattrOf(7, 1)
		k.hear()
		return a.page.beats.Load() > 0
	})
	if thread := a.page.client.Load(); thread != 7 {
		t.Errorf("the client is said to be thread %d", thread)
	}
}

func TestProcessorIn(t *testing.T) {
	line := "1234 (a b) c) S " + strings.Repeat("0 ", 35) + "17 0 0\n"
	if cpu, ok := processorIn([]byte(line)); !ok || cpu != 17 {
		t.Errorf("%d %v", cpu, ok)
	}
	for _, bad := range []string{"", "1234 (", "1 (x) S 1 2 3", "1 (x) S " + strings.Repeat("0 ", 35) + "-1 0", "1 (x) S " + strings.Repeat("0 ", 35) + "x 0"} {
		if cpu, ok := processorIn([]byte(bad)); ok {
			t.Errorf("%q: %d", bad, cpu)
		}
	}
}

func TestCountOf(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-1": 2, "0,2": 2, "0-3,8-11": 8, "": -1, "1-0": -1, "a": -1, "0-": -1} {
		if n := countOf(list); n != want {
			t.Errorf("%q: %d, not %d", list, n, want)
		}
	}
}
