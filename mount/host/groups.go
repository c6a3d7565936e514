package host

import (
	"time"

	"github.com/kmsfs/kmsfs/principals"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// The commands about groups, permissions boundaries and access keys.
const (
	CmdGroupCreate = "group.create"
	CmdGroupDelete = "group.delete"
	CmdGroupList   = "group.list"
	CmdGroupShow   = "group.show"
	CmdGroupAdd    = "group.add"
	CmdGroupRemove = "group.remove"
	CmdGroupAttach = "group.attach"
	CmdGroupDetach = "group.detach"

	CmdPrincipalBoundary = "principal.boundary"

	CmdAccessKeyCreate   = "access-key.create"
	CmdAccessKeyList     = "access-key.list"
	CmdAccessKeyDelete   = "access-key.delete"
	CmdAccessKeyActivate = "access-key.activate"
)

// GroupCreateArgs make a group.
type GroupCreateArgs struct {
	Name     string      `json:"name"`
	Policies []PolicyArg `json:"policies,omitempty"`
}

// GroupMemberArgs put a principal into a group or take him out.
type GroupMemberArgs struct {
	Name      string `json:"name"`
	Principal string `json:"principal"`
}

// GroupPolicyArgs attach a policy to a group or detach it.
type GroupPolicyArgs struct {
	Name   string    `json:"name"`
	Policy PolicyArg `json:"policy"`
}

// GroupInfo describes a group.
type GroupInfo struct {
	Name     string    `json:"name"`
	ID       string    `json:"id"`
	ARN      string    `json:"arn"`
	Members  []string  `json:"members"`
	Policies []string  `json:"policies"`
	Created  time.Time `json:"created"`
}

// BoundaryArgs set a principal's permissions boundary, or take it away.
type BoundaryArgs struct {
	Name   string    `json:"name"`
	Policy PolicyArg `json:"policy"`
	Remove bool      `json:"remove,omitempty"`
}

// AccessKeyArgs name an access key of a principal. Active is for activate alone.
type AccessKeyArgs struct {
	Name   string `json:"name"`
	ID     string `json:"id"`
	Active bool   `json:"active,omitempty"`
}

// AccessKeyInfo describes an access key in AWS's words. The secret is there
// only in the answer that made it.
type AccessKeyInfo struct {
	User    string    `json:"UserName"`
	ID      string    `json:"AccessKeyId"`
	Status  string    `json:"Status"`
	Secret  string    `json:"SecretAccessKey,omitempty"`
	Created time.Time `json:"CreateDate"`
}

// groupCommands is the part of the table of commands that is done here.
func groupCommands() map[string]command {
	return map[string]command{
		CmdGroupCreate: {asPrincipal, with((*call).groupCreate)},
		CmdGroupDelete: {asPrincipal, with((*call).groupDelete)},
		CmdGroupList:   {asPrincipal, noArgs((*call).groupList)},
		CmdGroupShow:   {asPrincipal, with((*call).groupShow)},
		CmdGroupAdd:    {asPrincipal, with((*call).groupAdd)},
		CmdGroupRemove: {asPrincipal, with((*call).groupRemove)},
		CmdGroupAttach: {asPrincipal, with((*call).groupAttach)},
		CmdGroupDetach: {asPrincipal, with((*call).groupDetach)},

		CmdPrincipalBoundary: {asPrincipal, with((*call).principalBoundary)},

		CmdAccessKeyCreate:   {asPrincipal, with((*call).accessKeyCreate)},
		CmdAccessKeyList:     {asPrincipal, with((*call).accessKeyList)},
		CmdAccessKeyDelete:   {asPrincipal, with((*call).accessKeyDelete)},
		CmdAccessKeyActivate: {asPrincipal, with((*call).accessKeyActivate)},
	}
}

func groupInfo(g principals.Group) GroupInfo {
	return GroupInfo{
		Name: g.Name, ID: g.ID, ARN: g.ARN, Created: g.Created,
		Members: append([]string{}, g.Members...), Policies: append([]string{}, g.Policies...),
	}
}

func (c *call) afterGroup(name string, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	g, err := c.d.cfg.Principals.Group(name)
	if err != nil {
		return nil, err
	}
	return groupInfo(g), nil
}

// mayStore asks for the right to store a policy that came with its document.
func (c *call) mayStore(p PolicyArg) error {
	if !p.Text.Set {
		return nil
	}
	action := "CreatePolicy"
	if _, exists := c.d.cfg.Principals.Policy(p.Name); exists {
		action = "CreatePolicyVersion"
	}
	return c.iam(action, "policy", p.Name)
}

// mayAttachGroup is mayAttach for a group.
func (c *call) mayAttachGroup(action, group string, p PolicyArg) error {
	if err := c.mayStore(p); err != nil {
		return err
	}
	keys := policy.MapKeys{}
	keys.Add("iam:PolicyARN", c.policyARN(p.Name))
	return c.allowed("iam:"+action, "arn:aws:iam::"+c.d.cfg.Info.Account+":group/"+group, keys)
}

func (c *call) groupCreate(a GroupCreateArgs) (any, error) {
	if err := c.iam("CreateGroup", "group", a.Name); err != nil {
		return nil, err
	}
	var names []string
	for _, p := range a.Policies {
		if err := c.mayAttachGroup("AttachGroupPolicy", a.Name, p); err != nil {
			return nil, err
		}
		names = append(names, p.Name)
	}
	if err := c.store(a.Policies); err != nil {
		return nil, err
	}
	g, err := c.d.cfg.Principals.CreateGroup(a.Name, names)
	if err != nil {
		return nil, err
	}
	return groupInfo(g), nil
}

func (c *call) groupDelete(a NameArgs) (any, error) {
	if err := c.iam("DeleteGroup", "group", a.Name); err != nil {
		return nil, err
	}
	return nil, c.d.cfg.Principals.DeleteGroup(a.Name)
}

func (c *call) groupList() (any, error) {
	if err := c.allowed("iam:ListGroups", "arn:aws:iam::"+c.d.cfg.Info.Account+":group/", nil); err != nil {
		return nil, err
	}
	out := []GroupInfo{}
	for _, g := range c.d.cfg.Principals.Groups() {
		out = append(out, groupInfo(g))
	}
	return out, nil
}

func (c *call) groupShow(a NameArgs) (any, error) {
	return c.afterGroup(a.Name, c.iam("GetGroup", "group", a.Name))
}

func (c *call) groupAdd(a GroupMemberArgs) (any, error) {
	if err := c.iam("AddUserToGroup", "group", a.Name); err != nil {
		return nil, err
	}
	return c.afterGroup(a.Name, c.d.cfg.Principals.AddMember(a.Name, a.Principal))
}

func (c *call) groupRemove(a GroupMemberArgs) (any, error) {
	if err := c.iam("RemoveUserFromGroup", "group", a.Name); err != nil {
		return nil, err
	}
	return c.afterGroup(a.Name, c.d.cfg.Principals.RemoveMember(a.Name, a.Principal))
}

func (c *call) groupAttach(a GroupPolicyArgs) (any, error) {
	if err := c.mayAttachGroup("AttachGroupPolicy", a.Name, a.Policy); err != nil {
		return nil, err
	}
	if _, err := c.d.cfg.Principals.Group(a.Name); err != nil {
		return nil, err
	}
	if err := c.store([]PolicyArg{a.Policy}); err != nil {
		return nil, err
	}
	return c.afterGroup(a.Name, c.d.cfg.Principals.AttachGroup(a.Name, a.Policy.Name))
}

func (c *call) groupDetach(a GroupPolicyArgs) (any, error) {
	if err := c.mayAttachGroup("DetachGroupPolicy", a.Name, PolicyArg{Name: a.Policy.Name}); err != nil {
		return nil, err
	}
	return c.afterGroup(a.Name, c.d.cfg.Principals.DetachGroup(a.Name, a.Policy.Name))
}

// principalBoundary sets or removes a permissions boundary.
func (c *call) principalBoundary(a BoundaryArgs) (any, error) {
	if a.Remove {
		if err := c.iam("DeleteUserPermissionsBoundary", "user", a.Name); err != nil {
			return nil, err
		}
		return c.after(a.Name, c.d.cfg.Principals.RemoveBoundary(a.Name))
	}
	if err := c.mayStore(a.Policy); err != nil {
		return nil, err
	}
	keys := policy.MapKeys{}
	keys.Add("iam:PermissionsBoundary", c.policyARN(a.Policy.Name))
	if err := c.allowed("iam:PutUserPermissionsBoundary", c.d.arn(a.Name), keys); err != nil {
		return nil, err
	}
	if _, err := c.d.cfg.Principals.Get(a.Name); err != nil {
		return nil, err
	}
	if err := c.store([]PolicyArg{a.Policy}); err != nil {
		return nil, err
	}
	return c.after(a.Name, c.d.cfg.Principals.SetBoundary(a.Name, a.Policy.Name))
}

func accessKeyInfo(k principals.AccessKey) AccessKeyInfo {
	info := AccessKeyInfo{User: k.User, ID: k.ID, Status: "Inactive", Created: k.Created}
	if k.Active {
		info.Status = "Active"
	}
	return info
}

func (c *call) accessKeyCreate(a NameArgs) (any, error) {
	if err := c.iam("CreateAccessKey", "user", a.Name); err != nil {
		return nil, err
	}
	k, secret, err := c.d.cfg.Principals.CreateAccessKey(a.Name)
	if err != nil {
		return nil, err
	}
	info := accessKeyInfo(k)
	info.Secret = secret.Expose()
	return info, nil
}

func (c *call) accessKeyList(a NameArgs) (any, error) {
	if err := c.iam("ListAccessKeys", "user", a.Name); err != nil {
		return nil, err
	}
	keys, err := c.d.cfg.Principals.AccessKeys(a.Name)
	if err != nil {
		return nil, err
	}
	out := make([]AccessKeyInfo, 0, len(keys))
	for _, k := range keys {
		out = append(out, accessKeyInfo(k))
	}
	return out, nil
}

func (c *call) accessKeyDelete(a AccessKeyArgs) (any, error) {
	if err := c.iam("DeleteAccessKey", "user", a.Name); err != nil {
		return nil, err
	}
	return nil, c.d.cfg.Principals.DeleteAccessKey(a.Name, a.ID)
}

func (c *call) accessKeyActivate(a AccessKeyArgs) (any, error) {
	if err := c.iam("UpdateAccessKey", "user", a.Name); err != nil {
		return nil, err
	}
	return nil, c.d.cfg.Principals.ActivateAccessKey(a.Name, a.ID, a.Active)
}
