package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A Finding is a mistake in a document that is well formed all the same.
type Finding struct {
	// Level is "error" for what is surely not meant, "warning" for what may be.
	Level string `json:"level"`
	// Statement counts from 1; 0 is the document as a whole.
	Statement int    `json:"statement,omitempty"`
	Sid       string `json:"sid,omitempty"`
	Problem   string `json:"problem"`
}

// The levels of findings.
const (
	LevelError   = "error"
	LevelWarning = "warning"
)

// checked is a statement as it is written.
type checked struct {
	Sid                           string
	Effect                        string
	Action, NotAction             stringList
	Resource, NotResource         stringList
	Principal, NotPrincipal, Cond json.RawMessage
	number                        int
}

// A stringList is one string or several.
type stringList []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *stringList) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*l = stringList{""}
		return json.Unmarshal(b, &(*l)[0])
	}
	return json.Unmarshal(b, (*[]string)(l))
}

// Check looks for mistakes that Parse has no reason to refuse: actions that do not exist, statements that can never have an effect, and
// a key policy that lets nobody change it again. It knows no principals: whether those named exist is for others to say. Errors of Parse
// are returned as they are.
func Check(kind Kind, text []byte) ([]Finding, error) {
	if _, err := Parse(kind, text); err != nil {
		return nil, err
	}
	all, err := asWritten(text)
	if err != nil {
		return nil, err
	}
	c := checker{kind: kind, all: all}
	for _, st := range c.all {
		c.actions(st)
		c.effect(st)
	}
	c.shadowed()
	c.lockout()
	slices.SortStableFunc(c.found, func(a, b Finding) int { return a.Statement - b.Statement })
	return c.found, nil
}

// asWritten are the statements of a document that has been parsed.
func asWritten(text []byte) (all []*checked, err error) {
	for i, raw := range rawStatements(text) {
		st := checked{number: i + 1}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, fmt.Errorf("statement %d: %w", i+1, err)
		}
		for name, into := range map[string]any{
			"Sid": &st.Sid, "Effect": &st.Effect, "Action": &st.Action, "NotAction": &st.NotAction,
			"Resource": &st.Resource, "NotResource": &st.NotResource, "Principal": &st.Principal,
			"NotPrincipal": &st.NotPrincipal, "Condition": &st.Cond,
		} {
			if v, ok := fields[name]; ok {
				if err := json.Unmarshal(v, into); err != nil {
					return nil, fmt.Errorf("statement %d: %s: %w", i+1, name, err)
				}
			}
		}
		all = append(all, &st)
	}
	return all, nil
}

// rawStatements are the statements of a document that has been parsed.
func rawStatements(text []byte) []json.RawMessage {
	var doc struct{ Statement json.RawMessage }
	if json.Unmarshal(text, &doc) != nil {
		return nil
	}
	var many []json.RawMessage
	if json.Unmarshal(doc.Statement, &many) != nil {
		many = []json.RawMessage{doc.Statement}
	}
	return many
}

type checker struct {
	kind  Kind
	all   []*checked
	found []Finding
}

func (c *checker) add(level string, st *checked, format string, args ...any) {
	f := Finding{Level: level, Problem: fmt.Sprintf(format, args...)}
	if st != nil {
		f.Statement, f.Sid = st.number, st.Sid
	}
	c.found = append(c.found, f)
}

// named calls fn for every action of the tables that a pattern stands for.
func named(pattern string, fn func(service, name string)) {
	p, wrong := compileAction(pattern)
	if wrong != "" {
		return
	}
	for service, names := range knownActions {
		for _, name := range names {
			if p.match(service, name) {
				fn(service, name)
			}
		}
	}
}

func (c *checker) actions(st *checked) {
	for _, pattern := range slices.Concat(st.Action, st.NotAction) {
		service, name, _ := strings.Cut(pattern, ":")
		service = strings.ToLower(service)
		known, ok := knownActions[service]
		matches := 0
		named(pattern, func(string, string) { matches++ })
		switch {
		case matches > 0:
		case !ok:
			c.add(LevelWarning, st, "%s: kmsfs has no service %q, so this matches nothing", pattern, service)
		default:
			hint := ""
			if near := nearest(name, known); near != "" {
				hint = ": did you mean " + service + ":" + near + "?"
			}
			c.add(LevelError, st, "unknown action %s%s", pattern, hint)
		}
	}
}

// effect finds statements that can never apply.
func (c *checker) effect(st *checked) {
	if c.kind == KeyPolicy && (len(st.Action)+len(st.NotAction) == 0 || len(st.Resource)+len(st.NotResource) == 0) {
		c.add(LevelError, st, "without Action or Resource the statement has no effect")
		return
	}
	home := map[Kind]string{KeyPolicy: "kms", BucketPolicy: "s3"}[c.kind]
	if len(st.Action) == 0 || len(st.Resource) == 0 {
		return
	}
	acts, fits, foreign := 0, false, 0
	for _, pattern := range st.Action {
		named(pattern, func(service, name string) {
			acts++
			if home != "" && service != home {
				foreign++
				return
			}
			fits = fits || slices.ContainsFunc(st.Resource, func(r string) bool { return mayBe(c.kind, service, name, r) })
		})
	}
	switch {
	case acts == 0 || fits:
	case acts == foreign:
		c.add(LevelError, st, "the statement has no effect: none of its actions is one of %s, and this is a %s", home, c.kind)
	default:
		c.add(LevelError, st, "the statement has no effect: none of its actions works on %s%s", strings.Join(st.Resource, ", "), c.advice(st))
	}
}

// advice says what resource was meant, perhaps.
func (c *checker) advice(st *checked) string {
	if c.kind == KeyPolicy {
		return `; in a key policy Resource is "*", the key itself`
	}
	for _, r := range st.Resource {
		switch {
		case strings.Contains(r, ":alias/"):
			return "; an alias is not its key: name the key, or use the condition key kms:ResourceAliases"
		case strings.HasPrefix(r, "arn:aws:s3:::") && !strings.Contains(r, "/"):
			return "; objects are " + r + "/*"
		case strings.HasPrefix(r, "arn:aws:s3:::"):
			return "; the bucket itself is " + r[:strings.IndexByte(r, '/')]
		}
	}
	return ""
}

// mayBe reports whether an action could be about a resource that a pattern stands for.
func mayBe(kind Kind, service, name, resource string) bool {
	if resource == "*" || strings.Contains(resource, "${") {
		return true
	}
	switch service {
	case "kms":
		switch {
		case kind == KeyPolicy:
			return strings.Contains(resource, ":key/") || strings.HasSuffix(resource, "*") && !strings.Contains(resource, ":alias/")
		case slices.Contains(withoutResource, name):
			return false
		case strings.Contains(resource, ":alias/"):
			return slices.Contains(onAliases, name)
		}
		return strings.HasPrefix("arn:aws:kms:", resource[:min(len(resource), 12)]) || strings.ContainsAny(resource[:min(len(resource), 12)], "*?")
	case "s3":
		if slices.Contains(withoutResource, name) {
			return false
		}
		rest, ok := strings.CutPrefix(resource, "arn:aws:s3:::")
		if !ok {
			return strings.ContainsAny(resource[:min(len(resource), 13)], "*?")
		}
		object := strings.Contains(name, "Object") && !slices.Contains(onBuckets, name) || slices.Contains(onObjects, name)
		bucket, _, slash := strings.Cut(rest, "/")
		if object {
			return slash || strings.HasSuffix(bucket, "*")
		}
		return !slash
	}
	return true
}

// shadowed finds what says nothing new: the same statement twice, and what an unconditional Deny of everyone takes away.
func (c *checker) shadowed() {
	for i, st := range c.all {
		for _, other := range c.all[:i] {
			if same(st, other) {
				c.add(LevelWarning, st, "the statement says the same as statement %d", other.number)
			}
		}
		if st.Effect != "Allow" {
			continue
		}
		for _, deny := range c.all {
			if deny.Effect == "Deny" && deny.Cond == nil && c.denies(deny, st) {
				c.add(LevelError, st, "the statement has no effect: statement %d denies all of it", deny.number)
				break
			}
		}
	}
}

func same(a, b *checked) bool {
	x, y := *a, *b
	x.Sid, x.number, y.Sid, y.number = "", 0, "", 0
	p, err1 := json.Marshal(x)
	q, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && string(p) == string(q)
}

// denies reports whether a Deny without conditions covers an Allow whole, as far as that can be told from the text.
func (c *checker) denies(deny, allow *checked) bool {
	if len(deny.Action) == 0 || len(deny.Resource) == 0 || len(allow.Action) == 0 || len(allow.Resource) == 0 {
		return false
	}
	everyone := c.kind == IdentityPolicy || isEveryone(deny.Principal) || deny.Principal != nil && string(deny.Principal) == string(allow.Principal)
	within := func(list stringList, by stringList) bool {
		return !slices.ContainsFunc(list, func(one string) bool {
			return !slices.ContainsFunc(by, func(pattern string) bool {
				return pattern == one || !strings.ContainsAny(pattern, "$") && globFold(strings.ToLower(pattern), one)
			})
		})
	}
	return everyone && within(allow.Action, deny.Action) && within(allow.Resource, deny.Resource)
}

func isEveryone(principal json.RawMessage) bool {
	var any struct{ AWS stringList }
	return string(principal) == `"*"` || json.Unmarshal(principal, &any) == nil && slices.Contains(any.AWS, "*")
}

// lockout finds key policies by which nobody, whatever his own policies say, could ever put another.
func (c *checker) lockout() {
	if c.kind != KeyPolicy {
		return
	}
	const put, service, name = "kms:PutKeyPolicy", "kms", "PutKeyPolicy"
	covers := func(st *checked) bool {
		hit := func(list stringList) bool {
			return slices.ContainsFunc(list, func(a string) bool {
				p, wrong := compileAction(a)
				return wrong == "" && p.match(service, name)
			})
		}
		return hit(st.Action) || len(st.NotAction) > 0 && !hit(st.NotAction)
	}
	allowed := false
	for _, st := range c.all {
		switch {
		case !covers(st) || len(st.Resource)+len(st.NotResource) == 0:
		case st.Effect == "Allow":
			allowed = true
		case st.Cond == nil && isEveryone(st.Principal):
			c.add(LevelError, st, "lockout: it denies %s to everyone, so that the policy can never be changed again", put)
			return
		}
	}
	if !allowed {
		c.add(LevelError, nil, "lockout: no statement allows %s, so that the policy can never be changed again", put)
	}
}

// nearest is the known name that a misspelt one is close to, or "".
func nearest(name string, known []string) string {
	best, limit := "", 3
	for _, k := range known {
		if d := distance(strings.ToLower(strings.TrimRight(name, "*")), strings.ToLower(k)); d < limit {
			best, limit = k, d
		}
	}
	return best
}

// distance is how many letters have to be changed, added or removed; names are short.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
