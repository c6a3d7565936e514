package keystore

import (
	"encoding/base64"
	"encoding/hex"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

func TestCreateKey(t *testing.T) {
	w := newWorld(t)
	m, err := w.CreateKey(w.admin(), CreateKeyInput{Description: "test key 123", Alias: "alias/my-key"})
	must(t, err)
	if m.State != Enabled || !m.Enabled || m.Manager != CustomerManager || m.Origin != "AWS_KMS" || m.Description != "test key 123" ||
		len(m.CurrentMaterialID) != 64 || m.ARN != "arn:aws:kms:us-east-1:111122223333:key/"+m.KeyID || len(m.Aliases) != 1 {
		t.Errorf("%+v", m)
	}
	text, err := w.GetKeyPolicy(w.admin(), m.KeyID)
	must(t, err)
	if string(text) != string(policy.DefaultKeyPolicy(testAccount)) {
		t.Errorf("policy %s", text)
	}
	d, err := w.DescribeKey(w.admin(), "alias/my-key")
	must(t, err)
	if d.ARN != m.ARN {
		t.Error("another key")
	}
	wants(t, second(w.CreateKey(as(t, "bob", "s3full"), CreateKeyInput{})), CodeAccessDenied, "*")
	wants(t, second(w.CreateKey(w.admin(), CreateKeyInput{Alias: "alias/my-key"})), CodeAlreadyExists, "*")
	wants(t, second(w.CreateKey(w.admin(), CreateKeyInput{KeySpec: "RSA_2048"})), CodeUnsupportedOperation, "*")
	wants(t, second(w.CreateKey(w.admin(), CreateKeyInput{Origin: "AWS_CLOUDHSM"})), CodeUnsupportedOperation, "*")
	wants(t, second(w.CreateKey(w.admin(), CreateKeyInput{Description: strings.Repeat("x", 8193)})), CodeValidation, "*")
	wants(t, second(w.CreateKey(w.admin(), CreateKeyInput{Tags: []Tag{{"aws:x", ""}}})), CodeTag, "Tags beginning with aws: are reserved")
	wants(t, second(w.CreateKey(w.admin(), CreateKeyInput{Tags: []Tag{{"x", ""}, {"x", ""}}})), CodeTag, "Duplicate tag keys")
	if keys, _ := w.ListKeys(w.admin()); len(keys) != 1 {
		t.Errorf("refused calls made %d keys", len(keys)-1)
	}
	// A power user creates keys with the default policy but cannot look beyond it.
	power := as(t, "power", "power")
	_, err = w.CreateKey(power, CreateKeyInput{})
	must(t, err)
	wants(t, second(w.CreateKey(power, CreateKeyInput{Users: []string{userARN("bob")}})), CodeMalformedPolicy,
		"The new key policy will not allow you to update the key policy in the future.")
	_, err = w.CreateKey(power, CreateKeyInput{Users: []string{userARN("bob")}, Admins: []string{userARN("power")}})
	must(t, err)
}

func TestConsolePolicy(t *testing.T) {
	w := newWorld(t)
	m, err := w.CreateKey(w.admin(), CreateKeyInput{Admins: []string{userARN("keyadmin")}, Users: []string{userARN("alice")}})
	must(t, err)
	_, wrapped := w.generate(as(t, "alice", "none"), m.ARN, nil)
	wants(t, second(w.Decrypt(as(t, "keyadmin", "none"), wrapped, nil)), CodeAccessDenied, "*")
	must(t, w.DisableKey(as(t, "keyadmin", "none"), m.ARN))
	wants(t, w.EnableKey(as(t, "alice", "none"), m.ARN), CodeAccessDenied, "*")
}

func TestPutKeyPolicy(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	alice := as(t, "alice", "none")
	_, wrapped := w.generate(alice, arn, nil)
	v := testVectors(t)
	wants(t, w.PutKeyPolicy(w.admin(), arn, []byte(`{"Version":"2012-10-17","Statement":[]}`), false), CodeMalformedPolicy, "*")
	wants(t, w.PutKeyPolicy(w.admin(), arn, []byte(`nonsense`), false), CodeMalformedPolicy, "*")
	wants(t, w.PutKeyPolicy(w.admin(), arn, []byte(strings.Repeat(" ", maxPolicy+1)), false), CodeLimitExceeded, "*")
	wants(t, w.PutKeyPolicy(as(t, "keyadmin", "none"), arn, v.KeyPolicies["direct"], false), CodeMalformedPolicy,
		"The new key policy will not allow you to update the key policy in the future.")
	wants(t, w.PutKeyPolicy(alice, arn, v.KeyPolicies["direct"], false), CodeAccessDenied, "*")
	_, err := w.Decrypt(alice, wrapped, nil)
	must(t, err) // nothing of that changed anything
	must(t, w.PutKeyPolicy(w.admin(), arn, v.KeyPolicies["default"], false))
	wants(t, second(w.Decrypt(alice, wrapped, nil)), CodeAccessDenied, "*")
	must(t, w.PutKeyPolicy(as(t, "admin", "admin"), arn, v.KeyPolicies["root-decrypt-only"], true))
	w.reopen()
	wants(t, second(w.Decrypt(alice, wrapped, nil)), CodeAccessDenied, "*")
	names, err := w.ListKeyPolicies(w.admin(), arn)
	must(t, err)
	if len(names) != 1 || names[0] != "default" {
		t.Error(names)
	}
}

func TestPoliciesNameExistingPrincipals(t *testing.T) {
	w := newWorld(t)
	must(t, w.Close())
	people := newDirectory()
	w.known = people
	w.open()
	wants(t, second(w.CreateKey(w.admin(), CreateKeyInput{Users: []string{userARN("ghost")}})), CodeMalformedPolicy, "*")
	arn := w.key("default")
	text := strings.Replace(string(testVectors(t).KeyPolicies["console"]), "user/alice", "user/ghost", 1)
	wants(t, w.PutKeyPolicy(w.admin(), arn, []byte(text), false), CodeMalformedPolicy, "*")
	gone := people.id("ghost")
	delete(people.ids, userARN("ghost"))
	text = strings.Replace(text, userARN("ghost"), gone, 1)
	wants(t, w.PutKeyPolicy(w.admin(), arn, []byte(text), false), CodeMalformedPolicy,
		"Policy contains a statement with one or more invalid principals: "+gone)
	_, _, err := w.CreateGrant(w.admin(), arn, CreateGrantInput{Grantee: userARN("ghost"), Operations: []string{"Decrypt"}})
	wants(t, err, CodeInvalidARN, "*")
	_, _, err = w.CreateGrant(w.admin(), arn, CreateGrantInput{Grantee: userARN("bob"), Retiring: userARN("ghost"), Operations: []string{"Decrypt"}})
	wants(t, err, CodeInvalidARN, "*")
	_, _, err = w.CreateGrant(w.admin(), arn, CreateGrantInput{Grantee: gone, Operations: []string{"Decrypt"}})
	wants(t, err, CodeInvalidARN, "*")
	if now, err := w.GetKeyPolicy(w.admin(), arn); err != nil || string(now) != string(testVectors(t).KeyPolicies["default"]) {
		t.Errorf("a refusal changed the policy: %s %v", now, err)
	}
}

func TestReferences(t *testing.T) {
	w := newWorld(t)
	const unknown = "00000000-0000-4000-8000-000000000000"
	for ref, want := range map[string][2]string{
		"fake-key-id":                             {CodeNotFound, "Invalid keyId 'fake-key-id'"},
		strings.ReplaceAll(unknown, "-", ""):      {CodeNotFound, "Invalid keyId '00000000000040008000000000000000'"},
		strings.ToUpper("abcdef00") + unknown[8:]: {CodeNotFound, "*"},
		unknown: {CodeNotFound, "Key 'arn:aws:kms:us-east-1:111122223333:key/" + unknown + "' does not exist"},
		"arn:aws:kms:eu-west-1:111122223333:key/" + unknown: {CodeNotFound, "Invalid arn eu-west-1"},
		"arn:aws:kms:us-east-1:999999999999:key/" + unknown: {CodeNotFound, "Key 'arn:aws:kms:us-east-1:999999999999:key/" + unknown + "' does not exist"},
		"arn:aws:s3:::bucket":                               {CodeInvalidARN, "Invalid arn arn:aws:s3:::bucket"},
		"alias/none":                                        {CodeNotFound, "Alias arn:aws:kms:us-east-1:111122223333:alias/none is not found."},
		"":                                                  {CodeValidation, "*"},
		strings.Repeat("x", 2049):                           {CodeValidation, "*"},
	} {
		_, err := w.DescribeKey(w.admin(), ref)
		wants(t, err, want[0], want[1])
	}
	// Whether a key exists is told only to who would be allowed.
	_, err := w.DescribeKey(as(t, "bob", "s3full"), unknown)
	wants(t, err, CodeAccessDenied, "*")
	// An unresolved alias is told to everyone: a bucket's default may name one (ENOKEY).
	_, _, _, err = w.GenerateDataKey(viaS3(t, "bob", "s3full"), "alias/none", nil)
	wants(t, err, CodeNotFound, "*")
	if _, err := w.DescribeKey(&Call{}, unknown); Code(err) != CodeAccessDenied {
		t.Errorf("a call without a caller: %v", err)
	}
}

func TestAliases(t *testing.T) {
	w := newWorld(t)
	c := w.admin()
	one, two := w.key("default"), w.key("default")
	for name, code := range map[string]string{
		"my-key": CodeValidation, "alias/": CodeValidation, "alias/sp ace": CodeValidation, "alias/aws/mine": CodeInvalidAliasName,
		"alias/" + strings.Repeat("x", 251): CodeValidation, "alias/umläut": CodeValidation, "Alias/x": CodeValidation,
	} {
		wants(t, w.CreateAlias(c, name, one), code, "*")
	}
	wants(t, w.CreateAlias(c, "my-key", one), CodeValidation,
		`Alias must start with the prefix "alias/". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`)
	must(t, w.CreateAlias(c, "alias/a", one))
	wants(t, w.CreateAlias(c, "alias/a", two), CodeAlreadyExists, "An alias with the name arn:aws:kms:us-east-1:111122223333:alias/a already exists")
	wants(t, w.CreateAlias(c, "alias/b", "alias/a"), CodeNotFound, "Invalid keyId 'alias/a'")
	wants(t, w.DisableKey(c, "alias/a"), CodeNotFound, "Invalid keyId 'alias/a'")
	wants(t, w.UpdateAlias(c, "alias/none", two), CodeNotFound, "*")
	wants(t, w.DeleteAlias(c, "alias/none"), CodeNotFound, "*")
	dk, wrapped := w.generate(c, "alias/a", nil)
	must(t, w.UpdateAlias(c, "alias/a", two))
	if arn, _ := w.Resolve("alias/a"); arn != two {
		t.Errorf("alias names %s", arn)
	}
	got, err := w.Decrypt(c, wrapped, nil)
	must(t, err)
	if !got.Equal(dk) {
		t.Error("moving the alias broke an old ciphertext")
	}
	w.reopen()
	list, err := w.ListAliases(c, "")
	must(t, err)
	if len(list) != 1 || list[0].Name != "alias/a" || list[0].TargetKeyID != two[strings.LastIndexByte(two, '/')+1:] {
		t.Errorf("%+v", list)
	}
	if list, _ = w.ListAliases(c, one); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	must(t, w.DeleteAlias(c, "alias/a"))
	_, err = w.Resolve("alias/a")
	wants(t, err, CodeNotFound, "*")

	// The alias's right and the keys' rights are all needed.
	power := as(t, "power", "power") // CreateAlias and DeleteAlias, on keys that delegate to the account
	must(t, w.CreateAlias(power, "alias/p", one))
	wants(t, w.UpdateAlias(power, "alias/p", two), CodeAccessDenied, "*")
	wants(t, w.CreateAlias(power, "alias/q", w.key("direct")), CodeAccessDenied, "*")
	wants(t, w.DeleteAlias(as(t, "keyadmin", "none"), "alias/p"), CodeAccessDenied, "*")
	for i := range maxAliasPerKey {
		err := w.CreateAlias(c, "alias/n"+strings.Repeat("x", i), two)
		must(t, err)
	}
	wants(t, w.CreateAlias(c, "alias/too-many", two), CodeLimitExceeded, "*")
}

// TestGrantTokens: each CreateGrant gives another token, all of them name the grant, and so do those of version 1; nothing else does.
func TestGrantTokens(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	in := CreateGrantInput{Grantee: userARN("bob"), Retiring: userARN("rita"), Operations: []string{"Decrypt"}, Name: "n"}
	rita := as(t, "rita", "none")
	raw := func(token string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(token)
		must(t, err)
		return b
	}
	text := base64.RawURLEncoding.EncodeToString
	seen := map[string]bool{}
	for _, form := range []func(token, id string) string{
		func(token, _ string) string { return token },
		func(token, id string) string { // version 1
			gid, err := hex.DecodeString(id)
			must(t, err)
			b := append(append([]byte{1}, raw(token)[1:17]...), gid...)
			return text(append(b, w.tokenMAC(b)...))
		},
	} {
		id, first, err := w.CreateGrant(w.admin(), arn, in)
		must(t, err)
		_, second, err := w.CreateGrant(w.admin(), arn, in)
		must(t, err)
		for _, token := range []string{first, second} {
			if seen[token] {
				t.Error("a token was given twice")
			}
			seen[token] = true
		}
		good := form(second, id)
		for at := range raw(good) {
			b := raw(good)
			b[at] ^= 1
			wants(t, w.RetireGrant(rita, text(b), "", ""), CodeInvalidGrantToken, "*")
		}
		const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		last := len(good) - 1 // of its six bits not all may count
		another := good[:last] + string(digits[strings.IndexByte(digits, good[last])^1])
		for _, bad := range []string{"", another, good + "A", good[:last], good + "=", text(raw(good)[:16]), text([]byte{2})} {
			if Code(w.RetireGrant(rita, bad, "", "")) == "" {
				t.Errorf("the token %q was taken", bad)
			}
		}
		must(t, w.RetireGrant(rita, good, "", ""))
		wants(t, w.RetireGrant(rita, first, "", ""), CodeAccessDenied, "*") // the grant is gone, and with it what its tokens name
	}
}

func TestGrants(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	c := w.admin()
	in := CreateGrantInput{Grantee: userARN("bob"), Retiring: userARN("rita"), Operations: []string{"Decrypt", "Decrypt"}, Name: "n1"}
	id, token, err := w.CreateGrant(c, arn, in)
	must(t, err)
	again, token2, err := w.CreateGrant(c, arn, in)
	must(t, err)
	if again != id || token2 == "" || token2 == token || len(id) != 64 {
		t.Errorf("not idempotent: %s, %s", id, again)
	}
	in.Operations = []string{"Encrypt"}
	other, _, err := w.CreateGrant(c, arn, in)
	must(t, err)
	if other == id {
		t.Error("another grant under the same name is the same")
	}
	_, wrapped := w.sealFor(arn, nil)
	bob := as(t, "bob", "none")
	_, err = w.Decrypt(bob, wrapped, nil)
	must(t, err)
	w.reopen()
	_, err = w.Decrypt(bob, wrapped, nil)
	must(t, err)
	list, err := w.ListGrants(c, arn, "", userARN("bob"))
	must(t, err)
	if len(list) != 2 || list[0].Issuer != userARN("admin") || len(list[0].Operations) != 1 {
		t.Errorf("%+v", list)
	}
	r, err := w.ListRetirableGrants(c, userARN("rita"))
	must(t, err)
	if len(r) != 2 {
		t.Errorf("%+v", r)
	}
	wants(t, w.RetireGrant(bob, token, "", ""), CodeAccessDenied, "*")
	wants(t, w.RetireGrant(c, token, "", ""), CodeAccessDenied, "*")
	wants(t, w.RetireGrant(c, "rubbish", "", ""), CodeInvalidGrantToken, "*")
	raw, err := base64.RawURLEncoding.DecodeString(token)
	must(t, err)
	raw[len(raw)-1] ^= 1
	wants(t, w.RetireGrant(c, base64.RawURLEncoding.EncodeToString(raw), "", ""), CodeInvalidGrantToken, "*")
	must(t, w.RetireGrant(as(t, "rita", "none"), token, "", ""))
	wants(t, second(w.Decrypt(bob, wrapped, nil)), CodeAccessDenied, "*")
	wants(t, w.RevokeGrant(c, arn, id), CodeNotFound, "*")
	wants(t, w.RevokeGrant(c, arn, "x"), CodeInvalidGrantID, "*")
	must(t, w.RevokeGrant(c, arn, other))
	for name, in := range map[string]CreateGrantInput{
		"no operation":      {Grantee: userARN("bob")},
		"unknown operation": {Grantee: userARN("bob"), Operations: []string{"Fly"}},
		"signing":           {Grantee: userARN("bob"), Operations: []string{"Sign"}},
		"no grantee":        {Operations: []string{"Decrypt"}},
		"wildcard":          {Grantee: userARN("*"), Operations: []string{"Decrypt"}},
		"not an ARN":        {Grantee: "bob", Operations: []string{"Decrypt"}},
		"bad name":          {Grantee: userARN("bob"), Operations: []string{"Decrypt"}, Name: "a b"},
		"long value":        {Grantee: userARN("bob"), Operations: []string{"Decrypt"}, Subset: map[string]string{"a": strings.Repeat("x", 385)}},
		"both kinds":        {Grantee: userARN("bob"), Operations: []string{"Decrypt"}, Subset: map[string]string{"a": "x"}, Equals: map[string]string{"a": "x"}},
		"bad token":         {Grantee: userARN("bob"), Operations: []string{"Decrypt"}, Tokens: []string{"x"}},
	} {
		if _, _, err := w.CreateGrant(c, arn, in); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestRotationOnDemand(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	c := w.admin()
	var old []crypto.WrappedKey
	for range maxOnDemand {
		_, wrapped := w.generate(c, arn, payContext)
		old = append(old, wrapped)
		must(t, w.RotateKeyOnDemand(c, arn))
	}
	wants(t, w.RotateKeyOnDemand(c, arn), CodeLimitExceeded, "The on-demand rotations limit has been reached for the given keyId. "+
		"No more on-demand rotations can be performed for this key: "+arn)
	w.reopen()
	for _, wrapped := range old {
		_, err := w.Decrypt(c, wrapped, payContext)
		must(t, err)
	}
	list, err := w.ListKeyRotations(c, arn, false)
	must(t, err)
	all, err := w.ListKeyRotations(c, arn, true)
	must(t, err)
	if len(list) != maxOnDemand || len(all) != maxOnDemand+1 || !list[len(list)-1].Current || list[0].Current || list[0].Type != "ON_DEMAND" {
		t.Errorf("%d and %d rotations", len(list), len(all))
	}
}

func TestScheduledRotation(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	c := w.admin()
	status := func() RotationStatus {
		st, err := w.GetKeyRotationStatus(c, arn)
		must(t, err)
		return st
	}
	wants(t, w.EnableKeyRotation(c, arn, 89), CodeValidation, "*")
	wants(t, w.EnableKeyRotation(c, arn, 2561), CodeValidation, "*")
	if status().Enabled {
		t.Error("on by default")
	}
	must(t, w.EnableKeyRotation(c, arn, 0))
	start := w.clock.Now()
	if st := status(); !st.Enabled || st.Days != 365 || !st.Next.Equal(start.Add(365*day)) {
		t.Errorf("%+v", st)
	}
	w.clock.Advance(10 * day)
	must(t, w.EnableKeyRotation(c, arn, 365)) // the same period keeps the schedule
	if st := status(); !st.Next.Equal(start.Add(365 * day)) {
		t.Errorf("%+v", st)
	}
	must(t, w.EnableKeyRotation(c, arn, 100)) // another counts from now
	next := w.clock.Now().Add(100 * day)
	if st := status(); !st.Next.Equal(next) || st.Days != 100 {
		t.Errorf("%+v", st)
	}
	first, wrapped := w.generate(c, arn, nil)
	must(t, w.RotateKeyOnDemand(c, arn))
	if st := status(); !st.Next.Equal(next) {
		t.Error("a rotation on demand moved the schedule")
	}
	w.clock.Advance(100*day - 10*time.Minute)
	wants(t, w.RotateKeyOnDemand(c, arn), CodeConflict, "*")
	w.clock.Advance(250 * day) // three periods
	if st := status(); !st.Next.Equal(next.Add(300 * day)) {
		t.Errorf("%+v", st)
	}
	list, err := w.ListKeyRotations(c, arn, false)
	must(t, err)
	if len(list) != 4 || list[1].Type != "AUTOMATIC" || !list[1].Date.Equal(next) || !list[3].Date.Equal(next.Add(200*day)) {
		t.Errorf("%+v", list)
	}
	got, err := w.Decrypt(c, wrapped, nil)
	must(t, err)
	if !got.Equal(first) {
		t.Error("another data key")
	}
	// Disabled: nothing rotates; enabling makes good for it once.
	must(t, w.DisableKey(c, arn))
	w.clock.Advance(1000 * day)
	if list, _ = w.ListKeyRotations(c, arn, false); len(list) != 4 {
		t.Errorf("a disabled key was rotated: %d", len(list))
	}
	must(t, w.EnableKey(c, arn))
	if list, _ = w.ListKeyRotations(c, arn, false); len(list) != 5 {
		t.Errorf("%d rotations after enabling", len(list))
	}
	// Pending deletion: reads off, comes back.
	_, err = w.ScheduleKeyDeletion(c, arn, 7)
	must(t, err)
	if status().Enabled {
		t.Error("the schedule of a key pending deletion reads on")
	}
	must(t, w.CancelKeyDeletion(c, arn))
	if !status().Enabled {
		t.Error("the schedule was lost")
	}
	must(t, w.EnableKey(c, arn))
	must(t, w.DisableKeyRotation(c, arn))
	must(t, w.EnableKeyRotation(c, arn, 0))
	if st := status(); st.Days != 365 {
		t.Errorf("%+v", st)
	}
	// An event of each rotation, whoever asked for it, from one material to the next.
	events := w.events(auditName("RotateKey"))
	list, err = w.ListKeyRotations(c, arn, true)
	must(t, err)
	if len(events) != 5 || len(list) != 6 {
		t.Fatalf("%d events of rotations, %d materials", len(events), len(list))
	}
	for i, e := range events {
		want := map[string]any{
			"rotationType": list[i+1].Type, "keyOrigin": "AWS_KMS", "keyId": arn[strings.LastIndexByte(arn, '/')+1:],
			"previousKeyMaterialId": list[i].MaterialID, "currentKeyMaterialId": list[i+1].MaterialID,
		}
		if e.EventType != "AwsServiceEvent" || !maps.Equal(e.ServiceEventDetails, want) {
			t.Errorf("event %d: %s %v, want %v", i, e.EventType, e.ServiceEventDetails, want)
		}
	}
}

// TestTimer: what falls due happens without anybody's call.
func TestTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), disk: newDisk(), rows: crypto.NewDataKey(), root: crypto.NewDataKey(), clock: newClock()}
		start := time.Now()
		base := w.clock.Now()
		w.Service = nil
		l, err := audit.Open(w.dir+"/audit", w.rows.Derive(nil, "audit").Expose(), audit.Options{Clock: time.Now})
		must(t, err)
		w.audit = l
		w.now = func() time.Time { return base.Add(time.Since(start)) }
		w.open()
		arn := w.key("default")
		changed := make(chan string, 10)
		w.OnChange(func(arn string) { changed <- arn })
		_, err = w.ScheduleKeyDeletion(w.admin(), arn, 7)
		must(t, err)
		<-changed
		<-time.After(7*day + time.Minute)
		synctest.Wait()
		if got := <-changed; got != arn {
			t.Errorf("changed: %s", got)
		}
		k, _, err := w.find(arn, false)
		must(t, err)
		if !k.snapshot().deleted() {
			t.Error("the key is still there")
		}
		must(t, w.Close())
		must(t, l.Close())
	})
}

func TestOnChangeAndEpoch(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	var got []string
	w.OnChange(func(arn string) {
		got = append(got, arn)
		if _, err := w.Resolve(arn); err != nil { // no lock is held
			t.Error(err)
		}
	})
	step := func(name string, err error) {
		t.Helper()
		must(t, err)
		if len(got) == 0 || got[0] != arn {
			t.Errorf("%s: told of %v", name, got)
		}
		got = nil
	}
	epoch := w.Epoch()
	step("disable", w.DisableKey(w.admin(), arn))
	step("enable", w.EnableKey(w.admin(), arn))
	step("policy", w.PutKeyPolicy(w.admin(), arn, testVectors(t).KeyPolicies["console"], false))
	id, _, err := w.CreateGrant(w.admin(), arn, CreateGrantInput{Grantee: userARN("bob"), Operations: []string{"Decrypt"}})
	step("grant", err)
	step("revoke", w.RevokeGrant(w.admin(), arn, id))
	step("alias", w.CreateAlias(w.admin(), "alias/a", arn))
	if w.Epoch() != epoch+6 {
		t.Errorf("epoch grew by %d", w.Epoch()-epoch)
	}
	epoch = w.Epoch()
	w.DisableKey(as(t, "bob", "s3full"), arn)
	_, _ = w.generate(w.admin(), arn, nil)
	if len(got) > 0 || w.Epoch() != epoch {
		t.Error("a refusal or a use counts as a change")
	}
}

func TestTags(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	must(t, w.TagResource(w.admin(), arn, []Tag{{"a", "1"}, {"b", "2"}}))
	must(t, w.TagResource(w.admin(), arn, []Tag{{"a", "3"}}))
	must(t, w.UntagResource(w.admin(), arn, []string{"b", "c"}))
	w.reopen()
	tags, err := w.ListResourceTags(w.admin(), arn)
	must(t, err)
	if len(tags) != 1 || tags[0] != (Tag{"a", "3"}) {
		t.Errorf("%+v", tags)
	}
	many := make([]Tag, 51)
	wants(t, w.TagResource(w.admin(), arn, many), CodeTag, "Too many tags")
	for _, bad := range []Tag{{"a<", ""}, {"a", "b;"}, {"a\n", ""}, {"a\xff", ""}} {
		wants(t, w.TagResource(w.admin(), arn, []Tag{bad}), CodeTag, "*")
	}
	wants(t, w.TagResource(w.admin(), arn, []Tag{{strings.Repeat("ü", 129), ""}}), CodeValidation, "*")
	wants(t, w.UntagResource(w.admin(), arn, []string{"aws:x"}), CodeTag, "Tags beginning with aws: are reserved")
	long := Tag{strings.Repeat("ü", 128), "Kosten: 1/2 = +-@_."}
	must(t, w.TagResource(w.admin(), arn, []Tag{long}))
	must(t, w.UntagResource(w.admin(), arn, []string{long.Key}))
}

func TestCheckLeavesNoEvent(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	n := len(w.events(audit.Filter{}))
	d, err := w.Check(viaS3(t, "alice", "none"), "kms:Decrypt", arn, payContext)
	must(t, err)
	if !d.Allowed() || d.Sid != "" || d.Statement != 3 {
		t.Errorf("%+v", d)
	}
	d, err = w.Check(viaS3(t, "bob", "s3full"), "kms:Decrypt", arn, payContext)
	wants(t, err, CodeAccessDenied, "*")
	if d.Allowed() {
		t.Errorf("%+v", d)
	}
	must(t, w.DisableKey(w.admin(), arn))
	_, err = w.Check(viaS3(t, "alice", "none"), "kms:Decrypt", arn, payContext)
	wants(t, err, CodeDisabled, "*")
	if got := len(w.events(audit.Filter{})); got != n+1 {
		t.Errorf("%d events", got-n)
	}
}
