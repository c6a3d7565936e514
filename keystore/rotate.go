package keystore

import (
	"fmt"
	"time"

	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// How a material came to be.
const (
	automatic = "AUTOMATIC"
	onDemand  = "ON_DEMAND"
)

const (
	defaultRotationDays = 365
	minRotationDays     = 90
	maxRotationDays     = 2560
	maxOnDemand         = 25
	quietBeforeRotation = 20 * time.Minute
)

// RotationStatus is what GetKeyRotationStatus tells.
type RotationStatus struct {
	KeyARN  string
	Enabled bool
	Days    int       // 0 unless Enabled
	Next    time.Time // zero unless Enabled
}

// Rotation is one of a key's materials, by the rotation that made it.
type Rotation struct {
	KeyARN     string
	MaterialID string // 64 hex digits
	Current    bool
	Type       string // AUTOMATIC, ON_DEMAND; "" for the material that the key was made with
	Date       time.Time
}

// EnableKeyRotation has a key rotated every days (90 to 2560). 0 keeps the period of a schedule that is on, and means 365
// otherwise. A changed period counts from now, an unchanged one keeps the schedule.
func (s *Service) EnableKeyRotation(c *Call, ref string, days int) error {
	if days != 0 && (days < minRotationDays || days > maxRotationDays) {
		return refuse(CodeValidation, "1 validation error detected: Value at 'rotationPeriodInDays' failed to satisfy constraint: "+
			"Member must have value between %d and %d", minRotationDays, maxRotationDays)
	}
	asked := days
	if asked == 0 {
		asked = defaultRotationDays
	}
	keys := policy.MapKeys{}
	keys.Add("kms:RotationPeriodInDays", fmt.Sprint(asked))
	p := audit.Parameters{KeyID: ref, RotationPeriodInDays: days}
	return s.change(c, opEnableKeyRotation, ref, p, keys, func(ch *changing) error {
		r := &ch.rec.Rotation
		if r.Enabled && (days == 0 || days == r.Days) {
			return nil
		}
		*r = rotation{Enabled: true, Days: asked, Next: ch.t.now.Add(time.Duration(asked) * day)}
		return nil
	})
}

// DisableKeyRotation ends the schedule.
func (s *Service) DisableKeyRotation(c *Call, ref string) error {
	return s.change(c, opDisableKeyRotation, ref, audit.Parameters{KeyID: ref}, nil, func(ch *changing) error {
		ch.rec.Rotation = rotation{}
		return nil
	})
}

// GetKeyRotationStatus tells a key's schedule. A key that is pending deletion has none until the deletion is cancelled.
func (s *Service) GetKeyRotationStatus(c *Call, ref string) (RotationStatus, error) {
	var st RotationStatus
	err := s.read(c, opGetKeyRotationStatus, ref, audit.Parameters{KeyID: ref}, func(k *key, snap *snapshot) error {
		st.KeyARN = k.arn
		if r := snap.rec.Rotation; r.Enabled && snap.rec.State != PendingDeletion {
			st.Enabled, st.Days, st.Next = true, r.Days, r.Next
		}
		return nil
	})
	return st, err
}

// RotateKeyOnDemand gives a key new material now; it does not move the schedule. At most 25 times for a key.
func (s *Service) RotateKeyOnDemand(c *Call, ref string) error {
	return s.change(c, opRotateKeyOnDemand, ref, audit.Parameters{KeyID: ref}, nil, func(ch *changing) error {
		if ch.rec.Origin == originExternal {
			return refuse(CodeInvalidState, "No available key material pending rotation for the key: %s.", ch.k.arn)
		}
		n := 0
		for _, m := range ch.rec.Materials {
			if m.Type == onDemand {
				n++
			}
		}
		if n >= maxOnDemand {
			return refuse(CodeLimitExceeded, "The on-demand rotations limit has been reached for the given keyId. "+
				"No more on-demand rotations can be performed for this key: %s", ch.k.arn)
		}
		if r := ch.rec.Rotation; r.Enabled && r.Next.Sub(ch.t.now) < quietBeforeRotation {
			return refuse(CodeConflict, "A scheduled rotation of %s is about to happen.", ch.k.arn)
		}
		ch.t.respond(map[string]any{"keyId": ch.k.arn})
		return ch.rotate(onDemand, ch.t.now)
	})
}

// ListKeyRotations lists a key's rotations, oldest first; with all also the material the key was made with.
func (s *Service) ListKeyRotations(c *Call, ref string, all bool) ([]Rotation, error) {
	var out []Rotation
	err := s.read(c, opListKeyRotations, ref, audit.Parameters{KeyID: ref}, func(k *key, snap *snapshot) error {
		for _, m := range snap.rec.Materials {
			if m.Type != "" || all {
				out = append(out, Rotation{
					KeyARN: k.arn, MaterialID: m.ID, Current: m.ID == snap.rec.current().ID, Type: m.Type, Date: m.Created,
				})
			}
		}
		return nil
	})
	return out, err
}
