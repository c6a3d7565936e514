package crypto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// ErrInvalidContext is returned for bytes that Canonical never writes.
var ErrInvalidContext = errors.New("crypto: invalid canonical encryption context")

// Context is an encryption context: name and value pairs bound to a ciphertext
// but not hidden by it. Names and values are bytes and compare as bytes. A nil
// Context equals an empty one.
type Context map[string]string

// Canonical returns the injective encoding shown in the package comment. Equal
// contexts have equal encodings, whatever order they were built in.
func (c Context) Canonical() []byte { return c.AppendCanonical(nil) }

// AppendCanonical appends Canonical's encoding to dst.
func (c Context) AppendCanonical(dst []byte) []byte {
	if len(c) == 1 { // as a rule, and going over a map costs more than the rest
		for k, v := range c {
			if uint64(len(k)) > math.MaxUint32 || uint64(len(v)) > math.MaxUint32 {
				panic("crypto: encryption context entry exceeds 4 GiB")
			}
			dst = slices.Grow(dst, 12+len(k)+len(v))
			dst = appendString(appendString(binary.BigEndian.AppendUint32(dst, 1), k), v)
		}
		return dst
	}
	n := 4
	for k, v := range c {
		if uint64(len(k)) > math.MaxUint32 || uint64(len(v)) > math.MaxUint32 {
			panic("crypto: encryption context entry exceeds 4 GiB")
		}
		n += 8 + len(k) + len(v)
	}
	dst = slices.Grow(dst, n)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(c)))
	for _, k := range slices.Sorted(maps.Keys(c)) {
		dst = appendString(dst, k)
		dst = appendString(dst, c[k])
	}
	return dst
}

// Equal reports whether two contexts hold the same pairs.
func (c Context) Equal(o Context) bool { return maps.Equal(c, o) }

// ParseContext reads what Canonical wrote. It returns ErrInvalidContext, wrapped
// with the reason, for anything else: names out of order, repeated names, short
// or left-over bytes. The result is never nil and keeps no reference to b.
func ParseContext(canonical []byte) (Context, error) {
	r := reader{b: canonical}
	count := r.uint32()
	// Each pair takes at least 8 bytes, so the count cannot make us reserve
	// more memory than the input has.
	if r.short || uint64(count) > uint64(len(r.b))/8 {
		return nil, fmt.Errorf("%w: count exceeds the input", ErrInvalidContext)
	}
	c := make(Context, count)
	prev := ""
	for i := range count {
		k, v := r.string(), r.string()
		if r.short {
			return nil, fmt.Errorf("%w: entry %d is cut short", ErrInvalidContext, i)
		}
		if i > 0 && k <= prev {
			return nil, fmt.Errorf("%w: entry %d is out of order", ErrInvalidContext, i)
		}
		c[k], prev = v, k
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes left over", ErrInvalidContext, len(r.b))
	}
	return c, nil
}

func appendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// reader takes fields from the front of b; short tells that one was missing,
// and from then on every field is empty.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) uint32() uint32 {
	if r.short || len(r.b) < 4 {
		r.short = true
		return 0
	}
	v := binary.BigEndian.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

func (r *reader) string() string {
	n := r.uint32()
	if r.short || uint64(n) > uint64(len(r.b)) {
		r.short = true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}
