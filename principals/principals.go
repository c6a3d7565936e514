// Package principals holds the users of a store: who they are, which OS uids
// they are bound to and which policies are attached to them.
package principals

import (
	"errors"
	"time"

	"github.com/kmsfs/kmsfs/principals/policy"
)

// Errors that callers tell apart with errors.Is.
var (
	ErrNotFound          = errors.New("no such principal")
	ErrExists            = errors.New("principal already exists")
	ErrInvalidName       = errors.New("invalid name")
	ErrInvalidUID        = errors.New("invalid uid")
	ErrPolicyNotFound    = errors.New("no such policy")
	ErrPolicyInUse       = errors.New("policy is attached")
	ErrBuiltIn           = errors.New("built-in policy cannot be changed")
	ErrNotAttached       = errors.New("policy is not attached")
	ErrNotBound          = errors.New("uid is not bound")
	ErrLimit             = errors.New("limit exceeded")
	ErrLastAdministrator = errors.New("last administrator")
)

// Principal is a user as the world sees him.
type Principal struct {
	Name     string
	ID       string // AIDA and 17 characters, never reused
	ARN      string
	UIDs     []uint32
	Policies []string
	Created  time.Time
}

// Identity is what decisions are made about.
type Identity = policy.Identity
