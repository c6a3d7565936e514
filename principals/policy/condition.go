package policy

import (
	"encoding/base64"
	"net/netip"
	"strings"
)

// A condition is one key under one operator.
type condition struct {
	op       operator
	set      setMode
	ifExists bool
	key      conditionKey
	operands []operand
	// operatorName is the operator as written, for explanations.
	operatorName string
}

// setMode is the prefix of an operator.
type setMode uint8

const (
	setNone setMode = iota
	setAll          // ForAllValues:
	setAny          // ForAnyValue:
)

// An operator is one row of the operator table.
type operator struct {
	name    string
	kind    opKind
	negated bool
	rel     relation
}

type opKind uint8

const (
	opString opKind = iota
	opStringFold
	opStringLike
	opNumeric
	opDate
	opBool
	opBinary
	opIP
	opARN
	opNull
)

// relation is how an ordered value must lie to the operand.
type relation uint8

const (
	relEqual relation = iota
	relLess
	relLessEqual
	relGreater
	relGreaterEqual
)

func (r relation) holds(c int) bool {
	switch r {
	case relLess:
		return c < 0
	case relLessEqual:
		return c <= 0
	case relGreater:
		return c > 0
	case relGreaterEqual:
		return c >= 0
	default:
		return c == 0
	}
}

var operators = [...]operator{
	{"StringEquals", opString, false, 0},
	{"StringNotEquals", opString, true, 0},
	{"StringEqualsIgnoreCase", opStringFold, false, 0},
	{"StringNotEqualsIgnoreCase", opStringFold, true, 0},
	{"StringLike", opStringLike, false, 0},
	{"StringNotLike", opStringLike, true, 0},
	{"NumericEquals", opNumeric, false, relEqual},
	{"NumericNotEquals", opNumeric, true, relEqual},
	{"NumericLessThan", opNumeric, false, relLess},
	{"NumericLessThanEquals", opNumeric, false, relLessEqual},
	{"NumericGreaterThan", opNumeric, false, relGreater},
	{"NumericGreaterThanEquals", opNumeric, false, relGreaterEqual},
	{"DateEquals", opDate, false, relEqual},
	{"DateNotEquals", opDate, true, relEqual},
	{"DateLessThan", opDate, false, relLess},
	{"DateLessThanEquals", opDate, false, relLessEqual},
	{"DateGreaterThan", opDate, false, relGreater},
	{"DateGreaterThanEquals", opDate, false, relGreaterEqual},
	{"Bool", opBool, false, 0},
	{"BinaryEquals", opBinary, false, 0},
	{"IpAddress", opIP, false, 0},
	{"NotIpAddress", opIP, true, 0},
	{"ArnEquals", opARN, false, 0},
	{"ArnNotEquals", opARN, true, 0},
	{"ArnLike", opARN, false, 0},
	{"ArnNotLike", opARN, true, 0},
	{"Null", opNull, false, 0},
}

// parseOperator reads "[ForAllValues:|ForAnyValue:]Name[IfExists]".
func parseOperator(s string) (op operator, set setMode, ifExists bool, msg string) {
	name := s
	if rest, ok := strings.CutPrefix(name, "ForAllValues:"); ok {
		set, name = setAll, rest
	} else if rest, ok := strings.CutPrefix(name, "ForAnyValue:"); ok {
		set, name = setAny, rest
	}
	if rest, ok := strings.CutSuffix(name, "IfExists"); ok {
		ifExists, name = true, rest
	}
	for _, o := range operators {
		if o.name == name {
			if o.kind == opNull && (ifExists || set != setNone) {
				return o, set, ifExists, quote(s) + ": Null takes neither IfExists nor a set operator"
			}
			return o, set, ifExists, ""
		}
	}
	for _, o := range operators {
		if strings.EqualFold(o.name, name) {
			return operator{}, 0, false, "unknown condition operator " + quote(s) + ": did you mean " + quote(o.name) + "?"
		}
	}
	return operator{}, 0, false, "unknown condition operator " + quote(s)
}

// An operand is one value of a condition. Which field counts depends on the operator.
type operand struct {
	glob   glob
	num    decimal
	ms     int64
	prefix netip.Prefix
	bytes  string
	truth  bool
}

// compileOperand reads one value. variables says that the document's version
// knows policy variables.
func compileOperand(op operator, s string, variables bool) (o operand, msg string) {
	var ok bool
	switch op.kind {
	case opString, opStringFold:
		o.glob, msg = compileGlob(s, false, variables)
		o.glob.fold = op.kind == opStringFold
	case opStringLike:
		o.glob, msg = compileGlob(s, true, variables)
	case opARN:
		o.glob, msg = compileARN(s, variables, 0)
	case opNumeric:
		if o.num, ok = parseDecimal(s); !ok {
			msg = quote(s) + " is not a number"
		}
	case opDate:
		if o.ms, ok = parseTime(s); !ok {
			msg = quote(s) + " is not a date: it must be like 2026-01-31T12:00:00Z, or seconds since 1970"
		}
	case opBinary:
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			msg = quote(s) + " is not base64"
		}
		o.bytes = string(b)
	case opIP:
		o.prefix, msg = compilePrefix(s)
	case opBool:
		if variables && strings.HasPrefix(s, "${") {
			o.glob, msg = compileGlob(s, false, true)
			if g := o.glob; msg == "" && (len(g.vars) != 1 || len(g.segs) != 1 || len(g.segs[0].parts) != 1) {
				msg = op.name + " takes \"true\", \"false\" or one policy variable, not " + quote(s)
			}
			break
		}
		fallthrough
	case opNull:
		o.truth = strings.EqualFold(s, "true")
		if !o.truth && !strings.EqualFold(s, "false") {
			msg = op.name + " takes \"true\" or \"false\", not " + quote(s)
		}
	}
	return o, msg
}

// compilePrefix reads an address or a network. Host bits are cleared for IPv4,
// as AWS does, and refused for IPv6, where AWS would let the network match nothing.
func compilePrefix(s string) (netip.Prefix, string) {
	const form = " is not an IP address or network, as in 203.0.113.0/24 or 2001:db8::/32"
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, quote(s) + form
		}
		return netip.PrefixFrom(a, a.BitLen()), ""
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, quote(s) + form
	}
	if p.Addr().Is6() && p.Masked() != p {
		return netip.Prefix{}, quote(s) + " has bits behind its prefix length: did you mean " + quote(p.Masked().String()) + "?"
	}
	return p.Masked(), ""
}

// match decides a condition. deny is the effect of its statement, which
// matters where a variable of a negated operator has no value: a Deny then
// matches, an Allow does not.
func (c *condition) match(ev *evaluation, deny bool) bool {
	vals := ev.lookup(&c.key)
	if c.op.kind == opNull {
		for i := range c.operands {
			if c.operands[i].truth == (vals.n == 0) {
				return true
			}
		}
		return false
	}
	if vals.n == 0 {
		switch {
		case c.ifExists, c.set == setAll:
			return true
		case c.set == setAny:
			return false
		default:
			return c.op.negated
		}
	}
	switch c.set {
	case setAll:
		for i := 0; i < vals.n; i++ {
			if !c.matchOne(ev, vals.at(i), deny) {
				return false
			}
		}
		return true
	case setAny:
		for i := 0; i < vals.n; i++ {
			if c.matchOne(ev, vals.at(i), deny) {
				return true
			}
		}
		return false
	default:
		// A list never matches without a set operator, negated or not.
		return vals.n == 1 && !c.key.multi && c.matchOne(ev, vals.at(0), deny)
	}
}

// matchOne compares one value of the request with all operands.
func (c *condition) matchOne(ev *evaluation, v string, deny bool) bool {
	hit, unresolved := false, false
	switch c.op.kind {
	case opString, opStringFold, opStringLike:
		hit, unresolved = c.matchGlobs(ev, v, 0)
	case opARN:
		barrier := barrierOf(v)
		if barrier < 0 {
			return false // not an ARN: matches neither way
		}
		hit, unresolved = c.matchGlobs(ev, v, barrier)
	case opNumeric:
		if d, ok := parseDecimal(v); ok {
			for i := range c.operands {
				hit = hit || c.op.rel.holds(d.compare(c.operands[i].num))
			}
		}
	case opDate:
		if ms, ok := parseTime(v); ok {
			for i := range c.operands {
				hit = hit || c.op.rel.holds(compareInts(ms, c.operands[i].ms))
			}
		}
	case opIP:
		a, err := netip.ParseAddr(v)
		if err != nil {
			return false // not an address: matches neither way
		}
		a = a.Unmap().WithZone("")
		for i := range c.operands {
			hit = hit || c.operands[i].prefix.Contains(a)
		}
	case opBinary:
		for i := range c.operands {
			hit = hit || c.operands[i].bytes == v
		}
	case opBool:
		hit, unresolved = c.matchBool(ev, strings.EqualFold(v, "true"))
	case opNull:
	}
	if !c.op.negated {
		return hit
	}
	return !hit && (!unresolved || deny)
}

func (c *condition) matchGlobs(ev *evaluation, v string, barrier int) (hit, unresolved bool) {
	for i := range c.operands {
		ok, un := c.operands[i].glob.match(ev, v, barrier)
		if ok {
			return true, false
		}
		unresolved = unresolved || un
	}
	return false, unresolved
}

func (c *condition) matchBool(ev *evaluation, v bool) (hit, unresolved bool) {
	for i := range c.operands {
		o := &c.operands[i]
		want := o.truth
		if len(o.glob.vars) > 0 {
			s, ok := ev.resolve(&o.glob.vars[0])
			if !ok {
				unresolved = true
				continue
			}
			want = strings.EqualFold(s, "true")
		}
		if want == v {
			return true, false
		}
	}
	return false, unresolved
}
