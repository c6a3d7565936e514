package host

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// evaluation is one question of why: what every gate says, in order.
type evaluation struct {
	c       *call
	who     *policy.Identity
	bucket  fs.Bucket
	doc     *policy.Document // bucket policy, nil for none
	key     string           // object key, "" for the bucket
	result  WhyResult
	session *mount.Session // of the asked principal, for what only a session knows
}

// why decides anew, with the same evaluator and the same keystore that decide
// on a mount, and writes no audit event. Asking about somebody else is
// iam:SimulatePrincipalPolicy, as in AWS.
func (c *call) why(a WhyArgs) (any, error) {
	principal := a.Principal
	if principal == "" {
		principal = c.as
	}
	if principal != c.as {
		if err := c.iam("SimulatePrincipalPolicy", "user", principal); err != nil {
			return nil, err
		}
	}
	who, err := c.d.cfg.Principals.Identity(principal)
	if err != nil {
		return nil, err
	}
	path, err := c.d.bucketPath(a.Path)
	if err != nil {
		return nil, err
	}
	s, err := c.d.session(c.as, mount.Options{SSE: c.d.optionSSE(a.Path.Absolute)}) // the asker must see the path himself
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }() // it has no handles
	o, err := c.find(s, path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	e := &evaluation{c: c, who: who, session: s, result: WhyResult{Principal: principal, Path: path, Op: a.Op, Gates: []WhyGate{}}}
	if err := e.enter(path, o); err != nil {
		return nil, err
	}
	if err := e.op(a.Op, o); err != nil {
		return nil, err
	}
	e.result.Allowed = len(e.result.Gates) > 0
	for _, g := range e.result.Gates {
		e.result.Allowed = e.result.Allowed && g.Allowed
	}
	return e.result, nil
}

// enter finds the bucket and its policy.
func (e *evaluation) enter(path string, o object) error {
	name, key, _ := strings.Cut(path, "/")
	root := mount.RootIno
	at, err := e.session.Lookup(e.c.caller(), root, name)
	if err != nil {
		return fmt.Errorf("bucket %q: %w", name, err)
	}
	if e.bucket, err = e.c.d.cfg.Volume.Bucket(at.Ino); err != nil {
		return err
	}
	e.key = key
	if o.found && o.attr.Type == mount.Directory && key != "" {
		e.key += "/"
	}
	if len(e.bucket.Policy) > 0 {
		if e.doc, err = policy.Parse(policy.BucketPolicy, e.bucket.Policy); err != nil {
			return fmt.Errorf("policy of bucket %q: %w", name, err)
		}
	}
	return nil
}

var errWhyMissing = fmt.Errorf("%w: it does not exist", mount.ErrNotFound)

// op asks the gates of one operation, as the file system would.
func (e *evaluation) op(op string, o object) error {
	file := o.found && o.attr.Type == mount.Regular
	if !o.found && op != "write" {
		return fmt.Errorf("%s: %w", e.result.Path, errWhyMissing)
	}
	switch op {
	case "list":
		prefix := e.key
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			prefix += "/"
		}
		e.s3("s3:ListBucket", "", policy.MapKeys{"s3:prefix": {prefix}, "s3:delimiter": {"/"}})
	case "read":
		if o.attr.Type == mount.Directory {
			return e.op("list", o)
		}
		e.s3("s3:GetObject", e.key, nil)
		if file {
			return e.kmsOf(o.attr.Ino, "kms:Decrypt")
		}
	case "write":
		if !o.found {
			keys, err := e.session.UploadKeys(o.parent)
			if err != nil {
				return err
			}
			e.s3("s3:PutObject", e.key, keys)
			return e.kmsOfDefault(o.parent)
		}
		e.s3("s3:PutObject", e.key, nil)
		if file {
			e.result.Note = "to append or change in place; to overwrite it as a whole needs kms:GenerateDataKey instead"
			return e.kmsOf(o.attr.Ino, "kms:Decrypt")
		}
	case "delete":
		if e.key == "" {
			e.s3("s3:DeleteBucket", "", nil)
			return nil
		}
		e.s3("s3:DeleteObject", e.key, nil)
		e.result.Note = "no key is needed to delete"
	case "rename":
		e.s3("s3:GetObject", e.key, nil)
		e.s3("s3:DeleteObject", e.key, nil)
		e.result.Note = "and s3:PutObject on the new name; no key is needed to rename inside a bucket"
	default:
		return fmt.Errorf("%w: unknown operation %.32q", errArguments, op)
	}
	return nil
}

// s3 asks identity policies and the bucket's policy.
func (e *evaluation) s3(action, key string, keys policy.Keys) {
	resource := "arn:aws:s3:::" + e.bucket.Name
	if key != "" {
		resource += "/" + mount.EncodeKey(key)
	}
	req := &policy.Request{Action: action, Resource: resource, Clock: e.c.d.cfg.Clock, Keys: keys}
	e.add(action, resource, policy.DecideS3(e.who, req, e.doc), nil)
}

func (e *evaluation) add(action, resource string, d policy.Decision, err error) {
	g := WhyGate{
		Action: action, Resource: resource, Allowed: d.Allowed() && err == nil, Effect: d.Effect.String(), Source: d.Source.String(),
		Policy: d.Policy, Sid: d.Sid, Statement: d.Statement, Reason: d.Reason(),
	}
	var refused *keystore.Error
	if errors.As(err, &refused) {
		g.Reason = kmsMessage(refused)
	}
	if !g.Allowed {
		g.Change = e.change(action, resource, d, refused)
	}
	e.result.Gates = append(e.result.Gates, g)
}

// kmsOf asks the keystore about a file's own key.
func (e *evaluation) kmsOf(ino mount.Ino, action string) error {
	sealing, err := e.c.d.cfg.Volume.Sealing(ino)
	if err != nil {
		return err
	}
	if sealing.Method != fs.SSEKMS {
		e.note("the file is under SSE-S3: no KMS key is asked")
		return nil
	}
	return e.kms(action, sealing.KeyARN, sealing.Context)
}

// kmsOfDefault asks about the key that a new file in dir would get.
func (e *evaluation) kmsOfDefault(dir mount.Ino) error {
	key, ctx, err := e.session.Birth(dir, e.key)
	if err != nil {
		return err
	}
	if key == "" {
		e.note("a new file here is under SSE-S3: no KMS key is asked")
		return nil
	}
	if key == "alias/aws/s3" { // made at first need
		if key, err = e.c.d.cfg.Keystore.ManagedS3Key(); err != nil {
			return err
		}
	}
	return e.kms("kms:GenerateDataKey", key, ctx)
}

func (e *evaluation) kms(action, key string, ctx crypto.Context) error {
	call := e.c.keys()
	call.Who, call.ViaS3 = e.who, true
	d, err := e.c.d.cfg.Keystore.Check(call, action, key, ctx)
	var refused *keystore.Error
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	if arn, rerr := e.c.d.cfg.Keystore.Resolve(key); rerr == nil {
		key = arn
	}
	e.add(action, key, d, err)
	return nil
}

func (e *evaluation) note(text string) {
	if e.result.Note != "" {
		text = e.result.Note + "; " + text
	}
	e.result.Note = text
}
