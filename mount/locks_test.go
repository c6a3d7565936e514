package mount

import (
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

// lockRig is a lock table with sessions that have nothing but that.
func lockRig(n int) (*Hub, []*Session) {
	hub := &Hub{}
	hub.locks.init()
	var all []*Session
	for range n {
		all = append(all, &Session{hub: hub, ended: make(chan struct{})})
	}
	return hub, all
}

// TestLockTable compares the table with one that remembers for each byte who has it locked how.
func TestLockTable(t *testing.T) {
	const size, owners = 24, 6
	hub, sessions := lockRig(2)
	rnd := rand.New(rand.NewPCG(1, 2))
	var handles []*Handle
	for i := range owners { // two owners share a handle, as after fork
		handles = append(handles, &Handle{s: sessions[i%2], ino: 7})
	}
	var model [owners][size]LockMode
	for range 20000 {
		who := rnd.IntN(owners)
		start := rnd.IntN(size)
		end := start + rnd.IntN(size-start)
		l := Lock{Mode: LockMode(rnd.IntN(3)), Owner: uint64(who / 2), Start: uint64(start), End: uint64(end)}
		free := true
		for o := range owners {
			for at := start; o != who && l.Mode != Unlock && at <= end; at++ {
				m := model[o][at]
				free = free && m != LockWrite && (m == Unlock || l.Mode == LockRead)
			}
		}
		if l.Mode != Unlock {
			if _, found, err := handles[who].GetLock(l); err != nil || found == free {
				t.Fatalf("getlk %+v: found %v, free %v, %v", l, found, free, err)
			}
		}
		err := handles[who].SetLock(nil, l, false)
		if free != (err == nil) || !free && !errors.Is(err, ErrLocked) {
			t.Fatalf("setlk %+v by %d: %v, free %v", l, who, err, free)
		}
		for at := start; free && at <= end; at++ {
			model[who][at] = l.Mode
		}
		if rnd.IntN(200) == 0 {
			who = rnd.IntN(owners)
			handles[who].UnlockOwner(uint64(who / 2))
			model[who] = [size]LockMode{}
		}
	}
	for _, h := range handles {
		h.unlockAll()
	}
	if len(hub.locks.files) != 0 || len(hub.locks.held) != 0 {
		t.Errorf("left: %v %v", hub.locks.files, hub.locks.held)
	}
}

// TestLockWaits ends waits in each way there is.
func TestLockWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sessions := lockRig(2)
		a, b := &Handle{s: sessions[0], ino: 7}, &Handle{s: sessions[1], ino: 7}
		write := Lock{Mode: LockWrite, Owner: 1, End: LockEnd}
		wait := func(cancel chan struct{}) chan error {
			done := make(chan error, 1)
			go func() { done <- b.SetLock(cancel, write, true) }()
			synctest.Wait()
			return done
		}
		want := func(what string, done chan error, target error) {
			t.Helper()
			if err := <-done; !errors.Is(err, target) {
				t.Errorf("%s: %v, want %v", what, err, target)
			}
		}
		if err := a.SetLock(nil, write, true); err != nil {
			t.Fatal(err)
		}
		cancel := make(chan struct{})
		done := wait(cancel)
		close(cancel)
		want("cancelled", done, ErrInterrupted)
		done = wait(nil)
		a.unlockAll()
		want("released", done, nil)
		b.unlockAll()
		if err := a.SetLock(nil, write, true); err != nil {
			t.Fatal(err)
		}
		done = wait(nil)
		sessions[0].Leave()
		want("the other mount goes", done, nil)
		b.unlockAll()
		a.s.ended = make(chan struct{})
		if err := a.SetLock(nil, write, true); err != nil {
			t.Fatal(err)
		}
		done = wait(nil)
		sessions[1].Leave()
		want("the own mount goes", done, ErrInterrupted)
		a.unlockAll()
		if len(hub.locks.files) != 0 || len(hub.locks.held) != 0 || len(hub.locks.waiting) != 0 {
			t.Errorf("left: %v %v %v", hub.locks.files, hub.locks.held, hub.locks.waiting)
		}
	})
}

// TestLockDeadlock closes circles of waits: of two and three owners, over one file and several, on both mounts.
func TestLockDeadlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, sessions := lockRig(2)
		handle := func(owner int, ino Ino) *Handle { return &Handle{s: sessions[owner%2], ino: ino} }
		set := func(owner int, ino Ino, at uint64, mode LockMode, cancel chan struct{}) chan error {
			done := make(chan error, 1)
			go func() {
				done <- handle(owner, ino).SetLock(cancel, Lock{Mode: mode, Owner: uint64(owner), Start: at, End: at}, true)
			}()
			synctest.Wait()
			return done
		}
		want := func(what string, done chan error, target error) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-done:
				if !errors.Is(err, target) {
					t.Errorf("%s: %v, want %v", what, err, target)
				}
			default:
				t.Fatalf("%s waits", what)
			}
		}
		// Three owners in a row over three files: 1 waits for 2, 2 for 3; 3 would close the circle.
		for owner := 1; owner <= 3; owner++ {
			want("the first lock", set(owner, Ino(owner), 0, LockWrite, nil), nil)
		}
		cancel := make(chan struct{})
		first := set(1, 2, 0, LockRead, cancel)
		second := set(2, 3, 0, LockWrite, nil)
		want("the circle of three", set(3, 1, 0, LockWrite, nil), ErrDeadlock)
		if err := handle(3, 1).SetLock(nil, Lock{Mode: LockWrite, Owner: 3}, false); !errors.Is(err, ErrLocked) {
			t.Errorf("without waiting: %v", err)
		}
		// A lock of nobody who waits is waited for, also where others wait in a row.
		want("elsewhere", set(4, 4, 7, LockWrite, nil), nil)
		third := set(3, 4, 7, LockWrite, nil)
		want("the circle is longer now", set(4, 1, 0, LockRead, nil), ErrDeadlock)
		// The circle is open again when one gives up.
		close(cancel)
		want("interrupted", first, ErrInterrupted)
		fourth := set(4, 1, 0, LockRead, nil)
		want("unlock", set(1, 1, 0, Unlock, nil), nil)
		want("granted by that", fourth, nil)
		want("unlock", set(4, 4, 7, Unlock, nil), nil)
		want("granted by that", third, nil)
		want("unlock", set(3, 3, 0, Unlock, nil), nil)
		want("granted by that", second, nil)
		// Two readers of one range who both want to write: the second who asks is refused.
		want("reader", set(1, 9, 0, LockRead, nil), nil)
		want("reader", set(2, 9, 0, LockRead, nil), nil)
		upgrade := set(1, 9, 0, LockWrite, nil)
		want("both upgrade", set(2, 9, 0, LockWrite, nil), ErrDeadlock)
		want("unlock", set(2, 9, 0, Unlock, nil), nil)
		want("the other upgrades", upgrade, nil)
		hub.locks.leave(sessions[0])
		hub.locks.leave(sessions[1])
		if l := &hub.locks; len(l.files) != 0 || len(l.held) != 0 || len(l.waiting) != 0 || len(l.asking) != 0 {
			t.Errorf("left: %v %v %v %v", l.files, l.held, l.waiting, l.asking)
		}
	})
}

func TestLockLimits(t *testing.T) {
	_, sessions := lockRig(1)
	h := &Handle{s: sessions[0], ino: 7}
	for i := range uint64(maxLocks) {
		f := &Handle{s: sessions[0], ino: Ino(100 + i%64)}
		if err := f.SetLock(nil, Lock{Mode: LockRead, Start: 2 * i, End: 2 * i}, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.SetLock(nil, Lock{Mode: LockRead, Start: 1 << 40, End: LockEnd}, false); !errors.Is(err, ErrNoLocks) {
		t.Errorf("one too many: %v", err)
	}
	for _, bad := range []Lock{{Start: 2, End: 1}, {End: LockEnd + 1}, {Mode: 3}, {Kind: lockKinds}} {
		if err := h.SetLock(nil, bad, false); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	h.unlockAll()
}
