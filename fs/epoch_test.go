package fs

import (
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// TestEpochClosesEarly lets much room die: the epoch does not go on until its time, which would be in an hour.
func TestEpochClosesEarly(t *testing.T) {
	v, err := Open(Config{KV: memkv.New(), Extents: memextent.New(), Key: crypto.NewDataKey(), EpochEvery: time.Hour, MergeEvery: -1, FlushAfter: -1})
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{}, 8)
	v.OnEpochClosed(func() { closed <- struct{}{} })
	r := &rig{t: t, v: v, keys: map[Ino]Keys{}}
	f := r.create(r.bucket("b"), "f")
	p := make([]byte, 1<<20)
	over := func() {
		for off := int64(0); off < deadMost; off += int64(len(p)) {
			_, err := f.WriteAt(p, off)
			r.ok(err)
		}
		r.ok(f.Flush())
	}
	over()
	select {
	case <-closed:
		t.Error("an epoch was closed in which nothing died")
	default:
	}
	over()
	<-closed // or the test never ends
	r.ok(f.Close())
	r.ok(v.Close())
}
