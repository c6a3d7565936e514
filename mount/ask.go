package mount

import (
	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// MayGet asks the S3 gate of reading a file: s3:GetObject on one of its names, and no Deny on any. No key is asked for.
func (s *Session) MayGet(ino Ino) error {
	v := s.view()
	b, err := s.bucketOf(v, ino)
	if err != nil {
		return err
	}
	return v.object(b, actGet, s.keysOf(ino), anyName, nil)
}

// Birth says which KMS key a new object in a directory would get, and its encryption context: as the session's mount option, the
// directory's and the bucket's default have it. The key is as written, "alias/aws/s3" for none, and empty for SSE-S3.
func (s *Session) Birth(dir Ino, key string) (kmsKey string, ctx crypto.Context, err error) {
	v := s.view()
	b, err := s.bucketOf(v, dir)
	if err != nil {
		return "", nil, err
	}
	ch, err := s.order(b, dir)
	if err != nil || ch.method != fs.SSEKMS {
		return "", nil, err
	}
	if ch.key == "" {
		ch.key = "alias/aws/s3"
	}
	ctx, err = contextFor(b, key, ch)
	return ch.key, ctx, err
}

// UploadKeys are the condition keys of making an object in a directory: those of the headers that the session's mount option stands
// for. A default sends no headers.
func (s *Session) UploadKeys(dir Ino) (policy.Keys, error) {
	b, err := s.bucketOf(s.view(), dir)
	if err != nil {
		return nil, err
	}
	ch, err := s.order(b, dir)
	if err != nil || !ch.header {
		return nil, err
	}
	return putRequest{s, ch}, nil
}
