package policy

import (
	"slices"
	"testing"
)

// A situation is a random case: a caller's documents as statements, so that
// they can be changed.
type situation struct {
	arn             string
	policies        [][]string
	boundary, scope []string
	resource        []string
	grants          []Grant
	req             *Request
	kms             bool
}

func (g randomDocs) situation() *situation {
	s := &situation{arn: pick(g.r, iamARN+"user/a", iamARN+"user/a", iamARN+"user/b", sessionARN, rootARN, "arn:aws:iam::444455556666:user/a"), req: g.request()}
	s.kms = g.r.IntN(2) == 0
	s.req.ResourceAccount = testAccount
	for range g.r.IntN(3) {
		s.policies = append(s.policies, g.statements(IdentityPolicy, 3))
	}
	if g.r.IntN(3) == 0 {
		s.boundary = g.statements(IdentityPolicy, 2)
	}
	if s.arn == sessionARN && g.r.IntN(2) == 0 {
		s.scope = g.statements(IdentityPolicy, 2)
	}
	if g.r.IntN(4) != 0 {
		s.resource = g.statements(KeyPolicy, 3)
	}
	if s.kms && g.r.IntN(3) == 0 {
		s.grants = []Grant{{ID: "g", Grantee: pick(g.r, iamARN+"user/a", roleARN, sessionARN, rootARN), Operations: []string{"GetObject"}}}
	}
	return s
}

func (s *situation) build(t *testing.T) (*Identity, *Document) {
	t.Helper()
	var texts []string
	for _, p := range s.policies {
		texts = append(texts, doc(p...))
	}
	who := identity(t, s.arn, texts...)
	one := func(st []string) string {
		if st == nil {
			return ""
		}
		return doc(st...)
	}
	with(who, t, one(s.boundary), one(s.scope))
	if s.resource == nil {
		return who, nil
	}
	kind := BucketPolicy
	if s.kms {
		kind = KeyPolicy
	}
	return who, mustParse(t, kind, doc(s.resource...))
}

func (s *situation) decide(t *testing.T) Decision {
	t.Helper()
	who, res := s.build(t)
	if s.kms {
		return DecideKMS(who, s.req, res, s.grants)
	}
	return DecideS3(who, s.req, res)
}

// lists are all statement lists of the situation.
func (s *situation) lists() []*[]string {
	var out []*[]string
	for i := range s.policies {
		out = append(out, &s.policies[i])
	}
	for _, l := range []*[]string{&s.boundary, &s.scope, &s.resource} {
		if *l != nil {
			out = append(out, l)
		}
	}
	return out
}

func TestDenyAlwaysWins(t *testing.T) {
	g := newRandomDocs(t)
	met := map[Effect]int{}
	for range 3000 {
		s := g.situation()
		who, res := s.build(t)
		d := s.decide(t)
		met[d.Effect]++
		denied := slices.ContainsFunc(Explain(who, s.req, res), func(st Step) bool { return st.Deny && st.Applies })
		if denied != (d.Effect == ExplicitDeny) {
			t.Fatalf("a deny applies: %v; decision: %s\n%+v", denied, d.Reason(), s)
		}
		if lists := s.lists(); len(lists) > 0 {
			l := pick(g.r, lists...)
			st := `{"Effect":"Deny","Action":"*","Resource":"*"}`
			if l == &s.resource {
				st = denyTo(`"*"`, "*")
			}
			*l = slices.Insert(*l, g.r.IntN(len(*l)+1), st)
			if d := s.decide(t); d.Effect != ExplicitDeny {
				t.Fatalf("a deny of everything, and yet: %s\n%+v", d.Reason(), s)
			}
		}
	}
	if len(met) != 3 {
		t.Errorf("effects met: %v", met)
	}
}

func TestAllowNeverRemoves(t *testing.T) {
	g := newRandomDocs(t)
	gained := 0
	for range 3000 {
		s := g.situation()
		before := s.decide(t)
		if g.r.IntN(4) == 0 {
			s.policies = append(s.policies, []string{g.statement(IdentityPolicy, "Allow")})
		} else if lists := s.lists(); len(lists) > 0 {
			l := pick(g.r, lists...)
			kind := IdentityPolicy
			if l == &s.resource {
				kind = KeyPolicy
			}
			*l = slices.Insert(*l, g.r.IntN(len(*l)+1), g.statement(kind, "Allow"))
		} else {
			s.grants = append(s.grants, Grant{ID: "h", Grantee: s.arn, Operations: []string{"GetObject"}})
		}
		after := s.decide(t)
		if before.Allowed() && !after.Allowed() || before.Effect == ExplicitDeny != (after.Effect == ExplicitDeny) {
			t.Fatalf("before: %s\nafter one more allow: %s\n%+v", before.Reason(), after.Reason(), s)
		}
		if !before.Allowed() && after.Allowed() {
			gained++
		}
	}
	if gained == 0 {
		t.Error("no added allow ever helped: the test shows nothing")
	}
}

func TestOrderIrrelevant(t *testing.T) {
	g := newRandomDocs(t)
	for range 3000 {
		s := g.situation()
		before := s.decide(t)
		for _, l := range s.lists() {
			g.r.Shuffle(len(*l), func(i, j int) { (*l)[i], (*l)[j] = (*l)[j], (*l)[i] })
		}
		g.r.Shuffle(len(s.policies), func(i, j int) { s.policies[i], s.policies[j] = s.policies[j], s.policies[i] })
		if after := s.decide(t); after.Effect != before.Effect || after.Missing != before.Missing {
			t.Fatalf("before: %s\nshuffled: %s\n%+v", before.Reason(), after.Reason(), s)
		}
	}
}

// A boundary or a session policy never adds access.
func TestLimitsNeverAdd(t *testing.T) {
	g := newRandomDocs(t)
	for range 3000 {
		s := g.situation()
		with := s.decide(t)
		s.boundary, s.scope = nil, nil
		if without := s.decide(t); with.Allowed() && !without.Allowed() {
			t.Fatalf("limited: %s\nunlimited: %s\n%+v", with.Reason(), without.Reason(), s)
		}
	}
}
