package kmsapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kmsfs/kmsfs/keystore"
)

const maxDepth = 8 // of JSON values; the deepest request has 4

var errDepth = errors.New("too deep")

// parseObject reads a body: one JSON object in UTF-8, without doubled names,
// which different readers would understand differently. No body is an empty object.
func parseObject(body []byte) (map[string]any, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return map[string]any{}, nil
	}
	if !utf8.Valid(body) {
		return nil, refuse(codeSerialization, "The request body is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	v, err := parseValue(dec, maxDepth)
	if err == nil {
		if _, end := dec.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("more than one value")
		}
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		return nil, r
	}
	if err != nil {
		return nil, refuse(codeSerialization, "Could not parse request body into json")
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, refuse(codeSerialization, "%s cannot be converted to Structure", kindOf(v))
	}
	return object, nil
}

func parseValue(dec *json.Decoder, depth int) (any, error) {
	if depth == 0 {
		return nil, errDepth
	}
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		object := map[string]any{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			key := name.(string) // the decoder refuses others
			if _, twice := object[key]; twice {
				return nil, refuse(codeSerialization, "Duplicate field '%.80s'", key)
			}
			if object[key], err = parseValue(dec, depth-1); err != nil {
				return nil, err
			}
		}
		_, err := dec.Token()
		return object, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			v, err := parseValue(dec, depth-1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	return token, nil
}

// kindOf names a JSON value as the service does.
func kindOf(v any) string {
	switch v := v.(type) {
	case string:
		return "STRING_VALUE"
	case json.Number:
		return "NUMBER_VALUE"
	case bool:
		if v {
			return "TRUE_VALUE"
		}
		return "FALSE_VALUE"
	case []any:
		return "START_ARRAY"
	case map[string]any:
		return "START_OBJECT"
	default:
		return "NULL_VALUE"
	}
}

// input reads the parameters of a request by their shapes. Violations are
// collected, and told by err. A null is as good as an absent value.
type input struct {
	path   string // of the structure within the request, "" or "constraints."
	fields map[string]any
	shared *violations
}

type violations struct {
	broken []string // constraints
	shape  error    // the first value of a wrong type; goes before all constraints
}

func newInput(fields map[string]any) *input { return &input{fields: fields, shared: &violations{}} }

// err is what is wrong with all that was read so far, or nil.
func (in *input) err() error {
	switch n := len(in.shared.broken); {
	case in.shared.shape != nil:
		return in.shared.shape
	case n == 1:
		return refuse(keystore.CodeValidation, "1 validation error detected: %s", in.shared.broken[0])
	case n > 1:
		return refuse(keystore.CodeValidation, "%d validation errors detected: %s", n, strings.Join(in.shared.broken, "; "))
	}
	return nil
}

// member is a parameter's name as messages write it: KeyId is keyId.
func (in *input) member(name string) string { return in.path + strings.ToLower(name[:1]) + name[1:] }

func (in *input) violate(value, member, constraint string, args ...any) {
	in.shared.broken = append(in.shared.broken,
		"Value "+value+"at '"+member+"' failed to satisfy constraint: Member must "+fmt.Sprintf(constraint, args...))
}

func (in *input) mistype(v any, want string) {
	if in.shared.shape == nil {
		in.shared.shape = refuse(codeSerialization, "%s cannot be converted to %s", kindOf(v), want)
	}
}

// get is a value that is there. A required one that is not is a violation.
func (in *input) get(name string, required bool) (any, bool) {
	v := in.fields[name]
	if v == nil && required {
		in.violate("null ", in.member(name), "not be null")
	}
	return v, v != nil
}

// only refuses members of other names. As a rule what is unknown is ignored, as AWS does; here that would do more than was asked for.
func (in *input) only(names ...string) {
	for name, v := range in.fields {
		if v != nil && !slices.Contains(names, name) {
			in.violate("", in.path+name, "be one of: [%s]", strings.Join(names, ", "))
		}
	}
}

// rule is the shape of a string.
type rule struct {
	required bool
	min, max int // characters; max 0 = any
	enum     []string
	pattern  *regexp.Regexp
	silent   bool // the value is not repeated in messages
}

func (in *input) text(name string, r rule) string {
	v, ok := in.get(name, r.required)
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		in.mistype(v, "String")
		return ""
	}
	in.check(s, in.member(name), r)
	return s
}

const maxQuoted = 256 // characters of a value in a message

func (in *input) check(s, member string, r rule) {
	value := ""
	if !r.silent {
		shown := s
		if utf8.RuneCountInString(shown) > maxQuoted {
			shown = string([]rune(shown)[:maxQuoted]) + "…"
		}
		value = "'" + shown + "' "
	}
	n := utf8.RuneCountInString(s)
	switch {
	case n < r.min:
		in.violate(value, member, "have length greater than or equal to %d", r.min)
	case r.max > 0 && n > r.max:
		in.violate(value, member, "have length less than or equal to %d", r.max)
	case r.enum != nil && !slices.Contains(r.enum, s):
		in.violate(value, member, "satisfy enum value set: [%s]", strings.Join(r.enum, ", "))
	case r.pattern != nil && !r.pattern.MatchString(s):
		in.violate(value, member, "satisfy regular expression pattern: %s", r.pattern)
	}
}

func (in *input) boolean(name string) bool {
	v, ok := in.get(name, false)
	if !ok {
		return false
	}
	b, ok := v.(bool)
	if !ok {
		in.mistype(v, "Boolean")
	}
	return b
}

// number is a whole number from least to most, and 0 if it is absent.
func (in *input) number(name string, least, most int) (n int, given bool) {
	v, ok := in.get(name, false)
	if !ok {
		return 0, false
	}
	num, ok := v.(json.Number)
	if !ok {
		in.mistype(v, "Integer")
		return 0, true
	}
	f, err := strconv.ParseFloat(num.String(), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
		in.mistype(v, "Integer")
		return 0, true
	}
	n = int(f)
	switch {
	case n < least:
		in.violate(fmt.Sprintf("'%d' ", n), in.member(name), "have value greater than or equal to %d", least)
	case n > most:
		in.violate(fmt.Sprintf("'%d' ", n), in.member(name), "have value less than or equal to %d", most)
	}
	return n, true
}

// blob is bytes in base64, 1 to most of them.
func (in *input) blob(name string, most int) []byte {
	v, ok := in.get(name, true)
	if !ok {
		return nil
	}
	s, ok := v.(string)
	if !ok {
		in.mistype(v, "Blob")
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		if in.shared.shape == nil {
			in.shared.shape = refuse(codeSerialization, "The value of '%s' is not base64", in.member(name))
		}
		return nil
	}
	switch {
	case len(b) < 1:
		in.violate("", in.member(name), "have length greater than or equal to 1")
	case len(b) > most:
		in.violate("", in.member(name), "have length less than or equal to %d", most)
	}
	return b
}

// list is a list of least to most elements, each given to each. nil: absent.
func (in *input) list(name string, required bool, least, most int, each func(v any, member string)) (given bool) {
	v, ok := in.get(name, required)
	if !ok {
		return false
	}
	l, ok := v.([]any)
	if !ok {
		in.mistype(v, "List")
		return true
	}
	switch {
	case len(l) < least:
		in.violate("'[]' ", in.member(name), "have length greater than or equal to %d", least)
	case len(l) > most:
		in.violate("", in.member(name), "have length less than or equal to %d", most)
		return true
	}
	for i, v := range l {
		each(v, in.member(name)+"."+strconv.Itoa(i+1)+".member")
	}
	return true
}

// texts is a list of strings.
func (in *input) texts(name string, required bool, least, most int, r rule) []string {
	var out []string
	in.list(name, required, least, most, func(v any, member string) {
		s, ok := v.(string)
		if !ok {
			in.mistype(v, "String")
			return
		}
		in.check(s, member, r)
		out = append(out, s)
	})
	return out
}

// pairs is a map of strings. nil: absent.
func (in *input) pairs(name string) map[string]string {
	v, ok := in.get(name, false)
	if !ok {
		return nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		in.mistype(v, "Map")
		return nil
	}
	out := make(map[string]string, len(object))
	for k, v := range object {
		s, ok := v.(string)
		if !ok {
			in.mistype(v, "String")
			return nil
		}
		out[k] = s
	}
	return out
}

// structure is the input of a structure within this one; nil: absent.
func (in *input) structure(name string) *input {
	v, ok := in.get(name, false)
	if !ok {
		return nil
	}
	return in.inner(v, in.member(name))
}

func (in *input) inner(v any, member string) *input {
	fields, ok := v.(map[string]any)
	if !ok {
		in.mistype(v, "Structure")
		return nil
	}
	return &input{path: member + ".", fields: fields, shared: in.shared}
}

// given says whether a parameter is there at all.
func (in *input) given(name string) bool { return in.fields[name] != nil }
