// Package policy reads AWS-style policy documents and decides requests by them.
//
// # Purpose
//
// Parse turns the JSON text of a policy into a Document: a compiled,
// immutable form that any number of goroutines may evaluate at once. DecideKMS,
// DecideS3 and DecideIdentity are pure functions from a caller (Identity), a
// Request and the documents in force to a Decision. A Decision always says why:
// which policy and which statement decided, or what was missing.
//
// # The language
//
// Both versions (2008-10-17 and 2012-10-17), every statement element, all
// condition operators with IfExists, ForAllValues and ForAnyValue, policy
// variables with defaults and escapes, grants with constraints, permissions
// boundaries, session policies and callers of other accounts. Parse is strict:
// unknown elements, duplicate JSON names, values of a wrong type and documents
// over AWS's limits are refused with a MalformedError that names the place.
//
// # The order of evaluation
//
//	1  a matching Deny in any document in force wins
//	2  KMS: the key policy allows the caller directly, or it delegates to the
//	   account and the identity side allows, or a grant allows
//	   S3:  the identity side allows, or the bucket policy allows directly
//	   others: the identity side allows
//	3  otherwise the request is denied, implicitly
//
// The identity side allows if some identity policy allows and the permissions
// boundary and the session policy, where present, allow as well. A caller of
// another account needs the resource side and the identity side.
//
// # Where AWS leaves room
//
// A policy variable without a value matches nothing. NotResource and the
// negated operators then match in a Deny and do not match in an Allow, so that
// a missing value never opens anything. A list (kms:EncryptionContextKeys,
// aws:TagKeys, …) never matches without a set operator and has no value as a
// variable, not even its default. "?" stands for one Unicode character. IfExists
// on an absent key is true for negated operators as well: to spare requests without the
// key from a Deny, use Null.
//
// # Cost
//
// A decision allocates nothing, except where a policy asks for the request time
// as text or for the list of encryption context keys, and where a grant's constraints
// meet a context that is given only as condition keys. Matching one wildcard pattern takes
// time proportional to the length of the value for a given pattern: nothing backtracks over
// more than the last asterisk.
//
// # What it is not
//
// The package knows no store, no clock and no network: identities come from
// package principals, keys and grants from package keystore, the time from the
// Request. It has no service control policies and no access control lists.
package policy
