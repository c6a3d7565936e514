package principals

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Administrator is the built-in policy that somebody must always hold.
const Administrator = "AdministratorAccess"

const (
	maxUserName   = 64
	maxPolicyName = 128
)

// checkName enforces IAM's rule for names.
func checkName(what, name string, limit int) error {
	ok := name != "" && len(name) <= limit
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_+=,.@-", c) >= 0
	}
	if !ok {
		shown := name
		if len(shown) > 80 {
			shown = shown[:80]
		}
		return fmt.Errorf("%s %q: %w: it must have 1 to %d letters, digits or characters of _+=,.@-", what, shown, ErrInvalidName, limit)
	}
	return nil
}

func checkUID(uid uint32) error {
	if uid == math.MaxUint32 {
		return fmt.Errorf("uid %d: %w: it stands for \"no user\"", uid, ErrInvalidUID)
	}
	return nil
}

// newID draws a unique id: a prefix (AIDA for users, AGPA for groups) and 17 characters, 85 random bits.
func newID(prefix string) string {
	var b [11]byte
	_, _ = rand.Read(b[:]) // never fails: the runtime aborts instead
	return prefix + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:])[:17]
}

// Create makes a user. uids and policies may be empty; doubles count once.
// ErrInvalidName, ErrExists (also for a name that differs in case alone),
// ErrInvalidUID, ErrPolicyNotFound, ErrLimit.
func (s *Store) Create(name string, uids []uint32, policies []string) (Principal, error) {
	var made Principal
	err := s.change(func(c *change) error {
		if err := checkName("principal", name, maxUserName); err != nil {
			return err
		}
		if other, taken := c.st.folded[strings.ToLower(name)]; taken {
			return fmt.Errorf("principal %q: %w by %q", name, ErrExists, other)
		}
		if len(c.st.users) >= MaxUsers {
			return fmt.Errorf("principal %q: %w: a store holds at most %d principals", name, ErrLimit, MaxUsers)
		}
		p := Principal{Name: name, ID: newID("AIDA"), ARN: s.arn(name), Created: s.clock().UTC().Truncate(time.Second)}
		for _, uid := range uids {
			if err := p.bind(uid); err != nil {
				return err
			}
		}
		for _, policy := range policies {
			if err := p.attach(policy); err != nil {
				return err
			}
		}
		made = p.clone()
		return c.putUser(p)
	})
	if err != nil {
		return Principal{}, fmt.Errorf("create principal: %w", err)
	}
	return made, nil
}

// Delete removes a user, its bindings, access keys and memberships. ErrNotFound, ErrLastAdministrator.
func (s *Store) Delete(name string) error {
	err := s.change(func(c *change) error {
		p, err := c.user(name)
		if err != nil {
			return err
		}
		return c.deleteUser(p)
	})
	return wrap("delete principal", err)
}

// Attach attaches a policy, and does nothing if it is attached already.
// ErrNotFound, ErrPolicyNotFound, ErrLimit.
func (s *Store) Attach(name, policy string) error {
	return wrap("attach policy", s.edit(name, func(_ *change, p *Principal) error { return p.attach(policy) }))
}

// Detach takes a policy off. ErrNotFound, ErrNotAttached, ErrLastAdministrator.
func (s *Store) Detach(name, policy string) error {
	return wrap("detach policy", s.edit(name, func(_ *change, p *Principal) error {
		i := slices.Index(p.Policies, policy)
		if i < 0 {
			return fmt.Errorf("principal %q, policy %q: %w", name, policy, ErrNotAttached)
		}
		p.Policies = slices.Delete(p.Policies, i, i+1)
		return nil
	}))
}

// BindUID lets an OS uid act as the principal, and does nothing if it may
// already. A uid may be bound to several principals. ErrNotFound, ErrInvalidUID, ErrLimit.
func (s *Store) BindUID(name string, uid uint32) error {
	return wrap("bind uid", s.edit(name, func(_ *change, p *Principal) error { return p.bind(uid) }))
}

// UnbindUID takes a uid off. ErrNotFound, ErrNotBound.
func (s *Store) UnbindUID(name string, uid uint32) error {
	return wrap("unbind uid", s.edit(name, func(_ *change, p *Principal) error {
		i, bound := slices.BinarySearch(p.UIDs, uid)
		if !bound {
			return fmt.Errorf("principal %q, uid %d: %w", name, uid, ErrNotBound)
		}
		p.UIDs = slices.Delete(p.UIDs, i, i+1)
		return nil
	}))
}

// edit changes one user. Nothing is written if fn changes nothing.
func (s *Store) edit(name string, fn func(c *change, p *Principal) error) error {
	return s.change(func(c *change) error {
		p, err := c.user(name)
		if err != nil {
			return err
		}
		uids, policies, boundary := len(p.UIDs), len(p.Policies), p.Boundary
		if err := fn(c, &p); err != nil {
			return err
		}
		if len(p.UIDs) == uids && len(p.Policies) == policies && p.Boundary == boundary {
			return nil
		}
		return c.putUser(p)
	})
}

func (p *Principal) bind(uid uint32) error {
	if err := checkUID(uid); err != nil {
		return err
	}
	i, bound := slices.BinarySearch(p.UIDs, uid)
	if bound {
		return nil
	}
	if len(p.UIDs) >= MaxUIDs {
		return fmt.Errorf("principal %q: %w: at most %d uids", p.Name, ErrLimit, MaxUIDs)
	}
	p.UIDs = slices.Insert(p.UIDs, i, uid)
	return nil
}

func (p *Principal) attach(policy string) error {
	if slices.Contains(p.Policies, policy) {
		return nil
	}
	if len(p.Policies) >= MaxAttachments {
		return fmt.Errorf("principal %q: %w: at most %d attached policies", p.Name, ErrLimit, MaxAttachments)
	}
	p.Policies = append(p.Policies, policy)
	return nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
