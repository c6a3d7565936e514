package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// encoder writes an event's JSON as encoding/json would (without HTML escapes), without its reflection: every use of a key waits
// for it. What is rare goes through encoding/json.
type encoder struct {
	b   []byte
	err error
}

// contextARN is the name that the encryption context of an object has.
const contextARN = "aws:s3:arn"

// name begins a member.
func (e *encoder) name(name string) {
	b := e.b // kept out of memory until it is complete
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, '"')
	b = append(b, name...)
	e.b = append(b, '"', ':')
}

// escaped are the bytes that a string of JSON may not hold as they are, and those that are part of a longer character.
var escaped = func() (t [256]bool) {
	for c := range t {
		t[c] = c < 0x20 || c >= 0x7f || c == '"' || c == '\\'
	}
	return t
}()

// text is a string value.
func (e *encoder) text(s string) {
	for i := range len(s) {
		if escaped[s[i]] {
			e.value(s)
			return
		}
	}
	b := append(e.b, '"')
	b = append(b, s...)
	e.b = append(b, '"')
}

// value is any value, by encoding/json.
func (e *encoder) value(v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil && e.err == nil {
		e.err = err
	}
	e.b = append(e.b, bytes.TrimSuffix(b.Bytes(), []byte{'\n'})...)
}

func (e *encoder) always(name, s string) {
	e.name(name)
	e.text(s)
}

func (e *encoder) optional(name, s string) {
	if s != "" {
		e.always(name, s)
	}
}

func (e *encoder) number(name string, n uint64) {
	e.name(name)
	e.b = strconv.AppendUint(e.b, n, 10)
}

func (e *encoder) boolean(name string, v bool) {
	e.name(name)
	e.b = strconv.AppendBool(e.b, v)
}

func (e *encoder) pairs(name string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	e.name(name)
	e.b = append(e.b, '{')
	if v, ok := m[contextARN]; ok && len(m) == 1 { // as a rule: and to begin an iteration takes longer than all the rest
		e.pair(contextARN, v)
	} else {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			e.pair(k, m[k])
		}
	}
	e.b = append(e.b, '}')
}

func (e *encoder) pair(k, v string) {
	if c := e.b[len(e.b)-1]; c != '{' {
		e.b = append(e.b, ',')
	}
	e.text(k)
	e.b = append(e.b, ':')
	e.text(v)
}

// appendJSON appends the event as one line without a line feed.
func (e *Event) appendJSON(dst []byte) ([]byte, error) {
	enc := encoder{b: append(dst, '{')}
	enc.always("eventVersion", e.EventVersion)
	enc.name("userIdentity")
	enc.identity(&e.UserIdentity)
	enc.name("eventTime")
	enc.b = append(enc.b, '"')
	enc.b = e.EventTime.UTC().AppendFormat(enc.b, time.RFC3339) // as timeLayout has it in UTC, and in half the time
	enc.b = append(enc.b, '"')
	enc.always("eventSource", e.EventSource)
	enc.always("eventName", e.EventName)
	enc.always("awsRegion", e.AWSRegion)
	enc.optional("sourceIPAddress", e.SourceIPAddress)
	enc.optional("userAgent", e.UserAgent)
	enc.optional("errorCode", e.ErrorCode)
	enc.optional("errorMessage", e.ErrorMessage)
	enc.name("requestParameters")
	enc.parameters(e.RequestParameters)
	enc.name("responseElements")
	if e.ResponseElements == nil {
		enc.b = append(enc.b, "null"...)
	} else {
		enc.value(e.ResponseElements)
	}
	if len(e.ServiceEventDetails) > 0 {
		enc.name("serviceEventDetails")
		enc.value(e.ServiceEventDetails)
	}
	if e.AdditionalEventData != nil {
		enc.name("additionalEventData")
		enc.additional(e.AdditionalEventData)
	}
	enc.always("requestID", e.RequestID)
	enc.always("eventID", e.EventID)
	enc.boolean("readOnly", e.ReadOnly)
	enc.resources(e.Resources)
	enc.always("eventType", e.EventType)
	enc.boolean("managementEvent", e.ManagementEvent)
	enc.always("recipientAccountId", e.RecipientAccountID)
	enc.always("eventCategory", e.EventCategory)
	if enc.err != nil {
		return dst, fmt.Errorf("audit: encode event %s: %w", e.EventName, enc.err)
	}
	return append(enc.b, '}'), nil
}

func (e *encoder) identity(u *UserIdentity) {
	e.b = append(e.b, '{')
	e.optional("type", u.Type)
	e.optional("principalId", u.PrincipalID)
	e.optional("arn", u.ARN)
	e.optional("accountId", u.AccountID)
	e.optional("accessKeyId", u.AccessKeyID)
	e.optional("userName", u.UserName)
	if u.SessionContext != nil {
		e.name("sessionContext")
		e.value(u.SessionContext)
	}
	e.optional("invokedBy", u.InvokedBy)
	e.b = append(e.b, '}')
}

// parameters writes those of the cryptographic calls itself. Others are rare.
func (e *encoder) parameters(p *Parameters) {
	if p == nil {
		e.b = append(e.b, "null"...)
		return
	}
	if !p.plain() {
		e.value(p)
		return
	}
	e.b = append(e.b, '{')
	e.optional("keyId", p.KeyID)
	e.optional("keySpec", p.KeySpec)
	e.optional("encryptionAlgorithm", p.EncryptionAlgorithm)
	e.pairs("encryptionContext", p.EncryptionContext)
	e.optional("sourceKeyId", p.SourceKeyID)
	e.pairs("sourceEncryptionContext", p.SourceEncryptionContext)
	e.optional("sourceEncryptionAlgorithm", p.SourceEncryptionAlgorithm)
	e.optional("destinationKeyId", p.DestinationKeyID)
	e.pairs("destinationEncryptionContext", p.DestinationEncryptionContext)
	e.optional("destinationEncryptionAlgorithm", p.DestinationEncryptionAlgorithm)
	e.b = append(e.b, '}')
}

// plain says that nothing is set beyond what the cryptographic calls carry.
func (p *Parameters) plain() bool {
	return p.NumberOfBytes == 0 && p.AliasName == "" && p.TargetKeyID == "" && p.Description == "" && p.Policy == "" && p.PolicyName == "" &&
		!p.BypassPolicyLockoutSafetyCheck && p.PendingWindowInDays == 0 && p.RotationPeriodInDays == 0 && p.GranteePrincipal == "" &&
		p.RetiringPrincipal == "" && len(p.Operations) == 0 && p.Constraints == nil && p.GrantID == "" && p.Name == "" &&
		len(p.TagKeys) == 0 && len(p.Tags) == 0 && len(p.Extra) == 0
}

func (e *encoder) additional(a *AdditionalEventData) {
	e.b = append(e.b, '{')
	e.optional("SSEApplied", a.SSEApplied)
	if o := a.Kmsfs; o != nil {
		e.name("x-kmsfs")
		e.b = append(e.b, '{')
		e.optional("op", o.Op)
		e.optional("path", o.Path)
		if o.Inode != 0 {
			e.number("inode", o.Inode)
		}
		e.optional("mount", o.Mount)
		e.number("uid", uint64(o.UID))
		if o.PID != 0 {
			e.number("pid", uint64(o.PID))
		}
		e.name("decision")
		e.decision(&o.Decision)
		e.b = append(e.b, '}')
	}
	e.b = append(e.b, '}')
}

func (e *encoder) decision(d *Decision) {
	e.b = append(e.b, '{')
	e.optional("effect", d.Effect)
	e.optional("source", d.Source)
	e.optional("policy", d.Policy)
	e.optional("sid", d.Sid)
	if d.Statement != 0 {
		e.name("statement")
		e.b = strconv.AppendInt(e.b, int64(d.Statement), 10)
	}
	e.optional("missing", d.Missing)
	e.b = append(e.b, '}')
}

func (e *encoder) resources(list []Resource) {
	if len(list) == 0 {
		return
	}
	e.name("resources")
	e.b = append(e.b, '[')
	for i := range list {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		e.b = append(e.b, '{')
		e.always("accountId", list[i].AccountID)
		e.always("type", list[i].Type)
		e.always("ARN", list[i].ARN)
		e.b = append(e.b, '}')
	}
	e.b = append(e.b, ']')
}
