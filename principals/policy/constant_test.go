package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestConstantS3(t *testing.T) {
	allow := func(members string) string { return doc(`{"Effect":"Allow",` + members + `}`) }
	deny := func(members string) string { return doc(`{"Effect":"Deny",` + members + `}`) }
	get := func(resource string) string { return `"Action":"s3:GetObject","Resource":"` + resource + `"` }
	for _, c := range []struct {
		name     string
		who      *Identity
		bucket   string
		prefix   string
		constant bool
		want     Effect
	}{
		{"AdministratorAccess", user(t, "a", adminPolicy), "", "arn:aws:s3:::b/", true, Allow},
		{"AmazonS3FullAccess", user(t, "a", s3FullPolicy), "", "arn:aws:s3:::b/", true, Allow},
		{"AmazonS3FullAccess, bucket itself", user(t, "a", s3FullPolicy), "", "arn:aws:s3:::b", true, Allow},
		{"nobody", user(t, "a"), "", "arn:aws:s3:::b/", true, ImplicitDeny},
		{"other action", user(t, "a", allow(`"Action":"s3:Put*","Resource":"*"`)), "", "arn:aws:s3:::b/", true, ImplicitDeny},
		{"all of the bucket", user(t, "a", allow(get("arn:aws:s3:::b/*"))), "", "arn:aws:s3:::b/", true, Allow},
		{"all of the bucket, not itself", user(t, "a", allow(get("arn:aws:s3:::b/*"))), "", "arn:aws:s3:::b", false, 0},
		{"buckets by prefix", user(t, "a", allow(get("arn:aws:s3:::b*"))), "", "arn:aws:s3:::bucket", true, Allow},
		{"the bucket but not its objects", user(t, "a", allow(get("arn:aws:s3:::b"))), "", "arn:aws:s3:::b/", true, ImplicitDeny},
		{"other bucket", user(t, "a", allow(get("arn:aws:s3:::c/*"))), "", "arn:aws:s3:::b/", true, ImplicitDeny},
		{"longer bucket name", user(t, "a", allow(get("arn:aws:s3:::bb/*"))), "", "arn:aws:s3:::b/", true, ImplicitDeny},
		{"a directory", user(t, "a", allow(get("arn:aws:s3:::b/dir/*"))), "", "arn:aws:s3:::b/", false, 0},
		{"within the directory", user(t, "a", allow(get("arn:aws:s3:::b/dir/*"))), "", "arn:aws:s3:::b/dir/", true, Allow},
		{"deeper", user(t, "a", allow(get("arn:aws:s3:::b/dir/*"))), "", "arn:aws:s3:::b/dir/sub/", true, Allow},
		{"beside the directory", user(t, "a", allow(get("arn:aws:s3:::b/dir/*"))), "", "arn:aws:s3:::b/other/", true, ImplicitDeny},
		{"above the directory", user(t, "a", allow(get("arn:aws:s3:::b/dir/sub/*"))), "", "arn:aws:s3:::b/dir/", false, 0},
		{"one object", user(t, "a", allow(get("arn:aws:s3:::b/o"))), "", "arn:aws:s3:::b/", false, 0},
		{"home by variable", user(t, "a", allow(get("arn:aws:s3:::b/${aws:username}/*"))), "", "arn:aws:s3:::b/", false, 0},
		{"condition", user(t, "a", allow(get("*")+`,"Condition":{"Bool":{"aws:SecureTransport":"true"}}`)), "", "arn:aws:s3:::b/", false, 0},
		{"condition that does not matter", user(t, "a", s3FullPolicy, allow(get("*")+`,"Condition":{"Bool":{"aws:SecureTransport":"true"}}`)), "", "arn:aws:s3:::b/", true, Allow},
		{"deny with condition", user(t, "a", s3FullPolicy, deny(get("*")+`,"Condition":{"Bool":{"aws:SecureTransport":"false"}}`)), "", "arn:aws:s3:::b/", false, 0},
		{"deny of a directory", user(t, "a", s3FullPolicy, deny(get("arn:aws:s3:::b/dir/*"))), "", "arn:aws:s3:::b/", false, 0},
		{"deny elsewhere", user(t, "a", s3FullPolicy, deny(get("arn:aws:s3:::c/*"))), "", "arn:aws:s3:::b/", true, Allow},
		{"deny of another action", user(t, "a", s3FullPolicy, deny(`"Action":"s3:Put*","Resource":"arn:aws:s3:::b/x"`)), "", "arn:aws:s3:::b/", true, Allow},
		{"deny of all", user(t, "a", s3FullPolicy, deny(get("*"))), "", "arn:aws:s3:::b/", true, ExplicitDeny},
		{"deny all but a directory", user(t, "a", s3FullPolicy, deny(`"Action":"*","NotResource":"arn:aws:s3:::b/pub/*"`)), "", "arn:aws:s3:::b/", false, 0},
		{"deny all but a directory, within", user(t, "a", s3FullPolicy, deny(`"Action":"*","NotResource":"arn:aws:s3:::b/pub/*"`)), "", "arn:aws:s3:::b/pub/", true, Allow},
		{"deny all but elsewhere", user(t, "a", s3FullPolicy, deny(`"Action":"*","NotResource":"arn:aws:s3:::c/*"`)), "", "arn:aws:s3:::b/", true, ExplicitDeny},
		{"allow all but by variable", user(t, "a", allow(`"Action":"*","NotResource":"arn:aws:s3:::c/${x:y}"`)), "", "arn:aws:s3:::b/", false, 0},
		{"wildcards inside", user(t, "a", allow(get("arn:aws:s3:::*/pub/*"))), "", "arn:aws:s3:::b/", false, 0},
		{"short form", user(t, "a", allow(get("arn:aws:s3:*"))), "", "arn:aws:s3:::b/", true, Allow},
		{"bucket policy", user(t, "a"), doc(allowTo(aws(iamARN+"user/a"), "s3:*")), "arn:aws:s3:::b/", true, Allow},
		{"bucket policy for another", user(t, "a"), doc(allowTo(aws(iamARN+"user/z"), "s3:*")), "arn:aws:s3:::b/", true, ImplicitDeny},
		{"bucket policy denies", user(t, "a", s3FullPolicy), doc(denyTo(`"*"`, "s3:*")), "arn:aws:s3:::b/", true, ExplicitDeny},
		{"bucket policy denies another", user(t, "a", s3FullPolicy), doc(denyTo(aws(iamARN+"user/z"), "s3:*")), "arn:aws:s3:::b/", true, Allow},
		{"bucket policy denies some", user(t, "a", s3FullPolicy), doc(`{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::b/x"}`), "arn:aws:s3:::b/", false, 0},
		{"bucket policy delegates", user(t, "a"), doc(allowTo(aws(rootARN), "s3:*")), "arn:aws:s3:::b/", true, ImplicitDeny},
		{"boundary", with(user(t, "a", s3FullPolicy), t, allowList, ""), "", "arn:aws:s3:::b/", true, ImplicitDeny},
		{"narrow boundary", with(user(t, "a", s3FullPolicy), t, allow(get("arn:aws:s3:::b/x/*")), ""), "", "arn:aws:s3:::b/", false, 0},
		{"narrow session policy", with(session(t, "s", s3FullPolicy), t, "", allow(get("arn:aws:s3:::b/x/*"))), "", "arn:aws:s3:::b/", false, 0},
		{"role by bucket, cut", with(session(t, "s1"), t, "", allowList), doc(allowTo(aws(roleARN), "s3:*")), "arn:aws:s3:::b/", true, ImplicitDeny},
		{"session by bucket", with(session(t, "s1"), t, "", allowList), doc(allowTo(aws(sessionARN), "s3:*")), "arn:aws:s3:::b/", true, Allow},
		{"root", identity(t, rootARN), "", "arn:aws:s3:::b/", true, Allow},
	} {
		var b *Document
		if c.bucket != "" {
			b = mustParse(t, BucketPolicy, c.bucket)
		}
		d, ok := ConstantS3(c.who, "s3:GetObject", c.prefix, b)
		if ok != c.constant || ok && d.Effect != c.want {
			t.Errorf("%s: %v, constant %v; want %v, %v", c.name, d.Effect, ok, c.want, c.constant)
		}
	}
}

// randomDocs makes documents from a small world in which much matches.
type randomDocs struct{ r *rand.Rand }

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func (g randomDocs) condition() string {
	return pick(g.r,
		`{"StringEquals":{"x:k":"1"}}`, `{"StringNotEquals":{"x:k":"1"}}`, `{"Null":{"x:k":"true"}}`,
		`{"StringLikeIfExists":{"aws:username":"a*"}}`, `{"ForAnyValue:StringLike":{"x:k":["1","2*"]}}`, `{"StringEquals":{"x:k":"${x:v}"}}`)
}

func (g randomDocs) statement(kind Kind, effect string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"Effect":%q`, effect)
	if kind != IdentityPolicy {
		p := pick(g.r, `"*"`, aws(iamARN+"user/a"), aws(iamARN+"user/b"), aws(rootARN), aws(roleARN), aws(sessionARN), aws(rootARN, iamARN+"user/a"), aws(otherAcct))
		if effect == "Deny" && g.r.IntN(4) == 0 {
			b.WriteString(`,"NotPrincipal":` + p)
		} else {
			b.WriteString(`,"Principal":` + p)
		}
	}
	fmt.Fprintf(&b, `,"%sAction":%q`, pick(g.r, "", "", "", "Not"), pick(g.r, "*", "s3:*", "s3:Get*", "s3:GetObject", "s3:PutObject"))
	fmt.Fprintf(&b, `,"%sResource":%q`, pick(g.r, "", "", "", "Not"),
		pick(g.r, "*", "arn:aws:s3:::*", "arn:aws:s3:::b", "arn:aws:s3:::b/*", "arn:aws:s3:::b/x/*", "arn:aws:s3:::b/x", "arn:aws:s3:::*/x*", "arn:aws:s3:::b/${aws:username}*",
			"arn:aws:s3:::b/${x:v}", "arn:aws:s3:::c/*", "arn:aws:s3:*"))
	if g.r.IntN(3) == 0 {
		b.WriteString(`,"Condition":` + g.condition())
	}
	return b.String() + "}"
}

func (g randomDocs) statements(kind Kind, most int) []string {
	out := []string{}
	for range 1 + g.r.IntN(most) {
		out = append(out, g.statement(kind, pick(g.r, "Allow", "Allow", "Deny")))
	}
	return out
}

func (g randomDocs) identity(t *testing.T) *Identity {
	var policies []string
	for range g.r.IntN(3) {
		policies = append(policies, doc(g.statements(IdentityPolicy, 3)...))
	}
	arn := pick(g.r, iamARN+"user/a", iamARN+"user/a", iamARN+"user/b", sessionARN, rootARN)
	who := identity(t, arn, policies...)
	var boundary, scope string
	if g.r.IntN(4) == 0 {
		boundary = doc(g.statements(IdentityPolicy, 2)...)
	}
	if who.Type == Session && g.r.IntN(3) == 0 {
		scope = doc(g.statements(IdentityPolicy, 2)...)
	}
	return with(who, t, boundary, scope)
}

func (g randomDocs) request() *Request {
	req := &Request{
		Action:   pick(g.r, "s3:GetObject", "s3:PutObject"),
		Resource: pick(g.r, "arn:aws:s3:::b", "arn:aws:s3:::b/", "arn:aws:s3:::b/x", "arn:aws:s3:::b/x/y", "arn:aws:s3:::b/a/z", "arn:aws:s3:::b/1", "arn:aws:s3:::c/x"),
	}
	if g.r.IntN(2) == 0 {
		req.Keys = keys("x:k", pick(g.r, "1", "2", "1|2"), "x:v", pick(g.r, "1", "x"))
	}
	return req
}

func newRandomDocs(t *testing.T) randomDocs {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return randomDocs{rand.New(rand.NewPCG(seed, 3))}
}

// What ConstantS3 says of all resources holds for each.
func TestConstantS3AgainstDecide(t *testing.T) {
	g := newRandomDocs(t)
	said := map[Effect]int{}
	for range 3000 {
		who := g.identity(t)
		var b *Document
		if g.r.IntN(2) == 0 {
			b = mustParse(t, BucketPolicy, doc(g.statements(BucketPolicy, 3)...))
		}
		prefix := pick(g.r, "arn:aws:s3:::b", "arn:aws:s3:::b/", "arn:aws:s3:::b/x/")
		action := pick(g.r, "s3:GetObject", "s3:PutObject")
		d, ok := ConstantS3(who, action, prefix, b)
		if !ok {
			continue
		}
		said[d.Effect]++
		for range 20 {
			req := g.request()
			req.Action = action
			if !strings.HasPrefix(req.Resource, prefix) || strings.TrimSuffix(prefix, "/") != prefix && req.Resource == prefix {
				continue
			}
			if got := DecideS3(who, req, b); got.Effect != d.Effect {
				t.Fatalf("%s below %s is %v for %s; but %s with %v: %s\nbucket %s", action, prefix, d.Effect, who.ARN, req.Resource, req.Keys, got.Reason(), textOf(b))
			}
		}
	}
	if len(said) != 3 {
		t.Errorf("effects met: %v", said)
	}
}

func textOf(d *Document) string {
	if d == nil {
		return "none"
	}
	return string(d.Text())
}
