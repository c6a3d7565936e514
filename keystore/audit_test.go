package keystore

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/keystore/audit"
)

// TestDeniedEvent is the example of the events' specification, field by field.
func TestDeniedEvent(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	_, wrapped := w.sealFor(arn, payContext)
	_, err := w.Decrypt(viaS3(t, "bob", "s3full"), wrapped, payContext)
	wants(t, err, CodeAccessDenied, "User: "+userARN("bob")+" is not authorized to perform: kms:Decrypt on resource: "+arn+
		" because no identity-based policy allows the kms:Decrypt action")
	e := w.last()
	line, err := e.JSON()
	must(t, err)
	var got map[string]any
	must(t, json.Unmarshal(line, &got))
	delete(got, "eventID")
	delete(got, "requestID")
	var want map[string]any
	must(t, json.Unmarshal([]byte(`{"eventVersion":"1.11",
		"userIdentity":{"type":"IAMUser","principalId":"AIDABOB","arn":"`+userARN("bob")+`","accountId":"111122223333","userName":"bob","invokedBy":"fas.s3.amazonaws.com"},
		"eventTime":"2026-11-23T10:00:00Z","eventSource":"kms.amazonaws.com","eventName":"Decrypt","awsRegion":"us-east-1",
		"sourceIPAddress":"fas.s3.amazonaws.com","userAgent":"fas.s3.amazonaws.com","errorCode":"AccessDenied",
		"errorMessage":"User: `+userARN("bob")+` is not authorized to perform: kms:Decrypt on resource: `+arn+` because no identity-based policy allows the kms:Decrypt action",
		"requestParameters":{"encryptionContext":{"aws:s3:arn":"arn:aws:s3:::pay/q1.csv"},"encryptionAlgorithm":"SYMMETRIC_DEFAULT"},"responseElements":null,
		"additionalEventData":{"x-kmsfs":{"op":"open","path":"/pay/q1.csv","inode":7,"mount":"/mnt/bob","uid":1001,"pid":42,
			"decision":{"effect":"ImplicitDeny","missing":"identity-based policy"}}},
		"readOnly":true,"resources":[{"accountId":"111122223333","type":"AWS::KMS::Key","ARN":"`+arn+`"}],
		"eventType":"AwsApiCall","managementEvent":true,"recipientAccountId":"111122223333","eventCategory":"Management"}`), &want))
	for k := range want {
		a, _ := json.Marshal(got[k])
		b, _ := json.Marshal(want[k])
		if string(a) != string(b) {
			t.Errorf("%s: %s, want %s", k, a, b)
		}
		delete(got, k)
	}
	if len(got) > 0 {
		t.Errorf("more than asked for: %v", got)
	}
}

// TestEveryCallLeavesOneEvent, allowed or refused.
func TestEveryCallLeavesOneEvent(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	w.other = w.key("default")
	admin, bob := w.admin(), as(t, "bob", "s3full")
	must(t, w.CreateAlias(admin, "alias/mine", arn))
	must(t, w.CreateAlias(admin, "alias/other", w.other))
	_, wrapped := w.generate(admin, arn, payContext)
	for _, c := range []*Call{bob, admin} {
		grantID, _, err := w.CreateGrant(admin, arn, CreateGrantInput{Grantee: userARN("gil"), Operations: []string{"Decrypt"}})
		must(t, err)
		for op, do := range doing(w, c, arn, wrapped, grantID, "alias/other") {
			name, _, _ := strings.Cut(op, "(")
			switch op {
			case "RevokeGrant", "RetireGrant", "DeleteAlias", "ScheduleKeyDeletion", "CancelKeyDeletion", "DisableKey":
				continue // they would change what the others meet; tested apart
			}
			before := len(w.events(audit.Filter{}))
			err := do()
			events := w.events(audit.Filter{After: uint64(before)})
			if len(events) != 1 {
				t.Errorf("%s: %d events", op, len(events))
				continue
			}
			e := events[0]
			if e.EventName != name || (e.ErrorCode == "") != (err == nil) || e.UserIdentity.ARN != c.Who.ARN {
				t.Errorf("%s: %s by %s, error %q for %v", op, e.EventName, e.UserIdentity.ARN, e.ErrorCode, err)
			}
			if c == bob && (e.ErrorCode != "AccessDenied" || e.AdditionalEventData.Kmsfs.Decision.Effect != "ImplicitDeny") {
				t.Errorf("%s by bob: %s, %+v", op, e.ErrorCode, e.AdditionalEventData.Kmsfs.Decision)
			}
			if c == admin && e.AdditionalEventData.Kmsfs.Decision.Effect != "Allow" {
				t.Errorf("%s by admin: %+v", op, e.AdditionalEventData.Kmsfs.Decision)
			}
			readOnly := strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "List") || name == "DescribeKey" ||
				strings.HasSuffix(name, "crypt") || strings.HasPrefix(name, "Generate")
			if e.ReadOnly != readOnly {
				t.Errorf("%s: readOnly %v", op, e.ReadOnly)
			}
		}
	}
	for name, do := range map[string]func() error{
		"DisableKey":          func() error { return w.DisableKey(admin, arn) },
		"Decrypt":             func() error { _, err := w.Decrypt(admin, wrapped, payContext); return err },
		"ScheduleKeyDeletion": func() error { return second(w.ScheduleKeyDeletion(bob, arn, 7)) },
		"CancelKeyDeletion":   func() error { return w.CancelKeyDeletion(bob, arn) },
		"DeleteAlias":         func() error { return w.DeleteAlias(bob, "alias/mine") },
		"ListKeys":            func() error { return second(w.ListKeys(bob)) },
		"CreateKey":           func() error { return second(w.CreateKey(bob, CreateKeyInput{})) },
	} {
		before := len(w.events(audit.Filter{}))
		_ = do()
		if e := w.events(audit.Filter{After: uint64(before)}); len(e) != 1 || e[0].EventName != name {
			t.Errorf("%s: %d events", name, len(e))
		}
	}
	if _, err := w.audit.Verify(); err != nil {
		t.Error(err)
	}
}

func TestEventsOfErrors(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	alice := viaS3(t, "alice", "none")
	_, wrapped := w.generate(alice, arn, payContext)
	_, err := w.Decrypt(alice, wrapped, nil)
	wants(t, err, CodeInvalidCiphertext, "")
	if e := w.last(); e.ErrorCode != CodeInvalidCiphertext || e.AdditionalEventData.Kmsfs.Decision.Effect != "Allow" || e.AdditionalEventData.Kmsfs.Decision.Statement != 3 {
		t.Errorf("%+v", e.AdditionalEventData.Kmsfs)
	}
	must(t, w.DisableKey(w.admin(), arn))
	_, err = w.Decrypt(alice, wrapped, payContext)
	wants(t, err, CodeDisabled, "*")
	if e := w.last(); e.ErrorCode != CodeDisabled || e.ErrorMessage != arn+" is disabled." {
		t.Errorf("%s %s", e.ErrorCode, e.ErrorMessage)
	}
	deny := viaS3(t, "carl", "deny-dec")
	_, err = w.Decrypt(deny, wrapped, payContext)
	wants(t, err, CodeAccessDenied, "*")
	if d := w.last().AdditionalEventData.Kmsfs.Decision; d.Effect != "ExplicitDeny" || d.Policy != "deny-dec" || d.Statement != 2 {
		t.Errorf("%+v", d)
	}
}

// TestNoSecretInEvents: neither data keys nor ciphertexts nor policies' secrets; the context does appear.
func TestNoSecretInEvents(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	c := viaS3(t, "alice", "none")
	_, _, err := w.Encrypt(c, arn, []byte("attack at dawn"), payContext)
	must(t, err)
	e := w.last()
	line, err := e.JSON()
	must(t, err)
	if strings.Contains(string(line), "attack") || !strings.Contains(string(line), "pay/q1.csv") {
		t.Errorf("%s", line)
	}
}

// TestContextMayBeReused: the caller's map is his own again when the call returns.
func TestContextMayBeReused(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	ctx := crypto.Context{"aws:s3:arn": "one"}
	_, _ = w.generate(as(t, "alice", "none"), arn, ctx)
	ctx["aws:s3:arn"] = "two"
	if got := w.last().RequestParameters.EncryptionContext["aws:s3:arn"]; got != "one" {
		t.Errorf("the event says %q", got)
	}
}

// TestStrictAudit: where the event cannot be made durable, no key leaves.
func TestStrictAudit(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	_, wrapped := w.generate(w.admin(), arn, nil)
	must(t, w.audit.Close()) // nothing can be logged any more
	dk, err := w.Decrypt(w.admin(), wrapped, nil)
	if dk != nil || Code(err) != CodeInternal {
		t.Errorf("a key left without its event: %v", err)
	}
	dk, blob, _, err := w.GenerateDataKey(w.admin(), arn, nil)
	if dk != nil || blob != nil || Code(err) != CodeInternal {
		t.Errorf("a key left without its event: %v", err)
	}
	w.openAudit(audit.Options{Settings: audit.Settings{Strict: true}})
	w.reopen()
	_, err = w.Decrypt(w.admin(), wrapped, nil)
	must(t, err)
	if w.audit.Head().Sequence == 0 {
		t.Error("not durable")
	}
	if _, err := os.Stat(w.dir + "/audit"); err != nil {
		t.Error(err)
	}
}
