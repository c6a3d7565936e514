package keystore

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// holding is a caller with one identity policy.
func holding(t *testing.T, name, text string) *Call {
	t.Helper()
	doc, err := policy.Parse(policy.IdentityPolicy, []byte(text))
	must(t, err)
	c := as(t, name, "")
	c.Who.Policies = []policy.Named{{Name: "p", Document: doc}}
	return c
}

func (w *world) exported(ref string) *Escrow {
	w.t.Helper()
	e, err := w.ExportKey(w.admin(), ref)
	must(w.t, err)
	// What is kept is the encoding.
	b, err := json.Marshal(e)
	must(w.t, err)
	e.Wipe()
	out := new(Escrow)
	must(w.t, json.Unmarshal(b, out))
	return out
}

// TestEscrowBringsADeletedKeyBack: a key with three materials is exported, deleted, and imported; everything under it opens again.
func TestEscrowBringsADeletedKeyBack(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	m, err := w.CreateKey(c, CreateKeyInput{Description: "pay", Tags: []Tag{{"team", "pay"}}})
	must(t, err)
	var wrapped []crypto.WrappedKey
	var plain [][]byte
	for range 3 {
		dk, blob := w.generate(c, m.ARN, payContext)
		wrapped, plain = append(wrapped, blob), append(plain, slices.Clone(dk.Expose()))
		w.clock.Advance(time.Hour)
		must(t, w.RotateKeyOnDemand(c, m.ARN))
	}
	opens := func() {
		t.Helper()
		for i, blob := range wrapped {
			dk, err := w.Decrypt(c, blob, payContext)
			must(t, err)
			if !bytes.Equal(dk.Expose(), plain[i]) {
				t.Errorf("generation %d opens as something else", i)
			}
		}
	}
	e := w.exported(m.ARN)
	if len(e.Materials) != 4 || e.KeyID != m.KeyID || e.ARN != m.ARN || e.Description != "pay" {
		t.Fatalf("%+v", e)
	}
	if got, err := w.ImportKey(c, e, nil); err != nil || got.Made || got.Materials != 0 {
		t.Errorf("import of what is there: %+v %v", got, err)
	}
	_, err = w.ScheduleKeyDeletion(c, m.ARN, 7)
	must(t, err)
	if _, err = w.ImportKey(c, e, nil); Code(err) != CodeInvalidState {
		t.Errorf("import while it is pending deletion: %v", err)
	}
	w.clock.Advance(8 * day)
	must(t, w.Settle())
	if _, err := w.Decrypt(c, wrapped[0], payContext); Code(err) != CodeNotFound {
		t.Fatalf("the deleted key: %v", err)
	}
	got, err := w.ImportKey(c, e, nil)
	must(t, err)
	if !got.Made || got.Materials != 4 || got.State != Enabled || got.ARN != m.ARN || got.Description != "pay" || !got.Created.Equal(m.Created) {
		t.Errorf("%+v", got)
	}
	opens()
	w.reopen()
	opens()
	if now, err := w.DescribeKey(c, m.ARN); err != nil || now.CurrentMaterialID != e.Materials[3].ID {
		t.Errorf("%+v %v", now, err)
	}
	for name, n := range map[string]int{"ExportKeyMaterial": 1, "ImportKey": 3} {
		if got := len(w.events(auditName(name))); got != n {
			t.Errorf("%d events %s, want %d", got, name, n)
		}
	}
}

// TestEscrowIntoAnotherStore: with another root key, and a newer material there than in escrow, and one in escrow that is not there.
func TestEscrowIntoAnotherStore(t *testing.T) {
	w, v := newWorld(t), newWorld(t)
	c := w.admin()
	m, err := w.CreateKey(c, CreateKeyInput{})
	must(t, err)
	_, first := w.generate(c, m.ARN, payContext)
	old := w.exported(m.ARN)
	w.clock.Advance(time.Hour)
	must(t, w.RotateKeyOnDemand(c, m.ARN))
	_, second := w.generate(c, m.ARN, payContext)
	both := w.exported(m.ARN)
	got, err := v.ImportKey(v.admin(), old, nil)
	must(t, err)
	if !got.Made || got.Materials != 1 {
		t.Errorf("%+v", got)
	}
	if _, err := v.Decrypt(v.admin(), second, payContext); Code(err) != CodeInvalidCiphertext {
		t.Errorf("a material that is not there: %v", err)
	}
	if got, err = v.ImportKey(v.admin(), both, nil); err != nil || got.Made || got.Materials != 1 || got.CurrentMaterialID != both.Materials[1].ID {
		t.Errorf("%+v %v", got, err)
	}
	v.reopen()
	for _, blob := range []crypto.WrappedKey{first, second} {
		if _, err := v.Decrypt(v.admin(), blob, payContext); err != nil {
			t.Error(err)
		}
	}
	// The older escrow takes nothing away.
	if got, err = v.ImportKey(v.admin(), old, nil); err != nil || got.Materials != 0 || got.CurrentMaterialID != both.Materials[1].ID {
		t.Errorf("%+v %v", got, err)
	}
	wrong := *both
	wrong.Materials = slices.Clone(both.Materials)
	wrong.Materials[0].Secret = bytes.Repeat([]byte{1}, 32)
	if _, err := v.ImportKey(v.admin(), &wrong, nil); Code(err) != CodeIncorrectKeyMaterial {
		t.Errorf("other bytes under the same id: %v", err)
	}
}

func TestEscrowOfImportedMaterial(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	arn := external1(t, w)
	if _, err := w.ExportKey(c, arn); Code(err) != CodeInvalidState {
		t.Errorf("without material: %v", err)
	}
	w.imports(arn, bytes.Repeat([]byte{7}, 32), time.Time{})
	_, blob := w.generate(c, arn, payContext)
	e := w.exported(arn)
	_, _, err := w.DeleteImportedKeyMaterial(c, arn)
	must(t, err)
	if _, err := w.Decrypt(c, blob, payContext); Code(err) != CodeInvalidState {
		t.Errorf("without material: %v", err)
	}
	if got, err := w.ImportKey(c, e, nil); err != nil || got.Materials != 1 || got.State != Enabled {
		t.Fatalf("%+v %v", got, err)
	}
	w.reopen()
	if _, err := w.Decrypt(c, blob, payContext); err != nil {
		t.Error(err)
	}
	v := newWorld(t)
	if got, err := v.ImportKey(v.admin(), e, nil); err != nil || !got.Made || got.Origin != originExternal {
		t.Fatalf("%+v %v", got, err)
	}
	v.reopen()
	if _, err := v.Decrypt(v.admin(), blob, payContext); err != nil {
		t.Error(err)
	}
}

// TestEscrowGate: who may use or manage a key may not have it out for that alone.
func TestEscrowGate(t *testing.T) {
	w := newWorld(t)
	m, err := w.CreateKey(w.admin(), CreateKeyInput{})
	must(t, err)
	all := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}`
	use := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["kms:Decrypt","kms:Encrypt","kms:GenerateDataKey*","kms:DescribeKey","kms:Get*","kms:List*","kms:Put*","kms:Create*"],"Resource":"*"}}`
	named := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["kms:ExportKeyMaterial","kms:ImportKeyMaterial"],"Resource":"` + m.ARN + `"}}`
	none := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`
	for _, x := range []struct {
		name, identity, keyPolicy string
		export, add               bool
	}{
		{"by identity, delegated", all, "", true, true},
		{"by its name alone", named, "", true, true},
		{"user of the key", use, "", false, false},
		{"nobody", none, "", false, false},
		{"the key policy alone is not enough", none, `"Allow","Principal":{"AWS":"` + userARN("eve") + `"},"Action":"kms:*"`, false, false},
		{"the key policy forbids it", all, `"Deny","Principal":"*","Action":["kms:ExportKeyMaterial","kms:ImportKeyMaterial"]`, false, false},
	} {
		key := m.ARN
		if x.keyPolicy != "" {
			text := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + testAccount + `:root"},"Action":"kms:*","Resource":"*"},{"Effect":` + x.keyPolicy + `,"Resource":"*"}]}`
			made, err := w.CreateKey(w.admin(), CreateKeyInput{Policy: []byte(text)})
			must(t, err)
			key = made.ARN
		}
		e, err := w.ExportKey(holding(t, "eve", x.identity), key)
		if (err == nil) != x.export || err != nil && (Code(err) != CodeAccessDenied || e != nil) {
			t.Errorf("%s: export %v", x.name, err)
		}
		if last := w.last(); last.EventName != "ExportKeyMaterial" || (last.ErrorCode == "") != x.export || last.UserIdentity.UserName != "eve" {
			t.Errorf("%s: the log says %+v", x.name, last)
		}
		if x.keyPolicy != "" {
			continue // the administrator may not have it out either
		}
		if _, err := w.ImportKey(holding(t, "eve", x.identity), w.exported(m.ARN), nil); (err == nil) != x.add || err != nil && Code(err) != CodeAccessDenied {
			t.Errorf("%s: import %v", x.name, err)
		}
	}
	// A key that is not there asks for kms:CreateKey as well.
	e := w.exported(m.ARN)
	v := newWorld(t)
	if _, err := v.ImportKey(holding(t, "eve", named), e, nil); Code(err) != CodeAccessDenied {
		t.Errorf("a new key without kms:CreateKey: %v", err)
	}
	if _, err := v.ImportKey(holding(t, "eve", all), e, nil); err != nil {
		t.Error(err)
	}
	managed, err := w.ManagedS3Key()
	must(t, err)
	if _, err := w.ExportKey(w.admin(), managed); Code(err) != CodeAccessDenied && Code(err) != CodeUnsupportedOperation {
		t.Errorf("alias/aws/s3: %v", err)
	}
	for _, ev := range w.events(auditName("ExportKeyMaterial")) {
		b, err := json.Marshal(ev)
		must(t, err)
		for _, m := range e.Materials {
			enc, _ := json.Marshal(m.Secret)
			if bytes.Contains(b, enc[1:40]) {
				t.Error("material in the audit log")
			}
		}
	}
}

func TestEscrowIsChecked(t *testing.T) {
	w := newWorld(t)
	m, err := w.CreateKey(w.admin(), CreateKeyInput{})
	must(t, err)
	for name, spoil := range map[string]func(e *Escrow){
		"kind":          func(e *Escrow) { e.Kind = "x" },
		"format":        func(e *Escrow) { e.Format = 2 },
		"key id":        func(e *Escrow) { e.KeyID = "nonsense" },
		"origin":        func(e *Escrow) { e.Origin = "AWS_CLOUDHSM" },
		"other account": func(e *Escrow) { e.ARN = "arn:aws:kms:us-east-1:999999999999:key/" + e.KeyID },
		"no material":   func(e *Escrow) { e.Materials = nil },
		"short":         func(e *Escrow) { e.Materials[0].Secret = e.Materials[0].Secret[:31] },
		"material id":   func(e *Escrow) { e.Materials[0].ID = "zz" },
		"twice":         func(e *Escrow) { e.Materials = append(e.Materials, e.Materials[0]) },
		"policy":        func(e *Escrow) { e.KeyID, e.Policy = newKeyID().String(), "{}" },
	} {
		e := w.exported(m.ARN)
		spoil(e)
		if name == "policy" {
			id, _ := parseKeyID(e.KeyID)
			e.ARN = w.keyARN(id)
		}
		if _, err := w.ImportKey(w.admin(), e, nil); Code(err) != CodeValidation && Code(err) != CodeUnsupportedOperation && Code(err) != CodeMalformedPolicy {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A policy of the importer's own, for a key whose policy names who is not here.
	e := w.exported(m.ARN)
	id := newKeyID()
	e.KeyID, e.ARN = id.String(), w.keyARN(id)
	e.Policy = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":{"AWS":"` + userARN("gone") + `"},"Action":"kms:*","Resource":"*"}}`
	w.known = newDirectory()
	w.reopen()
	if _, err := w.ImportKey(w.admin(), e, nil); Code(err) != CodeMalformedPolicy {
		t.Errorf("a policy with unknown principals: %v", err)
	}
	if got, err := w.ImportKey(w.admin(), e, policy.DefaultKeyPolicy(testAccount)); err != nil || !got.Made {
		t.Errorf("with another policy: %v", err)
	}
	if _, err := w.ImportKey(w.admin(), e, policy.DefaultKeyPolicy(testAccount)); Code(err) != CodeValidation {
		t.Errorf("a policy for a key that is there: %v", err)
	}
}

// TestEscrowNamesPrincipals: a policy in escrow has names, which mean those who have them where the key is imported.
func TestEscrowNamesPrincipals(t *testing.T) {
	w, there := peopled(t)
	m, err := w.CreateKey(w.admin(), CreateKeyInput{Users: []string{userARN("alice")}})
	must(t, err)
	_, blob := w.generate(there.as(t, "alice", "none"), m.ARN, payContext)
	e := w.exported(m.ARN)
	v, here := peopled(t)
	here.again("alice")
	if _, err := v.ImportKey(v.admin(), e, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Decrypt(here.as(t, "alice", "none"), blob, payContext); err != nil {
		t.Error(err)
	}
	if _, err := v.Decrypt(here.as(t, "bob", "none"), blob, payContext); Code(err) != CodeAccessDenied {
		t.Errorf("bob: %v", err)
	}
}

// TestCopyOfShredKeys: what Freeze gives makes the same slot file, and without one of them a key is lost, which must be accepted.
func TestCopyOfShredKeys(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	keep, lose := w.key("root"), w.key("root")
	_, blob := w.generate(c, keep, payContext)
	_, gone := w.generate(c, lose, payContext)
	must(t, w.CreateAlias(c, "alias/lose", lose))
	slots, thaw, err := w.Freeze()
	must(t, err)
	done := make(chan error)
	go func() { done <- w.DisableKey(c, keep) }()
	select {
	case <-done:
		t.Error("a key changed while it was frozen")
	case <-time.After(20 * time.Millisecond):
	}
	thaw()
	thaw() // twice does no harm
	must(t, <-done)
	must(t, w.EnableKey(c, keep))
	must(t, w.Close())
	must(t, os.Remove(w.shredPath()))
	root := w.root
	must(t, WriteShred(w.shredPath(), root, slots))
	if err := WriteShred(w.shredPath(), root, slots); err == nil {
		t.Error("a slot file was overwritten")
	}
	w.open()
	if _, err := w.Decrypt(c, blob, payContext); err != nil {
		t.Fatal(err)
	}
	if dk, err := w.Inspect(gone, payContext); err != nil || dk == nil {
		t.Fatal(err)
	}
	must(t, w.Close())
	must(t, os.Remove(w.shredPath()))
	for i := range slots {
		if w.keyARN(keyID(slots[i].Owner)) == lose {
			slots[i].Secret = nil
		}
	}
	must(t, WriteShred(w.shredPath(), root, slots))
	if err := w.tryOpen(); err == nil {
		t.Fatal("a store that lacks a shred key opens")
	}
	w.acceptLost = true
	w.open()
	if got := w.Lost(); !slices.Equal(got, []string{lose}) {
		t.Errorf("lost %v", got)
	}
	if _, err := w.Decrypt(c, gone, payContext); Code(err) != CodeNotFound {
		t.Errorf("the lost key: %v", err)
	}
	if _, err := w.Decrypt(c, blob, payContext); err != nil {
		t.Error(err)
	}
	w.acceptLost = false
	w.reopen()
	if _, err := w.Inspect(gone, payContext); err == nil {
		t.Error("the lost key opens")
	}
}
