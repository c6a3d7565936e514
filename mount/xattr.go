package mount

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// The attributes that show and steer encryption. None of them is in a listing, so that copying tools do not turn a state into a wish.
const (
	attrSSE         = "user.s3.sse"
	attrKeyID       = "user.s3.sse-kms-key-id"
	attrBucketKey   = "user.s3.bucket-key-enabled"
	attrContext     = "user.s3.encryption-context"
	attrMaterial    = "user.s3.key-material-id"
	attrEncryption  = "user.s3.encryption"
	attrPolicy      = "user.s3.policy"
	attrQuota       = "user.s3.quota"
	userPrefix      = "user."
	s3AttrPrefix    = "user.s3."
	maxXattrName    = 255
	maxBucketPolicy = 20 << 10 // bytes, as S3 has it
)

// checkXattrName refuses what is not in the user namespace, before anything is looked up: kernels ask for such names often.
func checkXattrName(name string) error {
	switch {
	case strings.HasPrefix(name, "trusted."):
		return ErrPermitted
	case !strings.HasPrefix(name, userPrefix):
		return ErrUnsupported
	case len(name) == len(userPrefix):
		return ErrInvalid
	case len(name) > maxXattrName:
		return ErrNameTooLong
	}
	return nil
}

// xattrTarget is what an attribute is on.
type xattrTarget struct {
	c    Caller
	v    *view
	b    *bucketView
	ino  Ino
	attr Attr
	keys keysFunc
}

func (t *xattrTarget) isBucket() bool { return t.b.ino == t.ino }

func (s *Session) xattrTarget(c Caller, ino Ino) (*xattrTarget, error) {
	a, err := s.vol.Attr(ino)
	if err != nil {
		return nil, err
	}
	v := s.view()
	b, err := s.bucketOf(v, ino)
	if err != nil {
		return nil, err
	}
	return &xattrTarget{c: c, v: v, b: b, ino: ino, attr: a, keys: s.keysOf(ino)}, nil
}

// object decides an object action on the target; of a bucket it decides the tagging of the bucket.
func (t *xattrTarget) object(a action, q quantity) error {
	if t.isBucket() {
		return t.v.bucket(t.b, a, nil)
	}
	return t.v.object(t.b, a, t.keys, q, nil)
}

// GetXattr gives an attribute's value.
func (s *Session) GetXattr(c Caller, ino Ino, name string) ([]byte, error) {
	if err := checkXattrName(name); err != nil {
		if errors.Is(err, ErrPermitted) {
			err = ErrNoAttr
		}
		return nil, err
	}
	if ino == RootIno {
		return nil, ErrNoAttr
	}
	t, err := s.xattrTarget(c, ino)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(name, s3AttrPrefix) {
		return s.getS3(t, name)
	}
	if err := t.object(actGetTagging, anyName); err != nil {
		return nil, err
	}
	return s.vol.GetXattr(ino, name)
}

// ListXattr names the stored attributes.
func (s *Session) ListXattr(c Caller, ino Ino) ([]string, error) {
	if ino == RootIno {
		return nil, nil
	}
	names, err := s.vol.ListXattr(ino)
	if err != nil || len(names) == 0 {
		return nil, err // nothing is told by an empty list
	}
	t, err := s.xattrTarget(c, ino)
	if err != nil {
		return nil, err
	}
	return names, t.object(actGetTagging, anyName)
}

// SetXattr sets an attribute.
func (s *Session) SetXattr(c Caller, ino Ino, name string, value []byte, mode XattrMode) error {
	t, err := s.changeXattr(c, ino, name)
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, s3AttrPrefix) {
		return s.setS3(t, name, string(value), mode)
	}
	if err := t.object(actPutTagging, allNames); err != nil {
		return err
	}
	if err := s.vol.SetXattr(ino, name, value, mode); err != nil {
		return err
	}
	s.hub.InodeChanged(s, ino, -1, 0)
	return nil
}

// RemoveXattr removes an attribute.
func (s *Session) RemoveXattr(c Caller, ino Ino, name string) error {
	t, err := s.changeXattr(c, ino, name)
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, s3AttrPrefix) {
		return s.removeS3(t, name)
	}
	if err := t.object(actDeleteTagging, allNames); err != nil {
		return err
	}
	if err := s.vol.RemoveXattr(ino, name); err != nil {
		return err
	}
	s.hub.InodeChanged(s, ino, -1, 0)
	return nil
}

func (s *Session) changeXattr(c Caller, ino Ino, name string) (*xattrTarget, error) {
	if err := checkXattrName(name); err != nil {
		return nil, err
	}
	if err := s.writable(); err != nil {
		return nil, err
	}
	if ino == RootIno {
		return nil, ErrPermitted
	}
	return s.xattrTarget(c, ino)
}

// getS3 reads one of the attributes that show encryption.
func (s *Session) getS3(t *xattrTarget, name string) ([]byte, error) {
	switch {
	case t.isBucket():
		return s.getOfBucket(t, name)
	case t.attr.Type == Directory:
		if name != attrSSE {
			return nil, ErrNoAttr
		}
		if err := s.mayLook(t.v, t.b, t.ino, Directory); err != nil {
			return nil, err
		}
		d, err := s.vol.Default(t.ino)
		if err == nil && d.Value == "" {
			err = ErrNoAttr
		}
		return []byte(d.Value), err
	case t.attr.Type != Regular:
		return nil, ErrNoAttr
	}
	if err := s.mayLook(t.v, t.b, t.ino, Regular); err != nil {
		return nil, err
	}
	return s.getOfFile(t, name)
}

func (s *Session) getOfFile(t *xattrTarget, name string) ([]byte, error) {
	sealing, err := s.vol.Sealing(t.ino)
	if err != nil {
		return nil, err
	}
	kms := sealing.KeyARN != ""
	switch name {
	case attrSSE:
		return []byte(sealing.Method.String()), nil
	case attrBucketKey:
		return strconv.AppendBool(nil, sealing.BucketKey), nil
	case attrContext:
		if sealing.Context == nil {
			return []byte("{}"), nil
		}
		return json.Marshal(sealing.Context)
	case attrKeyID:
		if kms {
			return []byte(sealing.KeyARN), nil
		}
	case attrMaterial:
		if kms && len(sealing.Keys) > 0 {
			wrapped, _, _ := keystore.SplitLocal(sealing.Keys[len(sealing.Keys)-1].Wrapped)
			id, err := s.cfg.Keystore.MaterialID(wrapped)
			return []byte(id), kmsError("key material", err)
		}
	}
	return nil, ErrNoAttr
}

func (s *Session) getOfBucket(t *xattrTarget, name string) ([]byte, error) {
	b, err := s.vol.Bucket(t.ino)
	if err != nil {
		return nil, err
	}
	switch name {
	case attrSSE, attrEncryption:
		if err := t.v.bucket(t.b, actGetEncryption, nil); err != nil {
			return nil, err
		}
		def, err := parseEncryption(b.Encryption)
		if err != nil {
			return nil, fmt.Errorf("bucket %s: %w: %w", b.Name, ErrCorrupt, err)
		}
		if name == attrSSE {
			return []byte(def.short()), nil
		}
		return []byte(encryptionJSON(def)), nil
	case attrPolicy:
		if err := t.v.bucket(t.b, actGetPolicy, nil); err != nil {
			return nil, err
		}
		if len(b.Policy) > 0 {
			return s.shownPolicy(b)
		}
	case attrQuota:
		if err := t.v.bucket(t.b, actGetQuota, nil); err != nil {
			return nil, err
		}
		if b.Quota != "" {
			return []byte(b.Quota), nil
		}
	}
	return nil, ErrNoAttr
}

// readOnlyS3 are the attributes that show a file's encryption and cannot be set.
func readOnlyS3(name string) bool {
	return name == attrKeyID || name == attrBucketKey || name == attrContext || name == attrMaterial
}

// setS3 sets one of the attributes that steer encryption. They always exist in some sense, so XattrCreate finds them there, and
// XattrReplace too.
func (s *Session) setS3(t *xattrTarget, name, value string, mode XattrMode) error {
	switch {
	case readOnlyS3(name):
		return ErrPermitted
	case t.isBucket():
		if mode == XattrCreate && (name == attrSSE || name == attrEncryption) {
			return ErrExists
		}
		return s.setOfBucket(t, name, value)
	case name != attrSSE:
		return fmt.Errorf("%s: not on this: %w", name, ErrInvalid)
	case t.attr.Type == Directory:
		return s.setOfDir(t, value)
	case t.attr.Type != Regular:
		return ErrPermitted
	}
	if mode == XattrCreate {
		return ErrExists
	}
	ch, err := parseSSE(value)
	if err != nil {
		return err
	}
	ch.header, ch.explicit = true, true
	return s.setOfFile(t, ch)
}

func (s *Session) setOfDir(t *xattrTarget, value string) error {
	ch, err := parseSSE(value)
	if err != nil {
		return err
	}
	if err := t.v.object(t.b, actPut, t.keys, allNames, nil); err != nil {
		return err
	}
	return s.setDefault(t, ch.short())
}

func (s *Session) setDefault(t *xattrTarget, value string) error {
	d, err := s.vol.Default(t.ino)
	if err != nil || d.Value == value {
		return err
	}
	d.Value = value
	if err := s.vol.SetDefault(t.ino, d); err != nil {
		return err
	}
	s.hub.InodeChanged(s, t.ino, -1, 0)
	return nil
}

func (s *Session) setOfBucket(t *xattrTarget, name, value string) error {
	var a action
	var set func(*bucketDoc)
	switch name {
	case attrSSE, attrEncryption:
		def, err := parseEncryption(value)
		if err != nil {
			return err
		}
		if name == attrSSE && strings.HasPrefix(strings.TrimSpace(value), "{") || strings.TrimSpace(value) == "" {
			return ErrInvalid
		}
		a, set = actPutEncryption, func(b *bucketDoc) { b.Encryption = encryptionJSON(def) }
	case attrPolicy:
		return s.putPolicy(t, value)
	case attrQuota:
		if err := checkQuota(value); err != nil {
			return err
		}
		a, set = actPutQuota, func(b *bucketDoc) { b.Quota = value }
	default:
		return fmt.Errorf("%s: no such attribute of a bucket: %w", name, ErrInvalid)
	}
	if err := t.v.bucket(t.b, a, nil); err != nil {
		return err
	}
	return s.setBucket(t.ino, set)
}

// putPolicy replaces a bucket's policy. It is kept with the unique ids of the principals that it names, all of which must exist: who
// is made again under the name of a deleted principal is not meant by it.
func (s *Session) putPolicy(t *xattrTarget, text string) error {
	if len(text) > maxBucketPolicy {
		return ErrTooBig
	}
	doc, err := policy.Parse(policy.BucketPolicy, []byte(text))
	if err != nil {
		return fmt.Errorf("bucket policy: %w: %w", ErrInvalid, err)
	}
	if err := t.v.bucket(t.b, actPutPolicy, nil); err != nil {
		return err
	}
	if err := doc.FitsBucket(t.b.name); err != nil {
		return fmt.Errorf("bucket policy: %w: %w", ErrInvalid, err)
	}
	if doc, err = doc.Bind(s.cfg.Principals.Account(), s.cfg.Principals); err != nil {
		return fmt.Errorf("bucket policy: %w: invalid principal in policy: %w", ErrInvalid, err)
	}
	return s.setBucket(t.ino, func(b *bucketDoc) { b.Policy = doc.Text() })
}

// shownPolicy is a bucket's policy with names in place of the unique ids of principals that exist.
func (s *Session) shownPolicy(b bucketDoc) ([]byte, error) {
	doc, err := policy.Parse(policy.BucketPolicy, b.Policy)
	if err != nil {
		return nil, fmt.Errorf("policy of bucket %s: %w: %w", b.Name, ErrCorrupt, err)
	}
	return doc.Shown(s.cfg.Principals), nil
}

func (s *Session) setBucket(ino Ino, set func(*bucketDoc)) error {
	err := s.vol.SetBucket(ino, func(b *bucketDoc) error {
		set(b)
		return nil
	})
	if err != nil {
		return err
	}
	s.hub.BucketChanged(ino)
	s.hub.InodeChanged(s, ino, -1, 0)
	return nil
}

// removeS3 takes a choice back.
func (s *Session) removeS3(t *xattrTarget, name string) error {
	switch {
	case readOnlyS3(name):
		return ErrPermitted
	case t.isBucket():
		return s.removeOfBucket(t, name)
	case name != attrSSE:
		return ErrNoAttr
	case t.attr.Type == Directory:
		if err := t.v.object(t.b, actPut, t.keys, allNames, nil); err != nil {
			return err
		}
		return s.setDefault(t, "")
	case t.attr.Type != Regular:
		return ErrNoAttr
	}
	return s.removeOfFile(t)
}

func (s *Session) removeOfBucket(t *xattrTarget, name string) error {
	var a action
	var set func(*bucketDoc)
	switch name {
	case attrSSE, attrEncryption:
		a, set = actPutEncryption, func(b *bucketDoc) { b.Encryption = "" }
	case attrPolicy:
		a, set = actDeletePolicy, func(b *bucketDoc) { b.Policy = nil }
	case attrQuota:
		a, set = actPutQuota, func(b *bucketDoc) { b.Quota = "" }
	default:
		return ErrNoAttr
	}
	if err := t.v.bucket(t.b, a, nil); err != nil {
		return err
	}
	return s.setBucket(t.ino, set)
}

// checkQuota refuses what is not "bytes=N,inodes=N", of which one may be missing.
func checkQuota(text string) error {
	if text == "" {
		return fmt.Errorf("an empty quota: remove the attribute instead: %w", ErrInvalid)
	}
	_, err := fs.ParseQuota(text)
	return err
}
