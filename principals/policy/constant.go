package policy

import "strings"

// A truth is what holds for a whole set of requests.
type truth uint8

const (
	never truth = iota
	maybe
	always
)

func (a truth) and(b truth) truth { return min(a, b) }
func (a truth) or(b truth) truth  { return max(a, b) }
func (a truth) not() truth        { return always - a }

// ConstantS3 decides an S3 action for a whole bucket at once. It answers
// (decision, true) if DecideS3 gives that same effect for every resource concerned, whatever
// the condition keys of the request; otherwise (zero, false).
//
// The resources concerned are those below bucketARNPrefix: for
// "arn:aws:s3:::b/" every object of the bucket, for "arn:aws:s3:::b" the bucket
// itself as well.
func ConstantS3(who *Identity, action, bucketARNPrefix string, bucket *Document) (Decision, bool) {
	base, objectsOnly := strings.CutSuffix(bucketARNPrefix, "/")
	req := Request{Action: action, Resource: bucketARNPrefix}
	ev := newEvaluation(who, &req)
	c := constant{ev: &ev, base: base, objectsOnly: objectsOnly}

	res := c.resource(bucket)
	if res.deny.when == always {
		return ev.decision(ExplicitDeny, res.deny.place(BucketPolicySource, "bucket policy", bucket)), true
	}
	denied := res.deny.when
	allowed, at := never, place{}
	if who.Type == RootUser {
		allowed, at = always, place{source: AccountRoot}
	}
	for _, n := range who.Policies {
		v := c.document(n.Document)
		if v.deny.when == always {
			return ev.decision(ExplicitDeny, v.deny.place(IdentityPolicies, n.Name, n.Document)), true
		}
		denied = denied.or(v.deny.when)
		if v.allow.when > allowed {
			at = v.allow.place(IdentityPolicies, n.Name, n.Document)
		}
		allowed = allowed.or(v.allow.when)
	}
	lacking, limit := IdentityPolicies, always
	for _, l := range [...]struct {
		n      *Named
		source Source
	}{{who.Boundary, Boundary}, {who.SessionPolicy, SessionPolicy}} {
		if l.n == nil {
			continue
		}
		v := c.document(l.n.Document)
		if v.deny.when == always {
			return ev.decision(ExplicitDeny, v.deny.place(l.source, l.n.Name, l.n.Document)), true
		}
		denied = denied.or(v.deny.when)
		if v.allow.when == never && limit != never && allowed != never {
			lacking = l.source
		}
		limit = limit.and(v.allow.when)
	}
	if denied != never {
		return Decision{}, false
	}
	identity := allowed.and(limit)
	if identity == always {
		return ev.decision(Allow, at), true
	}
	self := res.self.when
	if who.Type == Session {
		self = self.and(limit)
	}
	switch {
	case res.session.when == always:
		return ev.decision(Allow, res.session.place(BucketPolicySource, "bucket policy", bucket)), true
	case self == always:
		return ev.decision(Allow, res.self.place(BucketPolicySource, "bucket policy", bucket)), true
	case identity == never && self == never && res.session.when == never:
		return ev.lacking(lacking), true
	default:
		return Decision{}, false
	}
}

// A constant evaluates documents for all objects of a bucket.
type constant struct {
	ev          *evaluation
	base        string // arn:aws:s3:::bucket
	objectsOnly bool
}

// A finding is how often a kind of statement applies, and the first of those that
// apply most often.
type finding struct {
	when      truth
	statement int
}

func (f *finding) add(t truth, statement int) {
	if t > f.when {
		f.when, f.statement = t, statement
	}
}

func (f finding) place(source Source, name string, d *Document) place {
	return place{source, name, d, f.statement}
}

type constantVerdict struct{ deny, allow, self, session finding }

func (c *constant) resource(d *Document) constantVerdict {
	var v constantVerdict
	if d == nil {
		return v
	}
	for i := range d.statements {
		st := &d.statements[i]
		t := c.applies(st)
		if st.deny {
			if st.denies(c.ev.who) {
				v.deny.add(t, i+1)
			}
			continue
		}
		cover := st.principals.covers(c.ev.who)
		if cover&coverSelf != 0 {
			v.self.add(t, i+1)
		}
		if cover&coverSession != 0 {
			v.session.add(t, i+1)
		}
	}
	return v
}

func (c *constant) document(d *Document) constantVerdict {
	var v constantVerdict
	if d == nil {
		return v
	}
	for i := range d.statements {
		st := &d.statements[i]
		if t := c.applies(st); st.deny {
			v.deny.add(t, i+1)
		} else {
			v.allow.add(t, i+1)
		}
	}
	return v
}

// applies says whether a statement applies to all, some or none of the requests.
func (c *constant) applies(st *statement) truth {
	if !st.matchesAction(c.ev) {
		return never
	}
	t, vars := never, false
	for i := range st.resources {
		t = t.or(c.covers(&st.resources[i]))
		vars = vars || len(st.resources[i].vars) > 0
	}
	if st.notResource {
		t = t.not()
	}
	if len(st.conditions) > 0 || st.notResource && vars {
		t = t.and(maybe)
	}
	return t
}

// covers says whether a pattern matches all, some or none of the resources.
func (c *constant) covers(g *glob) truth {
	if g.shape == shapeAny {
		return always
	}
	prefix, whole := g.fixedPrefix()
	objects := c.base + "/"
	switch {
	case whole && c.objectsOnly:
		if strings.HasPrefix(prefix, objects) {
			return maybe
		}
		return never
	case whole:
		if prefix == c.base || strings.HasPrefix(prefix, objects) {
			return maybe
		}
		return never
	case g.shape == shapePrefix && (strings.HasPrefix(c.base, prefix) || c.objectsOnly && prefix == objects):
		return always
	case strings.HasPrefix(prefix, objects), strings.HasPrefix(objects, prefix):
		return maybe
	default:
		return never
	}
}
