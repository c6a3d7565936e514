package principals

import (
	"embed"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/kmsfs/kmsfs/principals/policy"
)

//go:embed builtin/*.json
var builtinFiles embed.FS

// loadBuiltIn parses the policies that are part of the program.
func loadBuiltIn() (map[string]policy.Named, error) {
	files, err := builtinFiles.ReadDir("builtin")
	if err != nil {
		return nil, err
	}
	out := map[string]policy.Named{}
	for _, f := range files {
		text, err := builtinFiles.ReadFile(path.Join("builtin", f.Name()))
		if err != nil {
			return nil, err
		}
		d, err := policy.Parse(policy.IdentityPolicy, text)
		if err != nil {
			return nil, fmt.Errorf("built-in policy %s: %w", f.Name(), err)
		}
		name := strings.TrimSuffix(f.Name(), ".json")
		out[name] = policy.Named{Name: name, Document: d}
	}
	return out, nil
}

// BuiltIn reports whether a policy is part of the program.
func (s *Store) BuiltIn(name string) bool {
	_, ok := s.builtin[name]
	return ok
}

// Policies returns the names of all policies, built-in and stored, sorted.
func (s *Store) Policies() []string {
	names := slices.Collect(maps.Keys(s.builtin))
	names = slices.AppendSeq(names, maps.Keys(s.now.Load().policies))
	slices.Sort(names)
	return names
}

// Policy returns the text of a policy as it was put, and whether there is one.
func (s *Store) Policy(name string) ([]byte, bool) {
	n, ok := s.now.Load().policy(s, name)
	if !ok {
		return nil, false
	}
	return n.Document.Text(), true
}

// AttachedTo returns the names of the principals that hold a policy, by
// themselves, through a group or as their boundary, sorted.
func (s *Store) AttachedTo(name string) []string { return s.now.Load().holders(name) }

// holders are the users whose identity has a policy in it.
func (st *state) holders(name string) []string {
	var out []string
	for _, u := range st.users {
		if u.Boundary == name || st.holds(u, name) {
			out = append(out, u.Name)
		}
	}
	slices.Sort(out)
	return out
}

// holds reports whether a user has a policy, by himself or through a group.
func (st *state) holds(u *user, policy string) bool {
	return slices.Contains(u.Policies, policy) || slices.ContainsFunc(st.memberOf[u.Name], func(g string) bool {
		return slices.Contains(st.groups[g].Policies, policy)
	})
}

// administrator names a user who may do everything, or "".
func (st *state) administrator() string {
	for name, u := range st.users {
		if (u.Boundary == "" || u.Boundary == Administrator) && st.holds(u, Administrator) {
			return name
		}
	}
	return ""
}

// PutPolicy stores an identity policy under a name, or replaces it; what holds it
// follows at once. ErrInvalidName, ErrBuiltIn, ErrExists (a name that differs
// in case alone), ErrLimit; *policy.MalformedError for the text.
func (s *Store) PutPolicy(name string, text []byte) error {
	err := s.change(func(c *change) error {
		if err := checkName("policy", name, maxPolicyName); err != nil {
			return err
		}
		if other, taken := c.st.foldedPolicies[strings.ToLower(name)]; taken && s.BuiltIn(other) {
			return fmt.Errorf("policy %q: %w", other, ErrBuiltIn)
		} else if taken && other != name {
			return fmt.Errorf("policy %q: %w by %q", name, ErrExists, other)
		} else if !taken && len(c.st.policies) >= MaxPolicies {
			return fmt.Errorf("policy %q: %w: a store holds at most %d policies of its own", name, ErrLimit, MaxPolicies)
		}
		d, err := policy.Parse(policy.IdentityPolicy, text)
		if err != nil {
			return fmt.Errorf("policy %q: %w", name, err)
		}
		doc, err := encodePolicy(name, text)
		if err != nil {
			return err
		}
		c.st.policies[name] = policy.Named{Name: name, Document: d}
		c.st.foldedPolicies[strings.ToLower(name)] = name
		c.puts = append(c.puts, record{kindPolicy, name, doc})
		return c.rebuild(c.st.holders(name))
	})
	return wrap("put policy", err)
}

// DeletePolicy removes a stored policy. ErrPolicyNotFound, ErrBuiltIn,
// ErrPolicyInUse.
func (s *Store) DeletePolicy(name string) error {
	err := s.change(func(c *change) error {
		if s.BuiltIn(name) {
			return fmt.Errorf("policy %q: %w", name, ErrBuiltIn)
		}
		if _, ok := c.st.policies[name]; !ok {
			return fmt.Errorf("policy %q: %w", name, ErrPolicyNotFound)
		}
		holders := c.st.holders(name)
		for _, g := range c.st.groups {
			if slices.Contains(g.Policies, name) {
				holders = append(holders, "group "+g.Name)
			}
		}
		if len(holders) > 0 {
			shown := strings.Join(holders[:min(len(holders), 5)], ", ")
			if len(holders) > 5 {
				shown += fmt.Sprintf(" and %d more", len(holders)-5)
			}
			return fmt.Errorf("policy %q: %w to %s", name, ErrPolicyInUse, shown)
		}
		delete(c.st.policies, name)
		delete(c.st.foldedPolicies, strings.ToLower(name))
		c.deletes = append(c.deletes, record{kind: kindPolicy, id: name})
		return nil
	})
	return wrap("delete policy", err)
}
