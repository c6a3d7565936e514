package policy

import (
	"strconv"
	"strings"
)

// Reason is the decision in one sentence. Denials are worded as AWS words them:
//
//	User: <arn> is not authorized to perform: kms:Decrypt on resource: <arn> because no identity-based policy allows the kms:Decrypt action
//	User: <arn> is not authorized to perform: kms:Decrypt on resource: <arn> with an explicit deny in a resource-based policy
//
// AWS has no text for an allow; ours names the policy and the statement.
func (d Decision) Reason() string {
	var b strings.Builder
	b.WriteString("User: " + d.caller)
	if d.Effect == Allow {
		b.WriteString(" is authorized to perform: ")
	} else {
		b.WriteString(" is not authorized to perform: ")
	}
	b.WriteString(d.action)
	if d.resource != "" {
		b.WriteString(" on resource: " + d.resource)
	}
	switch d.Effect {
	case Allow:
		b.WriteString(" by " + d.Decider())
		if d.Delegated != 0 {
			b.WriteString(", as " + numbered(d.Delegated, d.delegatedSid) + " of the key policy leaves it to identity-based policies")
		}
	case ExplicitDeny:
		b.WriteString(" with an explicit deny in " + article(d.Source.String()))
	case ImplicitDeny:
		b.WriteString(" because no " + d.Missing + " allows the " + d.action + " action")
	}
	return b.String()
}

// Decider names what decided, down to the statement: `statement 2 ("Allow use
// of the key") of the key policy`. For an implicit deny it says what was missing.
func (d Decision) Decider() string {
	switch d.Source {
	case None:
		return "no " + d.Missing
	case AccountRoot:
		return "being the account root user"
	case GrantSource:
		if d.Policy == "" {
			return "a grant" // in vectors grants need no id
		}
		return "grant " + d.Policy
	default:
	}
	s := numbered(d.Statement, d.Sid)
	switch d.Source {
	case KeyPolicySource, BucketPolicySource:
		return s + " of the " + d.Policy
	default:
		return s + " of " + d.Source.String() + " " + d.Policy
	}
}

func numbered(n int, sid string) string {
	s := "statement " + strconv.Itoa(n)
	if sid != "" {
		s += " (" + strconv.Quote(sid) + ")"
	}
	return s
}

func article(s string) string {
	if strings.HasPrefix(s, "i") {
		return "an " + s
	}
	return "a " + s
}
