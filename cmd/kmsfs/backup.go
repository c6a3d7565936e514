package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/backup"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/sealed"
	"github.com/kmsfs/kmsfs/fs/meta"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdBackup() *cli.Command {
	return &cli.Command{
		Name: "backup", Category: catStore, Usage: "copy the store into a directory, while it is in use", ArgsUsage: "DIR",
		Description: `DIR takes any number of snapshots; each is complete, and copies only what the last one does not
have. What is copied is sealed as it is in the store. A key file is not copied: without it, or a
passphrase of the store, the backup cannot be opened. A directory named like one of the commands
below is written ./NAME.

Examples:
   kmsfs backup /mnt/usb/kmsfs
   kmsfs backup verify /mnt/usb/kmsfs
   kmsfs backup forget --keep 7 /mnt/usb/kmsfs`,
		Action: func(c *cli.Context) error {
			var t backup.Taken
			if err := backupCall(c, host.BackupArgs{Action: host.BackupTake}, &t); err != nil {
				return err
			}
			if err := show(c, t, func(w io.Writer) { printTaken(w, &t) }); err != nil {
				return err
			}
			if len(t.Lost) > 0 {
				return &hinted{fmt.Errorf("%d extents of the store are damaged and not in the backup", len(t.Lost)), "kmsfs fsck --data says which files", exitDamaged}
			}
			return nil
		},
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the snapshots", ArgsUsage: "DIR",
				Description: `Example:
   kmsfs backup list /mnt/usb/kmsfs`,
				Action: func(c *cli.Context) error {
					var list []backup.Info
					if err := backupCall(c, host.BackupArgs{Action: host.BackupList}, &list); err != nil {
						return err
					}
					return show(c, list, func(w io.Writer) { printSnapshots(w, list) })
				},
			},
			{
				Name: "verify", Usage: "read and authenticate everything in a snapshot", ArgsUsage: "DIR",
				Description: `Without the store, name its key file or passphrase file; the header is in the backup.

Examples:
   kmsfs backup verify /mnt/usb/kmsfs
   kmsfs backup verify --key-file root.key --snapshot 3 /mnt/usb/kmsfs`,
				Flags: []cli.Flag{
					&cli.Uint64Flag{Name: "snapshot", Usage: "snapshot `N`", DefaultText: "the newest"},
					&cli.StringFlag{Name: "key-file", Usage: "open the backup with the key file `PATH`, without the store"},
				},
				Action: verifyBackup,
			},
			{
				Name: "forget", Usage: "remove old snapshots, and what no other needs", ArgsUsage: "DIR",
				Description: `Example:
   kmsfs backup forget --keep 7 /mnt/usb/kmsfs`,
				Flags: []cli.Flag{&cli.IntFlag{Name: "keep", Usage: "keep the newest `N` snapshots"}},
				Action: func(c *cli.Context) error {
					if c.Int("keep") < 1 {
						return &usageError{msg: "--keep N says how many stay, at least 1", hint: "kmsfs backup forget --keep 7 DIR"}
					}
					var f forgotten
					if err := backupCall(c, host.BackupArgs{Action: host.BackupForget, Keep: c.Int("keep")}, &f); err != nil {
						return err
					}
					return show(c, f, func(w io.Writer) {
						fmt.Fprintf(w, "removed %d snapshots, freed %d bytes\n", len(f.Snapshots), f.Bytes)
					})
				},
			},
			{
				Name: "forget-key", Usage: "destroy a key in all snapshots, as its deletion does in the store", ArgsUsage: "DIR KEY",
				Description: `What lies under the key can then not be opened from this backup any more, except with key
material in escrow (kmsfs key import). Copies of the backup and what the medium keeps of
overwritten blocks are beyond it.

Example:
   kmsfs backup forget-key /mnt/usb/kmsfs alias/old`,
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 2, 2)
					if err != nil {
						return err
					}
					var f forgottenKey
					if err := backupCall(c, host.BackupArgs{Action: host.BackupForgetKey, Key: args[1]}, &f); err != nil {
						return err
					}
					return show(c, f, func(w io.Writer) { fmt.Fprintf(w, "destroyed the key in %d snapshots\n", f.Snapshots) })
				},
			},
		},
	}
}

// forgotten is what forget did, forgottenKey what forget-key did.
type (
	forgotten struct {
		Snapshots []uint64 `json:"removedSnapshots"`
		Bytes     int64    `json:"freedBytes"`
	}
	forgottenKey struct {
		Key       string `json:"key"`
		Snapshots int    `json:"snapshots"`
	}
)

// backupCall does one action on the directory that is the first argument.
func backupCall(c *cli.Context, a host.BackupArgs, result any) error {
	most := 1
	if a.Action == host.BackupForgetKey {
		most = 2
	}
	args, err := arguments(c, 1, most)
	if err != nil {
		return err
	}
	if a.Dir, err = resolved(args[0]); err != nil {
		return fmt.Errorf("find the backup directory: %w", err)
	}
	tell := progressNote(c)
	server := &fileServer{dir: a.Dir, done: func() {}}
	defer func() { server.done() }()
	return stream(c, host.CmdBackup, a, result, func(raw json.RawMessage) error {
		var item struct {
			backup.Progress
			host.BackupOp
		}
		if err := json.Unmarshal(raw, &item); err != nil {
			return fmt.Errorf("read the progress: %w", err)
		}
		if item.Op == "" {
			tell(item.Progress)
			return nil
		}
		answer, answered := server.serve(item.BackupOp)
		if !answered {
			return nil
		}
		req, err := request(c, host.CmdBackupAnswer, answer)
		if err != nil {
			return err
		}
		dir, err := storeDir(c)
		if err != nil {
			return err
		}
		_, err = ask(c.Context, dir, req, nil)
		return err
	})
}

// resolved is a path without symbolic links, absolute; what is not there yet stays as it is.
func resolved(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rest := ""
	for at := path; ; at = filepath.Dir(at) {
		real, err := filepath.EvalSymlinks(at)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, os.ErrNotExist) || at == "/" {
			return "", err
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

func progressNote(c *cli.Context) func(backup.Progress) {
	last := time.Now()
	return func(p backup.Progress) {
		if time.Since(last) < 2*time.Second {
			return
		}
		last = time.Now()
		switch {
		case p.Phase == "rows" && p.Total > p.Done:
			note(c, "%d of %d rows", p.Done, p.Total)
		case p.Phase == "rows":
			note(c, "%d rows", p.Done)
		default:
			note(c, "%d of %d MiB", p.Done>>20, p.Total>>20)
		}
	}
}

func printTaken(w io.Writer, t *backup.Taken) {
	table(w, func(row func(...string)) {
		row("snapshot:", fmt.Sprint(t.Number))
		row("complete:", fmt.Sprintf("%d rows, %d extents, %d bytes", t.Rows, t.Extents, t.Bytes))
		if t.Base != 0 {
			row("copied:", fmt.Sprintf("%d bytes; snapshot %d had the rest", t.Added, t.Base))
		} else {
			row("copied:", fmt.Sprintf("%d bytes", t.Added))
		}
		if t.Renewed > 0 {
			row("mended:", fmt.Sprintf("%d packs of earlier snapshots are damaged; what they held was copied again", t.Renewed))
		}
	})
	for _, l := range t.Lost {
		fmt.Fprintf(w, "not copied: inode %d, %d bytes of segment %d at %d: %s\n", l.Ino, l.Length, l.Segment, l.Offset, oneLine(l.Why))
	}
}

func printSnapshots(w io.Writer, list []backup.Info) {
	table(w, func(row func(...string)) {
		for _, i := range list {
			what := fmt.Sprintf("%d bytes, %d added", i.Bytes, i.Added)
			if i.Gone > 0 {
				what += fmt.Sprintf(", %d of %d keys forgotten", i.Gone, i.Keys)
			}
			if len(i.Lost) > 0 {
				what += fmt.Sprintf(", %d extents missing", len(i.Lost))
			}
			row(fmt.Sprint(i.Number), i.Created.Format(time.RFC3339), what)
		}
	})
}

func verifyBackup(c *cli.Context) error {
	a := host.BackupArgs{Action: host.BackupVerify, Snapshot: c.Uint64("snapshot")}
	var i backup.Info
	if c.String("key-file") == "" && hasStore(c) {
		if err := backupCall(c, a, &i); err != nil {
			return err
		}
	} else {
		args, err := arguments(c, 1, 1)
		if err != nil {
			return err
		}
		o, err := openBackup(c, args[0], a.Snapshot)
		if err != nil {
			return err
		}
		defer o.close()
		if err := o.snapshot.Verify(c.Context, o.typed(), progressNote(c)); err != nil {
			return err
		}
		i = o.snapshot.Info()
	}
	return show(c, i, func(w io.Writer) {
		fmt.Fprintf(w, "snapshot %d of %s is whole: %d rows, %d extents, %d bytes\n", i.Number, i.Created.Format(time.RFC3339), i.Rows, i.Extents, i.Bytes)
	})
}

// hasStore says whether the command has a store to ask.
func hasStore(c *cli.Context) bool {
	dir, err := storeDir(c)
	if err == nil {
		_, err = os.Lstat(filepath.Join(dir, headerFile))
	}
	return err == nil
}

// typedRows reads sealed rows.
func typedRows(root *crypto.DataKey) func(kv.Store) *meta.DB {
	return func(s kv.Store) *meta.DB {
		rows, vol := root.Derive(nil, keyRows), root.Derive(nil, keyVolume)
		defer rows.Wipe()
		defer vol.Wipe()
		return meta.NewDB(sealed.New(s, rows), vol)
	}
}

// Backup implements host.Keeper. Errors of package backup get their advice and exit status here.
func (k keeper) Backup(ctx context.Context, a host.BackupArgs, ask host.BackupAsk, progress func(any) error) (json.RawMessage, error) {
	out, err := k.backup(ctx, a, ask, progress)
	if err != nil {
		for _, own := range []error{backup.ErrDamaged, backup.ErrForeign, backup.ErrVersion, backup.ErrNone, backup.ErrBusy} {
			if errors.Is(err, own) {
				hint, exit := advice(err)
				return nil, &control.Error{Code: "Backup", Message: err.Error(), Hint: hint, Exit: exit}
			}
		}
		return nil, err
	}
	return json.Marshal(out)
}

func (k keeper) backup(ctx context.Context, a host.BackupArgs, ask host.BackupAsk, progress func(any) error) (any, error) {
	write := a.Action != host.BackupList && a.Action != host.BackupVerify
	d, err := openBackupDir(a.Dir, ask, write, a.Action == host.BackupTake)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	key := k.s.root.Derive(nil, keyBackup)
	defer key.Wipe()
	store := k.s.info.Store
	switch a.Action {
	case host.BackupTake:
		return k.take(ctx, d, key, progress)
	case host.BackupList:
		return d.List(key, store)
	case host.BackupVerify:
		return k.verify(ctx, d, key, a.Snapshot, progress)
	case host.BackupForget:
		gone, bytes, err := d.Forget(key, store, a.Keep)
		return forgotten{gone, bytes}, err
	case host.BackupForgetKey:
		id, err := keyUUID(a.Key)
		if err != nil {
			return nil, err
		}
		n, err := d.ForgetKey(key, store, id)
		if err == nil && n == 0 {
			err = fmt.Errorf("%w with a shred key of %s", backup.ErrNone, a.Key)
		}
		return forgottenKey{uuid.UUID(id).String(), n}, err
	}
	return nil, fmt.Errorf("backup: unknown action %.64q", a.Action)
}

// openBackupDir opens a backup directory, or has the caller open it.
func openBackupDir(dir string, ask host.BackupAsk, write, create bool) (*backup.Dir, error) {
	switch {
	case ask != nil:
		f := askedFiles{ask}
		if _, err := f.ask(host.BackupOp{Op: opOpen, Write: write, Create: create}); err != nil {
			return nil, err
		}
		return backup.Over(f, write)
	case write:
		return backup.OpenForWriting(dir, create)
	}
	return backup.Open(dir)
}

// keyUUID takes the id out of a key id or ARN.
func keyUUID(key string) (id [16]byte, err error) {
	u, err := uuid.Parse(key[strings.LastIndexByte(key, '/')+1:])
	if err != nil {
		return id, fmt.Errorf("%q is no key id, ARN or alias of this store", key)
	}
	return u, nil
}

func (k keeper) take(ctx context.Context, d *backup.Dir, key *crypto.DataKey, progress func(any) error) (any, error) {
	// What was written before the call is in the snapshot, and its epoch is closed.
	if err := k.s.volume.Sync(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	t, err := d.Take(ctx, key, k.s.source(), time.Now(), func(p backup.Progress) {
		if err := progress(p); err != nil {
			stop(err)
		}
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// source is the store as a backup sees it.
func (s *store) source() backup.Source {
	return backup.Source{
		StoreID: s.info.Store,
		Header:  func() ([]byte, error) { return rootkey.Copy(s.dir, s.root) },
		Pin:     s.reaper.Pin,
		Freeze: func() ([]backup.Slot, func(), error) {
			slots, thaw, err := s.keystore.Freeze()
			out := make([]backup.Slot, 0, len(slots))
			for _, x := range slots {
				out = append(out, backup.Slot(x))
			}
			return out, thaw, err
		},
		Rows: s.engine, Typed: typedRows(s.root), Extents: s.extents, Position: s.extents.Position,
		Files: func() ([]backup.File, error) {
			parts, err := s.audit.Parts()
			var out []backup.File
			for _, p := range parts {
				out = append(out, backup.File(p))
			}
			return out, err
		},
	}
}

func (k keeper) verify(ctx context.Context, d *backup.Dir, key *crypto.DataKey, number uint64, progress func(any) error) (any, error) {
	snap, err := d.Snapshot(key, k.s.info.Store, number)
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	err = snap.Verify(ctx, typedRows(k.s.root), func(p backup.Progress) {
		if err := progress(p); err != nil {
			stop(err)
		}
	})
	return snap.Info(), err
}
