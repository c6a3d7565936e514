package principals

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/principals/policy"
)

// recordVersion is the version of all record formats (FORMAT.md).
const recordVersion = 1

// A userRecord is a user as stored.
type userRecord struct {
	Version  int       `json:"version"`
	Name     string    `json:"name"`
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	UIDs     []uint32  `json:"uids"`
	Policies []string  `json:"policies"`
	Boundary string    `json:"boundary,omitempty"`
}

// A policyRecord is a policy as stored.
type policyRecord struct {
	Version  int    `json:"version"`
	Name     string `json:"name"`
	Document string `json:"document"`
}

func encodeUser(p Principal) ([]byte, error) {
	r := userRecord{Version: recordVersion, Name: p.Name, ID: p.ID, Created: p.Created, UIDs: p.UIDs, Policies: p.Policies, Boundary: p.Boundary}
	if r.UIDs == nil {
		r.UIDs = []uint32{}
	}
	if r.Policies == nil {
		r.Policies = []string{}
	}
	return json.Marshal(r)
}

// decodeUser reads a record, which must be filed under id. The ARN is not stored.
func decodeUser(id string, doc []byte) (Principal, error) {
	var r userRecord
	if err := decode(doc, &r); err != nil {
		return Principal{}, err
	}
	p := Principal{Name: r.Name, ID: r.ID, Created: r.Created.UTC(), Boundary: r.Boundary}
	switch {
	case r.Version != recordVersion:
		return Principal{}, fmt.Errorf("unknown version %d", r.Version)
	case r.Name != id:
		return Principal{}, fmt.Errorf("filed under another name than %q", r.Name)
	case !validID(r.ID, "AIDA", 21):
		return Principal{}, fmt.Errorf("%q is not a unique id", r.ID)
	}
	if err := checkName("principal", r.Name, maxUserName); err != nil {
		return Principal{}, err
	}
	for _, uid := range r.UIDs {
		if err := p.bind(uid); err != nil {
			return Principal{}, err
		}
	}
	for _, name := range r.Policies {
		if err := p.attach(name); err != nil {
			return Principal{}, err
		}
	}
	if !slices.Equal(p.UIDs, r.UIDs) || len(p.Policies) != len(r.Policies) {
		return Principal{}, errors.New("uids not ascending, or a value twice")
	}
	return p, nil
}

func encodePolicy(name string, text []byte) ([]byte, error) {
	return json.Marshal(policyRecord{Version: recordVersion, Name: name, Document: string(text)})
}

func decodePolicy(id string, doc []byte) (*policy.Document, error) {
	var r policyRecord
	if err := decode(doc, &r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("unknown version %d", r.Version)
	}
	if r.Name != id {
		return nil, fmt.Errorf("filed under another name than %q", r.Name)
	}
	if err := checkName("policy", r.Name, maxPolicyName); err != nil {
		return nil, err
	}
	return policy.Parse(policy.IdentityPolicy, []byte(r.Document))
}

const base32Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

func validID(id, prefix string, length int) bool {
	return len(id) == length && strings.HasPrefix(id, prefix) && strings.Trim(id, base32Alphabet) == ""
}

// decode reads exactly one JSON object without unknown names.
func decode(doc []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}
