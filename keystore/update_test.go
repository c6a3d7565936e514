package keystore

import (
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

// TestUpdateEncryption takes two generations and one under a bucket key from key to key: all open under the new key, the fresh key too,
// and there is one event.
func TestUpdateEncryption(t *testing.T) {
	w := newWorld(t)
	c := viaS3(t, "admin", "admin")
	old, target := w.key("default"), w.key("default")
	ctx, to := payContext, crypto.Context{"aws:s3:arn": "arn:aws:s3:::pay/new-name"}
	one, wrappedOne := w.generate(c, old, ctx)
	bucket, wrappedBucket := w.generate(c, old, ctx)
	local := crypto.NewDataKey()
	wrappedLocal, err := WrapLocal(bucket, wrappedBucket, local)
	must(t, err)
	all := []crypto.WrappedKey{wrappedOne, wrappedLocal}

	before := len(w.events(auditName("ReEncrypt")))
	u, err := w.UpdateEncryption(c, all, ctx, target, to)
	must(t, err)
	defer u.Fresh.Wipe()
	if n := len(w.events(auditName("ReEncrypt"))) - before; n != 1 || u.KeyARN != target || len(u.Wrapped) != 2 {
		t.Fatalf("%d events, %+v", n, u)
	}
	open := func(wrapped crypto.WrappedKey) *crypto.DataKey {
		t.Helper()
		if arn, err := w.KeyARN(wrapped); err != nil || arn != target {
			t.Errorf("wrapped under %s, %v", arn, err)
		}
		dk, err := w.Decrypt(c, wrapped, to)
		must(t, err)
		return dk
	}
	if got := open(u.Wrapped[0]); !got.Equal(one) {
		t.Error("another data key")
	}
	if got := open(u.Sealed); !got.Equal(u.Fresh) || u.Fresh.Equal(one) {
		t.Error("the fresh data key does not come back, or is no fresh one")
	}
	outer, inner, ok := SplitLocal(u.Wrapped[1])
	if !ok {
		t.Fatal("no bucket key any more")
	}
	if got, err := UnwrapLocal(open(outer), inner); err != nil || !got.Equal(local) {
		t.Errorf("under the bucket key: %v", err)
	}

	// Each right by itself is needed.
	rights := []string{"kms:Decrypt", "kms:ReEncryptFrom", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptTo"}
	for i := range rights {
		text := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + userARN("alice") + `"},"Resource":"*","Action":["kms:CreateGrant"`
		for j, a := range rights {
			if j != i {
				text += `,"` + a + `"`
			}
		}
		text += `]},{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + testAccount + `:root"},"Action":"kms:*","Resource":"*"}]}`
		must(t, w.PutKeyPolicy(w.admin(), old, []byte(text), true))
		must(t, w.PutKeyPolicy(w.admin(), target, []byte(text), true))
		_, err := w.UpdateEncryption(viaS3(t, "alice", "none"), all, ctx, target, to)
		wants(t, err, CodeAccessDenied, "*")
	}

	// What is not a data key of the file changes nothing and says so.
	other, strange := w.generate(c, w.key("default"), ctx)
	other.Wipe()
	for name, bad := range map[string][]crypto.WrappedKey{"none": nil, "of another key": {wrappedOne, strange}, "damaged": {append(crypto.WrappedKey{}, wrappedOne[:len(wrappedOne)-1]...)}} {
		_, err := w.UpdateEncryption(c, bad, ctx, target, to)
		if Code(err) != CodeInvalidCiphertext {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = w.UpdateEncryption(c, all, to, target, to)
	wants(t, err, CodeInvalidCiphertext, "")
	must(t, w.DisableKey(w.admin(), target))
	_, err = w.UpdateEncryption(c, all, ctx, target, to)
	wants(t, err, CodeDisabled, target+" is disabled.")
}
