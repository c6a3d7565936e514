package keystore

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

const maxPolicy = 32 << 10

// parsePolicy compiles a key policy and checks that every principal it names exists.
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
	for _, p := range principalsOf(text) {
		if !s.exists(p) {
			return nil, refuse(CodeMalformedPolicy, "Policy contains a statement with one or more invalid principals: %s", p)
		}
	}
	return doc, nil
}

// exists says whether a principal is there. Other accounts', and what is no single principal, are taken on trust.
func (s *Service) exists(arn string) bool {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || parts[4] != s.account || parts[5] == "root" {
		return true
	}
	return s.principal(arn)
}

// principalsOf collects the AWS principals of a policy that has been parsed before, so that its shape is known to be right.
func principalsOf(text []byte) []string {
	var doc struct {
		Statement json.RawMessage
	}
	if json.Unmarshal(text, &doc) != nil {
		return nil
	}
	type statement struct {
		Principal, NotPrincipal json.RawMessage
	}
	var list []statement
	if json.Unmarshal(doc.Statement, &list) != nil {
		list = make([]statement, 1)
		if json.Unmarshal(doc.Statement, &list[0]) != nil {
			return nil
		}
	}
	var out []string
	for _, st := range list {
		for _, raw := range []json.RawMessage{st.Principal, st.NotPrincipal} {
			var by struct{ AWS json.RawMessage }
			if json.Unmarshal(raw, &by) != nil {
				continue // "*", or absent
			}
			var one string
			var many []string
			if json.Unmarshal(by.AWS, &one) == nil {
				out = append(out, one)
			} else if json.Unmarshal(by.AWS, &many) == nil {
				out = append(out, many...)
			}
		}
	}
	return out
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

// GetKeyPolicy is the text of the key's policy, as it was put.
func (s *Service) GetKeyPolicy(c *Call, ref string) ([]byte, error) {
	var text []byte
	err := s.read(c, opGetKeyPolicy, ref, audit.Parameters{KeyID: ref, PolicyName: "default"}, func(_ *key, snap *snapshot) error {
		text = []byte(snap.rec.Policy)
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
		ch.rec.Policy, ch.snap.policy = string(text), doc
		return nil
	})
}
