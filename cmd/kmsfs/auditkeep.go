package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/kv/ledger"
	"github.com/kmsfs/kmsfs/keystore/audit"
)

// The end of the audit log is kept in the epoch file, every few seconds while there are events and when the store closes, and in the
// ledger when it closes; so events that somebody cuts off are missed at the next start and by kmsfs audit verify. The store opens all the
// same, or whoever can delete a file could lock everyone out: the log goes on behind what is missing, and says so for ever.
const (
	kindAudit       = 'H'
	auditHeadID     = "audit"
	auditSettingsID = "audit settings"

	keepHeadEvery = 5 * time.Second
)

// openAudit opens the log with its settings, and with what is known of its end.
func (s *store) openAudit(strict bool, clock func() time.Time) error {
	s.strict = strict
	settings, err := s.auditSettings()
	if err != nil {
		return err
	}
	settings.Strict = settings.Strict || strict
	anchors, err := s.auditAnchors()
	if err != nil {
		return err
	}
	chain := s.key(keyAudit)
	s.audit, err = audit.Open(filepath.Join(s.dir, dirAudit), chain.Expose(), audit.Options{
		Clock: clock, Settings: settings, Logger: s.log, Anchors: anchors, Vault: crypto.Vault{},
	})
	if err != nil {
		return err
	}
	s.opened(s.closeAudit)
	for _, head := range anchors {
		if err := s.audit.Contains(head); err != nil {
			s.log.Error("the audit log lacks events that were there: kmsfs audit verify says which", "sequence", head.Sequence, "err", err)
		}
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go s.keepHeads(stop, ended)
	s.opened(func() error {
		close(stop)
		<-ended
		return nil
	})
	return nil
}

// auditAnchors are the ends of the log that are known, if there are any.
func (s *store) auditAnchors() ([]audit.Head, error) {
	var heads []audit.Head
	w, err := s.anchor.Witness()
	if err != nil {
		return nil, err
	}
	if w != (fs.Witness{}) {
		h, err := parseHead(w[:])
		if err != nil {
			return nil, err
		}
		heads = append(heads, h)
	}
	if doc, ok := s.ledger.Get(kindAudit, auditHeadID); ok {
		h, err := parseHead(doc)
		if err != nil {
			return nil, err
		}
		heads = append(heads, h)
	}
	return heads, nil
}

// keepHeads has the log's events made durable, and its end written down, every few seconds.
func (s *store) keepHeads(stop <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	tick := time.NewTicker(keepHeadEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if err := s.keepHead(); err != nil {
			s.log.Error("the end of the audit log could not be kept", "err", err)
		}
	}
}

func (s *store) keepHead() error {
	if err := s.audit.Flush(); err != nil {
		return err
	}
	return s.anchor.SetWitness(fs.Witness(formatHead(s.audit.Head())))
}

func (s *store) closeAudit() error {
	err := s.keepHead()
	if err == nil {
		err = s.ledgerHead()
	}
	return errors.Join(err, s.audit.Close())
}

func (s *store) ledgerHead() error {
	doc := formatHead(s.audit.Head())
	if old, ok := s.ledger.Get(kindAudit, auditHeadID); ok && bytes.Equal(old, doc) {
		return nil
	}
	return s.ledger.Update(func(tx *ledger.Tx) error {
		tx.Put(kindAudit, auditHeadID, doc)
		return nil
	})
}

func formatHead(h audit.Head) []byte {
	return append(binary.BigEndian.AppendUint64(nil, h.Sequence), h.Chain[:]...)
}

func parseHead(doc []byte) (audit.Head, error) {
	var h audit.Head
	if len(doc) != 8+len(h.Chain) {
		return h, errors.New("the remembered end of the audit log is malformed")
	}
	h.Sequence = binary.BigEndian.Uint64(doc)
	copy(h.Chain[:], doc[8:])
	return h, nil
}

// auditSettings are those that were stored; the zero settings if none were.
func (s *store) auditSettings() (audit.Settings, error) {
	var set audit.Settings
	doc, ok := s.ledger.Get(kindAudit, auditSettingsID)
	if !ok {
		return set, nil
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&set); err != nil {
		return set, fmt.Errorf("the settings of the audit log: %w", err)
	}
	return set, nil
}

// configureAudit stores new settings and puts them in force. A daemon that was started with --audit-strict stays strict.
func (s *store) configureAudit(set audit.Settings) error {
	if err := set.Check(); err != nil {
		return err
	}
	doc, err := json.Marshal(set)
	if err != nil {
		return err
	}
	if err := s.ledger.Update(func(tx *ledger.Tx) error {
		tx.Put(kindAudit, auditSettingsID, doc)
		return nil
	}); err != nil {
		return err
	}
	set.Strict = set.Strict || s.strict
	return s.audit.Configure(set)
}
