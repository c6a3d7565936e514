package audit

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"
)

// Time is an instant printed as CloudTrail prints it: UTC, whole seconds.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05Z"

// MarshalJSON prints the instant as "2026-11-23T10:00:00Z".
func (t Time) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, len(timeLayout)+2)
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, timeLayout)
	return append(b, '"'), nil
}

// UnmarshalJSON reads what MarshalJSON prints.
func (t *Time) UnmarshalJSON(b []byte) error {
	v, err := time.Parse(`"`+timeLayout+`"`, string(b))
	if err != nil {
		return fmt.Errorf("audit: event time: %w", err)
	}
	t.Time = v
	return nil
}

// Event is one decision about a key, in CloudTrail's shape. Who hands an event to Append gives it away: neither the
// event nor anything it points to may be changed afterwards. Plaintext, ciphertext and key bytes have no field here on
// purpose; the encryption context and object names do appear.
type Event struct {
	EventVersion        string               `json:"eventVersion"` // "1.11" when left empty
	UserIdentity        UserIdentity         `json:"userIdentity"`
	EventTime           Time                 `json:"eventTime"`   // the log's clock when left zero
	EventSource         string               `json:"eventSource"` // "kms.amazonaws.com" when left empty
	EventName           string               `json:"eventName"`
	AWSRegion           string               `json:"awsRegion"`
	SourceIPAddress     string               `json:"sourceIPAddress,omitempty"`
	UserAgent           string               `json:"userAgent,omitempty"`
	ErrorCode           string               `json:"errorCode,omitempty"`
	ErrorMessage        string               `json:"errorMessage,omitempty"`
	RequestParameters   *Parameters          `json:"requestParameters"`
	ResponseElements    map[string]any       `json:"responseElements"`
	ServiceEventDetails map[string]any       `json:"serviceEventDetails,omitempty"`
	AdditionalEventData *AdditionalEventData `json:"additionalEventData,omitempty"`
	RequestID           string               `json:"requestID"` // a random UUID when left empty
	EventID             string               `json:"eventID"`   // a random UUID when left empty
	ReadOnly            bool                 `json:"readOnly"`
	Resources           []Resource           `json:"resources,omitempty"`
	EventType           string               `json:"eventType"` // AwsApiCall (when left empty) or AwsServiceEvent
	ManagementEvent     bool                 `json:"managementEvent"`
	RecipientAccountID  string               `json:"recipientAccountId"`
	EventCategory       string               `json:"eventCategory"` // "Management" when left empty

	// Sequence is the record's number in the log, from 1. The log sets it; it is not part of the JSON.
	Sequence uint64 `json:"-"`
}

// UserIdentity says who asked.
type UserIdentity struct {
	Type           string          `json:"type,omitempty"` // Root, IAMUser, AssumedRole, AWSService
	PrincipalID    string          `json:"principalId,omitempty"`
	ARN            string          `json:"arn,omitempty"`
	AccountID      string          `json:"accountId,omitempty"`
	AccessKeyID    string          `json:"accessKeyId,omitempty"`
	UserName       string          `json:"userName,omitempty"`
	SessionContext *SessionContext `json:"sessionContext,omitempty"`
	InvokedBy      string          `json:"invokedBy,omitempty"`
}

// SessionContext names the role behind a session.
type SessionContext struct {
	SessionIssuer SessionIssuer `json:"sessionIssuer"`
}

// SessionIssuer is the role of a session.
type SessionIssuer struct {
	Type      string `json:"type,omitempty"`
	ARN       string `json:"arn,omitempty"`
	AccountID string `json:"accountId,omitempty"`
	UserName  string `json:"userName,omitempty"`
}

// Resource is a key that the call was about.
type Resource struct {
	AccountID string `json:"accountId"`
	Type      string `json:"type"` // AWS::KMS::Key
	ARN       string `json:"ARN"`
}

// Parameters are a call's inputs, as far as they may be written down. Only what the call carried is set; Extra holds
// what calls of other services (iam.amazonaws.com, s3.amazonaws.com) carry.
type Parameters struct {
	KeyID                          string            `json:"keyId,omitempty"`
	KeySpec                        string            `json:"keySpec,omitempty"`
	NumberOfBytes                  int               `json:"numberOfBytes,omitempty"`
	EncryptionAlgorithm            string            `json:"encryptionAlgorithm,omitempty"`
	EncryptionContext              map[string]string `json:"encryptionContext,omitempty"`
	SourceKeyID                    string            `json:"sourceKeyId,omitempty"`
	SourceEncryptionContext        map[string]string `json:"sourceEncryptionContext,omitempty"`
	SourceEncryptionAlgorithm      string            `json:"sourceEncryptionAlgorithm,omitempty"`
	DestinationKeyID               string            `json:"destinationKeyId,omitempty"`
	DestinationEncryptionContext   map[string]string `json:"destinationEncryptionContext,omitempty"`
	DestinationEncryptionAlgorithm string            `json:"destinationEncryptionAlgorithm,omitempty"`
	AliasName                      string            `json:"aliasName,omitempty"`
	TargetKeyID                    string            `json:"targetKeyId,omitempty"`
	Description                    string            `json:"description,omitempty"`
	Policy                         string            `json:"policy,omitempty"`
	PolicyName                     string            `json:"policyName,omitempty"`
	BypassPolicyLockoutSafetyCheck bool              `json:"bypassPolicyLockoutSafetyCheck,omitempty"`
	PendingWindowInDays            int               `json:"pendingWindowInDays,omitempty"`
	RotationPeriodInDays           int               `json:"rotationPeriodInDays,omitempty"`
	GranteePrincipal               string            `json:"granteePrincipal,omitempty"`
	RetiringPrincipal              string            `json:"retiringPrincipal,omitempty"`
	Operations                     []string          `json:"operations,omitempty"`
	Constraints                    *GrantConstraints `json:"constraints,omitempty"`
	GrantID                        string            `json:"grantId,omitempty"`
	Name                           string            `json:"name,omitempty"`
	TagKeys                        []string          `json:"tagKeys,omitempty"`
	Tags                           []Tag             `json:"tags,omitempty"`
	Extra                          map[string]any    `json:"extra,omitempty"`
}

// GrantConstraints are the limits of a grant.
type GrantConstraints struct {
	EncryptionContextSubset map[string]string `json:"encryptionContextSubset,omitempty"`
	EncryptionContextEquals map[string]string `json:"encryptionContextEquals,omitempty"`
}

// Tag is a key's tag.
type Tag struct {
	TagKey   string `json:"tagKey"`
	TagValue string `json:"tagValue"`
}

// AdditionalEventData holds what CloudTrail has no field for.
type AdditionalEventData struct {
	SSEApplied string  `json:"SSEApplied,omitempty"`
	Kmsfs      *Origin `json:"x-kmsfs,omitempty"`
}

// Origin is the filesystem operation behind a call, and the decision about it. UID and PID are the calling process's:
// they are written down, they decide nothing. Path is text: who fills it has percent-encoded what is not UTF-8.
type Origin struct {
	Op       string   `json:"op,omitempty"`
	Path     string   `json:"path,omitempty"`
	Inode    uint64   `json:"inode,omitempty"`
	Mount    string   `json:"mount,omitempty"`
	UID      uint32   `json:"uid"`
	PID      uint32   `json:"pid,omitempty"`
	Decision Decision `json:"decision"`
}

// Decision is the answer of the policies: which effect, and which statement of which policy.
type Decision struct {
	Effect    string `json:"effect,omitempty"` // Allow, ExplicitDeny, ImplicitDeny
	Source    string `json:"source,omitempty"`
	Policy    string `json:"policy,omitempty"`
	Sid       string `json:"sid,omitempty"`
	Statement int    `json:"statement,omitempty"` // index of the statement that decided, in its policy
	Missing   string `json:"missing,omitempty"`
}

// JSON is the event as one line without a line feed.
func (e *Event) JSON() ([]byte, error) { return e.appendJSON(nil) }

// ParseEvent reads what JSON prints.
func ParseEvent(line []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, fmt.Errorf("audit: decode event: %w", err)
	}
	return e, nil
}

// complete fills the fields that every event has. It runs in the writer, not in the caller of Append.
func (e *Event) complete() {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&e.EventVersion, "1.11")
	set(&e.EventSource, "kms.amazonaws.com")
	set(&e.EventType, "AwsApiCall")
	set(&e.EventCategory, "Management")
	set(&e.RecipientAccountID, e.UserIdentity.AccountID)
	if e.RequestID != "" && e.EventID != "" {
		return
	}
	ids := newIDs()
	if e.RequestID == "" {
		e.RequestID = ids[:idSize]
	}
	if e.EventID == "" {
		e.EventID = ids[idSize:]
	}
}

const idSize = 36

// newIDs is two random (version 4) UUIDs, one after the other.
func newIDs() string {
	var u [2 * uuidSize]byte
	rand.Read(u[:]) // never fails: it ends the program where the kernel has no randomness
	var text [2 * idSize]byte
	s := text[:0]
	for id := u[:]; len(id) > 0; id = id[uuidSize:] {
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
		s = appendUUID(s, [uuidSize]byte(id))
	}
	return string(s)
}
