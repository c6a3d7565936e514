package keystore

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
)

func (w *world) shredBytes() []byte {
	w.t.Helper()
	b, err := os.ReadFile(w.shredPath())
	must(w.t, err)
	return b
}

// TestDeletionShreds: with the root key, and with copies of every document from before the deletion, a deleted key's material
// cannot be unwrapped, because what it was wrapped under is gone from the file.
func TestDeletionShreds(t *testing.T) {
	w := newWorld(t)
	arn, other := w.key("default"), w.key("default")
	dk, wrapped := w.generate(w.admin(), arn, payContext)
	otherKey, otherWrapped := w.generate(w.admin(), other, payContext)
	rec := w.find1(arn).clone()
	before := w.shredBytes()
	slot := before[slotOffset(rec.Slot):][:slotSize]
	secret := bytes.Clone(slot[24:slotSigned])

	// The copies suffice while the slot is there.
	id, _ := parseKeyID(rec.ID)
	mid, err := parseMaterialID(rec.Materials[0].ID)
	must(t, err)
	open := func() error {
		s, err := openShred(w.shredPath(), w.root, false)
		if err != nil {
			return err
		}
		defer s.close()
		wrapping, err := s.wrapping(w.root, rec.Slot, id)
		if err != nil {
			return err
		}
		_, err = openMaterial(wrapping, id, mid, rec.Materials[0].Wrapped)
		return err
	}
	must(t, open())

	_, err = w.ScheduleKeyDeletion(w.admin(), arn, 7)
	must(t, err)
	if !bytes.Contains(w.shredBytes(), secret) {
		t.Fatal("gone before its time")
	}
	w.clock.Advance(7 * day)
	must(t, w.Settle())
	after := w.shredBytes()
	if bytes.Contains(after, secret) || bytes.Contains(after, id[:]) || !zero(after[slotOffset(rec.Slot):][:slotSize]) {
		t.Fatal("the shred key is still in the file")
	}
	if err := open(); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("the material still opens: %v", err)
	}
	wants(t, second(w.Decrypt(w.admin(), wrapped, payContext)), CodeNotFound, "*")
	got, err := w.Decrypt(w.admin(), otherWrapped, payContext)
	must(t, err)
	if !got.Equal(otherKey) {
		t.Error("another key was harmed")
	}
	_ = dk
	w.reopen()
	_, err = w.Decrypt(w.admin(), otherWrapped, payContext)
	must(t, err)
	w.key("default") // takes the free slot
	if w.find1(w.key("default")).Slot == rec.Slot {
		t.Log("slot reused later")
	}
	if info, _ := os.Stat(w.shredPath()); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// TestDerivedKeysGo: what was derived from a key's material to wrap and to open stays as long as the material, and goes with it: when imported material is
// deleted, when the key is, and when the service is closed.
func TestDerivedKeysGo(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	use := func(arn string) {
		t.Helper()
		dk, wrapped := w.generate(c, arn, payContext)
		dk.Wipe()
		again, err := w.Decrypt(c, wrapped, payContext)
		must(t, err)
		again.Wipe()
	}
	gone := func(what string, before, want int) {
		t.Helper()
		if n := before - crypto.LiveKeys(); n != want {
			t.Errorf("%s: %d keys less in memory, not %d", what, n, want)
		}
	}
	imported, deleted, rotated := external1(t, w), w.key("default"), w.key("default")
	w.imports(imported, bytes.Repeat([]byte{7}, 32), time.Time{})
	must(t, w.RotateKeyOnDemand(c, rotated))
	for _, arn := range []string{imported, deleted, rotated} {
		before := crypto.LiveKeys()
		use(arn)
		gone("using a key", before, -1) // the wrapping key
		use(arn)
		gone("using it again", before, -1)
	}
	before := crypto.LiveKeys()
	_, _, err := w.DeleteImportedKeyMaterial(c, imported)
	must(t, err)
	gone("imported material deleted", before, 2)
	_, err = w.ScheduleKeyDeletion(c, deleted, 7)
	must(t, err)
	w.clock.Advance(7 * day)
	before = crypto.LiveKeys()
	must(t, w.Settle())
	gone("a key deleted", before, 2)
	w.reopen()
	before = crypto.LiveKeys()
	must(t, w.Close())
	unused := before - crypto.LiveKeys()
	w.open()
	use(rotated)
	before = crypto.LiveKeys()
	must(t, w.Close())
	gone("the service closed", before, unused+1)
}

// TestInterruptedDeletion: the documents went, the slot stayed; the next Open overwrites it. And an interrupted creation the same.
func TestInterruptedDeletion(t *testing.T) {
	w := newWorld(t)
	w.key("default")
	id := newKeyID()
	slot, err := w.shred.add(id)
	must(t, err)
	secret := bytes.Clone(w.shredBytes()[slotOffset(slot)+24:][:32])
	w.reopen()
	if bytes.Contains(w.shredBytes(), secret) {
		t.Error("the orphan slot is still there")
	}
}

func TestManySlots(t *testing.T) {
	w := newWorld(t)
	seen := map[uint32]bool{}
	for range 3 * slotsPerStep {
		seen[w.find1(w.key("default")).Slot] = true
	}
	if len(seen) != 3*slotsPerStep {
		t.Errorf("%d slots", len(seen))
	}
	w.reopen()
	keys, err := w.ListKeys(w.admin())
	must(t, err)
	if len(keys) != 3*slotsPerStep {
		t.Errorf("%d keys", len(keys))
	}
}

func TestDamagedShredFileRefused(t *testing.T) {
	w := newWorld(t)
	one, two := w.find1(w.key("default")).Slot, w.find1(w.key("default")).Slot
	must(t, w.Close())
	whole := w.shredBytes()
	o1, o2 := slotOffset(one), slotOffset(two)
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"magic":         {func(b []byte) []byte { b[0] ^= 1; return b }, ErrCorrupt},
		"version":       {func(b []byte) []byte { b[9] = 9; return b }, ErrVersion},
		"flags":         {func(b []byte) []byte { b[11] = 9; return b }, ErrVersion},
		"header mac":    {func(b []byte) []byte { b[20] ^= 1; return b }, ErrCorrupt},
		"header filler": {func(b []byte) []byte { b[4000] ^= 1; return b }, ErrCorrupt},
		"shred key":     {func(b []byte) []byte { b[o1+30] ^= 1; return b }, ErrCorrupt},
		"key id":        {func(b []byte) []byte { b[o1+10] ^= 1; return b }, ErrCorrupt},
		"slot mac":      {func(b []byte) []byte { b[o1+60] ^= 1; return b }, ErrCorrupt},
		"slot filler":   {func(b []byte) []byte { b[o1+100] ^= 1; return b }, ErrCorrupt},
		"free slot":     {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, ErrCorrupt},
		"zeroed slot":   {func(b []byte) []byte { clear(b[o1 : o1+slotSize]); return b }, ErrCorrupt},
		"swapped slots": {func(b []byte) []byte {
			x := bytes.Clone(b[o1 : o1+slotSize])
			copy(b[o1:], b[o2:o2+slotSize])
			copy(b[o2:], x)
			return b
		}, ErrCorrupt},
		"cut":   {func(b []byte) []byte { return b[:shredHeader] }, ErrCorrupt},
		"odd":   {func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt},
		"empty": {func([]byte) []byte { return nil }, ErrCorrupt},
	} {
		must(t, os.WriteFile(w.shredPath(), c.change(bytes.Clone(whole)), 0o600))
		if err := w.tryOpen(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, os.Remove(w.shredPath()))
	if err := w.tryOpen(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("missing: %v", err)
	}
	if _, err := os.Stat(w.shredPath()); err == nil {
		t.Error("a missing shred file was made anew")
	}
	must(t, os.WriteFile(w.shredPath(), whole, 0o600))
	root := w.root
	w.root = crypto.NewDataKey()
	if err := w.tryOpen(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another root key: %v", err)
	}
	w.root = root
	w.open()
}

func TestDamagedDocumentsRefused(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	must(t, w.CreateAlias(w.admin(), "alias/a", arn))
	id := w.find1(arn).ID
	must(t, w.Close())
	l, err := ledger.Open(sealed.New(w.disk, w.rows), w.rows)
	must(t, err)
	good, _ := l.Get(kindKey, id)
	put := func(kind byte, id string, doc []byte) {
		must(t, l.Update(func(tx *ledger.Tx) error {
			if doc == nil {
				tx.Delete(kind, id)
			} else {
				tx.Put(kind, id, doc)
			}
			return nil
		}))
	}
	for name, c := range map[string]struct {
		old, new string
		want     error
	}{
		"format":         {`"format":1`, `"format":2`, ErrVersion},
		"unknown field":  {`"format":1`, `"format":1,"new":true`, ErrCorrupt},
		"state":          {`"Enabled"`, `"Happy"`, ErrCorrupt},
		"manager":        {`"CUSTOMER"`, `"NOBODY"`, ErrCorrupt},
		"policy":         {`kms:*`, `kms`, ErrCorrupt},
		"material":       {`"wrapped":"`, `"wrapped":"AAAA`, ErrCorrupt},
		"no material":    {`"materials":[`, `"materials":[],"x":[`, ErrCorrupt},
		"not JSON":       {`{"format"`, `"format"`, ErrCorrupt},
		"id of another":  {`"id":"` + id, `"id":"` + newKeyID().String(), ErrCorrupt},
		"slot not there": {`"slot":`, `"slot":99`, ErrCorrupt},
	} {
		changed := bytes.Replace(good, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(changed, good) {
			t.Fatalf("%s: nothing changed", name)
		}
		put(kindKey, id, changed)
		if err := w.tryOpen(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	put(kindKey, id, good)
	for name, doc := range map[string]struct {
		kind byte
		id   string
		doc  string
	}{
		"alias without key": {kindAlias, "alias/b", `{"format":1,"target":"` + newKeyID().String() + `","created":"2026-01-01T00:00:00Z","updated":"2026-01-01T00:00:00Z"}`},
		"alias rubbish":     {kindAlias, "alias/b", `{}`},
		"grant without key": {kindGrant, newKeyID().String() + "/x", `{"format":1,"id":"x"}`},
		"tombstone rubbish": {kindDeleted, "x", `{"format":1}`},
	} {
		put(doc.kind, doc.id, []byte(doc.doc))
		if err := w.tryOpen(); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v", name, err)
		}
		put(doc.kind, doc.id, nil)
	}
	w.open()
}

// TestLostRowRefused: a document that was taken from below the ledger is noticed.
func TestLostRowRefused(t *testing.T) {
	w := newWorld(t)
	w.key("default")
	must(t, w.Close())
	var victim []byte
	must(t, w.disk.View(func(r kv.Reader) error {
		return r.Scan([]byte{'L', kindKey}, []byte{'L', kindKey + 1}, func(k, _ []byte) (bool, error) {
			victim = bytes.Clone(k)
			return false, nil
		})
	}))
	if victim == nil {
		t.Fatal("no row found")
	}
	must(t, w.disk.Update(func(tx kv.Txn) error { tx.Delete(victim); return nil }))
	if err := w.tryOpen(); !errors.Is(err, kv.ErrCorrupt) {
		t.Errorf("opened: %v", err)
	}
	w.disk = newDisk()
	must(t, os.Remove(w.shredPath()))
	w.open()
}

func FuzzSlot(f *testing.F) {
	root := crypto.NewDataKey()
	s := &shredFile{macKey: root.Derive(nil, shredInfo)}
	f.Add(uint32(0), make([]byte, slotSize))
	f.Add(uint32(1), append([]byte{1}, make([]byte, slotSize-1)...))
	f.Add(uint32(1), []byte("short"))
	f.Fuzz(func(t *testing.T, index uint32, b []byte) {
		id, _, err := s.parseSlot(index, b)
		if err == nil && (id != keyID{} || !zero(b)) {
			t.Fatal("a forged slot was taken")
		}
	})
}

func FuzzReference(f *testing.F) {
	s := &Service{account: testAccount, region: testRegion, arnPrefix: "arn:aws:kms:us-east-1:111122223333:"}
	for _, ref := range []string{"alias/x", "00000000-0000-4000-8000-000000000000", "arn:aws:kms:us-east-1:111122223333:key/x", "arn:::::", ""} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		r, err := s.parseReference(ref)
		if err == nil && r.alias == "" && !bytes.HasSuffix([]byte(ref), []byte(r.id.String())) {
			t.Fatalf("%q names %s", ref, r.id)
		}
	})
}

func FuzzGrantToken(f *testing.F) {
	s := &Service{tokens: crypto.NewDataKey()}
	f.Add("")
	f.Add("AAAA")
	// What another store gave out, of both versions.
	other := &Service{tokens: crypto.NewDataKey()}
	f.Add(other.grantToken(newKeyID(), strings.Repeat("5a", 32)))
	f.Add(base64.RawURLEncoding.EncodeToString(append([]byte{1}, make([]byte, tokenNames-1+tokenTag)...)))
	f.Fuzz(func(t *testing.T, token string) {
		if _, _, err := s.parseGrantToken(token); err == nil {
			t.Fatalf("forged token %q", token)
		}
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"format":1,"id":"x"}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, doc := range []any{new(record), new(aliasRecord), new(grantRecord), new(tombstone)} {
			_ = decode(b, doc)
		}
	})
}
