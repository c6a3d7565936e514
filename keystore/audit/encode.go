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
	b      []byte
	packed bool // words stand for themselves: see pack.go
	err    error
}

// contextARN is the name that the encryption context of an object has.
const contextARN = "aws:s3:arn"

// name begins a member. It ends in a colon, so that what comes before it is an opening brace or the end of another member.
func (e *encoder) name(name word) {
	if e.b[len(e.b)-1] != '{' {
		e.b = append(e.b, ',')
	}
	e.word(name)
}

// word is an entry of the dictionary.
func (e *encoder) word(w word) {
	if e.packed {
		e.b = append(e.b, byte(w))
	} else {
		e.b = append(e.b, words[w-firstWord]...)
	}
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
	e.b = append(e.b, '"')
	if e.packed {
		e.b = packText(e.b, s)
	} else {
		e.b = append(e.b, s...)
	}
	e.b = append(e.b, '"')
}

// known is a string value that is in the dictionary as a rule.
func (e *encoder) known(name word, s string) {
	e.name(name)
	if w, ok := values[s]; ok && e.packed {
		e.b = append(e.b, byte(w))
		return
	}
	e.text(s)
}

// value is any value, by encoding/json.
func (e *encoder) value(v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil && e.err == nil {
		e.err = err
	}
	text := bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
	if e.packed {
		e.b = packLiteral(e.b, text)
	} else {
		e.b = append(e.b, text...)
	}
}

func (e *encoder) always(name word, s string) {
	e.name(name)
	e.text(s)
}

func (e *encoder) optional(name word, s string) {
	if s != "" {
		e.always(name, s)
	}
}

func (e *encoder) number(name word, n uint64) {
	e.name(name)
	e.b = strconv.AppendUint(e.b, n, 10)
}

func (e *encoder) boolean(name word, v bool) {
	e.name(name)
	e.b = strconv.AppendBool(e.b, v)
}

func (e *encoder) pairs(name word, m map[string]string) {
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
	if k == contextARN {
		e.always(wContextARN, v)
		return
	}
	if c := e.b[len(e.b)-1]; c != '{' {
		e.b = append(e.b, ',')
	}
	e.text(k)
	e.b = append(e.b, ':')
	e.text(v)
}

// appendJSON appends the event as one line without a line feed.
func (e *Event) appendJSON(dst []byte) ([]byte, error) {
	return e.encode(&encoder{b: append(dst, '{')})
}

// appendPacked appends the event packed (pack.go).
func (e *Event) appendPacked(dst []byte) ([]byte, error) {
	return e.encode(&encoder{b: append(dst, packedMark, '{'), packed: true})
}

// encode completes an event of which the encoder has the beginning.
func (e *Event) encode(enc *encoder) ([]byte, error) {
	enc.known(wEventVersion, e.EventVersion)
	enc.name(wUserIdentity)
	enc.identity(&e.UserIdentity)
	enc.name(wEventTime)
	enc.b = append(enc.b, '"')
	enc.b = e.EventTime.UTC().AppendFormat(enc.b, time.RFC3339) // as timeLayout has it in UTC, and in half the time
	enc.b = append(enc.b, '"')
	enc.known(wEventSource, e.EventSource)
	enc.known(wEventName, e.EventName)
	enc.always(wAWSRegion, e.AWSRegion)
	enc.optional(wSourceIPAddress, e.SourceIPAddress)
	enc.optional(wUserAgent, e.UserAgent)
	enc.optional(wErrorCode, e.ErrorCode)
	enc.optional(wErrorMessage, e.ErrorMessage)
	enc.name(wRequestParameters)
	enc.parameters(e.RequestParameters)
	enc.name(wResponseElements)
	if e.ResponseElements == nil {
		enc.b = append(enc.b, "null"...)
	} else {
		enc.value(e.ResponseElements)
	}
	if len(e.ServiceEventDetails) > 0 {
		enc.name(wServiceEventDetails)
		enc.value(e.ServiceEventDetails)
	}
	if e.AdditionalEventData != nil {
		enc.name(wAdditionalEventData)
		enc.additional(e.AdditionalEventData)
	}
	enc.always(wRequestID, e.RequestID)
	enc.always(wEventID, e.EventID)
	enc.boolean(wReadOnly, e.ReadOnly)
	enc.resources(e.Resources)
	enc.known(wEventType, e.EventType)
	enc.boolean(wManagementEvent, e.ManagementEvent)
	enc.always(wRecipientAccountID, e.RecipientAccountID)
	enc.known(wEventCategory, e.EventCategory)
	if enc.err != nil {
		return nil, fmt.Errorf("audit: encode event %s: %w", e.EventName, enc.err)
	}
	return append(enc.b, '}'), nil
}

func (e *encoder) identity(u *UserIdentity) {
	e.b = append(e.b, '{')
	e.optional(wType, u.Type)
	e.optional(wPrincipalID, u.PrincipalID)
	e.optional(wArn, u.ARN)
	e.optional(wAccountID, u.AccountID)
	e.optional(wAccessKeyID, u.AccessKeyID)
	e.optional(wUserName, u.UserName)
	if u.SessionContext != nil {
		e.name(wSessionContext)
		e.value(u.SessionContext)
	}
	e.optional(wInvokedBy, u.InvokedBy)
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
	e.optional(wKeyID, p.KeyID)
	e.optional(wKeySpec, p.KeySpec)
	e.optional(wEncryptionAlgorithm, p.EncryptionAlgorithm)
	e.pairs(wEncryptionContext, p.EncryptionContext)
	e.optional(wSourceKeyID, p.SourceKeyID)
	e.pairs(wSourceEncryptionContext, p.SourceEncryptionContext)
	e.optional(wSourceEncryptionAlgorithm, p.SourceEncryptionAlgorithm)
	e.optional(wDestinationKeyID, p.DestinationKeyID)
	e.pairs(wDestinationEncryptionContext, p.DestinationEncryptionContext)
	e.optional(wDestinationEncryptionAlgorithm, p.DestinationEncryptionAlgorithm)
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
	e.optional(wSSEApplied, a.SSEApplied)
	if o := a.Kmsfs; o != nil {
		e.name(wXKmsfs)
		e.b = append(e.b, '{')
		e.optional(wOp, o.Op)
		e.optional(wPath, o.Path)
		if o.Inode != 0 {
			e.number(wInode, o.Inode)
		}
		e.optional(wMount, o.Mount)
		e.number(wUID, uint64(o.UID))
		if o.PID != 0 {
			e.number(wPID, uint64(o.PID))
		}
		e.name(wDecision)
		e.decision(&o.Decision)
		e.b = append(e.b, '}')
	}
	e.b = append(e.b, '}')
}

func (e *encoder) decision(d *Decision) {
	e.b = append(e.b, '{')
	e.optional(wEffect, d.Effect)
	e.optional(wSource, d.Source)
	e.optional(wPolicy, d.Policy)
	e.optional(wSID, d.Sid)
	if d.Statement != 0 {
		e.name(wStatement)
		e.b = strconv.AppendInt(e.b, int64(d.Statement), 10)
	}
	e.optional(wMissing, d.Missing)
	e.b = append(e.b, '}')
}

func (e *encoder) resources(list []Resource) {
	if len(list) == 0 {
		return
	}
	e.name(wResources)
	e.b = append(e.b, '[')
	for i := range list {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		e.b = append(e.b, '{')
		e.always(wAccountID, list[i].AccountID)
		e.known(wType, list[i].Type)
		e.always(wARN, list[i].ARN)
		e.b = append(e.b, '}')
	}
	e.b = append(e.b, ']')
}
