package mount

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// generous is far more than anything here takes, on any machine.
const generous = 30 * time.Second

// TestOneDoesNotStarveAnother has one principal take all that he can get, and another go on with his work.
func TestOneDoesNotStarveAnother(t *testing.T) {
	r := newWorld(t)
	r.user("admin", "AdministratorAccess")
	r.user("greedy", "AmazonS3FullAccess")
	r.user("modest", "AmazonS3FullAccess")
	r.ok(r.as("admin").mkdir("shared"))
	greedy, modest := r.as("greedy").s, r.as("modest").s
	dir, err := modest.Lookup(Caller{}, RootIno, "shared")
	r.ok(err)
	b := dir.Ino
	work := func(when string) {
		t.Helper()
		began := time.Now()
		for i := range 20 {
			name := fmt.Sprintf("m%d", i)
			_, h, err := modest.Create(Caller{}, b, name, 0o644, OpenFlags{Read: true, Write: true})
			if err != nil {
				t.Fatalf("%s: create: %v", when, err)
			}
			if _, err := h.WriteAt([]byte("modest"), 0, false); err != nil {
				t.Fatalf("%s: write: %v", when, err)
			}
			if err := h.SetLock(nil, Lock{Mode: LockWrite, End: 10}, false); err != nil {
				t.Fatalf("%s: lock: %v", when, err)
			}
			if err := errors.Join(h.Sync(false), h.Close(), modest.Unlink(Caller{}, b, name)); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		if took := time.Since(began); took > generous {
			t.Errorf("%s: the other's work took %v", when, took)
		}
	}

	// Open files.
	greedy.maxHandles = 1000
	_, first, err := greedy.Create(Caller{}, b, "g", 0o644, OpenFlags{Read: true, Write: true})
	r.ok(err)
	held := []*Handle{first}
	for {
		h, err := greedy.Open(Caller{}, first.Ino(), OpenFlags{Read: true})
		if errors.Is(err, ErrTooMany) {
			break
		}
		r.ok(err)
		held = append(held, h)
	}
	if len(held) != 1000 {
		t.Errorf("%d files could be opened", len(held))
	}
	if _, _, err := greedy.Create(Caller{}, b, "more", 0o644, OpenFlags{Write: true}); !errors.Is(err, ErrTooMany) {
		t.Errorf("create: %v", err)
	}
	if _, _, err := greedy.Tmpfile(Caller{}, b, 0o600, OpenFlags{Write: true}); !errors.Is(err, ErrTooMany) {
		t.Errorf("tmpfile: %v", err)
	}
	more := r.as("greedy").s // another mount of his
	more.maxHandles = greedy.maxHandles
	if _, err := more.Open(Caller{}, first.Ino(), OpenFlags{Read: true}); !errors.Is(err, ErrTooMany) {
		t.Errorf("through another mount: %v", err)
	}
	work("no file left to open")
	for _, h := range held[1:] {
		r.ok(h.Close())
	}

	// Locks: each other byte, so that nothing joins.
	for i := uint64(0); ; i++ {
		err := first.SetLock(nil, Lock{Mode: LockWrite, Owner: 1, Start: 2 * i, End: 2 * i}, false)
		if errors.Is(err, ErrNoLocks) {
			if i != maxLocks {
				t.Errorf("%d locks", i)
			}
			break
		}
		r.ok(err)
	}
	work("no lock left")
	first.UnlockOwner(1)

	// Unsealed data: more than all files together may have in memory.
	chunk := make([]byte, 1<<20)
	var dirty []*Handle
	for i := range 24 {
		_, h, err := greedy.Create(Caller{}, b, fmt.Sprintf("g%d", i), 0o644, OpenFlags{Write: true})
		r.ok(err)
		for j := range 16 {
			_, err := h.WriteAt(chunk, int64(j)<<20, false)
			r.ok(err)
		}
		dirty = append(dirty, h)
		if i%8 == 7 {
			work(fmt.Sprintf("%d MiB written and not closed", 16*(i+1)))
		}
	}
	for _, h := range append(dirty, first) {
		r.ok(h.Close())
	}
}
