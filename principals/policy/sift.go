package policy

import (
	"slices"
	"unicode/utf8"
)

// A segment of many question marks and short literals may nearly match at every index, and trying them one by one takes as many steps as
// the product of both lengths: for whoever may write a policy, a way to keep the processors busy with each decision. So such
// segments are sifted: bit i of the state says that the segment's first i+1 characters match the text that ends here, and one step for all
// bits takes the next character (shift-and, by Baeza-Yates and Gonnet). What is a single word up to 64 characters is a product again
// beyond, but of the sixty-fourth part.

const siftFrom = 4 // parts; with fewer, a try at an index is over soon

const anyRune = -1 // an element for which every character does

// A sifter is a segment in that form.
type sifter struct {
	elems []rune
	any   []uint64                // the elements that are anyRune
	ascii [utf8.RuneSelf][]uint64 // of characters seen: the elements that they match
	other map[rune][]uint64       // likewise
}

// sift finds a segment at the first possible index from pos to limit and returns the index behind it. sifted is false if the segment is not
// of such a form: some of it is not UTF-8.
func (m *matcher) sift(seg *segment, pos, limit int) (end int, ok, sifted bool) {
	var f sifter
	if !m.prepare(&f, seg) {
		return 0, false, false
	}
	words := len(f.any)
	state := make([]uint64, words)
	last := uint64(1) << ((len(f.elems) - 1) % 64)
	for i := pos; i < len(m.s); {
		r, n := utf8.DecodeRuneInString(m.s[i:])
		mask := f.any
		switch {
		case r == utf8.RuneError && n == 1: // a byte that is not UTF-8: no literal has it
		case i < m.barrier && r == ':':
			mask = f.literally(r)
		default:
			mask = f.mask(r)
		}
		carry, left := uint64(0), uint64(0)
		if i <= limit {
			carry = 1
		}
		for w, bits := range state {
			state[w] = (bits<<1 | carry) & mask[w]
			carry = bits >> 63
			left |= state[w]
		}
		i += n
		if state[words-1]&last != 0 {
			return i, true, true
		}
		if left == 0 && i > limit {
			break
		}
	}
	return 0, false, true
}

func (m *matcher) prepare(f *sifter, seg *segment) bool {
	for k := range seg.parts {
		p := &seg.parts[k]
		t := p.lit
		switch p.kind {
		case partOne:
			f.elems = append(f.elems, anyRune)
			continue
		case partVar:
			t = m.vals[p.v]
		case partLit:
		}
		if m.fold || !utf8.ValidString(t) {
			return false
		}
		f.elems = append(f.elems, []rune(t)...)
	}
	if len(f.elems) == 0 {
		return false
	}
	f.any = make([]uint64, (len(f.elems)+63)/64)
	for i, e := range f.elems {
		if e == anyRune {
			f.any[i/64] |= 1 << (i % 64)
		}
	}
	return true
}

// mask is the elements that a character matches.
func (f *sifter) mask(r rune) []uint64 {
	if r < utf8.RuneSelf {
		if f.ascii[r] == nil {
			f.ascii[r] = f.matching(r)
		}
		return f.ascii[r]
	}
	m, ok := f.other[r]
	if !ok {
		m = f.matching(r)
		if f.other == nil {
			f.other = map[rune][]uint64{}
		}
		if len(f.other) < utf8.RuneSelf { // of a text in an alphabet there are no more
			f.other[r] = m
		}
	}
	return m
}

func (f *sifter) matching(r rune) []uint64 {
	m := f.literally(r)
	for w := range m {
		m[w] |= f.any[w]
	}
	return m
}

// literally is the elements that are this character.
func (f *sifter) literally(r rune) []uint64 {
	m := make([]uint64, len(f.any))
	for i := 0; ; i++ {
		n := slices.Index(f.elems[i:], r)
		if n < 0 {
			return m
		}
		i += n
		m[i/64] |= 1 << (i % 64)
	}
}
