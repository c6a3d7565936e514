package principals

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/principals/policy"
)

func allows(t *testing.T, w *world, name, action string) bool {
	t.Helper()
	who, err := w.Identity(name)
	if err != nil {
		t.Fatal(err)
	}
	return policy.DecideIdentity(who, &policy.Request{Action: action, Resource: "*"}).Allowed()
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestGroups(t *testing.T) {
	w := newWorld(t)
	w.create(t, "alice", nil, "AmazonS3FullAccess")
	w.create(t, "bob", nil)
	ok(t, w.PutPolicy("own", []byte(ownPolicy)))
	g, err := w.CreateGroup("staff", []string{"own", "own"})
	ok(t, err)
	if g.ARN != "arn:aws:iam::111122223333:group/staff" || !strings.HasPrefix(g.ID, "AGPA") || !slices.Equal(g.Policies, []string{"own"}) {
		t.Errorf("%+v", g)
	}
	var told []string
	w.OnChange(func(name string) { told = append(told, name) })
	before, _ := w.Identity("alice")
	ok(t, w.AddMember("staff", "alice"))
	ok(t, w.AddMember("staff", "alice")) // no change
	if !slices.Equal(told, []string{"alice"}) {
		t.Errorf("told: %v", told)
	}
	if after, _ := w.Identity("alice"); before == after || !allows(t, w, "alice", "kms:Decrypt") || allows(t, w, "bob", "kms:Decrypt") {
		t.Error("membership does not count")
	}
	ok(t, w.AddMember("staff", "bob"))
	told = nil
	ok(t, w.AttachGroup("staff", "AmazonS3ReadOnlyAccess"))
	slices.Sort(told)
	if !slices.Equal(told, []string{"alice", "bob"}) || !allows(t, w, "bob", "s3:ListAllMyBuckets") {
		t.Errorf("attached: told %v", told)
	}
	ok(t, w.PutPolicy("own", []byte(strings.ReplaceAll(ownPolicy, "Decrypt", "Encrypt"))))
	if allows(t, w, "bob", "kms:Decrypt") || !allows(t, w, "bob", "kms:Encrypt") {
		t.Error("a group's policy changed, and its members did not follow")
	}
	if got := w.AttachedTo("own"); !slices.Equal(got, []string{"alice", "bob"}) {
		t.Errorf("attached to %v", got)
	}

	picture := w.picture()
	w.reopen(t)
	if w.picture() != picture || !allows(t, w, "bob", "kms:Encrypt") || !slices.Equal(w.GroupsOf("bob"), []string{"staff"}) {
		t.Error("not the same after reopening")
	}

	ok(t, w.RemoveMember("staff", "alice"))
	if allows(t, w, "alice", "kms:Encrypt") || !allows(t, w, "alice", "s3:PutObject") {
		t.Error("a former member keeps the group's policies, or lost his own")
	}
	ok(t, w.Delete("bob")) // out of his groups too
	g, err = w.Group("staff")
	ok(t, err)
	if len(g.Members) != 0 {
		t.Errorf("members %v", g.Members)
	}
	ok(t, w.DetachGroup("staff", "own"))
	ok(t, w.DetachGroup("staff", "AmazonS3ReadOnlyAccess"))
	ok(t, w.DeleteGroup("staff"))
	ok(t, w.DeletePolicy("own"))
	w.reopen(t)
	if len(w.Groups()) != 0 {
		t.Errorf("groups %v", w.Groups())
	}
}

func TestGroupErrors(t *testing.T) {
	w := newWorld(t)
	w.create(t, "root-like", nil)
	w.create(t, "alice", nil)
	_, err := w.CreateGroup("admins", []string{Administrator})
	ok(t, err)
	ok(t, w.AddMember("admins", "root-like"))
	ok(t, w.PutPolicy("own", []byte(ownPolicy)))
	_, err = w.CreateGroup("users", []string{"own"})
	ok(t, err)
	ok(t, w.SetBoundary("alice", Administrator))
	create := func(name string, policies ...string) func() error {
		return func() error { _, err := w.CreateGroup(name, policies); return err }
	}
	for name, c := range map[string]struct {
		do   func() error
		want error
	}{
		"name taken":             {create("admins"), ErrExists},
		"case alone":             {create("ADMINS"), ErrExists},
		"bad name":               {create("a/b"), ErrInvalidName},
		"no name":                {create(""), ErrInvalidName},
		"create with no policy":  {create("x", "absent"), ErrPolicyNotFound},
		"delete absent":          {func() error { return w.DeleteGroup("x") }, ErrGroupNotFound},
		"delete with members":    {func() error { return w.DeleteGroup("admins") }, ErrGroupInUse},
		"delete with policies":   {func() error { return w.DeleteGroup("users") }, ErrGroupInUse},
		"add to absent":          {func() error { return w.AddMember("x", "alice") }, ErrGroupNotFound},
		"add absent":             {func() error { return w.AddMember("users", "x") }, ErrNotFound},
		"remove absent":          {func() error { return w.RemoveMember("users", "x") }, ErrNotMember},
		"remove a stranger":      {func() error { return w.RemoveMember("admins", "alice") }, ErrNotMember},
		"remove last admin":      {func() error { return w.RemoveMember("admins", "root-like") }, ErrLastAdministrator},
		"detach last admin":      {func() error { return w.DetachGroup("admins", Administrator) }, ErrLastAdministrator},
		"delete last admin":      {func() error { return w.Delete("root-like") }, ErrLastAdministrator},
		"bound last admin":       {func() error { return w.SetBoundary("root-like", "own") }, ErrLastAdministrator},
		"attach absent":          {func() error { return w.AttachGroup("users", "x") }, ErrPolicyNotFound},
		"attach to absent":       {func() error { return w.AttachGroup("x", "own") }, ErrGroupNotFound},
		"detach what is not":     {func() error { return w.DetachGroup("users", Administrator) }, ErrNotAttached},
		"delete a group's":       {func() error { return w.DeletePolicy("own") }, ErrPolicyInUse},
		"boundary of nobody":     {func() error { return w.SetBoundary("x", "own") }, ErrNotFound},
		"boundary by nothing":    {func() error { return w.SetBoundary("alice", "x") }, ErrPolicyNotFound},
		"no boundary to remove":  {func() error { return w.RemoveBoundary("root-like") }, ErrNoBoundary},
		"access keys of nobody":  {func() error { _, err := w.AccessKeys("x"); return err }, ErrNotFound},
		"access key for nobody":  {func() error { _, _, err := w.CreateAccessKey("x"); return err }, ErrNotFound},
		"delete absent key":      {func() error { return w.DeleteAccessKey("alice", "AKIAX") }, ErrAccessKeyNotFound},
		"activate absent key":    {func() error { return w.ActivateAccessKey("alice", "AKIAX", true) }, ErrAccessKeyNotFound},
		"look up an absent one":  {func() error { _, _, err := w.AccessKey("AKIAX"); return err }, ErrAccessKeyNotFound},
		"access keys beyond two": {func() error { return threeKeys(w) }, ErrLimit},
	} {
		before := w.ledger.Version()
		if err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if !errors.Is(c.want, ErrLimit) && w.ledger.Version() != before {
			t.Errorf("%s: something was written", name)
		}
	}
}

func threeKeys(w *world) error {
	for range 3 {
		if _, _, err := w.CreateAccessKey("alice"); err != nil {
			return err
		}
	}
	return nil
}

func TestBoundary(t *testing.T) {
	w := newWorld(t)
	w.create(t, "admin", nil, Administrator)
	w.create(t, "alice", nil, "AmazonS3FullAccess", Administrator)
	ok(t, w.PutPolicy("own", []byte(ownPolicy)))
	ok(t, w.SetBoundary("alice", "own"))
	if allows(t, w, "alice", "s3:ListAllMyBuckets") || !allows(t, w, "alice", "kms:Decrypt") {
		t.Error("the boundary does not bound")
	}
	if err := w.DeletePolicy("own"); !errors.Is(err, ErrPolicyInUse) {
		t.Errorf("a boundary deleted: %v", err)
	}
	if err := w.Delete("admin"); !errors.Is(err, ErrLastAdministrator) { // alice is none within her boundary
		t.Errorf("the last administrator deleted: %v", err)
	}
	ok(t, w.PutPolicy("own", []byte(strings.ReplaceAll(ownPolicy, "Decrypt", "Encrypt"))))
	if allows(t, w, "alice", "kms:Decrypt") || !allows(t, w, "alice", "kms:Encrypt") {
		t.Error("a changed boundary does not count")
	}
	w.reopen(t)
	if p, err := w.Get("alice"); err != nil || p.Boundary != "own" || allows(t, w, "alice", "s3:ListAllMyBuckets") {
		t.Errorf("after reopening: %+v, %v", p, err)
	}
	ok(t, w.RemoveBoundary("alice"))
	if !allows(t, w, "alice", "s3:ListAllMyBuckets") {
		t.Error("bounded without a boundary")
	}
}

func TestAccessKeys(t *testing.T) {
	w := newWorld(t)
	w.create(t, "alice", nil)
	k, secret, err := w.CreateAccessKey("alice")
	ok(t, err)
	if !validID(k.ID, "AKIA", 20) || len(secret.Expose()) != 40 || !k.Active || k.User != "alice" {
		t.Errorf("%+v, a secret of %d characters", k, len(secret.Expose()))
	}
	holder := struct {
		Key accessKey
		S   Secret
	}{accessKey{k, secret}, secret}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v", holder, holder, holder), fmt.Sprint(secret), fmt.Sprintf("%q %x", secret, secret)} {
		if strings.Contains(s, secret.Expose()) || strings.Contains(s, fmt.Sprintf("%x", secret.Expose())) {
			t.Errorf("printed: %s", s)
		}
	}
	if b, err := json.Marshal(secret); err == nil {
		t.Errorf("marshalled: %s", b)
	}
	second, _, err := w.CreateAccessKey("alice")
	ok(t, err)
	if second.ID == k.ID {
		t.Error("the same id twice")
	}
	ok(t, w.ActivateAccessKey("alice", k.ID, false))
	w.reopen(t)
	got, again, err := w.AccessKey(k.ID)
	ok(t, err)
	if got.Active || again.Expose() != secret.Expose() || !got.Created.Equal(k.Created) {
		t.Errorf("after reopening: %+v", got)
	}
	list, err := w.AccessKeys("alice")
	ok(t, err)
	if len(list) != 2 {
		t.Errorf("%+v", list)
	}
	ok(t, w.DeleteAccessKey("alice", second.ID))
	ok(t, w.Delete("alice"))
	if _, _, err := w.AccessKey(k.ID); !errors.Is(err, ErrAccessKeyNotFound) {
		t.Errorf("a key outlived its user: %v", err)
	}
	w.create(t, "alice", nil)
	w.reopen(t)
	if list, err := w.AccessKeys("alice"); err != nil || len(list) != 0 {
		t.Errorf("keys of another: %v, %v", list, err)
	}
}

// The examples of FORMAT.md read and write byte for byte.
func TestGroupFormat(t *testing.T) {
	text, err := os.ReadFile("FORMAT.md")
	ok(t, err)
	group, err := os.ReadFile("testdata/group.json")
	ok(t, err)
	g, err := decodeGroup("auditors", group)
	ok(t, err)
	if again, err := encodeGroup(g); err != nil || string(again) != string(group) || !strings.Contains(string(text), string(group)) {
		t.Errorf("%s, %v", again, err)
	}
	key, err := os.ReadFile("testdata/access-key.json")
	ok(t, err)
	k, user, err := decodeAccessKey("AKIAMZXW6YTBOI2DKNRX", key)
	ok(t, err)
	if again, err := encodeAccessKey(k, user); err != nil || string(again) != string(key) || !strings.Contains(string(text), string(key)) {
		t.Errorf("%s, %v", again, err)
	}
}

// TestCorruptGroups: records that do not fit together are refused at Open.
func TestCorruptGroups(t *testing.T) {
	group := func(members, policies string) string {
		return `{"version":1,"name":"g","id":"AGPAMZXW6YTBOI2DKNRXG","created":"2026-01-02T03:04:05Z","members":` + members + `,"policies":` + policies + `}`
	}
	key := func(user, id, secret string) string {
		return `{"version":1,"id":"AKIAMZXW6YTBOI2DKNRX","user":"` + user + `","userId":"` + id + `","secret":"` + secret + `","active":true,"created":"2026-01-02T03:04:05Z"}`
	}
	const secret = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd"
	for _, c := range []struct {
		kind    byte
		id, doc string
	}{
		{kindGroup, "g", group(`["nobody"]`, `[]`)},
		{kindGroup, "g", group(`["alice","alice"]`, `[]`)},
		{kindGroup, "g", group(`["a/b"]`, `[]`)},
		{kindGroup, "g", group(`[]`, `["absent"]`)},
		{kindGroup, "g", group(`[]`, `["AmazonS3FullAccess","AmazonS3FullAccess"]`)},
		{kindGroup, "h", group(`[]`, `[]`)},
		{kindGroup, "g", strings.Replace(group(`[]`, `[]`), "AGPA", "AIDA", 1)},
		{kindGroup, "g", strings.Replace(group(`[]`, `[]`), `"version":1`, `"version":2`, 1)},
		{kindGroup, "g", strings.Replace(group(`[]`, `[]`), `"version"`, `"extra":1,"version"`, 1)},
		{kindAccessKey, "AKIAMZXW6YTBOI2DKNRX", key("nobody", "AIDAMZXW6YTBOI2DKNRXG", secret)},
		{kindAccessKey, "AKIAMZXW6YTBOI2DKNRX", key("alice", "AIDAMZXW6YTBOI2DKNRXG", secret)}, // not her id
		{kindAccessKey, "AKIAMZXW6YTBOI2DKNRX", key("alice", "ID", "short")},
		{kindAccessKey, "AKIAMZXW6YTBOI2DKNRY", key("alice", "ID", secret)},
		{kindAccessKey, "AKIAMZXW6YTBOI2DKNRX", strings.Replace(key("alice", "ID", secret), `"version":1`, `"version":7`, 1)},
	} {
		w := newWorld(t)
		p := w.create(t, "alice", nil)
		ok(t, w.ledger.Update(func(tx *ledger.Tx) error {
			tx.Put(c.kind, c.id, []byte(strings.ReplaceAll(c.doc, `"ID"`, `"`+p.ID+`"`)))
			return nil
		}))
		if _, err := Open(w.ledger, account, w.clock); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", c.doc, err)
		}
	}
}

func FuzzDecodeGroupAndKey(f *testing.F) {
	for name, id := range map[string]string{"testdata/group.json": "auditors", "testdata/access-key.json": "AKIAMZXW6YTBOI2DKNRX"} {
		b, err := os.ReadFile(name)
		ok(f, err)
		f.Add(id, b)
	}
	f.Fuzz(func(t *testing.T, id string, doc []byte) {
		if g, err := decodeGroup(id, doc); err == nil {
			again, err := encodeGroup(g)
			ok(t, err)
			if h, err := decodeGroup(id, again); err != nil || fmt.Sprint(g) != fmt.Sprint(h) {
				t.Fatalf("%+v became %+v, %v", g, h, err)
			}
		}
		if k, user, err := decodeAccessKey(id, doc); err == nil {
			again, err := encodeAccessKey(k, user)
			ok(t, err)
			if l, u, err := decodeAccessKey(id, again); err != nil || u != user || l.AccessKey != k.AccessKey || l.secret.Expose() != k.secret.Expose() {
				t.Fatalf("%+v became %+v, %v", k, l, err)
			}
		}
	})
}
