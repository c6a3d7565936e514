package mount

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsfs/kmsfs/principals/policy"
)

// action is an S3 action that some operation asks for.
type action uint8

const (
	actGet action = iota
	actPut
	actDelete
	actList
	actGetTagging
	actPutTagging
	actDeleteTagging
	actUpdateEncryption
	actGetEncryption
	actPutEncryption
	actGetPolicy
	actPutPolicy
	actDeletePolicy
	actGetQuota
	actPutQuota
	actCreateBucket
	actDeleteBucket
	actListBuckets
	actions // how many there are
)

var actionNames = [actions]string{
	actGet: "s3:GetObject", actPut: "s3:PutObject", actDelete: "s3:DeleteObject", actList: "s3:ListBucket",
	actGetTagging: "s3:GetObjectTagging", actPutTagging: "s3:PutObjectTagging", actDeleteTagging: "s3:DeleteObjectTagging",
	actUpdateEncryption: "s3:UpdateObjectEncryption",
	actGetEncryption:    "s3:GetEncryptionConfiguration", actPutEncryption: "s3:PutEncryptionConfiguration",
	actGetPolicy: "s3:GetBucketPolicy", actPutPolicy: "s3:PutBucketPolicy", actDeletePolicy: "s3:DeleteBucketPolicy",
	actGetQuota: "s3:GetBucketTagging", actPutQuota: "s3:PutBucketTagging", // quotas are ours; S3 keeps such things in tags
	actCreateBucket: "s3:CreateBucket", actDeleteBucket: "s3:DeleteBucket", actListBuckets: "s3:ListAllMyBuckets",
}

func (a action) String() string { return actionNames[a] }

// view is what a session knows of its rights at one policy epoch. It is replaced as a whole when policies change.
type view struct {
	epoch   uint64
	who     *policy.Identity // nil: the principal is gone, everything is refused
	timed   bool             // what he may do depends on the time of day
	clock   func() time.Time
	buckets sync.Map // Ino -> *bucketView
}

// bucketView is a bucket as one principal sees it.
type bucketView struct {
	*bucketInfo
	consts [actions]atomic.Uint32
}

// answer says how an action is decided for all object names of a bucket together.
type answer uint32

const (
	unknown answer = iota
	always         // allowed, whatever the name and the request
	never          // refused, likewise
	depends        // the name or the request decides
)

func answerOf(d policy.Decision, constant bool) answer {
	switch {
	case !constant:
		return depends
	case d.Allowed():
		return always
	}
	return never
}

// constant answers from the bucket alone, where that is possible.
func (v *view) constant(b *bucketView, a action) answer {
	if got := answer(b.consts[a].Load()); got != unknown {
		return got
	}
	got := v.below(b, a, "")
	b.consts[a].Store(uint32(got))
	return got
}

// below answers for all names that begin with a prefix ("" or "dir/").
func (v *view) below(b *bucketView, a action, prefix string) answer {
	if v.who == nil {
		return never
	}
	arn := b.arn + "/" + EncodeKey(prefix)
	if a == actList {
		arn = b.arn // with what is below it: decided at once only where the bucket itself is
	}
	return answerOf(policy.ConstantS3(v.who, a.String(), arn, b.policy))
}

// decide asks the policies about one object (or, for key "", the bucket itself).
func (v *view) decide(b *bucketView, a action, key string, keys policy.Keys) policy.Decision {
	if v.who == nil {
		return policy.Decision{}
	}
	resource := b.arn
	if key != "" {
		resource = b.arn + "/" + EncodeKey(key)
	}
	return policy.DecideS3(v.who, &policy.Request{Action: a.String(), Resource: resource, Keys: keys, Clock: v.clock}, b.policy)
}

// bucket decides an action on the bucket itself.
func (v *view) bucket(b *bucketView, a action, keys policy.Keys) error {
	if d := v.decide(b, a, "", keys); !d.Allowed() {
		return v.refusal(a, b.arn, d)
	}
	return nil
}

func (v *view) refusal(a action, arn string, d policy.Decision) error {
	return &RefusedError{Action: a.String(), Resource: arn, Decision: d}
}

// RefusedError is a refusal by the S3 gate. It is an ErrAccess.
type RefusedError struct {
	Action, Resource string
	Decision         policy.Decision
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s on %s: %s", e.Action, e.Resource, e.Decision.Reason())
}

// Unwrap makes errors.Is find ErrAccess.
func (e *RefusedError) Unwrap() error { return ErrAccess }

// keysFunc gives object keys, and is only called if they matter.
type keysFunc func() ([]string, error)

func oneKey(key string) keysFunc { return func() ([]string, error) { return []string{key}, nil } }

// quantity says how many of an inode's names must be allowed.
type quantity bool

const (
	anyName  quantity = false
	allNames quantity = true
)

// object decides an action on an object with one or several names. A Deny on any of them wins.
func (v *view) object(b *bucketView, a action, names keysFunc, q quantity, keys policy.Keys) error {
	switch v.constant(b, a) {
	case always:
		return nil
	case never:
		return v.refusal(a, b.arn+"/*", v.decide(b, a, "*", keys))
	case unknown, depends:
	}
	all, err := names()
	if err != nil {
		return err
	}
	var allowed int
	var refused error
	for _, key := range all {
		d := v.decide(b, a, key, keys)
		if d.Effect == policy.ExplicitDeny {
			return v.refusal(a, ObjectARN(b.name, key), d)
		}
		if d.Allowed() {
			allowed++
		} else {
			refused = v.refusal(a, ObjectARN(b.name, key), d)
		}
	}
	if allowed == len(all) || allowed > 0 && q == anyName {
		return nil
	}
	return refused
}

var lookingActions = [...]action{actGet, actList, actPut, actDelete}

// visible decides whether a name may be told to exist, or not to: some right on the name is enough, and a directory is visible as
// well where some right may exist beneath it. A name that does not exist is judged as a file and as a directory.
func (v *view) visible(b *bucketView, names keysFunc, mayBeDir bool) error {
	some := v.look(b)
	if some == always {
		return nil
	}
	if some != depends {
		return v.refusal(actList, b.arn, v.decide(b, actList, "", nil))
	}
	all, err := names()
	if err != nil {
		return err
	}
	for _, key := range all {
		if v.seen(b, key, mayBeDir) {
			return nil
		}
	}
	return v.refusal(actList, b.arn, v.decide(b, actList, "", listKeys{prefix: all[0]}))
}

func (v *view) seen(b *bucketView, key string, mayBeDir bool) bool {
	isDir := key != "" && key[len(key)-1] == '/'
	if v.decide(b, actList, "", listKeys{prefix: key, delimiter: isDir}).Allowed() {
		return true
	}
	for _, a := range [...]action{actGet, actPut, actDelete} {
		if v.decide(b, a, key, nil).Allowed() {
			return true
		}
	}
	if !mayBeDir {
		return false
	}
	dir := key
	if dir != "" && !isDir {
		dir += "/"
		if v.decide(b, actList, "", listKeys{prefix: dir, delimiter: true}).Allowed() {
			return true
		}
	}
	for _, a := range [...]action{actGet, actPut, actDelete} {
		if v.below(b, a, dir) != never {
			return true
		}
	}
	return false
}

// subtree decides an action for everything beneath a directory, if patterns can; otherwise it says depends.
func (v *view) subtree(b *bucketView, a action, dir string) answer {
	if got := v.constant(b, a); got != depends {
		return got
	}
	return v.below(b, a, dir)
}

// listKeys are the condition keys of ListBucket. The delimiter is present only where a directory is listed.
type listKeys struct {
	prefix    string
	delimiter bool
}

// Lookup implements policy.Keys.
func (k listKeys) Lookup(name string) ([]string, bool) {
	switch {
	case name == "s3:prefix":
		return []string{EncodeKey(k.prefix)}, true
	case name == "s3:delimiter" && k.delimiter:
		return []string{"/"}, true
	}
	return nil, false
}

// putKeys are the condition keys of PutObject where the request names an encryption.
type putKeys struct {
	method string // AES256 or aws:kms
	arn    string // resolved; empty: the request names no key
}

// Lookup implements policy.Keys.
func (k putKeys) Lookup(name string) ([]string, bool) {
	switch {
	case name == "s3:x-amz-server-side-encryption" && k.method != "":
		return []string{k.method}, true
	case name == "s3:x-amz-server-side-encryption-aws-kms-key-id" && k.arn != "":
		return []string{k.arn}, true
	}
	return nil, false
}

// view gives the session's rights as of now.
func (s *Session) view() *view {
	v := s.rights.Load()
	if epoch := s.hub.policyEpoch.Load(); v == nil || v.epoch != epoch {
		v = s.lookAgain(epoch)
	}
	return v
}

func (s *Session) lookAgain(epoch uint64) *view {
	v := &view{epoch: epoch, clock: s.cfg.Clock}
	who, err := s.identity()
	if err != nil {
		s.log.Warn("principal without identity: everything is refused", "err", err)
	} else {
		v.who, v.timed = who, timed(who)
	}
	if old := s.rights.Load(); old == nil || old.epoch < epoch {
		s.rights.CompareAndSwap(old, v)
	}
	return v
}

// bucketOf gives the bucket that holds an inode, as the view sees it. The root has none: ErrPermitted.
func (s *Session) bucketOf(v *view, ino Ino) (*bucketView, error) {
	bucket, err := s.vol.BucketOf(ino)
	if err != nil {
		return nil, err
	}
	if bucket == 0 {
		return nil, fmt.Errorf("the root holds buckets and nothing else: %w", ErrPermitted)
	}
	return s.bucketView(v, bucket)
}

func (s *Session) bucketView(v *view, bucket Ino) (*bucketView, error) {
	if b, ok := v.buckets.Load(bucket); ok {
		return b.(*bucketView), nil
	}
	info, err := s.hub.bucket(bucket)
	if err != nil {
		return nil, err
	}
	b, known := v.buckets.LoadOrStore(bucket, &bucketView{bucketInfo: info})
	if !known {
		s.sees(v, b.(*bucketView))
	}
	return b.(*bucketView), nil
}

// keysOf gives the object keys of an inode, lazily.
func (s *Session) keysOf(ino Ino) keysFunc {
	return func() ([]string, error) {
		names, err := s.vol.Names(ino)
		if errors.Is(err, ErrNotFound) {
			return nil, nil // no name is left: who has it open was allowed to
		}
		if err != nil {
			return nil, err
		}
		keys := make([]string, len(names))
		for i, n := range names {
			keys[i] = n.Key
		}
		return keys, nil
	}
}

// childKey gives the object key of a name in a directory.
func (s *Session) childKey(parent Ino, name string) (string, error) {
	names, err := s.vol.Names(parent)
	if err != nil {
		return "", err
	}
	if len(names) == 0 {
		return "", ErrNotFound
	}
	return names[0].Key + name, nil
}

func (s *Session) childKeys(parent Ino, name string) keysFunc {
	return func() ([]string, error) {
		key, err := s.childKey(parent, name)
		return []string{key}, err
	}
}
