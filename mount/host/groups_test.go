package host

import (
	"testing"
)

// TestAccessKeysByCommand: the secret is told once, keys are changed by who may, and a key is its principal's alone.
func TestAccessKeysByCommand(t *testing.T) {
	r := newRig(t, true)
	var made AccessKeyInfo
	r.must(uidOwner, CmdAccessKeyCreate, NameArgs{"alice"}, &made)
	if len(made.ID) != 20 || len(made.Secret) != 40 || made.Status != "Active" || made.User != "alice" {
		t.Errorf("made: %+v", made)
	}
	var list []AccessKeyInfo
	r.must(uidOwner, CmdAccessKeyList, NameArgs{"alice"}, &list)
	if len(list) != 1 || list[0].ID != made.ID || list[0].Secret != "" {
		t.Errorf("listed: %+v", list)
	}
	for _, command := range []string{CmdAccessKeyActivate, CmdAccessKeyDelete} {
		for _, uid := range []uint32{uidAlice, uidBob, uidPower, uidAuditor} {
			if _, resp := r.do(uid, "", command, AccessKeyArgs{Name: "alice", ID: made.ID}); resp.Error == nil || resp.Error.Code != denied {
				t.Errorf("%s by uid %d: %+v", command, uid, resp.Error)
			}
		}
		if _, resp := r.do(uidOwner, "", command, AccessKeyArgs{Name: "bob", ID: made.ID}); resp.Error == nil || resp.Error.Code != "NoSuchEntity" {
			t.Errorf("%s of another's key: %+v", command, resp.Error)
		}
	}
	r.must(uidOwner, CmdAccessKeyActivate, AccessKeyArgs{Name: "alice", ID: made.ID}, nil)
	list = nil
	r.must(uidOwner, CmdAccessKeyList, NameArgs{"alice"}, &list)
	if list[0].Status != "Inactive" {
		t.Errorf("deactivated: %+v", list)
	}
	r.must(uidOwner, CmdAccessKeyDelete, AccessKeyArgs{Name: "alice", ID: made.ID}, nil)
}

// TestGroupPolicyCounts: what a group allows its members may, at once and no longer than they are members; a boundary
// is stronger.
func TestGroupPolicyCounts(t *testing.T) {
	r := newRig(t, true)
	refused := func(what string) {
		t.Helper()
		if _, resp := r.do(uidBob, "", CmdBucketList, NoArgs{}); resp.Error == nil {
			t.Errorf("%s: bob lists buckets", what)
		}
	}
	refused("before")
	r.must(uidOwner, CmdGroupCreate, GroupCreateArgs{Name: "staff", Policies: []PolicyArg{{Name: "AmazonS3ReadOnlyAccess"}}}, nil)
	refused("not a member")
	r.must(uidOwner, CmdGroupAdd, GroupMemberArgs{"staff", "bob"}, nil)
	r.must(uidBob, CmdBucketList, NoArgs{}, nil)
	var p PrincipalInfo
	r.must(uidOwner, CmdPrincipalShow, NameArgs{"bob"}, &p)
	if len(p.Groups) != 1 || p.Groups[0] != "staff" {
		t.Errorf("bob's groups: %v", p.Groups)
	}
	r.must(uidOwner, CmdPrincipalBoundary, BoundaryArgs{Name: "bob", Policy: PolicyArg{Name: "AWSKeyManagementServicePowerUser"}}, nil)
	refused("beyond the boundary")
	r.must(uidOwner, CmdPrincipalBoundary, BoundaryArgs{Name: "bob", Remove: true}, nil)
	r.must(uidBob, CmdBucketList, NoArgs{}, nil)
	r.must(uidOwner, CmdGroupRemove, GroupMemberArgs{"staff", "bob"}, nil)
	refused("no longer a member")
}
