package policy

import "strings"

// An actionPattern is one entry of Action or NotAction in lower case.
// Actions are ASCII and at most 128 bytes long, so matching them byte by byte is
// bounded however many asterisks they hold.
type actionPattern struct {
	shape   shape
	service string // empty for "*"
	// name is the text of an exact pattern, the text before the asterisk of a
	// prefix pattern, and the whole name of a general one.
	name string
}

const maxAction = 128

// compileAction compiles "service:Name", where Name may hold wildcards, or "*".
func compileAction(s string) (actionPattern, string) {
	if s == "*" {
		return actionPattern{shape: shapeAny}, ""
	}
	const form = "it must be \"service:Name\", as in \"s3:GetObject\" or \"kms:*\", or \"*\""
	switch service, name, ok := strings.Cut(s, ":"); {
	case s == "":
		return actionPattern{}, "an action may not be empty"
	case len(s) > maxAction:
		return actionPattern{}, "the action " + quote(s) + " is longer than 128 characters"
	case !ok || service == "" || name == "":
		return actionPattern{}, quote(s) + " is not an action: " + form
	case !isToken(service, "-"):
		return actionPattern{}, quote(s) + " is not an action: its service may hold only letters, digits and hyphens, and no wildcard"
	case !isToken(name, "*?_-"):
		return actionPattern{}, quote(s) + " is not an action: its name may hold only letters, digits, * and ?"
	default:
		p := actionPattern{service: strings.ToLower(service), name: strings.ToLower(name)}
		switch i := strings.IndexAny(name, "*?"); {
		case i < 0:
			p.shape = shapeExact
		case i == len(name)-1 && name[i] == '*':
			p.shape, p.name = shapePrefix, p.name[:i]
		default:
			p.shape = shapeGeneral
		}
		return p, ""
	}
}

// isToken reports whether s consists of ASCII letters, digits and the extra
// characters.
func isToken(s, extra string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(extra, c) >= 0) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// hasPrefixFold reports whether s begins with the lower-case text t, in any case.
func hasPrefixFold(s, t string) bool {
	if len(s) < len(t) {
		return false
	}
	for i := 0; i < len(t); i++ {
		if lower(s[i]) != t[i] {
			return false
		}
	}
	return true
}

// match reports whether an action, given in two halves, matches.
func (p *actionPattern) match(service, name string) bool {
	if p.shape == shapeAny {
		return true
	}
	if len(service) != len(p.service) {
		return false
	}
	switch p.shape {
	case shapeExact:
		return len(name) == len(p.name) && hasPrefixFold(name, p.name) && hasPrefixFold(service, p.service)
	case shapePrefix:
		return hasPrefixFold(name, p.name) && hasPrefixFold(service, p.service)
	default:
		return hasPrefixFold(service, p.service) && globFold(p.name, name)
	}
}

// globFold matches s against a lower-case pattern, going back only to the last
// asterisk.
func globFold(pattern, s string) bool {
	i, j, star, from := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case j < len(pattern) && pattern[j] == '*':
			star, from = j, i
			j++
		case j < len(pattern) && (pattern[j] == '?' || pattern[j] == lower(s[i])):
			i++
			j++
		case star >= 0:
			from++
			i, j = from, star+1
		default:
			return false
		}
	}
	for j < len(pattern) && pattern[j] == '*' {
		j++
	}
	return j == len(pattern)
}
