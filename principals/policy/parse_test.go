package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseAccepts(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		text string
	}{
		{IdentityPolicy, `{"Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}`},
		{IdentityPolicy, `{"Version":"2008-10-17","Id":"x","Statement":[{"Sid":"A1","Effect":"Deny","NotAction":["s3:*"],"NotResource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]}]}`},
		{IdentityPolicy, " \n\t" + adminPolicy + "\n"},
		{IdentityPolicy, doc(`{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::b/ä\u4e2d","Condition":{}}`)},
		{KeyPolicy, doc(`{"Sid":"with spaces","Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}`)},
		{KeyPolicy, doc(`{"Effect":"Allow","Principal":"*","Action":"kms:*"}`)},
		{KeyPolicy, doc(`{"Effect":"Allow","Principal":"*","Resource":"*"}`)},
		{KeyPolicy, doc(`{"Effect":"Allow","Principal":{"AWS":["111122223333","arn:aws:iam::111122223333:root","arn:aws:iam::111122223333:user/a/b/c",
			"arn:aws:iam::111122223333:role/r","arn:aws:sts::111122223333:assumed-role/r/s","arn:aws:sts::111122223333:federated-user/f","AIDAAAAAAAAAAAAAAAAAA"],
			"Service":"s3.amazonaws.com","Federated":["cognito-identity.amazonaws.com"],"CanonicalUser":"79a5"},"Action":"kms:*","Resource":"*"}`)},
		{KeyPolicy, doc(`{"Effect":"Deny","NotPrincipal":{"AWS":"111122223333"},"Action":"kms:*","Resource":"*"}`)},
		{KeyPolicy, doc(`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":"a"}}}`)},
		{BucketPolicy, doc(`{"Effect":"Allow","Principal":"*","Action":["s3:GetObject","*"],"Resource":"arn:aws:s3:::b/中"}`)},
		{IdentityPolicy, doc(`{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"ForAllValues:StringEquals":{"kms:EncryptionContext:a":"b"}}}`)},
		{KeyPolicy, string(DefaultKeyPolicy(testAccount))},
		{KeyPolicy, string(ConsoleKeyPolicy(testAccount, []string{iamARN + "user/a"}, []string{iamARN + "user/b", iamARN + "user/c"}))},
		{KeyPolicy, string(ManagedS3KeyPolicy(testAccount, "us-east-1"))},
	} {
		d, err := Parse(c.kind, []byte(c.text))
		if err != nil {
			t.Errorf("%v %s: %v", c.kind, c.text, err)
			continue
		}
		if string(d.Text()) != c.text || d.Kind() != c.kind {
			t.Errorf("text of %s changed", c.text)
		}
	}
}

// Every refusal names the place and what is wrong there.
func TestParseRefuses(t *testing.T) {
	st := func(members string) string { return doc(`{"Effect":"Allow",` + members + `}`) }
	cond := func(c string) string { return st(`"Action":"*","Resource":"*","Condition":` + c) }
	who := func(p string) string { return st(`"Action":"*","Resource":"*","Principal":` + p) }
	for _, c := range []struct {
		kind            Kind
		text, path, msg string
	}{
		{IdentityPolicy, "", "", "empty"},
		{IdentityPolicy, " \n", "", "empty"},
		{IdentityPolicy, "{\n  \"Version\" 1}", "line 2, column 13", "not JSON"},
		{IdentityPolicy, `{"Statement":[]`, "line 1, column 15", "not JSON"},
		{IdentityPolicy, adminPolicy + "x", "line 1, column", "not JSON"},
		{IdentityPolicy, adminPolicy + adminPolicy, "line 1, column", "not JSON"},
		{IdentityPolicy, "[]", "", "a policy is a JSON object, not a list"},
		{IdentityPolicy, "null", "", "not null"},
		{IdentityPolicy, `"x"`, "", "not a string"},
		{IdentityPolicy, "{}", "", "Statement is missing"},
		{IdentityPolicy, `{"Version":"2012-10-17"}`, "", "Statement is missing"},
		{IdentityPolicy, `{"Version":"2020-01-01","Statement":[]}`, "Version", "unknown version"},
		{IdentityPolicy, `{"Version":2012,"Statement":[]}`, "Version", "must be a string, not a number"},
		{IdentityPolicy, `{"Id":{},"Statement":[]}`, "Id", "must be a string"},
		{IdentityPolicy, `{"version":"2012-10-17","Statement":[]}`, "version", `did you mean "Version"?`},
		{IdentityPolicy, `{"Statements":[]}`, "Statements", `did you mean "Statement"?`},
		{IdentityPolicy, `{"Foo":[]}`, "Foo", "unknown element"},
		{IdentityPolicy, `{"Statement":[]}`, "Statement", "at least one"},
		{IdentityPolicy, `{"Statement":"x"}`, "Statement", "not a string"},
		{IdentityPolicy, `{"Statement":["x"]}`, "Statement[0]", "a statement is a JSON object"},
		{IdentityPolicy, `{"Statement":[],"Statement":[]}`, "", `"Statement" appears twice`},
		{IdentityPolicy, st(`"Action":"*","Action":"*","Resource":"*"`), "Statement[0]", `"Action" appears twice`},
		{IdentityPolicy, cond(`{"Bool":{"a:b":"true","a:b":"false"}}`), "Statement[0].Condition.Bool", `"a:b" appears twice`},
		{IdentityPolicy, cond(`{"Bool":{"a:b":"true","A:B":"false"}}`), "Statement[0].Condition.Bool.A:B", "case does not matter"},
		{IdentityPolicy, doc(`{"Action":"*","Resource":"*"}`), "Statement[0]", "Effect is missing"},
		{IdentityPolicy, doc(`{"Effect":"allow","Action":"*","Resource":"*"}`), "Statement[0].Effect", `"Allow" or "Deny"`},
		{IdentityPolicy, st(`"Resource":"*"`), "Statement[0]", "Action (or NotAction) is missing"},
		{IdentityPolicy, st(`"Action":"*"`), "Statement[0]", "Resource (or NotResource) is missing"},
		{IdentityPolicy, st(`"Actions":"*","Resource":"*"`), "Statement[0].Actions", `did you mean "Action"?`},
		{IdentityPolicy, st(`"Action":"*","NotAction":"*","Resource":"*"`), "Statement[0]", "exclude each other"},
		{IdentityPolicy, st(`"Action":"*","NotResource":"*","Resource":"*"`), "Statement[0]", "exclude each other"},
		{IdentityPolicy, st(`"Action":[],"Resource":"*"`), "Statement[0].Action", "at least one value"},
		{IdentityPolicy, st(`"Action":"","Resource":"*"`), "Statement[0].Action", "empty"},
		{IdentityPolicy, st(`"Action":["s3:*",7],"Resource":"*"`), "Statement[0].Action[1]", "not a number"},
		{IdentityPolicy, st(`"Action":"s3","Resource":"*"`), "Statement[0].Action", "service:Name"},
		{IdentityPolicy, st(`"Action":"s3:","Resource":"*"`), "Statement[0].Action", "service:Name"},
		{IdentityPolicy, st(`"Action":"s*:Get","Resource":"*"`), "Statement[0].Action", "no wildcard"},
		{IdentityPolicy, st(`"Action":"s3:Get Object","Resource":"*"`), "Statement[0].Action", "its name may hold only"},
		{IdentityPolicy, st(`"Action":"s3:` + strings.Repeat("x", 130) + `","Resource":"*"`), "Statement[0].Action", "longer than 128"},
		{IdentityPolicy, st(`"Action":"*","Resource":""`), "Statement[0].Resource", "not an ARN"},
		{IdentityPolicy, st(`"Action":"*","Resource":"bucket/*"`), "Statement[0].Resource", "not an ARN"},
		{IdentityPolicy, st(`"Action":"*","Resource":["*","arn:aws:s3::b"]`), "Statement[0].Resource[1]", "six parts"},
		{IdentityPolicy, st(`"Action":"*","Resource":"urn:aws:s3:::b"`), "Statement[0].Resource", `"arn:"`},
		{IdentityPolicy, st(`"Action":"*","Resource":null`), "Statement[0].Resource", "not null"},
		{IdentityPolicy, doc(`{"Version":"2012-10-17","Effect":"Allow"}`), "Statement[0].Version", "unknown element"},
		{IdentityPolicy, st(`"Action":"*","Resource":"arn:aws:s3:::b/${aws:username"`), "Statement[0].Resource", "not closed"},
		{IdentityPolicy, st(`"Action":"*","Resource":"arn:aws:s3:::b/${username}"`), "Statement[0].Resource", "not a condition key"},
		{IdentityPolicy, st(`"Action":"*","Resource":"arn:aws:s3:::b/${}"`), "Statement[0].Resource", "empty"},
		{IdentityPolicy, st(`"Action":"*","Resource":"arn:aws:s3:::b/${a:b, c}"`), "Statement[0].Resource", "single quotes"},
		{IdentityPolicy, st(`"Action":"*","Resource":"arn:aws:s3:::b/${a:b, 'c}"`), "Statement[0].Resource", "not closed with a single quote"},
		{IdentityPolicy, st(`"Action":"*","Resource":"arn:aws:s3:::b/${a:b, 'c'x}"`), "Statement[0].Resource", "not closed with }"},
		{IdentityPolicy, st(`"Action":"*","Resource":"arn:aws:${a:b}:::x"`), "Statement[0].Resource", "after the fifth colon"},
		{IdentityPolicy, st(`"Action":"*","Resource":"arn:aws:s3:::` + strings.Repeat("${a:b}", 9) + `"`), "Statement[0].Resource", "more than 8"},
		{IdentityPolicy, cond(`[]`), "Statement[0].Condition", "not a list"},
		{IdentityPolicy, cond(`{"Bool":"x"}`), "Statement[0].Condition.Bool", "object of condition keys"},
		{IdentityPolicy, cond(`{"StringEqual":{"a:b":"x"}}`), "Statement[0].Condition.StringEqual", "unknown condition operator"},
		{IdentityPolicy, cond(`{"stringequals":{"a:b":"x"}}`), "Statement[0].Condition.stringequals", `did you mean "StringEquals"?`},
		{IdentityPolicy, cond(`{"ForSomeValues:StringEquals":{"a:b":"x"}}`), "Statement[0].Condition.ForSomeValues:StringEquals", "unknown condition operator"},
		{IdentityPolicy, cond(`{"NullIfExists":{"a:b":"true"}}`), "Statement[0].Condition.NullIfExists", "neither"},
		{IdentityPolicy, cond(`{"ForAnyValue:Null":{"a:b":"true"}}`), "Statement[0].Condition.ForAnyValue:Null", "neither"},
		{IdentityPolicy, cond(`{"Null":{"a:b":"maybe"}}`), "Statement[0].Condition.Null.a:b", `"true" or "false"`},
		{IdentityPolicy, cond(`{"Bool":{"a:b":"yes"}}`), "Statement[0].Condition.Bool.a:b", `"true" or "false"`},
		{IdentityPolicy, cond(`{"Bool":{"a:b":"${c:d}x"}}`), "Statement[0].Condition.Bool.a:b", "one policy variable"},
		{IdentityPolicy, cond(`{"StringEquals":{"":"x"}}`), "Statement[0].Condition.StringEquals.", "empty"},
		{IdentityPolicy, cond(`{"StringEquals":{"username":"x"}}`), "Statement[0].Condition.StringEquals.username", "not a condition key"},
		{IdentityPolicy, cond(`{"StringEquals":{"a:b":[]}}`), "Statement[0].Condition.StringEquals.a:b", "at least one value"},
		{IdentityPolicy, cond(`{"StringEquals":{"a:b":{"c":"d"}}}`), "Statement[0].Condition.StringEquals.a:b", "not an object"},
		{IdentityPolicy, cond(`{"NumericEquals":{"a:b":["1","x"]}}`), "Statement[0].Condition.NumericEquals.a:b[1]", "not a number"},
		{IdentityPolicy, cond(`{"NumericEquals":{"a:b":"0x1"}}`), "Statement[0].Condition.NumericEquals.a:b", "not a number"},
		{IdentityPolicy, cond(`{"NumericEquals":{"a:b":"${a:c}"}}`), "Statement[0].Condition.NumericEquals.a:b", "not a number"},
		{IdentityPolicy, cond(`{"DateEquals":{"a:b":"31.1.2026"}}`), "Statement[0].Condition.DateEquals.a:b", "not a date"},
		{IdentityPolicy, cond(`{"BinaryEquals":{"a:b":"*"}}`), "Statement[0].Condition.BinaryEquals.a:b", "not base64"},
		{IdentityPolicy, cond(`{"IpAddress":{"a:b":"10.0.0.0/33"}}`), "Statement[0].Condition.IpAddress.a:b", "not an IP address"},
		{IdentityPolicy, cond(`{"IpAddress":{"a:b":"home"}}`), "Statement[0].Condition.IpAddress.a:b", "not an IP address"},
		{IdentityPolicy, cond(`{"IpAddress":{"a:b":"2001:db8::5/64"}}`), "Statement[0].Condition.IpAddress.a:b", `did you mean "2001:db8::/64"?`},
		{IdentityPolicy, cond(`{"ArnEquals":{"a:b":"role/app"}}`), "Statement[0].Condition.ArnEquals.a:b", "not an ARN"},
		{IdentityPolicy, st(`"Action":"*","Resource":"*","Sid":"a b"`), "Statement[0].Sid", "letters and digits"},
		{
			IdentityPolicy, doc(`{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"}`, `{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"}`),
			"Statement[1].Sid", "already that of Statement[0]",
		},
		{IdentityPolicy, who(`"*"`), "Statement[0]", "an identity policy has no Principal"},
		{IdentityPolicy, doc(`{"Effect":"Deny","NotPrincipal":"*","Action":"*","Resource":"*"}`), "Statement[0]", "an identity policy has no Principal"},
		{KeyPolicy, st(`"Action":"*","Resource":"*"`), "Statement[0]", "needs Principal"},
		{BucketPolicy, st(`"Action":"*","Resource":"*"`), "Statement[0]", "needs Principal"},
		{BucketPolicy, st(`"Principal":"*","Resource":"*"`), "Statement[0]", "Action (or NotAction) is missing"},
		{BucketPolicy, st(`"Principal":"*","Action":"kms:Decrypt","Resource":"*"`), "Statement[0].Action", "not an action of S3"},
		{KeyPolicy, st(`"Principal":"*","NotPrincipal":"*","Action":"*","Resource":"*"`), "Statement[0]", "exclude each other"},
		{KeyPolicy, st(`"NotPrincipal":{"AWS":"111122223333"},"Action":"*","Resource":"*"`), "Statement[0].NotPrincipal", `only with "Effect": "Deny"`},
		{KeyPolicy, who(`"alice"`), "Statement[0].Principal", `{"AWS":`},
		{KeyPolicy, who(`["*"]`), "Statement[0].Principal", "not a list"},
		{KeyPolicy, who(`{}`), "Statement[0].Principal", "nobody"},
		{KeyPolicy, who(`{"AWS":[]}`), "Statement[0].Principal.AWS", "at least one value"},
		{KeyPolicy, who(`{"User":"x"}`), "Statement[0].Principal.User", "unknown kind of principal"},
		{KeyPolicy, who(`{"Service":"s3"}`), "Statement[0].Principal.Service", "not a service principal"},
		{KeyPolicy, who(`{"AWS":["111122223333","alice"]}`), "Statement[0].Principal.AWS[1]", "not a principal"},
		{KeyPolicy, who(`{"AWS":"arn:aws:iam::111122223333:user/al*"}`), "Statement[0].Principal.AWS", "wildcards are not allowed"},
		{KeyPolicy, who(`{"AWS":"arn:aws:iam::111122223333:user/${aws:username}"}`), "Statement[0].Principal.AWS", "variables are not allowed"},
		{KeyPolicy, who(`{"AWS":"arn:aws:iam::111122223333:group/g"}`), "Statement[0].Principal.AWS", "a group cannot be a principal"},
		{KeyPolicy, who(`{"AWS":"arn:aws:iam::1111:user/a"}`), "Statement[0].Principal.AWS", "not a principal ARN"},
		{KeyPolicy, who(`{"AWS":"arn:aws:iam::111122223333:user/"}`), "Statement[0].Principal.AWS", "not a principal ARN"},
		{KeyPolicy, who(`{"AWS":"arn:aws:iam::111122223333:policy/x"}`), "Statement[0].Principal.AWS", "not a principal ARN"},
		{KeyPolicy, who(`{"AWS":"arn:aws:sts::111122223333:assumed-role/r"}`), "Statement[0].Principal.AWS", "not a principal ARN"},
		{KeyPolicy, who(`{"AWS":"arn:aws:s3:::b"}`), "Statement[0].Principal.AWS", "not a principal ARN"},
		{
			KeyPolicy, st(`"Principal":"*","Action":"*","Resource":"*","Condition":{"ForAllValues:StringEquals":{"kms:EncryptionContext:dept":"x"}}`),
			"Statement[0].Condition.ForAllValues:StringEquals.kms:EncryptionContext:dept", "OverlyPermissiveCondition: Using the ForAllValues set operator",
		},
		{
			KeyPolicy, st(`"Principal":"*","Action":"*","Resource":"*","Condition":{"ForAllValues:StringLikeIfExists":{"aws:RequestTag/a":"x"}}`),
			"Statement[0].Condition.ForAllValues:StringLikeIfExists.aws:RequestTag/a", "OverlyPermissiveCondition",
		},
		{IdentityPolicy, `{"Id":"中","Statement":[]}`, "line 1, column 8", "U+4E2D"},
		{KeyPolicy, "{\"Id\":\"\x7f\",\n\"Sid\":\"\u0100\"}", "line 2, column 8", "U+0100"},
		{BucketPolicy, "{\"Id\":\"\x01\"}", "line 1, column 8", "U+0001"},
		{BucketPolicy, "{\"Id\":\"\xff\"}", "line 1, column 8", "UTF-8"},
		{IdentityPolicy, `{"Statement":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`, "Statement[0][0]", "nested deeper"},
	} {
		_, err := Parse(c.kind, []byte(c.text))
		var m *MalformedError
		if !errors.As(err, &m) {
			t.Errorf("%v %s: %v, want a MalformedError", c.kind, c.text, err)
			continue
		}
		if !strings.HasPrefix(m.Path, c.path) || c.path == "" && m.Path != "" || !strings.Contains(m.Msg, c.msg) || m.TooLarge {
			t.Errorf("%v %s:\n got %s\nwant %q … %q", c.kind, c.text, err, c.path, c.msg)
		}
		if len(err.Error()) > 600 {
			t.Errorf("%v %s: the message has %d bytes", c.kind, c.text, len(err.Error()))
		}
	}
}

func TestParseLimits(t *testing.T) {
	// sized makes a document of exactly n bytes by its Id.
	sized := func(kind Kind, n int) []byte {
		form := `{"Id":"%s","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}`
		if kind != IdentityPolicy {
			form = `{"Id":"%s","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"*"}}`
		}
		return fmt.Appendf(nil, form, strings.Repeat("x", n-len(form)+2))
	}
	for kind, limit := range map[Kind]int{KeyPolicy: 32768, BucketPolicy: 20480, IdentityPolicy: 6144} {
		if _, err := Parse(kind, sized(kind, limit)); err != nil {
			t.Errorf("%v of %d bytes: %v", kind, limit, err)
		}
		_, err := Parse(kind, sized(kind, limit+1))
		var m *MalformedError
		if !errors.As(err, &m) || !m.TooLarge {
			t.Errorf("%v of %d bytes: %v", kind, limit+1, err)
		}
	}
	// White space does not count in an identity policy, up to a point.
	roomy := append(sized(IdentityPolicy, 6144), []byte(strings.Repeat(" \n", 20000))...)
	if _, err := Parse(IdentityPolicy, roomy); err != nil {
		t.Error(err)
	}
	_, err := Parse(IdentityPolicy, append(roomy, []byte(strings.Repeat(" ", 100000))...))
	var m *MalformedError
	if !errors.As(err, &m) || !m.TooLarge {
		t.Error(err)
	}
}
