package host

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// keyActions are the operations that policy diff compares: use of the key, as
// the file system uses it, and its management.
var (
	useActions    = []string{"kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo"}
	manageActions = []string{
		"kms:CancelKeyDeletion", "kms:CreateGrant", "kms:DescribeKey", "kms:DisableKey", "kms:EnableKey", "kms:EnableKeyRotation",
		"kms:GetKeyPolicy", "kms:ListGrants", "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:RotateKeyOnDemand", "kms:ScheduleKeyDeletion",
		"kms:TagResource", "kms:UpdateKeyDescription",
	}
)

// policyDiff needs the right to read the key's policy and to list users. Every
// principal of the store is asked about, and every file under the key with its
// own encryption context; grants count, the key's state does not.
func (c *call) policyDiff(a PolicyDiffArgs) (any, error) {
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	if err := c.allowed("iam:ListUsers", "arn:aws:iam::"+c.d.cfg.Info.Account+":user/", nil); err != nil {
		return nil, err
	}
	w, err := c.d.cfg.Keystore.WhatIf(c.keys(), arn, []byte(a.Text))
	if err != nil {
		return nil, err
	}
	files, err := c.sealedUnder(w.KeyARN())
	if err != nil {
		return nil, err
	}
	out := PolicyDiff{Key: w.KeyARN(), Changes: []PolicyChange{}, Access: []FileAccess{}, Files: len(files)}
	for _, p := range c.d.cfg.Principals.List() {
		who, err := c.d.cfg.Principals.Identity(p.Name)
		if err != nil {
			continue // deleted just now
		}
		out.Changes = append(out.Changes, rightsOf(w, who)...)
		access, err := c.accessOf(w, p.Name, who, files)
		if err != nil {
			return nil, err
		}
		if access.Gained+access.Lost > 0 {
			out.Access = append(out.Access, access)
		}
	}
	return out, nil
}

func rightsOf(w *keystore.WhatIf, who *policy.Identity) (out []PolicyChange) {
	for _, action := range slices.Sorted(slices.Values(slices.Concat(useActions, manageActions))) {
		var ctx crypto.Context
		if slices.Contains(useActions, action) {
			ctx = crypto.Context{}
		}
		now, then := w.Decide(&keystore.Call{Who: who, ViaS3: ctx != nil}, action, ctx)
		if now.Allowed() != then.Allowed() {
			out = append(out, PolicyChange{Principal: who.Name, Action: action, Now: then.Allowed(), Reason: then.Reason()})
		}
	}
	return out
}

// sealedFile is a file under a key.
type sealedFile struct {
	ino mount.Ino
	ctx crypto.Context
}

func (c *call) sealedUnder(arn string) ([]sealedFile, error) {
	inodes, err := c.d.filesUnder(arn)
	if err != nil {
		return nil, err
	}
	out := make([]sealedFile, 0, len(inodes))
	for _, ino := range inodes {
		s, err := c.d.cfg.Volume.Sealing(ino)
		if errors.Is(err, mount.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if s.Method == fs.SSEKMS {
			out = append(out, sealedFile{ino, s.Context})
		}
	}
	return out, nil
}

// accessOf counts the files that a principal can read, now and then.
func (c *call) accessOf(w *keystore.WhatIf, name string, who *policy.Identity, files []sealedFile) (FileAccess, error) {
	a := FileAccess{Principal: name}
	s, err := c.d.session(name, mount.Options{})
	if err != nil {
		return a, err
	}
	defer func() { _ = s.Close() }() // it has no handles
	for i, f := range files {
		if i%1024 == 0 && c.ctx.Err() != nil {
			return a, c.ctx.Err()
		}
		now, then := w.Decide(&keystore.Call{Who: who, ViaS3: true}, "kms:Decrypt", f.ctx)
		if !now.Allowed() && !then.Allowed() || s.MayGet(f.ino) != nil {
			continue
		}
		if now.Allowed() {
			a.Before++
		}
		switch {
		case now.Allowed() && !then.Allowed():
			a.Lost++
		case !now.Allowed():
			a.Gained++
		}
	}
	return a, nil
}

// policyCheck looks for mistakes in a document before it is put. Whether the
// principals that it names exist is told to who may list them.
func (c *call) policyCheck(a PolicyCheckArgs) (any, error) {
	kind, ok := PolicyKinds()[a.Kind]
	if !ok {
		return nil, fmt.Errorf("%w: kind of policy %.32q", errArguments, a.Kind)
	}
	if err := c.allowed("iam:ListUsers", "arn:aws:iam::"+c.d.cfg.Info.Account+":user/", nil); err != nil {
		return nil, err
	}
	found, err := policy.Check(kind, []byte(a.Text))
	if err != nil {
		return nil, err
	}
	doc, err := policy.Parse(kind, []byte(a.Text))
	if err != nil {
		return nil, err
	}
	people := c.d.cfg.Principals
	for _, p := range doc.Principals() {
		if _, ok := policy.BindPrincipal(c.d.cfg.Info.Account, people, p); !ok {
			found = append(found, policy.Finding{Level: policy.LevelError, Problem: "there is no principal " + p})
		}
	}
	if kind == policy.KeyPolicy {
		if f := c.lockedOut(doc, a.Key); f != nil {
			found = append(found, *f)
		}
	}
	if found == nil {
		found = []policy.Finding{}
	}
	return PolicyCheckResult{OK: len(found) == 0, Kind: a.Kind, Findings: found, Store: true}, nil
}

// lockedOut asks whether the caller, or at least somebody, could change a key
// policy again. A document with principals that do not exist says nothing.
func (c *call) lockedOut(doc *policy.Document, ref string) *policy.Finding {
	arn := "arn:aws:kms:" + c.d.cfg.Info.Region + ":" + c.d.cfg.Info.Account + ":key/00000000-0000-0000-0000-000000000000"
	if ref != "" {
		if got, err := c.d.cfg.Keystore.Resolve(ref); err == nil {
			arn = got
		}
	}
	if policy.LockoutCheck(c.who, doc, arn) == nil {
		return nil
	}
	for _, p := range c.d.cfg.Principals.List() {
		who, err := c.d.cfg.Principals.Identity(p.Name)
		if err == nil && policy.LockoutCheck(who, doc, arn) == nil {
			return &policy.Finding{
				Level:   policy.LevelError,
				Problem: fmt.Sprintf("lockout: it does not let %s put another policy, only others such as %s; it would be refused", c.as, p.Name),
			}
		}
	}
	return &policy.Finding{Level: policy.LevelError, Problem: "lockout: it lets none of the store's principals put another policy"}
}
