package gc_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// TestIndexOfKeys: what an older index left goes at the first run; what is left of removed files goes when as many were removed, not before.
func TestIndexOfKeys(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, extents := memkv.New(), memextent.New()
	v, err := fs.Open(fs.Config{KV: store, Extents: extents, Key: crypto.NewDataKey(), EpochEvery: -1, MergeEvery: -1, FlushAfter: -1})
	check(err)
	defer func() { check(v.Close()) }()
	b, err := v.Make(fs.RootIno, "bucket", fs.New{Type: fs.Directory, Bucket: &fs.Bucket{}})
	check(err)
	for i := range 3 {
		s := fs.Sealing{Method: fs.SSEKMS, KeyARN: fmt.Sprintf("arn:%d", i), Keys: []fs.FileKey{{Wrapped: []byte("w")}}}
		a, err := v.Make(b.Ino, fmt.Sprint(i), fs.New{Type: fs.Regular, Sealing: s})
		check(err)
		f, err := v.OpenFile(a.Ino, fs.Keys{1: crypto.NewDataKey()}, nil)
		check(err)
		_, err = f.WriteAt([]byte("x"), 0)
		check(err)
		check(f.Close())
	}
	check(store.Update(func(tx kv.Txn) error {
		tx.Set(append([]byte{'k'}, make([]byte, 24)...), []byte{1})
		return nil
	}))
	for _, name := range []string{"0", "1"} {
		_, err := v.Unlink(b.Ino, name)
		check(err)
	}
	check(v.CloseEpoch())
	count := func(kind byte) (n int) {
		t.Helper()
		check(store.View(func(r kv.Reader) error {
			return r.Scan([]byte{kind}, []byte{kind + 1}, func(_, _ []byte) (bool, error) { n++; return true, nil })
		}))
		return n
	}
	r := gc.Start(v, extents, slog.New(slog.DiscardHandler))
	defer r.Close()
	check(r.Run(context.Background()))
	if old, now := count('k'), count('K'); old != 0 || now != 3 {
		t.Fatalf("%d rows of the older index and %d of this one", old, now)
	}
	r.SweepIndexAt(2)
	check(r.Run(context.Background()))
	if now := count('K'); now != 1 {
		t.Fatalf("%d rows where one key has files", now)
	}
}
