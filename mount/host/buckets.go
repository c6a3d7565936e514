package host

import (
	"errors"
	"fmt"
	"time"

	"github.com/kmsfs/kmsfs/mount"
)

// The extended attributes that carry a bucket's settings and a file's state.
const (
	attrSSE        = "user.s3.sse"
	attrKeyID      = "user.s3.sse-kms-key-id"
	attrBucketKey  = "user.s3.bucket-key-enabled"
	attrContext    = "user.s3.encryption-context"
	attrMaterial   = "user.s3.key-material-id"
	attrEncryption = "user.s3.encryption"
	attrPolicy     = "user.s3.policy"
	attrQuota      = "user.s3.quota"
)

// bucketMode is what mkdir gives a bucket with the usual umask.
const bucketMode = 0o755

// bucket looks a bucket up by name.
func (c *call) bucket(s *mount.Session, name string) (mount.Attr, error) {
	a, err := s.Lookup(c.caller(), mount.RootIno, name)
	if err != nil {
		return mount.Attr{}, fmt.Errorf("bucket %q: %w", name, err)
	}
	return a, nil
}

func (c *call) bucketCreate(a BucketCreateArgs) (any, error) {
	if !mount.ValidBucketName(a.Name) {
		return nil, &hintedError{
			err:  fmt.Errorf("bucket name %.80q: %w", a.Name, mount.ErrInvalid),
			hint: "3 to 63 lower-case letters, digits, dots and dashes, as in S3",
		}
	}
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	made, err := s.Mkdir(c.caller(), mount.RootIno, a.Name, bucketMode)
	if err != nil {
		return nil, fmt.Errorf("make bucket %q: %w", a.Name, err)
	}
	if a.SSE != "" {
		if err := s.SetXattr(c.caller(), made.Ino, attrSSE, []byte(a.SSE), mount.XattrEither); err != nil {
			err = fmt.Errorf("default encryption of bucket %q: %w", a.Name, err)
			return nil, errors.Join(err, s.Rmdir(c.caller(), mount.RootIno, a.Name))
		}
	}
	return BucketInfo{Name: a.Name, SSE: a.SSE}, nil
}

func (c *call) bucketList() (any, error) {
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	dir, err := s.OpenDir(c.caller(), mount.RootIno)
	if err != nil {
		return nil, fmt.Errorf("list buckets: %w", err)
	}
	out := []BucketInfo{}
	err = dir.Read(0, func(e mount.Dirent) bool {
		out = append(out, BucketInfo{Name: e.Name})
		return true
	})
	return out, err
}

// bucketShow shows what the caller may see. Whoever may see nothing of a
// bucket is refused.
func (c *call) bucketShow(a NameArgs) (any, error) {
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	at, err := c.bucket(s, a.Name)
	if err != nil {
		return nil, err
	}
	made := time.Unix(0, at.Btime).UTC()
	b := BucketInfo{Name: a.Name, Created: &made}
	seen := false
	var refused error
	for name, to := range map[string]func([]byte){
		attrSSE:        func(v []byte) { b.SSE = string(v) },
		attrEncryption: func(v []byte) { b.Encryption = v },
		attrPolicy:     func(v []byte) { b.Policy = v },
		attrQuota:      func(v []byte) { b.Quota = string(v) },
	} {
		v, err := s.GetXattr(c.caller(), at.Ino, name)
		switch {
		case err == nil:
			to(v)
			seen = true
		case errors.Is(err, mount.ErrAccess):
			refused = err
		case errors.Is(err, mount.ErrNoAttr):
			seen = true
		default:
			return nil, fmt.Errorf("bucket %q: %w", a.Name, err)
		}
	}
	if !seen {
		return nil, fmt.Errorf("bucket %q: %w", a.Name, refused)
	}
	return b, nil
}

func (c *call) bucketDelete(a NameArgs) (any, error) {
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := s.Rmdir(c.caller(), mount.RootIno, a.Name); err != nil {
		return nil, fmt.Errorf("delete bucket %q: %w", a.Name, err)
	}
	return nil, nil
}

func (c *call) bucketEncryption(a BucketEncryptionArgs) (any, error) {
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	at, err := c.bucket(s, a.Name)
	if err != nil {
		return nil, err
	}
	if a.Value != "" {
		if err := s.SetXattr(c.caller(), at.Ino, attrEncryption, []byte(a.Value), mount.XattrEither); err != nil {
			return nil, fmt.Errorf("set the encryption of bucket %q: %w", a.Name, err)
		}
	}
	b := BucketInfo{Name: a.Name}
	sse, err := s.GetXattr(c.caller(), at.Ino, attrSSE)
	if err == nil {
		b.SSE = string(sse)
		b.Encryption, err = s.GetXattr(c.caller(), at.Ino, attrEncryption)
	}
	if err != nil && a.Value == "" {
		return nil, fmt.Errorf("encryption of bucket %q: %w", a.Name, err)
	}
	return b, nil
}

func (c *call) bucketPolicy(a BucketPolicyArgs) (any, error) {
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	at, err := c.bucket(s, a.Name)
	if err != nil {
		return nil, err
	}
	switch {
	case a.Policy.Set && a.Policy.Text == "":
		err = s.RemoveXattr(c.caller(), at.Ino, attrPolicy)
	case a.Policy.Set:
		err = s.SetXattr(c.caller(), at.Ino, attrPolicy, []byte(a.Policy.Text), mount.XattrEither)
	default:
		var text []byte
		if text, err = s.GetXattr(c.caller(), at.Ino, attrPolicy); err == nil {
			return BucketInfo{Name: a.Name, Policy: text}, nil
		}
	}
	if errors.Is(err, mount.ErrNoAttr) {
		return nil, fmt.Errorf("bucket %q has no policy: %w", a.Name, mount.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("policy of bucket %q: %w", a.Name, err)
	}
	return BucketInfo{Name: a.Name}, nil
}
