package fs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/meta"
)

func (r *rig) quota(bucket Ino, text string) {
	r.t.Helper()
	r.ok(r.v.SetBucket(bucket, func(b *Bucket) error {
		b.Quota = text
		return nil
	}))
}

// wantUsage compares the counters with what a walk finds.
func (r *rig) wantUsage(bucket Ino) {
	r.t.Helper()
	var bytes, inodes uint64
	var walk func(dir Ino)
	walk = func(dir Ino) {
		r.ok(r.v.ReadDir(dir, 0, func(Dirent) bool { return true }))
		var in []Dirent
		r.ok(r.v.ReadDir(dir, 0, func(d Dirent) bool {
			in = append(in, d)
			return true
		}))
		for _, d := range in {
			inodes++
			a, err := r.v.Attr(d.Ino)
			r.ok(err)
			if d.Type == Directory {
				walk(d.Ino)
			} else {
				bytes += a.Size
			}
		}
	}
	walk(bucket)
	gotBytes, gotInodes, _, ok := r.v.Usage(bucket)
	if !ok || gotBytes != bytes || gotInodes != inodes {
		r.t.Errorf("usage: %d bytes, %d inodes (%v), really %d and %d", gotBytes, gotInodes, ok, bytes, inodes)
	}
}

func TestQuota(t *testing.T) {
	r := newRig(t)
	b := r.bucket("quota")
	f := r.create(b, "before")
	_, err := f.WriteAt(make([]byte, 1000), 0)
	r.ok(err)
	r.quota(b, "bytes=5000,inodes=3")
	r.wantUsage(b)
	_, err = f.WriteAt(make([]byte, 4001), 1000)
	r.want(ErrQuota, err)
	_, err = f.WriteAt(make([]byte, 4000), 1000)
	r.ok(err)
	_, err = f.Append([]byte{1})
	r.want(ErrQuota, err)
	r.want(ErrQuota, f.Truncate(5001))
	_, err = f.WriteAt(make([]byte, 5000), 0) // what is there may be overwritten
	r.ok(err)
	r.ok(f.Truncate(10))
	r.wantUsage(b)

	d := r.mkdir(b, "dir")
	g := r.create(d, "two")
	_, err = r.v.Make(b, "three", New{Type: FIFO})
	r.want(ErrQuota, err)
	_, err = g.WriteAt(make([]byte, 4990), 0)
	r.ok(err)
	_, err = r.v.Unlink(d, "two")
	r.ok(err)
	_, err = f.Append([]byte{1}) // the unlinked file is open and still there
	r.want(ErrQuota, err)
	r.ok(g.Close())
	_, err = f.Append([]byte{1})
	r.ok(err)
	r.wantUsage(b)
	st, err := r.v.StatFSOf(d)
	if err != nil || st.Blocks != 2 || st.BlocksAvail != 1 || st.Files != 3 || st.FilesFree != 1 {
		t.Errorf("statfs: %+v %v", st, err)
	}

	before := r.anchor.state
	r.ok(f.Close())
	r.reopen()
	r.wantUsage(b) // from the record
	f = r.file(mustIno(r, b, "before"))
	r.ok(f.Truncate(3))
	r.ok(f.Close())
	r.crash()
	r.settled(b)
	r.wantUsage(b)
	if before.Clean {
		t.Error("the anchor says clean while the volume is open")
	}
	r.quota(b, "")
	if _, _, _, ok := r.v.Usage(b); ok {
		t.Error("counted without a quota")
	}
}

func mustIno(r *rig, parent Ino, name string) Ino {
	a, err := r.v.Lookup(parent, name)
	r.ok(err)
	return a.Ino
}

// crash opens the stores again as a killed daemon leaves them: everything committed, nothing closed.
func (r *rig) crash() {
	r.v.stop()
	r.v.flusher.wait()
	r.v.done.Wait()
	r.open()
}

// settled waits until a bucket is counted.
func (r *rig) settled(bucket Ino) {
	r.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		if u := r.v.quotas.of(bucket); u != nil {
			u.mu.Lock()
			counting := u.counting
			u.mu.Unlock()
			if !counting {
				return
			}
		}
		r.v.quotas.mu.Lock()   // held by who counts
		r.v.quotas.mu.Unlock() //nolint:staticcheck // it is only waited for
	}
	r.t.Fatal("the bucket is never counted")
}

func TestQuotaText(t *testing.T) {
	for text, want := range map[string]Quota{"": {-1, -1}, "bytes=5": {5, -1}, "inodes=0,bytes=1": {1, 0}} {
		if got, err := ParseQuota(text); err != nil || got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"bytes", "bytes=-1", "bytes=1,bytes=2", "files=3", "bytes=99999999999999999999", "bytes=1,"} {
		if _, err := ParseQuota(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestQuotaCountsWhileInUse has a bucket counted again and again while several goroutines change it.
func TestQuotaCountsWhileInUse(t *testing.T) {
	r := newRig(t)
	b := r.bucket("busy")
	for i := range 200 {
		f := r.create(b, fmt.Sprintf("old%d", i))
		_, err := f.WriteAt(make([]byte, i), 0)
		r.ok(err)
		r.ok(f.Close())
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for side := range 3 {
		wg.Go(func() { churn(t, r.v, b, side, stop) })
	}
	for range 30 {
		r.quota(b, "")
		r.quota(b, "bytes=1000000000")
	}
	close(stop)
	wg.Wait()
	r.wantUsage(b)
	r.reopen()
	r.wantUsage(b)
}

// TestSnapshotJudgesOnlyWhatIsAtRest takes snapshots beside work: where it gives counters, they are those of the rows.
func TestSnapshotJudgesOnlyWhatIsAtRest(t *testing.T) {
	r := newRig(t)
	b := r.bucket("busy")
	r.quota(b, "bytes=1000000000")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for side := range 2 {
		wg.Go(func() { churn(t, r.v, b, side, stop) })
	}
	judged := 0
	look := func() {
		r.ok(r.v.Snapshot(func(rd *meta.Reader, counted map[Ino]meta.Usage) error {
			got, ok := counted[b]
			if !ok {
				return nil
			}
			judged++
			var want meta.Usage
			err := rd.EachInode(func(ino Ino, n *meta.Inode, err error) error {
				if n.Bucket == b && ino != b {
					want.Inodes++
					if n.Type == Regular {
						want.Bytes += n.Size
					}
				}
				return err
			})
			if got != want {
				t.Errorf("counted %+v, there is %+v", got, want)
			}
			return err
		}))
	}
	for range 300 {
		look()
	}
	close(stop)
	wg.Wait()
	t.Logf("at rest %d times of 300", judged)
	judged = 0
	look()
	if judged != 1 {
		t.Error("nothing was judged when all was closed")
	}
	r.ok(r.v.RecountQuotas(context.Background()))
	r.wantUsage(b)
	look()
	r.reopen()
	r.wantUsage(b)
}

// churn does anything that changes what a bucket holds, on names of its own.
func churn(t *testing.T, v *Volume, b Ino, side int, stop chan struct{}) {
	testKeys := Keys{1: crypto.NewDataKey()}
	rnd := rand.New(rand.NewPCG(uint64(side), 7))
	sealing := testSealing("")
	type entry struct {
		ino Ino
		f   *File
	}
	files := map[string]*entry{}
	ok := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	for {
		select {
		case <-stop:
			for _, e := range files {
				if e.f != nil {
					ok(e.f.Close())
				}
			}
			return
		default:
		}
		name := fmt.Sprintf("s%d-%d", side, rnd.IntN(20))
		e := files[name]
		if e == nil {
			a, err := v.Make(b, name, New{Type: Regular, Mode: 0o644, Sealing: sealing})
			ok(err)
			files[name] = &entry{ino: a.Ino}
			continue
		}
		if e.f == nil {
			f, err := v.OpenFile(e.ino, testKeys, nil)
			ok(err)
			e.f = f
		}
		switch rnd.IntN(6) {
		case 0, 1:
			_, err := e.f.WriteAt(make([]byte, rnd.IntN(5000)), int64(rnd.IntN(5000)))
			ok(err)
		case 2:
			ok(e.f.Truncate(int64(rnd.IntN(5000))))
		case 3:
			ok(e.f.Close())
			e.f = nil
		case 4:
			_, err := v.Unlink(b, name)
			ok(err)
			ok(e.f.Close())
			delete(files, name)
		case 5:
			other := fmt.Sprintf("s%d-%d", side, rnd.IntN(20))
			_, err := v.Rename(b, name, b, other, 0)
			ok(err)
			if was := files[other]; was != nil && was != e && was.f != nil {
				ok(was.f.Close())
			}
			delete(files, name)
			files[other] = e
		}
	}
}
