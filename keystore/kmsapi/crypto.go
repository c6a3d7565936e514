package kmsapi

import (
	"bytes"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/keystore"
)

const (
	maxPlaintext  = 4096
	maxCiphertext = 6144
	maxRandom     = 1024
)

var algorithms = []string{"SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE"}

// using reads what all uses of a key have in common and is the last step before
// the keystore: grant tokens, a dry run, and recipients, of which there are none.
func (r *request) using() error {
	r.call.DryRun = r.in.boolean("DryRun")
	if _, err := r.grantTokens(); err != nil {
		return err
	}
	if r.in.given("Recipient") {
		return refuse(keystore.CodeUnsupportedOperation, "Attested recipients are not supported.")
	}
	return nil
}

func (r *request) algorithm(name string) string { return r.in.text(name, rule{enum: algorithms}) }

// fits refuses an algorithm that no key has, after what must be told first.
func (r *request) fits(algorithm, action, ref string, ctx crypto.Context) error {
	if algorithm == "" || algorithm == keystore.Algorithm {
		return nil
	}
	if _, err := r.keys.Check(r.call, action, ref, ctx); err != nil {
		return err
	}
	return refuse(codeInvalidKeyUsage, "The algorithm %s is incompatible with the key spec %s.", algorithm, keystore.Spec)
}

func (r *request) encrypt() (out, error) {
	ref, plaintext := r.keyID(), r.in.blob("Plaintext", maxPlaintext)
	defer clear(plaintext)
	ctx, algorithm := crypto.Context(r.in.pairs("EncryptionContext")), r.algorithm("EncryptionAlgorithm")
	if err := r.using(); err != nil {
		return nil, err
	}
	if err := r.fits(algorithm, "kms:Encrypt", ref, ctx); err != nil {
		return nil, err
	}
	blob, arn, err := r.keys.Encrypt(r.call, ref, plaintext, ctx)
	if err != nil {
		return nil, err
	}
	return out{"CiphertextBlob": []byte(blob), "KeyId": arn, "EncryptionAlgorithm": keystore.Algorithm}, nil
}

func (r *request) decrypt() (out, error) {
	ref, blob := r.in.text("KeyId", rule{min: 1, max: 2048}), r.in.blob("CiphertextBlob", maxCiphertext)
	ctx, algorithm := crypto.Context(r.in.pairs("EncryptionContext")), r.algorithm("EncryptionAlgorithm")
	if err := r.using(); err != nil {
		return nil, err
	}
	named := ref
	if named == "" {
		if arn, err := r.keys.KeyARN(blob); err == nil {
			named = arn
		}
	}
	if named != "" {
		if err := r.fits(algorithm, "kms:Decrypt", named, ctx); err != nil {
			return nil, err
		}
	}
	d, err := r.keys.DecryptBytes(r.call, blob, ctx, ref)
	if err != nil {
		return nil, err
	}
	return out{"Plaintext": d.Plaintext, "KeyId": d.KeyARN, "EncryptionAlgorithm": keystore.Algorithm, "KeyMaterialId": d.MaterialID}, nil
}

func (r *request) reEncrypt() (out, error) {
	blob := r.in.blob("CiphertextBlob", maxCiphertext)
	source := r.in.text("SourceKeyId", rule{min: 1, max: 2048})
	destination := r.in.text("DestinationKeyId", aKeyID)
	from, to := crypto.Context(r.in.pairs("SourceEncryptionContext")), crypto.Context(r.in.pairs("DestinationEncryptionContext"))
	fromAlgorithm, toAlgorithm := r.algorithm("SourceEncryptionAlgorithm"), r.algorithm("DestinationEncryptionAlgorithm")
	if err := r.using(); err != nil {
		return nil, err
	}
	sourceARN, err := r.keys.KeyARN(blob)
	if err == nil {
		if err := r.fits(fromAlgorithm, "kms:ReEncryptFrom", sourceARN, from); err != nil {
			return nil, err
		}
	}
	if err := r.fits(toAlgorithm, "kms:ReEncryptTo", destination, to); err != nil {
		return nil, err
	}
	wrapped, arn, err := r.keys.ReEncryptFrom(r.call, blob, from, source, destination, to)
	if err != nil {
		return nil, err
	}
	before, err := r.keys.MaterialID(blob)
	if err != nil {
		return nil, err
	}
	after, err := r.keys.MaterialID(wrapped)
	return out{
		"CiphertextBlob": []byte(wrapped), "SourceKeyId": sourceARN, "KeyId": arn,
		"SourceEncryptionAlgorithm": keystore.Algorithm, "DestinationEncryptionAlgorithm": keystore.Algorithm,
		"SourceKeyMaterialId": before, "DestinationKeyMaterialId": after,
	}, err
}

// generateDataKey is both operations that make a data key.
func (r *request) generateDataKey() (out, error) {
	ref := r.keyID()
	spec := r.in.text("KeySpec", rule{enum: []string{"AES_256", "AES_128"}})
	n, given := r.in.number("NumberOfBytes", 1, maxRandom)
	ctx := crypto.Context(r.in.pairs("EncryptionContext"))
	if err := r.using(); err != nil {
		return nil, err
	}
	switch {
	case given && spec != "":
		return nil, refuse(keystore.CodeValidation, "Please specify either number of bytes or key spec, but not both.")
	case !given && spec == "":
		return nil, refuse(keystore.CodeValidation, "Please specify either number of bytes or key spec.")
	}
	plaintext, blob, arn, err := r.newDataKey(ref, spec, n, ctx)
	if err != nil {
		return nil, err
	}
	material, err := r.keys.MaterialID(blob)
	o := out{"CiphertextBlob": []byte(blob), "KeyId": arn, "KeyMaterialId": material}
	if plaintext != nil {
		o["Plaintext"] = plaintext
	}
	return o, err
}

func (r *request) newDataKey(ref, spec string, n int, ctx crypto.Context) ([]byte, crypto.WrappedKey, string, error) {
	wanted := r.name == "GenerateDataKey"
	switch {
	case spec == "AES_256" && wanted:
		dk, blob, arn, err := r.keys.GenerateDataKey(r.call, ref, ctx)
		if err != nil {
			return nil, nil, "", err
		}
		defer dk.Wipe()
		return bytes.Clone(dk.Expose()), blob, arn, nil
	case spec == "AES_256":
		blob, arn, err := r.keys.GenerateDataKeyWithoutPlaintext(r.call, ref, ctx)
		return nil, blob, arn, err
	case spec == "AES_128":
		n = 16
	}
	return r.keys.GenerateDataKeyBytes(r.call, ref, n, wanted, ctx)
}

func (r *request) generateRandom() (out, error) {
	n, given := r.in.number("NumberOfBytes", 1, maxRandom)
	if err := r.in.err(); err != nil {
		return nil, err
	}
	switch {
	case r.in.given("CustomKeyStoreId") || r.in.given("Recipient"):
		return nil, refuse(keystore.CodeUnsupportedOperation, "Custom key stores and attested recipients are not supported.")
	case !given:
		return nil, refuse(keystore.CodeValidation, "NumberOfBytes is required.")
	}
	b, err := r.keys.GenerateRandom(r.call, n)
	if err != nil {
		return nil, err
	}
	return out{"Plaintext": b}, nil
}
