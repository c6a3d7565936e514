package keystore

import (
	"fmt"
	"time"

	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// State is a key's state.
type State string

// The states. PendingImport is that of a key without its imported material. Unavailable belongs to kinds of keys that cannot be
// made; the table knows it.
const (
	Enabled         State = "Enabled"
	Disabled        State = "Disabled"
	PendingDeletion State = "PendingDeletion"
	PendingImport   State = "PendingImport"
	Unavailable     State = "Unavailable"
)

func (s State) known() bool {
	switch s {
	case Enabled, Disabled, PendingDeletion, PendingImport, Unavailable:
		return true
	}
	return false
}

// verdict is one cell of the state table.
type verdict uint8

const (
	works verdict = iota
	disabled
	pendingDeletion
	notPendingDeletion
	pendingImport
	unavailable
	wrongOrigin
)

// states is one row of the state table: a verdict for each state.
type states struct{ enabled, disabled, pendingDeletion, pendingImport, unavailable verdict }

// The rows that operations share.
var (
	inAllStates    = states{}
	forUse         = states{works, disabled, pendingDeletion, pendingImport, unavailable}
	forGrants      = states{works, disabled, pendingDeletion, pendingImport, works}
	unlessDeleting = states{works, works, pendingDeletion, works, works}
	forSwitching   = states{works, works, pendingDeletion, pendingImport, works}
	forCancelling  = states{notPendingDeletion, notPendingDeletion, works, notPendingDeletion, notPendingDeletion}
	forSchedule    = states{works, disabled, pendingDeletion, wrongOrigin, wrongOrigin}
	forStatus      = states{works, works, works, wrongOrigin, wrongOrigin}
)

func (t *states) verdict(s State) verdict {
	switch s {
	case Enabled:
		return t.enabled
	case Disabled:
		return t.disabled
	case PendingDeletion:
		return t.pendingDeletion
	case PendingImport:
		return t.pendingImport
	default:
		return t.unavailable
	}
}

// checkState says whether an operation works on a key in its present state.
func checkState(op *operation, arn string, r *record) error {
	if r.Origin == originExternal && (op.states == forSchedule || op.states == forStatus) {
		return refuse(CodeUnsupportedOperation, "%s origin is %s which is not valid for this operation.", arn, r.Origin)
	}
	refused := func(code, what string) error {
		e := refuse(code, "%s is %s.", arn, what)
		e.State = r.State
		return e
	}
	switch op.states.verdict(r.State) {
	case works:
		return nil
	case disabled:
		return refused(CodeDisabled, "disabled")
	case pendingDeletion:
		return refused(CodeInvalidState, "pending deletion")
	case notPendingDeletion:
		return refused(CodeInvalidState, "not pending deletion")
	case pendingImport:
		return refused(CodeInvalidState, "pending import")
	case unavailable:
		return refused(CodeInvalidState, "unavailable")
	case wrongOrigin:
		return refuse(CodeUnsupportedOperation, "%s origin is %s which is not valid for this operation.", arn, r.Origin)
	}
	panic(fmt.Sprintf("keystore: no verdict for %s in state %s", op.name, r.State))
}

const (
	day               = 24 * time.Hour
	minDeletionWindow = 7
	maxDeletionWindow = 30
)

// EnableKey makes a Disabled key Enabled. A scheduled rotation that became due meanwhile happens at once.
func (s *Service) EnableKey(c *Call, ref string) error {
	return s.change(c, opEnableKey, ref, audit.Parameters{KeyID: ref}, nil, func(ch *changing) error {
		ch.rec.State = Enabled
		r := &ch.rec.Rotation
		if !r.Enabled || r.Next.After(ch.t.now) {
			return nil
		}
		for !r.Next.After(ch.t.now) {
			r.Next = r.Next.Add(time.Duration(r.Days) * day)
		}
		return ch.rotate(automatic, ch.t.now)
	})
}

// DisableKey makes a key unusable until it is enabled again.
func (s *Service) DisableKey(c *Call, ref string) error {
	return s.change(c, opDisableKey, ref, audit.Parameters{KeyID: ref}, nil, func(ch *changing) error {
		ch.rec.State = Disabled
		return nil
	})
}

// ScheduleKeyDeletion has a key deleted after days (7 to 30; 0 = 30) and tells when. Until then it is unusable and
// CancelKeyDeletion brings it back; afterwards nothing does.
func (s *Service) ScheduleKeyDeletion(c *Call, ref string, days int) (time.Time, error) {
	if days == 0 {
		days = maxDeletionWindow
	}
	if days < minDeletionWindow || days > maxDeletionWindow {
		return time.Time{}, refuse(CodeValidation, "1 validation error detected: Value at 'pendingWindowInDays' failed to satisfy "+
			"constraint: Member must have value between %d and %d", minDeletionWindow, maxDeletionWindow)
	}
	keys := policy.MapKeys{}
	keys.Add("kms:ScheduleKeyDeletionPendingWindowInDays", fmt.Sprint(days))
	var at time.Time
	p := audit.Parameters{KeyID: ref, PendingWindowInDays: days}
	err := s.change(c, opScheduleKeyDeletion, ref, p, keys, func(ch *changing) error {
		at = ch.t.now.Add(time.Duration(days) * day)
		ch.rec.State, ch.rec.DeleteAt, ch.rec.Window = PendingDeletion, at, days
		ch.t.respond(map[string]any{"keyId": ch.k.arn, "keyState": string(PendingDeletion), "deletionDate": at.UTC().Format(time.RFC3339)})
		return nil
	})
	return at, err
}

// CancelKeyDeletion takes a scheduled deletion back. The key is Disabled afterwards.
func (s *Service) CancelKeyDeletion(c *Call, ref string) error {
	return s.change(c, opCancelKeyDeletion, ref, audit.Parameters{KeyID: ref}, nil, func(ch *changing) error {
		ch.rec.State, ch.rec.DeleteAt, ch.rec.Window = Disabled, time.Time{}, 0
		if ch.rec.Origin == originExternal && (len(ch.rec.Materials) == 0 || ch.rec.current().Wrapped == nil) {
			ch.rec.State = PendingImport
		}
		return nil
	})
}
