package keystore

import (
	"errors"
	"fmt"

	"github.com/kmsfs/kmsfs/principals/policy"
)

// The codes of Error, as AWS spells them.
const (
	CodeAccessDenied         = "AccessDeniedException"
	CodeAlreadyExists        = "AlreadyExistsException"
	CodeConflict             = "ConflictException"
	CodeDisabled             = "DisabledException"
	CodeDryRun               = "DryRunOperationException"
	CodeIncorrectKey         = "IncorrectKeyException"
	CodeInternal             = "KMSInternalException"
	CodeInvalidAliasName     = "InvalidAliasNameException"
	CodeInvalidARN           = "InvalidArnException"
	CodeInvalidCiphertext    = "InvalidCiphertextException"
	CodeInvalidGrantID       = "InvalidGrantIdException"
	CodeInvalidGrantToken    = "InvalidGrantTokenException"
	CodeInvalidState         = "KMSInvalidStateException"
	CodeLimitExceeded        = "LimitExceededException"
	CodeMalformedPolicy      = "MalformedPolicyDocumentException"
	CodeNotFound             = "NotFoundException"
	CodeTag                  = "TagException"
	CodeUnsupportedOperation = "UnsupportedOperationException"
	CodeValidation           = "ValidationException"
)

var (
	// ErrCorrupt means that documents or the shred file are not what this package wrote.
	ErrCorrupt = errors.New("keystore: corrupt")
	// ErrVersion means that they were written by another version of the format.
	ErrVersion = errors.New("keystore: unknown format version")
	// ErrClosed is the answer of a closed service.
	ErrClosed = errors.New("keystore: closed")
)

// Error is a refusal in AWS's terms. Code and Message are AWS's own where they are known. Decision is set if
// policies were asked, also where the refusal had another reason.
type Error struct {
	Code, Message string
	Decision      *policy.Decision
	State         State // of the key, if that is why; "" otherwise

	cause   error  // behind KMSInternalException
	missing string // the ARN of a key that does not exist, where that may not be told to everyone
}

func (e *Error) Error() string {
	if e.Message == "" {
		return "keystore: " + e.Code
	}
	return "keystore: " + e.Code + ": " + e.Message
}

// Unwrap is the failure behind KMSInternalException.
func (e *Error) Unwrap() error { return e.cause }

// Code is the AWS code of an error of this package, and "" if err is none.
func Code(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

func refuse(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// internal makes a failure of the machine an Error; a refusal stays what it is.
func internal(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: CodeInternal, Message: err.Error(), cause: err}
}

var errDryRun = &Error{Code: CodeDryRun, Message: "The request would have succeeded, but the DryRun option is set."}

func doesNotExist(arn string) *Error {
	return &Error{Code: CodeNotFound, Message: "Key '" + arn + "' does not exist", missing: arn}
}

func invalidCiphertext() *Error { return &Error{Code: CodeInvalidCiphertext} }
