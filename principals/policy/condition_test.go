package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// conditionHolds evaluates one condition block in an Allow of an identity policy.
func conditionHolds(t *testing.T, effect, condition string, k Keys) bool {
	t.Helper()
	who := user(t, "alice", doc(`{"Effect":"Allow","Action":"*","Resource":"*"}`))
	if effect == "Allow" {
		who = user(t, "alice", doc(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":`+condition+`}`))
	} else {
		d := mustParse(t, IdentityPolicy, doc(`{"Effect":"Deny","Action":"*","Resource":"*","Condition":`+condition+`}`))
		who.Policies = append(who.Policies, Named{Name: "deny", Document: d})
	}
	allowed := DecideIdentity(who, &Request{Action: "kms:CreateKey", Resource: "*", Keys: k}).Allowed()
	return allowed == (effect == "Allow")
}

func TestConditionOperators(t *testing.T) {
	many := func(v ...string) string { return strings.Join(v, "|") }
	for _, c := range []struct {
		condition string
		keys      MapKeys
		want      bool
	}{
		// strings
		{`{"StringEquals":{"x:k":"a"}}`, keys("x:k", "a"), true},
		{`{"StringEquals":{"x:k":"a"}}`, keys("x:k", "A"), false},
		{`{"StringEquals":{"x:k":"a*"}}`, keys("x:k", "ab"), false},
		{`{"StringEquals":{"x:k":"a*"}}`, keys("x:k", "a*"), true},
		{`{"StringEquals":{"x:k":["a","b"]}}`, keys("x:k", "b"), true},
		{`{"StringEquals":{"X:K":"a"}}`, keys("x:k", "a"), true},
		{`{"StringNotEquals":{"x:k":"a"}}`, keys("x:k", "b"), true},
		{`{"StringNotEquals":{"x:k":["a","b"]}}`, keys("x:k", "b"), false},
		{`{"StringEqualsIgnoreCase":{"x:k":"aBc"}}`, keys("x:k", "AbC"), true},
		{`{"StringNotEqualsIgnoreCase":{"x:k":"aBc"}}`, keys("x:k", "AbC"), false},
		{`{"StringLike":{"x:k":"a*c?"}}`, keys("x:k", "abbbcd"), true},
		{`{"StringLike":{"x:k":"a*c?"}}`, keys("x:k", "abbbc"), false},
		{`{"StringLike":{"x:k":"A*"}}`, keys("x:k", "ab"), false},
		{`{"StringNotLike":{"x:k":["a*","b*"]}}`, keys("x:k", "c"), true},
		{`{"StringNotLike":{"x:k":["a*","b*"]}}`, keys("x:k", "bc"), false},
		// numbers
		{`{"NumericEquals":{"x:k":"10"}}`, keys("x:k", "+010.0"), true},
		{`{"NumericEquals":{"x:k":10}}`, keys("x:k", "10"), true},
		{`{"NumericEquals":{"x:k":"9007199254740993"}}`, keys("x:k", "9007199254740992"), false},
		{`{"NumericNotEquals":{"x:k":"10"}}`, keys("x:k", "11"), true},
		{`{"NumericNotEquals":{"x:k":"10"}}`, keys("x:k", "ten"), true},
		{`{"NumericEquals":{"x:k":"10"}}`, keys("x:k", "ten"), false},
		{`{"NumericLessThan":{"x:k":"10"}}`, keys("x:k", "9.99"), true},
		{`{"NumericLessThan":{"x:k":"10"}}`, keys("x:k", "10"), false},
		{`{"NumericLessThan":{"x:k":"-10"}}`, keys("x:k", "-10.5"), true},
		{`{"NumericLessThanEquals":{"x:k":"10"}}`, keys("x:k", "10"), true},
		{`{"NumericGreaterThan":{"x:k":"10"}}`, keys("x:k", "11"), true},
		{`{"NumericGreaterThan":{"x:k":"10"}}`, keys("x:k", "9"), false},
		{`{"NumericGreaterThanEquals":{"x:k":"-0"}}`, keys("x:k", "0"), true},
		{`{"NumericGreaterThan":{"x:k":"7"}}`, keys("x:k", "1e3"), false},
		// dates
		{`{"DateEquals":{"x:k":"2026-01-02T03:04:05Z"}}`, keys("x:k", "2026-01-02T04:04:05+01:00"), true},
		{`{"DateEquals":{"x:k":"1767323045"}}`, keys("x:k", "2026-01-02T03:04:05Z"), true},
		{`{"DateNotEquals":{"x:k":"2026"}}`, keys("x:k", "2026-01-01T00:00:00Z"), false},
		{`{"DateLessThan":{"x:k":"2026-01-02"}}`, keys("x:k", "2026-01-01T23:59Z"), true},
		{`{"DateLessThanEquals":{"x:k":"2026-01"}}`, keys("x:k", "2026-01-01"), true},
		{`{"DateGreaterThan":{"x:k":"2026-01-02T00:00:00.000Z"}}`, keys("x:k", "2026-01-02T00:00:00.001Z"), true},
		{`{"DateGreaterThanEquals":{"x:k":"2026-01-02"}}`, keys("x:k", "2026-01-02"), true},
		{`{"DateGreaterThan":{"x:k":"2026-01-02"}}`, keys("x:k", "tomorrow"), false},
		{`{"DateNotEquals":{"x:k":"2026-01-02"}}`, keys("x:k", "tomorrow"), true},
		// booleans
		{`{"Bool":{"x:k":"true"}}`, keys("x:k", "TRUE"), true},
		{`{"Bool":{"x:k":true}}`, keys("x:k", "true"), true},
		{`{"Bool":{"x:k":"false"}}`, keys("x:k", "true"), false},
		{`{"Bool":{"x:k":"false"}}`, keys("x:k", "no"), true},
		{`{"Bool":{"x:k":"true"}}`, keys(), false},
		{`{"BoolIfExists":{"x:k":"true"}}`, keys(), true},
		{`{"Bool":{"x:k":"${x:v}"}}`, keys("x:k", "true", "x:v", "true"), true},
		{`{"Bool":{"x:k":"${x:v}"}}`, keys("x:k", "true"), false},
		{`{"Bool":{"x:k":"${x:v, 'true'}"}}`, keys("x:k", "true"), true},
		// binary
		{`{"BinaryEquals":{"x:k":"QUJD"}}`, keys("x:k", "ABC"), true},
		{`{"BinaryEquals":{"x:k":"QUJD"}}`, keys("x:k", "abc"), false},
		// addresses
		{`{"IpAddress":{"x:k":"203.0.113.0/24"}}`, keys("x:k", "203.0.113.77"), true},
		{`{"IpAddress":{"x:k":"203.0.113.9/24"}}`, keys("x:k", "203.0.113.77"), true},
		{`{"IpAddress":{"x:k":"203.0.113.7"}}`, keys("x:k", "203.0.113.77"), false},
		{`{"IpAddress":{"x:k":"203.0.113.7"}}`, keys("x:k", "::ffff:203.0.113.7"), true},
		{`{"IpAddress":{"x:k":["10.0.0.0/8","2001:db8::/32"]}}`, keys("x:k", "2001:db8::1"), true},
		{`{"NotIpAddress":{"x:k":"10.0.0.0/8"}}`, keys("x:k", "11.0.0.1"), true},
		{`{"NotIpAddress":{"x:k":"10.0.0.0/8"}}`, keys("x:k", "10.0.0.1"), false},
		{`{"NotIpAddress":{"x:k":"10.0.0.0/8"}}`, keys("x:k", "nonsense"), false},
		{`{"NotIpAddress":{"x:k":"10.0.0.0/8"}}`, keys(), true},
		// ARNs
		{`{"ArnLike":{"x:k":"arn:aws:s3:::b*"}}`, keys("x:k", "arn:aws:s3:::bucket"), true},
		{`{"ArnEquals":{"x:k":"arn:aws:s3:::b*"}}`, keys("x:k", "arn:aws:s3:::bucket"), true},
		{`{"ArnEquals":{"x:k":"arn:aws:iam::*:role/app"}}`, keys("x:k", "arn:aws:iam::111122223333:role/app"), true},
		{`{"ArnLike":{"x:k":"arn:aws:iam:?:*:role/app"}}`, keys("x:k", "arn:aws:iam::111122223333:role/app"), false},
		{`{"ArnNotEquals":{"x:k":"arn:aws:s3:::b*"}}`, keys("x:k", "arn:aws:s3:::bucket"), false},
		{`{"ArnNotLike":{"x:k":"arn:aws:s3:::b*"}}`, keys("x:k", "arn:aws:s3:::x"), true},
		{`{"ArnNotLike":{"x:k":"arn:aws:s3:::b*"}}`, keys("x:k", "not an arn"), false},
		{`{"ArnNotLike":{"x:k":"arn:aws:s3:::b*"}}`, keys(), true},
		// absent keys
		{`{"StringEquals":{"x:k":"a"}}`, keys(), false},
		{`{"StringNotEquals":{"x:k":"a"}}`, keys(), true},
		{`{"StringNotLike":{"x:k":"a"}}`, keys(), true},
		{`{"NumericNotEquals":{"x:k":"1"}}`, keys(), true},
		{`{"NumericLessThan":{"x:k":"1"}}`, keys(), false},
		{`{"DateNotEquals":{"x:k":"2026"}}`, keys(), true},
		{`{"StringEqualsIfExists":{"x:k":"a"}}`, keys(), true},
		{`{"StringEqualsIfExists":{"x:k":"a"}}`, keys("x:k", "b"), false},
		{`{"StringNotEqualsIfExists":{"x:k":"a"}}`, keys(), true},
		{`{"NumericLessThanIfExists":{"x:k":"1"}}`, keys(), true},
		{`{"IpAddressIfExists":{"x:k":"10.0.0.0/8"}}`, keys(), true},
		{`{"ArnLikeIfExists":{"x:k":"arn:aws:s3:::b"}}`, keys(), true},
		{`{"Null":{"x:k":"true"}}`, keys(), true},
		{`{"Null":{"x:k":"true"}}`, keys("x:k", ""), false},
		{`{"Null":{"x:k":"false"}}`, keys("x:k", "v"), true},
		{`{"Null":{"x:k":false}}`, keys(), false},
		{`{"Null":{"x:k":"true"}}`, MapKeys{"x:k": {}}, true},
		// set operators
		{`{"ForAllValues:StringEquals":{"x:k":["a","b"]}}`, keys("x:k", many("a", "b")), true},
		{`{"ForAllValues:StringEquals":{"x:k":["a","b"]}}`, keys("x:k", many("a", "c")), false},
		{`{"ForAllValues:StringEquals":{"x:k":["a"]}}`, keys(), true},
		{`{"ForAllValues:StringEquals":{"x:k":["a"]}}`, MapKeys{"x:k": {}}, true},
		{`{"ForAllValues:StringNotEquals":{"x:k":["a","b"]}}`, keys("x:k", many("c", "d")), true},
		{`{"ForAllValues:StringNotEquals":{"x:k":["a","b"]}}`, keys("x:k", many("c", "a")), false},
		{`{"ForAllValues:StringLike":{"x:k":["a*"]}}`, keys("x:k", many("ab", "ac")), true},
		{`{"ForAnyValue:StringEquals":{"x:k":["a","b"]}}`, keys("x:k", many("z", "b")), true},
		{`{"ForAnyValue:StringEquals":{"x:k":["a","b"]}}`, keys("x:k", many("z", "y")), false},
		{`{"ForAnyValue:StringEquals":{"x:k":["a"]}}`, keys(), false},
		{`{"ForAnyValue:StringEquals":{"x:k":["a"]}}`, MapKeys{"x:k": {}}, false},
		{`{"ForAnyValue:StringNotEquals":{"x:k":["a"]}}`, keys("x:k", many("a", "b")), true},
		{`{"ForAnyValue:StringNotEquals":{"x:k":["a"]}}`, keys("x:k", "a"), false},
		{`{"ForAnyValue:StringNotEquals":{"x:k":["a"]}}`, keys(), false},
		{`{"ForAnyValue:StringEqualsIfExists":{"x:k":["a"]}}`, keys(), true},
		{`{"ForAllValues:NumericLessThan":{"x:k":"5"}}`, keys("x:k", many("1", "4")), true},
		// lists without a set operator
		{`{"StringEquals":{"x:k":"a"}}`, keys("x:k", many("a", "b")), false},
		{`{"StringNotEquals":{"x:k":"z"}}`, keys("x:k", many("a", "b")), false},
		{`{"StringNotEqualsIfExists":{"x:k":"z"}}`, keys("x:k", many("a", "b")), false},
		{`{"StringEquals":{"kms:ResourceAliases":"alias/a"}}`, keys("kms:ResourceAliases", "alias/a"), false},
		{`{"StringNotEquals":{"aws:TagKeys":"z"}}`, keys("aws:TagKeys", "a"), false},
		{`{"StringNotEquals":{"aws:TagKeys":"z"}}`, keys(), true},
		// blocks
		{`{}`, keys(), true},
		{`{"StringEquals":{"x:k":"a","x:l":"b"}}`, keys("x:k", "a", "x:l", "b"), true},
		{`{"StringEquals":{"x:k":"a","x:l":"b"}}`, keys("x:k", "a", "x:l", "c"), false},
		{`{"StringEquals":{"x:k":"a"},"Bool":{"x:l":"true"}}`, keys("x:k", "a", "x:l", "false"), false},
		{`{"StringEquals":{"x:k":"a"},"StringLike":{"x:k":"*"}}`, keys("x:k", "a"), true},
	} {
		for _, effect := range []string{"Allow", "Deny"} {
			if got := conditionHolds(t, effect, c.condition, c.keys); got != c.want {
				t.Errorf("%s %s with %v: %v, want %v", effect, c.condition, c.keys, got, c.want)
			}
		}
	}
}

// Every operator takes every prefix and suffix.
func TestOperatorForms(t *testing.T) {
	value := map[opKind]string{opNumeric: "1", opDate: "2026", opBool: "true", opBinary: "QQ==", opIP: "::1", opARN: "arn:aws:s3:::b"}
	for _, op := range operators {
		v, ok := value[op.kind]
		if !ok {
			v = "true"
		}
		for _, prefix := range []string{"", "ForAllValues:", "ForAnyValue:"} {
			for _, suffix := range []string{"", "IfExists"} {
				name := prefix + op.name + suffix
				_, err := Parse(IdentityPolicy, []byte(doc(fmt.Sprintf(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":{%q:{"x:k":%q}}}`, name, v))))
				if want := op.kind != opNull || name == "Null"; (err == nil) != want {
					t.Errorf("%s: %v", name, err)
				}
				if err != nil {
					continue
				}
				want := suffix != "" || prefix == "ForAllValues:" || prefix == "" && (op.negated || op.kind == opNull)
				if got := conditionHolds(t, "Allow", fmt.Sprintf(`{%q:{"x:k":%q}}`, name, v), nil); got != want {
					t.Errorf("%s on an absent key: %v, want %v", name, got, want)
				}
			}
		}
	}
}

func TestVariables(t *testing.T) {
	for _, c := range []struct {
		version, resource, condition string
		keys                         MapKeys
		request                      string
		want                         bool
	}{
		{"2012-10-17", "arn:aws:s3:::b/${aws:username}/*", "", nil, "arn:aws:s3:::b/alice/x", true},
		{"2012-10-17", "arn:aws:s3:::b/${AWS:UserName}/*", "", nil, "arn:aws:s3:::b/alice/x", true},
		{"2012-10-17", "arn:aws:s3:::b/${aws:username}/*", "", nil, "arn:aws:s3:::b/bob/x", false},
		{"2008-10-17", "arn:aws:s3:::b/${aws:username}/*", "", nil, "arn:aws:s3:::b/alice/x", false},
		{"2008-10-17", "arn:aws:s3:::b/${aws:username}/*", "", nil, "arn:aws:s3:::b/${aws:username}/x", true},
		{"2008-10-17", "arn:aws:s3:::b/${*}", "", nil, "arn:aws:s3:::b/${xyz}", true},
		{"2012-10-17", "arn:aws:s3:::b/${*}", "", nil, "arn:aws:s3:::b/*", true},
		{"2012-10-17", "arn:aws:s3:::b/${*}", "", nil, "arn:aws:s3:::b/x", false},
		{"2012-10-17", "arn:aws:s3:::b/${?}${$}{x}", "", nil, "arn:aws:s3:::b/?${x}", true},
		// a value is literal
		{"2012-10-17", "arn:aws:s3:::b/${x:v}", "", keys("x:v", "*"), "arn:aws:s3:::b/secret", false},
		{"2012-10-17", "arn:aws:s3:::b/${x:v}", "", keys("x:v", "*"), "arn:aws:s3:::b/*", true},
		{"2012-10-17", "arn:aws:s3:::b/${x:v}", "", keys("x:v", "${aws:username}"), "arn:aws:s3:::b/alice", false},
		{"2012-10-17", "arn:aws:s3:::b/*${x:v}*", "", keys("x:v", "se?"), "arn:aws:s3:::b/secret", false},
		{"2012-10-17", "arn:aws:s3:::b/*${x:v}*", "", keys("x:v", "cr"), "arn:aws:s3:::b/secret", true},
		// defaults
		{"2012-10-17", "arn:aws:s3:::b/${x:v, 'none'}", "", nil, "arn:aws:s3:::b/none", true},
		{"2012-10-17", "arn:aws:s3:::b/${x:v,'*'}", "", nil, "arn:aws:s3:::b/none", false},
		{"2012-10-17", "arn:aws:s3:::b/${x:v, 'none'}", "", keys("x:v", "some"), "arn:aws:s3:::b/none", false},
		{"2012-10-17", "arn:aws:s3:::b/${x:v, 'none'}", "", keys("x:v", "a|b"), "arn:aws:s3:::b/none", false},
		{"2012-10-17", "arn:aws:s3:::b/${aws:TagKeys, 'none'}", "", keys("aws:TagKeys", "a"), "arn:aws:s3:::b/a", false},
		{"2012-10-17", "arn:aws:s3:::b/${x:v}", "", nil, "arn:aws:s3:::b/", false},
		{"2012-10-17", "arn:aws:s3:::b/${x:v}", "", keys("x:v", ""), "arn:aws:s3:::b/", true},
		// in conditions
		{"2012-10-17", "*", `{"StringEquals":{"x:k":"${aws:username}"}}`, keys("x:k", "alice"), "arn:aws:s3:::b", true},
		{"2012-10-17", "*", `{"StringEqualsIgnoreCase":{"x:k":"x-${aws:username}"}}`, keys("x:k", "X-ALICE"), "arn:aws:s3:::b", true},
		{"2008-10-17", "*", `{"StringEquals":{"x:k":"${aws:username}"}}`, keys("x:k", "alice"), "arn:aws:s3:::b", false},
		{"2012-10-17", "*", `{"ArnEquals":{"x:k":"${aws:PrincipalArn}"}}`, keys("x:k", iamARN+"user/alice"), "arn:aws:s3:::b", true},
		{"2012-10-17", "*", `{"ArnLike":{"x:k":"arn:aws:iam::${aws:PrincipalAccount}:user/*"}}`, keys("x:k", iamARN+"user/bob"), "arn:aws:s3:::b", true},
		{"2012-10-17", "*", `{"StringNotEquals":{"x:k":"${aws:username}"}}`, keys("x:k", "bob"), "arn:aws:s3:::b", true},
		{"2012-10-17", "*", `{"StringNotEquals":{"x:k":"${x:none}"}}`, keys("x:k", "bob"), "arn:aws:s3:::b", false},
		{"2012-10-17", "*", `{"StringEquals":{"x:k":["${x:none}","bob"]}}`, keys("x:k", "bob"), "arn:aws:s3:::b", true},
	} {
		st := `{"Effect":"Allow","Action":"*","Resource":"` + c.resource + `"`
		if c.condition != "" {
			st += `,"Condition":` + c.condition
		}
		text := `{"Version":"` + c.version + `","Statement":` + st + `}}`
		who := user(t, "alice", text)
		if got := DecideS3(who, &Request{Action: "s3:GetObject", Resource: c.request, Keys: c.keys}, nil).Allowed(); got != c.want {
			t.Errorf("%s %s %s on %s with %v: %v, want %v", c.version, c.resource, c.condition, c.request, c.keys, got, c.want)
		}
	}
}

// A variable without value matches nothing. The negated forms then match in a
// Deny and do not in an Allow.
func TestUnresolvedVariable(t *testing.T) {
	req := &Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::b/o", Keys: keys("x:k", "v")}
	allow := `{"Effect":"Allow","Action":"*","Resource":"*"}`
	for _, c := range []struct {
		statement string
		want      bool // with "allow" beside it for a Deny
	}{
		{`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${x:none}"}`, false},
		{`{"Effect":"Allow","Action":"*","Resource":["arn:aws:s3:::b/${x:none}","arn:aws:s3:::b/o"]}`, true},
		{`{"Effect":"Allow","Action":"*","NotResource":"arn:aws:s3:::b/${x:none}"}`, false},
		{`{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringNotLike":{"x:k":"${x:none}*"}}}`, false},
		{`{"Effect":"Deny","Action":"*","Resource":"arn:aws:s3:::b/${x:none}"}`, true},
		{`{"Effect":"Deny","Action":"*","Resource":["arn:aws:s3:::b/${x:none}","arn:aws:s3:::b/o"]}`, false},
		{`{"Effect":"Deny","Action":"*","NotResource":"arn:aws:s3:::b/${x:none}"}`, false},
		{`{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringNotLike":{"x:k":"${x:none}*"}}}`, false},
	} {
		st := []string{c.statement}
		if strings.Contains(c.statement, "Deny") {
			st = append(st, allow)
		}
		if got := DecideS3(user(t, "alice", doc(st...)), req, nil).Allowed(); got != c.want {
			t.Errorf("%s: %v, want %v", c.statement, got, c.want)
		}
	}
}

func TestSuppliedKeys(t *testing.T) {
	alice := func(condition string) *Identity {
		who := user(t, "alice", doc(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":`+condition+`}`))
		who.Tags = map[string]string{"Team": "red", "Empty": ""}
		return who
	}
	spoof := keys("aws:username", "mallory", "aws:PrincipalTag/team", "blue", "aws:PrincipalTag/rank", "1", "kms:CallerAccount", otherAcct)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		condition string
		want      bool
	}{
		{`{"StringEquals":{"aws:username":"alice"}}`, true},
		{`{"StringEquals":{"aws:userid":"AIDAALICEQQQQQQQQQQQQ"}}`, true},
		{`{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:user/alice"}}`, true},
		{`{"StringEquals":{"aws:PrincipalAccount":"111122223333"}}`, true},
		{`{"StringEquals":{"aws:PrincipalType":"User"}}`, true},
		{`{"StringEquals":{"aws:PrincipalTag/TEAM":"red"}}`, true},
		{`{"Null":{"aws:PrincipalTag/rank":"true"}}`, true},
		{`{"Null":{"aws:PrincipalTag/empty":"false"}}`, true},
		{`{"StringEquals":{"kms:CallerAccount":"111122223333"}}`, true},
		{`{"DateLessThan":{"aws:CurrentTime":"2026-01-02T03:04:06Z"}}`, true},
		{`{"DateGreaterThan":{"aws:CurrentTime":"2026-01-02T03:04:06Z"}}`, false},
		{`{"NumericEquals":{"aws:EpochTime":"1767323045"}}`, true},
		{`{"DateEquals":{"aws:EpochTime":"2026-01-02T03:04:05Z"}}`, true},
	} {
		req := &Request{Action: "kms:CreateKey", Resource: "*", Keys: spoof, Clock: func() time.Time { return now }}
		if got := DecideIdentity(alice(c.condition), req).Allowed(); got != c.want {
			t.Errorf("%s: %v, want %v", c.condition, got, c.want)
		}
	}
	// A session has no user name, and its aws:PrincipalArn is the role's.
	s := session(t, "s1", doc(`{"Effect":"Allow","Action":"kms:CreateKey","Resource":"*","Condition":{"Null":{"aws:username":"true"},
		"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/app"},"StringLike":{"aws:userid":"AROA*:s1"},"StringEquals":{"aws:PrincipalType":"AssumedRole"}}}`))
	if d := DecideIdentity(s, &Request{Action: "kms:CreateKey", Resource: "*", Keys: spoof}); !d.Allowed() {
		t.Error(d.Reason())
	}
	// kms:CallerAccount belongs to KMS requests.
	if d := DecideIdentity(alice(`{"Null":{"kms:CallerAccount":"true"}}`), &Request{Action: "s3:ListAllMyBuckets", Resource: "*"}); !d.Allowed() {
		t.Error(d.Reason())
	}
}

func TestVolatile(t *testing.T) {
	for text, want := range map[string]bool{
		adminPolicy: false,
		doc(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"DateLessThan":{"AWS:CurrentTime":"2030"}}}`):              true,
		doc(`{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::b/${aws:EpochTime}"}`):                                        true,
		doc(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringEquals":{"s3:prefix":"${aws:CurrentTime, 'x'}"}}}`): true,
	} {
		if got := mustParse(t, IdentityPolicy, text).Volatile(); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// The encryption context comes from Request.Context where there is one, and
// from Keys otherwise.
func TestEncryptionContext(t *testing.T) {
	k := mustParse(t, KeyPolicy, doc(`{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*","Condition":{
		"StringLike":{"kms:EncryptionContext:AWS:s3:arn":"arn:aws:s3:::pay/*"},"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["aws:s3:arn","dept"]}}}`))
	who := user(t, "alice")
	const arn = "arn:aws:s3:::pay/q1.csv"
	for _, c := range []struct {
		req  Request
		want bool
	}{
		{Request{Context: map[string]string{"aws:s3:arn": arn}}, true},
		{Request{Context: map[string]string{"aws:s3:arn": arn, "dept": "x"}}, true},
		{Request{Context: map[string]string{"aws:s3:arn": arn, "other": "x"}}, false},
		{Request{Context: map[string]string{"aws:s3:arn": arn, "AWS:S3:ARN": arn}}, false}, // two values
		{Request{Context: map[string]string{}, Keys: keys("kms:EncryptionContext:aws:s3:arn", arn, "kms:EncryptionContextKeys", "aws:s3:arn")}, false},
		{Request{Keys: keys("kms:EncryptionContext:aws:s3:arn", arn, "kms:EncryptionContextKeys", "aws:s3:arn")}, true},
		{Request{}, false},
	} {
		c.req.Action, c.req.Resource = "kms:Decrypt", testKey
		if d := DecideKMS(who, &c.req, k, nil); d.Allowed() != c.want {
			t.Errorf("%v: %s", c.req, d.Reason())
		}
	}
}
