package policy

import (
	"slices"
	"strings"
)

// Versions of the language.
const (
	Version2012 = "2012-10-17"
	Version2008 = "2008-10-17"
)

// A Document is a compiled policy. It is immutable and safe for concurrent use.
type Document struct {
	kind       Kind
	text       []byte
	id         string
	variables  bool // version 2012-10-17
	statements []statement
	volatile   bool
}

// Kind returns the kind the document was parsed as.
func (d *Document) Kind() Kind { return d.kind }

// ID returns the Id element, or "".
func (d *Document) ID() string { return d.id }

// Text returns a copy of the text as it was put.
func (d *Document) Text() []byte { return slices.Clone(d.text) }

// Volatile reports whether decisions by this document can change with time
// alone, so that they must not be kept.
func (d *Document) Volatile() bool { return d.volatile }

// A statement is one compiled element of Statement.
type statement struct {
	sid          string
	deny         bool
	principals   *principalSet // nil in identity policies
	notPrincipal bool
	actions      []actionPattern
	notAction    bool
	resources    []glob
	notResource  bool
	conditions   []condition
	// inert marks a key policy statement without Action or Resource, which
	// AWS stores and never applies.
	inert bool
}

// Parse compiles a document. Every error is a *MalformedError. The text is copied.
func Parse(kind Kind, text []byte) (*Document, error) {
	if err := checkText(kind, text); err != nil {
		return nil, err
	}
	root, err := readJSON(text)
	if err != nil {
		return nil, err
	}
	d := &Document{kind: kind, text: slices.Clone(text)}
	p := parser{doc: d}
	if err := p.parse(root); err != nil {
		return nil, err
	}
	return d, nil
}

type parser struct{ doc *Document }

func (p *parser) parse(root node) error {
	var at path
	if root.kind != nodeObject {
		return at.errorf("a policy is a JSON object, not %v", root.kind)
	}
	var statement *node
	for i := range root.fields {
		f := &root.fields[i]
		at := at.child(f.name)
		switch f.name {
		case "Version":
			v, err := p.string(at, f.value)
			if err != nil {
				return err
			}
			if v != Version2012 && v != Version2008 {
				return at.errorf("unknown version %s: %q and %q exist", quote(v), Version2012, Version2008)
			}
			p.doc.variables = v == Version2012
		case "Id":
			v, err := p.string(at, f.value)
			if err != nil {
				return err
			}
			p.doc.id = v
		case "Statement":
			statement = &f.value
		default:
			return at.errorf("unknown element%s", didYouMean(f.name, "Version", "Id", "Statement"))
		}
	}
	at = at.child("Statement")
	switch {
	case statement == nil:
		return path(nil).errorf("the element Statement is missing")
	case statement.kind == nodeObject:
		return p.parseStatement(at, *statement)
	case statement.kind != nodeArray:
		return at.errorf("it must be an object or a list of objects, not %v", statement.kind)
	case len(statement.items) == 0:
		return at.errorf("it must hold at least one statement")
	}
	sids := map[string]int{}
	for i, n := range statement.items {
		if err := p.parseStatement(at.index(i), n); err != nil {
			return err
		}
		if sid := p.doc.statements[i].sid; sid != "" {
			if first, dup := sids[sid]; dup {
				return at.index(i).child("Sid").errorf("the Sid %s is already that of Statement[%d]", quote(sid), first)
			}
			sids[sid] = i
		}
	}
	return nil
}

// didYouMean is a hint at an element whose name differs only in case or an s.
func didYouMean(name string, known ...string) string {
	for _, k := range known {
		if strings.EqualFold(strings.TrimSuffix(name, "s"), k) || strings.EqualFold(name, k+"s") {
			return ": did you mean " + quote(k) + "?"
		}
	}
	return ": " + strings.Join(known, ", ") + " exist here"
}

func (p *parser) parseStatement(at path, n node) error {
	if n.kind != nodeObject {
		return at.errorf("a statement is a JSON object, not %v", n.kind)
	}
	var st statement
	seen := map[string]bool{}
	for _, f := range n.fields {
		seen[f.name] = true
		if err := p.parseElement(at.child(f.name), &st, f); err != nil {
			return err
		}
	}
	if !seen["Effect"] {
		return at.errorf("the element Effect is missing")
	}
	for _, e := range [...]string{"Action", "Resource", "Principal"} {
		if seen[e] && seen["Not"+e] {
			return at.errorf("%s and Not%s exclude each other", e, e)
		}
	}
	has := func(e string) bool { return seen[e] || seen["Not"+e] }
	if p.doc.kind == IdentityPolicy {
		if has("Principal") {
			return at.errorf("an identity policy has no Principal or NotPrincipal: it applies to whom it is attached to")
		}
		if !isToken(st.sid, "") {
			return at.child("Sid").errorf("the Sid of an identity policy may hold only letters and digits, not %s", quote(st.sid))
		}
	} else if !has("Principal") {
		return at.errorf("a %v needs Principal or NotPrincipal in every statement", p.doc.kind)
	}
	if seen["NotPrincipal"] && !st.deny {
		return at.child("NotPrincipal").errorf("it may be used only with \"Effect\": \"Deny\"")
	}
	for _, e := range [...]string{"Action", "Resource"} {
		if !has(e) {
			if p.doc.kind != KeyPolicy {
				return at.errorf("the element %s (or Not%s) is missing", e, e)
			}
			st.inert = true
		}
	}
	p.doc.statements = append(p.doc.statements, st)
	return nil
}

func (p *parser) parseElement(at path, st *statement, f field) (err error) {
	switch f.name {
	case "Sid":
		st.sid, err = p.string(at, f.value)
	case "Effect":
		v, err := p.string(at, f.value)
		if err != nil {
			return err
		}
		if v != "Allow" && v != "Deny" {
			return at.errorf("it must be \"Allow\" or \"Deny\", not %s", quote(v))
		}
		st.deny = v == "Deny"
	case "Principal", "NotPrincipal":
		st.notPrincipal = f.name == "NotPrincipal"
		st.principals, err = p.parsePrincipal(at, f.value)
	case "Action", "NotAction":
		st.notAction = f.name == "NotAction"
		st.actions, err = p.parseActions(at, f.value)
	case "Resource", "NotResource":
		st.notResource = f.name == "NotResource"
		st.resources, err = p.parseResources(at, f.value)
	case "Condition":
		st.conditions, err = p.parseConditions(at, f.value)
	default:
		return at.errorf("unknown element%s", didYouMean(f.name, "Sid", "Effect", "Principal", "NotPrincipal",
			"Action", "NotAction", "Resource", "NotResource", "Condition"))
	}
	return err
}

func (p *parser) string(at path, n node) (string, error) {
	if n.kind != nodeString {
		return "", at.errorf("it must be a string, not %v", n.kind)
	}
	return n.text, nil
}

// list reads a value or a list of values. Numbers and booleans are taken as
// text where scalars is set.
func (p *parser) list(at path, n node, scalars bool) ([]string, error) {
	items := n.items
	if n.kind != nodeArray {
		items = []node{n}
	}
	if len(items) == 0 {
		return nil, at.errorf("it must hold at least one value")
	}
	out := make([]string, len(items))
	for i, it := range items {
		if it.kind != nodeString && !(scalars && (it.kind == nodeNumber || it.kind == nodeBool)) {
			return nil, at.item(n, i).errorf("it must be a string, not %v", it.kind)
		}
		out[i] = it.text
	}
	return out, nil
}

// item is the path of value i of n, which may be a single value.
func (p path) item(n node, i int) path {
	if n.kind != nodeArray {
		return p
	}
	return p.index(i)
}

func (p *parser) parseActions(at path, n node) ([]actionPattern, error) {
	list, err := p.list(at, n, false)
	if err != nil {
		return nil, err
	}
	out := make([]actionPattern, len(list))
	for i, s := range list {
		a, msg := compileAction(s)
		if msg == "" && p.doc.kind == BucketPolicy && a.shape != shapeAny && a.service != "s3" && a.service != "s3-object-lambda" {
			msg = quote(s) + " is not an action of S3"
		}
		if msg != "" {
			return nil, at.item(n, i).errorf("%s", msg)
		}
		out[i] = a
	}
	return out, nil
}

func (p *parser) parseResources(at path, n node) ([]glob, error) {
	list, err := p.list(at, n, false)
	if err != nil {
		return nil, err
	}
	out := make([]glob, len(list))
	for i, s := range list {
		g, msg := compileARN(s, p.doc.variables, 5)
		if msg != "" {
			return nil, at.item(n, i).errorf("%s", msg)
		}
		p.noteVars(g.vars)
		out[i] = g
	}
	return out, nil
}

func (p *parser) parseConditions(at path, n node) ([]condition, error) {
	if n.kind != nodeObject {
		return nil, at.errorf("it must be an object of operators, not %v", n.kind)
	}
	var out []condition
	for _, f := range n.fields {
		at := at.child(f.name)
		op, set, ifExists, msg := parseOperator(f.name)
		if msg != "" {
			return nil, at.errorf("%s", msg)
		}
		if f.value.kind != nodeObject {
			return nil, at.errorf("it must be an object of condition keys, not %v", f.value.kind)
		}
		seen := map[string]bool{}
		for _, kf := range f.value.fields {
			at := at.child(kf.name)
			c := condition{op: op, set: set, ifExists: ifExists, operatorName: f.name}
			if err := p.parseCondition(at, &c, kf); err != nil {
				return nil, err
			}
			if seen[c.key.name] {
				return nil, at.errorf("the condition key %s appears twice (case does not matter)", quote(kf.name))
			}
			seen[c.key.name] = true
			out = append(out, c)
		}
	}
	return out, nil
}

func (p *parser) parseCondition(at path, c *condition, f field) error {
	if msg := checkKeyName(f.name); msg != "" {
		return at.errorf("%s", msg)
	}
	c.key = compileKey(f.name)
	if p.doc.kind == KeyPolicy && c.set == setAll &&
		(strings.HasPrefix(c.key.name, prefixContext) || strings.HasPrefix(c.key.name, prefixRequestTag)) {
		return at.errorf("OverlyPermissiveCondition: Using the ForAllValues set operator with a single-valued condition key matches requests " +
			"without the specified [encryption context or tag] or with an unspecified [encryption context or tag]. To fix, remove ForAllValues.")
	}
	if c.key.from == fromCurrentTime || c.key.from == fromEpochTime {
		p.doc.volatile = true
	}
	list, err := p.list(at, f.value, true)
	if err != nil {
		return err
	}
	c.operands = make([]operand, len(list))
	for i, s := range list {
		o, msg := compileOperand(c.op, s, p.doc.variables)
		if msg != "" {
			return at.item(f.value, i).errorf("%s", msg)
		}
		p.noteVars(o.glob.vars)
		c.operands[i] = o
	}
	return nil
}

// noteVars notices variables that change with time.
func (p *parser) noteVars(vars []variable) {
	for i := range vars {
		if f := vars[i].key.from; f == fromCurrentTime || f == fromEpochTime {
			p.doc.volatile = true
		}
	}
}
