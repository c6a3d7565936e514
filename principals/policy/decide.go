package policy

import "strings"

// DecideKMS decides a KMS action on a key by its key policy, the caller's
// identity side and the key's grants.
//
// kms:RetireGrant is authorised by no policy: the caller must be the
// retiring principal, or a grantee whose grant lists RetireGrant, or the
// account's root user. Pass only the grant that is to be retired.
func DecideKMS(who *Identity, req *Request, key *Document, grants []Grant) Decision {
	ev := newEvaluation(who, req)
	res := ev.resource(key)
	if res.deny != 0 {
		return ev.decision(ExplicitDeny, place{KeyPolicySource, "key policy", key, res.deny})
	}
	id := ev.identity()
	if id.deny.statement != 0 {
		return ev.decision(ExplicitDeny, id.deny)
	}
	local := ev.local()
	if ev.isAction("kms", "retiregrant") {
		return ev.decideRetire(grants, local)
	}
	if d, ok := ev.byResource(res, &id, KeyPolicySource, "key policy", key, local); ok {
		return d
	}
	if res.account != 0 && id.allows() && !id.rootCaller {
		d := ev.decision(Allow, id.allow)
		d.Delegated, d.delegatedSid = res.account, key.statements[res.account-1].sid
		return d
	}
	limited := false
	for i := range grants {
		g := &grants[i]
		switch g.authorises(&ev) {
		case grantExact:
			if local || id.allows() {
				return ev.decision(Allow, place{source: GrantSource, policy: g.ID})
			}
		case grantRole:
			if id.limitedBy == None && (local || id.allows()) {
				return ev.decision(Allow, place{source: GrantSource, policy: g.ID})
			}
			limited = id.limitedBy != None
		case grantAccount:
			if id.allows() {
				return ev.decision(Allow, place{source: GrantSource, policy: g.ID})
			}
		case grantNone:
		}
	}
	switch {
	case res.account != 0 || !local && (res.self != 0 || res.session != 0):
		return ev.lacking(id.missing())
	case res.self != 0 || limited:
		return ev.lacking(id.limitedBy)
	default:
		return ev.lacking(KeyPolicySource)
	}
}

// DecideS3 decides an S3 action. bucket is the bucket's policy, or nil.
func DecideS3(who *Identity, req *Request, bucket *Document) Decision {
	ev := newEvaluation(who, req)
	res := ev.resource(bucket)
	if res.deny != 0 {
		return ev.decision(ExplicitDeny, place{BucketPolicySource, "bucket policy", bucket, res.deny})
	}
	id := ev.identity()
	if id.deny.statement != 0 {
		return ev.decision(ExplicitDeny, id.deny)
	}
	local := ev.local()
	if local && id.allows() {
		return ev.identityAllow(&id)
	}
	if d, ok := ev.byResource(res, &id, BucketPolicySource, "bucket policy", bucket, local); ok {
		return d
	}
	if !local && res.account != 0 && id.allows() {
		return ev.identityAllow(&id)
	}
	if !local && res.self == 0 && res.session == 0 && res.account == 0 {
		return ev.lacking(BucketPolicySource)
	}
	return ev.lacking(id.missing())
}

// DecideIdentity decides an action on which no resource has a policy of its
// own, such as kms:CreateKey, iam:CreateUser or s3:ListAllMyBuckets.
func DecideIdentity(who *Identity, req *Request) Decision {
	ev := newEvaluation(who, req)
	id := ev.identity()
	switch {
	case id.deny.statement != 0:
		return ev.decision(ExplicitDeny, id.deny)
	case id.allows():
		return ev.identityAllow(&id)
	default:
		return ev.lacking(id.missing())
	}
}

// byResource decides whether the resource policy's own allow suffices. In the
// same account it does; naming the role leaves the session under its boundary
// and session policy, naming the session does not. Another account must allow
// its principal as well.
func (ev *evaluation) byResource(res resourceVerdict, id *identityVerdict, source Source, name string, d *Document, local bool) (Decision, bool) {
	if !local && !id.allows() {
		return Decision{}, false
	}
	if res.session != 0 {
		return ev.decision(Allow, place{source, name, d, res.session}), true
	}
	if res.self != 0 && (ev.who.Type != Session || id.limitedBy == None) {
		return ev.decision(Allow, place{source, name, d, res.self}), true
	}
	return Decision{}, false
}

// local reports whether the caller belongs to the account of the resource.
func (ev *evaluation) local() bool {
	owner := ev.req.ResourceAccount
	if owner == "" && ev.barrier > 0 {
		head := ev.req.Resource[:ev.barrier-1]
		owner = head[strings.LastIndexByte(head, ':')+1:]
	}
	return owner == "" || owner == ev.who.Account
}

// isAction compares the action with a lower-case one.
func (ev *evaluation) isAction(service, name string) bool {
	return len(ev.service) == len(service) && len(ev.name) == len(name) &&
		hasPrefixFold(ev.service, service) && hasPrefixFold(ev.name, name)
}

func (ev *evaluation) identityAllow(id *identityVerdict) Decision {
	if id.allow.statement == 0 {
		return ev.decision(Allow, place{source: AccountRoot})
	}
	return ev.decision(Allow, id.allow)
}

func (ev *evaluation) decision(e Effect, at place) Decision {
	d := Decision{
		Effect: e, Source: at.source, Policy: at.policy, Statement: at.statement,
		caller: ev.who.ARN, action: ev.req.Action, resource: ev.req.Resource,
	}
	if at.doc != nil && at.statement > 0 {
		d.Sid = at.doc.statements[at.statement-1].sid
	}
	return d
}

// lacking is an implicit deny for want of an allow by source.
func (ev *evaluation) lacking(source Source) Decision {
	d := ev.decision(ImplicitDeny, place{})
	d.Missing = source.String()
	return d
}

// A Decision is the answer to a Request, with the reason.
type Decision struct {
	Effect Effect
	// Source is the kind of policy that decided; None for an implicit deny.
	Source Source
	// Policy is the name of the policy that decided ("key policy", "bucket
	// policy", the name of an identity policy) or the id of the grant.
	Policy string
	// Sid is that of the statement that decided, or "".
	Sid string
	// Statement is its number within the policy, counted from 1; 0 where no
	// statement decided.
	Statement int
	// Missing is the kind of policy whose allow was wanting: "identity-based
	// policy", "resource-based policy", "permissions boundary", "session policy" or
	// "grant". Empty unless Effect is ImplicitDeny.
	Missing string
	// Delegated is the number of the key policy's statement that left the decision
	// to identity policies, counted from 1; 0 where none had to.
	Delegated int

	delegatedSid             string
	caller, action, resource string
}

// Allowed reports whether the request may go ahead.
func (d Decision) Allowed() bool { return d.Effect == Allow }
