package policy

import (
	"strings"
	"testing"
)

const (
	testAccount = "111122223333"
	otherAcct   = "444455556666"
	testKey     = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	iamARN      = "arn:aws:iam::111122223333:"
)

func mustParse(t testing.TB, kind Kind, text string) *Document {
	t.Helper()
	d, err := Parse(kind, []byte(text))
	if err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	return d
}

// doc wraps statements into a 2012 document.
func doc(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func identity(t testing.TB, arn string, policies ...string) *Identity {
	t.Helper()
	who, err := IdentityFromARN(arn)
	if err != nil {
		t.Fatal(err)
	}
	switch who.Type {
	case User:
		who.ID = "AIDA" + strings.ToUpper((who.Name + "QQQQQQQQQQQQQQQQQ")[:17])
	case Session:
		who.ID = "AROAAAAAAAAAAAAAAAAAA:" + arn[strings.LastIndex(arn, "/")+1:]
	case RootUser:
	}
	for i, p := range policies {
		who.Policies = append(who.Policies, Named{Name: string(rune('a' + i)), Document: mustParse(t, IdentityPolicy, p)})
	}
	return who
}

func user(t testing.TB, name string, policies ...string) *Identity {
	t.Helper()
	return identity(t, iamARN+"user/"+name, policies...)
}

func session(t testing.TB, name string, policies ...string) *Identity {
	t.Helper()
	return identity(t, "arn:aws:sts::111122223333:assumed-role/app/"+name, policies...)
}

func keys(pairs ...string) MapKeys {
	m := MapKeys{}
	for i := 0; i < len(pairs); i += 2 {
		m.Add(pairs[i], strings.Split(pairs[i+1], "|")...)
	}
	return m
}

const (
	adminPolicy  = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	s3FullPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*","s3-object-lambda:*"],"Resource":"*"}]}`
)
