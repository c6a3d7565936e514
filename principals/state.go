package principals

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// A state is everything the store knows at one moment. It is immutable once it is
// published; a change works on a clone.
type state struct {
	users map[string]*user
	// byUID, folded and byID are derived from users; folded maps lower-case names, byID unique ids to names.
	byUID  map[uint32][]string
	folded map[string]string
	byID   map[string]string
	// policies are the stored ones. foldedPolicies maps lower-case names, the
	// built-in ones included.
	policies       map[string]policy.Named
	foldedPolicies map[string]string
	// memberOf and foldedGroups are derived from groups: the sorted groups of a
	// user, and lower-case names.
	groups       map[string]Group
	memberOf     map[string][]string
	foldedGroups map[string]string
	accessKeys   map[string]accessKey // by id
}

// A user is a principal and its picture. Immutable.
type user struct {
	Principal
	identity *policy.Identity
}

func (st *state) clone() *state {
	return &state{
		users: maps.Clone(st.users), byUID: maps.Clone(st.byUID), folded: maps.Clone(st.folded), byID: maps.Clone(st.byID),
		policies: maps.Clone(st.policies), foldedPolicies: maps.Clone(st.foldedPolicies),
		groups: maps.Clone(st.groups), memberOf: maps.Clone(st.memberOf), foldedGroups: maps.Clone(st.foldedGroups),
		accessKeys: maps.Clone(st.accessKeys),
	}
}

// A change collects what a mutation does to the ledger and to the state.
type change struct {
	st      *state
	store   *Store
	puts    []record
	deletes []record
	touched []string
}

type record struct {
	kind byte
	id   string
	doc  []byte
}

// change runs fn on a clone of the state, commits what it recorded and
// publishes the clone. If fn fails, nothing happens.
func (s *Store) change(fn func(c *change) error) error {
	touched, err := s.commit(fn)
	s.notify(touched)
	return err
}

func (s *Store) commit(fn func(c *change) error) (touched []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &change{st: s.now.Load().clone(), store: s}
	if err := fn(c); err != nil {
		return nil, err
	}
	if len(c.puts)+len(c.deletes) == 0 {
		return nil, nil
	}
	if last := s.now.Load().administrator(); last != "" && c.st.administrator() == "" {
		return nil, fmt.Errorf("principal %q: %w: attach it to another principal first", last, ErrLastAdministrator)
	}
	err = s.ledger.Update(func(tx *ledger.Tx) error {
		for _, r := range c.deletes {
			tx.Delete(r.kind, r.id)
		}
		for _, r := range c.puts {
			tx.Put(r.kind, r.id, r.doc)
		}
		return nil
	})
	if err == nil {
		s.now.Store(c.st)
		return c.touched, nil
	}
	if errors.Is(err, kv.ErrNoSpace) || errors.Is(err, kv.ErrTooBig) {
		return nil, err // surely not applied
	}
	// It may be unknown whether the commit took place: follow the ledger.
	if st, again := s.load(); again == nil {
		s.now.Store(st)
		return c.touched, err
	} else {
		return nil, errors.Join(err, again)
	}
}

// putUser records a new or changed user and rebuilds its picture.
func (c *change) putUser(p Principal) error {
	doc, err := encodeUser(p)
	if err != nil {
		return err
	}
	if old, ok := c.st.users[p.Name]; ok {
		c.st.unindex(old.Principal)
	}
	if err := c.st.addUser(c.store, p); err != nil {
		return err
	}
	c.puts = append(c.puts, record{kindUser, p.Name, doc})
	c.touched = append(c.touched, p.Name)
	return nil
}

func (c *change) deleteUser(p Principal) error {
	for _, name := range c.st.memberOf[p.Name] {
		g := c.st.groups[name].clone()
		g.Members = slices.DeleteFunc(g.Members, func(m string) bool { return m == p.Name })
		if err := c.putGroup(g); err != nil {
			return err
		}
	}
	delete(c.st.memberOf, p.Name)
	for id, k := range c.st.accessKeys {
		if k.User == p.Name {
			c.deleteAccessKey(id)
		}
	}
	c.st.unindex(p)
	delete(c.st.users, p.Name)
	delete(c.st.folded, strings.ToLower(p.Name))
	delete(c.st.byID, p.ID)
	c.deletes = append(c.deletes, record{kind: kindUser, id: p.Name})
	c.touched = append(c.touched, p.Name)
	return nil
}

// rebuild makes the pictures of users anew, whose policies changed.
func (c *change) rebuild(names []string) error {
	for _, name := range names {
		p, err := c.user(name)
		if err != nil {
			return err
		}
		c.st.unindex(p)
		if err := c.st.addUser(c.store, p); err != nil {
			return err
		}
		c.touched = append(c.touched, name)
	}
	return nil
}

// user returns a private copy of a user.
func (c *change) user(name string) (Principal, error) {
	u, ok := c.st.users[name]
	if !ok {
		return Principal{}, notFound(name)
	}
	return u.clone(), nil
}

// addUser puts a user into the maps and builds its picture.
func (st *state) addUser(s *Store, p Principal) error {
	who := &policy.Identity{Type: policy.User, Account: s.account, ARN: p.ARN, Name: p.Name, ID: p.ID}
	names := slices.Clone(p.Policies)
	for _, g := range st.memberOf[p.Name] {
		for _, name := range st.groups[g].Policies {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	for _, name := range names {
		n, ok := st.policy(s, name)
		if !ok {
			return fmt.Errorf("policy %q: %w", name, ErrPolicyNotFound)
		}
		who.Policies = append(who.Policies, n)
	}
	if p.Boundary != "" {
		n, ok := st.policy(s, p.Boundary)
		if !ok {
			return fmt.Errorf("boundary %q: %w", p.Boundary, ErrPolicyNotFound)
		}
		who.Boundary = &n
	}
	st.users[p.Name] = &user{Principal: p, identity: who}
	st.folded[strings.ToLower(p.Name)] = p.Name
	st.byID[p.ID] = p.Name
	for _, uid := range p.UIDs {
		names := append(slices.Clone(st.byUID[uid]), p.Name)
		slices.Sort(names)
		st.byUID[uid] = names
	}
	return nil
}

// unindex takes a user's uids out of byUID.
func (st *state) unindex(p Principal) {
	for _, uid := range p.UIDs {
		names := slices.DeleteFunc(slices.Clone(st.byUID[uid]), func(n string) bool { return n == p.Name })
		if len(names) == 0 {
			delete(st.byUID, uid)
		} else {
			st.byUID[uid] = names
		}
	}
}

// policy finds a built-in or stored policy.
func (st *state) policy(s *Store, name string) (policy.Named, bool) {
	if n, ok := s.builtin[name]; ok {
		return n, true
	}
	n, ok := st.policies[name]
	return n, ok
}

func corrupt(what, id string, err error) error {
	return fmt.Errorf("%s %q: %w: %w", what, id, ErrCorrupt, err)
}

// load builds the state from the ledger.
func (s *Store) load() (*state, error) {
	st := &state{
		users: map[string]*user{}, byUID: map[uint32][]string{}, folded: map[string]string{}, byID: map[string]string{},
		policies: map[string]policy.Named{}, foldedPolicies: map[string]string{},
		groups: map[string]Group{}, memberOf: map[string][]string{}, foldedGroups: map[string]string{},
		accessKeys: map[string]accessKey{},
	}
	for name := range s.builtin {
		st.foldedPolicies[strings.ToLower(name)] = name
	}
	err := s.ledger.Each(kindPolicy, func(id string, doc []byte) error {
		d, err := decodePolicy(id, doc)
		if err != nil {
			return corrupt("policy", id, err)
		}
		if other, taken := st.foldedPolicies[strings.ToLower(id)]; taken {
			return corrupt("policy", id, fmt.Errorf("differs from %q in case alone", other))
		}
		st.policies[id] = policy.Named{Name: id, Document: d}
		st.foldedPolicies[strings.ToLower(id)] = id
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.loadGroups(st); err != nil { // before users, whose pictures hold their groups' policies
		return nil, err
	}
	err = s.ledger.Each(kindUser, func(id string, doc []byte) error {
		p, err := decodeUser(id, doc)
		if err != nil {
			return corrupt("principal", id, err)
		}
		if other, taken := st.folded[strings.ToLower(id)]; taken {
			return corrupt("principal", id, fmt.Errorf("differs from %q in case alone", other))
		}
		if other, taken := st.byID[p.ID]; taken {
			return corrupt("principal", id, fmt.Errorf("has the unique id of %q", other))
		}
		p.ARN = s.arn(p.Name)
		if err := st.addUser(s, p); err != nil {
			return corrupt("principal", id, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for name, groups := range st.memberOf {
		if st.users[name] == nil {
			return nil, corrupt("group", groups[0], fmt.Errorf("its member %q does not exist", name))
		}
	}
	return st, s.loadAccessKeys(st)
}
