package badgerkv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"google.golang.org/protobuf/proto"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/kvtest"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
)

// TestTampering damages table files: each is refused at Open, before a goroutine of Badger's can panic over it, or an older version of a
// row whose key was damaged can appear. What is damaged while the store is open is never returned as a wrong value, and Verify finds it.
func TestTampering(t *testing.T) {
	const rows = 2000
	rng := rand.New(rand.NewPCG(kvtest.Seed(t), 6))
	dir, key := t.TempDir(), crypto.NewDataKey()
	opt := tiny()
	opt.Logger = quiet()
	s := sealed.New(openTest(t, dir, opt), key)
	for i := range rows {
		set(t, s, fmt.Sprint(i), fmt.Sprint("value ", i))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(names) == 0 {
		t.Fatal("no tables", err)
	}
	name := names[len(names)-1]
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before := t.TempDir()
	restore := func(to, from string) {
		if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
			t.Fatal(err)
		}
	}
	restore(before, dir)
	refused := 0
	for round := range 60 {
		restore(dir, before)
		b := bytes.Clone(good)
		for _, at := range rng.Perm(len(b))[:1+rng.IntN(10)] { // each place once, so that no change takes back another
			b[at] ^= byte(1 + rng.IntN(255))
		}
		if round%10 == 0 {
			b = b[:rng.IntN(len(b))]
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		engine, err := Open(dir, opt)
		if err != nil {
			if !errors.Is(err, kv.ErrCorrupt) {
				t.Errorf("round %d: Open: %v", round, err)
			}
			refused++
			continue
		}
		t.Errorf("round %d: a damaged table was accepted; Verify: %v", round, engine.Verify())
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
	}
	if refused != 60 {
		t.Errorf("of 60 damaged tables %d were refused", refused)
	}
	restore(dir, before)
	engine := openTest(t, dir, opt)
	if err := engine.Verify(); err != nil {
		t.Error(err)
	}
	damaged := sealed.New(engine, key)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range rng.Perm(len(good) / 2)[:40] {
		if _, err := f.WriteAt([]byte{good[at] ^ byte(1+rng.IntN(255))}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := engine.Verify(); !errors.Is(err, kv.ErrCorrupt) {
		t.Error("Verify of a damaged table: ", err)
	}
	for i := range rows {
		v, err := get(damaged, fmt.Sprint(i))
		if err == nil && string(v) != fmt.Sprint("value ", i) || err != nil && !errors.Is(err, kv.ErrNotFound) && !errors.Is(err, kv.ErrCorrupt) {
			t.Errorf("row %d: %q, %v", i, v, err)
		}
	}
	if err := engine.Close(); err != nil {
		t.Error(err)
	}
}

// TestTableBeingWritten opens a store that was killed while Badger wrote a table: the file is there in part, and the manifest does not
// name it. It must be taken away, not taken for damage.
func TestTableBeingWritten(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{})
	set(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "db", "*.sst"))
	if err != nil || len(names) == 0 {
		t.Fatal("no tables", err)
	}
	whole, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{nil, make([]byte, 100_000), whole[:len(whole)/2], whole} {
		torn := filepath.Join(dir, "db", "000999.sst")
		if err := os.WriteFile(torn, part, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openTest(t, dir, Options{})
		if v, err := get(s, "a"); err != nil || string(v) != "1" {
			t.Errorf("%d bytes: a = %q, %v", len(part), v, err)
		}
		if _, err := os.Stat(torn); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%d bytes: the table is still there: %v", len(part), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// One that the manifest names must be there.
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Logger: quiet()}); !errors.Is(err, kv.ErrCorrupt) {
		t.Errorf("without a table: %v", err)
	}
}

// TestInventory cuts the manifest at every record, puts earlier ones back, and spoils and removes the log of the memory table, of a
// store that was left as a crash leaves it: each is noticed.
func TestInventory(t *testing.T) {
	dir := t.TempDir()
	opt := tiny()
	opt.Logger = quiet()
	manifest := filepath.Join(dir, "db", badger.ManifestFilename)
	var earlier [][]byte
	for i := range 3 { // each Close makes a table
		s := openTest(t, dir, opt)
		set(t, s, "all", fmt.Sprint(i))
		set(t, s, fmt.Sprint(i), "x")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(manifest)
		if err != nil {
			t.Fatal(err)
		}
		earlier = append(earlier, b)
	}
	s := openTest(t, dir, opt)
	for i := range 200 {
		set(t, s, fmt.Sprint("row", i), string(make([]byte, 500)))
	}
	close(s.quit)
	<-s.applierDone
	if err := s.cycle(); err != nil {
		t.Fatal(err)
	}
	left := t.TempDir()
	copyTo := func(to, from string) {
		if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
			t.Fatal(err)
		}
	}
	copyTo(left, dir)
	_ = s.db.Close()
	_ = s.redo.Close()

	logs, err := filepath.Glob(filepath.Join(left, "db", "*.mem"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	mem := filepath.Join(dir, "db", filepath.Base(logs[0]))
	now, err := os.ReadFile(filepath.Join(left, "db", badger.ManifestFilename))
	if err != nil {
		t.Fatal(err)
	}
	opens := func(what string, spoil func() error) error {
		t.Helper()
		copyTo(dir, left)
		if err := spoil(); err != nil {
			t.Fatal(what, err)
		}
		s, err := Open(dir, opt)
		if err == nil {
			for i := range 200 {
				if _, err := get(s, fmt.Sprint("row", i)); err != nil {
					t.Errorf("%s: row %d: %v", what, i, err)
				}
			}
			err = s.Close()
		}
		return err
	}
	for range 3 { // as it is; and again after what that start did
		if err := opens("as it is", func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string, spoil func() error) {
		t.Helper()
		if err := opens(what, spoil); !errors.Is(err, kv.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ends := []int64{0, manifestHeader}
	for end := range manifestChanges(now, manifestHeader) {
		ends = append(ends, end)
	}
	for _, end := range ends[:len(ends)-1] {
		refused(fmt.Sprint("manifest cut at ", end), func() error { return os.Truncate(manifest, end) })
	}
	for i, b := range earlier[:2] {
		refused(fmt.Sprint("manifest of time ", i), func() error { return os.WriteFile(manifest, b, 0o600) })
	}
	refused("without a manifest", func() error { return os.Remove(manifest) })
	refused("without the log", func() error { return os.Remove(mem) })
	refused("the log cut", func() error { return os.Truncate(mem, 3000) })
	refused("the log changed", func() error {
		b, err := os.ReadFile(mem)
		if err == nil {
			b[2000] ^= 1
			err = os.WriteFile(mem, b, 0o600)
		}
		return err
	})
	tables, err := filepath.Glob(filepath.Join(left, "db", "*.sst"))
	if err != nil || len(tables) < 2 {
		t.Fatal(tables, err)
	}
	refused("a table in place of another", func() error {
		b, err := os.ReadFile(tables[0])
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "db", filepath.Base(tables[1])), b, 0o600)
		}
		return err
	})
	// Without the inventory there is nothing to compare, and nothing lost.
	inventory := filepath.Join(dir, "db", inventoryName)
	if err := opens("without the inventory", func() error { return os.Remove(inventory) }); err != nil {
		t.Error(err)
	}
	if err := opens("with a damaged inventory", func() error { return os.WriteFile(inventory, make([]byte, 5000), 0o600) }); err != nil {
		t.Error(err)
	}
	// A manifest that Badger wrote anew is one that begins with tables, some of them new.
	inv := inventory0(t, filepath.Join(left, "db"))
	for _, c := range []struct {
		maxTable uint64
		want     bool
	}{{0, true}, {1 << 40, false}} {
		x := inv
		x.Manifest.CRC++
		x.MaxTable = c.maxTable
		if _, rewritten, err := x.grown(rewritten(t, now)); rewritten != c.want || (err == nil) != c.want {
			t.Errorf("a manifest written anew, tables up to %d before: %v, %v", c.maxTable, rewritten, err)
		}
	}
}

func inventory0(t *testing.T, dir string) inventory {
	t.Helper()
	inv, err := readInventory(dir, quiet())
	if err != nil || inv.Number == 0 {
		t.Fatal(inv, err)
	}
	return inv
}

// rewritten makes a manifest file as Badger writes it anew: all that is left in one record.
func rewritten(t *testing.T, manifest []byte) string {
	t.Helper()
	var all pb.ManifestChangeSet
	for _, c := range manifestChanges(manifest, manifestHeader) {
		all.Changes = append(all.Changes, c...)
	}
	b, err := proto.Marshal(&all)
	if err != nil {
		t.Fatal(err)
	}
	out := binary.BigEndian.AppendUint32(bytes.Clone(manifest[:manifestHeader]), uint32(len(b)))
	out = append(binary.BigEndian.AppendUint32(out, crc32.Checksum(b, castagnoli)), b...)
	name := filepath.Join(t.TempDir(), "MANIFEST")
	if err := os.WriteFile(name, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
