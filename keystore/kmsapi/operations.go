package kmsapi

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/kmsfs/kmsfs/keystore"
)

// out is an answer. nil: an empty body.
type out map[string]any

// request is one call under way.
type request struct {
	in   *input
	call *keystore.Call
	keys *keystore.Service
	name string // of the operation
}

type operation func(*request) (out, error)

// operations is the table of the protocol's operations.
func operations() map[string]operation {
	table := map[string]operation{
		"CreateKey":            (*request).createKey,
		"DescribeKey":          (*request).describeKey,
		"ListKeys":             (*request).listKeys,
		"UpdateKeyDescription": (*request).updateKeyDescription,
		"EnableKey":            onKey((*keystore.Service).EnableKey, false),
		"DisableKey":           onKey((*keystore.Service).DisableKey, false),
		"ScheduleKeyDeletion":  (*request).scheduleKeyDeletion,
		"CancelKeyDeletion":    onKey((*keystore.Service).CancelKeyDeletion, true),
		"TagResource":          (*request).tagResource,
		"UntagResource":        (*request).untagResource,
		"ListResourceTags":     (*request).listResourceTags,

		"CreateAlias": onAlias((*keystore.Service).CreateAlias),
		"UpdateAlias": onAlias((*keystore.Service).UpdateAlias),
		"DeleteAlias": (*request).deleteAlias,
		"ListAliases": (*request).listAliases,

		"PutKeyPolicy":    (*request).putKeyPolicy,
		"GetKeyPolicy":    (*request).getKeyPolicy,
		"ListKeyPolicies": (*request).listKeyPolicies,

		"EnableKeyRotation":    (*request).enableKeyRotation,
		"DisableKeyRotation":   onKey((*keystore.Service).DisableKeyRotation, false),
		"GetKeyRotationStatus": (*request).getKeyRotationStatus,
		"RotateKeyOnDemand":    onKey((*keystore.Service).RotateKeyOnDemand, true),
		"ListKeyRotations":     (*request).listKeyRotations,

		"GetParametersForImport":    (*request).getParametersForImport,
		"ImportKeyMaterial":         (*request).importKeyMaterial,
		"DeleteImportedKeyMaterial": (*request).deleteImportedKeyMaterial,

		"Encrypt":                         (*request).encrypt,
		"Decrypt":                         (*request).decrypt,
		"ReEncrypt":                       (*request).reEncrypt,
		"GenerateDataKey":                 (*request).generateDataKey,
		"GenerateDataKeyWithoutPlaintext": (*request).generateDataKey,
		"GenerateRandom":                  (*request).generateRandom,

		"CreateGrant":         (*request).createGrant,
		"ListGrants":          (*request).listGrants,
		"ListRetirableGrants": (*request).listRetirableGrants,
		"RevokeGrant":         (*request).revokeGrant,
		"RetireGrant":         (*request).retireGrant,
	}
	for _, name := range []string{
		"ConnectCustomKeyStore", "CreateCustomKeyStore", "DeleteCustomKeyStore", "DeriveSharedSecret",
		"DescribeCustomKeyStores", "DisconnectCustomKeyStore", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext", "GenerateMac",
		"GetPublicKey", "ReplicateKey", "Sign", "UpdateCustomKeyStore",
		"UpdatePrimaryRegion", "Verify", "VerifyMac",
	} {
		table[name] = unsupported
	}
	return table
}

func unsupported(r *request) (out, error) {
	return nil, refuse(keystore.CodeUnsupportedOperation, "%s is not supported: keys are symmetric and kept here.", r.name)
}

// epoch is an instant as the protocol writes it.
func epoch(t time.Time) json.Number {
	return json.Number(strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64))
}

var aKeyID = rule{required: true, min: 1, max: 2048}

func (r *request) keyID() string { return r.in.text("KeyId", aKeyID) }

// onKey is an operation on a key that has no other parameter; told: it answers with the key's ARN.
func onKey(do func(*keystore.Service, *keystore.Call, string) error, told bool) operation {
	return func(r *request) (out, error) {
		ref := r.keyID()
		if err := r.in.err(); err != nil {
			return nil, err
		}
		if err := do(r.keys, r.call, ref); err != nil || !told {
			return nil, err
		}
		arn, err := r.keys.Resolve(ref)
		return out{"KeyId": arn}, err
	}
}

// grantTokens reads and verifies the grant tokens, which change nothing. It is the last step before the keystore.
func (r *request) grantTokens() ([]string, error) {
	tokens := r.in.texts("GrantTokens", false, 0, 10, rule{min: 1, max: 8192, silent: true})
	if err := r.in.err(); err != nil {
		return nil, err
	}
	return tokens, r.keys.CheckGrantTokens(tokens)
}
