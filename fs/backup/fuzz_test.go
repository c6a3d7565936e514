package backup

import (
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// vector is the backup in testdata/v1, two snapshots of a volume without files, made by the first version of the format:
// KMSFS_WRITE_VECTOR=1 makes another in an empty directory.
const vector = "testdata/v1"

func vectorKey(t testing.TB) *crypto.DataKey {
	t.Helper()
	b, err := hex.DecodeString(strings.Repeat("42", 32))
	if err != nil {
		t.Fatal(err)
	}
	k, err := crypto.DataKeyFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var vectorStore = [16]byte{0xab, 0xcd}

func plainRows(s kv.Store) *meta.DB { return meta.NewDB(s, crypto.NewDataKey()) }

// TestVector opens what the first version wrote.
func TestVector(t *testing.T) {
	if os.Getenv("KMSFS_WRITE_VECTOR") != "" {
		writeVector(t)
	}
	d, err := Open(vector)
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.List(vectorKey(t), vectorStore)
	if err != nil || len(list) != 2 || list[1].Rows != 1 || list[1].Keys != 2 || list[1].Gone != 1 || list[1].Epoch != 5 {
		t.Fatalf("%+v %v", list, err)
	}
	for n := uint64(1); n <= 2; n++ {
		s, err := d.Snapshot(vectorKey(t), vectorStore, n)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(context.Background(), plainRows, nil); err != nil || string(s.Header()) != "the header" {
			t.Errorf("snapshot %d: %v", n, err)
		}
		if string(s.slots[0].Secret) != strings.Repeat("s", 32) {
			t.Errorf("shred key %q", s.slots[0].Secret)
		}
		s.Close()
	}
}

func writeVector(t *testing.T) {
	rows := memkv.New()
	if err := plainRows(rows).Update(func(tx *meta.Tx) error {
		tx.PutSuper(meta.Super{Version: 1, NextIno: 2, NextExtent: 1, Epoch: 5})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	d, err := OpenForWriting(vector, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, text := range []string{"one", "one, two"} {
		if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		src := Source{
			StoreID: vectorStore, Header: func() ([]byte, error) { return []byte("the header"), nil }, Pin: func() func() { return func() {} },
			Freeze: func() ([]Slot, func(), error) {
				return []Slot{{1, [16]byte{1}, []byte(strings.Repeat("s", 32))}, {2, [16]byte{2}, []byte(strings.Repeat("u", 32))}}, func() {}, nil
			},
			Rows: rows, Typed: plainRows, Position: func() (p extent.Position) { return p },
			Files: func() ([]File, error) { return []File{{"log", log, int64(len(text))}}, nil },
		}
		if _, err := d.Take(context.Background(), vectorKey(t), src, time.Unix(1_795_000_000, 0), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.ForgetKey(vectorKey(t), vectorStore, [16]byte{2}); err != nil {
		t.Fatal(err)
	}
}

// FuzzSnapshot: no bytes make the decoder fail in an untyped way.
func FuzzSnapshot(f *testing.F) {
	b, err := os.ReadFile(filepath.Join(vector, dirSnapshots, "0000000000000001.snap"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(snapMagic))
	k := newKeys(vectorKey(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decode(k, b); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
			t.Fatal(err)
		}
	})
}

// FuzzPack: the same for a pack under any name, and the rows in its chunks.
func FuzzPack(f *testing.F) {
	packs, err := filepath.Glob(filepath.Join(vector, dirPacks, "*"+packSuffix))
	if err != nil || len(packs) == 0 {
		f.Fatal(packs, err)
	}
	for _, p := range packs {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	k := newKeys(vectorKey(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest, ok := b, true; ok && len(rest) > 0; {
			_, _, rest, ok = nextRow(rest)
		}
		dir, ref := t.TempDir(), packRef{ID: make([]byte, 16), Size: int64(len(b))}
		if len(b) >= packHeader {
			copy(ref.ID, b[32:48])
		}
		if len(b) >= packTrailer {
			ref.Index = b[len(b)-40 : len(b)-8]
		}
		if err := errors.Join(os.Mkdir(filepath.Join(dir, dirPacks), 0o700), os.WriteFile(filepath.Join(dir, ref.name()), b, 0o600)); err != nil {
			t.Fatal(err)
		}
		f := &local{path: dir}
		defer func() { _ = f.close() }()
		p, err := openPack(f, map[string]int64{filepath.Base(ref.name()): ref.Size}, k, vectorStore, ref)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		for _, e := range p.index {
			if _, err := p.read(k, e); err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
		}
	})
}
