package keystore

import (
	"strings"

	"github.com/google/uuid"
)

// keyID is a key's UUID.
type keyID [16]byte

func newKeyID() keyID { return keyID(uuid.New()) }

func (id keyID) String() string { return uuid.UUID(id).String() }

// parseKeyID reads the one form that AWS accepts: lower case, with dashes.
func parseKeyID(s string) (keyID, bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return keyID{}, false
	}
	var id keyID
	n := 0
	for i := range len(s) {
		var d byte
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			continue
		case '0' <= c && c <= '9':
			d = c - '0'
		case 'a' <= c && c <= 'f':
			d = c - 'a' + 10
		default:
			return keyID{}, false
		}
		id[n/2] = id[n/2]<<4 | d
		n++
	}
	return id, true
}

const (
	aliasPrefix    = "alias/"
	reservedPrefix = "alias/aws/"
	managedS3Alias = "alias/aws/s3"
	maxReference   = 2048
)

func (s *Service) keyARN(id keyID) string      { return s.arnPrefix + "key/" + id.String() }
func (s *Service) aliasARN(name string) string { return s.arnPrefix + name }
func (s *Service) invalidKeyID(ref string) error {
	return refuse(CodeNotFound, "Invalid keyId '%s'", ref)
}

// reference is what a KeyId parameter says: a key, or an alias (then alias is its name).
type reference struct {
	id    keyID
	alias string
}

// parseReference reads a key id, key ARN, alias name or alias ARN.
func (s *Service) parseReference(ref string) (reference, error) {
	if ref == "" || len(ref) > maxReference {
		return reference{}, refuse(CodeValidation, "1 validation error detected: Value at 'keyId' failed to satisfy constraint: "+
			"Member must have length between 1 and %d", maxReference)
	}
	resource := ref
	if own, ok := strings.CutPrefix(ref, s.arnPrefix); ok && strings.HasPrefix(own, "key/") {
		resource = own[len("key/"):]
	} else if strings.HasPrefix(ref, "arn:") {
		parts := strings.SplitN(ref, ":", 6)
		if len(parts) != 6 || parts[1] != "aws" || parts[2] != "kms" {
			return reference{}, refuse(CodeInvalidARN, "Invalid arn %s", ref)
		}
		if parts[3] != s.region {
			return reference{}, refuse(CodeNotFound, "Invalid arn %s", parts[3])
		}
		resource = parts[5]
		id, isKey := strings.CutPrefix(resource, "key/")
		if parts[4] != s.account {
			return reference{}, doesNotExist(ref)
		}
		if !isKey && !strings.HasPrefix(resource, aliasPrefix) {
			return reference{}, refuse(CodeInvalidARN, "Invalid arn %s", ref)
		}
		if isKey {
			resource = id
		}
	}
	if strings.HasPrefix(resource, aliasPrefix) {
		return reference{alias: resource}, nil
	}
	id, ok := parseKeyID(resource)
	if !ok {
		return reference{}, s.invalidKeyID(ref)
	}
	return reference{id: id}, nil
}

// find looks up the key that a KeyId parameter names, and the alias if it was named by one. A deleted key is found: the
// caller learns only after authorisation that it is gone.
func (s *Service) find(ref string, aliasAllowed bool) (*key, string, error) {
	r, err := s.parseReference(ref)
	if err != nil {
		return nil, "", err
	}
	if r.alias == "" {
		k := s.lookup(r.id)
		if k == nil {
			return nil, "", doesNotExist(s.keyARN(r.id))
		}
		return k, "", nil
	}
	if !aliasAllowed {
		return nil, "", s.invalidKeyID(ref)
	}
	s.index.RLock()
	a := s.aliases[r.alias]
	s.index.RUnlock()
	if a == nil {
		return nil, "", refuse(CodeNotFound, "Alias %s is not found.", s.aliasARN(r.alias))
	}
	return a.target, r.alias, nil
}

// lookup is a key by id; nil if there never was one, or if it is the hidden store key.
func (s *Service) lookup(id keyID) *key {
	s.index.RLock()
	k := s.keys[id]
	s.index.RUnlock()
	if k == nil || k.hidden {
		return nil
	}
	return k
}

// Resolve is the ARN of the key that an alias, key id or key ARN names now. Nobody is asked for permission.
// alias/aws/s3 is made on first need. NotFoundException for what does not exist.
func (s *Service) Resolve(ref string) (string, error) {
	if ref == managedS3Alias || ref == s.managedARN {
		return s.ManagedS3Key()
	}
	k, _, err := s.find(ref, true)
	if err != nil {
		return "", err
	}
	if s.settled(k).deleted() {
		return "", doesNotExist(k.arn)
	}
	return k.arn, nil
}
