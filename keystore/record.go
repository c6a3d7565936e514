package keystore

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// The ledger's kinds of documents that belong to this package.
const (
	kindKey     = 'k' // id: key id
	kindAlias   = 'a' // id: alias name
	kindGrant   = 'g' // id: key id / grant id
	kindDeleted = 'd' // id: key id
)

const recordFormat = 1

// record is the document of a key. Once published in a snapshot it is never changed.
type record struct {
	Format      int              `json:"format"`
	ID          string           `json:"id"`
	Manager     Manager          `json:"manager"`
	Origin      string           `json:"origin"`
	Description string           `json:"description,omitempty"`
	Created     time.Time        `json:"created"`
	State       State            `json:"state"`
	DeleteAt    time.Time        `json:"deleteAt,omitzero"`
	Window      int              `json:"window,omitempty"` // days
	Policy      string           `json:"policy"`
	Slot        uint32           `json:"slot"` // in the shred file
	Materials   []materialRecord `json:"materials"`
	Rotation    rotation         `json:"rotation,omitzero"`
	Expires     time.Time        `json:"expires,omitzero"` // of imported material
	Tags        []Tag            `json:"tags,omitempty"`
}

type materialRecord struct {
	ID      string    `json:"id"`
	Wrapped []byte    `json:"wrapped"`
	Created time.Time `json:"created"`
	Type    string    `json:"type,omitempty"`  // "" for the first, AUTOMATIC, ON_DEMAND
	Check   []byte    `json:"check,omitempty"` // of imported material, whose Wrapped is null while it is gone
}

// rotation is the automatic schedule.
type rotation struct {
	Enabled bool      `json:"enabled,omitempty"`
	Days    int       `json:"days,omitempty"`
	Next    time.Time `json:"next,omitzero"`
}

// tombstone is the document of a deleted key: its last policy decides who may learn that it is gone.
type tombstone struct {
	Format  int       `json:"format"`
	ID      string    `json:"id"`
	Deleted time.Time `json:"deleted"`
	Policy  string    `json:"policy"`
}

type aliasRecord struct {
	Format  int       `json:"format"`
	Target  string    `json:"target"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

type grantRecord struct {
	Format     int               `json:"format"`
	ID         string            `json:"id"`
	Name       string            `json:"name,omitempty"`
	Grantee    string            `json:"grantee"`
	Retiring   string            `json:"retiring,omitempty"`
	Issuer     string            `json:"issuer"`
	Operations []string          `json:"operations"`
	Subset     map[string]string `json:"subset,omitempty"`
	Equals     map[string]string `json:"equals,omitempty"`
	Created    time.Time         `json:"created"`
}

// encode is any of the documents above. They hold nothing that JSON refuses.
func encode(doc any) []byte {
	b, err := json.Marshal(doc)
	if err != nil {
		panic("keystore: document does not marshal: " + err.Error())
	}
	return b
}

// decode reads a document strictly: ErrVersion for another format, ErrCorrupt for anything else that does not fit.
func decode(b []byte, doc any) error {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return fmt.Errorf("%w: document: %w", ErrCorrupt, err)
	}
	if head.Format != recordFormat {
		return fmt.Errorf("%w: document format %d", ErrVersion, head.Format)
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(doc); err != nil {
		return fmt.Errorf("%w: document: %w", ErrCorrupt, err)
	}
	return nil
}

// clone is a copy whose slices may be appended to.
func (r *record) clone() *record {
	c := *r
	c.Materials = slices.Clip(c.Materials)
	c.Tags = slices.Clip(c.Tags)
	return &c
}

func (r *record) current() *materialRecord { return &r.Materials[len(r.Materials)-1] }

// due is when something happens to the key by itself; the zero time = never.
func (r *record) due() time.Time {
	switch {
	case r.State == PendingDeletion:
		return r.DeleteAt
	case r.Origin == originExternal:
		return r.Expires
	case r.State == Enabled && r.Rotation.Enabled:
		return r.Rotation.Next
	default:
		return time.Time{}
	}
}

// load builds the keys from the ledger and the shred file.
func (s *Service) load() error {
	if err := s.ledger.Each(kindKey, s.loadKey); err != nil {
		return err
	}
	if err := s.ledger.Each(kindDeleted, s.loadDeleted); err != nil {
		return err
	}
	names := map[*key][]string{}
	err := s.ledger.Each(kindAlias, func(name string, doc []byte) error {
		var a aliasRecord
		if err := decode(doc, &a); err != nil {
			return fmt.Errorf("keystore: %s: %w", name, err)
		}
		id, ok := parseKeyID(a.Target)
		target := s.keys[id]
		if !ok || target == nil || target.snapshot().deleted() {
			return fmt.Errorf("%w: %s names key %s, which is not there", ErrCorrupt, name, a.Target)
		}
		s.aliases[name] = &alias{name: name, target: target, record: a}
		names[target] = append(names[target], name)
		if name == managedS3Alias {
			s.managed.Store(target)
		}
		return nil
	})
	if err != nil {
		return err
	}
	grants := map[*key][]grantRecord{}
	err = s.ledger.Each(kindGrant, func(id string, doc []byte) error {
		var g grantRecord
		if err := decode(doc, &g); err != nil {
			return fmt.Errorf("keystore: grant %s: %w", id, err)
		}
		owner, grantID, _ := strings.Cut(id, "/")
		kid, ok := parseKeyID(owner)
		k := s.keys[kid]
		if !ok || k == nil || k.snapshot().deleted() || g.ID != grantID {
			return fmt.Errorf("%w: grant %s has no key", ErrCorrupt, id)
		}
		grants[k] = append(grants[k], g)
		return nil
	})
	if err != nil {
		return err
	}
	for k, list := range names {
		snap := *k.snapshot()
		snap.aliases = list
		k.snap.Store(&snap)
	}
	for k, list := range grants {
		snap := *k.snapshot()
		snap.grants = newGrants(list)
		k.snap.Store(&snap)
	}
	return nil
}

func (s *Service) loadKey(id string, doc []byte) error {
	r := new(record)
	if err := decode(doc, r); err != nil {
		return fmt.Errorf("keystore: key %s: %w", id, err)
	}
	kid, ok := parseKeyID(id)
	if !ok || r.ID != id || len(r.Materials) == 0 && r.Origin != originExternal || !r.State.known() || !r.Manager.known() {
		return fmt.Errorf("%w: key %s", ErrCorrupt, id)
	}
	doc2, err := policy.Parse(policy.KeyPolicy, []byte(r.Policy))
	if err != nil {
		return fmt.Errorf("%w: policy of key %s: %w", ErrCorrupt, id, err)
	}
	wrapping, err := s.shred.wrapping(s.root, r.Slot, kid)
	if err != nil {
		return err
	}
	defer wrapping.Wipe()
	k := &key{id: kid, arn: s.keyARN(kid), hidden: r.Manager == storeManager, alive: true}
	snap := &snapshot{rec: r, policy: doc2, materials: make(map[materialID]*crypto.DataKey, len(r.Materials))}
	s.keys[kid] = k
	k.snap.Store(snap)
	for _, m := range r.Materials {
		mid, err := parseMaterialID(m.ID)
		if err != nil {
			return fmt.Errorf("keystore: key %s: %w", id, err)
		}
		if m.Wrapped == nil && r.Origin == originExternal && r.State != Enabled && r.State != Disabled {
			snap.current = mid
			continue
		}
		material, err := openMaterial(wrapping, kid, mid, m.Wrapped)
		if err != nil {
			return err
		}
		snap.materials[mid], snap.current = material, mid
	}
	if k.hidden {
		s.store = k
	}
	return nil
}

func (s *Service) loadDeleted(id string, doc []byte) error {
	var t tombstone
	if err := decode(doc, &t); err != nil {
		return fmt.Errorf("keystore: deleted key %s: %w", id, err)
	}
	kid, ok := parseKeyID(id)
	if !ok || t.ID != id || s.keys[kid] != nil {
		return fmt.Errorf("%w: deleted key %s", ErrCorrupt, id)
	}
	p, err := policy.Parse(policy.KeyPolicy, []byte(t.Policy))
	if err != nil {
		return fmt.Errorf("%w: policy of deleted key %s: %w", ErrCorrupt, id, err)
	}
	k := &key{id: kid, arn: s.keyARN(kid)}
	k.snap.Store(&snapshot{policy: p})
	s.keys[kid] = k
	return nil
}

// open fills a new service.
func (s *Service) open(shredPath string, acceptLost bool) error {
	known := map[uint32]keyID{}
	err := s.ledger.Each(kindKey, func(id string, doc []byte) error {
		var r record
		if err := decode(doc, &r); err != nil {
			return fmt.Errorf("keystore: key %s: %w", id, err)
		}
		kid, ok := parseKeyID(id)
		if !ok {
			return fmt.Errorf("%w: key id %q", ErrCorrupt, id)
		}
		known[r.Slot] = kid
		return nil
	})
	if err != nil {
		return err
	}
	if s.shred, err = openShred(shredPath, s.root, len(known) == 0); err != nil {
		return err
	}
	if acceptLost {
		if err := s.forgetLost(); err != nil {
			return err
		}
	}
	if err := s.load(); err != nil {
		return err
	}
	// A slot without a key is what a crash left of a creation, or of a deletion that had still to overwrite it.
	for slot, id := range s.shred.orphans(known) {
		if err := s.shred.destroy(slot, id); err != nil {
			return err
		}
	}
	if s.store == nil {
		if err := s.makeStoreKey(); err != nil {
			return err
		}
	}
	return s.Settle()
}

// commit writes documents and then publishes what fn returns, all under s.manage.
func (s *Service) commit(fn func(tx *ledger.Tx) error) error {
	if err := s.ledger.Update(fn); err != nil {
		return internal(fmt.Errorf("keystore: %w", err))
	}
	return nil
}

// newGrants indexes a key's grants.
func newGrants(list []grantRecord) *grants {
	slices.SortFunc(list, func(a, b grantRecord) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	g := &grants{list: list, byGrantee: map[string][]policy.Grant{}}
	for i := range list {
		r := &list[i]
		name := r.Grantee
		if account, isRoot := strings.CutSuffix(name, ":root"); isRoot {
			name = account[strings.LastIndexByte(account, ':')+1:]
		}
		g.byGrantee[name] = append(g.byGrantee[name], r.policy())
	}
	return g
}

func (r *grantRecord) policy() policy.Grant {
	return policy.Grant{
		ID: r.ID, Name: r.Name, Grantee: r.Grantee, Retiring: r.Retiring,
		Operations: slices.Clone(r.Operations), Subset: maps.Clone(r.Subset), Equals: maps.Clone(r.Equals),
	}
}
