package policy

import (
	"fmt"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	const key = `{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":"kms:*","Resource":"*"}`
	for _, c := range []struct {
		kind       Kind
		statements string
		want       []string // "level statement part-of-the-problem"
	}{
		{KeyPolicy, key, nil},
		{KeyPolicy, string(mustStatements(DefaultKeyPolicy("000000000000"))), nil},
		{KeyPolicy, key + `,{"Effect":"Allow","Principal":"*","Action":"kms:Decyrpt","Resource":"*"}`, []string{"error 2 did you mean kms:Decrypt?"}},
		{KeyPolicy, key + `,{"Effect":"Allow","Principal":"*","Action":"kms:Dec*","Resource":"*"}`, nil},
		{KeyPolicy, key + `,{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"*"}`, []string{"error 2 none of its actions is one of kms"}},
		{KeyPolicy, key + `,{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"arn:aws:kms:us-east-1:000000000000:alias/x"}`, []string{"error 2 no effect"}},
		{KeyPolicy, key + `,{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt"}`, []string{"error 2 without Action or Resource"}},
		{KeyPolicy, `{"Effect":"Allow","Principal":{"AWS":"000000000000"},"Action":["kms:Decrypt","kms:Get*"],"Resource":"*"}`, []string{"error 0 lockout"}},
		{KeyPolicy, key + `,{"Effect":"Deny","Principal":"*","Action":"kms:Put*","Resource":"*"}`, []string{"error 2 lockout"}},
		{KeyPolicy, key + `,{"Effect":"Deny","Principal":{"AWS":"*"},"NotAction":"kms:Put*","Resource":"*"}`, nil},
		{KeyPolicy, key + "," + key, []string{"warning 2 the same as statement 1"}},
		{BucketPolicy, `{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::pay"}`, []string{"error 1 objects are arn:aws:s3:::pay/*"}},
		{BucketPolicy, `{"Effect":"Allow","Principal":"*","Action":"s3:ListBucket","Resource":"arn:aws:s3:::pay/*"}`, []string{"error 1 the bucket itself is arn:aws:s3:::pay"}},
		{BucketPolicy, `{"Effect":"Allow","Principal":"*","Action":["s3:ListBucket","s3:GetObject"],"Resource":"arn:aws:s3:::pay/*"}`, nil},
		{BucketPolicy, `{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::pay/*"},{"Effect":"Deny","Principal":"*","Action":"s3:Get*","Resource":"arn:aws:s3:::*"}`, []string{"error 1 statement 2 denies all of it"}},
		{BucketPolicy, `{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::pay/*"},{"Effect":"Deny","Principal":"*","Action":"s3:Get*","Resource":"arn:aws:s3:::*","Condition":{"Bool":{"aws:SecureTransport":"false"}}}`, nil},
		{IdentityPolicy, `{"Effect":"Allow","Action":"kms:Decrypt","Resource":"arn:aws:kms:us-east-1:000000000000:alias/x"}`, []string{"error 1 an alias is not its key"}},
		{IdentityPolicy, `{"Effect":"Allow","Action":"kms:CreateAlias","Resource":"arn:aws:kms:us-east-1:000000000000:alias/x"}`, nil},
		{IdentityPolicy, `{"Effect":"Allow","Action":"kms:CreateKey","Resource":"arn:aws:kms:us-east-1:000000000000:key/*"}`, []string{"error 1 no effect"}},
		{IdentityPolicy, `{"Effect":"Allow","Action":["ec2:RunInstances","s3:*"],"Resource":"*"}`, []string{`warning 1 no service "ec2"`}},
		{IdentityPolicy, `{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::home/${aws:username}/*"}`, nil},
	} {
		found, err := Check(c.kind, []byte(`{"Version":"2012-10-17","Statement":[`+c.statements+`]}`))
		if err != nil {
			t.Errorf("%s: %v", c.statements, err)
			continue
		}
		for i, f := range found {
			line := fmt.Sprintf("%s %d %s", f.Level, f.Statement, f.Problem)
			if i >= len(c.want) {
				t.Errorf("%s: %s", c.statements, line)
				continue
			}
			head, rest, _ := strings.Cut(c.want[i], " ")
			n, text, _ := strings.Cut(rest, " ")
			if !strings.HasPrefix(line, head+" "+n+" ") || !strings.Contains(f.Problem, text) {
				t.Errorf("%s: %s; want %s", c.statements, line, c.want[i])
			}
		}
		if len(found) < len(c.want) {
			t.Errorf("%s: %d findings, want %v", c.statements, len(found), c.want)
		}
	}
	if _, err := Check(KeyPolicy, []byte(`{}`)); err == nil {
		t.Error("a malformed document is no error")
	}
}

func mustStatements(text []byte) []byte {
	all := rawStatements(text)
	return all[0]
}

// TestKnownActions: what the built-in policies and the evaluator's own documents name is known.
func TestKnownActions(t *testing.T) {
	for _, text := range [][]byte{
		DefaultKeyPolicy("000000000000"), ConsoleKeyPolicy("000000000000", []string{"arn:aws:iam::000000000000:user/a"}, []string{"arn:aws:iam::000000000000:user/b"}),
		ManagedS3KeyPolicy("000000000000", "us-east-1"),
	} {
		found, err := Check(KeyPolicy, text)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if !strings.Contains(f.Problem, "lockout") { // nobody changes the policy of aws/s3
				t.Errorf("%s: %+v", text, f)
			}
		}
	}
}
