package host

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// keyStatements is a key policy with the account's delegation and more.
func keyStatements(more ...string) string {
	all := append([]string{`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:root"},"Action":"kms:*","Resource":"*"}`}, more...)
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(all, ",") + `]}`
}

func allows(who, action, condition string) string {
	return fmt.Sprintf(`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/%s"},"Action":%q,"Resource":"*"%s}`, who, action, condition)
}

// TestPolicyDiff counts the files that people gain and lose: by context, by grant, by both gates.
func TestPolicyDiff(t *testing.T) {
	r := newRig(t, true)
	for i := range 3 {
		r.file("box", fmt.Sprintf("g%d", i))
	}
	only := `,"Condition":{"StringLike":{"kms:EncryptionContext:aws:s3:arn":"arn:aws:s3:::box/g*"}}`
	var d PolicyDiff
	r.must(uidOwner, CmdPolicyDiff, PolicyDiffArgs{Key: "alias/my-key", Text: keyStatements(allows("alice", "kms:Decrypt", only), allows("bob", "kms:Decrypt", ""))}, &d)
	if d.Files != 4 || len(d.Access) != 1 || d.Access[0] != (FileAccess{Principal: "alice", Gained: 3}) { // bob passes no S3 gate
		t.Errorf("%+v", d)
	}
	if len(d.Changes) != 1 || d.Changes[0].Principal != "bob" { // alice's right is about objects: without one she has none
		t.Errorf("%+v", d.Changes)
	}
	r.must(uidOwner, CmdGrantCreate, GrantArgs{Key: "alias/my-key", Grantee: "alice", Operations: []string{"Decrypt"}}, nil)
	d = PolicyDiff{}
	r.must(uidOwner, CmdPolicyDiff, PolicyDiffArgs{Key: "alias/my-key", Text: keyStatements(allows("alice", "kms:Decrypt", ""))}, &d)
	if len(d.Access)+len(d.Changes) != 0 { // the grant has given it already
		t.Errorf("%+v", d)
	}
	d = PolicyDiff{}
	r.must(uidOwner, CmdPolicyDiff, PolicyDiffArgs{Key: "alias/my-key", Text: keyStatements(strings.Replace(allows("alice", "kms:Decrypt", ""), "Allow", "Deny", 1))}, &d)
	if len(d.Access) != 1 || d.Access[0] != (FileAccess{Principal: "alice", Before: 4, Lost: 4}) {
		t.Errorf("%+v", d)
	}
	if _, resp := r.do(uidOwner, "", CmdPolicyDiff, PolicyDiffArgs{Key: "alias/my-key", Text: keyStatements(allows("eve", "kms:Decrypt", ""))}); resp.Error == nil {
		t.Error("a principal that does not exist was accepted")
	}
	if _, resp := r.do(uidAlice, "", CmdPolicyDiff, PolicyDiffArgs{Key: "alias/my-key", Text: keyStatements()}); resp.Error == nil {
		t.Error("alice may read the policy")
	}
}

func TestPolicyCheckInStore(t *testing.T) {
	r := newRig(t, true)
	for _, c := range []struct{ kind, text, want string }{
		{"key", keyStatements(allows("alice", "kms:Decrypt", "")), ""},
		{"key", keyStatements(allows("eve", "kms:Decrypt", "")), "there is no principal arn:aws:iam::000000000000:user/eve"},
		{"key", `{"Statement":` + allows("alice", "kms:*", "") + `}`, "only others such as alice"},
		{"key", `{"Statement":` + strings.Replace(allows("alice", "kms:*", ""), "user/alice", "root", 1) + `}`, ""},
		{"key", `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"StringEquals":{"aws:username":"eve"}}}}`, "none of the store's principals"},
		{"bucket", `{"Statement":{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::000000000000:user/eve"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::box/*"}}`, "no principal"},
	} {
		var res PolicyCheckResult
		r.must(uidOwner, CmdPolicyCheck, PolicyCheckArgs{Kind: c.kind, Text: c.text}, &res)
		if c.want == "" && len(res.Findings) > 0 || c.want != "" && (len(res.Findings) != 1 || !strings.Contains(res.Findings[0].Problem, c.want)) || res.OK != (c.want == "") {
			t.Errorf("%s: %+v, want %q", c.text, res, c.want)
		}
	}
}

// TestWhyTellsWhatToChange follows the advice and asks again.
func TestWhyTellsWhatToChange(t *testing.T) {
	r := newRig(t, true)
	ask := func(op string) WhyResult {
		t.Helper()
		var res WhyResult
		r.must(uidOwner, CmdWhy, WhyArgs{Path: Path{Typed: "box/f"}, Principal: "bob", Op: op}, &res)
		return res
	}
	advised := func(res WhyResult, gate int, want string) {
		t.Helper()
		if res.Allowed || gate >= len(res.Gates) || !slices.ContainsFunc(res.Gates[gate].Change, func(c string) bool { return strings.Contains(c, want) }) {
			t.Fatalf("no advice %q: %+v", want, res)
		}
	}
	advised(ask("read"), 0, "kmsfs bucket policy box FILE")
	advised(ask("read"), 0, "kmsfs principal attach bob FILE")
	r.must(uidOwner, CmdPrincipalAttach, PrincipalPolicyArgs{Name: "bob", Policy: PolicyArg{Name: "AmazonS3FullAccess"}}, nil)
	res := ask("read")
	if !res.Gates[0].Allowed || res.Gates[0].Change != nil {
		t.Errorf("%+v", res)
	}
	advised(res, 1, "--grantee bob --operations Decrypt")
	advised(res, 1, "kmsfs principal attach bob FILE")
	r.must(uidOwner, CmdGrantCreate, GrantArgs{Key: "alias/my-key", Grantee: "bob", Operations: []string{"Decrypt"}}, nil)
	if res := ask("read"); !res.Allowed {
		t.Errorf("%+v", res)
	}
	deny := `{"Statement":{"Sid":"no","Effect":"Deny","Principal":{"AWS":"arn:aws:iam::000000000000:user/bob"},"Action":"s3:Get*","Resource":"arn:aws:s3:::box/*"}}`
	r.must(uidOwner, CmdBucketPolicy, BucketPolicyArgs{Name: "box", Policy: Document{Set: true, Text: deny}}, nil)
	advised(ask("read"), 0, "statement 1 (no) of the bucket policy")
	r.must(uidOwner, CmdBucketPolicy, BucketPolicyArgs{Name: "box", Policy: Document{Set: true}}, nil)
	r.must(uidOwner, CmdKeyDisable, KeyArgs{Key: "alias/my-key"}, nil)
	advised(ask("read"), 1, "kmsfs key enable")
	r.must(uidOwner, CmdKeyScheduleDeletion, KeyDeletionArgs{Key: "alias/my-key"}, nil)
	advised(ask("read"), 1, "kmsfs key cancel-deletion")

	// A new file's key, its encryption context and with them the answer are those of the default that is nearest.
	var key KeyInfo
	r.must(uidOwner, CmdKeyCreate, KeyCreateArgs{Alias: "bk", Policy: Document{Set: true, Text: keyStatements(allows("bob", "kms:GenerateDataKey",
		`,"Condition":{"StringEquals":{"kms:EncryptionContext:aws:s3:arn":"arn:aws:s3:::whole"}}`))}}, &key)
	r.must(uidOwner, CmdBucketCreate, BucketCreateArgs{Name: "whole", SSE: "aws:kms:alias/bk;bucket-key=true"}, nil)
	r.must(uidOwner, CmdBucketCreate, BucketCreateArgs{Name: "each", SSE: "aws:kms:alias/bk"}, nil)
	for bucket, want := range map[string]bool{"whole": true, "each": false} {
		var res WhyResult
		r.must(uidOwner, CmdWhy, WhyArgs{Path: Path{Typed: bucket + "/new"}, Principal: "bob", Op: "write"}, &res)
		if res.Allowed != want || len(res.Gates) != 2 || res.Gates[1].Resource != key.ARN {
			t.Errorf("a new file in %s: %+v", bucket, res)
		}
	}

	// A bucket policy that wants uploads to name their encryption is met by a mount option, and why says so.
	named := `{"Statement":{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::each/*",
 "Condition":{"StringNotEquals":{"s3:x-amz-server-side-encryption":"aws:kms"}}}}`
	r.must(uidOwner, CmdBucketPolicy, BucketPolicyArgs{Name: "each", Policy: Document{Set: true, Text: named}}, nil)
	ask2 := func(p Path) WhyResult {
		t.Helper()
		var res WhyResult
		r.must(uidOwner, CmdWhy, WhyArgs{Path: p, Op: "write"}, &res)
		return res
	}
	advised(ask2(Path{Typed: "each/new"}), 0, "kmsfs mount -o sse=aws:kms DIR")
	dir := t.TempDir()
	r.must(uidOwner, CmdMount, MountArgs{Dir: dir, Options: []string{"sse=aws:kms:alias/bk"}}, nil)
	if res := ask2(Path{Typed: "new", Absolute: dir + "/each/new"}); !res.Allowed {
		t.Errorf("on a mount with the option: %+v", res)
	}
}
