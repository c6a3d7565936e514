package policy

// A Step says how one statement of one policy met a request.
type Step struct {
	// Source and Policy name the document as in Decision.
	Source Source
	Policy string
	// Statement counts from 1.
	Statement int
	Sid       string
	// Deny is the statement's effect.
	Deny bool
	// Applies says that the statement matched the request and the caller.
	Applies bool
	// Delegates says that it applies by naming the caller's account: what it
	// allows is left to the identity side.
	Delegates bool
	// Failed names the first element that did not match: "Principal",
	// "NotPrincipal", "Action", "NotAction", "Resource", "NotResource" or "Condition". Empty
	// if the statement applies.
	Failed string
	// Operator and Key name the condition that did not match, if Failed is
	// "Condition", and Values what the request had for the key; nil if nothing.
	Operator, Key string
	Values        []string
}

// Explain evaluates every statement of every document that concerns the
// caller and says how each met the request. resource is the key or bucket policy,
// or nil. It is for people who ask why; decisions are made by the Decide
// functions.
func Explain(who *Identity, req *Request, resource *Document) []Step {
	ev := newEvaluation(who, req)
	var out []Step
	add := func(source Source, name string, d *Document) {
		if d == nil {
			return
		}
		for i := range d.statements {
			s := ev.step(&d.statements[i])
			s.Source, s.Policy, s.Statement = source, name, i+1
			out = append(out, s)
		}
	}
	if resource != nil && resource.kind == BucketPolicy {
		add(BucketPolicySource, "bucket policy", resource)
	} else {
		add(KeyPolicySource, "key policy", resource)
	}
	for _, n := range who.Policies {
		add(IdentityPolicies, n.Name, n.Document)
	}
	if who.Boundary != nil {
		add(Boundary, who.Boundary.Name, who.Boundary.Document)
	}
	if who.SessionPolicy != nil {
		add(SessionPolicy, who.SessionPolicy.Name, who.SessionPolicy.Document)
	}
	return out
}

func (ev *evaluation) step(st *statement) Step {
	s := Step{Sid: st.sid, Deny: st.deny}
	not := func(negated bool, element string) string {
		if negated {
			return "Not" + element
		}
		return element
	}
	switch {
	case !st.matchesAction(ev):
		s.Failed = not(st.notAction, "Action")
	case !st.matchesResource(ev):
		s.Failed = not(st.notResource, "Resource")
	case st.principals != nil && st.deny && !st.denies(ev.who),
		st.principals != nil && !st.deny && st.principals.covers(ev.who) == coverNone:
		s.Failed = not(st.notPrincipal, "Principal")
	default:
		s.Applies = true
	}
	for i := range st.conditions {
		c := &st.conditions[i]
		if !s.Applies || c.match(ev, st.deny) {
			continue
		}
		s.Applies, s.Failed, s.Operator, s.Key = false, "Condition", c.operatorName, c.key.name
		vals := ev.lookup(&c.key)
		for k := range vals.n {
			s.Values = append(s.Values, vals.at(k))
		}
	}
	s.Delegates = s.Applies && !st.deny && st.principals != nil && st.principals.covers(ev.who) == coverAccount
	return s
}
