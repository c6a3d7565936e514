package keystore

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/crypto/wrap"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Manager says who manages a key.
type Manager string

// The managers. The store's hidden key has a third, which no call shows.
const (
	CustomerManager Manager = "CUSTOMER"
	AWSManager      Manager = "AWS"
	storeManager    Manager = "STORE"
)

func (m Manager) known() bool { return m == CustomerManager || m == AWSManager || m == storeManager }

const (
	originAWS = "AWS_KMS"
	// Usage, Spec and Algorithm are the only ones there are.
	Usage     = "ENCRYPT_DECRYPT"
	Spec      = "SYMMETRIC_DEFAULT"
	Algorithm = "SYMMETRIC_DEFAULT"

	maxDescription = 8192
	maxTags        = 50
)

// key is one key for as long as it is known, also after its deletion.
type key struct {
	id     keyID
	arn    string
	hidden bool // the store key

	snap atomic.Pointer[snapshot]

	use   sync.RWMutex // guards alive, and with it the materials of every snapshot
	alive bool         // false: the materials are wiped
}

// snapshot is a key's state. It is never changed once published.
type snapshot struct {
	rec       *record // nil: the key is deleted
	policy    *policy.Document
	materials map[materialID]*crypto.DataKey
	current   materialID
	aliases   []string // sorted
	grants    *grants  // nil = none
}

func (k *key) snapshot() *snapshot            { return k.snap.Load() }
func (s *snapshot) deleted() bool             { return s.rec == nil }
func (s *snapshot) material() *crypto.DataKey { return s.materials[s.current] }

// wipe waits for the calls that use the key's materials and wipes them, and what was derived from them.
func (k *key) wipe(derived *wrap.Cache) {
	k.use.Lock()
	defer k.use.Unlock()
	k.alive = false
	for id, m := range k.snapshot().materials {
		derived.Forget(id)
		m.Wipe()
	}
}

// Tag is a key's tag.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Metadata is what DescribeKey tells of a key.
type Metadata struct {
	KeyID             string
	ARN               string
	Account           string
	Description       string
	Created           time.Time
	State             State
	Enabled           bool // exactly when State is Enabled
	Manager           Manager
	Origin            string    // AWS_KMS, EXTERNAL
	CurrentMaterialID string    // 64 hex digits; "" before the first import
	DeletionDate      time.Time // zero unless State is PendingDeletion
	PendingWindowDays int       // 0 unless State is PendingDeletion
	ExpirationModel   string    // of imported material that is there; "" otherwise
	ValidTo           time.Time // zero unless imported material expires
	Aliases           []string
}

func (s *Service) metadata(k *key, snap *snapshot) Metadata {
	r := snap.rec
	m := Metadata{
		KeyID: r.ID, ARN: k.arn, Account: s.account, Description: r.Description, Created: r.Created, State: r.State,
		Enabled: r.State == Enabled, Manager: r.Manager, Origin: r.Origin, Aliases: slices.Clone(snap.aliases),
	}
	if len(r.Materials) > 0 {
		m.CurrentMaterialID = r.current().ID
		if r.Origin == originExternal && r.current().Wrapped != nil {
			m.ExpirationModel, m.ValidTo = doesNotExpire, r.Expires
			if !r.Expires.IsZero() {
				m.ExpirationModel = expires
			}
		}
	}
	if r.State == PendingDeletion {
		m.DeletionDate, m.PendingWindowDays = r.DeleteAt, r.Window
	}
	return m
}

// CreateKeyInput describes a new key. At most one of Policy and Admins/Users is given; without any the key has the default
// policy, which delegates to the account.
type CreateKeyInput struct {
	Description   string   // at most 8192 bytes
	Policy        []byte   // a key policy, JSON
	Admins, Users []string // principal ARNs for a policy as the console writes it
	Alias         string   // "alias/…", made together with the key
	BypassLockout bool     // skip the check that the caller can change the policy again
	Tags          []Tag
	// For callers of the wire protocol; empty or a supported value.
	KeyUsage, KeySpec, Origin string
	MultiRegion               bool
}

// CreateKey makes a key, Enabled, with one material; one of origin EXTERNAL is PendingImport and has none.
func (s *Service) CreateKey(c *Call, in CreateKeyInput) (Metadata, error) {
	t := s.begin(c, opCreateKey, audit.Parameters{
		Description: in.Description, Policy: string(in.Policy), BypassPolicyLockoutSafetyCheck: in.BypassLockout, Tags: auditTags(in.Tags),
	})
	k, err := s.createKey(t, in)
	if err != nil {
		return Metadata{}, t.end(err)
	}
	t.respond(map[string]any{"keyMetadata": map[string]any{"keyId": k.id.String(), "arn": k.arn}})
	t.resource(k.arn)
	if err := t.end(nil); err != nil {
		return Metadata{}, err
	}
	if in.Alias != "" {
		a := s.begin(c, opCreateAlias, audit.Parameters{AliasName: in.Alias, TargetKeyID: k.id.String()})
		a.resource(k.arn)
		if err := a.end(nil); err != nil {
			return Metadata{}, err
		}
	}
	s.notify(k.arn)
	return s.metadata(k, k.snapshot()), nil
}

func (s *Service) createKey(t *trail, in CreateKeyInput) (*key, error) {
	if err := checkNewKey(in); err != nil {
		return nil, err
	}
	s.manage.Lock()
	defer s.manage.Unlock()
	if s.closed.Load() {
		return nil, internal(ErrClosed)
	}
	keys := policy.MapKeys{}
	keys.Add("kms:KeySpec", Spec)
	keys.Add("kms:KeyUsage", Usage)
	origin, state := originAWS, Enabled
	if in.Origin == originExternal {
		origin, state = originExternal, PendingImport
	}
	keys.Add("kms:KeyOrigin", origin)
	keys.Add("kms:MultiRegion", "false")
	keys.Add("kms:BypassPolicyLockoutSafetyCheck", boolText(in.BypassLockout))
	addRequestTags(keys, in.Tags)
	if err := t.allowIdentity("kms:CreateKey", "*", keys); err != nil {
		return nil, err
	}
	if len(in.Tags) > 0 {
		if err := t.allowIdentity("kms:TagResource", "*", keys); err != nil {
			return nil, err
		}
	}
	id := newKeyID()
	doc, err := s.newPolicy(t, s.keyARN(id), in)
	if err != nil {
		return nil, err
	}
	r := &record{
		Format: recordFormat, ID: id.String(), Manager: CustomerManager, Origin: origin, Description: in.Description,
		Created: t.now, State: state, Policy: string(doc.Text()), Tags: slices.Clone(in.Tags),
	}
	if in.Alias != "" {
		if err := s.mayAlias(t, in.Alias, s.keyARN(id), doc); err != nil {
			return nil, err
		}
	}
	return s.addKey(id, r, doc, in.Alias, t.now)
}

// checkNewKey is the syntax of CreateKey.
func checkNewKey(in CreateKeyInput) error {
	only := func(got, want string) bool { return got == "" || got == want }
	switch {
	case len(in.Description) > maxDescription:
		return refuse(CodeValidation, "1 validation error detected: Value at 'description' failed to satisfy constraint: "+
			"Member must have length less than or equal to %d", maxDescription)
	case in.Policy != nil && len(in.Admins)+len(in.Users) > 0:
		return refuse(CodeValidation, "a policy and a list of administrators or users exclude each other")
	case !only(in.KeyUsage, Usage) || !only(in.KeySpec, Spec) || !only(in.Origin, originAWS) && in.Origin != originExternal || in.MultiRegion:
		return refuse(CodeUnsupportedOperation, "Only keys with usage %s, spec %s and origin %s or %s are supported.", Usage, Spec, originAWS, originExternal)
	}
	if in.Alias != "" {
		if err := checkNewAlias(in.Alias); err != nil {
			return err
		}
	}
	return checkTags(in.Tags)
}

// addKey gives a new key its slot and first material, and commits and publishes it. s.manage is held.
func (s *Service) addKey(id keyID, r *record, doc *policy.Document, aliasName string, now time.Time) (*key, error) {
	slot, err := s.shred.add(id)
	if err != nil {
		return nil, internal(err)
	}
	r.Slot = slot
	k := &key{id: id, arn: s.keyARN(id), hidden: r.Manager == storeManager, alive: true}
	snap := &snapshot{rec: r, policy: doc, materials: map[materialID]*crypto.DataKey{}}
	if r.Origin != originExternal {
		if err := s.addMaterial(k, snap, "", now); err != nil {
			return nil, internal(err)
		}
	}
	err = s.commit(func(tx *ledger.Tx) error {
		tx.Put(kindKey, r.ID, encode(r))
		if aliasName != "" {
			tx.Put(kindAlias, aliasName, encode(aliasRecord{Format: recordFormat, Target: r.ID, Created: now, Updated: now}))
		}
		return nil
	})
	if err != nil {
		// The slot stays: after an error it is unknown whether the documents are there. The next Open removes it if not.
		return nil, err
	}
	if aliasName != "" {
		snap.aliases = []string{aliasName}
	}
	k.snap.Store(snap)
	s.index.Lock()
	s.keys[id] = k
	if aliasName != "" {
		s.aliases[aliasName] = &alias{name: aliasName, target: k, record: aliasRecord{Format: recordFormat, Target: r.ID, Created: now, Updated: now}}
	}
	s.index.Unlock()
	s.epoch.Add(1)
	return k, nil
}

// addMaterial draws a new current material for a snapshot that is not published yet.
func (s *Service) addMaterial(k *key, snap *snapshot, kind string, now time.Time) error {
	wrapping, err := s.shred.wrapping(s.root, snap.rec.Slot, k.id)
	if err != nil {
		return err
	}
	defer wrapping.Wipe()
	id, material := newMaterialID(), crypto.NewDataKey()
	snap.rec.Materials = append(snap.rec.Materials, materialRecord{
		ID: id.String(), Wrapped: sealMaterial(wrapping, k.id, id, material), Created: now, Type: kind,
	})
	snap.materials[id], snap.current = material, id
	return nil
}

// DescribeKey is a key's metadata; an alias is accepted.
func (s *Service) DescribeKey(c *Call, ref string) (Metadata, error) {
	var m Metadata
	err := s.read(c, opDescribeKey, ref, audit.Parameters{KeyID: ref}, func(k *key, snap *snapshot) error {
		m = s.metadata(k, snap)
		return nil
	})
	return m, err
}

// ListKeys lists all keys, by id. KMS tells only ids and ARNs here; the rest is filled in for those keys that the caller may
// describe, without further audit events.
func (s *Service) ListKeys(c *Call) ([]Metadata, error) {
	t := s.begin(c, opListKeys, audit.Parameters{})
	if err := t.allowIdentity("kms:ListKeys", "*", nil); err != nil {
		return nil, t.end(err)
	}
	var out []Metadata
	for _, k := range s.list() {
		snap := s.settled(k)
		if snap.deleted() {
			continue
		}
		m := Metadata{KeyID: snap.rec.ID, ARN: k.arn, Account: s.account}
		if s.decide(c, opDescribeKey.action, k, snap, nil, nil, nil).Allowed() {
			m = s.metadata(k, snap)
		}
		out = append(out, m)
	}
	return out, t.end(nil)
}

// list is every key that is not hidden, deleted ones too, by id.
func (s *Service) list() []*key {
	s.index.RLock()
	defer s.index.RUnlock()
	out := make([]*key, 0, len(s.keys))
	for _, k := range s.keys {
		if !k.hidden {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b *key) int { return strings.Compare(a.arn, b.arn) })
	return out
}

// UpdateKeyDescription replaces the description.
func (s *Service) UpdateKeyDescription(c *Call, ref, description string) error {
	if len(description) > maxDescription {
		return refuse(CodeValidation, "1 validation error detected: Value at 'description' failed to satisfy constraint: "+
			"Member must have length less than or equal to %d", maxDescription)
	}
	return s.change(c, opUpdateKeyDescription, ref, audit.Parameters{KeyID: ref, Description: description}, nil, func(ch *changing) error {
		ch.rec.Description = description
		return nil
	})
}
