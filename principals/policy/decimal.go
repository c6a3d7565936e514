package policy

import "strings"

// A decimal is an exact decimal number, cut into its digits. Comparing two
// allocates nothing and loses no precision.
type decimal struct {
	negative    bool
	whole, frac string // without leading and trailing zeros respectively
}

// parseDecimal reads [+-]digits[.digits].
func parseDecimal(s string) (decimal, bool) {
	var d decimal
	if s != "" && (s[0] == '-' || s[0] == '+') {
		d.negative = s[0] == '-'
		s = s[1:]
	}
	whole, frac, point := strings.Cut(s, ".")
	if point && frac == "" && whole == "" || whole != "" && !isDigits(whole) || frac != "" && !isDigits(frac) || whole == "" && frac == "" {
		return decimal{}, false
	}
	d.whole, d.frac = strings.TrimLeft(whole, "0"), strings.TrimRight(frac, "0")
	if d.whole == "" && d.frac == "" {
		d.negative = false
	}
	return d, true
}

// compare returns -1, 0 or 1.
func (d decimal) compare(e decimal) int {
	if d.negative != e.negative {
		if d.negative {
			return -1
		}
		return 1
	}
	c := compareInts(len(d.whole), len(e.whole))
	if c == 0 {
		c = strings.Compare(d.whole, e.whole)
	}
	if c == 0 {
		c = strings.Compare(d.frac, e.frac)
	}
	if d.negative {
		return -c
	}
	return c
}

func compareInts[T int | int64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}
