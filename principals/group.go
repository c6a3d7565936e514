package principals

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const maxGroupName = 128

// Group is a set of policies for its members. It is a copy that the caller may change.
type Group struct {
	Name string
	// ID is the unique id, AGPA and 17 characters.
	ID string
	// ARN is arn:aws:iam::<account>:group/<name>.
	ARN string
	// Members are names of users, sorted.
	Members []string
	// Policies are the names of the attached policies, in the order of attachment.
	Policies []string
	// Created is in UTC, to the second.
	Created time.Time
}

func (g Group) clone() Group {
	g.Members, g.Policies = slices.Clone(g.Members), slices.Clone(g.Policies)
	return g
}

func groupNotFound(name string) error { return fmt.Errorf("group %q: %w", name, ErrGroupNotFound) }

func (s *Store) groupARN(name string) string { return "arn:aws:iam::" + s.account + ":group/" + name }

// CreateGroup makes a group without members. ErrInvalidName, ErrExists (also
// for a name that differs in case alone), ErrPolicyNotFound, ErrLimit.
func (s *Store) CreateGroup(name string, policies []string) (Group, error) {
	var made Group
	err := s.change(func(c *change) error {
		if err := checkName("group", name, maxGroupName); err != nil {
			return err
		}
		if other, taken := c.st.foldedGroups[strings.ToLower(name)]; taken {
			return fmt.Errorf("group %q: %w by %q", name, ErrExists, other)
		}
		if len(c.st.groups) >= MaxGroups {
			return fmt.Errorf("group %q: %w: a store holds at most %d groups", name, ErrLimit, MaxGroups)
		}
		g := Group{Name: name, ID: newID("AGPA"), ARN: s.groupARN(name), Created: s.clock().UTC().Truncate(time.Second)}
		for _, policy := range policies {
			if err := g.attach(policy); err != nil {
				return err
			}
			if _, ok := c.st.policy(s, policy); !ok {
				return fmt.Errorf("policy %q: %w", policy, ErrPolicyNotFound)
			}
		}
		made = g.clone()
		return c.putGroup(g)
	})
	if err != nil {
		return Group{}, fmt.Errorf("create group: %w", err)
	}
	return made, nil
}

// DeleteGroup removes a group, which must have no members and no policies.
// ErrGroupNotFound, ErrGroupInUse.
func (s *Store) DeleteGroup(name string) error {
	err := s.change(func(c *change) error {
		g, ok := c.st.groups[name]
		if !ok {
			return groupNotFound(name)
		}
		if len(g.Members)+len(g.Policies) > 0 {
			return fmt.Errorf("group %q: %w: it has %d members and %d policies", name, ErrGroupInUse, len(g.Members), len(g.Policies))
		}
		delete(c.st.groups, name)
		delete(c.st.foldedGroups, strings.ToLower(name))
		c.deletes = append(c.deletes, record{kind: kindGroup, id: name})
		return nil
	})
	return wrap("delete group", err)
}

// Group returns a group. ErrGroupNotFound.
func (s *Store) Group(name string) (Group, error) {
	g, ok := s.now.Load().groups[name]
	if !ok {
		return Group{}, groupNotFound(name)
	}
	return g.clone(), nil
}

// Groups returns all groups, by name.
func (s *Store) Groups() []Group {
	st := s.now.Load()
	out := make([]Group, 0, len(st.groups))
	for _, name := range slices.Sorted(maps.Keys(st.groups)) {
		out = append(out, st.groups[name].clone())
	}
	return out
}

// GroupsOf returns the names of the groups that a user is a member of, sorted.
func (s *Store) GroupsOf(user string) []string { return slices.Clone(s.now.Load().memberOf[user]) }

// AddMember puts a user into a group, and does nothing if he is in it.
// ErrGroupNotFound, ErrNotFound, ErrLimit.
func (s *Store) AddMember(group, user string) error {
	return wrap("add group member", s.editGroup(group, func(c *change, g *Group) error {
		if _, err := c.user(user); err != nil {
			return err
		}
		i, member := slices.BinarySearch(g.Members, user)
		if member {
			return nil
		}
		if len(c.st.memberOf[user]) >= MaxMemberships {
			return fmt.Errorf("principal %q: %w: a member of at most %d groups", user, ErrLimit, MaxMemberships)
		}
		g.Members = slices.Insert(g.Members, i, user)
		return nil
	}))
}

// RemoveMember takes a user out of a group. ErrGroupNotFound, ErrNotMember,
// ErrLastAdministrator.
func (s *Store) RemoveMember(group, user string) error {
	return wrap("remove group member", s.editGroup(group, func(_ *change, g *Group) error {
		i, member := slices.BinarySearch(g.Members, user)
		if !member {
			return fmt.Errorf("group %q, principal %q: %w", group, user, ErrNotMember)
		}
		g.Members = slices.Delete(g.Members, i, i+1)
		return nil
	}))
}

// AttachGroup attaches a policy to a group, and does nothing if it is attached
// already. ErrGroupNotFound, ErrPolicyNotFound, ErrLimit.
func (s *Store) AttachGroup(group, policy string) error {
	return wrap("attach group policy", s.editGroup(group, func(c *change, g *Group) error {
		if _, ok := c.st.policy(s, policy); !ok {
			return fmt.Errorf("policy %q: %w", policy, ErrPolicyNotFound)
		}
		return g.attach(policy)
	}))
}

// DetachGroup takes a policy off a group. ErrGroupNotFound, ErrNotAttached,
// ErrLastAdministrator.
func (s *Store) DetachGroup(group, policy string) error {
	return wrap("detach group policy", s.editGroup(group, func(_ *change, g *Group) error {
		i := slices.Index(g.Policies, policy)
		if i < 0 {
			return fmt.Errorf("group %q, policy %q: %w", group, policy, ErrNotAttached)
		}
		g.Policies = slices.Delete(g.Policies, i, i+1)
		return nil
	}))
}

// editGroup changes one group and the pictures of all who are or were in it.
// Nothing is written if fn changes nothing.
func (s *Store) editGroup(name string, fn func(c *change, g *Group) error) error {
	return s.change(func(c *change) error {
		old, ok := c.st.groups[name]
		if !ok {
			return groupNotFound(name)
		}
		g := old.clone()
		if err := fn(c, &g); err != nil {
			return err
		}
		if len(g.Members) == len(old.Members) && len(g.Policies) == len(old.Policies) {
			return nil
		}
		affected := append(slices.Clone(old.Members), g.Members...)
		if len(g.Policies) == len(old.Policies) { // only those who came or went
			affected = slices.DeleteFunc(affected, func(m string) bool {
				return slices.Contains(old.Members, m) && slices.Contains(g.Members, m)
			})
		}
		slices.Sort(affected)
		if err := c.putGroup(g); err != nil {
			return err
		}
		return c.rebuild(slices.Compact(affected))
	})
}

func (g *Group) attach(policy string) error {
	if slices.Contains(g.Policies, policy) {
		return nil
	}
	if len(g.Policies) >= MaxAttachments {
		return fmt.Errorf("group %q: %w: at most %d attached policies", g.Name, ErrLimit, MaxAttachments)
	}
	g.Policies = append(g.Policies, policy)
	return nil
}

// putGroup records a new or changed group. The members' pictures are the caller's business.
func (c *change) putGroup(g Group) error {
	doc, err := encodeGroup(g)
	if err != nil {
		return err
	}
	c.st.removeGroup(c.st.groups[g.Name])
	c.st.addGroup(g)
	c.puts = append(c.puts, record{kindGroup, g.Name, doc})
	return nil
}

func (st *state) addGroup(g Group) {
	st.groups[g.Name] = g
	st.foldedGroups[strings.ToLower(g.Name)] = g.Name
	for _, m := range g.Members {
		names := append(slices.Clone(st.memberOf[m]), g.Name)
		slices.Sort(names)
		st.memberOf[m] = names
	}
}

// removeGroup takes a group out of memberOf.
func (st *state) removeGroup(g Group) {
	for _, m := range g.Members {
		names := slices.DeleteFunc(slices.Clone(st.memberOf[m]), func(n string) bool { return n == g.Name })
		if len(names) == 0 {
			delete(st.memberOf, m)
		} else {
			st.memberOf[m] = names
		}
	}
}

// SetBoundary gives a user a permissions boundary, in place of the one he had.
// ErrNotFound, ErrPolicyNotFound, ErrLastAdministrator.
func (s *Store) SetBoundary(name, policy string) error {
	return wrap("set boundary", s.edit(name, func(c *change, p *Principal) error {
		if _, ok := c.st.policy(s, policy); !ok {
			return fmt.Errorf("policy %q: %w", policy, ErrPolicyNotFound)
		}
		p.Boundary = policy
		return nil
	}))
}

// RemoveBoundary takes a user's permissions boundary away. ErrNotFound, ErrNoBoundary.
func (s *Store) RemoveBoundary(name string) error {
	return wrap("remove boundary", s.edit(name, func(_ *change, p *Principal) error {
		if p.Boundary == "" {
			return fmt.Errorf("principal %q: %w", name, ErrNoBoundary)
		}
		p.Boundary = ""
		return nil
	}))
}

// A groupRecord is a group as stored.
type groupRecord struct {
	Version  int       `json:"version"`
	Name     string    `json:"name"`
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	Members  []string  `json:"members"`
	Policies []string  `json:"policies"`
}

func encodeGroup(g Group) ([]byte, error) {
	r := groupRecord{Version: recordVersion, Name: g.Name, ID: g.ID, Created: g.Created, Members: g.Members, Policies: g.Policies}
	if r.Members == nil {
		r.Members = []string{}
	}
	if r.Policies == nil {
		r.Policies = []string{}
	}
	return json.Marshal(r)
}

// decodeGroup reads a record, which must be filed under id. The ARN is not stored.
func decodeGroup(id string, doc []byte) (Group, error) {
	var r groupRecord
	if err := decode(doc, &r); err != nil {
		return Group{}, err
	}
	g := Group{Name: r.Name, ID: r.ID, Created: r.Created.UTC(), Members: r.Members}
	switch {
	case r.Version != recordVersion:
		return Group{}, fmt.Errorf("unknown version %d", r.Version)
	case r.Name != id:
		return Group{}, fmt.Errorf("filed under another name than %q", r.Name)
	case !validID(r.ID, "AGPA", 21):
		return Group{}, fmt.Errorf("%q is not a unique id", r.ID)
	}
	if err := checkName("group", r.Name, maxGroupName); err != nil {
		return Group{}, err
	}
	for i, m := range r.Members {
		if err := checkName("member", m, maxUserName); err != nil {
			return Group{}, err
		}
		if i > 0 && m <= r.Members[i-1] {
			return Group{}, errors.New("members not ascending")
		}
	}
	for _, name := range r.Policies {
		if err := g.attach(name); err != nil {
			return Group{}, err
		}
	}
	if len(g.Policies) != len(r.Policies) {
		return Group{}, errors.New("a policy twice")
	}
	return g, nil
}

func (s *Store) loadGroups(st *state) error {
	return s.ledger.Each(kindGroup, func(id string, doc []byte) error {
		g, err := decodeGroup(id, doc)
		if err != nil {
			return corrupt("group", id, err)
		}
		if other, taken := st.foldedGroups[strings.ToLower(id)]; taken {
			return corrupt("group", id, fmt.Errorf("differs from %q in case alone", other))
		}
		for _, name := range g.Policies {
			if _, ok := st.policy(s, name); !ok {
				return corrupt("group", id, fmt.Errorf("policy %q: %w", name, ErrPolicyNotFound))
			}
		}
		g.ARN = s.groupARN(g.Name)
		st.addGroup(g)
		return nil
	})
}
