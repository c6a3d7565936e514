package policy

import (
	"slices"
	"strings"
)

// A principalSet is the value of Principal or NotPrincipal.
type principalSet struct {
	any      bool
	accounts []string // 12 digits, also from root ARNs
	arns     []string // users, roles, sessions, federated users
	ids      []string // AIDA…, AROA…, AROA…:session
	// Services and federated and canonical users are kept for completeness: no
	// caller of this system is one.
	services, federated, canonical []string
}

// How a principal element covers a caller.
type coverage uint8

const (
	coverNone coverage = 0
	// coverSelf: the user, the role or "*".
	coverSelf coverage = 1 << iota
	// coverSession: the very session.
	coverSession
	// coverAccount: the account, which delegates.
	coverAccount
)

// covers says in which ways the set names the caller.
func (s *principalSet) covers(who *Identity) coverage {
	c := coverNone
	if s.any {
		c |= coverSelf
	}
	if len(s.accounts) > 0 && slices.Contains(s.accounts, who.Account) {
		c |= coverAccount
		if who.Type == RootUser {
			c |= coverSelf
		}
	}
	if len(s.arns) == 0 && len(s.ids) == 0 {
		return c
	}
	switch who.Type {
	case User:
		if s.names(who.ARN, who.ID) {
			c |= coverSelf
		}
	case Session:
		roleID, _, _ := strings.Cut(who.ID, ":")
		if s.names(who.RoleARN, roleID) {
			c |= coverSelf
		}
		if s.names(who.ARN, who.ID) {
			c |= coverSession
		}
	case RootUser:
	}
	return c
}

func (s *principalSet) names(arn, id string) bool {
	if arn != "" && slices.Contains(s.arns, arn) {
		return true
	}
	return id != "" && len(s.ids) > 0 && slices.Contains(s.ids, id)
}

// spares says whether a NotPrincipal list names every member of the caller's
// chain: the account, then the user or the role, then the session.
func (s *principalSet) spares(who *Identity) bool {
	if s.any {
		return true
	}
	c := s.covers(who)
	switch who.Type {
	case RootUser:
		return c&coverAccount != 0
	case User:
		return c&coverAccount != 0 && c&coverSelf != 0
	default:
		return c&coverAccount != 0 && c&coverSelf != 0 && c&coverSession != 0
	}
}

// add files one value of {"AWS": …} and returns what is wrong with it.
func (s *principalSet) add(v string) string {
	switch {
	case v == "*":
		s.any = true
		return ""
	case strings.ContainsAny(v, "*?"):
		return quote(v) + " is not a principal: wildcards are not allowed inside a principal, only \"*\" alone is"
	case strings.Contains(v, "${"):
		return quote(v) + " is not a principal: policy variables are not allowed in a principal"
	case isAccount(v):
		s.accounts = append(s.accounts, v)
		return ""
	case isUniqueID(v):
		s.ids = append(s.ids, v)
		return ""
	}
	p := strings.SplitN(v, ":", 6)
	if len(p) != 6 || p[0] != "arn" {
		return quote(v) + " is not a principal: it must be \"*\", a 12-digit account id, or the ARN of an account, user, role or session"
	}
	service, region, account, resource := p[2], p[3], p[4], p[5]
	if !strings.HasPrefix(p[1], "aws") || region != "" || !isAccount(account) {
		return quote(v) + " is not a principal ARN: it must be like arn:aws:iam::111122223333:user/alice"
	}
	kind, name, _ := strings.Cut(resource, "/")
	switch {
	case service == "iam" && resource == "root":
		s.accounts = append(s.accounts, account)
	case service == "iam" && kind == "group":
		return quote(v) + ": a group cannot be a principal"
	case service == "iam" && (kind == "user" || kind == "role") && name != "" && !strings.HasSuffix(name, "/"),
		service == "sts" && kind == "assumed-role" && strings.Count(name, "/") == 1 && !strings.HasPrefix(name, "/") && !strings.HasSuffix(name, "/"),
		service == "sts" && kind == "federated-user" && name != "":
		s.arns = append(s.arns, v)
	default:
		return quote(v) + " is not a principal ARN: it must name root, user/…, role/… or assumed-role/role/session"
	}
	return ""
}

// isAccount reports whether s is a 12-digit account id.
func isAccount(s string) bool { return len(s) == 12 && isDigits(s) }

// isUniqueID reports whether s is the unique id of a user, a role, or a
// session of a role ("AROA…:session").
func isUniqueID(s string) bool {
	id, session, isSession := strings.Cut(s, ":")
	if isSession && session == "" || len(id) < 16 || len(id) > 128 {
		return false
	}
	role := strings.HasPrefix(id, "AROA")
	return (role || !isSession && strings.HasPrefix(id, "AIDA")) && isToken(id, "") && id == strings.ToUpper(id)
}

// parsePrincipal reads the value of Principal or NotPrincipal.
func (p *parser) parsePrincipal(at path, n node) (*principalSet, error) {
	s := &principalSet{}
	if n.kind == nodeString {
		if n.text != "*" {
			return nil, at.errorf(`it must be "*" or an object such as {"AWS": "arn:aws:iam::111122223333:user/alice"}, not %s`, quote(n.text))
		}
		s.any = true
		return s, nil
	}
	if n.kind != nodeObject {
		return nil, at.errorf(`it must be "*" or an object such as {"AWS": "arn:aws:iam::111122223333:user/alice"}, not %v`, n.kind)
	}
	if len(n.fields) == 0 {
		return nil, at.errorf("it names nobody")
	}
	for _, f := range n.fields {
		at := at.child(f.name)
		list, err := p.list(at, f.value, false)
		if err != nil {
			return nil, err
		}
		switch f.name {
		case "AWS":
			for i, v := range list {
				if msg := s.add(v); msg != "" {
					return nil, at.item(f.value, i).errorf("%s", msg)
				}
			}
		case "Service":
			for i, v := range list {
				if !strings.Contains(v, ".") || !isToken(v, ".-") {
					return nil, at.item(f.value, i).errorf(`%s is not a service principal, as in "s3.amazonaws.com"`, quote(v))
				}
			}
			s.services = list
		case "Federated":
			s.federated = list
		case "CanonicalUser":
			s.canonical = list
		default:
			return nil, at.errorf("unknown kind of principal: AWS, Service, Federated and CanonicalUser exist")
		}
	}
	return s, nil
}
