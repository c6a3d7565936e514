package keystore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/keystore/audit"
)

func TestDataKeyRoundTrip(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	must(t, w.CreateAlias(w.admin(), "alias/my-key", arn))
	c := viaS3(t, "alice", "none")
	id := arn[strings.LastIndexByte(arn, '/')+1:]
	for _, ref := range []string{arn, id, "alias/my-key", "arn:aws:kms:us-east-1:111122223333:alias/my-key"} {
		dk, wrapped, got, err := w.GenerateDataKey(c, ref, payContext)
		must(t, err)
		if got != arn {
			t.Errorf("%s: key %s", ref, got)
		}
		again, err := w.Decrypt(c, wrapped, payContext)
		must(t, err)
		if !again.Equal(dk) {
			t.Errorf("%s: another data key", ref)
		}
	}
}

func TestEncryptLimits(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	c := as(t, "alice", "none")
	blob, _, err := w.Encrypt(c, arn, bytes.Repeat([]byte{1}, 4096), payContext)
	must(t, err)
	got, err := w.DecryptBytes(c, blob, payContext, arn)
	must(t, err)
	if len(got.Plaintext) != 4096 {
		t.Error("another plaintext")
	}
	_, _, err = w.Encrypt(c, arn, make([]byte, 4097), nil)
	wants(t, err, CodeValidation, "1 validation error detected: Value at 'plaintext' failed to satisfy constraint: Member must have length less than or equal to 4096")
	_, _, err = w.Encrypt(c, arn, nil, nil)
	wants(t, err, CodeValidation, "*")
	_, _, err = w.Encrypt(c, arn, []byte("x"), crypto.Context{"k": strings.Repeat("v", 8192)})
	wants(t, err, CodeValidation, "*")
	_, err = w.Decrypt(c, make([]byte, 6145), nil)
	wants(t, err, CodeValidation, "*")
	_, err = w.Decrypt(c, nil, nil)
	wants(t, err, CodeValidation, "*")
	_, _, _, err = w.GenerateDataKeyBytes(c, arn, 1025, true, nil)
	wants(t, err, CodeValidation, "*")
	p, blob, _, err := w.GenerateDataKeyBytes(c, arn, 16, true, nil)
	must(t, err)
	got, err = w.DecryptBytes(c, blob, nil, "")
	must(t, err)
	if !bytes.Equal(got.Plaintext, p) || len(p) != 16 {
		t.Error("another plaintext")
	}
}

func TestBadCiphertexts(t *testing.T) {
	w := newWorld(t)
	arn, other := w.key("console"), w.key("console")
	c := as(t, "alice", "none")
	_, wrapped := w.generate(c, arn, payContext)
	for i := range wrapped {
		b := bytes.Clone(wrapped)
		b[i] ^= 1
		_, err := w.Decrypt(c, b, payContext)
		// A changed key id names a key that does not exist, which this caller may not know.
		if i >= 4 && i < 20 {
			wants(t, err, CodeAccessDenied, "*")
		} else {
			wants(t, err, CodeInvalidCiphertext, "")
		}
	}
	_, err := w.Decrypt(c, wrapped[:len(wrapped)-1], payContext)
	wants(t, err, CodeInvalidCiphertext, "")
	_, err = w.Decrypt(c, []byte("rubbish"), payContext)
	wants(t, err, CodeInvalidCiphertext, "")
	_, err = w.DecryptBytes(c, wrapped, payContext, other)
	wants(t, err, CodeIncorrectKey, "The key ID in the request does not identify a CMK that can perform this operation.")
	short, _, err := w.Encrypt(c, arn, []byte("not a data key"), nil)
	must(t, err)
	_, err = w.Decrypt(c, short, nil)
	wants(t, err, CodeInvalidCiphertext, "")
}

func TestReEncrypt(t *testing.T) {
	w := newWorld(t)
	from, to := w.key("console"), w.key("console")
	c := viaS3(t, "alice", "none")
	dk, wrapped := w.generate(c, from, payContext)
	moved := crypto.Context{"aws:s3:arn": "arn:aws:s3:::pay/new"}
	again, arn, err := w.ReEncrypt(c, wrapped, payContext, to, moved)
	must(t, err)
	got, err := w.Decrypt(c, again, moved)
	must(t, err)
	if arn != to || !got.Equal(dk) {
		t.Error("another data key, or another key")
	}
	_, err = w.Decrypt(c, again, payContext)
	wants(t, err, CodeInvalidCiphertext, "")

	// bob may do nothing on the target, or nothing on the source.
	open := w.key("default")
	bob := as(t, "bob", "dec-key")
	bob.Who.Policies = who(t, userARN("x"), "admin").Policies
	_, _, err = w.ReEncrypt(bob, wrapped, payContext, open, moved)
	must(t, err) // the console policy delegates to the account
	_, _, err = w.ReEncrypt(as(t, "bob", "s3full"), wrapped, payContext, open, moved)
	wants(t, err, CodeAccessDenied, "*")
	must(t, w.DisableKey(w.admin(), to))
	_, _, err = w.ReEncrypt(c, wrapped, payContext, to, moved)
	wants(t, err, CodeDisabled, to+" is disabled.")
}

// TestUpdateObjectEncryptionAsksForMore: through S3, ReEncryptFrom and ReEncryptTo alone do not suffice.
func TestUpdateObjectEncryptionAsksForMore(t *testing.T) {
	w := newWorld(t)
	policyText := `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Principal":{"AWS":"` + userARN("admin") + `"},"Action":"kms:*","Resource":"*"},
		{"Effect":"Allow","Principal":{"AWS":"` + userARN("alice") + `"},"Action":"kms:ReEncrypt*","Resource":"*"}]}`
	m, err := w.CreateKey(w.admin(), CreateKeyInput{Policy: []byte(policyText)})
	must(t, err)
	_, wrapped := w.generate(w.admin(), m.ARN, payContext)
	_, _, err = w.ReEncrypt(as(t, "alice", "none"), wrapped, payContext, m.ARN, nil)
	must(t, err)
	_, _, err = w.ReEncrypt(viaS3(t, "alice", "none"), wrapped, payContext, m.ARN, nil)
	wants(t, err, CodeAccessDenied, "*")
	if e := w.last(); !strings.Contains(e.ErrorMessage, "kms:Decrypt") {
		t.Errorf("refused for %s", e.ErrorMessage)
	}
}

func TestStoreKey(t *testing.T) {
	w := newWorld(t)
	before := len(w.events(audit.Filter{}))
	dk, wrapped, err := w.GenerateStoreKey(payContext)
	must(t, err)
	got, err := w.DecryptStoreKey(wrapped, payContext)
	must(t, err)
	if !got.Equal(dk) || !w.StoreKey(wrapped) {
		t.Error("another data key")
	}
	_, err = w.DecryptStoreKey(wrapped, nil)
	wants(t, err, CodeInvalidCiphertext, "")
	if n := len(w.events(audit.Filter{})); n != before {
		t.Errorf("%d events for SSE-S3", n-before)
	}
	// No call finds the store key, whoever makes it.
	arn, err := w.KeyARN(wrapped)
	must(t, err)
	for name, err := range map[string]error{
		"Decrypt":     second(w.Decrypt(w.admin(), wrapped, payContext)),
		"DescribeKey": second(w.DescribeKey(w.admin(), arn)),
		"Resolve":     second(w.Resolve(arn)),
		"Disable":     w.DisableKey(w.admin(), arn),
		"Schedule":    second(w.ScheduleKeyDeletion(w.admin(), arn, 7)),
	} {
		if Code(err) != CodeNotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.reopen()
	got, err = w.DecryptStoreKey(wrapped, payContext)
	must(t, err)
	if !got.Equal(dk) {
		t.Error("another data key after reopening")
	}

	key := w.key("console")
	alice, bob := viaS3(t, "alice", "s3full"), viaS3(t, "bob", "s3full")
	_, _, err = w.RewrapFromStoreKey(bob, wrapped, payContext, key, payContext)
	wants(t, err, CodeAccessDenied, "*")
	kms, arn, err := w.RewrapFromStoreKey(alice, wrapped, payContext, key, payContext)
	must(t, err)
	if e := w.last(); arn != key || e.EventName != "ReEncrypt" || e.ErrorCode != "" || e.Resources[0].ARN != key {
		t.Errorf("event %+v", e)
	}
	_, err = w.RewrapToStoreKey(bob, kms, payContext, payContext)
	wants(t, err, CodeAccessDenied, "*")
	back, err := w.RewrapToStoreKey(alice, kms, payContext, payContext)
	must(t, err)
	got, err = w.DecryptStoreKey(back, payContext)
	must(t, err)
	if !got.Equal(dk) {
		t.Error("another data key after rewrapping there and back")
	}
}

func second[T any](_ T, err error) error { return err }

func TestManagedS3Key(t *testing.T) {
	w := newWorld(t)
	if keys, _ := w.ListKeys(w.admin()); len(keys) != 0 {
		t.Fatalf("a new store lists %d keys", len(keys))
	}
	arn, err := w.ManagedS3Key()
	must(t, err)
	if again, _ := w.ManagedS3Key(); again != arn {
		t.Error("made twice")
	}
	w.reopen()
	if again, _ := w.ManagedS3Key(); again != arn {
		t.Error("forgotten")
	}
	if r, err := w.Resolve("alias/aws/s3"); err != nil || r != arn {
		t.Errorf("alias: %s, %v", r, err)
	}
	m, err := w.DescribeKey(w.admin(), arn)
	must(t, err)
	if m.Manager != AWSManager || m.Description != "Default key that protects my S3 objects when no other key is defined" {
		t.Errorf("%+v", m)
	}
	bob := viaS3(t, "bob", "s3full")
	_, wrapped := w.generate(bob, "alias/aws/s3", payContext)
	_, err = w.Decrypt(viaS3(t, "carol", "s3full"), wrapped, payContext)
	must(t, err)
	direct := as(t, "bob", "admin")
	_, err = w.Decrypt(direct, wrapped, payContext)
	wants(t, err, CodeAccessDenied, "*")
	_, err = w.Decrypt(&Call{Who: who(t, "arn:aws:iam::"+testAccount+":root", "none")}, wrapped, payContext)
	wants(t, err, CodeAccessDenied, "*")
	other := w.key("default")
	for name, err := range map[string]error{
		"PutKeyPolicy":       w.PutKeyPolicy(direct, arn, testVectors(t).KeyPolicies["default"], true),
		"Disable":            w.DisableKey(direct, arn),
		"Enable":             w.EnableKey(direct, arn),
		"Schedule":           second(w.ScheduleKeyDeletion(direct, arn, 7)),
		"Rotate":             w.RotateKeyOnDemand(direct, arn),
		"EnableKeyRotation":  w.EnableKeyRotation(direct, arn, 0),
		"DisableKeyRotation": w.DisableKeyRotation(direct, arn),
		"Tag":                w.TagResource(direct, arn, []Tag{{"a", "b"}}),
		"Describe":           w.UpdateKeyDescription(direct, arn, "mine"),
		"CreateAlias":        w.CreateAlias(direct, "alias/mine", arn),
		"UpdateAlias":        w.UpdateAlias(direct, "alias/aws/s3", other),
		"DeleteAlias":        w.DeleteAlias(direct, "alias/aws/s3"),
		"CreateGrant":        third(w.CreateGrant(direct, arn, CreateGrantInput{Grantee: userARN("bob"), Operations: []string{"Decrypt"}})),
	} {
		if Code(err) != CodeAccessDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	st, err := w.GetKeyRotationStatus(direct, arn)
	must(t, err)
	if !st.Enabled || st.Days != 365 {
		t.Errorf("rotation %+v", st)
	}
}

func third[A, B any](_ A, _ B, err error) error { return err }

func TestManagedKeyMadeThroughS3(t *testing.T) {
	w := newWorld(t)
	_, _, _, err := w.GenerateDataKey(viaS3(t, "bob", "s3full"), "alias/aws/s3", payContext)
	must(t, err)
}

func TestClosedService(t *testing.T) {
	w := newWorld(t)
	arn := w.key("default")
	_, wrapped := w.generate(w.admin(), arn, nil)
	must(t, w.Close())
	for name, err := range map[string]error{
		"Decrypt":   second(w.Decrypt(w.admin(), wrapped, nil)),
		"Disable":   w.DisableKey(w.admin(), arn),
		"Describe":  second(w.DescribeKey(w.admin(), arn)),
		"CreateKey": second(w.CreateKey(w.admin(), CreateKeyInput{})),
		"store key": third(w.GenerateStoreKey(nil)),
		"aws/s3":    second(w.ManagedS3Key()),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	w.open()
}

// TestConcurrentUse has readers run against every kind of change, a deletion and a close.
func TestConcurrentUse(t *testing.T) {
	w := newWorld(t)
	arn := w.key("console")
	_, wrapped := w.generate(w.admin(), arn, payContext)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c := viaS3(t, "alice", "none")
			for ctx.Err() == nil {
				_, err := w.Decrypt(c, wrapped, payContext)
				switch Code(err) {
				case "", CodeDisabled, CodeAccessDenied, CodeInvalidState, CodeNotFound:
				default:
					if !errors.Is(err, ErrClosed) {
						t.Errorf("decrypt: %v", err)
					}
				}
				_, _, _, _ = w.GenerateDataKey(c, arn, payContext)
			}
		})
	}
	v := testVectors(t)
	for range 20 {
		must(t, w.DisableKey(w.admin(), arn))
		must(t, w.EnableKey(w.admin(), arn))
		must(t, w.PutKeyPolicy(w.admin(), arn, v.KeyPolicies["default"], false))
		must(t, w.PutKeyPolicy(w.admin(), arn, v.KeyPolicies["console"], false))
		id, _, err := w.CreateGrant(w.admin(), arn, CreateGrantInput{Grantee: userARN("alice"), Operations: []string{"Decrypt"}})
		must(t, err)
		must(t, w.RevokeGrant(w.admin(), arn, id))
	}
	must(t, w.RotateKeyOnDemand(w.admin(), arn))
	_, err := w.ScheduleKeyDeletion(w.admin(), arn, 7)
	must(t, err)
	w.clock.Advance(7 * day)
	must(t, w.Settle())
	must(t, w.Close())
	cancel()
	wg.Wait()
	w.open()
}
