package policy

import (
	"strings"
	"testing"
)

// statement builders
func allowTo(principal, action string) string {
	return `{"Effect":"Allow","Principal":` + principal + `,"Action":"` + action + `","Resource":"*"}`
}

func denyTo(principal, action string) string {
	return `{"Effect":"Deny","Principal":` + principal + `,"Action":"` + action + `","Resource":"*"}`
}

func aws(principals ...string) string { return `{"AWS":["` + strings.Join(principals, `","`) + `"]}` }

const (
	rootARN    = "arn:aws:iam::111122223333:root"
	otherRoot  = "arn:aws:iam::444455556666:root"
	roleARN    = "arn:aws:iam::111122223333:role/app"
	sessionARN = "arn:aws:sts::111122223333:assumed-role/app/s1"
	allowAny   = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`
	allowList  = `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"kms:List*","Resource":"*"}}`
	denyAny    = `{"Version":"2012-10-17","Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}`
)

// C.1: which principals a caller matches.
func TestPrincipalMatching(t *testing.T) {
	root := identity(t, rootARN)
	alice, s1 := user(t, "alice"), session(t, "s1")
	eve := identity(t, "arn:aws:iam::444455556666:user/eve")
	pathy := identity(t, "arn:aws:iam::111122223333:user/dept/alice")
	for _, c := range []struct {
		who       *Identity
		principal string
		want      coverage
	}{
		{root, `"*"`, coverSelf},
		{root, aws(testAccount), coverSelf | coverAccount},
		{root, aws(rootARN), coverSelf | coverAccount},
		{root, aws(otherRoot), coverNone},
		{root, aws(iamARN + "user/alice"), coverNone},
		{alice, `"*"`, coverSelf},
		{alice, aws("*"), coverSelf},
		{alice, aws(iamARN + "user/alice"), coverSelf},
		{alice, aws(iamARN + "user/Alice"), coverNone},
		{alice, aws(iamARN + "user/dept/alice"), coverNone},
		{pathy, aws(iamARN + "user/dept/alice"), coverSelf},
		{pathy, aws(iamARN + "user/alice"), coverNone},
		{alice, aws(testAccount), coverAccount},
		{alice, aws(rootARN, iamARN+"user/alice"), coverAccount | coverSelf},
		{alice, aws(alice.ID), coverSelf},
		{alice, aws("AIDABBBBBBBBBBBBBBBBB"), coverNone},
		{alice, `{"Service":"s3.amazonaws.com"}`, coverNone},
		{alice, `{"Federated":"` + iamARN + `user/alice"}`, coverNone},
		{s1, aws(sessionARN), coverSession},
		{s1, aws(roleARN), coverSelf},
		{s1, aws("AROAAAAAAAAAAAAAAAAAA"), coverSelf},
		{s1, aws("AROAAAAAAAAAAAAAAAAAA:s1"), coverSession},
		{s1, aws("AROAAAAAAAAAAAAAAAAAA:s2"), coverNone},
		{s1, aws("arn:aws:sts::111122223333:assumed-role/app/s2"), coverNone},
		{s1, aws("arn:aws:sts::111122223333:assumed-role/other/s1"), coverNone},
		{s1, aws(testAccount), coverAccount},
		{s1, `"*"`, coverSelf},
		{eve, aws(testAccount), coverNone},
		{eve, aws(otherAcct), coverAccount},
		{eve, aws("arn:aws:iam::444455556666:user/eve"), coverSelf},
		{eve, aws(iamARN + "user/eve"), coverNone},
	} {
		d := mustParse(t, KeyPolicy, doc(allowTo(c.principal, "kms:*")))
		if got := d.statements[0].principals.covers(c.who); got != c.want {
			t.Errorf("%s by %s: %b, want %b", c.who.ARN, c.principal, got, c.want)
		}
	}
}

// The deny applies if any member of the chain is missing from the list.
func TestNotPrincipalChain(t *testing.T) {
	alice, s1, root := user(t, "alice", allowAny), session(t, "s1", allowAny), identity(t, rootARN)
	for _, c := range []struct {
		who    *Identity
		list   string
		denied bool
	}{
		{alice, aws(rootARN, alice.ARN), false},
		{alice, aws(testAccount, alice.ARN), false},
		{alice, aws(alice.ARN), true},
		{alice, aws(rootARN), true},
		{alice, aws(rootARN, iamARN+"user/bob"), true},
		{alice, aws("*"), false},
		{s1, aws(rootARN, roleARN, sessionARN), false},
		{s1, aws(rootARN, roleARN), true},
		{s1, aws(roleARN, sessionARN), true},
		{root, aws(rootARN), false},
		{root, aws(alice.ARN), true},
	} {
		k := mustParse(t, KeyPolicy, doc(allowTo(aws(rootARN), "kms:*"), `{"Effect":"Deny","NotPrincipal":`+c.list+`,"Action":"kms:*","Resource":"*"}`))
		d := DecideKMS(c.who, &Request{Action: "kms:Decrypt", Resource: testKey}, k, nil)
		if d.Allowed() == c.denied {
			t.Errorf("%s with %s: %s", c.who.ARN, c.list, d.Reason())
		}
	}
}

func with(who *Identity, t *testing.T, boundary, sessionPolicy string) *Identity {
	t.Helper()
	if boundary != "" {
		who.Boundary = &Named{"boundary", mustParse(t, IdentityPolicy, boundary)}
	}
	if sessionPolicy != "" {
		who.SessionPolicy = &Named{"scope", mustParse(t, IdentityPolicy, sessionPolicy)}
	}
	return who
}

// C.3: the KMS decision, and the reason it gives.
func TestDecideKMS(t *testing.T) {
	root := identity(t, rootARN)
	delegate := allowTo(aws(rootARN), "kms:*")
	for _, c := range []struct {
		name   string
		who    *Identity
		key    string
		want   Effect
		source Source
		detail string // of Decider
	}{
		{"nothing at all", user(t, "alice"), doc(allowTo(aws(iamARN+"user/bob"), "kms:*")), ImplicitDeny, None, "no resource-based policy"},
		{"IAM without delegation", user(t, "alice", allowAny), doc(allowTo(aws(iamARN+"user/bob"), "kms:*")), ImplicitDeny, None, "no resource-based policy"},
		{"delegation without IAM", user(t, "alice"), doc(delegate), ImplicitDeny, None, "no identity-based policy"},
		{"delegation and IAM", user(t, "alice", allowList, allowAny), doc(delegate), Allow, IdentityPolicies, "statement 1 of identity-based policy b"},
		{"direct", user(t, "alice"), doc(delegate, allowTo(aws(iamARN+"user/alice"), "kms:Decrypt")), Allow, KeyPolicySource, "statement 2 of the key policy"},
		{"direct by star", user(t, "alice"), doc(allowTo(`"*"`, "kms:Decrypt")), Allow, KeyPolicySource, "statement 1 of the key policy"},
		{"root by delegation", root, doc(delegate), Allow, KeyPolicySource, "statement 1 of the key policy"},
		{"root by star", root, doc(allowTo(`"*"`, "kms:*")), Allow, KeyPolicySource, "statement 1 of the key policy"},
		{"root without either", root, doc(allowTo(aws(iamARN+"user/alice"), "kms:*")), ImplicitDeny, None, "no resource-based policy"},
		{"deny in key policy", user(t, "alice", allowAny), doc(delegate, denyTo(aws(iamARN+"user/alice"), "kms:D*")), ExplicitDeny, KeyPolicySource, "statement 2 of the key policy"},
		{"deny of the account", user(t, "alice", allowAny), doc(delegate, denyTo(aws(rootARN), "kms:D*")), ExplicitDeny, KeyPolicySource, "statement 2 of the key policy"},
		{"deny of the role", session(t, "s1", allowAny), doc(delegate, denyTo(aws(roleARN), "kms:D*")), ExplicitDeny, KeyPolicySource, "statement 2 of the key policy"},
		{"deny of another session", session(t, "s2", allowAny), doc(delegate, denyTo(aws(sessionARN), "kms:D*")), Allow, IdentityPolicies, "statement 1 of identity-based policy a"},
		{"deny in IAM without delegation", user(t, "alice", denyAny), doc(allowTo(aws(iamARN+"user/alice"), "kms:*")), ExplicitDeny, IdentityPolicies, "statement 1 of identity-based policy a"},
		{"deny in boundary", with(user(t, "alice"), t, denyAny, ""), doc(allowTo(aws(iamARN+"user/alice"), "kms:*")), ExplicitDeny, Boundary, "statement 1 of permissions boundary boundary"},
		{"deny in session policy", with(session(t, "s1"), t, "", denyAny), doc(allowTo(aws(sessionARN), "kms:*")), ExplicitDeny, SessionPolicy, "statement 1 of session policy scope"},
		{"boundary cuts IAM", with(user(t, "alice", allowAny), t, allowList, ""), doc(delegate), ImplicitDeny, None, "no permissions boundary"},
		{"boundary alone gives nothing", with(user(t, "alice"), t, allowAny, ""), doc(delegate), ImplicitDeny, None, "no identity-based policy"},
		{"boundary does not cut a direct allow of a user", with(user(t, "alice"), t, allowList, ""), doc(allowTo(aws(iamARN+"user/alice"), "kms:*")), Allow, KeyPolicySource, "statement 1 of the key policy"},
		{"session policy cuts IAM", with(session(t, "s1", allowAny), t, "", allowList), doc(delegate), ImplicitDeny, None, "no session policy"},
		{"session policy cuts an allow of the role", with(session(t, "s1"), t, "", allowList), doc(allowTo(aws(roleARN), "kms:*")), ImplicitDeny, None, "no session policy"},
		{"boundary cuts an allow of the role", with(session(t, "s1"), t, allowList, ""), doc(allowTo(aws(roleARN), "kms:*")), ImplicitDeny, None, "no permissions boundary"},
		{"session policy does not cut an allow of the session", with(session(t, "s1"), t, "", allowList), doc(allowTo(aws(sessionARN), "kms:*")), Allow, KeyPolicySource, "statement 1 of the key policy"},
		{"allow of the role", session(t, "s1"), doc(allowTo(aws(roleARN), "kms:*")), Allow, KeyPolicySource, "statement 1 of the key policy"},
		{"statement without Action", user(t, "alice"), doc(`{"Effect":"Allow","Principal":"*","Resource":"*"}`), ImplicitDeny, None, "no resource-based policy"},
		{"deny without Resource", user(t, "alice"), doc(allowTo(`"*"`, "kms:*"), `{"Effect":"Deny","Principal":"*","Action":"*"}`), Allow, KeyPolicySource, "statement 1 of the key policy"},
		{"resource of another key", user(t, "alice"), doc(`{"Effect":"Allow","Principal":"*","Action":"*","Resource":"arn:aws:kms:us-east-1:111122223333:key/x"}`), ImplicitDeny, None, "no resource-based policy"},
	} {
		k := mustParse(t, KeyPolicy, c.key)
		d := DecideKMS(c.who, &Request{Action: "kms:Decrypt", Resource: testKey}, k, nil)
		if d.Effect != c.want || d.Source != c.source || d.Decider() != c.detail {
			t.Errorf("%s: %v, %v, %q; want %v, %v, %q", c.name, d.Effect, d.Source, d.Decider(), c.want, c.source, c.detail)
		}
	}
	if d := DecideKMS(user(t, "alice", allowAny), &Request{Action: "kms:Decrypt", Resource: testKey}, nil, nil); d.Allowed() {
		t.Error("a key without policy lets in")
	}
}

func TestCrossAccount(t *testing.T) {
	const eveARN = "arn:aws:iam::444455556666:user/eve"
	eve := func(policies ...string) *Identity { return identity(t, eveARN, policies...) }
	foreignRoot := identity(t, otherRoot)
	for _, c := range []struct {
		name   string
		who    *Identity
		policy string
		kms    bool
		s3     bool
	}{
		{"IAM only", eve(allowAny), allowTo(aws(rootARN), "*"), false, false},
		{"resource only, by ARN", eve(), allowTo(aws(eveARN), "*"), false, false},
		{"resource only, by star", eve(), allowTo(`"*"`, "*"), false, false},
		{"both, by ARN", eve(allowAny), allowTo(aws(eveARN), "*"), true, true},
		{"both, by star", eve(allowAny), allowTo(`"*"`, "*"), true, true},
		{"both, by account", eve(allowAny), allowTo(aws(otherAcct), "*"), true, true},
		{"account without IAM", eve(), allowTo(aws(otherAcct), "*"), false, false},
		{"both, with a boundary", with(eve(allowAny), t, allowList, ""), allowTo(aws(eveARN), "*"), false, false},
		{"foreign root", foreignRoot, allowTo(aws(otherAcct), "*"), true, true},
		{"foreign root of nothing", foreignRoot, allowTo(aws(rootARN), "*"), false, false},
	} {
		if d := DecideKMS(c.who, &Request{Action: "kms:Decrypt", Resource: testKey}, mustParse(t, KeyPolicy, doc(c.policy)), nil); d.Allowed() != c.kms {
			t.Errorf("KMS, %s: %s", c.name, d.Reason())
		}
		req := &Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::b/o", ResourceAccount: testAccount}
		if d := DecideS3(c.who, req, mustParse(t, BucketPolicy, doc(c.policy))); d.Allowed() != c.s3 {
			t.Errorf("S3, %s: %s", c.name, d.Reason())
		}
	}
}

// C.8.
func TestDecideS3(t *testing.T) {
	read := `{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/in/*"}}`
	for _, c := range []struct {
		name, resource string
		who            *Identity
		bucket         string
		want           Effect
		detail         string
	}{
		{"nothing", "b/o", user(t, "alice"), "", ImplicitDeny, "no identity-based policy"},
		{"identity alone", "b/in/o", user(t, "alice", read), "", Allow, "statement 1 of identity-based policy a"},
		{"other prefix", "b/out/o", user(t, "alice", read), "", ImplicitDeny, "no identity-based policy"},
		{"bucket alone", "b/o", user(t, "alice"), doc(allowTo(aws(iamARN+"user/alice"), "s3:GetObject")), Allow, "statement 1 of the bucket policy"},
		{"bucket delegates, IAM silent", "b/o", user(t, "alice"), doc(allowTo(aws(rootARN), "s3:*")), ImplicitDeny, "no identity-based policy"},
		{"bucket delegates, IAM allows", "b/o", user(t, "alice", s3FullPolicy), doc(allowTo(aws(rootARN), "s3:*")), Allow, "statement 1 of identity-based policy a"},
		{"bucket denies", "b/o", user(t, "alice", s3FullPolicy), doc(denyTo(`"*"`, "s3:GetObject")), ExplicitDeny, "statement 1 of the bucket policy"},
		{"identity denies", "b/o", user(t, "alice", denyAny), doc(allowTo(`"*"`, "s3:*")), ExplicitDeny, "statement 1 of identity-based policy a"},
		{"boundary cuts", "b/o", with(user(t, "alice", allowAny), t, allowList, ""), "", ImplicitDeny, "no permissions boundary"},
		{"root", "b/o", identity(t, rootARN), "", Allow, "being the account root user"},
		{"root denied", "b/o", identity(t, rootARN), doc(denyTo(aws(rootARN), "s3:*")), ExplicitDeny, "statement 1 of the bucket policy"},
		{"role by bucket, cut", "b/o", with(session(t, "s1"), t, "", allowList), doc(allowTo(aws(roleARN), "s3:*")), ImplicitDeny, "no identity-based policy"},
		{"session by bucket, not cut", "b/o", with(session(t, "s1"), t, "", allowList), doc(allowTo(aws(sessionARN), "s3:*")), Allow, "statement 1 of the bucket policy"},
	} {
		var b *Document
		if c.bucket != "" {
			b = mustParse(t, BucketPolicy, c.bucket)
		}
		d := DecideS3(c.who, &Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::" + c.resource}, b)
		if d.Effect != c.want || d.Decider() != c.detail {
			t.Errorf("%s: %v, %q; want %v, %q", c.name, d.Effect, d.Decider(), c.want, c.detail)
		}
	}
}

// The standard policy that refuses wrongly encrypted uploads also refuses the
// upload that relies on the bucket's default (D.7).
func TestRefuseUploads(t *testing.T) {
	b := mustParse(t, BucketPolicy, doc(`{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::b/*",
		"Condition":{"StringNotEquals":{"s3:x-amz-server-side-encryption":"aws:kms"}}}`))
	who := user(t, "alice", s3FullPolicy)
	for value, want := range map[string]bool{"": false, "AES256": false, "aws:kms": true} {
		k := MapKeys{}
		if value != "" {
			k.Add("s3:x-amz-server-side-encryption", value)
		}
		if d := DecideS3(who, &Request{Action: "s3:PutObject", Resource: "arn:aws:s3:::b/o", Keys: k}, b); d.Allowed() != want {
			t.Errorf("header %q: %s", value, d.Reason())
		}
	}
}

func TestDecideIdentity(t *testing.T) {
	create := &Request{Action: "kms:CreateKey", Resource: "*"}
	onlyKeys := doc(`{"Effect":"Allow","Action":"kms:*","Resource":"arn:aws:kms:*:*:key/*"}`)
	for _, c := range []struct {
		who  *Identity
		want string
	}{
		{user(t, "alice"), "no identity-based policy"},
		{user(t, "alice", allowAny), "statement 1 of identity-based policy a"},
		{user(t, "alice", onlyKeys), "no identity-based policy"}, // CreateKey has no key: Resource must be "*"
		{user(t, "alice", allowAny, denyAny), "statement 1 of identity-based policy b"},
		{with(user(t, "alice", allowAny), t, allowList, ""), "no permissions boundary"},
		{identity(t, rootARN), "being the account root user"},
	} {
		if got := DecideIdentity(c.who, create).Decider(); got != c.want {
			t.Errorf("%s: %q, want %q", c.who.ARN, got, c.want)
		}
	}
}

// D.8: AWS's texts.
func TestReason(t *testing.T) {
	alice := user(t, "alice")
	req := &Request{Action: "kms:Decrypt", Resource: testKey}
	const head = "User: arn:aws:iam::111122223333:user/alice is not authorized to perform: kms:Decrypt on resource: " + testKey
	sid := `{"Sid":"Nobody ever","Effect":"Deny","Principal":"*","Action":"*","Resource":"*"}`
	for _, c := range []struct {
		who  *Identity
		key  string
		want string
	}{
		{alice, string(DefaultKeyPolicy(testAccount)), head + " because no identity-based policy allows the kms:Decrypt action"},
		{alice, doc(allowTo(aws(roleARN), "kms:*")), head + " because no resource-based policy allows the kms:Decrypt action"},
		{with(user(t, "alice", allowAny), t, allowList, ""), string(DefaultKeyPolicy(testAccount)), head + " because no permissions boundary allows the kms:Decrypt action"},
		{alice, doc(sid), head + " with an explicit deny in a resource-based policy"},
		{user(t, "alice", denyAny), string(DefaultKeyPolicy(testAccount)), head + " with an explicit deny in an identity-based policy"},
		{user(t, "alice", allowAny), string(DefaultKeyPolicy(testAccount)), strings.Replace(head, "not ", "", 1) + " by statement 1 of identity-based policy a, as statement 1 (\"Enable IAM User Permissions\") of the key policy leaves it to identity-based policies"},
		{user(t, "alice", allowAny), doc(allowTo(aws(roleARN), "kms:*"), allowTo(aws(rootARN), "kms:Decrypt")), strings.Replace(head, "not ", "", 1) + " by statement 1 of identity-based policy a, as statement 2 of the key policy leaves it to identity-based policies"},
		{alice, doc(`{"Sid":"All \"of\" us","Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}`), strings.Replace(head, "not ", "", 1) + ` by statement 1 ("All \"of\" us") of the key policy`},
	} {
		if got := DecideKMS(c.who, req, mustParse(t, KeyPolicy, c.key), nil).Reason(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	d := DecideKMS(alice, req, mustParse(t, KeyPolicy, doc(sid)), nil)
	if d.Sid != "Nobody ever" || d.Statement != 1 || d.Policy != "key policy" || d.Missing != "" {
		t.Errorf("%+v", d)
	}
}

// C.5.
func TestGrants(t *testing.T) {
	admin := mustParse(t, KeyPolicy, doc(allowTo(aws(iamARN+"user/admin"), "kms:*")))
	bob, s1, root := user(t, "bob"), session(t, "s1"), identity(t, rootARN)
	const arn = "arn:aws:s3:::pay/q1.csv"
	ctx := map[string]string{"aws:s3:arn": arn}
	grant := func(grantee string, ops ...string) Grant { return Grant{ID: "g1", Grantee: grantee, Operations: ops} }
	limited := func(subset, equals map[string]string) Grant {
		return Grant{ID: "g1", Grantee: bob.ARN, Operations: []string{"Decrypt", "DescribeKey", "RetireGrant"}, Subset: subset, Equals: equals}
	}
	for _, c := range []struct {
		name   string
		who    *Identity
		action string
		ctx    map[string]string
		grant  Grant
		want   bool
	}{
		{"user", bob, "kms:Decrypt", ctx, grant(bob.ARN, "Decrypt"), true},
		{"any case of the action", bob, "KMS:decrypt", ctx, grant(bob.ARN, "Decrypt"), true},
		{"other operation", bob, "kms:Encrypt", ctx, grant(bob.ARN, "Decrypt"), false},
		{"no prefix match of operations", bob, "kms:GenerateDataKeyWithoutPlaintext", ctx, grant(bob.ARN, "GenerateDataKey"), false},
		{"other service", bob, "s3:Decrypt", ctx, grant(bob.ARN, "Decrypt"), false},
		{"unique id", bob, "kms:Decrypt", ctx, grant(bob.ID, "Decrypt"), true},
		{"nobody", bob, "kms:Decrypt", ctx, grant("", "Decrypt"), false},
		{"service principal", bob, "kms:Decrypt", ctx, grant("s3.amazonaws.com", "Decrypt"), false},
		{"session", s1, "kms:Decrypt", ctx, grant(s1.ARN, "Decrypt"), true},
		{"role", s1, "kms:Decrypt", ctx, grant(roleARN, "Decrypt"), true},
		{"session under a session policy", with(session(t, "s1"), t, "", allowList), "kms:Decrypt", ctx, grant(s1.ARN, "Decrypt"), true},
		{"role under a session policy", with(session(t, "s1"), t, "", allowList), "kms:Decrypt", ctx, grant(roleARN, "Decrypt"), false},
		{"user under a boundary", with(user(t, "bob"), t, allowList, ""), "kms:Decrypt", ctx, grant(bob.ARN, "Decrypt"), true},
		{"denied in the boundary", with(user(t, "bob"), t, denyAny, ""), "kms:Decrypt", ctx, grant(bob.ARN, "Decrypt"), false},
		{"account, IAM silent", bob, "kms:Decrypt", ctx, grant(rootARN, "Decrypt"), false},
		{"account, IAM allows", user(t, "bob", allowAny), "kms:Decrypt", ctx, grant(testAccount, "Decrypt"), true},
		{"account, root user", root, "kms:Decrypt", ctx, grant(rootARN, "Decrypt"), true},
		{"other account, IAM allows", identity(t, "arn:aws:iam::444455556666:user/eve", allowAny), "kms:Decrypt", ctx, grant("arn:aws:iam::444455556666:user/eve", "Decrypt"), true},
		{"subset with more", bob, "kms:Decrypt", map[string]string{"aws:s3:arn": arn, "x": "y"}, limited(ctx, nil), true},
		{"subset, other value", bob, "kms:Decrypt", map[string]string{"aws:s3:arn": arn + "2"}, limited(ctx, nil), false},
		{"subset, other case of the value", bob, "kms:Decrypt", map[string]string{"aws:s3:arn": strings.ToUpper(arn)}, limited(ctx, nil), false},
		{"subset, other case of the name", bob, "kms:Decrypt", map[string]string{"AWS:s3:arn": arn}, limited(ctx, nil), false},
		{"equals", bob, "kms:Decrypt", ctx, limited(nil, ctx), true},
		{"equals with more", bob, "kms:Decrypt", map[string]string{"aws:s3:arn": arn, "x": "y"}, limited(nil, ctx), false},
		{"equals, nothing", bob, "kms:Decrypt", map[string]string{}, limited(nil, ctx), false},
		{"DescribeKey without context", bob, "kms:DescribeKey", nil, limited(nil, ctx), true},
		{"RetireGrant without context", bob, "kms:RetireGrant", nil, limited(nil, ctx), true},
		{"retire by the retiring principal", s1, "kms:RetireGrant", nil, Grant{ID: "g", Grantee: bob.ARN, Operations: []string{"Decrypt"}, Retiring: roleARN}, true},
		{"retire by a stranger", user(t, "carol", allowAny), "kms:RetireGrant", nil, Grant{ID: "g", Grantee: bob.ARN, Operations: []string{"Decrypt", "RetireGrant"}}, false},
		{"retire by root", root, "kms:RetireGrant", nil, grant(bob.ARN, "Decrypt"), true},
		{"retire, denied", user(t, "bob", denyAny), "kms:RetireGrant", nil, grant(bob.ARN, "RetireGrant"), false},
		{"create without a child", bob, "kms:CreateGrant", nil, grant(bob.ARN, "CreateGrant", "Decrypt"), false},
	} {
		d := DecideKMS(c.who, &Request{Action: c.action, Resource: testKey, Context: c.ctx}, admin, []Grant{{Grantee: "arn:aws:iam::111122223333:user/nobody"}, c.grant})
		if d.Allowed() != c.want {
			t.Errorf("%s: %s", c.name, d.Reason())
		}
	}
	// The context in condition keys instead of Request.Context.
	k := keys("kms:EncryptionContextKeys", "aws:s3:arn", "kms:EncryptionContext:aws:s3:arn", arn)
	g := []Grant{limited(nil, ctx)}
	if d := DecideKMS(bob, &Request{Action: "kms:Decrypt", Resource: testKey, Keys: k}, admin, g); !d.Allowed() || d.Source != GrantSource || d.Policy != "g1" {
		t.Error(d.Reason())
	}
	if d := DecideKMS(bob, &Request{Action: "kms:Decrypt", Resource: testKey, Keys: keys("kms:EncryptionContext:aws:s3:arn", arn)}, admin, g); d.Allowed() {
		t.Error("a context without names meets a constraint")
	}
}

func TestChildGrants(t *testing.T) {
	a, b := map[string]string{"a": "1"}, map[string]string{"a": "1", "b": "2"}
	ops := []string{"CreateGrant", "Decrypt", "Encrypt"}
	for _, c := range []struct {
		name          string
		parent, child Grant
		want          bool
	}{
		{"subset of operations", Grant{Operations: ops}, Grant{Operations: ops[1:2]}, true},
		{"same operations", Grant{Operations: ops}, Grant{Operations: ops}, true},
		{"more operations", Grant{Operations: ops}, Grant{Operations: []string{"Decrypt", "DescribeKey"}}, false},
		{"no operations", Grant{Operations: ops}, Grant{}, false},
		{"child stricter", Grant{Operations: ops}, Grant{Operations: ops, Equals: a}, true},
		{"same subset", Grant{Operations: ops, Subset: a}, Grant{Operations: ops, Subset: a}, true},
		{"larger subset", Grant{Operations: ops, Subset: a}, Grant{Operations: ops, Subset: b}, true},
		{"smaller subset", Grant{Operations: ops, Subset: b}, Grant{Operations: ops, Subset: a}, false},
		{"subset by equals", Grant{Operations: ops, Subset: a}, Grant{Operations: ops, Equals: b}, true},
		{"no constraint", Grant{Operations: ops, Subset: a}, Grant{Operations: ops}, false},
		{"same equals", Grant{Operations: ops, Equals: b}, Grant{Operations: ops, Equals: b}, true},
		{"equals by subset", Grant{Operations: ops, Equals: b}, Grant{Operations: ops, Subset: b}, false},
		{"other equals", Grant{Operations: ops, Equals: b}, Grant{Operations: ops, Equals: a}, false},
	} {
		if got := c.parent.covers(&c.child); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestLockoutCheck(t *testing.T) {
	for _, c := range []struct {
		who  *Identity
		key  string
		want bool
	}{
		{user(t, "alice", allowAny), string(DefaultKeyPolicy(testAccount)), true},
		{user(t, "alice", s3FullPolicy), string(DefaultKeyPolicy(testAccount)), false},
		{user(t, "alice", doc(`{"Effect":"Allow","Action":"kms:Put*","Resource":"`+testKey+`"}`)), string(DefaultKeyPolicy(testAccount)), true},
		{user(t, "alice"), string(ConsoleKeyPolicy(testAccount, []string{iamARN + "user/alice"}, nil)), true},
		{user(t, "alice"), string(ConsoleKeyPolicy(testAccount, nil, []string{iamARN + "user/alice"})), false},
		{user(t, "alice", allowAny), doc(allowTo(aws(iamARN+"user/bob"), "kms:*")), false},
		{user(t, "alice", allowAny), string(ManagedS3KeyPolicy(testAccount, "us-east-1")), false},
		{identity(t, rootARN), string(DefaultKeyPolicy(testAccount)), true},
	} {
		err := LockoutCheck(c.who, mustParse(t, KeyPolicy, c.key), testKey)
		if (err == nil) != c.want {
			t.Errorf("%s with %s: %v", c.who.ARN, c.key, err)
		}
		if err != nil && err.Error() != "The new key policy will not allow you to update the key policy in the future." {
			t.Error(err)
		}
	}
}
