package keystore

import (
	"crypto/hmac"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Escrow. AWS lets no key material out; here an administrator may put a key's materials, rotated ones included, into somebody's keeping,
// so that what lies under the key can be opened after the key, or its store, is gone. Whoever has the material needs no policy any more,
// so more is asked than for anything else: kms:ExportKeyMaterial by an identity policy, whatever the key policy says, and by the
// key policy too. Taking a key back asks for kms:ImportKeyMaterial, and kms:CreateKey where the key is not there.
//
// Ciphertexts name the key's id, its material and, in their authentication, its ARN. So a key comes back with the id and the material ids
// that it had, and only into a store of the same account and region.

// Escrow is a key as it is given into keeping. It holds secrets: Wipe it.
type Escrow struct {
	Kind        string           `json:"kind"` // EscrowKind
	Format      int              `json:"format"`
	KeyID       string           `json:"keyId"`
	ARN         string           `json:"arn"`
	Origin      string           `json:"origin"`
	Description string           `json:"description,omitempty"`
	Created     time.Time        `json:"created"`
	Exported    time.Time        `json:"exported"`
	Policy      string           `json:"policy"` // with the names of principals, not their unique ids
	Tags        []Tag            `json:"tags,omitempty"`
	Materials   []EscrowMaterial `json:"materials"` // the oldest first; the last is the current one
}

// EscrowMaterial is one material in clear.
type EscrowMaterial struct {
	ID      string    `json:"id"`
	Secret  []byte    `json:"secret"` // 32 bytes
	Created time.Time `json:"created"`
	Type    string    `json:"type,omitempty"`
}

// EscrowKind and EscrowFormat are what an Escrow says of itself.
const (
	EscrowKind   = "kmsfs key escrow"
	EscrowFormat = 1
)

// Wipe clears the materials.
func (e *Escrow) Wipe() {
	for _, m := range e.Materials {
		clear(m.Secret)
	}
}

const (
	actionExport = "kms:ExportKeyMaterial"
	actionImport = "kms:ImportKeyMaterial"
)

var (
	opExportKey = &operation{name: "ExportKeyMaterial", action: actionExport, readOnly: true, states: inAllStates}
	opImportKey = &operation{name: "ImportKey", action: actionImport, states: unlessDeleting}
)

// ExportKey gives out a key with all its materials, in whatever state it is; an alias is accepted. Keys of AWS's own and of the store are not
// given out: they come back with a backup.
func (s *Service) ExportKey(c *Call, ref string) (e *Escrow, err error) {
	t := s.begin(c, opExportKey, audit.Parameters{KeyID: ref})
	defer func() {
		if err = t.end(err); err != nil && e != nil {
			e.Wipe()
			e = nil
		}
	}()
	if s.closed.Load() {
		return nil, ErrClosed
	}
	k, alias, err := s.find(ref, true)
	if err != nil {
		return nil, t.missing(actionExport, err)
	}
	snap := s.settled(k)
	t.resource(k.arn)
	if err := t.allow(actionExport, k, snap, nil, &requestKeys{alias: alias}); err != nil {
		return nil, err
	}
	if err := t.allowIdentity(actionExport, k.arn, nil); err != nil {
		return nil, err
	}
	if snap.rec.Manager != CustomerManager {
		return nil, refuse(CodeUnsupportedOperation, "%s is not a customer managed key.", k.arn)
	}
	e = &Escrow{
		Kind: EscrowKind, Format: EscrowFormat, KeyID: snap.rec.ID, ARN: k.arn, Origin: snap.rec.Origin, Description: snap.rec.Description,
		Created: snap.rec.Created, Exported: t.now, Policy: string(snap.policy.Shown(s.principals)), Tags: slices.Clone(snap.rec.Tags),
	}
	return e, s.exportMaterials(k, snap, e)
}

func (s *Service) exportMaterials(k *key, snap *snapshot, e *Escrow) error {
	k.use.RLock()
	defer k.use.RUnlock()
	if !k.alive {
		return s.goneError(k)
	}
	for _, m := range snap.rec.Materials {
		id, err := parseMaterialID(m.ID)
		if err != nil {
			return err
		}
		secret := snap.materials[id]
		if secret == nil || secret.Wiped() {
			return refuse(CodeInvalidState, "%s has no key material now.", k.arn)
		}
		e.Materials = append(e.Materials, EscrowMaterial{m.ID, slices.Clone(secret.Expose()), m.Created, m.Type})
	}
	if len(e.Materials) == 0 {
		return refuse(CodeInvalidState, "%s has no key material yet.", k.arn)
	}
	return nil
}

// ImportedKey says what ImportKey did.
type ImportedKey struct {
	Metadata
	Made      bool // the key was not there
	Materials int  // that were added
}

// ImportKey takes a key back. A key that is there gets the materials that it lacks; one that is not, or was deleted, is made again,
// Enabled, with the policy it had unless another is given. A key pending deletion is refused: its deletion can be cancelled.
func (s *Service) ImportKey(c *Call, e *Escrow, newPolicy []byte) (out ImportedKey, err error) {
	t := s.begin(c, opImportKey, audit.Parameters{KeyID: e.KeyID, Policy: string(newPolicy)})
	k, err := func() (*key, error) {
		s.manage.Lock()
		defer s.manage.Unlock()
		if s.closed.Load() {
			return nil, ErrClosed
		}
		id, err := s.checkEscrow(e)
		if err != nil {
			return nil, err
		}
		t.resource(s.keyARN(id))
		if err := t.allowIdentity(actionImport, s.keyARN(id), nil); err != nil {
			return nil, err
		}
		if k := s.lookup(id); k != nil && !k.snapshot().deleted() {
			if newPolicy != nil {
				return nil, refuse(CodeValidation, "%s is there and keeps its policy.", k.arn)
			}
			out.Materials, err = s.importInto(t, k, e)
			return k, err
		}
		out.Made, out.Materials = true, len(e.Materials)
		return s.importNew(t, id, e, newPolicy)
	}()
	if k != nil {
		s.notify(k.arn)
	}
	if err := t.end(err); err != nil {
		return ImportedKey{}, err
	}
	out.Metadata = s.metadata(k, k.snapshot())
	return out, nil
}

// checkEscrow is the syntax of what comes from outside.
func (s *Service) checkEscrow(e *Escrow) (keyID, error) {
	id, ok := parseKeyID(e.KeyID)
	switch {
	case e.Kind != EscrowKind:
		return id, refuse(CodeValidation, "This is no key in escrow.")
	case e.Format != EscrowFormat:
		return id, refuse(CodeUnsupportedOperation, "The format of the key in escrow is %d, this program knows %d.", e.Format, EscrowFormat)
	case !ok || e.Origin != originAWS && e.Origin != originExternal || len(e.Materials) == 0 || len(e.Materials) > 10_000 ||
		e.Origin == originExternal && len(e.Materials) != 1 || len(e.Description) > maxDescription:
		return id, refuse(CodeValidation, "The key in escrow is malformed.")
	case e.ARN != s.keyARN(id):
		return id, refuse(CodeValidation, "The key is %s, and this store's account is %s, its region %s: nothing under the key could be opened here.", e.ARN, s.account, s.region)
	}
	seen := map[string]bool{}
	for _, m := range e.Materials {
		if _, err := parseMaterialID(m.ID); err != nil || len(m.Secret) != crypto.KeySize || seen[m.ID] {
			return id, refuse(CodeValidation, "The key in escrow has a malformed material.")
		}
		seen[m.ID] = true
	}
	return id, checkTags(e.Tags)
}

// importNew makes the key again. s.manage is held.
func (s *Service) importNew(t *trail, id keyID, e *Escrow, newPolicy []byte) (*key, error) {
	keys := policy.MapKeys{}
	keys.Add("kms:KeyOrigin", e.Origin)
	if err := t.allowIdentity("kms:CreateKey", "*", keys); err != nil {
		return nil, err
	}
	if old := s.lookup(id); old != nil && old.hidden {
		return nil, refuse(CodeUnsupportedOperation, "%s is not a customer managed key.", old.arn)
	}
	text := newPolicy
	if text == nil {
		text = []byte(e.Policy)
	}
	doc, err := s.parsePolicy(text)
	if err != nil {
		return nil, err
	}
	if err := checkLockout(t.c.Who, doc, s.keyARN(id)); err != nil {
		return nil, err
	}
	slot, err := s.shred.add(id)
	if err != nil {
		return nil, internal(err)
	}
	r := &record{
		Format: recordFormat, ID: id.String(), Manager: CustomerManager, Origin: e.Origin, Description: e.Description, Created: e.Created,
		State: Enabled, Policy: string(doc.Text()), Slot: slot, Tags: slices.Clone(e.Tags),
	}
	k := &key{id: id, arn: s.keyARN(id), alive: true}
	snap := &snapshot{rec: r, policy: doc, materials: map[materialID]*crypto.DataKey{}}
	for _, m := range e.Materials {
		if err := s.addEscrowed(k, snap, m); err != nil {
			return nil, internal(err)
		}
	}
	err = s.commit(func(tx *ledger.Tx) error {
		tx.Put(kindKey, r.ID, encode(r))
		tx.Delete(kindDeleted, r.ID)
		return nil
	})
	if err != nil {
		return nil, err // the slot stays; the next Open removes it if the documents are not there
	}
	k.snap.Store(snap)
	s.index.Lock()
	s.keys[id] = k
	s.index.Unlock()
	s.epoch.Add(1)
	return k, nil
}

// addEscrowed adds a material to a snapshot that is not published yet.
func (s *Service) addEscrowed(k *key, snap *snapshot, m EscrowMaterial) error {
	id, err := parseMaterialID(m.ID)
	if err != nil {
		return err
	}
	wrapping, err := s.shred.wrapping(s.root, snap.rec.Slot, k.id)
	if err != nil {
		return err
	}
	defer wrapping.Wipe()
	material, err := crypto.DataKeyFromBytes(slices.Clone(m.Secret))
	if err != nil {
		return err
	}
	r := materialRecord{ID: m.ID, Wrapped: sealMaterial(wrapping, k.id, id, material), Created: m.Created, Type: m.Type}
	if snap.rec.Origin == originExternal {
		r.Check = s.checkOf(k.id, material)
	}
	snap.rec.Materials = append(snap.rec.Materials, r)
	snap.materials[id], snap.current = material, id
	return nil
}

// importInto gives a key the materials that it lacks. s.manage is held.
func (s *Service) importInto(t *trail, k *key, e *Escrow) (added int, err error) {
	if err := s.settle(k, t.now); err != nil {
		return 0, err
	}
	old := k.snapshot()
	if err := t.allow(actionImport, k, old, nil, &requestKeys{}); err != nil {
		return 0, err
	}
	if err := checkState(opImportKey, k.arn, old.rec); err != nil {
		return 0, err
	}
	if old.rec.Manager != CustomerManager || old.rec.Origin != e.Origin {
		return 0, refuse(CodeUnsupportedOperation, "%s is another kind of key.", k.arn)
	}
	ch := s.changing(t, k, old)
	ch.snap.materials = maps.Clone(old.materials)
	if e.Origin == originExternal {
		return s.importExternal(ch, e.Materials[0])
	}
	for _, m := range e.Materials {
		id, _ := parseMaterialID(m.ID) // checked
		have := old.materials[id]
		if have == nil {
			if err := s.addEscrowed(k, ch.snap, m); err != nil {
				return 0, internal(err)
			}
			added++
			continue
		}
		if !hmac.Equal(have.Expose(), m.Secret) {
			return 0, &Error{Code: CodeIncorrectKeyMaterial, Message: "The key in escrow has other bytes under the same material id."}
		}
	}
	if added == 0 {
		return 0, nil
	}
	// The newest is the current one, whoever made it.
	slices.SortStableFunc(ch.rec.Materials, func(a, b materialRecord) int { return a.Created.Compare(b.Created) })
	if ch.snap.current, err = parseMaterialID(ch.rec.current().ID); err != nil {
		return 0, err
	}
	return added, ch.commit()
}

// importExternal brings imported material back that expired or was deleted.
func (s *Service) importExternal(ch *changing, m EscrowMaterial) (added int, err error) {
	if len(ch.rec.Materials) > 0 && ch.rec.current().Wrapped != nil && strings.EqualFold(ch.rec.current().ID, m.ID) {
		return 0, nil
	}
	if len(ch.rec.Materials) == 0 {
		return 0, refuse(CodeInvalidState, "%s never had this material: use ImportKeyMaterial.", ch.k.arn)
	}
	material, err := crypto.DataKeyFromBytes(slices.Clone(m.Secret))
	if err != nil {
		return 0, internal(err)
	}
	if _, err := ch.imported(material); err != nil {
		return 0, err
	}
	return 1, ch.commit()
}
