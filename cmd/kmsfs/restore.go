package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/crypto"
	volume "github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/backup"
	"github.com/kmsfs/kmsfs/fs/extent"
	"github.com/kmsfs/kmsfs/fs/extent/segment"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
	"github.com/kmsfs/kmsfs/fs/meta"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdRestore() *cli.Command {
	return &cli.Command{
		Name: "restore", Category: catStore, Usage: "make a store from a backup, or accept one that was put back as it was", ArgsUsage: "BACKUP [STORE] | --accept [STORE]",
		Description: `The store is made where there is nothing yet, or an empty directory; it is named by the second
argument or as in every command. Everything is authenticated before it is used: a backup that is
damaged, incomplete or was changed is refused. A key file is not in the backup: give yours with
--key-file, and it becomes the store's. The restored store takes the place of the old one: do not
use both.

A store whose files were copied back from elsewhere is refused when its metadata is older than its
epoch file, because it might be an attacker's doing. With --accept the administrator says that it
is his. Keys that were deleted since stay deleted.

Examples:
   kmsfs restore --key-file /mnt/usb/root.key /mnt/usb/kmsfs /var/lib/kmsfs
   kmsfs --store /srv/kmsfs restore --snapshot 3 /mnt/usb/kmsfs
   kmsfs restore --accept /var/lib/kmsfs`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "accept", Usage: "accept a store that is older than its epoch file"},
			&cli.Uint64Flag{Name: "snapshot", Usage: "snapshot `N`", DefaultText: "the newest"},
			&cli.StringFlag{Name: "key-file", Usage: "unlock with the key file `PATH`, and make it the store's"},
		},
		Action: func(c *cli.Context) error {
			if c.Bool("accept") {
				return acceptStore(c)
			}
			return restoreStore(c)
		},
	}
}

// opened is a backup that was unlocked without its store.
type opened struct {
	dir      *backup.Dir
	snapshot *backup.Snapshot
	info     rootkey.Info
	root     *crypto.DataKey
	rows     func(kv.Store) *meta.DB
	keyFile  string // absolute; "" if none was given
}

func (o *opened) typed() func(kv.Store) *meta.DB { return o.rows }

func (o *opened) close() {
	if o.snapshot != nil {
		o.snapshot.Close()
	}
	if o.root != nil {
		o.root.Wipe()
	}
	o.dir.Close()
}

// openBackup opens a snapshot, 0 for the newest, with what unlocks its store.
func openBackup(c *cli.Context, dir string, number uint64) (o *opened, err error) {
	if err := host.Harden(); err != nil {
		return nil, err
	}
	o = new(opened)
	if o.dir, err = backup.Open(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			o.close()
			o = nil
		}
	}()
	if number == 0 {
		if number, err = o.dir.Newest(); err != nil {
			return o, err
		}
	}
	header, err := o.dir.Header(number)
	if err != nil {
		return o, err
	}
	u := unlocker(c)
	if file := c.String("key-file"); file != "" {
		if o.keyFile, err = filepath.Abs(file); err != nil {
			return o, err
		}
		u.KeyFile = o.keyFile
	}
	place, err := storeDir(c)
	if err != nil {
		place = "/" // names of key files in the header that are not absolute mean nothing then
	}
	if o.info, o.root, err = rootkey.OpenCopy(header, place, u); err != nil {
		return o, fmt.Errorf("unlock the backup: %w", err)
	}
	o.rows = typedRows(o.root)
	key := o.root.Derive(nil, keyBackup)
	defer key.Wipe()
	o.snapshot, err = o.dir.Snapshot(key, o.info.Store, number)
	return o, err
}

// restored is what restore says it made.
type restored struct {
	Store    string        `json:"store"`
	StoreID  string        `json:"storeId"`
	Backup   backup.Info   `json:"backup"`
	Lost     []string      `json:"deletedKeys,omitempty"` // whose shred keys were forgotten
	KeyFile  string        `json:"keyFile,omitempty"`     // that was put into the store
	Duration time.Duration `json:"-"`
}

func restoreStore(c *cli.Context) (err error) {
	args, err := arguments(c, 1, 2)
	if err != nil {
		return err
	}
	dir, err := storeDir(c)
	if len(args) == 2 {
		dir, err = filepath.Abs(args[1])
	}
	if err != nil {
		return err
	}
	if err := noStore(dir); err != nil {
		return err
	}
	o, err := openBackup(c, args[0], c.Uint64("snapshot"))
	if err != nil {
		return err
	}
	defer o.close()
	done, err := claimStoreDir(dir)
	if err != nil {
		return err
	}
	defer func() { done(err) }()
	r := restored{Store: dir, StoreID: o.info.StoreID, Backup: o.snapshot.Info()}
	if err := rebuild(c.Context, dir, o, progressNote(c)); err != nil {
		return err
	}
	// The header comes last: without it this is no store.
	if r.KeyFile, err = installKeyFile(dir, o); err != nil {
		return err
	}
	if err := rootkey.Put(dir, o.snapshot.Header(), o.root); err != nil {
		return err
	}
	if r.Lost, err = firstOpen(dir, o, r.Backup); err != nil {
		return err
	}
	for _, arn := range r.Lost {
		note(c, "%s was forgotten in the backup; it is deleted now", arn)
	}
	if r.KeyFile == "" && o.keyFile == "" {
		if _, _, err := rootkey.Open(dir, rootkey.Unlocker{}); err != nil {
			note(c, "the store is unlocked by what it was unlocked by before: kmsfs unlock list")
		}
	}
	return show(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "restored snapshot %d of %s to %s: %d rows, %d extents, %d bytes\n", r.Backup.Number, r.Backup.Created.Format(time.RFC3339),
			dir, r.Backup.Rows, r.Backup.Extents, r.Backup.Bytes)
	})
}

// rebuild writes everything but the header.
func rebuild(ctx context.Context, dir string, o *opened, progress func(backup.Progress)) (err error) {
	engine, err := badgerkv.Open(dir, badgerkv.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	segments, err := segment.NewRebuild(filepath.Join(dir, dirSegments), o.info.Store)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, dirAudit), 0o700); err != nil {
		return err
	}
	keys, epoch := o.root.Derive(nil, keyKeystore), o.root.Derive(nil, keyAnchor)
	defer keys.Wipe()
	defer epoch.Wipe()
	err = o.snapshot.Restore(ctx, o.typed(), backup.Sink{
		Rows: engine, Extents: segments,
		File: func(name string, read func(func([]byte) error) error) error {
			return restoreFile(filepath.Join(dir, dirAudit, name), read)
		},
		Slots: func(slots []backup.Slot) error {
			out := make([]keystore.Slot, 0, len(slots))
			for _, s := range slots {
				out = append(out, keystore.Slot(s))
			}
			return keystore.WriteShred(filepath.Join(dir, fileShred), keys, out)
		},
		Position: func(p extent.Position) error { return segments.Close(p) },
	}, progress)
	if err != nil {
		return err
	}
	if err := engine.Sync(); err != nil {
		return err
	}
	anchor, err := volume.OpenFileAnchor(filepath.Join(dir, fileEpoch), epoch)
	if err != nil {
		return err
	}
	err = anchor.Store(volume.AnchorState{Epoch: o.snapshot.Info().Epoch})
	return errors.Join(err, anchor.Close(), syncDirs(filepath.Join(dir, dirAudit), dir, filepath.Dir(dir)))
}

func restoreFile(path string, read func(func([]byte) error) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = read(func(b []byte) error {
		_, err := f.Write(b)
		return err
	})
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDirs(dirs ...string) error {
	var errs []error
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// installKeyFile copies the key file that unlocked the backup to where the header says that the store's lies, if that is in the store.
func installKeyFile(dir string, o *opened) (string, error) {
	if o.keyFile == "" {
		return "", nil
	}
	slot, err := rootkey.SlotOf(o.snapshot.Header(), o.keyFile)
	if errors.Is(err, rootkey.ErrNoSlot) {
		return "", nil // a passphrase did it
	}
	if err != nil {
		return "", err
	}
	if filepath.IsAbs(slot.Name) {
		return "", nil // outside of the store: it is the administrator's to put it there
	}
	b, err := os.ReadFile(o.keyFile)
	if err != nil {
		return "", fmt.Errorf("read the key file: %w", err)
	}
	defer clear(b)
	path := filepath.Join(dir, slot.Name)
	err = restoreFile(path, func(write func([]byte) error) error { return write(b) })
	if err != nil {
		return "", fmt.Errorf("write the key file: %w", err)
	}
	return path, nil
}

// firstOpen opens the restored store once, so that whatever would keep it from opening is found now.
func firstOpen(dir string, o *opened, from backup.Info) (lost []string, err error) {
	s, err := assemble(dir, o.info, o.root.Clone(), openOptions{Log: slog.New(slog.DiscardHandler), AuditStrict: true, Accept: from.Gone > 0})
	if err != nil {
		return nil, err
	}
	lost = s.keystore.Lost()
	err = s.tell("RestoreBackup", map[string]any{"snapshot": from.Number, "created": from.Created.Format(time.RFC3339), "deletedKeys": lost})
	return lost, errors.Join(err, s.Close())
}

// tell writes an event about the store itself.
func (s *store) tell(name string, details map[string]any) error {
	return s.audit.Append(&audit.Event{
		EventName: name, EventSource: "kmsfs", AWSRegion: s.info.Region, UserAgent: "kmsfs", ManagementEvent: true,
		RecipientAccountID: s.info.Account, RequestParameters: &audit.Parameters{Extra: details},
		AdditionalEventData: &audit.AdditionalEventData{Kmsfs: &audit.Origin{Op: "kmsfs restore", UID: uint32(os.Getuid()), PID: uint32(os.Getpid())}},
	})
}

// accepted is what restore --accept did.
type accepted struct {
	Store string   `json:"store"`
	Epoch uint64   `json:"epoch"`               // of the rows
	Seen  uint64   `json:"seenEpoch,omitempty"` // the newer one of the epoch file; 0: the store was not older
	Lost  []string `json:"deletedKeys,omitempty"`
}

func acceptStore(c *cli.Context) (err error) {
	args, err := arguments(c, 0, 1)
	if err != nil {
		return err
	}
	if c.IsSet("snapshot") || c.IsSet("key-file") {
		return usage("--accept takes a store as it is; --snapshot and --key-file belong to a backup")
	}
	dir, err := storeDir(c)
	if len(args) == 1 {
		dir, err = filepath.Abs(args[0])
	}
	if err != nil {
		return err
	}
	if err := mayOpen(dir); err != nil {
		return err
	}
	if err := host.Harden(); err != nil {
		return err
	}
	lock, err := host.TryLock(dir, "command")
	if err != nil {
		return err
	}
	defer lock.Release()
	log, logFile, err := commandLog(dir)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }() // a log
	s, err := openStore(dir, openOptions{Unlock: unlocker(c), Log: log, AuditStrict: true, Accept: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r := s.volume.Recovery()
	a := accepted{Store: dir, Epoch: r.Epoch, Seen: r.Older, Lost: s.keystore.Lost()}
	if a.Seen != 0 || len(a.Lost) > 0 {
		if err := s.tell("AcceptStore", map[string]any{"epoch": a.Epoch, "seenEpoch": a.Seen, "deletedKeys": a.Lost}); err != nil {
			return err
		}
	}
	return show(c, a, func(w io.Writer) {
		switch {
		case a.Seen != 0:
			fmt.Fprintf(w, "accepted: the store is at epoch %d, its epoch file had seen %d\n", a.Epoch, a.Seen)
		case len(a.Lost) == 0:
			fmt.Fprintln(w, "nothing to accept: the store is not older than its epoch file")
		}
		for _, arn := range a.Lost {
			fmt.Fprintf(w, "deleted: %s, whose shred key is gone\n", arn)
		}
	})
}
