package keystore

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// alias is a name for a key. It is replaced, never changed.
type alias struct {
	name   string
	target *key
	record aliasRecord
}

// Alias is what ListAliases tells.
type Alias struct {
	Name        string // alias/…
	ARN         string
	TargetKeyID string
	Created     time.Time
	Updated     time.Time
}

const (
	maxAlias       = 256
	maxAliasPerKey = 50
)

var aliasPattern = regexp.MustCompile(`^[a-zA-Z0-9:/_-]+$`)

// checkAliasName is the syntax of an alias.
func checkAliasName(name string) error {
	switch {
	case !strings.HasPrefix(name, aliasPrefix):
		return refuse(CodeValidation, `Alias must start with the prefix "alias/". Please see `+
			`https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html`)
	case len(name) > maxAlias:
		return refuse(CodeValidation, "1 validation error detected: Value '%s' at 'aliasName' failed to satisfy constraint: "+
			"Member must have length less than or equal to %d", name, maxAlias)
	case len(name) == len(aliasPrefix) || !aliasPattern.MatchString(name):
		return refuse(CodeValidation, "1 validation error detected: Value '%s' at 'aliasName' failed to satisfy constraint: "+
			"Member must satisfy regular expression pattern: %s", name, aliasPattern)
	}
	return nil
}

// checkNewAlias is the syntax of a customer's alias. (Changing a reserved one is refused by its key's policy.)
func checkNewAlias(name string) error {
	if err := checkAliasName(name); err != nil {
		return err
	}
	if strings.HasPrefix(name, reservedPrefix) {
		return refuse(CodeInvalidAliasName, "Alias names beginning with %s are reserved for AWS managed keys.", reservedPrefix)
	}
	return nil
}

func (s *Service) alias(name string) *alias {
	s.index.RLock()
	defer s.index.RUnlock()
	return s.aliases[name]
}

// mayAlias says whether an alias may be made together with a key that has the given policy.
func (s *Service) mayAlias(t *trail, name, keyARN string, doc *policy.Document) error {
	if err := t.allowIdentity(opCreateAlias.action, s.aliasARN(name), nil); err != nil {
		return err
	}
	k := &key{arn: keyARN}
	if err := t.judge(s.decide(t.c, opCreateAlias.action, k, &snapshot{policy: doc}, nil, nil, nil)); err != nil {
		return err
	}
	return s.aliasFree(name)
}

func (s *Service) aliasFree(name string) error {
	if s.alias(name) != nil {
		return refuse(CodeAlreadyExists, "An alias with the name %s already exists", s.aliasARN(name))
	}
	return nil
}

// CreateAlias names a key.
func (s *Service) CreateAlias(c *Call, name, target string) error {
	if err := checkNewAlias(name); err != nil {
		return err
	}
	return s.changeAlias(c, opCreateAlias, name, target, func(t *trail) error { return s.aliasFree(name) })
}

// UpdateAlias points an alias to another key. Ciphertexts keep the key they were made with.
func (s *Service) UpdateAlias(c *Call, name, target string) error {
	if err := checkAliasName(name); err != nil {
		return err
	}
	return s.changeAlias(c, opUpdateAlias, name, target, func(t *trail) error {
		a := s.alias(name)
		if a == nil {
			return refuse(CodeNotFound, "Alias %s is not found.", s.aliasARN(name))
		}
		t.resource(a.target.arn)
		return t.allow(opUpdateAlias.action, a.target, a.target.snapshot(), nil, nil)
	})
}

// changeAlias authorises on the alias and on the new target, asks check about the rest, and points the alias to the target.
func (s *Service) changeAlias(c *Call, op *operation, name, target string, check func(t *trail) error) error {
	t := s.begin(c, op, audit.Parameters{AliasName: name, TargetKeyID: target})
	changed, err := s.changeAliasLocked(t, name, target, check)
	s.notify(changed...)
	return t.end(err)
}

func (s *Service) changeAliasLocked(t *trail, name, target string, check func(t *trail) error) ([]string, error) {
	s.manage.Lock()
	defer s.manage.Unlock()
	if s.closed.Load() {
		return nil, ErrClosed
	}
	k, _, err := s.find(target, false)
	if err != nil {
		return nil, t.missing(t.op.action, err)
	}
	if err := s.settle(k, t.now); err != nil {
		return nil, err
	}
	t.resource(k.arn)
	if err := t.allowIdentity(t.op.action, s.aliasARN(name), nil); err != nil {
		return nil, err
	}
	snap := k.snapshot()
	if err := t.allow(t.op.action, k, snap, nil, nil); err != nil {
		return nil, err
	}
	if err := check(t); err != nil {
		return nil, err
	}
	if err := checkState(t.op, k.arn, snap.rec); err != nil {
		return nil, err
	}
	old := s.alias(name)
	if len(snap.aliases) >= maxAliasPerKey && (old == nil || old.target != k) {
		return nil, refuse(CodeLimitExceeded, "The key %s has %d aliases already.", k.arn, maxAliasPerKey)
	}
	rec := aliasRecord{Format: recordFormat, Target: k.id.String(), Created: t.now, Updated: t.now}
	if old != nil {
		rec.Created = old.record.Created
	}
	if err := s.commit(func(tx *ledger.Tx) error { tx.Put(kindAlias, name, encode(rec)); return nil }); err != nil {
		return nil, err
	}
	return s.point(name, &alias{name: name, target: k, record: rec}), nil
}

// point publishes an alias (nil = gone) and returns the ARNs of the keys whose aliases changed. s.manage is held.
func (s *Service) point(name string, a *alias) []string {
	old := s.alias(name)
	s.index.Lock()
	if a == nil {
		delete(s.aliases, name)
	} else {
		s.aliases[name] = a
	}
	s.index.Unlock()
	var changed []string
	if old != nil && (a == nil || a.target != old.target) {
		snap := *old.target.snapshot()
		snap.aliases = slices.DeleteFunc(slices.Clone(snap.aliases), func(n string) bool { return n == name })
		old.target.publish(&snap)
		changed = append(changed, old.target.arn)
	}
	if a != nil && (old == nil || a.target != old.target) {
		snap := *a.target.snapshot()
		snap.aliases = append(slices.Clone(snap.aliases), name)
		slices.Sort(snap.aliases)
		a.target.publish(&snap)
		changed = append(changed, a.target.arn)
	}
	s.epoch.Add(1)
	return changed
}

// DeleteAlias removes an alias; its key stays.
func (s *Service) DeleteAlias(c *Call, name string) error {
	if err := checkAliasName(name); err != nil {
		return err
	}
	t := s.begin(c, opDeleteAlias, audit.Parameters{AliasName: name})
	changed, err := s.deleteAliasLocked(t, name)
	s.notify(changed...)
	return t.end(err)
}

func (s *Service) deleteAliasLocked(t *trail, name string) ([]string, error) {
	s.manage.Lock()
	defer s.manage.Unlock()
	if s.closed.Load() {
		return nil, ErrClosed
	}
	if err := t.allowIdentity(t.op.action, s.aliasARN(name), nil); err != nil {
		return nil, err
	}
	a := s.alias(name)
	if a == nil {
		return nil, refuse(CodeNotFound, "Alias %s is not found.", s.aliasARN(name))
	}
	t.resource(a.target.arn)
	if err := t.allow(t.op.action, a.target, a.target.snapshot(), nil, nil); err != nil {
		return nil, err
	}
	if err := s.commit(func(tx *ledger.Tx) error { tx.Delete(kindAlias, name); return nil }); err != nil {
		return nil, err
	}
	return s.point(name, nil), nil
}

// ListAliases lists all aliases by name, or those of one key if ref (a key id or ARN) is not empty.
func (s *Service) ListAliases(c *Call, ref string) ([]Alias, error) {
	t := s.begin(c, opListAliases, audit.Parameters{KeyID: ref})
	if err := t.allowIdentity(opListAliases.action, "*", nil); err != nil {
		return nil, t.end(err)
	}
	var only *key
	if ref != "" {
		k, _, err := s.find(ref, false)
		if err == nil && s.settled(k).deleted() {
			err = doesNotExist(k.arn)
		}
		if err != nil {
			return nil, t.end(err)
		}
		only = k
	}
	s.index.RLock()
	var out []Alias
	for name, a := range s.aliases {
		if only == nil || a.target == only {
			out = append(out, Alias{
				Name: name, ARN: s.aliasARN(name), TargetKeyID: a.target.id.String(), Created: a.record.Created, Updated: a.record.Updated,
			})
		}
	}
	s.index.RUnlock()
	slices.SortFunc(out, func(a, b Alias) int { return strings.Compare(a.Name, b.Name) })
	return out, t.end(nil)
}
