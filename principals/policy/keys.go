package policy

import (
	"sort"
	"strconv"
	"strings"
	"time"
)

// A conditionKey is the name of a condition key, resolved when the policy is
// parsed as far as that goes.
type conditionKey struct {
	name string // lower case
	from keySource
	// suffix is what follows the prefix of a key with a parameter, in lower case.
	suffix string
	// multi marks a key that AWS defines as a list; it is never compared
	// without a set operator, nor substituted for a variable.
	multi bool
}

// keySource says who supplies a condition key.
type keySource uint8

const (
	fromRequest keySource = iota // Request.Keys
	fromUserName
	fromUserID
	fromPrincipalARN
	fromPrincipalAccount
	fromPrincipalType
	fromPrincipalTag
	fromCallerAccount
	fromCurrentTime
	fromEpochTime
	fromContext
	fromContextKeys
)

const (
	prefixPrincipalTag = "aws:principaltag/"
	prefixContext      = "kms:encryptioncontext:"
	prefixRequestTag   = "aws:requesttag/"
	nameContextKeys    = "kms:encryptioncontextkeys"
	maxKeyName         = 512
)

// checkKeyName returns what is wrong with the name of a condition key.
func checkKeyName(name string) string {
	switch {
	case name == "":
		return "the condition key is empty"
	case len(name) > maxKeyName:
		return "the condition key is longer than 512 characters"
	case !strings.Contains(name, ":"):
		return quote(name) + " is not a condition key: it must be \"service:name\", as in \"aws:username\" or \"kms:ViaService\""
	case strings.ContainsAny(name, "${}\t\n\r"):
		return quote(name) + " is not a condition key: it holds a character that no key has"
	default:
		return ""
	}
}

func compileKey(name string) conditionKey {
	k := conditionKey{name: strings.ToLower(name)}
	switch k.name {
	case "aws:username":
		k.from = fromUserName
	case "aws:userid":
		k.from = fromUserID
	case "aws:principalarn":
		k.from = fromPrincipalARN
	case "aws:principalaccount":
		k.from = fromPrincipalAccount
	case "aws:principaltype":
		k.from = fromPrincipalType
	case "kms:calleraccount":
		k.from = fromCallerAccount
	case "aws:currenttime":
		k.from = fromCurrentTime
	case "aws:epochtime":
		k.from = fromEpochTime
	case nameContextKeys:
		k.from, k.multi = fromContextKeys, true
	case "kms:resourcealiases", "kms:grantoperations", "aws:tagkeys", "aws:calledvia", "s3:requestobjecttagkeys",
		"aws:principalorgpaths", "aws:resourceorgpaths", "aws:sourceorgpaths", "aws:principalservicenameslist":
		k.multi = true
	default:
		if s, ok := strings.CutPrefix(k.name, prefixPrincipalTag); ok {
			k.from, k.suffix = fromPrincipalTag, s
		} else if s, ok := strings.CutPrefix(k.name, prefixContext); ok {
			k.from, k.suffix = fromContext, s
		}
	}
	return k
}

// values are what a request has for a condition key: nothing, one or many.
type values struct {
	n    int
	one  string
	many []string
}

func (v *values) at(i int) string {
	if v.many != nil {
		return v.many[i]
	}
	return v.one
}

func single(s string) values {
	if s == "" {
		return values{}
	}
	return values{n: 1, one: s}
}

// An evaluation is one decision in progress.
type evaluation struct {
	who *Identity
	req *Request
	// service and name are the halves of the action.
	service, name string
	// barrier is barrierOf(req.Resource).
	barrier int
}

func newEvaluation(who *Identity, req *Request) evaluation {
	ev := evaluation{who: who, req: req, barrier: barrierOf(req.Resource)}
	ev.service, ev.name, _ = strings.Cut(req.Action, ":")
	return ev
}

// lookup returns the values of a condition key. What follows from the caller
// is never asked of the request, so that a request cannot pretend to it.
func (ev *evaluation) lookup(k *conditionKey) values {
	who := ev.who
	switch k.from {
	case fromUserName:
		if who.Type == User {
			return single(who.Name)
		}
		return values{}
	case fromUserID:
		if who.Type == RootUser && who.ID == "" {
			return single(who.Account)
		}
		return single(who.ID)
	case fromPrincipalARN:
		if who.Type == Session && who.RoleARN != "" {
			return single(who.RoleARN)
		}
		return single(who.ARN)
	case fromPrincipalAccount:
		return single(who.Account)
	case fromPrincipalType:
		switch who.Type {
		case RootUser:
			return single("Account")
		case User:
			return single("User")
		default:
			return single("AssumedRole")
		}
	case fromPrincipalTag:
		return foldedEntry(who.Tags, k.suffix)
	case fromCallerAccount:
		if hasPrefixFold(ev.service, "kms") && len(ev.service) == 3 {
			return single(who.Account)
		}
		return values{}
	case fromCurrentTime:
		if ev.req.Clock != nil {
			return single(ev.req.Clock().UTC().Format("2006-01-02T15:04:05.000Z"))
		}
	case fromEpochTime:
		if ev.req.Clock != nil {
			return single(strconv.FormatInt(ev.req.Clock().Unix(), 10))
		}
	case fromContext:
		if ev.req.Context != nil {
			return foldedEntry(ev.req.Context, k.suffix)
		}
	case fromContextKeys:
		if c := ev.req.Context; c != nil {
			names := make([]string, 0, len(c))
			for name := range c {
				names = append(names, name)
			}
			sort.Strings(names)
			return values{n: len(names), many: names}
		}
	case fromRequest:
	}
	if ev.req.Keys == nil {
		return values{}
	}
	v, ok := ev.req.Keys.Lookup(k.name)
	if !ok || len(v) == 0 {
		return values{}
	}
	return values{n: len(v), many: v}
}

// foldedEntry looks up a map without regard to the case of its keys. Keys that
// differ in nothing but case make the value a list. An empty value is a value.
func foldedEntry(m map[string]string, name string) values {
	var v values
	for k, s := range m {
		if !foldedEqual(k, name) {
			continue
		}
		switch v.n {
		case 0:
			v = values{n: 1, one: s}
		case 1:
			v = values{n: 2, many: []string{v.one, s}}
		default:
			v.n, v.many = v.n+1, append(v.many, s)
		}
	}
	return v
}

// foldedEqual reports whether strings.ToLower(k) == name, without allocating
// for ASCII.
func foldedEqual(k, name string) bool {
	for i := 0; i < len(k); i++ {
		if k[i] >= 0x80 {
			return strings.ToLower(k) == name
		}
	}
	return len(k) == len(name) && hasPrefixFold(k, name)
}

// resolve returns the value of a policy variable. A list has none, not even
// the default.
func (ev *evaluation) resolve(v *variable) (string, bool) {
	vals := ev.lookup(&v.key)
	switch {
	case vals.n == 0:
		return v.def, v.hasDefault
	case vals.n > 1 || v.key.multi:
		return "", false
	default:
		return vals.at(0), true
	}
}

// parseTime reads the forms that AWS allows for dates: epoch seconds or the
// W3C profile of ISO 8601. The result is in milliseconds.
func parseTime(s string) (int64, bool) {
	if len(s) > 4 && isDigits(s) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n > 1<<50 {
			return 0, false
		}
		return n * 1000, true
	}
	for _, layout := range [...]string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02", "2006-01", "2006"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UnixMilli(), true
		}
	}
	return 0, false
}

func isDigits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
