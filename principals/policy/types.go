package policy

import (
	"strings"
	"time"
)

// Kind says where a document is attached, which decides what it may contain.
type Kind uint8

// The kinds of documents.
const (
	// IdentityPolicy is attached to a user or role, or serves as a
	// permissions boundary or session policy. It has no Principal.
	IdentityPolicy Kind = iota
	// KeyPolicy is the one resource policy of a KMS key.
	KeyPolicy
	// BucketPolicy is the one resource policy of a bucket.
	BucketPolicy
)

// String names the kind as a person would: "identity policy".
func (k Kind) String() string {
	switch k {
	case IdentityPolicy:
		return "identity policy"
	case KeyPolicy:
		return "key policy"
	case BucketPolicy:
		return "bucket policy"
	default:
		return "policy"
	}
}

// Named is a document and the name under which it is attached. The document
// must be an IdentityPolicy.
type Named struct {
	Name     string
	Document *Document
}

// CallerType says what kind of principal makes a request.
type CallerType uint8

// The caller types.
const (
	// RootUser is the account itself: arn:aws:iam::A:root.
	RootUser CallerType = iota
	// User is an IAM user: arn:aws:iam::A:user/name.
	User
	// Session is a session of a role: arn:aws:sts::A:assumed-role/role/session.
	Session
)

// Identity is a caller with everything that is attached to him. It is
// immutable once it has been handed to a decision.
type Identity struct {
	Type CallerType
	// Account is the 12-digit account id.
	Account string
	// ARN is the user ARN, the session ARN or the account's root ARN.
	ARN string
	// Name is the user's name; empty for sessions and the root user.
	Name string
	// ID is the unique id: AIDA… for a user, AROA…:session for a session, the account id for root.
	ID string
	// RoleARN is the role behind a Session, else empty.
	RoleARN string
	// Policies are the identity policies, in the order they are tried.
	Policies []Named
	// Boundary is the permissions boundary; nil for none.
	Boundary *Named
	// SessionPolicy limits a Session; nil for none.
	SessionPolicy *Named
	// Tags are the principal's tags (aws:PrincipalTag/…).
	Tags map[string]string
}

// Keys supplies condition keys of a request. Implementations must be safe to
// call many times; the returned slice is read and not kept.
type Keys interface {
	// Lookup returns the values of a condition key. The name arrives
	// lower-cased. A key with no values counts as absent.
	Lookup(name string) (values []string, ok bool)
}

// MapKeys is Keys in a map. Its keys must be lower case; Add sees to that.
type MapKeys map[string][]string

// Lookup implements Keys.
func (m MapKeys) Lookup(name string) ([]string, bool) {
	v, ok := m[name]
	return v, ok
}

// Add sets the values of a condition key, whose name may be in any case.
func (m MapKeys) Add(name string, values ...string) { m[strings.ToLower(name)] = values }

// Request is what a caller wants to do.
//
// The keys that follow from the caller (aws:username, aws:userid,
// aws:PrincipalArn, aws:PrincipalAccount, aws:PrincipalType, aws:PrincipalTag/…,
// kms:CallerAccount) are supplied by the package and cannot be overridden.
type Request struct {
	// Action is "service:Name"; case does not matter.
	Action string
	// Resource is the ARN, or "*" for actions that have none.
	Resource string
	// Keys holds further condition keys; nil means none.
	Keys Keys
	// ResourceAccount is the account that owns the resource. Empty: the
	// account in Resource, and if that has none (S3), the caller's.
	ResourceAccount string
	// Context is the KMS encryption context. If it is not nil it supplies
	// kms:EncryptionContext:… and kms:EncryptionContextKeys (Keys is not
	// asked for them) and is what grant constraints are compared with. If it is
	// nil, both are taken from Keys.
	Context map[string]string
	// Grant is the grant to be made, for kms:CreateGrant. Without it a grant
	// that lists CreateGrant never authorises.
	Grant *Grant
	// Clock supplies aws:CurrentTime and aws:EpochTime, and is called only
	// if a policy asks for them. Nil: they are taken from Keys.
	Clock func() time.Time
}

// Effect is the outcome of a decision.
type Effect uint8

// The effects.
const (
	// ImplicitDeny means that nothing allowed the request.
	ImplicitDeny Effect = iota
	// ExplicitDeny means that a Deny statement matched.
	ExplicitDeny
	// Allow means what it says.
	Allow
)

// String is "implicit deny", "explicit deny" or "allow".
func (e Effect) String() string {
	switch e {
	case Allow:
		return "allow"
	case ExplicitDeny:
		return "explicit deny"
	default:
		return "implicit deny"
	}
}

// Source says which kind of policy decided.
type Source uint8

// The sources of a decision.
const (
	// None: nothing decided, the request was denied for want of an allow.
	None Source = iota
	IdentityPolicies
	KeyPolicySource
	BucketPolicySource
	GrantSource
	Boundary
	SessionPolicy
	// AccountRoot: the caller is the account's root user, which needs no identity policy.
	AccountRoot
)

// String is AWS's name for the source: "identity-based policy".
func (s Source) String() string {
	switch s {
	case IdentityPolicies:
		return "identity-based policy"
	case KeyPolicySource, BucketPolicySource:
		return "resource-based policy"
	case GrantSource:
		return "grant"
	case Boundary:
		return "permissions boundary"
	case SessionPolicy:
		return "session policy"
	case AccountRoot:
		return "account root user"
	default:
		return "none"
	}
}

// Grant is a KMS grant as far as decisions need it.
type Grant struct {
	ID, Name string
	// Grantee is a user, role, session or root ARN, an account id or a unique id.
	Grantee string
	// Retiring is the ARN that may retire the grant, or empty.
	Retiring string
	// Operations are names without prefix: "Decrypt".
	Operations []string
	// Subset is EncryptionContextSubset, Equals is EncryptionContextEquals; nil for none.
	Subset, Equals map[string]string
}
