package host

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/kmsfs/kmsfs/keystore/audit"
)

// CmdBackup is everything about backup directories but restoring, which has no store yet.
const CmdBackup = "backup"

// The actions of CmdBackup.
const (
	BackupTake      = "take"
	BackupList      = "list"
	BackupVerify    = "verify"
	BackupForget    = "forget"
	BackupForgetKey = "forget-key"
)

// BackupArgs say what is done with a backup directory.
type BackupArgs struct {
	Action   string `json:"action"`
	Dir      string `json:"dir"`                // absolute
	Snapshot uint64 `json:"snapshot,omitempty"` // verify: 0 is the newest
	Keep     int    `json:"keep,omitempty"`     // forget: how many stay
	Key      string `json:"key,omitempty"`      // forget-key: id, ARN or alias
}

// events are the names under which the audit log has the actions that are written down.
var backupEvents = map[string]string{
	BackupTake: "CreateBackup", BackupForget: "DeleteBackups", BackupForgetKey: "DeleteBackupKey",
}

// A daemon may open no files outside its store, so whoever calls it opens the backup for it: what is to be done with its files goes
// to the caller as items of the answer, and what comes of it comes back as calls of their own, which name the session.

// BackupOp is something to be done with a file of a backup.
type BackupOp struct {
	Session string `json:"session"`
	Op      string `json:"op"` // open, list, read, write, commit, remove; all but write are answered
	Name    string `json:"name,omitempty"`
	To      string `json:"to,omitempty"`
	Offset  int64  `json:"offset,omitempty"`
	Length  int    `json:"length,omitempty"`
	Data    []byte `json:"data,omitempty"`
	Write   bool   `json:"write,omitempty"`
	Create  bool   `json:"create,omitempty"`
}

// BackupAnswer is what came of one.
type BackupAnswer struct {
	Session string           `json:"session"`
	Data    []byte           `json:"data,omitempty"`
	Sizes   map[string]int64 `json:"sizes,omitempty"`
	Error   string           `json:"error,omitempty"`
	Kind    string           `json:"kind,omitempty"` // of the error, where it matters
}

// BackupAsk has the caller do something. Nothing is waited for if answered is not set.
type BackupAsk func(op BackupOp, answered bool) (BackupAnswer, error)

// CmdBackupAnswer brings an answer.
const CmdBackupAnswer = "backup.answer"

func (c *call) backupAnswer(a BackupAnswer) (any, error) {
	c.d.asking.Lock()
	answers := c.d.asked[a.Session]
	c.d.asking.Unlock()
	if answers == nil {
		return nil, fmt.Errorf("%w: no such session", errArguments)
	}
	select {
	case answers <- a:
		return nil, nil
	default:
		return nil, fmt.Errorf("%w: nothing was asked", errArguments)
	}
}

// asker begins a session with the caller; done ends it.
func (c *call) asker() (ask BackupAsk, done func()) {
	session, answers := rand.Text(), make(chan BackupAnswer, 1)
	c.d.asking.Lock()
	c.d.asked[session] = answers
	c.d.asking.Unlock()
	ask = func(op BackupOp, answered bool) (a BackupAnswer, err error) {
		op.Session = session
		if err := c.emit(op); err != nil || !answered {
			return a, err
		}
		select {
		case a = <-answers:
			return a, nil
		case <-c.ctx.Done():
			return a, c.ctx.Err()
		}
	}
	return ask, func() {
		c.d.asking.Lock()
		defer c.d.asking.Unlock()
		delete(c.d.asked, session)
	}
}

func (c *call) backup(a BackupArgs) (any, error) {
	if !filepath.IsAbs(a.Dir) {
		return nil, fmt.Errorf("%w: the backup directory %q is not absolute", errArguments, a.Dir)
	}
	// On one of the store's own mounts it would copy itself.
	if _, ok := c.d.below(a.Dir); ok || a.Dir == c.d.cfg.Dir || strings.HasPrefix(a.Dir, c.d.cfg.Dir+"/") {
		return nil, fmt.Errorf("%w: %s is in the store or on one of its mounts", errArguments, a.Dir)
	}
	if a.Action == BackupForgetKey && a.Key != "" {
		// An alias is resolved; what a deleted key leaves is its id.
		if arn, err := c.d.cfg.Keystore.Resolve(a.Key); err == nil {
			a.Key = arn
		}
	}
	var ask BackupAsk
	if c.d.cfg.Mount != nil { // a daemon
		var done func()
		ask, done = c.asker()
		defer done()
	}
	out, err := c.d.cfg.Keeper.Backup(c.ctx, a, ask, func(item any) error { return c.emit(item) })
	if name := backupEvents[a.Action]; name != "" {
		c.tell(name, map[string]any{"directory": a.Dir, "keyId": a.Key}, err)
	}
	return out, err
}

// tell writes an event about what was done to the store itself. Who did it is known by his uid.
func (c *call) tell(name string, details map[string]any, err error) {
	e := &audit.Event{
		EventName: name, EventSource: "kmsfs", AWSRegion: c.d.cfg.Info.Region, UserAgent: "kmsfs", ManagementEvent: true,
		RecipientAccountID: c.d.cfg.Info.Account, RequestParameters: &audit.Parameters{Extra: details},
		AdditionalEventData: &audit.AdditionalEventData{Kmsfs: &audit.Origin{Op: "kmsfs " + c.name, UID: c.peer.UID, PID: uint32(c.peer.PID)}},
	}
	if err != nil {
		e.ErrorCode, e.ErrorMessage = "Failed", err.Error()
	}
	if logged := c.d.cfg.Audit.Append(e); logged != nil {
		c.d.log.Error("the audit event could not be written", "event", name, "err", logged)
	}
}
