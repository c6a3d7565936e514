package host

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/keystore"
)

// Commands for what a key has beside its policy and its state.
const (
	CmdKeyRotation         = "key.rotation"
	CmdKeyDescribe         = "key.describe"
	CmdKeyTags             = "key.tags"
	CmdKeyImportParameters = "key.import-parameters"
	CmdKeyImportMaterial   = "key.import-material"
	CmdKeyDeleteMaterial   = "key.delete-material"
	CmdGrantRetire         = "grant.retire"
)

// KeyRotationArgs show a key's schedule, or change it. Days is 90 to 2560; 0
// keeps the period, or means 365.
type KeyRotationArgs struct {
	Key     string `json:"key"`
	Enable  bool   `json:"enable,omitempty"`
	Disable bool   `json:"disable,omitempty"`
	Days    int    `json:"days,omitempty"`
}

// KeyRotation is a key's schedule and its materials, in the words of
// GetKeyRotationStatus and ListKeyRotations.
type KeyRotation struct {
	ARN       string        `json:"KeyId"`
	Enabled   bool          `json:"KeyRotationEnabled"`
	Days      int           `json:"RotationPeriodInDays,omitempty"`
	Next      *time.Time    `json:"NextRotationDate,omitempty"`
	Materials []KeyMaterial `json:"Rotations"` // the first first
}

// KeyMaterial is one material of a key. Type is empty for the one that the
// key was made with.
type KeyMaterial struct {
	ID    string     `json:"KeyMaterialId"`
	State string     `json:"KeyMaterialState"` // CURRENT, NON_CURRENT
	Type  string     `json:"RotationType,omitempty"`
	Date  *time.Time `json:"RotationDate,omitempty"`
}

// KeyDescribeArgs change a key's description.
type KeyDescribeArgs struct {
	Key         string `json:"key"`
	Description string `json:"description"`
}

// KeyTagsArgs set and remove tags of a key; without any they are shown.
type KeyTagsArgs struct {
	Key    string            `json:"key"`
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// KeyTag is one tag of a key.
type KeyTag struct {
	Key   string `json:"TagKey"`
	Value string `json:"TagValue"`
}

// KeyImportParameters are what material is encrypted with before it is
// imported: an RSA public key in DER for RSAES_OAEP_SHA_256, and its token.
type KeyImportParameters struct {
	ARN       string    `json:"KeyId"`
	PublicKey []byte    `json:"PublicKey"`
	Token     []byte    `json:"ImportToken"`
	ValidTo   time.Time `json:"ParametersValidTo"`
}

// KeyImportMaterialArgs bring material, encrypted. Without Expires it stays.
type KeyImportMaterialArgs struct {
	Key       string     `json:"key"`
	Token     []byte     `json:"token"`
	Encrypted []byte     `json:"encrypted"`
	Expires   *time.Time `json:"expires,omitempty"`
}

// GrantRetireArgs name a grant by its token, or by its key and id.
type GrantRetireArgs struct {
	Token string `json:"token,omitempty"`
	Key   string `json:"key,omitempty"`
	Grant string `json:"grant,omitempty"`
}

func (c *call) keyRotation(a KeyRotationArgs) (any, error) {
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	ks := c.d.cfg.Keystore
	switch {
	case a.Enable && a.Disable, a.Days != 0 && !a.Enable:
		return nil, fmt.Errorf("%w: a schedule is either set or ended", errArguments)
	case a.Enable:
		err = ks.EnableKeyRotation(c.keys(), arn, a.Days)
	case a.Disable:
		err = ks.DisableKeyRotation(c.keys(), arn)
	}
	if err != nil {
		return nil, err
	}
	status, err := ks.GetKeyRotationStatus(c.keys(), arn)
	if err != nil {
		return nil, err
	}
	list, err := ks.ListKeyRotations(c.keys(), arn, true)
	if err != nil {
		return nil, err
	}
	out := KeyRotation{ARN: status.KeyARN, Enabled: status.Enabled, Days: status.Days, Next: timeOrNil(status.Next), Materials: []KeyMaterial{}}
	for _, m := range list {
		k := KeyMaterial{ID: m.MaterialID, State: "NON_CURRENT", Type: m.Type}
		if m.Current {
			k.State = "CURRENT"
		}
		if m.Type != "" {
			k.Date = timeOrNil(m.Date)
		}
		out.Materials = append(out.Materials, k)
	}
	return out, nil
}

func (c *call) keyDescribe(a KeyDescribeArgs) (any, error) {
	return c.onKey(a.Key, func(arn string) error { return c.d.cfg.Keystore.UpdateKeyDescription(c.keys(), arn, a.Description) })
}

func (c *call) keyTags(a KeyTagsArgs) (any, error) {
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	ks := c.d.cfg.Keystore
	if len(a.Set) > 0 {
		if err := ks.TagResource(c.keys(), arn, tagsOf(a.Set)); err != nil {
			return nil, err
		}
	}
	if len(a.Remove) > 0 {
		if err := ks.UntagResource(c.keys(), arn, a.Remove); err != nil {
			return nil, err
		}
	}
	if len(a.Set)+len(a.Remove) > 0 {
		return []KeyTag{}, nil // who may set tags need not be one who may list them
	}
	tags, err := ks.ListResourceTags(c.keys(), arn)
	if err != nil {
		return nil, err
	}
	out := make([]KeyTag, 0, len(tags))
	for _, t := range tags {
		out = append(out, KeyTag(t))
	}
	return out, nil
}

func tagsOf(m map[string]string) []keystore.Tag {
	var tags []keystore.Tag
	for k, v := range m {
		tags = append(tags, keystore.Tag{Key: k, Value: v})
	}
	slices.SortFunc(tags, func(a, b keystore.Tag) int { return strings.Compare(a.Key, b.Key) })
	return tags
}

func (c *call) keyImportParameters(a KeyArgs) (any, error) {
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	p, err := c.d.cfg.Keystore.GetParametersForImport(c.keys(), arn, "RSAES_OAEP_SHA_256", "RSA_3072")
	if err != nil {
		return nil, err
	}
	return KeyImportParameters{ARN: p.KeyARN, PublicKey: p.PublicKey, Token: p.Token, ValidTo: p.ValidTo}, nil
}

func (c *call) keyImportMaterial(a KeyImportMaterialArgs) (any, error) {
	var until time.Time
	if a.Expires != nil {
		until = *a.Expires
	}
	return c.onKey(a.Key, func(arn string) error {
		_, _, err := c.d.cfg.Keystore.ImportKeyMaterial(c.keys(), arn, a.Token, a.Encrypted, until)
		return err
	})
}

func (c *call) keyDeleteMaterial(a KeyArgs) (any, error) {
	return c.onKey(a.Key, func(arn string) error {
		_, _, err := c.d.cfg.Keystore.DeleteImportedKeyMaterial(c.keys(), arn)
		return err
	})
}

func (c *call) grantRetire(a GrantRetireArgs) (any, error) {
	if a.Token != "" {
		return nil, c.d.cfg.Keystore.RetireGrant(c.keys(), a.Token, a.Key, a.Grant)
	}
	if a.Grant == "" {
		return nil, fmt.Errorf("%w: no grant id", errArguments)
	}
	arn, err := c.key(a.Key)
	if err != nil {
		return nil, err
	}
	return nil, c.d.cfg.Keystore.RetireGrant(c.keys(), "", arn, a.Grant)
}
