package policy

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// slow is far more than any document within the limits needs, race detector
// and fuzzing engine included.
const slow = 5 * time.Second

func FuzzParse(f *testing.F) {
	for kind := range uint8(3) {
		for _, s := range []string{
			adminPolicy, string(DefaultKeyPolicy(testAccount)), string(ManagedS3KeyPolicy(testAccount, "us-east-1")), "{", "[]", "",
			doc(`{"Effect":"Deny","NotPrincipal":{"AWS":["111122223333"]},"NotAction":"s3:*","NotResource":"arn:aws:s3:::b/${aws:username, 'x'}?*","Condition":{"ForAllValues:DateLessThanIfExists":{"a:b":["2026",1]},"IpAddress":{"a:c":"::/0"},"Null":{"a:d":true}}}`),
		} {
			f.Add(kind, s)
		}
	}
	who, req := fuzzCaller(f), &Request{Action: "s3:GetObject", Resource: "arn:aws:s3:::b/alice/x:y", Keys: keys("a:b", "1|2", "a:c", "10.0.0.1")}
	f.Fuzz(func(t *testing.T, kind uint8, text string) {
		start := time.Now()
		d, err := Parse(Kind(kind%3), []byte(text))
		if err != nil {
			var m *MalformedError
			if !errors.As(err, &m) || m.Msg == "" || len(err.Error()) > 1500 {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		if string(d.Text()) != text {
			t.Fatal("text changed")
		}
		if _, err := Check(Kind(kind%3), []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := d.Shown(nil); string(got) != text {
			t.Fatalf("shown as %q", got)
		}
		bound, err := d.Bind(testAccount, everybody{})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := bound.Bind(testAccount, everybody{}); err != nil || string(again.Text()) != string(bound.Text()) {
			t.Fatalf("bound twice: %v", err)
		}
		if d.kind == IdentityPolicy {
			w := *who
			w.Policies = []Named{{"f", d}}
			DecideIdentity(&w, req)
			ConstantS3(&w, "s3:GetObject", "arn:aws:s3:::b/", nil)
			Explain(&w, req, nil)
		} else {
			DecideKMS(who, req, d, nil)
			DecideS3(who, req, d)
			ConstantS3(who, "s3:GetObject", "arn:aws:s3:::b/", d)
			Explain(who, req, d)
		}
		if took := time.Since(start); took > slow {
			t.Fatalf("%d bytes took %v", len(text), took)
		}
	})
}

// everybody exists, with one id for all.
type everybody struct{}

func (everybody) UniqueID(string) (string, bool) { return "AIDAEVERYBODY00000000", true }
func (everybody) ARN(id string) (string, bool)   { return id, true }

func fuzzCaller(t testing.TB) *Identity {
	who := identity(t, iamARN+"user/alice", adminPolicy)
	who.Tags = map[string]string{"team": "red"}
	return who
}

// FuzzEvaluate throws pattern, value, condition and request at the evaluator.
func FuzzEvaluate(f *testing.F) {
	f.Add("arn:aws:s3:::b/${a:b}*", "arn:aws:s3:::b/x", "StringLike", "a:b", "x*?", "xyz", "s3:Get*", "s3:GetObject")
	f.Add("arn:aws:s3:*", "arn:aws:s3:::b/x", "ForAnyValue:ArnNotLikeIfExists", "a:b", "arn:*:*:*:*:${a:b}", "arn:a:b:c:d:e:f", "*", "x")
	f.Add("*", "*", "DateLessThan", "aws:currenttime", "2026-01-01", "1700000000", "kms:*", "kms:Decrypt")
	f.Add("*", "\xff", "IpAddress", "a:b", "10.0.0.0/8", "fe80::1%eth0", "kms:*", "KMS:")
	f.Fuzz(func(t *testing.T, resource, value, operator, key, want, have, action, asked string) {
		op, set, ifExists, msg := parseOperator(operator)
		a, msg2 := compileAction(action)
		g, msg3 := compileARN(resource, true, 5)
		o, msg4 := compileOperand(op, want, true)
		if msg+msg2+msg3+msg4+checkKeyName(key) != "" || len(value)+len(have) > 1<<16 {
			return
		}
		c := condition{op: op, set: set, ifExists: ifExists, key: compileKey(key), operands: []operand{o}}
		who := fuzzCaller(t)
		start := time.Now()
		for _, deny := range []bool{false, true} {
			st := statement{deny: deny, actions: []actionPattern{a}, resources: []glob{g}, conditions: []condition{c}}
			d := &Document{statements: []statement{st}}
			who.Policies = []Named{{"f", d}}
			req := &Request{Action: asked, Resource: value, Keys: keys(key, have)}
			first := DecideIdentity(who, req)
			if deny && first.Allowed() || !deny && first.Effect == ExplicitDeny {
				t.Fatal(first.Reason())
			}
			if second := DecideIdentity(who, req); second != first {
				t.Fatal("two answers")
			}
		}
		if took := time.Since(start); took > slow {
			t.Fatalf("took %v", took)
		}
	})
}

func FuzzVectors(f *testing.F) {
	b, err := os.ReadFile("testdata/policy.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b[:0]))
	f.Add(`{"vectors":[{"id":"V","principal":"arn:aws:iam::111122223333:user/a","identity":"n","action":"s3:x","expect":"DENY","context":{"a:b":["c"],"aws:PrincipalTag/x":"y"}}],"identityPolicies":{"n":[]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if results, err := RunVectors(strings.NewReader(text)); err == nil && len(results) == 0 {
			t.Fatal("neither results nor an error")
		}
	})
}

// The worst documents that pass the limits, on the longest names.
func TestWorstCases(t *testing.T) {
	object := "arn:aws:s3:::b/" + strings.Repeat("a", 3072)
	for _, unit := range []string{"a*", "*?a", "?*", "*aa?", "*${x:v}?"} {
		budget := 20000
		var list []string
		for budget > 2000 {
			n := min(budget, 1500)
			p := "arn:aws:s3:::b/" + strings.Repeat(unit, n/len(unit)) + "b"
			if strings.Contains(unit, "$") {
				p = "arn:aws:s3:::b/" + strings.Repeat(unit, maxVars) + "b"
			}
			list = append(list, `"`+p+`"`)
			budget -= len(p) + 3
		}
		d := mustParse(t, BucketPolicy, doc(`{"Effect":"Allow","Principal":"*","Action":"*","Resource":[`+strings.Join(list, ",")+`]}`))
		start := time.Now()
		if DecideS3(user(t, "alice"), &Request{Action: "s3:GetObject", Resource: object, Keys: keys("x:v", "aa")}, d).Allowed() {
			t.Errorf("%s: allowed", unit)
		}
		if took := time.Since(start); took > slow {
			t.Errorf("%s took %v", unit, took)
		} else {
			t.Logf("%-9s %v", unit, took)
		}
	}
}
