package matrix

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// where a statement stands.
type where int

const (
	identity where = iota
	keyPolicy
	bucketPolicy
)

// statement is one statement about one principal. An empty effect is Allow. Actions and resources end in "*" or are exact.
type statement struct {
	in      where
	deny    bool
	actions []string
	objects []string // identity, bucketPolicy: "bucket/key" patterns for s3 actions; nil: everything
}

// principal is somebody with his rights.
type principal struct {
	name    string
	managed string // attached built-in policy, of which rules has the statements too
	rules   []statement
	grant   []string // operations granted on every key
	only    string   // the grant is constrained to the context of this file's object
}

var (
	s3Full     = statement{actions: []string{"s3:*"}}
	s3ReadOnly = statement{actions: []string{"s3:Get*", "s3:List*", "s3:Describe*"}}
	useOfKey   = []string{"kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"}
)

func kms(actions ...string) statement { return statement{in: keyPolicy, actions: actions} }

// everyone are the principals. What a managed policy says is written out: the model does not read it.
var everyone = []principal{
	{name: "admin", managed: "AdministratorAccess", rules: []statement{{actions: []string{"*"}}}},
	{name: "writer", managed: "AmazonS3FullAccess", rules: []statement{s3Full, kms(useOfKey...)}},
	{name: "reader", managed: "AmazonS3ReadOnlyAccess", rules: []statement{s3ReadOnly, kms("kms:Decrypt")}},
	{name: "bob", managed: "AmazonS3FullAccess", rules: []statement{s3Full}},
	{name: "readonly", managed: "AmazonS3ReadOnlyAccess", rules: []statement{s3ReadOnly}},
	{name: "dropbox", managed: "AmazonS3FullAccess", rules: []statement{s3Full, kms("kms:GenerateDataKey")}},
	// identity policies that work only where the key policy delegates to the account
	{name: "decrypts", managed: "AmazonS3FullAccess", rules: []statement{s3Full, {actions: []string{"kms:Decrypt"}}}},
	{name: "denied", managed: "AdministratorAccess", rules: []statement{{actions: []string{"*"}}, {deny: true, actions: []string{"kms:Decrypt"}}}},
	{name: "keyonly", rules: []statement{kms(useOfKey...)}},
	{name: "invited", rules: []statement{
		{in: bucketPolicy, actions: []string{"s3:GetObject"}, objects: []string{"*/p/*"}}, kms("kms:Decrypt"),
	}},
	{name: "banned", managed: "AmazonS3FullAccess", rules: []statement{
		s3Full, {in: bucketPolicy, deny: true, actions: []string{"s3:PutObject"}, objects: []string{"*/p/*"}}, kms(useOfKey...),
	}},
	{
		name: "grantee", managed: "AmazonS3FullAccess", rules: []statement{s3Full},
		grant: []string{"Decrypt", "Encrypt", "GenerateDataKey", "ReEncryptFrom", "ReEncryptTo"},
	},
	{name: "narrow", managed: "AmazonS3FullAccess", rules: []statement{s3Full}, grant: []string{"Decrypt"}, only: "open-read"},
	{name: "rewraps", managed: "AmazonS3FullAccess", rules: []statement{s3Full, kms("kms:ReEncrypt*", "kms:GenerateDataKey")}},
	{name: "prefixed", rules: []statement{{actions: []string{"s3:*"}, objects: []string{"*/p/*"}}, {actions: []string{"kms:*"}}}},
	{name: "nobody"},
}

func wild(pattern, text string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(text, prefix)
	}
	return pattern == text
}

// matches decides a statement about an action on "bucket/key" (or "bucket", or a key's name). A pattern "*/rest" means any bucket.
func (st *statement) matches(action, object string) bool {
	if !slices.ContainsFunc(st.actions, func(a string) bool { return wild(a, action) }) {
		return false
	}
	if st.objects == nil {
		return true
	}
	_, key, isObject := strings.Cut(object, "/")
	return isObject && slices.ContainsFunc(st.objects, func(o string) bool { return wild(strings.TrimPrefix(o, "*/"), key) })
}

func (p *principal) says(in where, deny bool, action, object string) bool {
	return slices.ContainsFunc(p.rules, func(st statement) bool {
		return st.in == in && st.deny == deny && st.matches(action, object)
	})
}

// s3 is the S3 gate: no Deny anywhere, and an Allow by identity or bucket policy.
func (p *principal) s3(action, object string) bool {
	if p.says(identity, true, action, object) || p.says(bucketPolicy, true, action, object) {
		return false
	}
	return p.says(identity, false, action, object) || p.says(bucketPolicy, false, action, object)
}

// beneath reports whether some object beneath a directory may be one that an Allow is about.
func (p *principal) beneath(dir string) bool {
	_, dir, _ = strings.Cut(dir, "/")
	return slices.ContainsFunc(p.rules, func(st statement) bool {
		if st.in == keyPolicy || st.deny || st.objects == nil {
			return false
		}
		return slices.ContainsFunc(st.objects, func(o string) bool {
			o = strings.TrimSuffix(strings.TrimPrefix(o, "*/"), "*")
			return strings.HasPrefix(o, dir) || strings.HasPrefix(dir, o)
		})
	})
}

// kind is what a bucket's files are under.
type kind struct {
	name  string
	state state
	// delegates says that the key policy leaves the account's identities to their policies
	delegates bool
}

type state int

const (
	noKey   state = iota // SSE-S3
	managed              // aws/s3
	enabled
	disabled
	deleting
	importing
	deleted
)

var kinds = []kind{
	{"m-sse-s3", noKey, false},
	{"m-aws-s3", managed, false},
	{"m-enabled", enabled, true},
	{"m-closed", enabled, false},
	{"m-disabled", disabled, true},
	{"m-deleting", deleting, true},
	{"m-importing", importing, true},
	{"m-deleted", deleted, true},
}

var stateErrno = map[state]syscall.Errno{
	disabled: syscall.EKEYREVOKED, deleting: syscall.EKEYREVOKED, importing: syscall.ENOKEY, deleted: syscall.ENOKEY,
}

// mayUse is the authorisation of one action on a key, through S3, for a file's object.
func (p *principal) mayUse(k *kind, action string, ownOf string) bool {
	if p.says(identity, true, action, "") {
		return false
	}
	byIdentity := p.says(identity, false, action, "")
	switch k.state {
	case managed: // everybody in the account, through S3
		return slices.ContainsFunc(useOfKey, func(a string) bool { return wild(a, action) })
	case deleted: // who could have used it is told that it is gone, unless by a grant: grants go with the key
		return byIdentity || p.says(keyPolicy, false, action, "")
	case noKey, enabled, disabled, deleting, importing:
	}
	direct := p.says(keyPolicy, false, action, "") || !k.delegates && p.name == "admin" // who made the closed key kept it
	granted := slices.Contains(p.grant, strings.TrimPrefix(action, "kms:")) && (p.only == "" || p.only == ownOf)
	return direct || k.delegates && byIdentity || granted
}

// documents are a principal's own policies; the test attaches them beside the managed one.
func (p *principal) identityDocument() string {
	var out []map[string]any
	for _, st := range p.rules {
		covered := p.managed != "" && !st.deny && st.actions[0] != "kms:Decrypt"
		if st.in == identity && !covered {
			out = append(out, st.json("", "Resource"))
		}
	}
	return document(out)
}

func (st *statement) json(who, _ string) map[string]any {
	m := map[string]any{"Effect": "Allow", "Action": st.actions, "Resource": "*"}
	if st.deny {
		m["Effect"] = "Deny"
	}
	if st.objects != nil {
		var arns []string
		for _, o := range st.objects {
			for _, k := range kinds {
				arns = append(arns, "arn:aws:s3:::"+strings.Replace(o, "*", k.name, 1))
			}
			arns = append(arns, "arn:aws:s3:::"+strings.Replace(o, "*", "m-other", 1))
		}
		m["Resource"] = arns
	}
	if who != "" {
		m["Principal"] = map[string]string{"AWS": userARN(who)}
	}
	return m
}

func document(statements []map[string]any) string {
	if len(statements) == 0 {
		return ""
	}
	b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// keyDocument is the policy of a key with everybody's statements.
func keyDocument(delegates bool) string {
	var out []map[string]any
	if delegates {
		out = append(out, map[string]any{
			"Effect": "Allow", "Principal": map[string]string{"AWS": "arn:aws:iam::" + account + ":root"}, "Action": "kms:*", "Resource": "*",
		})
	} else {
		admin := kms("kms:*")
		out = append(out, admin.json("admin", ""))
	}
	for i := range everyone {
		for _, st := range everyone[i].rules {
			if st.in == keyPolicy {
				out = append(out, st.json(everyone[i].name, ""))
			}
		}
	}
	return document(out)
}

// bucketDocument is the policy of a bucket with everybody's statements about it.
func bucketDocument(bucket string) string {
	var out []map[string]any
	for i := range everyone {
		for _, st := range everyone[i].rules {
			if st.in == bucketPolicy {
				m := st.json(everyone[i].name, "")
				m["Resource"] = "arn:aws:s3:::" + strings.Replace(st.objects[0], "*", bucket, 1)
				out = append(out, m)
			}
		}
	}
	return document(out)
}

// TestModel holds the model to rows of the manual's truth table, so that it cannot be wrong in the same way as the program unnoticed.
func TestModel(t *testing.T) {
	find := func(name string) *principal {
		return &everyone[slices.IndexFunc(everyone, func(p principal) bool { return p.name == name })]
	}
	plain, closed, aws := &kinds[2], &kinds[3], &kinds[1]
	for _, c := range []struct {
		row      string
		got      bool
		expected bool
	}{
		{"K01", find("admin").mayUse(plain, "kms:Decrypt", ""), true},
		{"K03", find("bob").mayUse(plain, "kms:GenerateDataKey", ""), false},
		{"K04", find("writer").mayUse(plain, "kms:Decrypt", ""), true},
		{"K10", find("decrypts").mayUse(closed, "kms:Decrypt", ""), false},
		{"K19", find("denied").mayUse(plain, "kms:Decrypt", ""), false},
		{"K22", find("bob").mayUse(aws, "kms:Decrypt", ""), true},
		{"K28", find("dropbox").mayUse(plain, "kms:GenerateDataKey", ""), true},
		{"K31", find("reader").mayUse(plain, "kms:GenerateDataKey", ""), false},
		{"G01", find("grantee").mayUse(plain, "kms:Decrypt", ""), true},
		{"G02", find("grantee").mayUse(closed, "kms:Decrypt", ""), true},
		{"G07", find("narrow").mayUse(plain, "kms:Decrypt", "open-read"), true},
		{"G11", find("narrow").mayUse(plain, "kms:Decrypt", "stat"), false},
		{"F06", find("nobody").s3("s3:GetObject", "pub/f"), false},
		{"F16", find("readonly").s3("s3:PutObject", "pub/f"), false},
	} {
		if c.got != c.expected {
			t.Errorf("%s: the model says %v", c.row, c.got)
		}
	}
}
