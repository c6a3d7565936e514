package keystore

import (
	"errors"
	"slices"

	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

const maxPolicy = 32 << 10

// parsePolicy compiles a key policy as it is kept: every principal that it names must exist, and stands there by its unique id.
func (s *Service) parsePolicy(text []byte) (*policy.Document, error) {
	if len(text) > maxPolicy {
		return nil, refuse(CodeLimitExceeded, "The key policy is longer than %d bytes.", maxPolicy)
	}
	doc, err := policy.Parse(policy.KeyPolicy, text)
	if bad, ok := errors.AsType[*policy.MalformedError](err); ok && bad.TooLarge {
		return nil, refuse(CodeLimitExceeded, "%s", err)
	}
	if err != nil {
		return nil, refuse(CodeMalformedPolicy, "%s", err)
	}
	bound, err := doc.Bind(s.account, s.principals)
	if unknown, ok := errors.AsType[*policy.UnknownPrincipalError](err); ok {
		return nil, refuse(CodeMalformedPolicy, "Policy contains a statement with one or more invalid principals: %s", unknown.Principal)
	}
	return bound, internal(err)
}

// bind is how a principal is kept: by its unique id. False: there is no such principal.
func (s *Service) bind(principal string) (string, bool) {
	return policy.BindPrincipal(s.account, s.principals, principal)
}

// shown is how a principal that is kept is shown: by its ARN while it exists, and by its unique id afterwards.
func (s *Service) shown(principal string) string {
	return policy.ShownPrincipal(s.principals, principal)
}

// newPolicy is the policy of a key to be made: the given one, the console's, or the default.
func (s *Service) newPolicy(t *trail, arn string, in CreateKeyInput) (*policy.Document, error) {
	text := in.Policy
	switch {
	case text != nil:
	case len(in.Admins)+len(in.Users) > 0:
		text = policy.ConsoleKeyPolicy(s.account, in.Admins, in.Users)
	default:
		return s.parsePolicy(policy.DefaultKeyPolicy(s.account))
	}
	doc, err := s.parsePolicy(text)
	if err != nil {
		return nil, err
	}
	if in.BypassLockout {
		return doc, nil
	}
	return doc, checkLockout(t.c.Who, doc, arn)
}

func checkLockout(who *policy.Identity, doc *policy.Document, arn string) error {
	if err := policy.LockoutCheck(who, doc, arn); err != nil {
		return refuse(CodeMalformedPolicy, "%s", err)
	}
	return nil
}

// GetKeyPolicy is the text of the key's policy, as it was put; principals that have been deleted since stand there by their unique ids.
func (s *Service) GetKeyPolicy(c *Call, ref string) ([]byte, error) {
	var text []byte
	err := s.read(c, opGetKeyPolicy, ref, audit.Parameters{KeyID: ref, PolicyName: "default"}, func(_ *key, snap *snapshot) error {
		text = snap.policy.Shown(s.principals)
		return nil
	})
	return text, err
}

// ListKeyPolicies is always ["default"].
func (s *Service) ListKeyPolicies(c *Call, ref string) ([]string, error) {
	var names []string
	err := s.read(c, opListKeyPolicies, ref, audit.Parameters{KeyID: ref}, func(*key, *snapshot) error {
		names = []string{"default"}
		return nil
	})
	return names, err
}

// PutKeyPolicy replaces the key's policy. Unless bypassLockout is set, the new policy must let the caller put another.
func (s *Service) PutKeyPolicy(c *Call, ref string, text []byte, bypassLockout bool) error {
	keys := policy.MapKeys{}
	keys.Add("kms:BypassPolicyLockoutSafetyCheck", boolText(bypassLockout))
	p := audit.Parameters{KeyID: ref, PolicyName: "default", Policy: string(text), BypassPolicyLockoutSafetyCheck: bypassLockout}
	text = slices.Clone(text)
	return s.change(c, opPutKeyPolicy, ref, p, keys, func(ch *changing) error {
		doc, err := s.parsePolicy(text)
		if err != nil {
			return err
		}
		if !bypassLockout {
			if err := checkLockout(c.Who, doc, ch.k.arn); err != nil {
				return err
			}
		}
		ch.rec.Policy, ch.snap.policy = string(doc.Text()), doc
		return nil
	})
}
