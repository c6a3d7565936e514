package kmsapi

import (
	"fmt"

	"github.com/kmsfs/kmsfs/keystore"
)

// The enumerations of CreateKey, as AWS lists them. Most values are known and not supported.
var (
	keyUsages = []string{"SIGN_VERIFY", "ENCRYPT_DECRYPT", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT"}
	keySpecs  = []string{
		"RSA_2048", "RSA_3072", "RSA_4096", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_SECG_P256K1", "SYMMETRIC_DEFAULT",
		"HMAC_224", "HMAC_256", "HMAC_384", "HMAC_512", "SM2", "ML_DSA_44", "ML_DSA_65", "ML_DSA_87", "ECC_NIST_EDWARDS25519",
	}
	origins = []string{"AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM", "EXTERNAL_KEY_STORE"}
)

const (
	maxPolicyText  = 131072
	maxDescription = 8192
)

func (r *request) createKey() (out, error) {
	in := keystore.CreateKeyInput{
		Description:   r.in.text("Description", rule{max: maxDescription, silent: true}),
		BypassLockout: r.in.boolean("BypassPolicyLockoutSafetyCheck"),
		KeyUsage:      r.in.text("KeyUsage", rule{enum: keyUsages}),
		KeySpec:       r.in.text("KeySpec", rule{enum: keySpecs}),
		Origin:        r.in.text("Origin", rule{enum: origins}),
		MultiRegion:   r.in.boolean("MultiRegion"),
		Tags:          r.tags(false),
	}
	if text := r.in.text("Policy", rule{min: 1, max: maxPolicyText, silent: true}); r.in.given("Policy") {
		in.Policy = []byte(text)
	}
	old := r.in.text("CustomerMasterKeySpec", rule{enum: keySpecs})
	if err := r.in.err(); err != nil {
		return nil, err
	}
	switch {
	case in.KeySpec != "" && old != "":
		return nil, refuse(keystore.CodeValidation, "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.")
	case r.in.given("CustomKeyStoreId") || r.in.given("XksKeyId"):
		return nil, refuse(keystore.CodeUnsupportedOperation, "Custom key stores are not supported.")
	case old != "":
		in.KeySpec = old
	}
	m, err := r.keys.CreateKey(r.call, in)
	if err != nil {
		return nil, err
	}
	return out{"KeyMetadata": metadata(m)}, nil
}

func metadata(m keystore.Metadata) out {
	o := out{
		"AWSAccountId": m.Account, "KeyId": m.KeyID, "Arn": m.ARN, "CreationDate": epoch(m.Created), "Enabled": m.Enabled,
		"Description": m.Description, "KeyUsage": keystore.Usage, "KeyState": string(m.State), "Origin": m.Origin,
		"KeyManager": string(m.Manager), "CustomerMasterKeySpec": keystore.Spec, "KeySpec": keystore.Spec,
		"EncryptionAlgorithms": []string{keystore.Algorithm}, "MultiRegion": false,
	}
	if m.CurrentMaterialID != "" {
		o["CurrentKeyMaterialId"] = m.CurrentMaterialID
	}
	if m.ExpirationModel != "" {
		o["ExpirationModel"] = m.ExpirationModel
	}
	if !m.ValidTo.IsZero() {
		o["ValidTo"] = epoch(m.ValidTo)
	}
	if !m.DeletionDate.IsZero() {
		o["DeletionDate"] = epoch(m.DeletionDate)
	}
	return o
}

func (r *request) describeKey() (out, error) {
	ref := r.keyID()
	if _, err := r.grantTokens(); err != nil {
		return nil, err
	}
	m, err := r.keys.DescribeKey(r.call, ref)
	if err != nil {
		return nil, err
	}
	return out{"KeyMetadata": metadata(m)}, nil
}

func (r *request) listKeys() (out, error) {
	limit, marker := r.paging(100, 1000)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	list, err := r.keys.ListKeys(r.call)
	if err != nil {
		return nil, err
	}
	list, answer, err := page(r, list, limit, marker, func(m keystore.Metadata) string { return m.KeyID })
	if err != nil {
		return nil, err
	}
	keys := make([]out, 0, len(list))
	for _, m := range list {
		keys = append(keys, out{"KeyId": m.KeyID, "KeyArn": m.ARN})
	}
	answer["Keys"] = keys
	return answer, nil
}

func (r *request) updateKeyDescription() (out, error) {
	ref := r.keyID()
	text := r.in.text("Description", rule{required: true, max: maxDescription, silent: true})
	if err := r.in.err(); err != nil {
		return nil, err
	}
	return nil, r.keys.UpdateKeyDescription(r.call, ref, text)
}

func (r *request) scheduleKeyDeletion() (out, error) {
	ref := r.keyID()
	days, given := r.in.number("PendingWindowInDays", 7, 30)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	if !given {
		days = 30
	}
	at, err := r.keys.ScheduleKeyDeletion(r.call, ref, days)
	if err != nil {
		return nil, err
	}
	arn, err := r.keys.Resolve(ref)
	return out{
		"KeyId": arn, "DeletionDate": epoch(at), "KeyState": string(keystore.PendingDeletion), "PendingWindowInDays": days,
	}, err
}

func (r *request) tags(required bool) []keystore.Tag {
	var tags []keystore.Tag
	r.in.list("Tags", required, 0, 200, func(v any, member string) {
		t := r.in.inner(v, member)
		if t == nil {
			return
		}
		tags = append(tags, keystore.Tag{
			Key: t.text("TagKey", rule{required: true, min: 1, max: 128}), Value: t.text("TagValue", rule{required: true, max: 256}),
		})
	})
	return tags
}

func (r *request) tagResource() (out, error) {
	ref, tags := r.keyID(), r.tags(true)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	return nil, r.keys.TagResource(r.call, ref, tags)
}

func (r *request) untagResource() (out, error) {
	ref := r.keyID()
	names := r.in.texts("TagKeys", true, 0, 200, rule{min: 1, max: 128})
	if err := r.in.err(); err != nil {
		return nil, err
	}
	return nil, r.keys.UntagResource(r.call, ref, names)
}

func (r *request) listResourceTags() (out, error) {
	ref := r.keyID()
	limit, marker := r.paging(50, 50)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	list, err := r.keys.ListResourceTags(r.call, ref)
	if err != nil {
		return nil, err
	}
	list, answer, err := page(r, list, limit, marker, func(t keystore.Tag) string { return t.Key })
	if err != nil {
		return nil, err
	}
	tags := make([]out, 0, len(list))
	for _, t := range list {
		tags = append(tags, out{"TagKey": t.Key, "TagValue": t.Value})
	}
	answer["Tags"] = tags
	return answer, nil
}

func (r *request) aliasName() string {
	return r.in.text("AliasName", rule{required: true, min: 1, max: 256})
}

func onAlias(do func(*keystore.Service, *keystore.Call, string, string) error) operation {
	return func(r *request) (out, error) {
		name, target := r.aliasName(), r.in.text("TargetKeyId", aKeyID)
		if err := r.in.err(); err != nil {
			return nil, err
		}
		return nil, do(r.keys, r.call, name, target)
	}
}

func (r *request) deleteAlias() (out, error) {
	name := r.aliasName()
	if err := r.in.err(); err != nil {
		return nil, err
	}
	return nil, r.keys.DeleteAlias(r.call, name)
}

func (r *request) listAliases() (out, error) {
	ref := r.in.text("KeyId", rule{min: 1, max: 2048})
	limit, marker := r.paging(50, 100)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	list, err := r.keys.ListAliases(r.call, ref)
	if err != nil {
		return nil, err
	}
	list, answer, err := page(r, list, limit, marker, func(a keystore.Alias) string { return a.Name })
	if err != nil {
		return nil, err
	}
	aliases := make([]out, 0, len(list))
	for _, a := range list {
		aliases = append(aliases, out{
			"AliasName": a.Name, "AliasArn": a.ARN, "TargetKeyId": a.TargetKeyID, "CreationDate": epoch(a.Created), "LastUpdatedDate": epoch(a.Updated),
		})
	}
	answer["Aliases"] = aliases
	return answer, nil
}

// policyName reads PolicyName, of which there is one.
func (r *request) policyName() (check func() error) {
	name := r.in.text("PolicyName", rule{min: 1, max: 128})
	return func() error {
		if err := r.in.err(); err != nil {
			return err
		}
		if name != "" && name != "default" {
			return refuse(keystore.CodeNotFound, "No such policy exists")
		}
		return nil
	}
}

func (r *request) putKeyPolicy() (out, error) {
	ref, named := r.keyID(), r.policyName()
	text := r.in.text("Policy", rule{required: true, min: 1, max: maxPolicyText, silent: true})
	bypass := r.in.boolean("BypassPolicyLockoutSafetyCheck")
	if err := named(); err != nil {
		return nil, err
	}
	return nil, r.keys.PutKeyPolicy(r.call, ref, []byte(text), bypass)
}

func (r *request) getKeyPolicy() (out, error) {
	ref, named := r.keyID(), r.policyName()
	if err := named(); err != nil {
		return nil, err
	}
	text, err := r.keys.GetKeyPolicy(r.call, ref)
	if err != nil {
		return nil, err
	}
	return out{"Policy": string(text), "PolicyName": "default"}, nil
}

func (r *request) listKeyPolicies() (out, error) {
	ref := r.keyID()
	limit, marker := r.paging(100, 1000)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	names, err := r.keys.ListKeyPolicies(r.call, ref)
	if err != nil {
		return nil, err
	}
	names, answer, err := page(r, names, limit, marker, func(s string) string { return s })
	if err != nil {
		return nil, err
	}
	answer["PolicyNames"] = names
	return answer, nil
}

func (r *request) enableKeyRotation() (out, error) {
	ref := r.keyID()
	days, _ := r.in.number("RotationPeriodInDays", 90, 2560)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	return nil, r.keys.EnableKeyRotation(r.call, ref, days)
}

func (r *request) getKeyRotationStatus() (out, error) {
	ref := r.keyID()
	if err := r.in.err(); err != nil {
		return nil, err
	}
	st, err := r.keys.GetKeyRotationStatus(r.call, ref)
	if err != nil {
		return nil, err
	}
	o := out{"KeyId": st.KeyARN, "KeyRotationEnabled": st.Enabled}
	if st.Enabled {
		o["RotationPeriodInDays"], o["NextRotationDate"] = st.Days, epoch(st.Next)
	}
	return o, nil
}

func (r *request) listKeyRotations() (out, error) {
	ref := r.keyID()
	include := r.in.text("IncludeKeyMaterial", rule{enum: []string{"ALL_KEY_MATERIAL", "ROTATIONS_ONLY"}})
	limit, marker := r.paging(100, 1000)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	list, err := r.keys.ListKeyRotations(r.call, ref, include == "ALL_KEY_MATERIAL")
	if err != nil {
		return nil, err
	}
	position := make(map[string]string, len(list)) // they come in order, and are only ever appended to
	for i, m := range list {
		position[m.MaterialID] = fmt.Sprintf("%020d", i)
	}
	list, answer, err := page(r, list, limit, marker, func(m keystore.Rotation) string { return position[m.MaterialID] })
	if err != nil {
		return nil, err
	}
	rotations := make([]out, 0, len(list))
	for _, m := range list {
		o := out{"KeyId": m.KeyARN, "KeyMaterialId": m.MaterialID, "KeyMaterialState": "NON_CURRENT"}
		if m.Current {
			o["KeyMaterialState"] = "CURRENT"
		}
		if m.Type != "" {
			o["RotationType"], o["RotationDate"] = m.Type, epoch(m.Date)
		}
		rotations = append(rotations, o)
	}
	answer["Rotations"] = rotations
	return answer, nil
}
