package keystore

import (
	"errors"
	"time"

	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/keystore/audit"
)

const (
	longestWait = time.Hour       // between two looks at the clock, so that a changed clock is noticed
	expiryWait  = time.Second / 4 // the same where material expires: open files end within a second, on a machine that slept, too
	retryWait   = time.Minute     // after a failure
)

// settled applies what has fallen due on a key and returns its snapshot. Where that fails, what is due is not applied, but a
// key whose time is over is treated as deleted all the same.
func (s *Service) settled(k *key) *snapshot {
	snap := k.snapshot()
	if snap.deleted() {
		return snap
	}
	now := s.clock()
	if due := snap.rec.due(); due.IsZero() || due.After(now) {
		return snap
	}
	s.manage.Lock()
	err := s.settle(k, now)
	s.manage.Unlock()
	if err != nil {
		s.logger.Error("keystore: what is due could not be applied", "key", k.arn, "error", err)
	}
	s.notify(k.arn)
	snap = k.snapshot()
	if !snap.deleted() && snap.rec.State == PendingDeletion && !snap.rec.DeleteAt.After(now) {
		return &snapshot{policy: snap.policy}
	}
	if !snap.deleted() && snap.rec.State != PendingDeletion && snap.rec.overdue(now) {
		late := *snap
		late.rec = snap.rec.clone()
		late.rec.State = PendingImport
		return &late
	}
	return snap
}

// settle applies what is due on a key: its deletion, or a rotation for every period that has passed. s.manage is held.
func (s *Service) settle(k *key, now time.Time) error {
	if s.closed.Load() {
		return ErrClosed
	}
	snap := k.snapshot()
	if snap.deleted() {
		return nil
	}
	due := snap.rec.due()
	switch {
	case due.IsZero() || due.After(now):
		return nil
	case snap.rec.State == PendingDeletion:
		return s.remove(k, snap, now)
	case snap.rec.Origin == originExternal:
		return s.expire(k, snap, now)
	}
	ch := s.changing(nil, k, snap)
	r := &ch.rec.Rotation
	for !r.Next.After(now) {
		if err := ch.rotate(automatic, r.Next); err != nil {
			return err
		}
		r.Next = r.Next.Add(time.Duration(r.Days) * day)
	}
	if err := ch.commit(); err != nil {
		return err
	}
	ch.tellRotations(now)
	return nil
}

// remove deletes a key: its documents first, then its slot. If the slot cannot be overwritten now, the next Open does it.
func (s *Service) remove(k *key, snap *snapshot, now time.Time) error {
	id := k.id.String()
	err := s.commit(func(tx *ledger.Tx) error {
		tx.Delete(kindKey, id)
		for _, name := range snap.aliases {
			tx.Delete(kindAlias, name)
		}
		for _, g := range snap.grants.all() {
			tx.Delete(kindGrant, id+"/"+g.ID)
		}
		tx.Put(kindDeleted, id, encode(tombstone{Format: recordFormat, ID: id, Deleted: now, Policy: snap.rec.Policy}))
		return nil
	})
	if err != nil {
		return err
	}
	k.wipe(s.wrapping)
	k.publish(&snapshot{policy: snap.policy})
	s.index.Lock()
	for _, name := range snap.aliases {
		delete(s.aliases, name)
	}
	s.index.Unlock()
	s.epoch.Add(1)
	err = s.shred.destroy(snap.rec.Slot, k.id)
	s.serviceEvent("DeleteKey", k, now, map[string]any{"keyId": id})
	return err
}

// serviceEvent writes an event about what the keystore did by itself.
func (s *Service) serviceEvent(name string, k *key, now time.Time, details map[string]any) {
	err := s.audit.Append(&audit.Event{
		UserIdentity: audit.UserIdentity{Type: "AWSService", AccountID: s.account, InvokedBy: "AWS Internal"},
		EventTime:    audit.Time{Time: now}, EventName: name, AWSRegion: s.region, SourceIPAddress: "AWS Internal", UserAgent: "AWS Internal",
		EventType: "AwsServiceEvent", ManagementEvent: true, RecipientAccountID: s.account, ServiceEventDetails: details,
		Resources: []audit.Resource{{AccountID: s.account, Type: "AWS::KMS::Key", ARN: k.arn}},
	})
	if err != nil {
		s.logger.Error("keystore: audit event could not be written", "event", name, "key", k.arn, "error", err)
	}
}

// Settle applies what has fallen due on all keys now. The service does so by itself, on every use of a key and by a timer; what one of
// those has begun is done as well when Settle returns.
func (s *Service) Settle() error {
	now := s.clock()
	var all []error
	for _, k := range s.list() {
		snap := k.snapshot()
		if snap.deleted() {
			continue
		}
		if due := snap.rec.due(); due.IsZero() || due.After(now) {
			continue
		}
		s.manage.Lock()
		err := s.settle(k, now)
		s.manage.Unlock()
		s.notify(k.arn)
		all = append(all, err)
	}
	s.manage.Lock()
	s.manage.Unlock() //nolint:staticcheck // it is only waited for
	return errors.Join(all...)
}

// keep is the timer.
func (s *Service) keep() {
	defer close(s.ended)
	timer := time.NewTimer(s.wait())
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-s.due:
			timer.Reset(s.wait())
		case <-timer.C:
			wait := s.wait()
			if wait <= 0 {
				if err := s.Settle(); err != nil {
					s.logger.Error("keystore: what is due could not be applied", "error", err)
					wait = retryWait
				} else {
					wait = s.wait()
				}
			}
			timer.Reset(wait)
		}
	}
}

// wait is the time until the earliest due date, at most longestWait.
func (s *Service) wait() time.Duration {
	now := s.clock()
	wait := longestWait
	for _, k := range s.list() {
		snap := k.snapshot()
		if snap.deleted() {
			continue
		}
		due := snap.rec.due()
		if due.IsZero() {
			continue
		}
		wait = min(wait, max(due.Sub(now), 0))
		if snap.rec.expiring() {
			wait = min(wait, expiryWait)
		}
	}
	return wait
}
