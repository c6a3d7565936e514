package kmsapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/kmsfs/kmsfs/keystore"
)

// The codes of refusals that come from here; the keystore has more.
const (
	codeMissingToken        = "MissingAuthenticationTokenException"
	codeIncompleteSignature = "IncompleteSignatureException"
	codeInvalidSignature    = "InvalidSignatureException"
	codeUnrecognizedClient  = "UnrecognizedClientException"
	codeUnknownOperation    = "UnknownOperationException"
	codeSerialization       = "SerializationException"
	codeTooLarge            = "RequestEntityTooLargeException"
	codeInvalidMarker       = "InvalidMarkerException"
	codeInvalidKeyUsage     = "InvalidKeyUsageException"
)

// refusal is an error in the form of the protocol.
type refusal struct {
	code, message string
	status        int // 0 = 400
}

func (e *refusal) Error() string { return e.code + ": " + e.message }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{code: code, message: fmt.Sprintf(format, args...)}
}

const internalText = "The request was rejected because an internal exception occurred. The request can be retried."

// refusalOf turns any error into what the client gets to see. The second result
// says that it is the server's fault; its text stays here.
func refusalOf(err error) (*refusal, bool) {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r, false
	}
	e, ok := errors.AsType[*keystore.Error](err)
	if !ok || e.Code == keystore.CodeInternal {
		return &refusal{code: keystore.CodeInternal, message: internalText, status: http.StatusInternalServerError}, true
	}
	return &refusal{code: e.Code, message: e.Message}, false
}
