package host

import (
	"context"
	"encoding/json"
	"testing"
)

// fakeKeeper finds nothing.
type fakeKeeper struct{}

func (fakeKeeper) Fsck(_ context.Context, a FsckArgs, progress func(any) error) (json.RawMessage, error) {
	if err := progress(map[string]string{"phase": "rows"}); err != nil {
		return nil, err
	}
	return json.Marshal(a)
}

func (fakeKeeper) Held(context.Context) (Held, error) {
	return Held{Live: 3, Dead: 2, Metadata: 1}, nil
}

func (fakeKeeper) Collect(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{}`), nil
}

// TestRepairNeedsEverythingUnmounted: what repair changes would not be seen by the kernels that know it.
func TestRepairNeedsEverythingUnmounted(t *testing.T) {
	r := newRig(t, true)
	if _, resp := r.do(uidOwner, "", CmdMount, MountArgs{Dir: t.TempDir()}); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	if _, resp := r.do(uidOwner, "", CmdFsck, FsckArgs{Repair: true}); resp.Error == nil {
		t.Fatal("repaired under a mount")
	}
	items, resp := r.do(uidOwner, "", CmdFsck, FsckArgs{Data: true})
	if resp.Error != nil || len(items) != 1 || string(resp.Result) != `{"data":true}` {
		t.Fatalf("%v %+v", items, resp)
	}
}

func (fakeKeeper) Backup(_ context.Context, a BackupArgs, _ BackupAsk, _ func(any) error) (json.RawMessage, error) {
	return json.Marshal(a)
}
