package kmsapi

import (
	"encoding/json"
	"math"
	"time"

	"github.com/kmsfs/kmsfs/keystore"
)

var (
	wrappings     = []string{"RSAES_PKCS1_V1_5", "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256", "SM2PKE"}
	wrappingSpecs = []string{"RSA_2048", "RSA_3072", "RSA_4096", "SM2"}
	expirations   = []string{"KEY_MATERIAL_EXPIRES", "KEY_MATERIAL_DOES_NOT_EXPIRE"}
)

const maxImport = 6144 // bytes of a token, and of wrapped material

// instant is seconds since 1970; the zero time if it is absent.
func (in *input) instant(name string) time.Time {
	v, ok := in.get(name, false)
	if !ok {
		return time.Time{}
	}
	if n, ok := v.(json.Number); ok {
		if f, err := n.Float64(); err == nil && math.Abs(f) < 1<<40 {
			return time.UnixMilli(int64(math.Round(f * 1000))).UTC()
		}
	}
	in.mistype(v, "Timestamp")
	return time.Time{}
}

func (r *request) getParametersForImport() (out, error) {
	ref := r.keyID()
	algorithm := r.in.text("WrappingAlgorithm", rule{required: true, enum: wrappings})
	spec := r.in.text("WrappingKeySpec", rule{required: true, enum: wrappingSpecs})
	if err := r.in.err(); err != nil {
		return nil, err
	}
	p, err := r.keys.GetParametersForImport(r.call, ref, algorithm, spec)
	if err != nil {
		return nil, err
	}
	return out{"KeyId": p.KeyARN, "ImportToken": p.Token, "PublicKey": p.PublicKey, "ParametersValidTo": epoch(p.ValidTo)}, nil
}

func (r *request) importKeyMaterial() (out, error) {
	ref, token, material := r.keyID(), r.in.blob("ImportToken", maxImport), r.in.blob("EncryptedKeyMaterial", maxImport)
	model, until := r.in.text("ExpirationModel", rule{enum: expirations}), r.in.instant("ValidTo")
	kind := r.in.text("ImportType", rule{enum: []string{"NEW_KEY_MATERIAL", "EXISTING_KEY_MATERIAL"}})
	if err := r.in.err(); err != nil {
		return nil, err
	}
	switch never := model == "KEY_MATERIAL_DOES_NOT_EXPIRE"; {
	case never && !until.IsZero():
		return nil, refuse(keystore.CodeValidation, "A validTo date cannot be set for material that does not expire.")
	case !never && until.IsZero():
		return nil, refuse(keystore.CodeValidation, "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES.")
	case kind == "NEW_KEY_MATERIAL":
		m, err := r.keys.DescribeKey(r.call, ref)
		if err == nil && m.CurrentMaterialID != "" {
			err = refuse(keystore.CodeUnsupportedOperation, "A second key material is not supported.")
		}
		if err != nil {
			return nil, err
		}
	}
	arn, id, err := r.keys.ImportKeyMaterial(r.call, ref, token, material, until)
	if err != nil {
		return nil, err
	}
	return out{"KeyId": arn, "KeyMaterialId": id}, nil
}

func (r *request) deleteImportedKeyMaterial() (out, error) {
	ref := r.keyID()
	if err := r.in.err(); err != nil {
		return nil, err
	}
	arn, id, err := r.keys.DeleteImportedKeyMaterial(r.call, ref)
	if err != nil {
		return nil, err
	}
	o := out{"KeyId": arn}
	if id != "" {
		o["KeyMaterialId"] = id
	}
	return o, nil
}
