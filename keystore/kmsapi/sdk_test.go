package kmsapi

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/kmsfs/kmsfs/keystore/audit"
)

func userARN(name string) *string { return aws.String("arn:aws:iam::" + account + ":user/" + name) }

// isError is errors.As for the SDK's types of errors.
func isError[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// TestSDK is the life of keys as an unmodified client of AWS leads it.
func TestSDK(t *testing.T) {
	r := newRig(t)
	r.person("alice")
	r.person("bob")
	ctx, admin, alice := t.Context(), r.client("admin"), r.client("alice")

	made, err := admin.CreateKey(ctx, &kms.CreateKeyInput{
		Description: aws.String("payroll"), Tags: []types.Tag{{TagKey: aws.String("team"), TagValue: aws.String("pay")}},
	})
	r.ok(err)
	m := made.KeyMetadata
	if aws.ToString(m.Description) != "payroll" || m.KeyState != types.KeyStateEnabled || !m.Enabled || m.KeyManager != types.KeyManagerTypeCustomer ||
		m.Origin != types.OriginTypeAwsKms || m.KeySpec != types.KeySpecSymmetricDefault || m.KeyUsage != types.KeyUsageTypeEncryptDecrypt ||
		!m.CreationDate.Equal(r.clock.Now()) || aws.ToString(m.AWSAccountId) != account || len(aws.ToString(m.CurrentKeyMaterialId)) != 64 {
		t.Errorf("made: %+v", m)
	}
	key := m.KeyId
	_, err = admin.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/pay"), TargetKeyId: key})
	r.ok(err)

	t.Run("cryptography", func(t *testing.T) {
		context := map[string]string{"dept": "payroll", "Ünïcode": "ключ"}
		sealed, err := admin.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String("alias/pay"), Plaintext: []byte("hello"), EncryptionContext: context})
		r.ok(err)
		opened, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob, EncryptionContext: context})
		r.ok(err)
		if string(opened.Plaintext) != "hello" || aws.ToString(opened.KeyId) != aws.ToString(m.Arn) || opened.KeyMaterialId == nil {
			t.Errorf("opened: %+v", opened)
		}
		if _, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); !isError[*types.InvalidCiphertextException](err) {
			t.Errorf("without the context: %v", err)
		}
		dk, err := admin.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: key, KeySpec: types.DataKeySpecAes256, EncryptionContext: context})
		r.ok(err)
		again, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: dk.CiphertextBlob, EncryptionContext: context, KeyId: m.Arn})
		r.ok(err)
		if len(dk.Plaintext) != 32 || !bytes.Equal(again.Plaintext, dk.Plaintext) || aws.ToString(dk.KeyMaterialId) != aws.ToString(m.CurrentKeyMaterialId) {
			t.Error("a data key does not come back")
		}
		for want, in := range map[int]*kms.GenerateDataKeyInput{
			16: {KeyId: key, KeySpec: types.DataKeySpecAes128}, 1: {KeyId: key, NumberOfBytes: aws.Int32(1)}, 1024: {KeyId: key, NumberOfBytes: aws.Int32(1024)},
		} {
			if dk, err := admin.GenerateDataKey(ctx, in); err != nil || len(dk.Plaintext) != want {
				t.Errorf("%d bytes: %v", want, err)
			}
		}
		if dk, err := admin.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: key, KeySpec: types.DataKeySpecAes256}); err != nil || len(dk.CiphertextBlob) == 0 {
			t.Errorf("without plaintext: %v", err)
		}
		if b, err := admin.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(7)}); err != nil || len(b.Plaintext) != 7 {
			t.Errorf("random bytes: %v", err)
		}
		other, err := admin.CreateKey(ctx, &kms.CreateKeyInput{})
		r.ok(err)
		moved, err := admin.ReEncrypt(ctx, &kms.ReEncryptInput{
			CiphertextBlob: sealed.CiphertextBlob, SourceEncryptionContext: context, SourceKeyId: aws.String("alias/pay"), DestinationKeyId: other.KeyMetadata.Arn,
		})
		r.ok(err)
		if aws.ToString(moved.KeyId) != aws.ToString(other.KeyMetadata.Arn) || aws.ToString(moved.SourceKeyId) != aws.ToString(m.Arn) {
			t.Errorf("re-encrypted: %+v", moved)
		}
		if opened, err = admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: moved.CiphertextBlob}); err != nil || string(opened.Plaintext) != "hello" {
			t.Errorf("after re-encryption: %v", err)
		}
		_, err = admin.ReEncrypt(ctx, &kms.ReEncryptInput{
			CiphertextBlob: sealed.CiphertextBlob, SourceEncryptionContext: context, SourceKeyId: other.KeyMetadata.KeyId, DestinationKeyId: key,
		})
		if !isError[*types.IncorrectKeyException](err) {
			t.Errorf("re-encrypted from another key: %v", err)
		}
		if _, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: moved.CiphertextBlob, KeyId: key}); !isError[*types.IncorrectKeyException](err) {
			t.Errorf("another key: %v", err)
		}
	})

	t.Run("policies", func(t *testing.T) {
		if _, err := alice.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: key}); err == nil || !strings.Contains(err.Error(), "AccessDeniedException") ||
			!strings.Contains(err.Error(), "is not authorized to perform: kms:DescribeKey on resource: "+aws.ToString(m.Arn)) {
			t.Errorf("alice: %v", err)
		}
		got, err := admin.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: key, PolicyName: aws.String("default")})
		r.ok(err)
		if !strings.Contains(aws.ToString(got.Policy), ":root") {
			t.Errorf("the default policy: %s", aws.ToString(got.Policy))
		}
		text := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam::` + account + `:root","` +
			aws.ToString(userARN("alice")) + `"]},"Action":"kms:*","Resource":"*"}]}`
		_, err = admin.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: key, Policy: aws.String(text)})
		r.ok(err)
		_, err = alice.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: key})
		r.ok(err)
		_, err = admin.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: key, Policy: aws.String("{")})
		if !isError[*types.MalformedPolicyDocumentException](err) {
			t.Errorf("a malformed policy: %v", err)
		}
		names, err := admin.ListKeyPolicies(ctx, &kms.ListKeyPoliciesInput{KeyId: key})
		r.ok(err)
		if !slices.Equal(names.PolicyNames, []string{"default"}) {
			t.Errorf("%v", names.PolicyNames)
		}
	})

	t.Run("grants", func(t *testing.T) { grants(t, r, key) })
	t.Run("lists", func(t *testing.T) { lists(t, r, key) })
	t.Run("rotation and deletion", func(t *testing.T) { rotation(t, r, key) })
}

// TestImportedMaterial is the life of a key whose material comes from outside.
func TestImportedMaterial(t *testing.T) {
	r := newRig(t)
	ctx, admin := t.Context(), r.client("admin")
	made, err := admin.CreateKey(ctx, &kms.CreateKeyInput{Origin: types.OriginTypeExternal})
	r.ok(err)
	if m := made.KeyMetadata; m.KeyState != types.KeyStatePendingImport || m.Enabled || m.CurrentKeyMaterialId != nil || m.ExpirationModel != "" {
		t.Errorf("made: %+v", m)
	}
	key := made.KeyMetadata.KeyId
	p, err := admin.GetParametersForImport(ctx, &kms.GetParametersForImportInput{
		KeyId: key, WrappingAlgorithm: types.AlgorithmSpecRsaesOaepSha256, WrappingKeySpec: types.WrappingKeySpecRsa4096,
	})
	r.ok(err)
	if !p.ParametersValidTo.Equal(r.clock.Now().Add(24 * time.Hour)) {
		t.Errorf("valid to %v", p.ParametersValidTo)
	}
	until := r.clock.Now().Add(30 * 24 * time.Hour)
	in := &kms.ImportKeyMaterialInput{
		KeyId: key, ImportToken: p.ImportToken, EncryptedKeyMaterial: r.wrapped(p.PublicKey), ExpirationModel: types.ExpirationModelTypeKeyMaterialExpires,
	}
	if _, err := admin.ImportKeyMaterial(ctx, in); err == nil || !strings.Contains(err.Error(), "ValidationException") {
		t.Errorf("without a date: %v", err)
	}
	in.ValidTo = &until
	done, err := admin.ImportKeyMaterial(ctx, in)
	r.ok(err)
	d, err := admin.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: key})
	r.ok(err)
	if m := d.KeyMetadata; m.KeyState != types.KeyStateEnabled || m.ExpirationModel != types.ExpirationModelTypeKeyMaterialExpires || !m.ValidTo.Equal(until) ||
		aws.ToString(m.CurrentKeyMaterialId) != aws.ToString(done.KeyMaterialId) {
		t.Errorf("imported: %+v", m)
	}
	sealed, err := admin.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("x")})
	r.ok(err)
	r.clock.Advance(31 * 24 * time.Hour)
	if _, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); !isError[*types.KMSInvalidStateException](err) {
		t.Errorf("expired: %v", err)
	}
	if _, err := admin.ImportKeyMaterial(ctx, in); !isError[*types.ExpiredImportTokenException](err) && !strings.Contains(fmt.Sprint(err), "ValidTo must be in the future") {
		t.Errorf("with an old token: %v", err)
	}
	r.imports(aws.ToString(key))
	if o, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); err != nil || string(o.Plaintext) != "x" {
		t.Errorf("imported again: %v", err)
	}
}

func grants(t *testing.T, r *rig, key *string) {
	ctx, admin, bob := t.Context(), r.client("admin"), r.client("bob")
	in := &kms.CreateGrantInput{
		KeyId: key, GranteePrincipal: userARN("bob"), RetiringPrincipal: userARN("admin"), Name: aws.String("once"),
		Operations:  []types.GrantOperation{types.GrantOperationDecrypt, types.GrantOperationEncrypt},
		Constraints: &types.GrantConstraints{EncryptionContextSubset: map[string]string{"dept": "x"}},
	}
	dry := *in
	dry.DryRun = aws.Bool(true)
	if _, err := admin.CreateGrant(ctx, &dry); !isError[*types.DryRunOperationException](err) {
		t.Errorf("dry run: %v", err)
	}
	if l, err := admin.ListGrants(ctx, &kms.ListGrantsInput{KeyId: key}); err != nil || len(l.Grants) != 0 {
		t.Errorf("a dry run made a grant: %v", err)
	}
	g, err := admin.CreateGrant(ctx, in)
	r.ok(err)
	again, err := admin.CreateGrant(ctx, in)
	r.ok(err)
	if aws.ToString(again.GrantId) != aws.ToString(g.GrantId) {
		t.Error("the same grant twice")
	}
	encrypt := &kms.EncryptInput{KeyId: key, Plaintext: []byte("x"), EncryptionContext: map[string]string{"dept": "x"}, GrantTokens: []string{aws.ToString(g.GrantToken)}}
	_, err = bob.Encrypt(ctx, encrypt)
	r.ok(err)
	outside := *encrypt
	outside.EncryptionContext = nil
	if _, err := bob.Encrypt(ctx, &outside); err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("outside the constraint: %v", err)
	}
	forged := *encrypt
	forged.GrantTokens = []string{"AAAA"}
	if _, err := bob.Encrypt(ctx, &forged); !isError[*types.InvalidGrantTokenException](err) {
		t.Errorf("a forged token: %v", err)
	}
	tried := *encrypt
	tried.DryRun = aws.Bool(true)
	if o, err := bob.Encrypt(ctx, &tried); !isError[*types.DryRunOperationException](err) || o != nil {
		t.Errorf("dry run: %v", err)
	}
	var last audit.Event
	r.ok(r.audit.Query(audit.Filter{Last: 1}, func(e audit.Event) error { last = e; return nil }))
	if last.ErrorCode != "DryRunOperationException" || last.UserIdentity.AccessKeyID != r.creds["bob"].AccessKeyID || last.SourceIPAddress != "127.0.0.1" ||
		!strings.Contains(last.UserAgent, "aws-sdk-go") {
		t.Errorf("the event of a dry run: %+v", last)
	}
	l, err := admin.ListGrants(ctx, &kms.ListGrantsInput{KeyId: key, GranteePrincipal: userARN("bob")})
	r.ok(err)
	if len(l.Grants) != 1 || aws.ToString(l.Grants[0].Name) != "once" || l.Grants[0].Constraints.EncryptionContextSubset["dept"] != "x" ||
		aws.ToString(l.Grants[0].IssuingAccount) != "arn:aws:iam::"+account+":root" || !slices.Equal(l.Grants[0].Operations, in.Operations) {
		t.Errorf("%+v", l.Grants)
	}
	retirable, err := admin.ListRetirableGrants(ctx, &kms.ListRetirableGrantsInput{RetiringPrincipal: userARN("admin")})
	r.ok(err)
	if len(retirable.Grants) != 1 {
		t.Errorf("retirable: %+v", retirable.Grants)
	}
	if _, err := bob.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: g.GrantToken}); err == nil {
		t.Error("bob retired a grant that does not let him")
	}
	if _, err := admin.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: g.GrantToken, DryRun: aws.Bool(true)}); !isError[*types.DryRunOperationException](err) {
		t.Errorf("dry run: %v", err)
	}
	_, err = admin.RetireGrant(ctx, &kms.RetireGrantInput{GrantToken: g.GrantToken})
	r.ok(err)
	if _, err := bob.Encrypt(ctx, encrypt); err == nil {
		t.Error("a retired grant allows")
	}
	g, err = admin.CreateGrant(ctx, in)
	r.ok(err)
	if _, err := admin.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: key, GrantId: g.GrantId, DryRun: aws.Bool(true)}); !isError[*types.DryRunOperationException](err) {
		t.Errorf("dry run: %v", err)
	}
	_, err = admin.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: key, GrantId: g.GrantId})
	r.ok(err)
	if _, err := admin.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: key, GrantId: g.GrantId}); !isError[*types.NotFoundException](err) {
		t.Errorf("revoked twice: %v", err)
	}
}

// lists pages through everything that has pages.
func lists(t *testing.T, r *rig, key *string) {
	ctx, admin := t.Context(), r.client("admin")
	for i := range 7 {
		_, err := admin.CreateKey(ctx, &kms.CreateKeyInput{})
		r.ok(err)
		_, err = admin.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String(fmt.Sprint("alias/n", i)), TargetKeyId: key})
		r.ok(err)
		_, err = admin.TagResource(ctx, &kms.TagResourceInput{KeyId: key, Tags: []types.Tag{{TagKey: aws.String(fmt.Sprint("t", i)), TagValue: aws.String("")}}})
		r.ok(err)
		_, err = admin.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: key, GranteePrincipal: userARN("bob"), Operations: []types.GrantOperation{types.GrantOperationDescribeKey}})
		r.ok(err)
		_, err = admin.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: key})
		r.ok(err)
	}
	seen := map[string]int{}
	count := func(kind, id string) {
		if seen[kind+id]++; seen[kind+id] > 1 {
			t.Errorf("%s %s twice", kind, id)
		}
		seen[kind]++
	}
	for p := kms.NewListKeysPaginator(admin, &kms.ListKeysInput{Limit: aws.Int32(2)}); p.HasMorePages(); {
		o, err := p.NextPage(ctx)
		r.ok(err)
		for _, k := range o.Keys {
			count("keys", aws.ToString(k.KeyId))
		}
	}
	for p := kms.NewListAliasesPaginator(admin, &kms.ListAliasesInput{KeyId: key, Limit: aws.Int32(3)}); p.HasMorePages(); {
		o, err := p.NextPage(ctx)
		r.ok(err)
		for _, a := range o.Aliases {
			count("aliases", aws.ToString(a.AliasName))
		}
	}
	for p := kms.NewListResourceTagsPaginator(admin, &kms.ListResourceTagsInput{KeyId: key, Limit: aws.Int32(1)}); p.HasMorePages(); {
		o, err := p.NextPage(ctx)
		r.ok(err)
		for _, a := range o.Tags {
			count("tags", aws.ToString(a.TagKey))
		}
	}
	for p := kms.NewListGrantsPaginator(admin, &kms.ListGrantsInput{KeyId: key, Limit: aws.Int32(4)}); p.HasMorePages(); {
		o, err := p.NextPage(ctx)
		r.ok(err)
		for _, g := range o.Grants {
			count("grants", aws.ToString(g.GrantId))
		}
	}
	current := 0
	for p := kms.NewListKeyRotationsPaginator(admin, &kms.ListKeyRotationsInput{KeyId: key, Limit: aws.Int32(2), IncludeKeyMaterial: types.IncludeKeyMaterialAllKeyMaterial}); p.HasMorePages(); {
		o, err := p.NextPage(ctx)
		r.ok(err)
		for _, m := range o.Rotations {
			count("materials", aws.ToString(m.KeyMaterialId))
			if m.KeyMaterialState == types.KeyMaterialStateCurrent {
				current++
			}
		}
	}
	for kind, want := range map[string]int{"keys": 9, "aliases": 8, "tags": 8, "grants": 7, "materials": 8} {
		if seen[kind] != want {
			t.Errorf("%d %s, want %d", seen[kind], kind, want)
		}
	}
	if current != 1 {
		t.Errorf("%d current materials", current)
	}
	for _, marker := range []string{"!!", "AAAA", "TGlzdEFsaWFzZXMAeA"} { // the last is one of ListAliases
		if _, err := admin.ListKeys(ctx, &kms.ListKeysInput{Marker: aws.String(marker)}); !isError[*types.InvalidMarkerException](err) {
			t.Errorf("marker %q: %v", marker, err)
		}
	}
	_, err := admin.UntagResource(ctx, &kms.UntagResourceInput{KeyId: key, TagKeys: []string{"t0", "t1", "none"}})
	r.ok(err)
	if o, err := admin.ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: key}); err != nil || len(o.Tags) != 6 {
		t.Errorf("untagged: %v", err)
	}
	_, err = admin.UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: aws.String("alias/n0"), TargetKeyId: key})
	r.ok(err)
	_, err = admin.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: aws.String("alias/n0")})
	r.ok(err)
	if _, err = admin.DeleteAlias(ctx, &kms.DeleteAliasInput{AliasName: aws.String("alias/n0")}); !isError[*types.NotFoundException](err) {
		t.Errorf("deleted twice: %v", err)
	}
}

func rotation(t *testing.T, r *rig, key *string) {
	ctx, admin := t.Context(), r.client("admin")
	_, err := admin.EnableKeyRotation(ctx, &kms.EnableKeyRotationInput{KeyId: key, RotationPeriodInDays: aws.Int32(90)})
	r.ok(err)
	sealed, err := admin.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("old")})
	r.ok(err)
	st, err := admin.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: key})
	r.ok(err)
	if !st.KeyRotationEnabled || aws.ToInt32(st.RotationPeriodInDays) != 90 || !st.NextRotationDate.Equal(r.clock.Now().Add(90*24*time.Hour)) {
		t.Errorf("%+v", st)
	}
	r.clock.Advance(91 * 24 * time.Hour)
	fresh, err := admin.Encrypt(ctx, &kms.EncryptInput{KeyId: key, Plaintext: []byte("new")})
	r.ok(err)
	old, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob})
	r.ok(err)
	now, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: fresh.CiphertextBlob})
	r.ok(err)
	if aws.ToString(old.KeyMaterialId) == aws.ToString(now.KeyMaterialId) || string(old.Plaintext) != "old" {
		t.Error("not rotated when it was time")
	}
	_, err = admin.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: key})
	r.ok(err)
	_, err = admin.UpdateKeyDescription(ctx, &kms.UpdateKeyDescriptionInput{KeyId: key, Description: aws.String("")})
	r.ok(err)

	_, err = admin.DisableKey(ctx, &kms.DisableKeyInput{KeyId: key})
	r.ok(err)
	if _, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); !isError[*types.DisabledException](err) {
		t.Errorf("disabled: %v", err)
	}
	_, err = admin.EnableKey(ctx, &kms.EnableKeyInput{KeyId: key})
	r.ok(err)
	gone, err := admin.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: key, PendingWindowInDays: aws.Int32(7)})
	r.ok(err)
	if gone.KeyState != types.KeyStatePendingDeletion || !gone.DeletionDate.Equal(r.clock.Now().Add(7*24*time.Hour)) || aws.ToInt32(gone.PendingWindowInDays) != 7 {
		t.Errorf("%+v", gone)
	}
	if o, err := admin.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: key}); err != nil || !o.KeyMetadata.DeletionDate.Equal(*gone.DeletionDate) {
		t.Errorf("described: %v", err)
	}
	back, err := admin.CancelKeyDeletion(ctx, &kms.CancelKeyDeletionInput{KeyId: key})
	r.ok(err)
	if aws.ToString(back.KeyId) != aws.ToString(gone.KeyId) {
		t.Errorf("%s", aws.ToString(back.KeyId))
	}
	_, err = admin.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: key, PendingWindowInDays: aws.Int32(7)})
	r.ok(err)
	r.clock.Advance(8 * 24 * time.Hour)
	if _, err := admin.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: sealed.CiphertextBlob}); !isError[*types.NotFoundException](err) {
		t.Errorf("deleted: %v", err)
	}
}
