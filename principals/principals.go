// Package principals holds the users of a store: who they are, which OS uids
// may act as them, and which policies are attached to them.
//
// # Purpose
//
// A mount and a command act as a principal. Identity gives the immutable
// picture of one that package policy decides about: account, ARN, unique id and
// compiled policies. It costs a map lookup, because every change builds a new
// picture of the whole and swaps one pointer.
//
// # What is kept, and where
//
// One document per user (kind 'U'), group ('G'), access key ('K') and policy of one's
// own ('P') in the ledger; FORMAT.md describes them. The built-in policies are part of
// the program: AdministratorAccess, AmazonS3FullAccess, AmazonS3ReadOnlyAccess and
// AWSKeyManagementServicePowerUser. All that is stored is decoded and checked
// at Open, and the memory follows the ledger: a change is published after its commit.
//
// # Rules
//
// Names follow IAM: letters, digits and _+=,.@- , up to 64 characters for users and
// 128 for policies, and two names may not differ in case alone. A unique
// id (AIDA and 17 characters) is random and dies with its user; who is created again under
// an old name is somebody else (Store is the policy.Directory by which key and bucket policies and grants keep
// ids instead of names). A policy that is attached cannot be deleted.
// The last principal with AdministratorAccess can neither be deleted nor lose
// that policy, nor be bounded by another: nobody would be left to let anyone in.
//
// A group is a set of policies for its members and no principal itself: nothing
// can name it in a Principal element. A permissions boundary is a policy
// that a user's own and his groups' policies cannot exceed. An access key is an id
// and a secret with which a client of the KMS wire protocol proves to be a
// user; the secret is kept, sealed like every document, because verifying
// a signature takes it.
//
// # Lock order
//
//	Store.mu     serialises changes, over the ledger's commit
//	Store.hooks  guards the list of functions given to OnChange
//
// Readers take no lock. Functions given to OnChange run after the commit,
// outside both locks, in the goroutine of who made the change.
//
// # What it is not
//
// It authenticates nobody: who is allowed to act as whom by uid is asked by the
// mount and the daemon, and signatures are checked by keystore/kmsapi. It has no roles yet.
package principals

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Errors that callers tell apart with errors.Is.
var (
	ErrNotFound          = errors.New("no such principal")
	ErrExists            = errors.New("the name is taken")
	ErrInvalidName       = errors.New("invalid name")
	ErrInvalidUID        = errors.New("invalid uid")
	ErrPolicyNotFound    = errors.New("no such policy")
	ErrPolicyInUse       = errors.New("the policy is attached")
	ErrBuiltIn           = errors.New("a built-in policy cannot be changed")
	ErrNotAttached       = errors.New("the policy is not attached")
	ErrNotBound          = errors.New("the uid is not bound")
	ErrLimit             = errors.New("limit exceeded")
	ErrLastAdministrator = errors.New("nobody else has " + Administrator)
	ErrGroupNotFound     = errors.New("no such group")
	ErrGroupInUse        = errors.New("the group is in use")
	ErrNotMember         = errors.New("not a member of the group")
	ErrAccessKeyNotFound = errors.New("no such access key")
	ErrNoBoundary        = errors.New("the principal has no permissions boundary")
	ErrCorrupt           = errors.New("corrupt principal record")
)

// Limits. All but that of uids are AWS's.
const (
	MaxUsers       = 5000
	MaxPolicies    = 1500
	MaxAttachments = 10
	MaxUIDs        = 64
	MaxGroups      = 300 // of a store
	MaxMemberships = 10  // groups of one user
	MaxAccessKeys  = 2   // of one user
)

// Kinds of documents in the ledger.
const (
	kindUser      = 'U'
	kindPolicy    = 'P'
	kindGroup     = 'G'
	kindAccessKey = 'K'
)

// Principal is a user. It is a copy that the caller may change.
type Principal struct {
	Name string
	// ID is the unique id, AIDA and 17 characters.
	ID string
	// ARN is arn:aws:iam::<account>:user/<name>.
	ARN string
	// UIDs are the OS uids that may act as this user, ascending.
	UIDs []uint32
	// Policies are the names of the attached policies, in the order of attachment.
	Policies []string
	// Boundary is the name of the permissions boundary, or empty.
	Boundary string
	// Created is in UTC, to the second.
	Created time.Time
}

func (p Principal) clone() Principal {
	p.UIDs, p.Policies = slices.Clone(p.UIDs), slices.Clone(p.Policies)
	return p
}

// Store is the set of principals and policies. Safe for concurrent use.
type Store struct {
	ledger  *ledger.Ledger
	account string
	clock   func() time.Time
	builtin map[string]policy.Named

	mu  sync.Mutex // serialises changes
	now atomic.Pointer[state]

	hooksMu sync.Mutex // guards hooks
	hooks   []func(name string)
}

// Open loads and checks everything that is stored. account is the 12-digit
// account id. The error wraps ErrCorrupt if a record does not decode or names a
// policy that does not exist.
func Open(l *ledger.Ledger, account string, clock func() time.Time) (*Store, error) {
	if len(account) != 12 || strings.Trim(account, "0123456789") != "" {
		return nil, fmt.Errorf("open principals: the account id %q is not 12 digits", account)
	}
	builtin, err := loadBuiltIn()
	if err != nil {
		return nil, fmt.Errorf("open principals: %w", err)
	}
	s := &Store{ledger: l, account: account, clock: clock, builtin: builtin}
	st, err := s.load()
	if err != nil {
		return nil, fmt.Errorf("open principals: %w", err)
	}
	s.now.Store(st)
	return s, nil
}

// Account returns the account id.
func (s *Store) Account() string { return s.account }

// Identity returns the picture of a principal that decisions are made about.
// It is immutable and shared; any change to the principal or its policies makes a new one, at
// another address. ErrNotFound.
func (s *Store) Identity(name string) (*policy.Identity, error) {
	u, ok := s.now.Load().users[name]
	if !ok {
		return nil, notFound(name)
	}
	return u.identity, nil
}

// Get returns a principal. ErrNotFound.
func (s *Store) Get(name string) (Principal, error) {
	u, ok := s.now.Load().users[name]
	if !ok {
		return Principal{}, notFound(name)
	}
	return u.clone(), nil
}

// ByARN returns the principal with a user ARN. ErrNotFound.
func (s *Store) ByARN(arn string) (Principal, error) {
	if name, ok := strings.CutPrefix(arn, s.arn("")); ok {
		return s.Get(name)
	}
	return Principal{}, notFound(arn)
}

// UniqueID returns the unique id behind an ARN, and whether there is such a principal.
func (s *Store) UniqueID(arn string) (id string, exists bool) {
	p, err := s.ByARN(arn)
	return p.ID, err == nil
}

// ARN returns the ARN of the principal with a unique id, and whether there still is one.
func (s *Store) ARN(id string) (arn string, exists bool) {
	st := s.now.Load()
	if name, ok := st.byID[id]; ok {
		return st.users[name].ARN, true
	}
	return "", false
}

// List returns all principals, by name.
func (s *Store) List() []Principal {
	st := s.now.Load()
	out := make([]Principal, 0, len(st.users))
	for _, name := range slices.Sorted(maps.Keys(st.users)) {
		out = append(out, st.users[name].clone())
	}
	return out
}

// ByUID returns the names of the principals a uid is bound to, sorted.
func (s *Store) ByUID(uid uint32) []string { return slices.Clone(s.now.Load().byUID[uid]) }

// OnChange registers a function that is called with the name of every
// principal whose identity, uids or policies changed, or that was created or deleted. It is
// called after the change is durable and visible, outside all locks, and may
// call the Store. Calls for changes made at the same time may come in any order.
func (s *Store) OnChange(fn func(name string)) {
	s.hooksMu.Lock()
	defer s.hooksMu.Unlock()
	s.hooks = append(s.hooks, fn)
}

func (s *Store) notify(names []string) {
	s.hooksMu.Lock()
	hooks := slices.Clone(s.hooks)
	s.hooksMu.Unlock()
	for _, name := range names {
		for _, fn := range hooks {
			fn(name)
		}
	}
}

func (s *Store) arn(name string) string { return "arn:aws:iam::" + s.account + ":user/" + name }

func notFound(name string) error { return fmt.Errorf("principal %q: %w", name, ErrNotFound) }
