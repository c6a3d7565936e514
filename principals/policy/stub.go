package policy

import "errors"

var errUnfinished = errors.New("policy: unfinished")

// Document is a compiled policy document.
type Document struct{ text []byte }

// Text returns the document as it was put.
func (d *Document) Text() []byte { return d.text }

// MalformedError says what is wrong with a document and where.
type MalformedError struct {
	Path, Msg string
	TooLarge  bool
}

func (e *MalformedError) Error() string { return e.Path + ": " + e.Msg }

// Parse compiles a document.
func Parse(kind Kind, text []byte) (*Document, error) { return nil, errUnfinished }

// Decision is the answer to a Request.
type Decision struct {
	Effect      Effect
	Source      Source
	Policy, Sid string
	Statement   int
	Missing     string
}

// Allowed reports whether the request may go ahead.
func (d Decision) Allowed() bool { return d.Effect == Allow }

// Reason is one sentence.
func (d Decision) Reason() string { return d.Effect.String() }

// DecideKMS decides a KMS action on a key.
func DecideKMS(who *Identity, req *Request, key *Document, grants []Grant) Decision {
	return Decision{}
}

// DecideS3 decides an S3 action.
func DecideS3(who *Identity, req *Request, bucket *Document) Decision { return Decision{} }

// DecideIdentity decides an action without resource policy.
func DecideIdentity(who *Identity, req *Request) Decision { return Decision{} }

// ConstantS3 decides for all resources at once, where it can.
func ConstantS3(who *Identity, action, bucketARNPrefix string, bucket *Document) (Decision, bool) {
	return Decision{}, false
}

// LockoutCheck refuses a key policy that would not let who change it again.
func LockoutCheck(who *Identity, newPolicy *Document, keyARN string) error { return errUnfinished }

// DefaultKeyPolicy is the policy of a key made without one.
func DefaultKeyPolicy(account string) []byte { return nil }

// ConsoleKeyPolicy is the policy the console makes.
func ConsoleKeyPolicy(account string, admins, users []string) []byte { return nil }

// ManagedS3KeyPolicy is the fixed policy of alias/aws/s3.
func ManagedS3KeyPolicy(account, region string) []byte { return nil }
