package keystore

import (
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// The limits of grants.
const (
	maxGrants          = 50_000
	maxConstraintPairs = 8
	maxConstraintValue = 384
	maxGrantTokens     = 10
	tokenInfo          = "kmsfs keystore grant tokens v1"
	tokenVersion       = 2
)

var (
	grantNamePattern = regexp.MustCompile(`^[a-zA-Z0-9:/_-]{1,256}$`)
	grantIDPattern   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// grantOperations are those that fit a symmetric encryption key.
var grantOperations = []string{
	"Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair",
	"GenerateDataKeyPairWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo", "CreateGrant", "RetireGrant", "DescribeKey",
}

// grants are a key's, immutable.
type grants struct {
	list      []grantRecord // by creation
	byGrantee map[string][]policy.Grant
}

// of are the grants whose grantee may be the caller.
func (g *grants) of(who *policy.Identity) []policy.Grant {
	if g == nil || who == nil {
		return nil
	}
	roleID, _, isSession := strings.Cut(who.ID, ":")
	if !isSession {
		roleID = ""
	}
	out := g.byGrantee[who.ARN]
	for _, name := range [...]string{who.RoleARN, who.ID, roleID, who.Account} {
		if name == "" {
			continue
		}
		if more := g.byGrantee[name]; len(more) > 0 {
			out = append(slices.Clip(out), more...)
		}
	}
	return out
}

func (g *grants) all() []grantRecord {
	if g == nil {
		return nil
	}
	return g.list
}

func (g *grants) get(id string) (grantRecord, bool) {
	for _, r := range g.all() {
		if r.ID == id {
			return r, true
		}
	}
	return grantRecord{}, false
}

// Grant is what ListGrants tells.
type Grant struct {
	ID, Name       string
	KeyARN         string
	Grantee        string
	Retiring       string
	Issuer         string
	Operations     []string
	Subset, Equals map[string]string
	Created        time.Time
}

// CreateGrantInput describes a new grant.
type CreateGrantInput struct {
	Grantee    string // the ARN of a user, role, session or account
	Retiring   string // who may retire the grant besides the account's root user; may be empty
	Operations []string
	// Constraints on the encryption context: all pairs of Subset must be in it; Equals must be all of it.
	Subset, Equals map[string]string
	Name           string // makes the call idempotent; may be empty
	Tokens         []string
}

// CreateGrant allows a principal operations on a key and returns the grant's id and a token that names it.
func (s *Service) CreateGrant(c *Call, ref string, in CreateGrantInput) (id, token string, err error) {
	if err := s.checkGrant(in); err != nil {
		return "", "", err
	}
	in.Operations = normalOperations(in.Operations)
	in.Subset, in.Equals = maps.Clone(in.Subset), maps.Clone(in.Equals)
	p := audit.Parameters{
		KeyID: ref, GranteePrincipal: in.Grantee, RetiringPrincipal: in.Retiring, Operations: in.Operations, Name: in.Name,
	}
	if len(in.Subset)+len(in.Equals) > 0 {
		p.Constraints = &audit.GrantConstraints{EncryptionContextSubset: in.Subset, EncryptionContextEquals: in.Equals}
	}
	t := s.begin(c, opCreateGrant, p)
	k, id, created, err := s.createGrantLocked(t, ref, in)
	if err == nil {
		t.respond(map[string]any{"grantId": id})
		if created {
			s.notify(k.arn)
		}
		token = s.grantToken(k.id, id)
	}
	if err := t.end(err); err != nil {
		return "", "", err
	}
	return id, token, nil
}

// checkGrant is the syntax of CreateGrant.
func (s *Service) checkGrant(in CreateGrantInput) error {
	switch {
	case in.Grantee == "":
		return refuse(CodeValidation, "1 validation error detected: a grant needs a grantee principal")
	case len(in.Operations) == 0:
		return refuse(CodeValidation, "1 validation error detected: a grant needs at least one operation")
	case in.Name != "" && !grantNamePattern.MatchString(in.Name):
		return refuse(CodeValidation, "1 validation error detected: Value '%s' at 'name' failed to satisfy constraint: "+
			"Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$", in.Name)
	case len(in.Tokens) > maxGrantTokens:
		return refuse(CodeValidation, "1 validation error detected: at most %d grant tokens may be given", maxGrantTokens)
	}
	for _, op := range in.Operations {
		if !slices.Contains(grantOperations, op) {
			return refuse(CodeValidation, "1 validation error detected: Value '%s' at 'operations' is not a grant operation for this key", op)
		}
	}
	if len(in.Subset) > 0 && len(in.Equals) > 0 {
		return refuse(CodeValidation, "1 validation error detected: a grant has one kind of constraint, EncryptionContextEquals or EncryptionContextSubset")
	}
	for _, pairs := range []map[string]string{in.Subset, in.Equals} {
		if len(pairs) > maxConstraintPairs {
			return refuse(CodeLimitExceeded, "A grant constraint has at most %d pairs.", maxConstraintPairs)
		}
		for k, v := range pairs {
			if k == "" || len(v) > maxConstraintValue {
				return refuse(CodeLimitExceeded, "The value of a grant constraint has at most %d characters.", maxConstraintValue)
			}
		}
	}
	for _, arn := range []string{in.Grantee, in.Retiring} {
		if arn != "" && !s.isPrincipal(arn) {
			return refuse(CodeInvalidARN, "ARN does not refer to a valid principal: %s", arn)
		}
	}
	for _, token := range in.Tokens {
		if _, _, err := s.parseGrantToken(token); err != nil {
			return err
		}
	}
	return nil
}

var principalPattern = regexp.MustCompile(`^arn:aws:(iam::[0-9]{12}:(root|(user|role)/[^*?\s]+)|sts::[0-9]{12}:assumed-role/[^*?\s]+/[^*?/\s]+)$`)

// uniqueIDPattern is what a principal who was deleted is shown as.
var uniqueIDPattern = regexp.MustCompile(`^A[A-Z0-9]{20}$`)

func (s *Service) isPrincipal(arn string) bool {
	if accountPattern.MatchString(arn) {
		return true
	}
	_, exists := s.bind(arn)
	return exists && principalPattern.MatchString(arn)
}

// normalOperations is sorted and without repetition.
func normalOperations(ops []string) []string {
	out := slices.Clone(ops)
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *Service) createGrantLocked(t *trail, ref string, in CreateGrantInput) (k *key, id string, created bool, err error) {
	s.manage.Lock()
	defer s.manage.Unlock()
	if s.closed.Load() {
		return nil, "", false, ErrClosed
	}
	if k, _, err = s.find(ref, false); err != nil {
		return nil, "", false, t.missing(t.op.action, err)
	}
	if err := s.settle(k, t.now); err != nil {
		return nil, "", false, err
	}
	snap := k.snapshot()
	t.resource(k.arn)
	rec := grantRecord{
		Format: recordFormat, Name: in.Name, Operations: in.Operations, Subset: in.Subset, Equals: in.Equals, Created: t.now,
	}
	var known [2]bool
	rec.Grantee, known[0] = s.bind(in.Grantee)
	rec.Retiring, known[1] = s.bind(in.Retiring)
	if !known[0] || !known[1] { // deleted since checkGrant
		return nil, "", false, refuse(CodeInvalidARN, "ARN does not refer to a valid principal")
	}
	if t.c.Who != nil {
		rec.Issuer = t.c.Who.ARN
	}
	child := rec.policy()
	if err := t.allowGrant(t.op.action, k, snap, nil, &requestKeys{extra: grantKeys(in)}, &child); err != nil {
		return nil, "", false, err
	}
	if err := checkState(t.op, k.arn, snap.rec); err != nil {
		return nil, "", false, err
	}
	for _, g := range snap.grants.all() {
		if in.Name != "" && g.Name == in.Name && s.sameGrant(&g, &rec) {
			return k, g.ID, false, nil // in a dry run, end says so
		}
	}
	if len(snap.grants.all()) >= maxGrants {
		return nil, "", false, refuse(CodeLimitExceeded, "The key %s has %d grants already.", k.arn, maxGrants)
	}
	if t.c.DryRun {
		return nil, "", false, errDryRun
	}
	var random [32]byte
	rand.Read(random[:])
	rec.ID = hex.EncodeToString(random[:])
	err = s.commit(func(tx *ledger.Tx) error { tx.Put(kindGrant, k.id.String()+"/"+rec.ID, encode(rec)); return nil })
	if err != nil {
		return nil, "", false, err
	}
	s.setGrants(k, append(slices.Clone(snap.grants.all()), rec))
	return k, rec.ID, true, nil
}

// grantKeys are the condition keys of CreateGrant.
func grantKeys(in CreateGrantInput) policy.MapKeys {
	keys := policy.MapKeys{}
	keys.Add("kms:GrantIsForAWSResource", "false")
	keys.Add("kms:GrantOperations", in.Operations...)
	keys.Add("kms:GranteePrincipal", in.Grantee)
	if in.Retiring != "" {
		keys.Add("kms:RetiringPrincipal", in.Retiring)
	}
	switch {
	case len(in.Equals) > 0:
		keys.Add("kms:GrantConstraintType", "EncryptionContextEquals")
	case len(in.Subset) > 0:
		keys.Add("kms:GrantConstraintType", "EncryptionContextSubset")
	}
	return keys
}

// sameGrant compares what a repeated CreateGrant must repeat. Grants of old stores name their principals by ARN.
func (s *Service) sameGrant(r, o *grantRecord) bool {
	return s.shown(r.Grantee) == s.shown(o.Grantee) && s.shown(r.Retiring) == s.shown(o.Retiring) &&
		slices.Equal(r.Operations, o.Operations) && maps.Equal(r.Subset, o.Subset) && maps.Equal(r.Equals, o.Equals)
}

// setGrants publishes a key's grants. s.manage is held.
func (s *Service) setGrants(k *key, list []grantRecord) {
	snap := *k.snapshot()
	snap.grants = nil
	if len(list) > 0 {
		snap.grants = newGrants(list)
	}
	k.publish(&snap)
	s.epoch.Add(1)
}

// ListGrants lists a key's grants, oldest first: all, or those with an id or a grantee.
func (s *Service) ListGrants(c *Call, ref, grantID, grantee string) ([]Grant, error) {
	if grantID != "" && !grantIDPattern.MatchString(grantID) {
		return nil, refuse(CodeInvalidGrantID, "Invalid grant ID %s", grantID)
	}
	var out []Grant
	p := audit.Parameters{KeyID: ref, GrantID: grantID, GranteePrincipal: grantee}
	err := s.read(c, opListGrants, ref, p, func(k *key, snap *snapshot) error {
		for _, g := range snap.grants.all() {
			if (grantID == "" || g.ID == grantID) && (grantee == "" || s.shown(g.Grantee) == s.shown(grantee)) {
				out = append(out, s.public(k, &g))
			}
		}
		return nil
	})
	return out, err
}

// public is a grant as it is shown.
func (s *Service) public(k *key, r *grantRecord) Grant {
	return Grant{
		ID: r.ID, Name: r.Name, KeyARN: k.arn, Grantee: s.shown(r.Grantee), Retiring: s.shown(r.Retiring), Issuer: r.Issuer,
		Operations: slices.Clone(r.Operations), Subset: maps.Clone(r.Subset), Equals: maps.Clone(r.Equals), Created: r.Created,
	}
}

// ListRetirableGrants lists the grants of all keys that name a retiring principal.
func (s *Service) ListRetirableGrants(c *Call, retiring string) ([]Grant, error) {
	t := s.begin(c, opListRetirableGrants, audit.Parameters{RetiringPrincipal: retiring})
	if err := t.allowIdentity(t.op.action, "*", nil); err != nil {
		return nil, t.end(err)
	}
	if !accountPattern.MatchString(retiring) && !principalPattern.MatchString(retiring) && !uniqueIDPattern.MatchString(retiring) {
		return nil, t.end(refuse(CodeInvalidARN, "ARN does not refer to a valid principal: %s", retiring))
	}
	var out []Grant
	for _, k := range s.list() {
		for _, g := range s.settled(k).grants.all() {
			if s.shown(g.Retiring) == s.shown(retiring) {
				out = append(out, s.public(k, &g))
			}
		}
	}
	return out, t.end(nil)
}

// RevokeGrant ends a grant at once; kms:RevokeGrant on the key is needed.
func (s *Service) RevokeGrant(c *Call, ref, grantID string) error {
	if !grantIDPattern.MatchString(grantID) {
		return refuse(CodeInvalidGrantID, "Invalid grant ID %s", grantID)
	}
	t := s.begin(c, opRevokeGrant, audit.Parameters{KeyID: ref, GrantID: grantID})
	return s.endGrant(t, ref, grantID, func(k *key, snap *snapshot, _ *grantRecord) error {
		return t.allow(t.op.action, k, snap, nil, nil)
	})
}

// RetireGrant ends a grant, named by a token or by key and id. It is for the retiring principal, for a grantee whose grant
// lists RetireGrant, and for the account's root user; no policy allows it, though policies may deny it.
func (s *Service) RetireGrant(c *Call, token, ref, grantID string) error {
	switch {
	case token != "":
		if ref != "" || grantID != "" {
			return refuse(CodeValidation, "a grant is named by its token, or by its key and id")
		}
		id, gid, err := s.parseGrantToken(token)
		if err != nil {
			return err
		}
		ref, grantID = s.keyARN(id), gid
	case !grantIDPattern.MatchString(grantID):
		return refuse(CodeInvalidGrantID, "Invalid grant ID %s", grantID)
	}
	t := s.begin(c, opRetireGrant, audit.Parameters{KeyID: ref, GrantID: grantID})
	return s.endGrant(t, ref, grantID, func(k *key, snap *snapshot, g *grantRecord) error {
		if t.c.Who == nil {
			return errNoCaller
		}
		var these []policy.Grant
		if g != nil {
			these = []policy.Grant{g.policy()}
		}
		keys := requestKeys{s: s, c: c, snap: snap}
		return t.judge(policy.DecideKMS(c.Who, &policy.Request{
			Action: t.op.action, Resource: k.arn, ResourceAccount: s.account, Keys: &keys, Clock: s.clock,
		}, snap.policy, these))
	})
}

// endGrant removes a grant if allow says so. A grant that is not there is given to allow as nil.
func (s *Service) endGrant(t *trail, ref, grantID string, allow func(*key, *snapshot, *grantRecord) error) error {
	k, err := func() (*key, error) {
		s.manage.Lock()
		defer s.manage.Unlock()
		if s.closed.Load() {
			return nil, ErrClosed
		}
		k, _, err := s.find(ref, false)
		if err != nil {
			return nil, t.missing(t.op.action, err)
		}
		if err := s.settle(k, t.now); err != nil {
			return nil, err
		}
		snap := k.snapshot()
		t.resource(k.arn)
		g, there := snap.grants.get(grantID)
		pg := &g
		if !there {
			pg = nil
		}
		if err := allow(k, snap, pg); err != nil {
			return nil, err
		}
		if snap.deleted() {
			return nil, doesNotExist(k.arn)
		}
		if !there {
			return nil, refuse(CodeNotFound, "Grant ID %s not found", grantID)
		}
		if t.c.DryRun {
			return nil, errDryRun
		}
		err = s.commit(func(tx *ledger.Tx) error { tx.Delete(kindGrant, k.id.String()+"/"+grantID); return nil })
		if err != nil {
			return nil, err
		}
		list := slices.DeleteFunc(slices.Clone(snap.grants.all()), func(r grantRecord) bool { return r.ID == grantID })
		s.setGrants(k, list)
		return k, nil
	}()
	if err == nil {
		s.notify(k.arn)
	}
	return t.end(err)
}

// grantToken names a grant: version | key id 16 | grant id 32 | random 16 | HMAC-SHA256, cut to 16. Every token is another one, also for a grant that
// exists, as AWS's are; each is as good as the other. It carries no right.
func (s *Service) grantToken(id keyID, grantID string) string {
	gid, err := hex.DecodeString(grantID)
	if err != nil {
		panic("keystore: grant id is not hex")
	}
	b := append([]byte{tokenVersion}, id[:]...)
	b = append(b, gid...)
	b = append(b, make([]byte, tokenRandom)...)
	_, _ = rand.Read(b[tokenNames:]) // never fails
	return base64.RawURLEncoding.EncodeToString(append(b, s.tokenMAC(b)...))
}

// tokenMAC is nil once the service is closed.
func (s *Service) tokenMAC(b []byte) []byte {
	s.index.RLock()
	defer s.index.RUnlock()
	if s.closed.Load() {
		return nil
	}
	sum := s.tokens.MAC(b)
	return sum[:tokenTag]
}

// The parts of a token in bytes.
const (
	tokenNames  = 1 + 16 + 32 // version, key, grant
	tokenRandom = 16          // version 1 had none
	tokenTag    = 16
)

// parseGrantToken also takes tokens of version 1, which clients may hold.
func (s *Service) parseGrantToken(token string) (keyID, string, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	signed := len(b) - tokenTag
	switch {
	case err != nil || signed <= 0:
	case b[0] == tokenVersion && signed == tokenNames+tokenRandom, b[0] == 1 && signed == tokenNames:
		if hmac.Equal(s.tokenMAC(b[:signed]), b[signed:]) {
			return keyID(b[1:17]), hex.EncodeToString(b[17:tokenNames]), nil
		}
	}
	return keyID{}, "", &Error{Code: CodeInvalidGrantToken}
}
