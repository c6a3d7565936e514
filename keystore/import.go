package keystore

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // RSAES_OAEP_SHA_1 is one of the algorithms that clients choose
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"hash"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Imported key material. A key of origin EXTERNAL is made without material and gets one, of 32 bytes, from outside: it travels
// encrypted under an RSA key made for the purpose. The private half travels too, sealed in the import token, so that nothing
// is kept between the two calls. The material can expire or be deleted, which destroys it here by giving the key a new shred
// slot; only the same material can bring the key back. Rotation of imported material is not supported.

const (
	originExternal = "EXTERNAL"

	importTokenInfo    = "kmsfs keystore import tokens v1"
	importCheckInfo    = "kmsfs keystore imported material v1"
	importTokenVersion = 1
	importTokenLife    = 24 * time.Hour
	maxImportLife      = 365 * day
	maxImportToken     = 6144

	expires       = "KEY_MATERIAL_EXPIRES"
	doesNotExpire = "KEY_MATERIAL_DOES_NOT_EXPIRE"
)

// The refusals of imports.
const (
	CodeIncorrectKeyMaterial = "IncorrectKeyMaterialException"
	CodeInvalidImportToken   = "InvalidImportTokenException"
	CodeExpiredImportToken   = "ExpiredImportTokenException"
)

var (
	opGetParametersForImport    = reading("GetParametersForImport", unlessDeleting)
	opImportKeyMaterial         = changes("ImportKeyMaterial", unlessDeleting)
	opDeleteImportedKeyMaterial = changes("DeleteImportedKeyMaterial", unlessDeleting)
)

var (
	wrappingBits  = map[string]int{"RSA_2048": 2048, "RSA_3072": 3072, "RSA_4096": 4096}
	wrappingHash  = map[byte]func() hash.Hash{1: sha1.New, 2: sha256.New}
	wrappingCodes = map[string]byte{"RSAES_OAEP_SHA_1": 1, "RSAES_OAEP_SHA_256": 2}
)

// ImportParameters are what a client needs to send material.
type ImportParameters struct {
	KeyARN    string
	Token     []byte
	PublicKey []byte // DER, SubjectPublicKeyInfo
	ValidTo   time.Time
}

func external(k *key, r *record) error {
	if r.Origin != originExternal {
		return refuse(CodeUnsupportedOperation, "%s origin is %s which is not valid for this operation.", k.arn, r.Origin)
	}
	return nil
}

// GetParametersForImport makes an RSA key (RSA_2048, RSA_3072, RSA_4096) under which material is to be encrypted by
// RSAES_OAEP_SHA_1 or RSAES_OAEP_SHA_256, and a token for it that is good for 24 hours.
func (s *Service) GetParametersForImport(c *Call, ref, algorithm, spec string) (ImportParameters, error) {
	bits, code := wrappingBits[spec], wrappingCodes[algorithm]
	if bits == 0 || code == 0 {
		return ImportParameters{}, refuse(CodeUnsupportedOperation, "Wrapping by %s under %s is not supported.", algorithm, spec)
	}
	var out ImportParameters
	p := audit.Parameters{KeyID: ref, Extra: map[string]any{"wrappingAlgorithm": algorithm, "wrappingKeySpec": spec}}
	keys := policy.MapKeys{}
	keys.Add("kms:WrappingAlgorithm", algorithm)
	keys.Add("kms:WrappingKeySpec", spec)
	err := s.readWith(c, opGetParametersForImport, ref, p, keys, func(k *key, snap *snapshot) error {
		if err := external(k, snap.rec); err != nil {
			return err
		}
		private, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			return err
		}
		defer clear(der)
		out.KeyARN, out.ValidTo = k.arn, s.clock().Add(importTokenLife).Truncate(time.Second)
		if out.PublicKey, err = x509.MarshalPKIXPublicKey(&private.PublicKey); err != nil {
			return err
		}
		out.Token, err = s.sealImportToken(k.id, code, out.ValidTo, der)
		return err
	})
	if err != nil {
		return ImportParameters{}, err
	}
	return out, nil
}

// sealImportToken is version 1 | nonce 12 | AES-256-GCM(token key, expiry u64 in seconds | algorithm u8 | private key in PKCS #8, AAD = UUID).
func (s *Service) sealImportToken(id keyID, algorithm byte, until time.Time, private []byte) ([]byte, error) {
	s.manage.Lock()
	defer s.manage.Unlock()
	if s.closed.Load() {
		return nil, ErrClosed
	}
	k := s.root.Derive(nil, importTokenInfo)
	defer k.Wipe()
	plain := append(binary.BigEndian.AppendUint64(nil, uint64(until.Unix())), algorithm)
	plain = append(plain, private...)
	defer clear(plain)
	token := make([]byte, 13, 13+len(plain)+16)
	token[0] = importTokenVersion
	rand.Read(token[1:13])
	return k.Seal(token, token[1:13], plain, id[:]), nil
}

// openImport opens a token and with it the material. s.manage is held.
func (s *Service) openImport(k *key, token, encrypted []byte, now time.Time) (*crypto.DataKey, error) {
	if len(token) < 13+9+16 || len(token) > maxImportToken || token[0] != importTokenVersion {
		return nil, &Error{Code: CodeInvalidImportToken}
	}
	tokenKey := s.root.Derive(nil, importTokenInfo)
	defer tokenKey.Wipe()
	plain, err := tokenKey.Open(nil, token[1:13], token[13:], k.id[:])
	if err != nil || len(plain) < 9 {
		return nil, &Error{Code: CodeInvalidImportToken}
	}
	defer clear(plain)
	if !now.Before(time.Unix(int64(binary.BigEndian.Uint64(plain)), 0)) {
		return nil, &Error{Code: CodeExpiredImportToken}
	}
	private, err := x509.ParsePKCS8PrivateKey(plain[9:])
	newHash := wrappingHash[plain[8]]
	rsaKey, ok := private.(*rsa.PrivateKey)
	if err != nil || !ok || newHash == nil {
		return nil, &Error{Code: CodeInvalidImportToken}
	}
	if len(encrypted) != rsaKey.Size() { // crypto/rsa takes a shorter one for one with zeros before it
		return nil, invalidCiphertext()
	}
	material, err := rsa.DecryptOAEP(newHash(), nil, rsaKey, encrypted, nil)
	if err != nil {
		return nil, invalidCiphertext()
	}
	defer clear(material)
	if len(material) != crypto.KeySize {
		return nil, &Error{Code: CodeIncorrectKeyMaterial, Message: "The key material of a symmetric key has 32 bytes."}
	}
	return crypto.DataKeyFromBytes(material)
}

// checkOf tells the same material from another, after it is gone. s.manage is held.
func (s *Service) checkOf(id keyID, material *crypto.DataKey) []byte {
	k := s.root.Derive(id[:], importCheckInfo)
	defer k.Wipe()
	sum := k.MAC(material.Expose())
	return sum[:]
}

// ImportKeyMaterial gives a key its material, until validTo if that is not zero. It takes a token of GetParametersForImport and the
// material encrypted under that call's public key. A key that had material before takes back the same alone.
func (s *Service) ImportKeyMaterial(c *Call, ref string, token, encrypted []byte, validTo time.Time) (arn, material string, err error) {
	keys := policy.MapKeys{}
	model := doesNotExpire
	extra := map[string]any{}
	if !validTo.IsZero() {
		model = expires
		keys.Add("kms:ValidTo", validTo.UTC().Format(time.RFC3339))
		extra["validTo"] = validTo.UTC().Format(time.RFC3339)
	}
	keys.Add("kms:ExpirationModel", model)
	extra["expirationModel"] = model
	err = s.change(c, opImportKeyMaterial, ref, audit.Parameters{KeyID: ref, Extra: extra}, keys, func(ch *changing) error {
		if err := external(ch.k, ch.rec); err != nil {
			return err
		}
		if now := ch.t.now; !validTo.IsZero() && (!validTo.After(now) || validTo.Sub(now) > maxImportLife) {
			return refuse(CodeValidation, "ValidTo must be in the future, and at most 365 days ahead.")
		}
		m, err := s.openImport(ch.k, token, encrypted, ch.t.now)
		if err != nil {
			return err
		}
		arn = ch.k.arn
		material, err = ch.imported(m)
		ch.rec.Expires = validTo
		return err
	})
	if err != nil {
		return "", "", err
	}
	return arn, material, nil
}

// imported puts material into the change, which owns it then.
func (ch *changing) imported(m *crypto.DataKey) (string, error) {
	check := ch.s.checkOf(ch.k.id, m)
	id := newMaterialID()
	if len(ch.rec.Materials) > 0 {
		last := ch.rec.current()
		if !hmac.Equal(last.Check, check) {
			m.Wipe()
			return "", &Error{Code: CodeIncorrectKeyMaterial, Message: "The key material is not the one that was imported before."}
		}
		var err error
		if id, err = parseMaterialID(last.ID); err != nil {
			m.Wipe()
			return "", err
		}
		if last.Wrapped != nil { // it is there
			m.Wipe()
			return last.ID, nil
		}
	}
	wrapping, err := ch.s.shred.wrapping(ch.s.root, ch.rec.Slot, ch.k.id)
	if err != nil {
		m.Wipe()
		return "", err
	}
	defer wrapping.Wipe()
	ch.rec.Materials = []materialRecord{{ID: id.String(), Wrapped: sealMaterial(wrapping, ch.k.id, id, m), Created: ch.t.now, Check: check}}
	ch.snap.materials, ch.snap.current = map[materialID]*crypto.DataKey{id: m}, id
	if ch.rec.State == PendingImport {
		ch.rec.State = Enabled
	}
	return id.String(), nil
}

// DeleteImportedKeyMaterial destroys a key's material; the key is PendingImport until the same material is imported again.
func (s *Service) DeleteImportedKeyMaterial(c *Call, ref string) (arn, material string, err error) {
	var gone *dropped
	err = s.change(c, opDeleteImportedKeyMaterial, ref, audit.Parameters{KeyID: ref}, nil, func(ch *changing) error {
		if err := external(ch.k, ch.rec); err != nil {
			return err
		}
		arn = ch.k.arn
		if len(ch.rec.Materials) > 0 {
			material = ch.rec.current().ID
		}
		gone, err = ch.dropMaterial()
		return err
	})
	if gone != nil {
		if derr := s.destroyDropped(gone); err == nil && derr != nil {
			err = internal(derr)
		}
	}
	if err != nil {
		return "", "", err
	}
	return arn, material, nil
}

// dropped is material that a change takes away, to be destroyed once it is committed.
type dropped struct {
	k        *key
	slot     uint32
	id       materialID
	material *crypto.DataKey
}

// dropMaterial takes the material out of the change and gives the key a new slot. nil: there was none.
func (ch *changing) dropMaterial() (*dropped, error) {
	ch.rec.State = PendingImport
	ch.rec.Expires = time.Time{}
	if len(ch.rec.Materials) == 0 || ch.rec.current().Wrapped == nil {
		return nil, nil
	}
	slot, err := ch.s.shred.add(ch.k.id)
	if err != nil {
		return nil, internal(err)
	}
	d := &dropped{k: ch.k, slot: ch.rec.Slot, id: ch.snap.current, material: ch.snap.material()}
	last := *ch.rec.current()
	last.Wrapped = nil
	ch.rec.Slot, ch.rec.Materials = slot, []materialRecord{last}
	ch.snap.materials = map[materialID]*crypto.DataKey{}
	return d, nil
}

// destroyDropped ends the use of material after the commit that took it away, and overwrites its slot. After a failed commit it
// is unknown which slot counts: then the present snapshot says so, and the next Open removes the other.
func (s *Service) destroyDropped(d *dropped) error {
	if rec := d.k.snapshot().rec; rec != nil && rec.Slot == d.slot {
		return nil
	}
	d.k.use.Lock()
	s.wrapping.Forget(d.id)
	d.material.Wipe()
	d.k.use.Unlock()
	return s.shred.destroy(d.slot, d.k.id)
}

// expire takes material away whose time is over. s.manage is held.
func (s *Service) expire(k *key, snap *snapshot, now time.Time) error {
	ch := s.changing(nil, k, snap)
	d, err := ch.dropMaterial()
	if err != nil {
		return err
	}
	err = s.commit(func(tx *ledger.Tx) error { tx.Put(kindKey, ch.rec.ID, encode(ch.rec)); return nil })
	if err != nil {
		return err
	}
	k.publish(ch.snap)
	s.epoch.Add(1)
	if d != nil {
		err = s.destroyDropped(d)
	}
	s.serviceEvent("DeleteExpiredKeyMaterial", k, now, map[string]any{"keyId": k.id.String()})
	return err
}

// overdue says that imported material must not be used any more.
func (r *record) overdue(now time.Time) bool { return r.expiring() && !r.Expires.After(now) }

// expiring says that there is a time from which on imported material must not be used any more.
func (r *record) expiring() bool { return r.Origin == originExternal && !r.Expires.IsZero() }
