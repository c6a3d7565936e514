package host

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/mount"
)

func keyInfo(m keystore.Metadata) KeyInfo {
	k := KeyInfo{
		KeyID: m.KeyID, ARN: m.ARN, Aliases: m.Aliases, State: string(m.State), Manager: string(m.Manager),
		Description: m.Description, Created: timeOrNil(m.Created), DeletionDate: timeOrNil(m.DeletionDate), MaterialID: m.CurrentMaterialID,
		Origin: m.Origin, Expires: timeOrNil(m.ValidTo),
	}
	if k.Aliases == nil {
		k.Aliases = []string{}
	}
	return k
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// key turns what the command line takes, an alias included, into what the
// management operations of KMS take: a key ARN. They ask for the right
// themselves. Of an alias that leads nowhere the caller learns what DescribeKey
// would tell him.
func (c *call) key(ref string) (string, error) {
	if !strings.HasPrefix(ref, "alias/") && !strings.Contains(ref, ":alias/") {
		return ref, nil
	}
	arn, err := c.d.cfg.Keystore.Resolve(ref)
	if err == nil {
		return arn, nil
	}
	if _, told := c.d.cfg.Keystore.DescribeKey(c.keys(), ref); told != nil {
		return "", told
	}
	return "", err
}

// onKey does one management operation on a key.
func (c *call) onKey(ref string, do func(arn string) error) (any, error) {
	arn, err := c.key(ref)
	if err == nil {
		err = do(arn)
	}
	return c.done(arn, err)
}

// done is the result of a command that changed a key: what it is now, as far
// as the caller may see that.
func (c *call) done(arn string, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	k := KeyInfo{ARN: arn, KeyID: arn[strings.LastIndexByte(arn, '/')+1:], Aliases: []string{}}
	list, err := c.d.cfg.Keystore.DescribeKey(c.keys(), arn)
	if err == nil {
		k = keyInfo(list)
	}
	return k, nil
}

func (c *call) keyCreate(a KeyCreateArgs) (any, error) {
	in := keystore.CreateKeyInput{
		Description: a.Description, Admins: c.d.arns(a.Admins), Users: c.d.arns(a.Users), BypassLockout: a.Bypass,
		Tags: tagsOf(a.Tags),
	}
	if a.External {
		in.Origin = "EXTERNAL"
	}
	if a.Policy.Set {
		in.Policy = []byte(a.Policy.Text)
	}
	if a.Alias != "" {
		in.Alias = "alias/" + strings.TrimPrefix(a.Alias, "alias/")
	}
	for _, name := range append(a.Admins, a.Users...) {
		if strings.HasPrefix(name, "arn:") {
			continue
		}
		if _, err := c.d.cfg.Principals.Get(name); err != nil {
			return nil, err
		}
	}
	m, err := c.d.cfg.Keystore.CreateKey(c.keys(), in)
	if err != nil {
		return nil, err
	}
	return keyInfo(m), nil
}

func (c *call) keyList() (any, error) {
	list, err := c.d.cfg.Keystore.ListKeys(c.keys())
	if err != nil {
		return nil, err
	}
	out := make([]KeyInfo, 0, len(list))
	for _, m := range list {
		out = append(out, keyInfo(m))
	}
	return out, nil
}

func (c *call) keyShow(a KeyArgs) (any, error) {
	m, err := c.d.cfg.Keystore.DescribeKey(c.keys(), a.Key)
	if err != nil {
		return nil, err
	}
	k := keyInfo(m)
	if rotations, err := c.d.cfg.Keystore.ListKeyRotations(c.keys(), m.ARN, false); err == nil {
		k.Rotations = len(rotations)
	}
	return k, nil
}

func (c *call) keyEnable(a KeyArgs) (any, error) {
	return c.onKey(a.Key, func(arn string) error { return c.d.cfg.Keystore.EnableKey(c.keys(), arn) })
}

func (c *call) keyDisable(a KeyArgs) (any, error) {
	return c.onKey(a.Key, func(arn string) error { return c.d.cfg.Keystore.DisableKey(c.keys(), arn) })
}

func (c *call) keyRotate(a KeyArgs) (any, error) {
	return c.onKey(a.Key, func(arn string) error { return c.d.cfg.Keystore.RotateKeyOnDemand(c.keys(), arn) })
}

func (c *call) keyScheduleDeletion(a KeyDeletionArgs) (any, error) {
	if a.Days == 0 {
		a.Days = 30
	}
	var when time.Time
	out, err := c.onKey(a.Key, func(arn string) (err error) {
		if err := c.wouldLose(arn, a.Files); err != nil {
			return err
		}
		when, err = c.d.cfg.Keystore.ScheduleKeyDeletion(c.keys(), arn, a.Days)
		return err
	})
	if k, ok := out.(KeyInfo); ok && k.DeletionDate == nil {
		k.DeletionDate = &when
		return k, err
	}
	return out, err
}

// wouldLose compares the number of files that a key's loss takes with what
// the caller believes.
func (c *call) wouldLose(arn string, believed *int) error {
	if believed == nil {
		return nil
	}
	m, err := c.d.cfg.Keystore.DescribeKey(c.keys(), arn)
	if err != nil {
		return err
	}
	inodes, err := c.d.filesUnder(m.ARN)
	if err != nil {
		return err
	}
	if n := len(inodes) + len(c.d.cfg.Volume.Nameless(m.ARN)); n != *believed {
		return &hintedError{
			err:  fmt.Errorf("%d files would be lost with the key, not %d: nothing was done", n, *believed),
			hint: "kmsfs key files KEY lists them; kmsfs rekey --from KEY --to OTHER saves them",
		}
	}
	return nil
}

func (c *call) keyCancelDeletion(a KeyArgs) (any, error) {
	return c.onKey(a.Key, func(arn string) error { return c.d.cfg.Keystore.CancelKeyDeletion(c.keys(), arn) })
}

func (c *call) keyPolicy(a KeyPolicyArgs) (any, error) {
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	if a.Policy.Set {
		return nil, c.d.cfg.Keystore.PutKeyPolicy(c.keys(), arn, []byte(a.Policy.Text), a.Bypass)
	}
	text, err := c.d.cfg.Keystore.GetKeyPolicy(c.keys(), arn)
	if err != nil {
		return nil, err
	}
	return Document{Set: true, Text: string(text)}, nil
}

// keyFiles needs kms:DescribeKey on the key. Names that the caller may not
// see in their buckets are counted, because "none" would be a dangerous answer.
func (c *call) keyFiles(a KeyFilesArgs) (any, error) {
	m, err := c.d.cfg.Keystore.DescribeKey(c.keys(), a.Key)
	if err != nil {
		return nil, err
	}
	inodes, err := c.d.filesUnder(m.ARN)
	if err != nil {
		return nil, err
	}
	use := KeyUse{Files: len(inodes), Nameless: len(c.d.cfg.Volume.Nameless(m.ARN))}
	if a.Count {
		return use, nil
	}
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	last := KeyFile{Nameless: use.Nameless}
	for _, ino := range inodes {
		if err := c.ctx.Err(); err != nil {
			return nil, err
		}
		path, err := c.pathOf(s, ino)
		switch {
		case errors.Is(err, mount.ErrNotFound): // deleted meanwhile
			use.Files--
			continue
		case errors.Is(err, mount.ErrAccess):
			last.Hidden++
			continue
		case err != nil:
			return nil, err
		}
		if err := c.emit(KeyFile{Path: path, Ino: uint64(ino)}); err != nil {
			return nil, err
		}
	}
	if last.Hidden+last.Nameless > 0 {
		err = c.emit(last)
	}
	return use, err
}

// filesUnder are the files that a key's loss would take.
func (d *Daemon) filesUnder(arn string) ([]mount.Ino, error) {
	var inodes []mount.Ino
	err := d.cfg.Volume.KeyFiles(arn, func(ino mount.Ino) bool {
		inodes = append(inodes, ino)
		return true
	})
	return inodes, err
}

// pathOf is a name of an inode that the session may see. The volume gives the
// names, the session's right to look at the inode decides.
func (c *call) pathOf(s *mount.Session, ino mount.Ino) (string, error) {
	names, err := c.d.cfg.Volume.Names(ino)
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", mount.ErrNotFound
	}
	if _, err := s.GetAttr(c.caller(), ino); err != nil {
		return "", err
	}
	return names[0].Bucket + "/" + names[0].Key, nil
}

func (c *call) aliasCreate(a AliasArgs) (any, error) {
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	return nil, c.d.cfg.Keystore.CreateAlias(c.keys(), a.Name, arn)
}

func (c *call) aliasUpdate(a AliasArgs) (any, error) {
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	return nil, c.d.cfg.Keystore.UpdateAlias(c.keys(), a.Name, arn)
}

func (c *call) aliasDelete(a AliasArgs) (any, error) {
	return nil, c.d.cfg.Keystore.DeleteAlias(c.keys(), a.Name)
}

func (c *call) aliasList() (any, error) {
	list, err := c.d.cfg.Keystore.ListAliases(c.keys(), "")
	if err != nil {
		return nil, err
	}
	out := make([]AliasInfo, 0, len(list))
	for _, a := range list {
		out = append(out, AliasInfo{Name: a.Name, ARN: a.ARN, Key: a.TargetKeyID})
	}
	return out, nil
}

func (c *call) grantCreate(a GrantArgs) (any, error) {
	for _, name := range []string{a.Grantee, a.Retiring} {
		if name == "" || strings.HasPrefix(name, "arn:") {
			continue
		}
		if _, err := c.d.cfg.Principals.Get(name); err != nil {
			return nil, err
		}
	}
	in := keystore.CreateGrantInput{
		Grantee: c.d.arn(a.Grantee), Operations: a.Operations, Subset: a.Subset, Equals: a.Equals, Name: a.Name,
	}
	if a.Retiring != "" {
		in.Retiring = c.d.arn(a.Retiring)
	}
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	id, token, err := c.d.cfg.Keystore.CreateGrant(c.keys(), arn, in)
	if err != nil {
		return nil, err
	}
	return GrantInfo{
		ID: id, Name: in.Name, Key: arn, Grantee: in.Grantee, Retiring: in.Retiring, Operations: in.Operations, Subset: in.Subset, Equals: in.Equals,
		Token: token,
	}, nil
}

func (c *call) grantList(a KeyArgs) (any, error) {
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	list, err := c.d.cfg.Keystore.ListGrants(c.keys(), arn, "", "")
	if err != nil {
		return nil, err
	}
	out := make([]GrantInfo, 0, len(list))
	for _, g := range list {
		out = append(out, GrantInfo{
			ID: g.ID, Name: g.Name, Key: g.KeyARN, Grantee: g.Grantee, Retiring: g.Retiring,
			Operations: g.Operations, Subset: g.Subset, Equals: g.Equals,
		})
	}
	return out, nil
}

func (c *call) grantRevoke(a GrantRevokeArgs) (any, error) {
	if a.Grant == "" {
		return nil, fmt.Errorf("%w: no grant id", errArguments)
	}
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	return nil, c.d.cfg.Keystore.RevokeGrant(c.keys(), arn, a.Grant)
}
