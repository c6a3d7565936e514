package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent/memextent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// toVersion1 makes of the rows of a closed volume what a program of version 1 would have left: an index row for each file.
func (r *rig) toVersion1() {
	r.t.Helper()
	db := meta.NewDB(r.kv, r.key)
	r.ok(r.kv.Update(func(tx kv.Txn) error {
		return tx.Scan([]byte{'K'}, []byte{'L'}, func(k, _ []byte) (bool, error) { tx.Delete(k); return true, nil })
	}))
	var old [][]byte
	r.ok(db.View(func(rd *meta.Reader) error {
		return rd.EachInode(func(ino Ino, n *meta.Inode, err error) error {
			if u, ok := db.KeyUseOf(n); err == nil && ok {
				old = append(old, binary.BigEndian.AppendUint64(append([]byte{'k'}, u.Key[:]...), uint64(ino)))
			}
			return err
		})
	}))
	r.ok(r.kv.Update(func(tx kv.Txn) error {
		for _, k := range old {
			tx.Set(k, []byte{1})
		}
		return nil
	}))
	r.setVersion(1)
}

func (r *rig) setVersion(version uint32) {
	r.t.Helper()
	r.ok(meta.NewDB(r.kv, r.key).Update(func(t *meta.Tx) error {
		s, err := t.Super()
		s.Version = version
		t.PutSuper(s)
		return err
	}))
}

// TestUpgradeFromVersion1 interrupts the upgrade at each of its transactions, as failed and as failed and applied all the same; then it goes
// through and the files are found.
func TestUpgradeFromVersion1(t *testing.T) {
	store := kvtest.NewFaulty(memkv.New(), nil)
	r := newRigWith(t, store, memextent.New())
	b := r.bucket("bucket")
	var under []Ino
	for i := range 80 { // two bites
		f := r.createUnder(b, fmt.Sprint(i), "arn:old")
		f.write(0, []byte("x"))
		f.close()
		under = append(under, f.ino)
		for range 300 { // blocks of their own
			_, err := r.v.NewIno()
			r.ok(err)
		}
	}
	r.ok(r.v.Close())
	r.toVersion1()
	old := func() (n int) {
		r.ok(r.kv.View(func(rd kv.Reader) error {
			return rd.Scan([]byte{'k'}, []byte{'l'}, func(_, _ []byte) (bool, error) { n++; return true, nil })
		}))
		return n
	}
	cfg := Config{KV: r.kv, Extents: r.extents, Key: r.key, Anchor: r.anchor, EpochEvery: -1, MergeEvery: -1, FlushAfter: -1}
	version := func() uint32 {
		var super meta.Super
		r.ok(meta.NewDB(r.kv, r.key).View(func(rd *meta.Reader) (err error) { super, err = rd.Super(); return err }))
		return super.Version
	}
	for at := range 3 {
		for _, fault := range []kvtest.Fault{kvtest.NotApplied, kvtest.Applied} {
			store.Decide(func(op kvtest.Op, n int) (kvtest.Fault, error) {
				if op == kvtest.Update && n == at {
					return fault, nil
				}
				return kvtest.None, nil
			})
			if _, err := Open(cfg); !errors.Is(err, kvtest.ErrInjected) {
				t.Fatalf("failing at %d: %v", at, err)
			}
			want := uint32(1)
			if at == 2 && fault == kvtest.Applied {
				want = superVersion
			}
			if got := version(); got != want || old() != len(under) {
				t.Fatalf("an upgrade interrupted at %d left version %d and %d older rows", at, got, old())
			}
		}
	}
	store.Decide(nil)
	r.open()
	if got := r.underKey("arn:old"); !slices.Equal(got, under) {
		t.Fatalf("after the upgrade the key has files %v, want %v", got, under)
	}
	f := r.openFile(under[3])
	got := make([]byte, 1)
	_, err := f.f.ReadAt(got, 0)
	r.ok(err)
	f.close()
	if string(got) != "x" {
		t.Fatalf("%q", got)
	}
	r.reopen()
	if got := r.underKey("arn:old"); !slices.Equal(got, under) {
		t.Fatalf("opened again: %v", got)
	}
	r.ok(r.v.Close())
	for _, unknown := range []uint32{0, superVersion + 1} {
		r.setVersion(unknown)
		_, err = Open(cfg)
		r.want(ErrVersion, err)
	}
	r.setVersion(2) // whose rows are the same
	r.open()
	if got := r.underKey("arn:old"); version() != superVersion || !slices.Equal(got, under) {
		t.Fatalf("from version 2 to %d, with files %v", version(), got)
	}
}

// TestUpgradeWithADamagedIndex: a row of the older index that cannot be read keeps no store shut, for the inodes know what it said.
func TestUpgradeWithADamagedIndex(t *testing.T) {
	raw := memkv.New()
	r := newRigWith(t, sealed.New(raw, crypto.NewDataKey()), memextent.New())
	b := r.bucket("bucket")
	under := map[string][]Ino{}
	for i := range 300 {
		arn := fmt.Sprintf("arn:%d", i%3)
		f := r.createUnder(b, fmt.Sprint(i), arn)
		f.close()
		under[arn] = append(under[arn], f.ino)
		for range 300 { // blocks of their own
			_, err := r.v.NewIno()
			r.ok(err)
		}
	}
	r.ok(r.v.Close())
	r.toVersion1()
	n := 0
	damaged := func() {
		r.ok(raw.Update(func(tx kv.Txn) error {
			return tx.Scan([]byte{'k'}, []byte{'l'}, func(k, v []byte) (bool, error) {
				if n++; n%100 == 50 {
					tx.Set(slices.Clone(k), append(slices.Clone(v), 0))
				}
				return true, nil
			})
		}))
	}
	damaged()
	if n != 300 {
		t.Fatalf("%d rows of the older index", n)
	}
	r.open()
	for arn, want := range under {
		if got := r.underKey(arn); !slices.Equal(got, want) {
			t.Errorf("%s has %d files, want %d", arn, len(got), len(want))
		}
	}
	r.ok(r.v.Rows().DropFileUses(t.Context()))
	n = 0
	damaged()
	if n != 0 {
		t.Errorf("%d rows of the older index are left", n)
	}
}
