package principals

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// AccessKey names a secret by which a client of the KMS wire protocol proves to be a user.
type AccessKey struct {
	// ID is AKIA and 16 characters.
	ID string
	// User is the name of the user.
	User string
	// Active is false for a key that is refused until it is activated again.
	Active bool
	// Created is in UTC, to the second.
	Created time.Time
}

// Secret is the secret of an access key: 40 characters. It is never printed or marshalled.
type Secret struct{ text *string } // a pointer: what prints a struct around it prints an address

var errSecret = errors.New("principals: a secret is not to be marshalled")

// Expose returns the secret itself, for a signature or to be shown once.
func (s Secret) Expose() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// String hides the secret.
func (s Secret) String() string { return "(secret)" }

// GoString hides the secret.
func (s Secret) GoString() string { return "(secret)" }

// MarshalText fails.
func (s Secret) MarshalText() ([]byte, error) { return nil, errSecret }

// accessKey is a key and its secret. Immutable.
type accessKey struct {
	AccessKey
	secret Secret
}

// newAccessKey draws an id (80 random bits) and a secret (240 random bits).
func newAccessKey() (id string, secret Secret) {
	var b [10 + 30]byte
	_, _ = rand.Read(b[:]) // never fails: the runtime aborts instead
	text := base64.StdEncoding.EncodeToString(b[10:])
	return "AKIA" + base32.StdEncoding.EncodeToString(b[:10]), Secret{&text}
}

func accessKeyNotFound(id string) error {
	if len(id) > 40 {
		id = id[:40]
	}
	return fmt.Errorf("access key %q: %w", id, ErrAccessKeyNotFound)
}

// CreateAccessKey makes an access key for a user, active, and returns its
// secret. ErrNotFound, ErrLimit.
func (s *Store) CreateAccessKey(user string) (AccessKey, Secret, error) {
	var made accessKey
	err := s.change(func(c *change) error {
		if _, err := c.user(user); err != nil {
			return err
		}
		if n := len(c.st.keysOf(user)); n >= MaxAccessKeys {
			return fmt.Errorf("principal %q: %w: at most %d access keys", user, ErrLimit, MaxAccessKeys)
		}
		id, secret := newAccessKey()
		made = accessKey{AccessKey{ID: id, User: user, Active: true, Created: s.clock().UTC().Truncate(time.Second)}, secret}
		return c.putAccessKey(made)
	})
	if err != nil {
		return AccessKey{}, Secret{}, fmt.Errorf("create access key: %w", err)
	}
	return made.AccessKey, made.secret, nil
}

// AccessKeys returns a user's access keys, the oldest first. ErrNotFound.
func (s *Store) AccessKeys(user string) ([]AccessKey, error) {
	st := s.now.Load()
	if st.users[user] == nil {
		return nil, notFound(user)
	}
	return st.keysOf(user), nil
}

// AccessKey returns an access key and its secret, for checking a signature. An
// inactive one is returned as well. ErrAccessKeyNotFound.
func (s *Store) AccessKey(id string) (AccessKey, Secret, error) {
	k, ok := s.now.Load().accessKeys[id]
	if !ok {
		return AccessKey{}, Secret{}, accessKeyNotFound(id)
	}
	return k.AccessKey, k.secret, nil
}

// ActivateAccessKey makes a user's access key usable, or unusable for now.
// ErrNotFound, ErrAccessKeyNotFound (also for another user's).
func (s *Store) ActivateAccessKey(user, id string, active bool) error {
	return wrap("change access key", s.change(func(c *change) error {
		k, err := c.accessKey(user, id)
		if err != nil || k.Active == active {
			return err
		}
		k.Active = active
		return c.putAccessKey(k)
	}))
}

// DeleteAccessKey removes a user's access key. ErrNotFound, ErrAccessKeyNotFound.
func (s *Store) DeleteAccessKey(user, id string) error {
	return wrap("delete access key", s.change(func(c *change) error {
		if _, err := c.accessKey(user, id); err != nil {
			return err
		}
		c.deleteAccessKey(id)
		return nil
	}))
}

func (c *change) accessKey(user, id string) (accessKey, error) {
	if _, err := c.user(user); err != nil {
		return accessKey{}, err
	}
	k, ok := c.st.accessKeys[id]
	if !ok || k.User != user {
		return accessKey{}, accessKeyNotFound(id)
	}
	return k, nil
}

func (c *change) putAccessKey(k accessKey) error {
	doc, err := encodeAccessKey(k, c.st.users[k.User].ID)
	if err != nil {
		return err
	}
	c.st.accessKeys[k.ID] = k
	c.puts = append(c.puts, record{kindAccessKey, k.ID, doc})
	return nil
}

func (c *change) deleteAccessKey(id string) {
	delete(c.st.accessKeys, id)
	c.deletes = append(c.deletes, record{kind: kindAccessKey, id: id})
}

func (st *state) keysOf(user string) []AccessKey {
	out := []AccessKey{}
	for _, k := range st.accessKeys {
		if k.User == user {
			out = append(out, k.AccessKey)
		}
	}
	slices.SortFunc(out, func(a, b AccessKey) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// An accessKeyRecord is an access key as stored.
type accessKeyRecord struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	User    string    `json:"user"`
	UserID  string    `json:"userId"`
	Secret  string    `json:"secret"`
	Active  bool      `json:"active"`
	Created time.Time `json:"created"`
}

func encodeAccessKey(k accessKey, userID string) ([]byte, error) {
	return json.Marshal(accessKeyRecord{
		Version: recordVersion, ID: k.ID, User: k.User, UserID: userID, Secret: k.secret.Expose(), Active: k.Active, Created: k.Created,
	})
}

// decodeAccessKey reads a record, which must be filed under id, and the unique id of its user.
func decodeAccessKey(id string, doc []byte) (k accessKey, userID string, err error) {
	var r accessKeyRecord
	if err := decode(doc, &r); err != nil {
		return accessKey{}, "", err
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(r.Secret)
	switch {
	case r.Version != recordVersion:
		return accessKey{}, "", fmt.Errorf("unknown version %d", r.Version)
	case r.ID != id:
		return accessKey{}, "", fmt.Errorf("filed under another id than %q", r.ID)
	case !validID(r.ID, "AKIA", 20):
		return accessKey{}, "", fmt.Errorf("%q is not an access key id", r.ID)
	case err != nil || len(secret) != 30:
		return accessKey{}, "", errors.New("malformed secret")
	}
	return accessKey{AccessKey{ID: r.ID, User: r.User, Active: r.Active, Created: r.Created.UTC()}, Secret{&r.Secret}}, r.UserID, nil
}

func (s *Store) loadAccessKeys(st *state) error {
	return s.ledger.Each(kindAccessKey, func(id string, doc []byte) error {
		k, userID, err := decodeAccessKey(id, doc)
		if err != nil {
			return corrupt("access key", id, err)
		}
		if u := st.users[k.User]; u == nil || u.ID != userID {
			return corrupt("access key", id, fmt.Errorf("its user %q does not exist", k.User))
		}
		st.accessKeys[id] = k
		return nil
	})
}
