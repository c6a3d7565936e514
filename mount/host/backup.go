package host

import (
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

func (c *call) backup(a BackupArgs) (any, error) {
	if !filepath.IsAbs(a.Dir) {
		return nil, fmt.Errorf("%w: the backup directory %q is not absolute", errArguments, a.Dir)
	}
	// On one of the store's own mounts this process would wait for itself.
	place := a.Dir
	for {
		real, err := filepath.EvalSymlinks(place)
		if err == nil {
			place = real
			break
		}
		if place = filepath.Dir(place); place == "/" {
			break
		}
	}
	if _, ok := c.d.below(place); ok || place == c.d.cfg.Dir || strings.HasPrefix(place, c.d.cfg.Dir+"/") {
		return nil, fmt.Errorf("%w: %s is in the store or on one of its mounts", errArguments, a.Dir)
	}
	if a.Action == BackupForgetKey && a.Key != "" {
		// An alias is resolved; what a deleted key leaves is its id.
		if arn, err := c.d.cfg.Keystore.Resolve(a.Key); err == nil {
			a.Key = arn
		}
	}
	out, err := c.d.cfg.Keeper.Backup(c.ctx, a, func(item any) error { return c.emit(item) })
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
