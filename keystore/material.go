package keystore

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/kmsfs/kmsfs/crypto"
)

const materialInfo = "kmsfs keystore material v1 "

// materialID names one key material; it is random, not derived from the bytes.
type materialID [32]byte

func newMaterialID() (id materialID) {
	rand.Read(id[:])
	return id
}

func (id materialID) String() string { return hex.EncodeToString(id[:]) }

func parseMaterialID(s string) (materialID, error) {
	var id materialID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%w: material id", ErrCorrupt)
	}
	copy(id[:], b)
	return id, nil
}

// sealMaterial wraps material: nonce 12 | AES-256-GCM(wrapping, material) with the key's and the material's id as associated data.
func sealMaterial(wrapping *crypto.DataKey, key keyID, id materialID, material *crypto.DataKey) []byte {
	b := make([]byte, 12, 12+crypto.KeySize+16)
	rand.Read(b)
	return wrapping.Seal(b, b, material.Expose(), materialAD(key, id))
}

func openMaterial(wrapping *crypto.DataKey, key keyID, id materialID, sealed []byte) (*crypto.DataKey, error) {
	if len(sealed) != 12+crypto.KeySize+16 {
		return nil, fmt.Errorf("%w: material %s of key %s", ErrCorrupt, id, key)
	}
	b, err := wrapping.Open(nil, sealed[:12], sealed[12:], materialAD(key, id))
	if err != nil {
		return nil, fmt.Errorf("%w: material %s of key %s does not authenticate", ErrCorrupt, id, key)
	}
	return crypto.DataKeyFromBytes(b)
}

func materialAD(key keyID, id materialID) []byte {
	return append(append(make([]byte, 0, 48), key[:]...), id[:]...)
}
