package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxRaw is the size of the largest text that is looked at, whatever the kind.
const maxRaw = 131072

// maxDepth is deeper than any legal document.
const maxDepth = 10

// Limits of AWS, in bytes for resource policies, in characters without
// white space between JSON tokens for identity policies.
const (
	MaxKeyPolicy      = 32768
	MaxBucketPolicy   = 20480
	MaxIdentityPolicy = 6144
)

// MalformedError says what is wrong with a document and where.
type MalformedError struct {
	// Path is the place: "Statement[0].Action[2]", or "line 3, column 7" for
	// text that is not JSON. It is empty where the document as a whole is meant.
	Path string
	// Msg is what is wrong there.
	Msg string
	// TooLarge marks a document over its size limit (KMS: LimitExceededException).
	TooLarge bool
}

// Error is "malformed policy: at Statement[0].Action: …".
func (e *MalformedError) Error() string {
	if e.Path == "" {
		return "malformed policy: " + e.Msg
	}
	return "malformed policy: at " + e.Path + ": " + e.Msg
}

// A node is a JSON value.
type node struct {
	kind   nodeKind
	text   string // of a string, number or bool
	items  []node
	fields []field
}

type nodeKind uint8

const (
	nodeNull nodeKind = iota
	nodeString
	nodeNumber
	nodeBool
	nodeArray
	nodeObject
)

func (k nodeKind) String() string {
	return [...]string{"null", "a string", "a number", "a boolean", "a list", "an object"}[k]
}

type field struct {
	name  string
	value node
}

// quote shortens and quotes foreign text for a message.
func quote(s string) string {
	const limit = 120
	if len(s) > limit {
		cut := limit
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return strconv.Quote(s)
}

// position turns a byte offset into "line L, column C".
func position(text []byte, off int) string {
	off = min(max(off, 0), len(text))
	line := 1 + bytes.Count(text[:off], []byte{'\n'})
	col := 1 + utf8.RuneCount(text[bytes.LastIndexByte(text[:off], '\n')+1:off])
	return fmt.Sprintf("line %d, column %d", line, col)
}

// checkText enforces size and character limits.
func checkText(kind Kind, text []byte) error {
	tooLarge := func(format string, args ...any) error {
		return &MalformedError{Msg: fmt.Sprintf(format, args...), TooLarge: true}
	}
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return &MalformedError{Msg: "the document is empty"}
	case len(text) > maxRaw:
		return tooLarge("the document has %d bytes, more than %d", len(text), maxRaw)
	case kind == KeyPolicy && len(text) > MaxKeyPolicy:
		return tooLarge("a key policy may have %d bytes, this one has %d", MaxKeyPolicy, len(text))
	case kind == BucketPolicy && len(text) > MaxBucketPolicy:
		return tooLarge("a bucket policy may have %d bytes, this one has %d", MaxBucketPolicy, len(text))
	}
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return &MalformedError{Path: position(text, i), Msg: "the document is not valid UTF-8"}
		case r < 0x20 && r != '\t' && r != '\n' && r != '\r':
			return &MalformedError{Path: position(text, i), Msg: fmt.Sprintf("the control character U+%04X is not allowed", r)}
		case r > 0xFF && kind != BucketPolicy:
			return &MalformedError{Path: position(text, i), Msg: fmt.Sprintf("the character U+%04X is not allowed: AWS takes U+0020 to U+00FF (write it as \\u%04x)", r, r)}
		}
		i += n
	}
	if kind == IdentityPolicy {
		if n := significant(text); n > MaxIdentityPolicy {
			return tooLarge("an identity policy may have %d characters without white space, this one has %d", MaxIdentityPolicy, n)
		}
	}
	return nil
}

// significant counts the characters that are not white space between JSON tokens.
func significant(text []byte) int {
	n, inString, escaped := 0, false, false
	for _, r := range string(text) {
		switch {
		case escaped:
			escaped = false
		case inString && r == '\\':
			escaped = true
		case r == '"':
			inString = !inString
		case !inString && (r == ' ' || r == '\t' || r == '\n' || r == '\r'):
			continue
		}
		n++
	}
	return n
}

// readJSON reads the whole text as one JSON value and refuses duplicate names.
func readJSON(text []byte) (node, error) {
	var whole json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return node{}, &MalformedError{Path: position(text, int(syntax.Offset)-1), Msg: "not JSON: " + syntax.Error()}
		}
		return node{}, &MalformedError{Msg: "not JSON: " + err.Error()}
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	r := jsonReader{dec: dec, text: text}
	return r.value(nil, 0)
}

type jsonReader struct {
	dec  *json.Decoder
	text []byte
}

func (r *jsonReader) value(at path, depth int) (node, error) {
	if depth > maxDepth {
		return node{}, at.errorf("nested deeper than any policy element")
	}
	tok, err := r.dec.Token()
	if err != nil {
		return node{}, &MalformedError{Path: position(r.text, int(r.dec.InputOffset())), Msg: "not JSON: " + err.Error()}
	}
	switch t := tok.(type) {
	case string:
		return node{kind: nodeString, text: t}, nil
	case json.Number:
		return node{kind: nodeNumber, text: t.String()}, nil
	case bool:
		return node{kind: nodeBool, text: strconv.FormatBool(t)}, nil
	case json.Delim:
		if t == '[' {
			return r.array(at, depth)
		}
		return r.object(at, depth)
	default:
		return node{kind: nodeNull}, nil
	}
}

func (r *jsonReader) array(at path, depth int) (node, error) {
	n := node{kind: nodeArray}
	for r.dec.More() {
		v, err := r.value(at.index(len(n.items)), depth+1)
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, v)
	}
	_, err := r.dec.Token()
	return n, err
}

func (r *jsonReader) object(at path, depth int) (node, error) {
	n := node{kind: nodeObject}
	seen := map[string]bool{}
	for r.dec.More() {
		tok, err := r.dec.Token()
		if err != nil {
			return node{}, err
		}
		name, _ := tok.(string)
		if seen[name] {
			return node{}, at.errorf("the name %s appears twice", quote(name))
		}
		seen[name] = true
		v, err := r.value(at.child(name), depth+1)
		if err != nil {
			return node{}, err
		}
		n.fields = append(n.fields, field{name, v})
	}
	_, err := r.dec.Token()
	return n, err
}

// A path is a place in a document: names and list indices.
type path []string

func (p path) child(name string) path {
	if len(name) > 60 {
		name = name[:60] + "…"
	}
	return append(p[:len(p):len(p)], "."+strings.ToValidUTF8(name, ""))
}

func (p path) index(i int) path {
	return append(p[:len(p):len(p)], "["+strconv.Itoa(i)+"]")
}

func (p path) String() string { return strings.TrimPrefix(strings.Join(p, ""), ".") }

func (p path) errorf(format string, args ...any) error {
	return &MalformedError{Path: p.String(), Msg: fmt.Sprintf(format, args...)}
}
