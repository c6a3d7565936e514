package kmsapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/principals"
)

const (
	algorithm   = "AWS4-HMAC-SHA256"
	service     = "kms"
	terminator  = "aws4_request"
	dateLayout  = "20060102T150405Z"
	maxSkew     = 5 * time.Minute
	maxSigned   = 64 // headers
	dateHeader  = "X-Amz-Date"
	hashHeader  = "X-Amz-Content-Sha256"
	tokenHeader = "X-Amz-Security-Token"
)

// authorization is a parsed Authorization header.
type authorization struct {
	accessKey, date, region, service, terminator string
	signed                                       []string // lower case, ascending
	signature                                    []byte
}

// parseAuthorization reads
//
//	AWS4-HMAC-SHA256 Credential=AKIA…/20261123/us-east-1/kms/aws4_request, SignedHeaders=host;x-amz-date, Signature=<64 hex digits>
func parseAuthorization(header string) (authorization, error) {
	var a authorization
	name, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
	if name != algorithm {
		return a, refuse(codeIncompleteSignature, "Unsupported AWS 'algorithm': '%.40s'.", name)
	}
	values := map[string]string{}
	for _, part := range strings.Split(rest, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		if !ok || key == "" {
			return a, refuse(codeIncompleteSignature, "'%.80s' not a valid key=value pair (missing equal-sign) in Authorization header.", part)
		}
		if _, twice := values[key]; twice {
			return a, refuse(codeIncompleteSignature, "Authorization header has '%.80s' twice.", key)
		}
		values[key] = value
	}
	var missing []string
	for _, key := range []string{"Credential", "Signature", "SignedHeaders"} {
		if values[key] == "" {
			missing = append(missing, "Authorization header requires '"+key+"' parameter.")
		}
	}
	if len(missing) > 0 {
		return a, refuse(codeIncompleteSignature, "%s", strings.Join(missing, " "))
	}
	scope := strings.Split(values["Credential"], "/")
	if len(scope) != 5 {
		return a, refuse(codeIncompleteSignature,
			"Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '%.120s'.", values["Credential"])
	}
	a.accessKey, a.date, a.region, a.service, a.terminator = scope[0], scope[1], scope[2], scope[3], scope[4]
	signature, err := hex.DecodeString(values["Signature"])
	if err != nil || len(signature) != sha256.Size || strings.ToLower(values["Signature"]) != values["Signature"] {
		return a, refuse(codeInvalidSignature, "The signature in the Authorization header is malformed.")
	}
	a.signature = signature
	return a, a.parseSigned(values["SignedHeaders"])
}

func (a *authorization) parseSigned(list string) error {
	a.signed = strings.Split(list, ";")
	if len(a.signed) > maxSigned {
		return refuse(codeIncompleteSignature, "More than %d headers are signed.", maxSigned)
	}
	for i, name := range a.signed {
		if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || i > 0 && name <= a.signed[i-1] {
			return refuse(codeIncompleteSignature, "SignedHeaders must be lower case, in ascending order and without repetition.")
		}
	}
	return nil
}

// signs says whether a header is signed.
func (a *authorization) signs(name string) bool {
	for _, s := range a.signed {
		if strings.EqualFold(s, name) {
			return true
		}
	}
	return false
}

// verify checks a request's signature and returns the access key that made it.
func (s *Server) verify(r *http.Request, body []byte) (principals.AccessKey, error) {
	none := principals.AccessKey{}
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return none, refuse(codeMissingToken, "Missing Authentication Token")
	}
	if len(headers) > 1 {
		return none, refuse(codeIncompleteSignature, "There is more than one Authorization header.")
	}
	a, err := parseAuthorization(headers[0])
	if err != nil {
		return none, err
	}
	stamp, err := s.checkClaims(&a, r, body)
	if err != nil {
		return none, err
	}
	key, secret, err := s.cfg.Principals.AccessKey(a.accessKey)
	if err != nil || !key.Active || r.Header.Get(tokenHeader) != "" {
		return none, refuse(codeUnrecognizedClient, "The security token included in the request is invalid.")
	}
	if !hmac.Equal(a.sign(secret.Expose(), stamp, r, body), a.signature) {
		return none, refuse(codeInvalidSignature, "The request signature we calculated does not match the signature you provided. "+
			"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return key, nil
}

// checkClaims checks all of a signature that takes no secret, and returns its date.
func (s *Server) checkClaims(a *authorization, r *http.Request, body []byte) (string, error) {
	stamps := r.Header.Values(dateHeader)
	if len(stamps) != 1 {
		return "", refuse(codeIncompleteSignature, "Authorization header requires existence of one 'X-Amz-Date' header.")
	}
	stamp := stamps[0]
	at, err := time.Parse(dateLayout, stamp)
	if err != nil {
		return "", refuse(codeIncompleteSignature, "Date must be in ISO-8601 'basic format'. Got '%.40s'. See http://en.wikipedia.org/wiki/ISO_8601", stamp)
	}
	if !a.signs("host") {
		return "", refuse(codeInvalidSignature, "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Amz-") && !a.signs(name) {
			return "", refuse(codeInvalidSignature, "'%.80s' must be a 'SignedHeader' in the AWS Authorization.", name)
		}
	}
	switch {
	case a.terminator != terminator:
		return "", refuse(codeInvalidSignature, "Credential should be scoped with a valid terminator: '%s', not '%.40s'.", terminator, a.terminator)
	case a.service != service:
		return "", refuse(codeInvalidSignature, "Credential should be scoped to correct service: '%s'.", service)
	case a.region != s.cfg.Keystore.Region():
		return "", refuse(codeInvalidSignature, "Credential should be scoped to a valid region, not '%.40s'.", a.region)
	case a.date != stamp[:8]:
		return "", refuse(codeInvalidSignature, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "+
			"'%.20s' != '%s', from '%s'.", a.date, stamp[:8], stamp)
	}
	if hash := r.Header.Get(hashHeader); hash != "" && hash != hashOf(body) {
		return "", refuse(codeInvalidSignature, "The value of X-Amz-Content-Sha256 is not the hash of the request's body.")
	}
	now := s.cfg.Clock().UTC()
	switch age := now.Sub(at); {
	case age > maxSkew:
		return "", refuse(codeInvalidSignature, "Signature expired: %s is now earlier than %s (%s - 5 min.)",
			stamp, now.Add(-maxSkew).Format(dateLayout), now.Format(dateLayout))
	case age < -maxSkew:
		return "", refuse(codeInvalidSignature, "Signature not yet current: %s is still later than %s (%s + 5 min.)",
			stamp, now.Add(maxSkew).Format(dateLayout), now.Format(dateLayout))
	}
	return stamp, nil
}

// sign is the signature that a holder of the secret makes. The path is always "/" and the query empty.
func (a *authorization) sign(secret, stamp string, r *http.Request, body []byte) []byte {
	var canonical strings.Builder
	canonical.WriteString(r.Method + "\n/\n\n")
	for _, name := range a.signed {
		canonical.WriteString(name + ":" + headerValue(r, name) + "\n")
	}
	canonical.WriteString("\n" + strings.Join(a.signed, ";") + "\n" + hashOf(body))
	scope := a.date + "/" + a.region + "/" + a.service + "/" + a.terminator
	text := algorithm + "\n" + stamp + "\n" + scope + "\n" + hashOf([]byte(canonical.String()))
	key := []byte("AWS4" + secret)
	for _, part := range []string{a.date, a.region, a.service, a.terminator, text} {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		clear(key)
		key = h.Sum(nil)
	}
	return key
}

// headerValue is a header as it is signed: its values joined by commas, each trimmed and with single spaces.
func headerValue(r *http.Request, name string) string {
	var values []string
	switch name {
	case "host":
		values = []string{r.Host}
	case "content-length":
		values = []string{strconv.FormatInt(r.ContentLength, 10)}
	default:
		for _, v := range r.Header.Values(name) {
			values = append(values, strings.Join(strings.FieldsFunc(v, func(c rune) bool { return c == ' ' }), " "))
		}
	}
	return strings.Join(values, ",")
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
