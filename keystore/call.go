package keystore

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Call says who calls, and on behalf of which filesystem operation. It is read during the call only.
type Call struct {
	Who   *policy.Identity // nil is refused
	ViaS3 bool             // made by the filesystem for the caller: kms:ViaService and its kin are set

	// What follows is written into the audit event and decides nothing.
	Op, Path, Mount string
	UID, PID        uint32
	Inode           uint64
	UserAgent       string

	// SourceIP is the client's address on TCP, and empty otherwise (then aws:SourceIp is absent). Insecure makes
	// aws:SecureTransport false.
	SourceIP string
	Insecure bool

	// What the wire protocol adds to the event; empty otherwise.
	AccessKeyID, RequestID string

	// DryRun has a call checked and authorised, but not done: it ends with DryRunOperationException. Operations that know it
	// are Encrypt, Decrypt, ReEncrypt, GenerateDataKey in all its forms, CreateGrant, RevokeGrant and RetireGrant.
	DryRun bool
}

// operation is one KMS operation: its name in events, its action in policies, its row of the state table.
type operation struct {
	name, action string
	readOnly     bool
	crypto       bool // has an encryption context and an algorithm
	states       states
}

func reading(name string, st states) *operation {
	return &operation{name: name, action: "kms:" + name, readOnly: true, states: st}
}

func changes(name string, st states) *operation {
	return &operation{name: name, action: "kms:" + name, states: st}
}

func using(name string) *operation {
	return &operation{name: name, action: "kms:" + name, readOnly: true, crypto: true, states: forUse}
}

// The operations.
var (
	opEncrypt                         = using("Encrypt")
	opDecrypt                         = using("Decrypt")
	opGenerateDataKey                 = using("GenerateDataKey")
	opGenerateDataKeyWithoutPlaintext = using("GenerateDataKeyWithoutPlaintext")
	opReEncrypt                       = using("ReEncrypt")

	opCheck = using("Check")

	opCreateKey            = changes("CreateKey", inAllStates)
	opDescribeKey          = reading("DescribeKey", inAllStates)
	opListKeys             = reading("ListKeys", inAllStates)
	opUpdateKeyDescription = changes("UpdateKeyDescription", unlessDeleting)
	opEnableKey            = changes("EnableKey", forSwitching)
	opDisableKey           = changes("DisableKey", forSwitching)
	opScheduleKeyDeletion  = changes("ScheduleKeyDeletion", unlessDeleting)
	opCancelKeyDeletion    = changes("CancelKeyDeletion", forCancelling)
	opGetKeyPolicy         = reading("GetKeyPolicy", inAllStates)
	opPutKeyPolicy         = changes("PutKeyPolicy", inAllStates)
	opListKeyPolicies      = reading("ListKeyPolicies", inAllStates)
	opTagResource          = changes("TagResource", unlessDeleting)
	opUntagResource        = changes("UntagResource", unlessDeleting)
	opListResourceTags     = reading("ListResourceTags", inAllStates)
	opCreateAlias          = changes("CreateAlias", unlessDeleting)
	opUpdateAlias          = changes("UpdateAlias", unlessDeleting) // the row is for the new target
	opDeleteAlias          = changes("DeleteAlias", inAllStates)
	opListAliases          = reading("ListAliases", inAllStates)
	opCreateGrant          = changes("CreateGrant", forGrants)
	opListGrants           = reading("ListGrants", inAllStates)
	opListRetirableGrants  = reading("ListRetirableGrants", inAllStates)
	opRevokeGrant          = changes("RevokeGrant", inAllStates)
	opRetireGrant          = changes("RetireGrant", inAllStates)
	opEnableKeyRotation    = changes("EnableKeyRotation", forSchedule)
	opDisableKeyRotation   = changes("DisableKeyRotation", forSchedule)
	opGetKeyRotationStatus = reading("GetKeyRotationStatus", forStatus)
	opListKeyRotations     = reading("ListKeyRotations", inAllStates)
	opRotateKeyOnDemand    = changes("RotateKeyOnDemand", forUse)
)

// trail follows one call from its begin to its audit event.
type trail struct {
	s   *Service
	c   *Call
	op  *operation
	now time.Time

	asked    bool // decision is set
	decision policy.Decision

	*entry // nil for calls that leave no event, and when the event is written
}

// entry is the event of a call and all it points to, allocated at once, and used again when the log has it.
type entry struct {
	event      audit.Event
	params     audit.Parameters
	additional audit.AdditionalEventData
	origin     audit.Origin
	resources  [2]audit.Resource
}

var entries = sync.Pool{New: func() any { return new(entry) }}

const viaS3Agent = "fas.s3.amazonaws.com"

func (s *Service) begin(c *Call, op *operation, p audit.Parameters) *trail {
	t := &trail{s: s, c: c, op: op, now: s.clock(), entry: entries.Get().(*entry)}
	t.params = p
	t.origin = audit.Origin{Op: c.Op, Path: c.Path, Inode: c.Inode, Mount: c.Mount, UID: c.UID, PID: c.PID}
	t.additional.Kmsfs = &t.origin
	t.event = audit.Event{
		EventTime: audit.Time{Time: t.now}, EventName: op.name, AWSRegion: s.region, ReadOnly: op.readOnly,
		SourceIPAddress: c.SourceIP, UserAgent: c.UserAgent, ManagementEvent: true, RecipientAccountID: s.account,
		RequestParameters: &t.params, AdditionalEventData: &t.additional, RequestID: c.RequestID,
	}
	if c.Who != nil {
		t.event.UserIdentity = userIdentity(c.Who)
	}
	t.event.UserIdentity.AccessKeyID = c.AccessKeyID
	if c.ViaS3 {
		t.event.UserIdentity.InvokedBy = viaS3Agent
		t.event.SourceIPAddress, t.event.UserAgent = viaS3Agent, viaS3Agent
	}
	return t
}

func userIdentity(who *policy.Identity) audit.UserIdentity {
	u := audit.UserIdentity{PrincipalID: who.ID, ARN: who.ARN, AccountID: who.Account}
	switch who.Type {
	case policy.RootUser:
		u.Type = "Root"
	case policy.User:
		u.Type, u.UserName = "IAMUser", who.Name
	case policy.Session:
		u.Type = "AssumedRole"
		role := who.RoleARN[strings.LastIndexByte(who.RoleARN, '/')+1:]
		u.SessionContext = &audit.SessionContext{SessionIssuer: audit.SessionIssuer{
			Type: "Role", ARN: who.RoleARN, AccountID: who.Account, UserName: role,
		}}
	}
	return u
}

// resource adds a key to the event.
func (t *trail) resource(arn string) {
	if t.entry == nil {
		return
	}
	n := len(t.event.Resources)
	if n == len(t.resources) || n == 1 && t.resources[0].ARN == arn {
		return
	}
	t.resources[n] = audit.Resource{AccountID: t.s.account, Type: "AWS::KMS::Key", ARN: arn}
	t.event.Resources = t.resources[:n+1]
}

func (t *trail) respond(elements map[string]any) { t.event.ResponseElements = elements }

// end writes the event and returns err, completed by the decision. Where the log cannot take the event (a strict log that
// cannot write), the call fails with that.
func (t *trail) end(err error) error {
	if err == nil && t.c.DryRun {
		err = errDryRun
	}
	if err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			e = &Error{Code: CodeInternal, Message: err.Error(), cause: err}
		}
		if e.Decision == nil && t.asked {
			c, d := *e, t.decision // a copy: refusals may be shared
			c.Decision = &d
			e = &c
		}
		err = e
		t.event.ErrorCode, t.event.ErrorMessage = strings.TrimSuffix(e.Code, "Exception"), e.Message
		if e.Code != CodeAccessDenied {
			t.event.ErrorCode = e.Code
		}
		t.event.ResponseElements = nil
	}
	if t.asked {
		d := &t.decision
		t.origin.Decision = audit.Decision{
			Effect: effectName(d.Effect), Policy: d.Policy, Sid: d.Sid, Statement: d.Statement, Missing: d.Missing,
		}
		if d.Source != policy.None {
			t.origin.Decision.Source = d.Source.String()
		}
	}
	logged := t.s.audit.Append(&t.event)
	*t.entry = entry{}
	entries.Put(t.entry)
	t.entry = nil
	if logged != nil && err == nil {
		return &Error{Code: CodeInternal, Message: "the audit event could not be written", cause: logged}
	}
	return err
}

func effectName(e policy.Effect) string {
	switch e {
	case policy.Allow:
		return "Allow"
	case policy.ExplicitDeny:
		return "ExplicitDeny"
	default:
		return "ImplicitDeny"
	}
}

// judge keeps the decision that an event tells: the refusal, or else the last allow.
func (t *trail) judge(d policy.Decision) error {
	t.decision, t.asked = d, true
	if d.Allowed() {
		return nil
	}
	return accessDenied(&t.decision)
}

func accessDenied(d *policy.Decision) *Error {
	c := *d
	return &Error{Code: CodeAccessDenied, Message: c.Reason(), Decision: &c}
}

var errNoCaller = &Error{Code: CodeAccessDenied, Message: "The request has no caller."}

// allow asks whether the caller may do action on a key.
func (t *trail) allow(action string, k *key, snap *snapshot, ctx crypto.Context, keys *requestKeys) error {
	return t.allowGrant(action, k, snap, ctx, keys, nil)
}

func (t *trail) allowGrant(action string, k *key, snap *snapshot, ctx crypto.Context, keys *requestKeys, grant *policy.Grant) error {
	if t.c.Who == nil {
		return errNoCaller
	}
	err := t.judge(t.s.decide(t.c, action, k, snap, ctx, keys, grant))
	if err == nil && snap.deleted() {
		return doesNotExist(k.arn)
	}
	if err != nil && snap.deleted() && t.mayKnow(action, k.arn) {
		return doesNotExist(k.arn)
	}
	return err
}

// mayKnow says whether the caller's identity policies allow an action on a key that does not exist: only then is he told so.
func (t *trail) mayKnow(action, arn string) bool {
	if t.c.Who == nil {
		return false
	}
	keys := requestKeys{s: t.s, c: t.c}
	return policy.DecideIdentity(t.c.Who, &policy.Request{
		Action: action, Resource: arn, Keys: &keys, ResourceAccount: t.s.account, Clock: t.s.clock,
	}).Allowed()
}

// missing turns "does not exist" into a refusal for who may not know.
func (t *trail) missing(action string, err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.missing == "" || t.mayKnow(action, e.missing) {
		return err
	}
	if t.c.Who == nil {
		return errNoCaller
	}
	d := policy.DecideIdentity(t.c.Who, &policy.Request{Action: action, Resource: e.missing, ResourceAccount: t.s.account, Clock: t.s.clock})
	t.decision, t.asked = d, true
	return accessDenied(&d)
}

// allowIdentity asks for an action that no key policy is asked about. A nil keys has the common condition keys.
func (t *trail) allowIdentity(action, resource string, extra policy.MapKeys) error {
	if t.c.Who == nil {
		return errNoCaller
	}
	keys := requestKeys{s: t.s, c: t.c, extra: extra}
	return t.judge(policy.DecideIdentity(t.c.Who, &policy.Request{
		Action: action, Resource: resource, Keys: &keys, ResourceAccount: t.s.account, Clock: t.s.clock,
	}))
}

// decide is the decision about an action on a key. ctx is nil for what has no encryption context.
func (s *Service) decide(c *Call, action string, k *key, snap *snapshot, ctx crypto.Context, keys *requestKeys, grant *policy.Grant) policy.Decision {
	if keys == nil {
		keys = &requestKeys{}
	}
	keys.s, keys.c, keys.snap = s, c, snap
	req := policy.Request{
		Action: action, Resource: k.arn, ResourceAccount: s.account, Keys: keys, Context: ctx, Grant: grant, Clock: s.clock,
	}
	return policy.DecideKMS(c.Who, &req, snap.policy, snap.grants.of(c.Who))
}

// requestKeys supplies the condition keys of a call; what a policy does not ask for costs nothing.
type requestKeys struct {
	s      *Service
	c      *Call
	snap   *snapshot      // nil for calls without a key
	alias  string         // the alias by which the request names the key
	crypto bool           //
	same   *bool          // kms:ReEncryptOnSameKey
	extra  policy.MapKeys // the operation's own
	asked  *bool          // set if the encryption context is asked for here, which happens for requests that have none
}

// Lookup implements policy.Keys.
func (r *requestKeys) Lookup(name string) ([]string, bool) {
	if v, ok := r.extra[name]; ok {
		return v, true
	}
	if r.asked != nil && strings.HasPrefix(name, "kms:encryptioncontext") {
		*r.asked = true
	}
	switch name {
	case "kms:viaservice":
		return r.s.via, r.c.ViaS3
	case "aws:calledvia", "aws:calledviafirst", "aws:calledvialast":
		return r.s.called, r.c.ViaS3
	case "aws:viaawsservice":
		return one(boolText(r.c.ViaS3))
	case "aws:securetransport":
		return one(boolText(!r.c.Insecure))
	case "aws:sourceip":
		return one(r.c.SourceIP)
	case "kms:requestalias":
		return one(r.alias)
	case "kms:encryptionalgorithm":
		if r.crypto {
			return one(Algorithm)
		}
	case "kms:reencryptonsamekey":
		if r.same != nil {
			return one(boolText(*r.same))
		}
	}
	if r.snap == nil || r.snap.rec == nil {
		return nil, false
	}
	return r.ofKey(name)
}

// ofKey are the condition keys that follow from the key.
func (r *requestKeys) ofKey(name string) ([]string, bool) {
	switch name {
	case "kms:resourcealiases":
		return r.snap.aliases, len(r.snap.aliases) > 0
	case "kms:keyspec":
		return one(Spec)
	case "kms:keyusage":
		return one(Usage)
	case "kms:keyorigin":
		return one(r.snap.rec.Origin)
	case "kms:multiregion":
		return one("false")
	case "aws:resourceaccount":
		return r.s.accountID, true
	}
	if tag, ok := strings.CutPrefix(name, "aws:resourcetag/"); ok {
		for _, t := range r.snap.rec.Tags {
			if strings.EqualFold(t.Key, tag) {
				return one(t.Value)
			}
		}
	}
	return nil, false
}

func one(s string) ([]string, bool) {
	if s == "" {
		return nil, false
	}
	return []string{s}, true
}

func boolText(b bool) string { return strconv.FormatBool(b) }
