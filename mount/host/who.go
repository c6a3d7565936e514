package host

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/kmsfs/kmsfs/principals"
)

// principalFor is the principal that a uid acts as. A name must be bound to
// the uid, unless root or the store's owner gives it. Without a name it is the
// one that is bound; of several, root and the owner, who
// may be any of them, are the administrator, and others must choose.
func (d *Daemon) principalFor(uid uint32, name string) (string, error) {
	bound := d.cfg.Principals.ByUID(uid)
	if name != "" {
		if slices.Contains(bound, name) {
			return name, nil
		}
		if !d.trusted(uid) {
			return "", &hintedError{
				err:  fmt.Errorf("%w: uid %d may not act as %s", errForbidden, uid, name),
				hint: boundHint(uid, bound),
			}
		}
		if _, err := d.cfg.Principals.Get(name); err != nil {
			return "", err
		}
		return name, nil
	}
	switch {
	case len(bound) == 1:
		return bound[0], nil
	case len(bound) == 0:
		return "", &hintedError{
			err:  fmt.Errorf("%w: no principal is bound to uid %d", errForbidden, uid),
			hint: fmt.Sprintf("an administrator binds one: kmsfs principal create NAME --uid %d; root and the owner may say --as NAME", uid),
		}
	case d.trusted(uid):
		return d.preferred(bound), nil
	}
	return "", &hintedError{
		err:  fmt.Errorf("%w: several principals are bound to uid %d", errWhich, uid),
		hint: "choose one with --as: " + strings.Join(bound, ", "),
	}
}

func boundHint(uid uint32, bound []string) string {
	if len(bound) == 0 {
		return fmt.Sprintf("no principal is bound to uid %d", uid)
	}
	return "bound to your uid: " + strings.Join(bound, ", ")
}

// preferred is an administrator before others, then the one made first.
func (d *Daemon) preferred(names []string) string {
	known := make([]principals.Principal, 0, len(names))
	for _, name := range names {
		if p, err := d.cfg.Principals.Get(name); err == nil {
			known = append(known, p)
		}
	}
	if len(known) == 0 {
		return names[0]
	}
	return slices.MinFunc(known, func(a, b principals.Principal) int {
		admin := func(p principals.Principal) int {
			if slices.Contains(p.Policies, principals.Administrator) {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(admin(a), admin(b)), a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
	}).Name
}

// arn makes a user ARN of a principal's name; an ARN stays what it is.
func (d *Daemon) arn(nameOrARN string) string {
	if strings.HasPrefix(nameOrARN, "arn:") {
		return nameOrARN
	}
	return "arn:aws:iam::" + d.cfg.Info.Account + ":user/" + nameOrARN
}

func (d *Daemon) arns(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = d.arn(n)
	}
	return out
}
