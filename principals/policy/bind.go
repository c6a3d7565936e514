package policy

import (
	"maps"
	"slices"
)

// PrincipalARNs returns the ARNs of users, roles and sessions that the
// document names in Principal and NotPrincipal, sorted, without doubles. Whoever puts a
// document can check that they exist.
func (d *Document) PrincipalARNs() []string {
	var out []string
	for i := range d.statements {
		if p := d.statements[i].principals; p != nil {
			out = append(out, p.arns...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Bind returns a document in which each ARN among ids names only the principal
// with that unique id. AWS binds a policy so when it is put: who is deleted
// and created again under the same name is not meant by the old policy. ARNs that are not
// in ids go on to match by name. The document itself is not changed.
func (d *Document) Bind(ids map[string]string) *Document {
	bound := *d
	ids = maps.Clone(ids)
	bound.statements = slices.Clone(d.statements)
	for i := range bound.statements {
		if p := bound.statements[i].principals; p != nil {
			c := *p
			c.bound = ids
			bound.statements[i].principals = &c
		}
	}
	return &bound
}
