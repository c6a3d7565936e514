package keystore

import (
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

// TestGrantVectors runs the grant vectors through the operations themselves. Two vectors need a caller of another account,
// which a grant of this keystore cannot serve; they are run all the same.
func TestGrantVectors(t *testing.T) {
	v := testVectors(t)
	n := 0
	for _, g := range v.GrantVectors {
		t.Run(g.ID, func(t *testing.T) {
			w := newWorld(t)
			arn := w.key(g.KeyPolicy)
			super := as(t, "admin", "admin")
			root := &Call{Who: who(t, "arn:aws:iam::"+testAccount+":root", "none")}
			c := &Call{Who: who(t, g.Principal, g.Identity)}
			ctx := crypto.Context{}
			for k, val := range g.Context {
				if name, ok := strings.CutPrefix(k, "kms:EncryptionContext:"); ok {
					ctx[name] = val.(string)
				}
				c.ViaS3 = c.ViaS3 || k == "kms:ViaService"
			}
			var ids []string
			for _, gr := range g.Grants {
				in := CreateGrantInput{
					Grantee: gr.GranteePrincipal, Operations: gr.Operations,
					Subset: gr.Constraints.EncryptionContextSubset, Equals: gr.Constraints.EncryptionContextEquals,
				}
				id, _, err := w.CreateGrant(super, arn, in)
				if err != nil {
					id, _, err = w.CreateGrant(root, arn, in)
				}
				must(t, err)
				ids = append(ids, id)
			}
			_, wrapped := w.sealFor(arn, ctx)
			var err error
			switch g.Action {
			case "kms:Decrypt":
				_, err = w.Decrypt(c, wrapped, ctx)
			case "kms:DescribeKey":
				_, err = w.DescribeKey(c, arn)
			case "kms:CreateGrant":
				_, _, err = w.CreateGrant(c, arn, CreateGrantInput{Grantee: userARN("carol"), Operations: g.Request.Operations})
			case "kms:RetireGrant":
				err = w.RetireGrant(c, "", arn, ids[0])
			case "kms:RevokeGrant":
				err = w.RevokeGrant(c, arn, ids[0])
			default:
				t.Fatalf("action %s", g.Action)
			}
			n++
			if g.Expect == "ALLOW" {
				must(t, err)
			} else {
				wants(t, err, CodeAccessDenied, "*")
			}
		})
	}
	if n != len(v.GrantVectors) || n < 18 {
		t.Errorf("%d vectors ran", n)
	}
}

// sealFor wraps a data key under a key without asking anybody.
func (w *world) sealFor(arn string, ctx crypto.Context) (*crypto.DataKey, crypto.WrappedKey) {
	w.t.Helper()
	k, _, err := w.find(arn, false)
	must(w.t, err)
	dk := crypto.NewDataKey()
	wrapped, err := w.wrap(k, ctx, dk.Expose())
	must(w.t, err)
	return dk, wrapped
}

// TestConditionKeys: what the keystore supplies reaches the policies.
func TestConditionKeys(t *testing.T) {
	w := newWorld(t)
	allow := func(action, condition string) []byte {
		return []byte(`{"Version":"2012-10-17","Statement":[
			{"Effect":"Allow","Principal":{"AWS":"` + userARN("admin") + `"},"Action":"kms:*","Resource":"*"},
			{"Effect":"Allow","Principal":{"AWS":"` + userARN("alice") + `"},"Action":"` + action + `","Resource":"*","Condition":` + condition + `}]}`)
	}
	for name, c := range map[string]struct {
		action, condition string
		call              func(arn string) error
		want              bool
	}{
		"via service":      {"kms:*", `{"StringEquals":{"kms:ViaService":"s3.us-east-1.amazonaws.com"}}`, w.generates("", true), true},
		"not via service":  {"kms:*", `{"StringEquals":{"kms:ViaService":"s3.us-east-1.amazonaws.com"}}`, w.generates("", false), false},
		"called via":       {"kms:*", `{"ForAnyValue:StringEquals":{"aws:CalledVia":"s3.amazonaws.com"}}`, w.generates("", true), true},
		"alias in request": {"kms:*", `{"StringEquals":{"kms:RequestAlias":"alias/one"}}`, w.generates("alias/one", false), true},
		"other alias":      {"kms:*", `{"StringEquals":{"kms:RequestAlias":"alias/one"}}`, w.generates("alias/two", false), false},
		"id in request":    {"kms:*", `{"StringEquals":{"kms:RequestAlias":"alias/one"}}`, w.generates("", false), false},
		"context":          {"kms:*", `{"StringLike":{"kms:EncryptionContext:aws:s3:arn":"arn:aws:s3:::pay/*"}}`, w.generates("", true), true},
		"context keys":     {"kms:*", `{"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":"aws:s3:arn"}}`, w.generates("", true), true},
		"algorithm":        {"kms:*", `{"StringEquals":{"kms:EncryptionAlgorithm":"SYMMETRIC_DEFAULT"}}`, w.generates("", true), true},
		"key spec":         {"kms:*", `{"StringEquals":{"kms:KeySpec":"SYMMETRIC_DEFAULT","kms:KeyUsage":"ENCRYPT_DECRYPT","kms:KeyOrigin":"AWS_KMS"},"Bool":{"kms:MultiRegion":"false"}}`, w.generates("", true), true},
		"tls":              {"kms:*", `{"Bool":{"aws:SecureTransport":"true"}}`, w.generates("", true), true},
		"time":             {"kms:*", `{"DateLessThan":{"aws:CurrentTime":"2026-11-24T00:00:00Z"}}`, w.generates("", true), true},
		"too late":         {"kms:*", `{"DateLessThan":{"aws:CurrentTime":"2026-11-23T00:00:00Z"}}`, w.generates("", true), false},
		"resource tag":     {"kms:*", `{"StringEquals":{"aws:ResourceTag/dept":"fin"}}`, w.generates("", true), true},
		"same key": {"kms:*", `{"Bool":{"kms:ReEncryptOnSameKey":"true"}}`, func(arn string) error {
			_, wrapped := w.sealFor(arn, nil)
			_, _, err := w.ReEncrypt(as(t, "alice", "none"), wrapped, nil, arn, nil)
			return err
		}, true},
		"window": {"kms:*", `{"NumericGreaterThanEquals":{"kms:ScheduleKeyDeletionPendingWindowInDays":"10"}}`, func(arn string) error {
			_, err := w.ScheduleKeyDeletion(as(t, "alice", "none"), arn, 7)
			return err
		}, false},
		"bypass": {"kms:*", `{"Bool":{"kms:BypassPolicyLockoutSafetyCheck":"false"}}`, func(arn string) error {
			return w.PutKeyPolicy(as(t, "alice", "none"), arn, testVectors(t).KeyPolicies["default"], true)
		}, false},
		"rotation period": {"kms:*", `{"NumericEquals":{"kms:RotationPeriodInDays":"365"}}`, func(arn string) error {
			return w.EnableKeyRotation(as(t, "alice", "none"), arn, 0)
		}, true},
		"grant operations": {"kms:*", `{"ForAllValues:StringEquals":{"kms:GrantOperations":["Decrypt"]}}`, func(arn string) error {
			_, _, err := w.CreateGrant(as(t, "alice", "none"), arn, CreateGrantInput{Grantee: userARN("bob"), Operations: []string{"Decrypt", "Encrypt"}})
			return err
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := w.CreateKey(w.admin(), CreateKeyInput{Policy: allow(c.action, c.condition), Tags: []Tag{{"dept", "fin"}}})
			must(t, err)
			for _, a := range []string{"alias/one", "alias/two"} {
				if w.alias(a) == nil {
					must(t, w.CreateAlias(w.admin(), a, m.KeyID))
				} else {
					must(t, w.UpdateAlias(w.admin(), a, m.KeyID))
				}
			}
			if err := c.call(m.ARN); (err == nil) != c.want {
				t.Errorf("allowed = %v, want %v (%v)", err == nil, c.want, err)
			}
		})
	}
}

func (w *world) generates(ref string, s3 bool) func(string) error {
	return func(arn string) error {
		c := as(w.t, "alice", "none")
		c.ViaS3 = s3
		if ref != "" {
			arn = ref
		}
		_, _, _, err := w.GenerateDataKey(c, arn, payContext)
		return err
	}
}
