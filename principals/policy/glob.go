package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A glob is a compiled pattern of a policy: literal text, "?" for one
// character, "*" for any run of characters and variables, whose values are literal.
//
// In an ARN pattern a wildcard never stands for one of the first five colons of
// the value, so that each of the six parts is matched by itself. That is the
// same as splitting both sides, because then only literal colons can match those
// five. One exception is AWS's own: the asterisk that ends a pattern of
// fewer than six parts ("arn:aws:s3:*") reaches over the parts that follow.
type glob struct {
	shape shape
	// lit is the text of an exact glob and the text before the asterisk of a
	// prefix glob.
	lit string
	// segs are the runs between asterisks, for the general shape. The first is
	// anchored at the start, the last at the end.
	segs []segment
	vars []variable
	// reach says that the final asterisk crosses all colons.
	reach bool
	// fold compares without regard to case.
	fold bool
}

type shape uint8

const (
	shapeExact   shape = iota // lit
	shapePrefix               // lit*
	shapeAny                  // *
	shapeGeneral              // segs
)

// A segment is a run of parts without an asterisk.
type segment struct {
	parts []part
	// min is the number of bytes the segment takes at least, variables not counted.
	min int
}

type part struct {
	kind partKind
	lit  string
	v    int // index into glob.vars
}

type partKind uint8

const (
	partLit partKind = iota
	partOne
	partVar
)

// A variable is ${key} or ${key, 'default'}.
type variable struct {
	key        conditionKey
	def        string
	hasDefault bool
}

// A token is the lexer's unit.
type token struct {
	kind tokenKind
	lit  string
	v    variable
}

type tokenKind uint8

const (
	tokLit tokenKind = iota
	tokOne
	tokStar
	tokVar
)

// maxVars bounds the variables of one value, so that their values fit on the stack.
const maxVars = 8

// lex splits a value into tokens. With variables, ${...} is recognised; with
// wildcards, "*" and "?" are. Adjacent literals are joined.
func lex(s string, wildcards, variables bool) ([]token, string) {
	var out []token
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			out = append(out, token{kind: tokLit, lit: b.String()})
			b.Reset()
		}
	}
	for i := 0; i < len(s); {
		switch {
		case variables && strings.HasPrefix(s[i:], "${"):
			tok, n, msg := lexVariable(s[i:])
			if msg != "" {
				return nil, msg
			}
			if tok.kind == tokLit {
				b.WriteString(tok.lit)
			} else {
				flush()
				out = append(out, tok)
			}
			i += n
		case wildcards && s[i] == '*':
			flush()
			if len(out) == 0 || out[len(out)-1].kind != tokStar {
				out = append(out, token{kind: tokStar})
			}
			i++
		case wildcards && s[i] == '?':
			flush()
			out = append(out, token{kind: tokOne})
			i++
		default:
			b.WriteByte(s[i])
			i++
		}
	}
	flush()
	return out, ""
}

// lexVariable reads "${...}" at the start of s and returns its length.
func lexVariable(s string) (tok token, n int, msg string) {
	for _, e := range [...]string{"${*}", "${?}", "${$}"} {
		if strings.HasPrefix(s, e) {
			return token{kind: tokLit, lit: e[2:3]}, len(e), ""
		}
	}
	i := strings.IndexAny(s, ",}")
	if i < 0 {
		return token{}, 0, "the policy variable " + quote(s) + " is not closed with }"
	}
	name := strings.TrimSpace(s[2:i])
	if msg := checkKeyName(name); msg != "" {
		return token{}, 0, "the policy variable " + quote(s[:i]+"}") + ": " + msg
	}
	v := variable{key: compileKey(name)}
	if s[i] == '}' {
		return token{kind: tokVar, v: v}, i + 1, ""
	}
	j := i + 1
	for j < len(s) && s[j] == ' ' {
		j++
	}
	if j == len(s) || s[j] != '\'' {
		return token{}, 0, "the default of the policy variable " + quote(name) + " must stand in single quotes, as in ${" + name + ", 'none'}"
	}
	end := strings.IndexByte(s[j+1:], '\'')
	if end < 0 {
		return token{}, 0, "the default of the policy variable " + quote(name) + " is not closed with a single quote"
	}
	v.def, v.hasDefault = s[j+1:j+1+end], true
	for j += end + 2; j < len(s) && s[j] == ' '; j++ {
	}
	if j == len(s) || s[j] != '}' {
		return token{}, 0, "the policy variable " + quote(name) + " is not closed with } after its default"
	}
	return token{kind: tokVar, v: v}, j + 1, ""
}

// compileGlob compiles a plain (not ARN) pattern.
func compileGlob(s string, wildcards, variables bool) (glob, string) {
	toks, msg := lex(s, wildcards, variables)
	if msg != "" {
		return glob{}, msg
	}
	return buildGlob(toks)
}

// compileARN compiles an ARN pattern. varsFrom is the first of the six parts
// in which variables may stand.
func compileARN(s string, variables bool, varsFrom int) (glob, string) {
	toks, msg := lex(s, true, variables)
	if msg != "" {
		return glob{}, msg
	}
	if len(toks) == 1 && toks[0].kind == tokStar {
		return glob{shape: shapeAny}, ""
	}
	colons, hasVar := 0, false
	for _, t := range toks {
		switch t.kind {
		case tokLit:
			colons += strings.Count(t.lit, ":")
		case tokVar:
			hasVar = true
			if colons < varsFrom {
				return glob{}, "a policy variable may stand only in the last part of an ARN, after the fifth colon"
			}
		default:
		}
	}
	g, msg := buildGlob(toks)
	if msg != "" {
		return glob{}, msg
	}
	if colons < 5 && !(hasVar && varsFrom == 0) {
		if len(toks) == 0 || toks[len(toks)-1].kind != tokStar {
			return glob{}, quote(s) + " is not an ARN: it needs six parts separated by colons, as in arn:aws:s3:::bucket/*, or must be \"*\""
		}
		g.reach = true
	}
	if first := toks[0]; first.kind == tokLit && !strings.HasPrefix(first.lit, "arn:") && !strings.HasPrefix("arn:", first.lit) {
		return glob{}, quote(s) + " is not an ARN: it does not begin with \"arn:\""
	}
	return g, ""
}

func buildGlob(toks []token) (glob, string) {
	g := glob{shape: shapeGeneral, segs: []segment{{}}}
	for _, t := range toks {
		last := &g.segs[len(g.segs)-1]
		switch t.kind {
		case tokLit:
			last.parts = append(last.parts, part{kind: partLit, lit: t.lit})
			last.min += len(t.lit)
		case tokOne:
			last.parts = append(last.parts, part{kind: partOne})
			last.min++
		case tokVar:
			if len(g.vars) == maxVars {
				return glob{}, "more than 8 policy variables in one value"
			}
			last.parts = append(last.parts, part{kind: partVar, v: len(g.vars)})
			g.vars = append(g.vars, t.v)
		case tokStar:
			g.segs = append(g.segs, segment{})
		}
	}
	switch first := g.segs[0]; {
	case len(g.segs) == 1 && len(first.parts) == 0:
		return glob{shape: shapeExact}, ""
	case len(g.segs) == 1 && first.isLiteral():
		return glob{shape: shapeExact, lit: first.parts[0].lit}, ""
	case len(g.segs) == 2 && len(g.segs[1].parts) == 0 && len(first.parts) == 0:
		return glob{shape: shapeAny}, ""
	case len(g.segs) == 2 && len(g.segs[1].parts) == 0 && first.isLiteral():
		return glob{shape: shapePrefix, lit: first.parts[0].lit}, ""
	}
	return g, ""
}

func (s *segment) isLiteral() bool { return len(s.parts) == 1 && s.parts[0].kind == partLit }

// fixedPrefix is the text that every matching value begins with, and whether
// it is the whole pattern.
func (g *glob) fixedPrefix() (prefix string, whole bool) {
	switch g.shape {
	case shapeExact:
		return g.lit, true
	case shapePrefix:
		return g.lit, false
	case shapeAny:
		return "", false
	case shapeGeneral:
		if p := g.segs[0].parts; len(p) > 0 && p[0].kind == partLit {
			return p[0].lit, false
		}
	}
	return "", false
}

// barrierOf returns the index behind the fifth colon of an ARN, or -1 if it has
// fewer.
func barrierOf(arn string) int {
	n := 0
	for i := 0; i < len(arn); i++ {
		if arn[i] == ':' {
			if n++; n == 5 {
				return i + 1
			}
		}
	}
	return -1
}

// match reports whether s matches. barrier is the index in s before which
// wildcards match no colon: 0 for plain strings, barrierOf(s) for ARNs. A glob with
// a variable that has no value matches nothing, and unresolved says so.
func (g *glob) match(ev *evaluation, s string, barrier int) (ok, unresolved bool) {
	switch g.shape {
	case shapeAny:
		return true, false
	case shapeExact:
		if g.fold {
			return equalFold(s, g.lit), false
		}
		return s == g.lit, false
	case shapePrefix:
		if !strings.HasPrefix(s, g.lit) {
			return false, false
		}
		if barrier > len(g.lit) && !g.reach {
			return strings.IndexByte(s[len(g.lit):barrier], ':') < 0, false
		}
		return true, false
	case shapeGeneral:
	}
	var vals [maxVars]string
	for i := range g.vars {
		v, ok := ev.resolve(&g.vars[i])
		if !ok {
			return false, true
		}
		vals[i] = v
	}
	m := matcher{s: s, barrier: barrier, vals: &vals, fold: g.fold}
	return m.match(g), false
}

// A matcher is one match of a general glob. It takes the leftmost place for
// every segment. That is right with the barrier too: a segment that holds a colon
// can only begin where its first colon meets the next of the five, and one
// that holds none stays within a part.
type matcher struct {
	s       string
	barrier int
	vals    *[maxVars]string
	fold    bool
}

func (m *matcher) match(g *glob) bool {
	n := len(g.segs)
	pos, ok := m.at(&g.segs[0], 0)
	if !ok {
		return false
	}
	if n == 1 {
		return pos == len(m.s)
	}
	for k := 1; k < n-1; k++ {
		if pos, ok = m.find(&g.segs[k], pos); !ok {
			return false
		}
	}
	last := &g.segs[n-1]
	if len(last.parts) == 0 {
		return g.reach || m.limit(pos) == len(m.s)
	}
	start, ok := m.before(last, len(m.s))
	return ok && start >= pos && start <= m.limit(pos)
}

// limit is the furthest index that an asterisk beginning at pos may reach.
func (m *matcher) limit(pos int) int {
	if pos < m.barrier {
		if i := strings.IndexByte(m.s[pos:m.barrier], ':'); i >= 0 {
			return pos + i
		}
	}
	return len(m.s)
}

// at matches a segment at index i and returns the index behind it.
func (m *matcher) at(seg *segment, i int) (int, bool) {
	for k := range seg.parts {
		p := &seg.parts[k]
		switch p.kind {
		case partLit, partVar:
			t := p.lit
			if p.kind == partVar {
				t = m.vals[p.v]
			}
			n, ok := m.prefix(m.s[i:], t)
			if !ok {
				return 0, false
			}
			i += n
		case partOne:
			if i >= len(m.s) || i < m.barrier && m.s[i] == ':' {
				return 0, false
			}
			_, n := utf8.DecodeRuneInString(m.s[i:])
			i += n
		}
	}
	return i, true
}

// before matches a segment that ends at index i and returns where it begins.
func (m *matcher) before(seg *segment, i int) (int, bool) {
	for k := len(seg.parts) - 1; k >= 0; k-- {
		p := &seg.parts[k]
		switch p.kind {
		case partLit, partVar:
			t := p.lit
			if p.kind == partVar {
				t = m.vals[p.v]
			}
			if !strings.HasSuffix(m.s[:i], t) {
				return 0, false
			}
			i -= len(t)
		case partOne:
			_, n := utf8.DecodeLastRuneInString(m.s[:i])
			if n == 0 || i-n < m.barrier && m.s[i-n] == ':' {
				return 0, false
			}
			i -= n
		}
	}
	return i, true
}

// find matches a segment at the first possible index from pos on and returns
// the index behind it.
func (m *matcher) find(seg *segment, pos int) (int, bool) {
	limit := m.limit(pos)
	if len(seg.parts) >= siftFrom {
		if end, ok, sifted := m.sift(seg, pos, limit); sifted {
			return end, ok
		}
	}
	p := &seg.parts[0]
	for pos <= limit && len(m.s)-pos >= seg.min {
		if p.kind == partLit {
			i := strings.Index(m.s[pos:], p.lit)
			if i < 0 || pos+i > limit {
				return 0, false
			}
			pos += i
		}
		if end, ok := m.at(seg, pos); ok {
			return end, true
		}
		_, n := utf8.DecodeRuneInString(m.s[pos:])
		if n == 0 {
			return 0, false
		}
		pos += n
	}
	return 0, false
}

// prefix reports whether s begins with t and how many bytes of s that takes.
func (m *matcher) prefix(s, t string) (int, bool) {
	if !m.fold {
		return len(t), strings.HasPrefix(s, t)
	}
	i := 0
	for j := 0; j < len(t); {
		r, v := utf8.DecodeRuneInString(t[j:])
		q, w := utf8.DecodeRuneInString(s[i:])
		switch {
		case w == 0:
			return 0, false
		case q == utf8.RuneError || r == utf8.RuneError: // also stands for bytes that are not UTF-8
			if s[i:i+w] != t[j:j+v] {
				return 0, false
			}
		case q != r && unicode.ToLower(q) != unicode.ToLower(r):
			return 0, false
		}
		i, j = i+w, j+v
	}
	return i, true
}

// equalFold compares the lower-case forms, character by character. Unlike
// strings.EqualFold it keeps "s" and the long "ſ" apart, as AWS does.
func equalFold(a, b string) bool {
	m := matcher{fold: true}
	n, ok := m.prefix(a, b)
	return ok && n == len(a)
}
