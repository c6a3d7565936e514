package keystore

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// put sets a key's state behind the back of the operations: for the states that no operation can reach yet.
func (w *world) put(arn string, st State) {
	w.t.Helper()
	k, _, err := w.find(arn, false)
	must(w.t, err)
	w.manage.Lock()
	defer w.manage.Unlock()
	ch := w.changing(nil, k, k.snapshot())
	ch.rec.State = st
	if st == PendingDeletion {
		ch.rec.DeleteAt, ch.rec.Window = w.clock.Now().Add(7*day), 7
	}
	ch.rec.Origin = originAWS
	if st == PendingImport {
		ch.rec.Origin = originExternal
	}
	must(w.t, ch.commit())
}

// doing is every operation of the state table, on a key that has a wrapped key, an alias and a grant.
func doing(w *world, c *Call, arn string, wrapped []byte, grantID, otherAlias string) map[string]func() error {
	return map[string]func() error{
		"Encrypt":         func() error { _, _, err := w.Encrypt(c, arn, []byte("x"), nil); return err },
		"Decrypt":         func() error { _, err := w.Decrypt(c, wrapped, payContext); return err },
		"GenerateDataKey": func() error { _, _, _, err := w.GenerateDataKey(c, arn, nil); return err },
		"GenerateDataKeyWithoutPlaintext": func() error {
			_, _, err := w.GenerateDataKeyWithoutPlaintext(c, arn, nil)
			return err
		},
		"ReEncrypt":        func() error { _, _, err := w.ReEncrypt(c, wrapped, payContext, arn, nil); return err },
		"DescribeKey":      func() error { _, err := w.DescribeKey(c, arn); return err },
		"GetKeyPolicy":     func() error { _, err := w.GetKeyPolicy(c, arn); return err },
		"PutKeyPolicy":     func() error { return w.PutKeyPolicy(c, arn, testVectors(w.t).KeyPolicies["default"], false) },
		"ListKeyPolicies":  func() error { _, err := w.ListKeyPolicies(c, arn); return err },
		"ListAliases":      func() error { _, err := w.ListAliases(c, arn); return err },
		"ListGrants":       func() error { _, err := w.ListGrants(c, arn, "", ""); return err },
		"ListResourceTags": func() error { _, err := w.ListResourceTags(c, arn); return err },
		"RetireGrant": func() error {
			return w.RetireGrant(&Call{Who: who(w.t, "arn:aws:iam::"+testAccount+":root", "none")}, "", arn, grantID)
		},
		"RevokeGrant":              func() error { return w.RevokeGrant(c, arn, grantID) },
		"DeleteAlias":              func() error { return w.DeleteAlias(c, "alias/mine") },
		"CreateAlias":              func() error { return w.CreateAlias(c, "alias/new", arn) },
		"UpdateAlias(destination)": func() error { return w.UpdateAlias(c, otherAlias, arn) },
		"UpdateAlias(source)":      func() error { return w.UpdateAlias(c, "alias/mine", w.other) },
		"CreateGrant": func() error {
			_, _, err := w.CreateGrant(c, arn, CreateGrantInput{Grantee: userARN("bob"), Operations: []string{"Decrypt"}})
			return err
		},
		"TagResource":          func() error { return w.TagResource(c, arn, []Tag{{"a", "b"}}) },
		"UntagResource":        func() error { return w.UntagResource(c, arn, []string{"a"}) },
		"UpdateKeyDescription": func() error { return w.UpdateKeyDescription(c, arn, "new") },
		"EnableKey":            func() error { return w.EnableKey(c, arn) },
		"DisableKey":           func() error { return w.DisableKey(c, arn) },
		"ScheduleKeyDeletion":  func() error { _, err := w.ScheduleKeyDeletion(c, arn, 7); return err },
		"CancelKeyDeletion":    func() error { return w.CancelKeyDeletion(c, arn) },
		"EnableKeyRotation":    func() error { return w.EnableKeyRotation(c, arn, 0) },
		"DisableKeyRotation":   func() error { return w.DisableKeyRotation(c, arn) },
		"GetKeyRotationStatus": func() error { _, err := w.GetKeyRotationStatus(c, arn); return err },
	}
}

func TestStateTable(t *testing.T) {
	table := testVectors(t).StateTable
	for op, row := range table {
		for state, cell := range row {
			t.Run(op+"/"+state, func(t *testing.T) {
				w := newWorld(t)
				c := w.admin()
				arn := w.key("default")
				w.other = w.key("default")
				must(t, w.CreateAlias(c, "alias/mine", arn))
				must(t, w.CreateAlias(c, "alias/other", w.other))
				_, wrapped := w.generate(c, arn, payContext)
				grantID, _, err := w.CreateGrant(c, arn, CreateGrantInput{Grantee: userARN("bob"), Operations: []string{"Decrypt"}})
				must(t, err)
				w.put(arn, State(state))
				ops := doing(w, c, arn, wrapped, grantID, "alias/other")
				if ops[op] == nil {
					t.Fatalf("no such operation")
				}
				before := w.find1(arn).State
				got := ops[op]()
				code, message := expectation(t, cell)
				if strings.Contains(message, "depends on") {
					message = "*"
				}
				wants(t, got, code, strings.ReplaceAll(message, "<arn>", arn))
				if code != "" && w.find1(arn).State != before {
					t.Errorf("a refused call changed the state to %s", w.find1(arn).State)
				}
			})
		}
	}
	if len(table) < 29 {
		t.Errorf("only %d operations in the table", len(table))
	}
}

// find1 is a key's record.
func (w *world) find1(arn string) *record {
	w.t.Helper()
	k, _, err := w.find(arn, false)
	must(w.t, err)
	return k.snapshot().rec
}

func expectation(t *testing.T, cell json.RawMessage) (code, message string) {
	t.Helper()
	var pair []string
	if err := json.Unmarshal(cell, &pair); err != nil {
		return "", ""
	}
	return pair[0], pair[1]
}

// TestStatesAndAuthorization are the rows S1 to S12.
func TestStatesAndAuthorization(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	alice, bob := viaS3(t, "alice", "none"), viaS3(t, "bob", "s3full")
	keyadmin := as(t, "keyadmin", "none")
	first, wrapped := w.generate(alice, arn, payContext)
	decrypt := func(c *Call) error { _, err := w.Decrypt(c, wrapped, payContext); return err }
	generate := func(c *Call) error { _, _, _, err := w.GenerateDataKey(c, arn, payContext); return err }

	must(t, w.DisableKey(keyadmin, arn))
	t.Run("S1", func(t *testing.T) { wants(t, decrypt(alice), CodeDisabled, arn+" is disabled.") })
	t.Run("S2", func(t *testing.T) { wants(t, decrypt(bob), CodeAccessDenied, "*") })
	must(t, w.EnableKey(keyadmin, arn))
	_, _, err := w.CreateGrant(w.admin(), arn, CreateGrantInput{Grantee: userARN("bob"), Operations: []string{"Decrypt"}})
	must(t, err)
	must(t, decrypt(bob))
	must(t, w.DisableKey(keyadmin, arn))
	t.Run("S4", func(t *testing.T) { wants(t, decrypt(bob), CodeDisabled, arn+" is disabled.") })
	t.Run("S9", func(t *testing.T) {
		c := w.admin()
		must(t, w.PutKeyPolicy(c, arn, testVectors(t).KeyPolicies["console"], false))
		must(t, w.TagResource(c, arn, []Tag{{"k", "v"}}))
	})
	at, err := w.ScheduleKeyDeletion(keyadmin, arn, 0)
	must(t, err)
	if want := w.clock.Now().Add(30 * day); !at.Equal(want) {
		t.Errorf("deletion at %v, want %v", at, want)
	}
	t.Run("S3", func(t *testing.T) {
		wants(t, decrypt(alice), CodeInvalidState, arn+" is pending deletion.")
		wants(t, generate(alice), CodeInvalidState, arn+" is pending deletion.")
	})
	t.Run("S7", func(t *testing.T) {
		wants(t, w.EnableKey(keyadmin, arn), CodeInvalidState, arn+" is pending deletion.")
	})
	t.Run("S5", func(t *testing.T) {
		must(t, w.CancelKeyDeletion(keyadmin, arn))
		wants(t, decrypt(alice), CodeDisabled, arn+" is disabled.")
	})
	must(t, w.EnableKey(keyadmin, arn))
	t.Run("S6", func(t *testing.T) {
		wants(t, w.CancelKeyDeletion(keyadmin, arn), CodeInvalidState, arn+" is not pending deletion.")
	})
	t.Run("S8", func(t *testing.T) {
		w.put(arn, PendingImport)
		wants(t, generate(alice), CodeInvalidState, arn+" is pending import.")
		w.put(arn, Enabled)
	})
	t.Run("S12", func(t *testing.T) {
		_, err := w.Decrypt(alice, wrapped, map[string]string{"aws:s3:arn": "arn:aws:s3:::pay/other"})
		wants(t, err, CodeInvalidCiphertext, "")
		_, err = w.Decrypt(alice, wrapped, nil)
		wants(t, err, CodeInvalidCiphertext, "")
	})
	t.Run("S11", func(t *testing.T) {
		id, err := w.MaterialID(wrapped)
		must(t, err)
		must(t, w.RotateKeyOnDemand(w.admin(), arn))
		must(t, w.RotateKeyOnDemand(w.admin(), arn))
		got, err := w.DecryptBytes(alice, wrapped, payContext, "")
		must(t, err)
		if string(got.Plaintext) != string(first.Expose()) || got.MaterialID != id || got.KeyARN != arn {
			t.Errorf("decrypted with material %s, want %s", got.MaterialID, id)
		}
		_, fresh := w.generate(alice, arn, payContext)
		if now, _ := w.MaterialID(fresh); now == id {
			t.Error("the new data key was wrapped under the old material")
		}
	})
	t.Run("S10", func(t *testing.T) {
		_, err := w.ScheduleKeyDeletion(keyadmin, arn, 7)
		must(t, err)
		w.clock.Advance(7*day - time.Second)
		wants(t, decrypt(alice), CodeInvalidState, arn+" is pending deletion.")
		w.clock.Advance(time.Second)
		wants(t, decrypt(alice), CodeNotFound, "Key '"+arn+"' does not exist")
		wants(t, generate(alice), CodeNotFound, "Key '"+arn+"' does not exist")
		wants(t, decrypt(bob), CodeAccessDenied, "*") // his grant is gone, and nothing else allowed him
		wants(t, decrypt(viaS3(t, "other", "admin")), CodeNotFound, "Key '"+arn+"' does not exist")
		wants(t, w.CancelKeyDeletion(keyadmin, arn), CodeNotFound, "*")
	})
}

// TestRotationStates: the rows that the shared table leaves out.
func TestRotationStates(t *testing.T) {
	for state, want := range map[State][2]string{
		Enabled:         {},
		Disabled:        {CodeDisabled, "<arn> is disabled."},
		PendingDeletion: {CodeInvalidState, "<arn> is pending deletion."},
		PendingImport:   {CodeInvalidState, "<arn> is pending import."},
		Unavailable:     {CodeInvalidState, "<arn> is unavailable."},
	} {
		w := newWorld(t)
		arn := w.key("default")
		w.put(arn, state)
		wants(t, w.RotateKeyOnDemand(w.admin(), arn), want[0], strings.ReplaceAll(want[1], "<arn>", arn))
		_, err := w.ListKeyRotations(w.admin(), arn, true)
		must(t, err)
	}
}

func TestWindowLimits(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	for _, days := range []int{-1, 1, 6, 31} {
		_, err := w.ScheduleKeyDeletion(w.admin(), arn, days)
		wants(t, err, CodeValidation, "*")
	}
	if w.find1(arn).State != Enabled {
		t.Error("a refused call changed the state")
	}
}

// TestDeletionTakesEverything: material, aliases, grants and policy are gone, also from the ledger.
func TestDeletionTakesEverything(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	must(t, w.CreateAlias(w.admin(), "alias/doomed", arn))
	_, _, err := w.CreateGrant(w.admin(), arn, CreateGrantInput{Grantee: userARN("bob"), Operations: []string{"Decrypt"}})
	must(t, err)
	_, err = w.ScheduleKeyDeletion(w.admin(), arn, 7)
	must(t, err)
	w.clock.Advance(8 * day)
	must(t, w.Settle())
	for _, kind := range []byte{kindAlias, kindGrant} {
		must(t, w.ledger.Each(kind, func(id string, _ []byte) error { t.Errorf("document %q is still there", id); return nil }))
	}
	must(t, w.ledger.Each(kindKey, func(id string, _ []byte) error {
		if strings.HasSuffix(arn, id) {
			t.Error("the key's document is still there")
		}
		return nil
	}))
	keys, err := w.ListKeys(w.admin())
	must(t, err)
	if len(keys) != 0 {
		t.Errorf("still listed: %+v", keys)
	}
	_, err = w.GetKeyPolicy(w.admin(), arn)
	wants(t, err, CodeNotFound, "*")
	_, err = w.Resolve("alias/doomed")
	wants(t, err, CodeNotFound, "*")
	_, err = w.Resolve(arn)
	wants(t, err, CodeNotFound, "*")
	must(t, w.CreateAlias(w.admin(), "alias/doomed", w.key("default"))) // the name is free again
	e := w.events(auditName("DeleteKey"))
	if len(e) != 1 || e[0].EventType != "AwsServiceEvent" || e[0].Resources[0].ARN != arn {
		t.Errorf("events: %+v", e)
	}
	w.reopen()
	_, err = w.Resolve(arn)
	wants(t, err, CodeNotFound, "Key '"+arn+"' does not exist")
}
