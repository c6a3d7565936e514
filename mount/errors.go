package mount

import (
	"errors"
	"fmt"

	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
)

// What a session refuses. Errors wrap one of these or one of the volume's, which are named here again.
var (
	ErrAccess      = errors.New("access denied")
	ErrKeyRevoked  = errors.New("key is disabled or pending deletion")
	ErrNoKey       = errors.New("no such key, or no material in it")
	ErrUnsupported = errors.New("not supported")
	ErrReadOnly    = errors.New("read-only mount")
	ErrBadHandle   = errors.New("handle not open for this")
	ErrIntegrity   = errors.New("key does not open")
	ErrTooMany     = errors.New("too many open files")

	ErrNotFound     = fs.ErrNotFound
	ErrExists       = fs.ErrExists
	ErrNotEmpty     = fs.ErrNotEmpty
	ErrNotDir       = fs.ErrNotDir
	ErrIsDir        = fs.ErrIsDir
	ErrNameTooLong  = fs.ErrNameTooLong
	ErrCrossBucket  = fs.ErrCrossBucket
	ErrInvalid      = fs.ErrInvalid
	ErrTooManyLinks = fs.ErrTooManyLinks
	ErrNoSpace      = fs.ErrNoSpace
	ErrCorrupt      = fs.ErrCorrupt
	ErrStale        = fs.ErrStale
	ErrNoAttr       = fs.ErrNoAttr
	ErrTooBig       = fs.ErrTooBig
	ErrFileTooBig   = fs.ErrFileTooBig
	ErrPermitted    = fs.ErrPermitted
	ErrQuota        = fs.ErrQuota
)

// kmsError gives a refusal of the keystore the kind by which it becomes an errno.
func kmsError(what string, err error) error {
	if err == nil {
		return nil
	}
	var e *keystore.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", what, err)
	}
	kind := ErrIntegrity
	switch e.Code {
	case "AccessDeniedException":
		kind = ErrAccess
	case "DisabledException", "KMSInvalidStateException":
		kind = ErrKeyRevoked
		if e.State == keystore.PendingImport || e.State == keystore.Unavailable {
			kind = ErrNoKey
		}
	case "NotFoundException", "InvalidArnException", "InvalidAliasNameException", "KeyUnavailableException":
		kind = ErrNoKey
	case "UnsupportedOperationException", "InvalidKeyUsageException":
		kind = ErrUnsupported
	case "ValidationException":
		kind = ErrInvalid
	}
	return fmt.Errorf("%s: %w: %w", what, kind, err)
}
