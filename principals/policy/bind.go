package policy

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Principals returns the ARNs and unique ids of users, roles and sessions that the
// document names in Principal and NotPrincipal, sorted, without doubles. Whoever puts a
// document can check that they exist.
func (d *Document) Principals() []string {
	var out []string
	for i := range d.statements {
		if p := d.statements[i].principals; p != nil {
			out = append(append(out, p.arns...), p.ids...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// A Directory knows the users, roles and sessions of an account. Implementations
// are safe for concurrent use.
type Directory interface {
	// UniqueID is the id behind an ARN, if there is such a principal.
	UniqueID(arn string) (id string, exists bool)
	// ARN is the name behind a unique id, while that principal exists.
	ARN(id string) (arn string, exists bool)
}

// UnknownPrincipalError says that a document names somebody who does not exist.
type UnknownPrincipalError struct{ Principal string }

func (e *UnknownPrincipalError) Error() string { return "there is no principal " + quote(e.Principal) }

// Bind returns the document as it is to be kept: with the unique ids of the principals that it
// names, as AWS keeps it. Whoever is deleted and made again under the same name is not
// meant by it any more. A principal of the account that does not exist is an
// *UnknownPrincipalError. A nil directory binds nothing.
func (d *Document) Bind(account string, dir Directory) (*Document, error) {
	ids := map[string]string{}
	for _, p := range d.Principals() {
		id, ok := BindPrincipal(account, dir, p)
		if !ok {
			return nil, &UnknownPrincipalError{p}
		}
		if id != p {
			ids[p] = id
		}
	}
	if len(ids) == 0 {
		return d, nil
	}
	// A unique id is shorter than the ARN it stands for, so that the text stays within its limit.
	return Parse(d.kind, d.rename(func(p string) string {
		if id, ok := ids[p]; ok {
			return id
		}
		return p
	}))
}

// Shown returns the text of a document that is kept as it is shown: with the ARNs of those
// principals that exist, and the unique ids of those that do not any more.
func (d *Document) Shown(dir Directory) []byte {
	return d.rename(func(p string) string { return ShownPrincipal(dir, p) })
}

// BindPrincipal returns the unique id behind the ARN of a user, role or session of the
// account, and false if there is none, or none with that unique id. Accounts, other
// accounts' principals and "" are returned as they are.
func BindPrincipal(account string, dir Directory, principal string) (string, bool) {
	if dir == nil || principal == "" || isAccount(principal) {
		return principal, true
	}
	parts := strings.SplitN(principal, ":", 6)
	switch {
	case len(parts) != 6:
		_, ok := dir.ARN(principal)
		return principal, ok
	case parts[4] != account || parts[5] == "root":
		return principal, true
	}
	return dir.UniqueID(principal)
}

// ShownPrincipal returns the ARN behind a unique id, and anything else unchanged.
func ShownPrincipal(dir Directory, principal string) string {
	if dir == nil || !isUniqueID(principal) {
		return principal
	}
	if arn, ok := dir.ARN(principal); ok {
		return arn
	}
	return principal
}

// rename returns the text in which to has replaced the values under "AWS" of every
// Principal and NotPrincipal. Everything else stays byte by byte as it was.
func (d *Document) rename(to func(principal string) string) []byte {
	r := renamer{text: d.text, dec: json.NewDecoder(bytes.NewReader(d.text)), to: to}
	r.value(inDocument)
	return append(r.out, d.text[r.copied:]...)
}

// A renamer walks through the text of a document that has been parsed before.
type renamer struct {
	text   []byte
	dec    *json.Decoder
	to     func(string) string
	out    []byte
	copied int // bytes of text that are in out, or replaced
}

// A where is what the next value is.
type where uint8

const (
	elsewhere where = iota
	inDocument
	inStatement // or a list of them
	inPrincipal
	inNames // or a list of them
)

// child is what a member of an object is.
func (w where) child(name string) where {
	switch {
	case w == inDocument && name == "Statement":
		return inStatement
	case w == inStatement && (name == "Principal" || name == "NotPrincipal"):
		return inPrincipal
	case w == inPrincipal && name == "AWS":
		return inNames
	default:
		return elsewhere
	}
}

func (r *renamer) value(w where) {
	start := r.start()
	switch t := r.token().(type) {
	case string:
		if name := t; w == inNames {
			if other := r.to(name); other != name {
				r.replace(start, other)
			}
		}
	case json.Delim:
		for r.dec.More() {
			at := w
			if t == '{' {
				name, _ := r.token().(string)
				at = w.child(name)
			}
			r.value(at)
		}
		r.token()
	}
}

func (r *renamer) token() json.Token {
	t, err := r.dec.Token()
	if err != nil {
		panic("policy: a parsed document is not JSON: " + err.Error())
	}
	return t
}

// start is where the next token begins.
func (r *renamer) start() int {
	at := int(r.dec.InputOffset())
	for at < len(r.text) && bytes.IndexByte([]byte(" \t\r\n,:"), r.text[at]) >= 0 {
		at++
	}
	return at
}

func (r *renamer) replace(start int, name string) {
	quoted, err := json.Marshal(name)
	if err != nil {
		panic("policy: a string does not marshal: " + err.Error())
	}
	r.out = append(append(r.out, r.text[r.copied:start]...), quoted...)
	r.copied = int(r.dec.InputOffset())
}
