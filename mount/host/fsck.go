package host

import (
	"context"
	"encoding/json"
	"fmt"
)

// Commands that look after the store itself.
const (
	CmdFsck = "fsck"
	CmdGC   = "gc"
)

// Keeper is what looks after the volume's rows and bytes: the checker and the collector.
type Keeper interface {
	// Fsck checks the volume; progress is called now and then. The report is JSON.
	Fsck(ctx context.Context, a FsckArgs, progress func(any) error) (json.RawMessage, error)
	// Collect frees what nothing refers to. The report is JSON.
	Collect(ctx context.Context) (json.RawMessage, error)
	// Held measures what the store's files hold.
	Held(ctx context.Context) (Held, error)
	// Backup does what is to be done with a backup directory. The result is JSON. Where this process may not open it, ask has the caller
	// do what is to be done with its files; it is nil otherwise.
	Backup(ctx context.Context, a BackupArgs, ask BackupAsk, progress func(any) error) (json.RawMessage, error)
}

// FsckArgs say what is checked.
type FsckArgs struct {
	Data   bool `json:"data,omitempty"`   // read and authenticate every extent
	Repair bool `json:"repair,omitempty"` // nothing may be mounted
}

// careCommands are the rows of the table for these commands. They are the owner's: reports show names of all buckets, and a backup
// holds everything.
func careCommands() map[string]command {
	return map[string]command{
		CmdFsck: {ownerOnly, with((*call).fsck)},
		CmdGC:   {ownerOnly, noArgs((*call).gc)},

		CmdBackup:       {ownerOnly, with((*call).backup)},
		CmdBackupAnswer: {ownerOnly, with((*call).backupAnswer)},
	}
}

func (c *call) fsck(a FsckArgs) (any, error) {
	if a.Repair {
		c.d.mu.Lock()
		mounts := len(c.d.mounts) + c.d.pending
		c.d.mu.Unlock()
		if mounts > 0 {
			return nil, fmt.Errorf("%w: %d mounts; a repair changes what they show", errInUse, mounts)
		}
	}
	return c.d.cfg.Keeper.Fsck(c.ctx, a, func(item any) error { return c.emit(item) })
}

func (c *call) gc() (any, error) { return c.d.cfg.Keeper.Collect(c.ctx) }
