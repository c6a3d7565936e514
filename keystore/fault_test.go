package keystore

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// faultyDisk fails commits: not applied, or applied and reported failed.
type faultyDisk struct {
	kv.Store
	fail    atomic.Bool // the keeper of key states writes at times of its own
	applied bool
}

var errDisk = errors.New("input/output error")

func (f *faultyDisk) Update(fn func(kv.Txn) error) error {
	if f.fail.Load() && !f.applied {
		return errDisk
	}
	return f.Store.Update(fn)
}

func (f *faultyDisk) Sync() error {
	if f.fail.Load() {
		return errDisk
	}
	return f.Store.Sync()
}

// TestFailedCommits: every change fails once, in both ways, and works when it is repeated; and nothing else is harmed, neither in
// the running service nor after reopening.
func TestFailedCommits(t *testing.T) {
	for _, applied := range []bool{false, true} {
		for name, change := range map[string]func(w *world, arn string) error{
			"create":  func(w *world, _ string) error { return second(w.CreateKey(w.admin(), CreateKeyInput{})) },
			"disable": func(w *world, arn string) error { return w.DisableKey(w.admin(), arn) },
			"policy": func(w *world, arn string) error {
				return w.PutKeyPolicy(w.admin(), arn, testVectors(w.t).KeyPolicies["direct"], true)
			},
			"alias":    func(w *world, arn string) error { return w.CreateAlias(w.admin(), "alias/new", arn) },
			"move":     func(w *world, arn string) error { return w.UpdateAlias(w.admin(), "alias/a", w.other) },
			"unalias":  func(w *world, arn string) error { return w.DeleteAlias(w.admin(), "alias/a") },
			"rotate":   func(w *world, arn string) error { return w.RotateKeyOnDemand(w.admin(), arn) },
			"schedule": func(w *world, arn string) error { return second(w.ScheduleKeyDeletion(w.admin(), arn, 7)) },
			"managed":  func(w *world, arn string) error { return second(w.ManagedS3Key()) },
			"grant": func(w *world, arn string) error {
				return third(w.CreateGrant(w.admin(), arn, CreateGrantInput{Grantee: userARN("bob"), Operations: []string{"Decrypt"}, Name: "n"}))
			},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				must(t, w.Close())
				disk := &faultyDisk{Store: newDisk(), applied: applied}
				w.disk = disk
				must(t, os.Remove(w.shredPath()))
				w.open()
				arn := w.key("default")
				w.other = w.key("default")
				must(t, w.CreateAlias(w.admin(), "alias/a", arn))
				_, wrapped := w.generate(w.admin(), w.other, nil)
				disk.fail.Store(true)
				if err := change(w, arn); Code(err) != CodeInternal || !errors.Is(err, errDisk) {
					t.Fatalf("on a failing disk: %v", err)
				}
				if e := w.last(); name != "managed" && e.ErrorCode != CodeInternal {
					t.Errorf("event %s %q", e.EventName, e.ErrorCode)
				}
				disk.fail.Store(false)
				must(t, change(w, arn))
				_, err := w.Decrypt(w.admin(), wrapped, nil)
				must(t, err)
				w.reopen()
				_, err = w.Decrypt(w.admin(), wrapped, nil)
				must(t, err)
				if name == "disable" && w.find1(arn).State != Disabled {
					t.Error("the change is lost")
				}
			})
		}
	}
}

// TestFailedDeletion: a key whose time is over is gone for its users even while the disk refuses to forget it.
func TestFailedDeletion(t *testing.T) {
	for _, applied := range []bool{false, true} {
		w := newWorld(t)
		must(t, w.Close())
		disk := &faultyDisk{Store: newDisk(), applied: applied}
		w.disk = disk
		must(t, os.Remove(w.shredPath()))
		w.open()
		arn := w.key("default")
		slot := w.find1(arn).Slot
		_, wrapped := w.generate(w.admin(), arn, nil)
		must(t, second(w.ScheduleKeyDeletion(w.admin(), arn, 7)))
		disk.fail.Store(true) // first: the timer may look at the clock late, and be the one who deletes
		w.clock.Advance(7 * day)
		wants(t, second(w.Decrypt(w.admin(), wrapped, nil)), CodeNotFound, "*")
		if err := w.CancelKeyDeletion(w.admin(), arn); err == nil {
			t.Error("cancelled after its time")
		}
		if err := w.Settle(); !errors.Is(err, errDisk) {
			t.Errorf("settled: %v", err)
		}
		disk.fail.Store(false)
		must(t, w.Settle())
		if !zero(w.shredBytes()[slotOffset(slot):][:slotSize]) {
			t.Error("the slot is still there")
		}
		w.reopen()
		wants(t, second(w.Resolve(arn)), CodeNotFound, "*")
	}
}
