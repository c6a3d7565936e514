package policy

import (
	"maps"
	"strings"
)

// How a grant authorises a request.
type grantMatch uint8

const (
	grantNone grantMatch = iota
	// grantExact: it names the user, the session or (for root) the account.
	grantExact
	// grantRole: it names the role, so that boundary and session policy limit it.
	grantRole
	// grantAccount: it names the account, and the identity side decides.
	grantAccount
)

// authorises says whether and how the grant covers the request.
func (g *Grant) authorises(ev *evaluation) grantMatch {
	m := matchGrantee(g.Grantee, ev.who)
	if m == grantNone || len(ev.service) != 3 || !hasPrefixFold(ev.service, "kms") || !g.lists(ev.name) {
		return grantNone
	}
	switch {
	case ev.isAction("kms", "creategrant"):
		if ev.req.Grant == nil || !g.covers(ev.req.Grant) {
			return grantNone
		}
	case ev.isAction("kms", "describekey"), ev.isAction("kms", "retiregrant"):
		// constraints do not apply
	case !g.constraintsHold(ev):
		return grantNone
	}
	return m
}

// matchGrantee says how a grantee covers the caller.
func matchGrantee(grantee string, who *Identity) grantMatch {
	if grantee == "" {
		return grantNone
	}
	if account, ok := accountOf(grantee); ok {
		switch {
		case account != who.Account:
			return grantNone
		case who.Type == RootUser:
			return grantExact
		default:
			return grantAccount
		}
	}
	switch {
	case who.Type == RootUser:
		return grantNone
	case grantee == who.ARN, grantee == who.ID:
		return grantExact
	case who.Type != Session:
		return grantNone
	case grantee == who.RoleARN:
		return grantRole
	}
	if roleID, _, ok := strings.Cut(who.ID, ":"); ok && grantee == roleID {
		return grantRole
	}
	return grantNone
}

// accountOf reads an account id or a root ARN.
func accountOf(principal string) (string, bool) {
	if isAccount(principal) {
		return principal, true
	}
	rest, ok := strings.CutSuffix(principal, ":root")
	if !ok || !strings.HasPrefix(rest, "arn:") {
		return "", false
	}
	account := rest[strings.LastIndexByte(rest, ':')+1:]
	return account, isAccount(account)
}

// lists reports whether the grant holds the operation, in any case.
func (g *Grant) lists(operation string) bool {
	for _, op := range g.Operations {
		if len(op) == len(operation) && strings.EqualFold(op, operation) {
			return true
		}
	}
	return false
}

// constraintsHold compares the constraints with the encryption context. Names
// and values are case-sensitive, as the cryptographic context is.
func (g *Grant) constraintsHold(ev *evaluation) bool {
	if len(g.Subset) == 0 && len(g.Equals) == 0 {
		return true
	}
	ctx := ev.req.Context
	if ctx == nil {
		ctx = contextFromKeys(ev.req.Keys)
	}
	if len(g.Subset) > 0 && !holdsAll(ctx, g.Subset) {
		return false
	}
	return len(g.Equals) == 0 || len(ctx) == len(g.Equals) && holdsAll(ctx, g.Equals)
}

// contextFromKeys rebuilds the encryption context from its condition keys. A
// name whose value cannot be told is left out of the values but counted, so
// that no constraint is met by it.
func contextFromKeys(keys Keys) map[string]string {
	if keys == nil {
		return nil
	}
	names, _ := keys.Lookup(nameContextKeys)
	ctx := make(map[string]string, len(names))
	for _, name := range names {
		if v, ok := keys.Lookup(prefixContext + strings.ToLower(name)); ok && len(v) == 1 {
			ctx[name] = v[0]
		} else {
			ctx[name+"\x00"] = ""
		}
	}
	return ctx
}

func holdsAll(ctx, want map[string]string) bool {
	for k, v := range want {
		if got, ok := ctx[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// covers reports whether a child grant stays within g: its operations are a
// subset and its constraints are at least as strict.
func (g *Grant) covers(child *Grant) bool {
	if len(child.Operations) == 0 {
		return false
	}
	for _, op := range child.Operations {
		if !g.lists(op) {
			return false
		}
	}
	if len(g.Equals) > 0 && !maps.Equal(g.Equals, child.Equals) {
		return false
	}
	return len(g.Subset) == 0 || holdsAll(child.Subset, g.Subset) || holdsAll(child.Equals, g.Subset)
}

// decideRetire decides kms:RetireGrant by the grants alone.
func (ev *evaluation) decideRetire(grants []Grant, local bool) Decision {
	if local && ev.who.Type == RootUser {
		return ev.decision(Allow, place{source: AccountRoot})
	}
	for i := range grants {
		g := &grants[i]
		if retires(g.Retiring, ev.who) || g.authorises(ev) == grantExact || g.authorises(ev) == grantRole {
			return ev.decision(Allow, place{source: GrantSource, policy: g.ID})
		}
	}
	return ev.lacking(GrantSource)
}

func retires(retiring string, who *Identity) bool {
	m := matchGrantee(retiring, who)
	return m == grantExact || m == grantRole
}
