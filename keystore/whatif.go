package keystore

import (
	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// WhatIf compares a key as it is with the same key under another policy. Nothing is changed; grants count in both.
type WhatIf struct {
	s         *Service
	k         *key
	now, then *snapshot
}

// WhatIf takes the other policy as PutKeyPolicy would. It asks for kms:GetKeyPolicy.
func (s *Service) WhatIf(c *Call, ref string, text []byte) (*WhatIf, error) {
	w := &WhatIf{s: s}
	err := s.read(c, opGetKeyPolicy, ref, audit.Parameters{KeyID: ref, PolicyName: "default"}, func(k *key, snap *snapshot) error {
		doc, err := s.parsePolicy(text)
		if err != nil {
			return err
		}
		then := *snap
		then.policy = doc
		w.k, w.now, w.then = k, snap, &then
		return nil
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// KeyARN is the key's.
func (w *WhatIf) KeyARN() string { return w.k.arn }

// Decide decides an action under both policies, without an audit event. The key's state does not matter. ctx is nil for what has no
// encryption context.
func (w *WhatIf) Decide(c *Call, action string, ctx crypto.Context) (now, then policy.Decision) {
	one := func(snap *snapshot) policy.Decision {
		return w.s.decide(c, action, w.k, snap, ctx, &requestKeys{crypto: ctx != nil}, nil)
	}
	return one(w.now), one(w.then)
}
