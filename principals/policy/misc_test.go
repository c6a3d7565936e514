package policy

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// jsonEqual compares documents as values.
func jsonEqual(t *testing.T, got []byte, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("%s: %v", got, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestBuiltInTexts(t *testing.T) {
	jsonEqual(t, DefaultKeyPolicy("000000000000"), `{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow",
		"Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":"kms:*","Resource":"*"}]}`)
	jsonEqual(t, ManagedS3KeyPolicy("000000000000", "eu-central-1"), `{"Version":"2012-10-17","Id":"auto-s3-2","Statement":[
		{"Sid":"Allow access through S3 for all principals in the account that are authorized to use S3",
		"Effect":"Allow","Principal":{"AWS":"*"},
		"Action":["kms:Encrypt","kms:Decrypt","kms:ReEncrypt*","kms:GenerateDataKey*","kms:DescribeKey"],"Resource":"*",
		"Condition":{"StringEquals":{"kms:CallerAccount":"000000000000","kms:ViaService":"s3.eu-central-1.amazonaws.com"}}},
		{"Sid":"Allow direct access to key metadata to the account","Effect":"Allow",
		"Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":["kms:Describe*","kms:Get*","kms:List*"],"Resource":"*"}]}`)
	jsonEqual(t, ConsoleKeyPolicy("000000000000", []string{"a1", "a2"}, []string{`u"1`}), `{"Version":"2012-10-17","Id":"key-consolepolicy-3","Statement":[
		{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":"kms:*","Resource":"*"},
		{"Sid":"Allow access for Key Administrators","Effect":"Allow","Principal":{"AWS":["a1","a2"]},"Action":["kms:Create*","kms:Describe*","kms:Enable*","kms:List*",
		"kms:Put*","kms:Update*","kms:Revoke*","kms:Disable*","kms:Get*","kms:Delete*","kms:TagResource","kms:UntagResource","kms:ScheduleKeyDeletion","kms:CancelKeyDeletion"],"Resource":"*"},
		{"Sid":"Allow use of the key","Effect":"Allow","Principal":{"AWS":"u\"1"},"Action":["kms:Encrypt","kms:Decrypt","kms:ReEncrypt*","kms:GenerateDataKey*","kms:DescribeKey"],"Resource":"*"},
		{"Sid":"Allow attachment of persistent resources","Effect":"Allow","Principal":{"AWS":"u\"1"},"Action":["kms:CreateGrant","kms:ListGrants","kms:RevokeGrant"],"Resource":"*",
		"Condition":{"Bool":{"kms:GrantIsForAWSResource":"true"}}}]}`)
	if d := mustParse(t, KeyPolicy, string(ConsoleKeyPolicy(testAccount, nil, nil))); len(d.statements) != 1 || d.ID() != "key-consolepolicy-3" {
		t.Error("a console policy for nobody must be the default statement alone")
	}
}

// The policy of aws/s3 explains itself through the ordinary evaluator.
func TestManagedS3Key(t *testing.T) {
	k := mustParse(t, KeyPolicy, string(ManagedS3KeyPolicy(testAccount, "us-east-1")))
	viaS3 := keys("kms:ViaService", "s3.us-east-1.amazonaws.com")
	for _, c := range []struct {
		who    *Identity
		action string
		keys   Keys
		want   bool
	}{
		{user(t, "bob"), "kms:Decrypt", viaS3, true},
		{user(t, "bob"), "kms:GenerateDataKey", viaS3, true},
		{user(t, "bob"), "kms:Decrypt", nil, false},
		{user(t, "bob", adminPolicy), "kms:Decrypt", nil, false},
		{user(t, "bob", adminPolicy), "kms:DescribeKey", nil, true},
		{user(t, "bob", adminPolicy), "kms:PutKeyPolicy", viaS3, false},
		{identity(t, rootARN), "kms:PutKeyPolicy", nil, false},
		{identity(t, "arn:aws:iam::444455556666:user/eve", adminPolicy), "kms:Decrypt", viaS3, false},
		{user(t, "bob"), "kms:Decrypt", keys("kms:ViaService", "s3.eu-west-1.amazonaws.com"), false},
	} {
		if d := DecideKMS(c.who, &Request{Action: c.action, Resource: testKey, Keys: c.keys}, k, nil); d.Allowed() != c.want {
			t.Error(d.Reason())
		}
	}
}

// A policy that is put names unique ids: whoever is made again under an old name is somebody else.
func TestRename(t *testing.T) {
	alice, bob := user(t, "alice"), user(t, "bob")
	text := `{ "Version" : "2012-10-17", "Id": "` + alice.ARN + `",
  "Statement" : [ ` + allowTo(`{ "AWS" : [ "`+rootARN+`" , "`+alice.ARN+`","`+bob.ARN+`", "`+roleARN+`" ], "Service":"s3.amazonaws.com" }`, "kms:*") + `,
    {"Effect":"Deny","NotPrincipal":{"AWS":"` + strings.ReplaceAll(bob.ARN, "/", `\/`) + `"},"Action":"s3:*","Resource":"*",
     "Condition":{"ArnEquals":{"aws:PrincipalArn":"` + alice.ARN + `","aws:x":["` + alice.ARN + `"]}}},
    {"Sid":"AWS","Effect":"Allow","Principal":"*","Action":["s3:*"],"Resource":"*","Condition":{"Bool":{"aws:y":"true"}}} ] }
`
	d := mustParse(t, KeyPolicy, text)
	if got, want := d.Principals(), []string{roleARN, alice.ARN, bob.ARN}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	ids := map[string]string{alice.ARN: alice.ID, bob.ARN: bob.ID}
	names := map[string]string{alice.ID: alice.ARN, bob.ID: bob.ARN}
	through := func(m map[string]string) func(string) string {
		return func(p string) string {
			if to, ok := m[p]; ok {
				return to
			}
			return p
		}
	}
	bound := mustParse(t, KeyPolicy, string(d.rename(through(ids))))
	if got, want := bound.Principals(), []string{alice.ID, bob.ID, roleARN}; !slices.Equal(got, want) {
		t.Errorf("bound: %v", got)
	}
	if got := strings.Count(string(bound.Text()), alice.ARN); got != 3 {
		t.Errorf("the Id and the conditions hold names, not principals: %s", bound.Text())
	}
	want := strings.ReplaceAll(text, `\/`, "/")
	if got := string(bound.rename(through(names))); got != want {
		t.Errorf("shown\n%s\nput\n%s", got, want)
	}
	if got := string(d.rename(func(p string) string { return p })); got != text {
		t.Errorf("left alone, but changed: %s", got)
	}
	again := *alice
	again.ID = "AIDAZZZZZZZZZZZZZZZZZ"
	for _, c := range []struct {
		who  *Identity
		d    *Document
		want bool
	}{{alice, bound, true}, {bob, bound, true}, {&again, bound, false}, {&again, d, true}} {
		got := DecideKMS(c.who, &Request{Action: "kms:Decrypt", Resource: testKey}, c.d, nil)
		if got.Allowed() != c.want {
			t.Errorf("%s: %s", c.who.ID, got.Reason())
		}
	}
}

func TestExplain(t *testing.T) {
	who := with(user(t, "alice", doc(`{"Sid":"X","Effect":"Allow","Action":"kms:Decrypt","Resource":"*","Condition":{"StringEquals":{"kms:ViaService":"s3"}}}`)), t, allowAny, "")
	k := mustParse(t, KeyPolicy, doc(allowTo(aws(rootARN), "kms:*"), allowTo(aws(roleARN), "*"), allowTo(`"*"`, "kms:Encrypt"),
		`{"Effect":"Deny","NotPrincipal":{"AWS":["111122223333","`+who.ARN+`"]},"Action":"*","Resource":"*"}`,
		`{"Effect":"Deny","Principal":"*","NotAction":"kms:*","Resource":"*"}`,
		`{"Effect":"Deny","Principal":"*","Action":"kms:*","NotResource":"*"}`))
	steps := Explain(who, &Request{Action: "kms:Decrypt", Resource: testKey, Keys: keys("kms:ViaService", "ec2")}, k)
	var got []string
	for _, s := range steps {
		line := s.Source.String() + " " + s.Failed
		if s.Applies {
			line += "applies"
		}
		if s.Delegates {
			line += ", delegates"
		}
		if s.Key != "" {
			line += " " + s.Operator + " " + s.Key + " " + strings.Join(s.Values, ",")
		}
		got = append(got, line)
	}
	want := []string{
		"resource-based policy applies, delegates", "resource-based policy Principal", "resource-based policy Action",
		"resource-based policy NotPrincipal", "resource-based policy NotAction", "resource-based policy NotResource",
		"identity-based policy Condition StringEquals kms:viaservice ec2", "permissions boundary applies",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestSimulateBadInput(t *testing.T) {
	const ok = `"identityPolicies":{"n":[],"bad":[{"Statement":[]}]},"keyPolicies":{"k":{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}},"bad":{}}`
	vector := func(v string) string {
		return `{` + ok + `,"vectors":[{"id":"V","principal":"arn:aws:iam::111122223333:user/a","action":"kms:Decrypt",` + v + `}]}`
	}
	for _, c := range []struct{ text, want string }{
		{"", "read vectors"},
		{"{", "read vectors: line 1, column"},
		{"{}", "holds no"},
		{`{"vectors":[{"id":7}]}`, "read vectors"},
		{vector(`"identity":"n","keyPolicy":"k","expect":"MAYBE"`), `vector "V": expect must be`},
		{vector(`"identity":"x","keyPolicy":"k","expect":"DENY"`), `there is no identity policy "x"`},
		{vector(`"identity":"n","keyPolicy":"x","expect":"DENY"`), `there is no key policy "x"`},
		{vector(`"identity":"n","boundary":"n","keyPolicy":"k","expect":"DENY"`), `must be one document`},
		{vector(`"identity":"n","keyPolicy":"k","bucketPolicy":"k","expect":"DENY"`), `exclude each other`},
		{vector(`"identity":"n","keyPolicy":"k","expect":"DENY","context":{"a:b":7}`), "read vectors"},
		{strings.Replace(vector(`"identity":"n","keyPolicy":"k","expect":"DENY"`), "arn:aws:iam::111122223333:user/a", "alice", 1), "not the ARN of a principal"},
		{strings.Replace(vector(`"identity":"n","keyPolicy":"k","expect":"DENY"`), "user/a", "group/a", 1), "not the ARN of a root user"},
	} {
		if _, err := RunVectors(strings.NewReader(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
	for v, want := range map[string]VectorResult{
		`"identity":"n","keyPolicy":"k","expect":"DENY"`:        {Got: "ALLOW", OK: false},
		`"identity":"n","keyPolicy":"k","expect":"ALLOW"`:       {Got: "ALLOW", OK: true},
		`"identity":"n","keyPolicy":"bad","expect":"MALFORMED"`: {Got: "MALFORMED", OK: true},
		`"identity":"bad","keyPolicy":"k","expect":"ALLOW"`:     {Got: "MALFORMED", OK: false},
		`"identity":"n","expect":"DENY"`:                        {Got: "DENY", OK: true},
	} {
		got, err := RunVectors(strings.NewReader(vector(v)))
		if err != nil || len(got) != 1 || got[0].Got != want.Got || got[0].OK != want.OK || got[0].Reason == "" {
			t.Errorf("%s: %+v, %v", v, got, err)
		}
	}
}

func TestSourcesAndKindsPrint(t *testing.T) {
	for v, want := range map[interface{ String() string }]string{
		IdentityPolicy: "identity policy", KeyPolicy: "key policy", BucketPolicy: "bucket policy", Kind(9): "policy",
		Allow: "allow", ExplicitDeny: "explicit deny", ImplicitDeny: "implicit deny",
		GrantSource: "grant", None: "none", Boundary: "permissions boundary", SessionPolicy: "session policy", AccountRoot: "account root user",
	} {
		if v.String() != want {
			t.Errorf("%q, want %q", v.String(), want)
		}
	}
}
