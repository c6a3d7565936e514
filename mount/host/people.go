package host

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kmsfs/kmsfs/principals"
	"github.com/kmsfs/kmsfs/principals/policy"
)

const managedPolicy = "arn:aws:iam::aws:policy/"

func principalInfo(p principals.Principal) PrincipalInfo {
	info := PrincipalInfo{Name: p.Name, ID: p.ID, ARN: p.ARN, UIDs: p.UIDs, Policies: p.Policies, Boundary: p.Boundary, Created: p.Created}
	if info.UIDs == nil {
		info.UIDs = []uint32{}
	}
	if info.Policies == nil {
		info.Policies = []string{}
	}
	return info
}

// policyARN is the key iam:PolicyARN, by which AWS lets one limit what may be attached.
func (c *call) policyARN(name string) string {
	if c.d.cfg.Principals.BuiltIn(name) {
		return managedPolicy + name
	}
	return "arn:aws:iam::" + c.d.cfg.Info.Account + ":policy/" + name
}

// mayAttach asks for what attaching, and storing first, amounts to. A document
// under a name that exists already changes the rights of everyone who holds it.
func (c *call) mayAttach(user string, p PolicyArg) error {
	if p.Text.Set {
		action := "CreatePolicy"
		if _, exists := c.d.cfg.Principals.Policy(p.Name); exists {
			action = "CreatePolicyVersion"
		}
		if err := c.iam(action, "policy", p.Name); err != nil {
			return err
		}
	}
	return c.attachment("iam:AttachUserPolicy", user, p.Name)
}

func (c *call) attachment(action, user, policyName string) error {
	keys := policy.MapKeys{}
	keys.Add("iam:PolicyARN", c.policyARN(policyName))
	return c.allowed(action, c.d.arn(user), keys)
}

// store puts the documents of policies that came with one.
func (c *call) store(list []PolicyArg) error {
	for _, p := range list {
		if !p.Text.Set {
			continue
		}
		if err := c.d.cfg.Principals.PutPolicy(p.Name, []byte(p.Text.Text)); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) principalCreate(a PrincipalCreateArgs) (any, error) {
	if err := c.iam("CreateUser", "user", a.Name); err != nil {
		return nil, err
	}
	var names []string
	for _, p := range a.Policies {
		if err := c.mayAttach(a.Name, p); err != nil {
			return nil, err
		}
		names = append(names, p.Name)
	}
	// What can be refused is refused before anything is stored.
	if _, err := c.d.cfg.Principals.Get(a.Name); err == nil {
		return nil, fmt.Errorf("principal %q: %w", a.Name, principals.ErrExists)
	}
	for _, p := range a.Policies {
		if !p.Text.Set {
			continue
		}
		if _, err := policy.Parse(policy.IdentityPolicy, []byte(p.Text.Text)); err != nil {
			return nil, fmt.Errorf("policy %q: %w", p.Name, err)
		}
	}
	if err := c.store(a.Policies); err != nil {
		return nil, err
	}
	made, err := c.d.cfg.Principals.Create(a.Name, a.UIDs, names)
	if err != nil {
		return nil, err
	}
	return principalInfo(made), nil
}

func (c *call) principalList() (any, error) {
	if err := c.allowed("iam:ListUsers", "arn:aws:iam::"+c.d.cfg.Info.Account+":user/", nil); err != nil {
		return nil, err
	}
	out := []PrincipalInfo{}
	for _, p := range c.d.cfg.Principals.List() {
		out = append(out, principalInfo(p))
	}
	return out, nil
}

// principalShow: everybody may look at himself.
func (c *call) principalShow(a NameArgs) (any, error) {
	if a.Name != c.as {
		if err := c.iam("GetUser", "user", a.Name); err != nil {
			return nil, err
		}
	}
	p, err := c.d.cfg.Principals.Get(a.Name)
	if err != nil {
		return nil, err
	}
	info := principalInfo(p)
	info.Groups = c.d.cfg.Principals.GroupsOf(p.Name)
	for _, name := range p.Policies {
		text, ok := c.d.cfg.Principals.Policy(name)
		if !ok || c.d.cfg.Principals.BuiltIn(name) || !json.Valid(text) {
			continue
		}
		if info.Documents == nil {
			info.Documents = map[string]json.RawMessage{}
		}
		info.Documents[name] = text
	}
	return info, nil
}

func (c *call) principalDelete(a NameArgs) (any, error) {
	if err := c.iam("DeleteUser", "user", a.Name); err != nil {
		return nil, err
	}
	return nil, c.d.cfg.Principals.Delete(a.Name)
}

func (c *call) principalAttach(a PrincipalPolicyArgs) (any, error) {
	if err := c.mayAttach(a.Name, a.Policy); err != nil {
		return nil, err
	}
	if _, err := c.d.cfg.Principals.Get(a.Name); err != nil {
		return nil, err
	}
	if err := c.store([]PolicyArg{a.Policy}); err != nil {
		return nil, err
	}
	return c.after(a.Name, c.d.cfg.Principals.Attach(a.Name, a.Policy.Name))
}

// principalDetach takes a policy off; a stored document stays for others.
func (c *call) principalDetach(a PrincipalPolicyArgs) (any, error) {
	if err := c.attachment("iam:DetachUserPolicy", a.Name, a.Policy.Name); err != nil {
		return nil, err
	}
	return c.after(a.Name, c.d.cfg.Principals.Detach(a.Name, a.Policy.Name))
}

func (c *call) after(name string, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	p, err := c.d.cfg.Principals.Get(name)
	if errors.Is(err, principals.ErrNotFound) {
		return nil, nil
	}
	return principalInfo(p), err
}
