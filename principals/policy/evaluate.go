package policy

// applies reports whether the statement's resource and conditions match. Its action
// and whom it names are separate questions, asked first.
func (st *statement) applies(ev *evaluation) bool {
	return st.matchesResource(ev) && st.matchesConditions(ev)
}

func (st *statement) matchesAction(ev *evaluation) bool {
	if st.inert {
		return false
	}
	for i := range st.actions {
		if st.actions[i].match(ev.service, ev.name) {
			return !st.notAction
		}
	}
	return st.notAction
}

func (st *statement) matchesResource(ev *evaluation) bool {
	unresolved := false
	for i := range st.resources {
		g := &st.resources[i]
		if g.shape != shapeAny && ev.barrier < 0 {
			continue // not an ARN: only "*" matches
		}
		ok, un := g.match(ev, ev.req.Resource, ev.barrier)
		if ok {
			return !st.notResource
		}
		unresolved = unresolved || un
	}
	return st.notResource && (!unresolved || st.deny)
}

func (st *statement) matchesConditions(ev *evaluation) bool {
	for i := range st.conditions {
		if !st.conditions[i].match(ev, st.deny) {
			return false
		}
	}
	return true
}

// denies reports whether a Deny statement of a resource policy is meant for the
// caller. Naming the account denies everyone in it.
func (st *statement) denies(who *Identity) bool {
	if st.notPrincipal {
		return !st.principals.spares(who)
	}
	return st.principals.covers(who) != coverNone
}

// A resourceVerdict is what a resource policy has to say. The numbers are those of
// statements, counted from 1; 0 means none.
type resourceVerdict struct {
	deny int
	// self: allowed as this user, as a session of this role, or as anyone.
	self int
	// session: allowed as this very session.
	session int
	// account: delegated to the caller's account.
	account int
}

// resource evaluates a key policy or a bucket policy. A document of the wrong
// kind is the caller's mistake, and no decision can be right: it panics.
func (ev *evaluation) resource(d *Document) resourceVerdict {
	var v resourceVerdict
	if d == nil {
		return v
	}
	if d.kind == IdentityPolicy {
		panic("policy: an identity policy in the place of a resource policy")
	}
	for i := range d.statements {
		st := &d.statements[i]
		if !st.matchesAction(ev) {
			continue
		}
		if st.deny {
			if st.denies(ev.who) && st.applies(ev) {
				v.deny = i + 1
				return v
			}
			continue
		}
		c := st.principals.covers(ev.who)
		news := c&coverSelf != 0 && v.self == 0 || c&coverSession != 0 && v.session == 0 || c&coverAccount != 0 && v.account == 0
		if !news || !st.applies(ev) {
			continue
		}
		set := func(to *int, bit coverage) {
			if c&bit != 0 && *to == 0 {
				*to = i + 1
			}
		}
		set(&v.self, coverSelf)
		set(&v.session, coverSession)
		set(&v.account, coverAccount)
	}
	return v
}

// A docVerdict is what one identity-side document has to say.
type docVerdict struct{ deny, allow int }

func (ev *evaluation) document(d *Document) docVerdict {
	var v docVerdict
	if d == nil {
		return v
	}
	if d.kind != IdentityPolicy {
		panic("policy: a resource policy in the place of an identity policy")
	}
	for i := range d.statements {
		st := &d.statements[i]
		if !st.deny && v.allow != 0 || !st.matchesAction(ev) || !st.applies(ev) {
			continue
		}
		if st.deny {
			v.deny = i + 1
			return v
		}
		v.allow = i + 1
	}
	return v
}

// An identityVerdict is what the identity side has to say: the identity
// policies, cut by boundary and session policy.
type identityVerdict struct {
	deny       place
	allow      place // of the identity policy that allows, before limits
	limitedBy  Source
	rootCaller bool
}

// A place is a statement of a named policy.
type place struct {
	source    Source
	policy    string
	doc       *Document
	statement int // from 1; 0 means none
}

// allows reports whether the identity side allows the request.
func (v *identityVerdict) allows() bool {
	return (v.rootCaller || v.allow.statement != 0) && v.limitedBy == None
}

// missing is the source whose allow is wanting.
func (v *identityVerdict) missing() Source {
	if !v.rootCaller && v.allow.statement == 0 {
		return IdentityPolicies
	}
	return v.limitedBy
}

func (ev *evaluation) identity() identityVerdict {
	who := ev.who
	v := identityVerdict{rootCaller: who.Type == RootUser}
	for i := range who.Policies {
		n := &who.Policies[i]
		d := ev.document(n.Document)
		if d.deny != 0 {
			v.deny = place{IdentityPolicies, n.Name, n.Document, d.deny}
			return v
		}
		if d.allow != 0 && v.allow.statement == 0 {
			v.allow = place{IdentityPolicies, n.Name, n.Document, d.allow}
		}
	}
	ev.limit(&v, who.Boundary, Boundary)
	if v.deny.statement == 0 {
		ev.limit(&v, who.SessionPolicy, SessionPolicy)
	}
	return v
}

// limit lets a boundary or session policy deny, or withhold its allow.
func (ev *evaluation) limit(v *identityVerdict, n *Named, source Source) {
	if n == nil {
		return
	}
	switch d := ev.document(n.Document); {
	case d.deny != 0:
		v.deny = place{source, n.Name, n.Document, d.deny}
	case d.allow == 0 && v.limitedBy == None:
		v.limitedBy = source
	}
}
