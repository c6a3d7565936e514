package keystore

import (
	"crypto/rand"

	"github.com/kmsfs/kmsfs/keystore/audit"
)

// What the wire protocol needs and a filesystem does not.

var opGenerateRandom = reading("GenerateRandom", inAllStates)

// GenerateRandom is n random bytes (1 to 1024).
func (s *Service) GenerateRandom(c *Call, n int) ([]byte, error) {
	if n < 1 || n > maxDataKey {
		return nil, refuse(CodeValidation, "1 validation error detected: Value '%d' at 'numberOfBytes' failed to satisfy constraint: "+
			"Member must have value between 1 and %d", n, maxDataKey)
	}
	t := s.begin(c, opGenerateRandom, audit.Parameters{NumberOfBytes: n})
	err := error(nil)
	if s.closed.Load() {
		err = ErrClosed
	} else {
		err = t.allowIdentity(opGenerateRandom.action, "*", nil)
	}
	if err := t.end(err); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	rand.Read(b)
	return b, nil
}

// CheckGrantTokens says whether all tokens are ones that CreateGrant returned: InvalidGrantTokenException. They carry no right,
// since a grant is in force as soon as CreateGrant returns, and need not be those of grants that still exist.
func (s *Service) CheckGrantTokens(tokens []string) error {
	if len(tokens) > maxGrantTokens {
		return refuse(CodeValidation, "1 validation error detected: Value at 'grantTokens' failed to satisfy constraint: "+
			"Member must have length less than or equal to %d", maxGrantTokens)
	}
	for _, token := range tokens {
		if _, _, err := s.parseGrantToken(token); err != nil {
			return err
		}
	}
	return nil
}

// Account is the account id of every ARN.
func (s *Service) Account() string { return s.account }

// Region is the region of every ARN.
func (s *Service) Region() string { return s.region }
