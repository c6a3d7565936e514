package host

import (
	"context"
	"errors"
	"syscall"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/keystore/escrow"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/principals"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Exit statuses that errors carry to the command line, which documents them.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitLocked  = 4
	exitDamaged = 5
)

// CodeEnding is the code of an answer that a call came too late for the
// daemon and had no effect: another daemon can take it.
const CodeEnding = "DaemonEnding"

// Errors of this package.
var (
	errForbidden = errors.New("not permitted")
	errWhich     = errors.New("which principal")
	errArguments = errors.New("malformed arguments")
	errNoHost    = errors.New("mounts need the daemon")
	errEnding    = errors.New("the daemon is ending")
	errMounted   = errors.New("something is mounted there already")
	errNoMount   = errors.New("not a mount of this store")
	errInUse     = errors.New("the mount is in use")
	errOption    = errors.New("mount option")
	errDirectory = errors.New("not a directory to mount on")
	errTooMany   = errors.New("too many mounts")
)

// deniedError is a refusal by identity policies, in AWS's words.
type deniedError struct{ decision policy.Decision }

func (e *deniedError) Error() string { return "AccessDenied: " + e.decision.Reason() }

// hintedError carries advice of its own.
type hintedError struct {
	err  error
	hint string
	exit int
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// answer turns any error into what the caller gets to see: a stable code, the
// message, advice and an exit status. It is the only place that does.
func answer(err error) *control.Error {
	var done *control.Error
	if errors.As(err, &done) { // by the keeper
		return done
	}
	e := &control.Error{Code: "Failed", Message: err.Error(), Exit: exitFailed}
	var hinted *hintedError
	if errors.As(err, &hinted) {
		e.Hint = hinted.hint
		if hinted.exit != 0 {
			e.Exit = hinted.exit
		}
	}
	var refused *mount.RefusedError
	var denied *deniedError
	var kms *keystore.Error
	var malformed *policy.MalformedError
	var errno syscall.Errno
	switch {
	case errors.As(err, &denied), errors.As(err, &refused):
		e.Code = "AccessDenied"
	case errors.As(err, &kms):
		e.Code, e.Message = kms.Code, kmsMessage(kms)
		hint(e, kmsHint(kms.Code))
	case errors.As(err, &malformed):
		e.Code = "MalformedPolicyDocument"
		hint(e, "kmsfs policy check FILE")
	case errors.Is(err, errForbidden), errors.Is(err, mount.ErrAccess), errors.Is(err, mount.ErrPermitted):
		e.Code = "AccessDenied"
	case errors.Is(err, errArguments), errors.Is(err, errOption):
		e.Code, e.Exit = "InvalidArgument", exitUsage
	case errors.Is(err, errWhich):
		e.Code = "AmbiguousPrincipal"
	case errors.Is(err, errEnding):
		e.Code = CodeEnding
	case errors.Is(err, errNoMount):
		e.Code = "NotMounted"
		hint(e, "kmsfs status lists the mounts")
	case errors.Is(err, errInUse):
		e.Code = "MountInUse"
		hint(e, "end what uses it (fuser -m DIR), or: kmsfs umount --lazy DIR")
	case errors.Is(err, escrow.ErrIdentity):
		e.Code, e.Exit = "WrongIdentity", exitLocked
		hint(e, "give the identity file of a recipient, or the passphrase, that it was exported for")
	case errors.Is(err, escrow.ErrFormat):
		e.Code = "InvalidEscrow"
		hint(e, "give a file that kmsfs key export wrote")
	case errors.Is(err, principals.ErrNotFound):
		e.Code = "NoSuchEntity"
		hint(e, "kmsfs principal list")
	case errors.Is(err, principals.ErrGroupNotFound), errors.Is(err, principals.ErrNotMember):
		e.Code = "NoSuchEntity"
		hint(e, "kmsfs group list")
	case errors.Is(err, principals.ErrAccessKeyNotFound):
		e.Code = "NoSuchEntity"
		hint(e, "kmsfs principal access-key list PRINCIPAL")
	case errors.Is(err, principals.ErrNoBoundary), errors.Is(err, principals.ErrNotAttached):
		e.Code = "NoSuchEntity"
	case errors.Is(err, principals.ErrGroupInUse), errors.Is(err, principals.ErrPolicyInUse), errors.Is(err, principals.ErrLastAdministrator):
		e.Code = "DeleteConflict"
	case errors.Is(err, principals.ErrLimit), errors.Is(err, errTooMany):
		e.Code = "LimitExceeded"
	case errors.Is(err, principals.ErrPolicyNotFound):
		e.Code = "NoSuchEntity"
		hint(e, "built in: AdministratorAccess, AmazonS3FullAccess, AmazonS3ReadOnlyAccess, AWSKeyManagementServicePowerUser; or give a file")
	case errors.Is(err, principals.ErrExists):
		e.Code = "EntityAlreadyExists"
	case errors.Is(err, mount.ErrNotEmpty):
		e.Code = "BucketNotEmpty"
	case errors.Is(err, mount.ErrExists):
		e.Code = "AlreadyExists"
	case errors.Is(err, mount.ErrNotFound):
		e.Code = "NotFound"
	case errors.Is(err, mount.ErrInvalid), errors.Is(err, mount.ErrUnsupported):
		e.Code = "InvalidArgument"
	case errors.Is(err, rootkey.ErrLastSlot), errors.Is(err, rootkey.ErrNoSlot):
		e.Code = "UnlockSlot"
		hint(e, "kmsfs unlock list")
	case errors.Is(err, mount.ErrCorrupt), errors.Is(err, keystore.ErrCorrupt), errors.Is(err, audit.ErrBroken), errors.Is(err, rootkey.ErrDamaged):
		e.Code, e.Exit = "Damaged", exitDamaged
	case errors.Is(err, context.Canceled):
		e.Code = "Canceled"
	case errors.As(err, &errno):
		e.Code = "Failed"
	}
	return e
}

func hint(e *control.Error, text string) {
	if e.Hint == "" {
		e.Hint = text
	}
}

func kmsMessage(e *keystore.Error) string {
	if e.Message == "" {
		return e.Code
	}
	return e.Code + ": " + e.Message
}

// kmsHint is advice for the refusals of the keystore that people meet.
func kmsHint(code string) string {
	switch code {
	case "DisabledException":
		return "kmsfs key enable KEY"
	case "KMSInvalidStateException":
		return "kmsfs key show KEY tells its state"
	case "NotFoundException":
		return "kmsfs key list, kmsfs alias list, kmsfs grant list KEY"
	case "AlreadyExistsException":
		return "kmsfs alias update NAME KEY points it elsewhere"
	case "MalformedPolicyDocumentException":
		return "kmsfs policy check FILE --kind key"
	}
	return ""
}
