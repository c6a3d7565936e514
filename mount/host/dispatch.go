package host

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// call is one command under way: who gives it, as whom, and where items go.
type call struct {
	d    *Daemon
	ctx  context.Context
	peer control.Peer
	name string           // the command
	as   string           // principal; "" for commands that need none
	who  *policy.Identity // his identity when the call began
	emit control.Emit
}

// command is a row of the table: who may call, and what is done.
type command struct {
	gate gate
	run  func(*call, json.RawMessage) (any, error)
}

// gate says what is asked of the caller before a command runs.
type gate uint8

const (
	asPrincipal gate = iota // he acts as a principal, whose rights the command asks for
	ownerOnly               // root or the store's owner
	anyone                  // whoever reaches the socket; the command looks further
)

// commands is the table of everything that Dispatch does.
func (d *Daemon) commands() map[string]command {
	table := groupCommands()
	maps.Copy(table, careCommands())
	maps.Copy(table, map[string]command{
		CmdStatus: {anyone, noArgs((*call).status)},
		CmdStop:   {ownerOnly, noArgs((*call).stop)},
		CmdMount:  {anyone, with((*call).mount)},
		CmdUmount: {anyone, with((*call).umount)},

		CmdUnlockAdd:    {ownerOnly, with((*call).unlockAdd)},
		CmdUnlockRemove: {ownerOnly, with((*call).unlockRemove)},

		CmdBucketCreate:     {asPrincipal, with((*call).bucketCreate)},
		CmdBucketList:       {asPrincipal, noArgs((*call).bucketList)},
		CmdBucketShow:       {asPrincipal, with((*call).bucketShow)},
		CmdBucketDelete:     {asPrincipal, with((*call).bucketDelete)},
		CmdBucketEncryption: {asPrincipal, with((*call).bucketEncryption)},
		CmdBucketPolicy:     {asPrincipal, with((*call).bucketPolicy)},

		CmdKeyCreate:           {asPrincipal, with((*call).keyCreate)},
		CmdKeyList:             {asPrincipal, noArgs((*call).keyList)},
		CmdKeyShow:             {asPrincipal, with((*call).keyShow)},
		CmdKeyEnable:           {asPrincipal, with((*call).keyEnable)},
		CmdKeyDisable:          {asPrincipal, with((*call).keyDisable)},
		CmdKeyRotate:           {asPrincipal, with((*call).keyRotate)},
		CmdKeyScheduleDeletion: {asPrincipal, with((*call).keyScheduleDeletion)},
		CmdKeyCancelDeletion:   {asPrincipal, with((*call).keyCancelDeletion)},
		CmdKeyPolicy:           {asPrincipal, with((*call).keyPolicy)},
		CmdKeyFiles:            {asPrincipal, with((*call).keyFiles)},
		CmdKeyExport:           {asPrincipal, with((*call).keyExport)},
		CmdKeyImport:           {asPrincipal, with((*call).keyImport)},
		CmdKeyRotation:         {asPrincipal, with((*call).keyRotation)},
		CmdKeyDescribe:         {asPrincipal, with((*call).keyDescribe)},
		CmdKeyTags:             {asPrincipal, with((*call).keyTags)},
		CmdKeyImportParameters: {asPrincipal, with((*call).keyImportParameters)},
		CmdKeyImportMaterial:   {asPrincipal, with((*call).keyImportMaterial)},
		CmdKeyDeleteMaterial:   {asPrincipal, with((*call).keyDeleteMaterial)},

		CmdAliasCreate: {asPrincipal, with((*call).aliasCreate)},
		CmdAliasUpdate: {asPrincipal, with((*call).aliasUpdate)},
		CmdAliasDelete: {asPrincipal, with((*call).aliasDelete)},
		CmdAliasList:   {asPrincipal, noArgs((*call).aliasList)},

		CmdGrantCreate: {asPrincipal, with((*call).grantCreate)},
		CmdGrantList:   {asPrincipal, with((*call).grantList)},
		CmdGrantRevoke: {asPrincipal, with((*call).grantRevoke)},
		CmdGrantRetire: {asPrincipal, with((*call).grantRetire)},

		CmdRekey: {asPrincipal, with((*call).rekey)},

		CmdPrincipalCreate: {asPrincipal, with((*call).principalCreate)},
		CmdPrincipalList:   {asPrincipal, noArgs((*call).principalList)},
		CmdPrincipalShow:   {asPrincipal, with((*call).principalShow)},
		CmdPrincipalDelete: {asPrincipal, with((*call).principalDelete)},
		CmdPrincipalAttach: {asPrincipal, with((*call).principalAttach)},
		CmdPrincipalDetach: {asPrincipal, with((*call).principalDetach)},

		CmdPolicyDiff:  {asPrincipal, with((*call).policyDiff)},
		CmdPolicyCheck: {asPrincipal, with((*call).policyCheck)},
		CmdWhy:         {asPrincipal, with((*call).why)},
		CmdStat:        {asPrincipal, with((*call).stat)},

		CmdAuditQuery:  {asPrincipal, with((*call).auditQuery)},
		CmdAuditTail:   {asPrincipal, with((*call).auditTail)},
		CmdAuditVerify: {asPrincipal, noArgs((*call).auditVerify)},
		CmdAuditKeep:   {asPrincipal, with((*call).auditKeep)},
	})
	return table
}

// with decodes the arguments strictly before run sees them.
func with[A any](run func(*call, A) (any, error)) func(*call, json.RawMessage) (any, error) {
	return func(c *call, raw json.RawMessage) (any, error) {
		var args A
		if len(raw) > 0 {
			dec := json.NewDecoder(bytes.NewReader(raw))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&args); err != nil {
				return nil, fmt.Errorf("%w: %w", errArguments, err)
			}
			if _, err := dec.Token(); err != io.EOF {
				return nil, fmt.Errorf("%w: more than one value", errArguments)
			}
		}
		return run(c, args)
	}
}

func noArgs(run func(*call) (any, error)) func(*call, json.RawMessage) (any, error) {
	return with(func(c *call, _ NoArgs) (any, error) { return run(c) })
}

// secretive are the commands that have a secret among their arguments or in their result.
var secretive = map[string]bool{CmdUnlockAdd: true, CmdKeyExport: true, CmdKeyImport: true, CmdAccessKeyCreate: true}

// Dispatch does one command for peer. It is a control.Handler. ctx ends when
// the caller hangs up; emit carries the items of streaming commands.
func (d *Daemon) Dispatch(ctx context.Context, peer control.Peer, req control.Request, emit control.Emit) control.Response {
	cmd, ok := d.commands()[req.Command]
	if !ok {
		return control.Response{Error: &control.Error{
			Code: "UnknownCommand", Message: fmt.Sprintf("the daemon does not know the command %.64q", req.Command),
			Hint: "stop the daemon and start it again with this version of kmsfs", Exit: exitFailed,
		}}
	}
	c := &call{d: d, ctx: ctx, peer: peer, name: req.Command, emit: emit}
	if secretive[req.Command] {
		defer d.Handed()
	}
	result, err := d.run(c, cmd, req)
	if err != nil {
		d.log.Debug("command failed", "command", req.Command, "uid", peer.UID, "principal", c.as, "err", err)
		return control.Response{Error: answer(err)}
	}
	return control.Result(result)
}

func (d *Daemon) run(c *call, cmd command, req control.Request) (any, error) {
	switch cmd.gate {
	case ownerOnly:
		if !d.trusted(c.peer.UID) {
			return nil, fmt.Errorf("%w: only root and the store's owner, uid %d, may do this", errForbidden, d.cfg.Owner)
		}
	case asPrincipal:
		if err := c.actAs(req.As); err != nil {
			return nil, err
		}
	case anyone:
		c.as = req.As // looked at by the command
	}
	return cmd.run(c, req.Args)
}

// trusted says whether a uid could read the root key anyway.
func (d *Daemon) trusted(uid uint32) bool { return uid == 0 || uid == d.cfg.Owner }

// actAs settles which principal the caller is, and takes his identity.
func (c *call) actAs(name string) error {
	name, err := c.d.principalFor(c.peer.UID, name)
	if err != nil {
		return err
	}
	who, err := c.d.cfg.Principals.Identity(name)
	if err != nil {
		return err
	}
	c.as, c.who = name, who
	return nil
}

// keys is the call as the keystore sees it.
func (c *call) keys() *keystore.Call {
	return &keystore.Call{Who: c.who, Op: "kmsfs " + c.name, UID: c.peer.UID, PID: uint32(c.peer.PID), UserAgent: "kmsfs"}
}

// caller is the call as a session sees it.
func (c *call) caller() mount.Caller {
	return mount.Caller{UID: c.peer.UID, GID: c.peer.GID, PID: uint32(c.peer.PID)}
}

// session opens the door for the caller's principal until the returned
// function is called.
func (c *call) session() (*mount.Session, func(), error) {
	s, err := c.d.session(c.as, mount.Options{})
	if err != nil {
		return nil, nil, err
	}
	return s, func() {
		if err := s.Close(); err != nil {
			c.d.log.Error("close a command's session", "command", c.name, "err", err)
		}
	}, nil
}

// allowed asks the principal's identity policies about an action that has no
// policy on its resource.
func (c *call) allowed(action, resource string, keys policy.MapKeys) error {
	req := &policy.Request{Action: action, Resource: resource, Clock: c.d.cfg.Clock}
	if keys != nil {
		req.Keys = keys
	}
	d := policy.DecideIdentity(c.who, req)
	if d.Allowed() {
		return nil
	}
	return &deniedError{d}
}

func (c *call) iam(action, kind, name string) error {
	return c.allowed("iam:"+action, "arn:aws:iam::"+c.d.cfg.Info.Account+":"+kind+"/"+name, nil)
}
