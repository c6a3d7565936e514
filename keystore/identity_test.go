package keystore

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/principals/policy"
)

// directory is a set of principals, by ARN.
type directory struct {
	ids  map[string]string
	made int
}

func newDirectory() *directory {
	d := &directory{ids: map[string]string{}}
	for _, name := range []string{"admin", "keyadmin", "alice", "bob", "carol"} {
		d.id(name)
	}
	return d
}

// id is a user's id; one that does not exist is made.
func (d *directory) id(name string) string {
	arn := userARN(name)
	if d.ids[arn] == "" {
		d.made++
		d.ids[arn] = fmt.Sprintf("AIDA%s%09d", "TESTTEST", d.made)
	}
	return d.ids[arn]
}

func (d *directory) again(name string) string {
	delete(d.ids, userARN(name))
	return d.id(name)
}

// as is a caller as the directory has him now.
func (d *directory) as(t testing.TB, name, policies string) *Call {
	c := as(t, name, policies)
	c.Who.ID = d.id(name)
	return c
}

func (d *directory) UniqueID(arn string) (string, bool) {
	id, ok := d.ids[arn]
	return id, ok
}

func (d *directory) ARN(id string) (string, bool) {
	for arn, other := range d.ids {
		if other == id {
			return arn, true
		}
	}
	return "", false
}

// peopled is a world whose principals a directory knows.
func peopled(t *testing.T) (*world, *directory) {
	w, d := newWorld(t), newDirectory()
	must(t, w.Close())
	w.known = d
	w.open()
	return w, d
}

// Who is made again under the name of a deleted user is not meant by a key policy from before. The policy shows the name as long
// as there is somebody behind it, and the unique id afterwards.
func TestKeyPolicyMeansTheUserAndNotTheName(t *testing.T) {
	w, d := peopled(t)
	put := string(testVectors(t).KeyPolicies["console"])
	arn := w.key("console")
	shown := func() string {
		t.Helper()
		text, err := w.GetKeyPolicy(w.admin(), arn)
		must(t, err)
		return string(text)
	}
	_, wrapped := w.generate(d.as(t, "alice", "none"), arn, payContext)
	opens := func() error { return second(w.Decrypt(d.as(t, "alice", "none"), wrapped, payContext)) }
	must(t, opens())
	if got := shown(); got != put {
		t.Errorf("shown %s\nput %s", got, put)
	}
	if _, kept := w.ledger.Get(kindKey, arn[strings.LastIndexByte(arn, '/')+1:]); !kept {
		t.Fatal("no record")
	}

	old := d.id("alice")
	delete(d.ids, userARN("alice"))
	want := strings.ReplaceAll(put, userARN("alice"), old)
	if got := shown(); got != want || got == put {
		t.Errorf("without alice: %s\nwant %s", got, want)
	}
	d.again("alice")
	wants(t, opens(), CodeAccessDenied, "*")
	if got := shown(); got != want {
		t.Errorf("with another alice: %s", got)
	}
	w.reopen()
	wants(t, opens(), CodeAccessDenied, "*")
	if got := shown(); got != want {
		t.Errorf("after a restart: %s", got)
	}
	// What is shown cannot be put as it is: it names nobody. With the new user's name it means the new user.
	wants(t, w.PutKeyPolicy(w.admin(), arn, []byte(want), false), CodeMalformedPolicy, "*")
	must(t, w.PutKeyPolicy(w.admin(), arn, []byte(put), false))
	must(t, opens())
	w.reopen()
	must(t, opens())
	// The unique id is as good as the name.
	must(t, w.PutKeyPolicy(w.admin(), arn, []byte(strings.ReplaceAll(put, userARN("alice"), d.id("alice"))), false))
	must(t, opens())
	if got := shown(); got != put {
		t.Errorf("put by id: %s", got)
	}
}

// A NotPrincipal is bound as well: the exception is not inherited.
func TestNotPrincipalMeansTheUser(t *testing.T) {
	w, d := peopled(t)
	m, err := w.CreateKey(d.as(t, "admin", "admin"), CreateKeyInput{Policy: []byte(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},
		{"Effect":"Deny","NotPrincipal":{"AWS":["` + testAccount + `","` + userARN("alice") + `","` + userARN("admin") + `"]},"Action":"kms:Decrypt","Resource":"*"}]}`)})
	must(t, err)
	_, wrapped := w.generate(d.as(t, "alice", "none"), m.ARN, payContext)
	must(t, second(w.Decrypt(d.as(t, "alice", "none"), wrapped, payContext)))
	d.again("alice")
	wants(t, second(w.Decrypt(d.as(t, "alice", "none"), wrapped, payContext)), CodeAccessDenied, "*")
}

func TestGrantMeansTheUser(t *testing.T) {
	w, d := peopled(t)
	arn := w.key("admin-only")
	admin := d.as(t, "admin", "admin")
	in := CreateGrantInput{Grantee: userARN("bob"), Retiring: userARN("carol"), Operations: []string{"Decrypt"}, Name: "b"}
	id, token, err := w.CreateGrant(admin, arn, in)
	must(t, err)
	_, wrapped := w.generate(admin, arn, payContext)
	bob := func() error { return second(w.Decrypt(d.as(t, "bob", "none"), wrapped, payContext)) }
	must(t, bob())
	again, _, err := w.CreateGrant(admin, arn, in)
	must(t, err)
	if again != id {
		t.Error("a repeated grant is another one")
	}
	show := func(grantee string) []Grant {
		t.Helper()
		list, err := w.ListGrants(admin, arn, "", grantee)
		must(t, err)
		return list
	}
	if l := show(userARN("bob")); len(l) != 1 || l[0].Grantee != userARN("bob") || l[0].Retiring != userARN("carol") {
		t.Errorf("%+v", l)
	}
	if l := show(d.id("bob")); len(l) != 1 {
		t.Errorf("by id: %+v", l)
	}
	if l, err := w.ListRetirableGrants(admin, userARN("carol")); err != nil || len(l) != 1 {
		t.Errorf("%+v %v", l, err)
	}

	old, oldCarol := d.id("bob"), d.id("carol")
	d.again("bob")
	d.again("carol")
	wants(t, bob(), CodeAccessDenied, "*")
	w.reopen()
	wants(t, bob(), CodeAccessDenied, "*")
	wants(t, w.RetireGrant(d.as(t, "carol", "none"), token, "", ""), CodeAccessDenied, "*")
	if l := show(""); len(l) != 1 || l[0].Grantee != old || l[0].Retiring != oldCarol {
		t.Errorf("%+v", l)
	}
	if l := show(userARN("bob")); len(l) != 0 {
		t.Errorf("the new bob has %+v", l)
	}
	if l, err := w.ListRetirableGrants(admin, userARN("carol")); err != nil || len(l) != 0 {
		t.Errorf("the new carol may retire %+v %v", l, err)
	}
	other, _, err := w.CreateGrant(admin, arn, in)
	must(t, err)
	if other == id {
		t.Error("the grant for the new bob is that of the old one")
	}
	must(t, bob())
}

// Documents from before principals were kept by id go on to mean whoever has the name.
func TestOldDocumentsMeanTheName(t *testing.T) {
	w := newWorld(t) // knows no principals
	arn := w.key("console")
	in := CreateGrantInput{Grantee: userARN("bob"), Operations: []string{"Decrypt"}, Name: "b"}
	id, _, err := w.CreateGrant(w.admin(), arn, in)
	must(t, err)
	must(t, w.Close())
	d := newDirectory()
	w.known = d
	w.open()
	_, wrapped := w.generate(d.as(t, "alice", "none"), arn, payContext)
	d.again("alice")
	d.again("bob")
	must(t, second(w.Decrypt(d.as(t, "alice", "none"), wrapped, payContext)))
	must(t, second(w.Decrypt(d.as(t, "bob", "none"), wrapped, payContext)))
	if text, err := w.GetKeyPolicy(w.admin(), arn); err != nil || string(text) != string(testVectors(t).KeyPolicies["console"]) {
		t.Errorf("%s %v", text, err)
	}
	if again, _, err := w.CreateGrant(w.admin(), arn, in); err != nil || again != id {
		t.Errorf("a repeated grant: %s %v", again, err)
	}
	// Putting it once more binds it.
	must(t, w.PutKeyPolicy(w.admin(), arn, testVectors(t).KeyPolicies["console"], false))
	d.again("alice")
	wants(t, second(w.Decrypt(d.as(t, "alice", "none"), wrapped, payContext)), CodeAccessDenied, "*")
}

// Roles and their sessions have ids of their own, and a session's begins with its role's.
func TestRolesAreBound(t *testing.T) {
	w, d := peopled(t)
	const role, session = "arn:aws:iam::" + testAccount + ":role/app", "arn:aws:sts::" + testAccount + ":assumed-role/app/s1"
	d.ids[role], d.ids[session] = "AROATESTTESTTEST00001", "AROATESTTESTTEST00001:s1"
	call := func(id string) *Call {
		return &Call{Who: &policy.Identity{Type: policy.Session, Account: testAccount, ARN: session, RoleARN: role, ID: id + ":s1"}}
	}
	for _, named := range []string{role, session} {
		m, err := w.CreateKey(w.admin(), CreateKeyInput{BypassLockout: true, Policy: []byte(`{"Statement":[{"Effect":"Allow","Principal":{"AWS":"` +
			named + `"},"Action":"kms:GenerateDataKey","Resource":"*"},{"Effect":"Allow","Principal":{"AWS":"` + userARN("admin") + `"},"Action":"kms:*","Resource":"*"}]}`)})
		must(t, err)
		_, wrapped := w.generate(call("AROATESTTESTTEST00001"), m.ARN, nil)
		_, _, err = w.CreateGrant(d.as(t, "admin", "admin"), m.ARN, CreateGrantInput{Grantee: named, Operations: []string{"Decrypt"}})
		must(t, err)
		must(t, second(w.Decrypt(call("AROATESTTESTTEST00001"), wrapped, nil)))
		wants(t, second(w.Decrypt(call("AROATESTTESTTEST00002"), wrapped, nil)), CodeAccessDenied, "*")
		_, _, _, err = w.GenerateDataKey(call("AROATESTTESTTEST00002"), m.ARN, nil)
		wants(t, err, CodeAccessDenied, "*")
	}
}

// A grant to the account leaves the decision to its identity policies.
func TestGrantToTheAccount(t *testing.T) {
	w := newWorld(t)
	for _, account := range []string{testAccount, "arn:aws:iam::" + testAccount + ":root"} {
		arn := w.key("admin-only")
		_, _, err := w.CreateGrant(w.admin(), arn, CreateGrantInput{Grantee: account, Operations: []string{"GenerateDataKey"}})
		must(t, err)
		_, _, _, err = w.GenerateDataKey(as(t, "bob", "admin"), arn, payContext)
		must(t, err)
		_, _, _, err = w.GenerateDataKey(as(t, "bob", "s3full"), arn, payContext)
		wants(t, err, CodeAccessDenied, "*")
	}
}

func TestTimedKeys(t *testing.T) {
	w := newWorld(t)
	plain := w.key("default")
	m, err := w.CreateKey(w.admin(), CreateKeyInput{Policy: []byte(`{"Statement":[{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"},
		{"Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*","Condition":{"DateGreaterThan":{"aws:CurrentTime":"2030-01-01"}}}]}`)})
	must(t, err)
	if got := w.Timed(); len(got) != 1 || got[0] != m.ARN {
		t.Errorf("%v, want %s and not %s", got, m.ARN, plain)
	}
	must(t, w.PutKeyPolicy(w.admin(), m.ARN, testVectors(t).KeyPolicies["default"], false))
	if got := w.Timed(); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
