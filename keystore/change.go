package keystore

import (
	"maps"
	"time"

	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// changing is a change of one key under way.
type changing struct {
	s    *Service
	t    *trail
	k    *key
	rec  *record   // to be changed freely
	snap *snapshot // the one to be published; its maps are still the old one's
	also func(tx *ledger.Tx)
	made []madeMaterial // by rotations
}

// madeMaterial is a rotation of a change.
type madeMaterial struct {
	kind              string
	previous, current materialID
}

// read runs fn on a key's snapshot, after authorisation. Aliases are accepted only where AWS does.
func (s *Service) read(c *Call, op *operation, ref string, p audit.Parameters, fn func(k *key, snap *snapshot) error) error {
	return s.readWith(c, op, ref, p, nil, fn)
}

// readWith is read where the request has condition keys of its own.
func (s *Service) readWith(c *Call, op *operation, ref string, p audit.Parameters, extra policy.MapKeys, fn func(k *key, snap *snapshot) error) error {
	t := s.begin(c, op, p)
	err := func() error {
		if s.closed.Load() {
			return ErrClosed
		}
		k, aliasName, err := s.find(ref, op == opDescribeKey)
		if err != nil {
			return t.missing(op.action, err)
		}
		snap := s.settled(k)
		t.resource(k.arn)
		if err := t.allow(op.action, k, snap, nil, &requestKeys{alias: aliasName, extra: extra}); err != nil {
			return err
		}
		if err := checkState(op, k.arn, snap.rec); err != nil {
			return err
		}
		return fn(k, snap)
	}()
	return t.end(err)
}

// change authorises and checks an operation on a key, has fn change a copy of its record, commits and publishes it.
func (s *Service) change(c *Call, op *operation, ref string, p audit.Parameters, extra policy.MapKeys, fn func(ch *changing) error) error {
	t := s.begin(c, op, p)
	ch, err := s.changeLocked(t, ref, extra, fn)
	if ch != nil {
		s.notify(ch.k.arn)
	}
	err = t.end(err)
	if ch != nil {
		ch.tellRotations(t.now)
	}
	return err
}

func (s *Service) changeLocked(t *trail, ref string, extra policy.MapKeys, fn func(ch *changing) error) (*changing, error) {
	s.manage.Lock()
	defer s.manage.Unlock()
	if s.closed.Load() {
		return nil, ErrClosed
	}
	k, _, err := s.find(ref, false)
	if err != nil {
		return nil, t.missing(t.op.action, err)
	}
	if err := s.settle(k, t.now); err != nil {
		return nil, err
	}
	old := k.snapshot()
	t.resource(k.arn)
	if err := t.allow(t.op.action, k, old, nil, &requestKeys{extra: extra}); err != nil {
		return nil, err
	}
	if err := checkState(t.op, k.arn, old.rec); err != nil {
		return nil, err
	}
	ch := s.changing(t, k, old)
	if err := fn(ch); err != nil {
		return nil, err
	}
	if err := ch.commit(); err != nil {
		return nil, err
	}
	return ch, nil
}

func (s *Service) changing(t *trail, k *key, old *snapshot) *changing {
	snap := *old
	snap.rec = old.rec.clone()
	return &changing{s: s, t: t, k: k, rec: snap.rec, snap: &snap}
}

// commit writes and publishes the change. s.manage is held.
func (ch *changing) commit() error {
	err := ch.s.commit(func(tx *ledger.Tx) error {
		tx.Put(kindKey, ch.rec.ID, encode(ch.rec))
		if ch.also != nil {
			ch.also(tx)
		}
		return nil
	})
	if err != nil {
		return err
	}
	ch.k.publish(ch.snap)
	ch.s.epoch.Add(1)
	return nil
}

// publish makes a snapshot the present one.
func (k *key) publish(snap *snapshot) { k.snap.Store(snap) }

// rotate adds a new current material to the change.
func (ch *changing) rotate(kind string, at time.Time) error {
	ch.snap.materials = maps.Clone(ch.snap.materials)
	previous := ch.snap.current
	if err := ch.s.addMaterial(ch.k, ch.snap, kind, at); err != nil {
		return err
	}
	ch.made = append(ch.made, madeMaterial{kind, previous, ch.snap.current})
	return nil
}

// tellRotations writes the events of the rotations of a change that was committed, one for each, whoever asked for it: as AWS does, beside the
// event of the call.
func (ch *changing) tellRotations(now time.Time) {
	for _, m := range ch.made {
		ch.s.serviceEvent("RotateKey", ch.k, now, map[string]any{
			"rotationType": m.kind, "keyOrigin": ch.rec.Origin, "keyId": ch.rec.ID,
			"previousKeyMaterialId": m.previous.String(), "currentKeyMaterialId": m.current.String(),
		})
	}
}
