package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/check"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdFsck() *cli.Command {
	return &cli.Command{
		Name: "fsck", Category: catStore, Usage: "check the store, while it is in use or not",
		Description: `Rows are checked against one another and against what is stored: a segment that is missing or
was cut is found without reading it. With --data all content
is read, compared with its checksum, and authenticated with its data key, for which nobody is
asked and of which nothing is shown. Files whose KMS key was deleted are named apart: they are
no damage, and of their content the checksum alone is compared. --repair needs everything
unmounted. It corrects link counts, the index of files by key and the counters of quotas, and
moves what lost its place to lost+found in its bucket: inodes without a name, entries whose
inode is gone, as a symbolic link that says what the entry was, and what is in a directory
that cannot be read. A row that cannot be read is named, with what hangs on it, and stays.
What cannot be brought back is written down, in a symbolic link in lost+found of its bucket; the
next check calls it known to be lost, and for that alone does not end with an error. Who removes
the link has it reported again.

Without --repair the check itself changes nothing. Without a daemon, though, it opens the store
as every other command does: after a crash that brings the store in order first, and a store
of an older format is upgraded. To look at one as it is, copy it and check the copy.

The exit status is 5 if something is wrong and was not repaired.

Examples:
   kmsfs fsck
   kmsfs fsck --data
   kmsfs --json fsck --repair`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "data", Usage: "read and authenticate all content"},
			&cli.BoolFlag{Name: "repair", Usage: "repair what can be"},
		},
		Action: fsck,
	}
}

func fsck(c *cli.Context) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	var r check.Report
	last := time.Now()
	progress := func(raw json.RawMessage) error {
		var p check.Progress
		if err := json.Unmarshal(raw, &p); err != nil {
			return fmt.Errorf("read the progress: %w", err)
		}
		if time.Since(last) <= 2*time.Second {
			return nil
		}
		last = time.Now()
		if p.Phase == "data" {
			note(c, "%d of %d MiB read", p.Done>>20, p.Total>>20)
		} else {
			note(c, "%d rows", p.Done)
		}
		return nil
	}
	a := host.FsckArgs{Data: c.Bool("data"), Repair: c.Bool("repair")}
	if err := stream(c, host.CmdFsck, a, &r, progress); err != nil {
		return err
	}
	if err := show(c, r, func(w io.Writer) { printReport(w, &r) }); err != nil {
		return err
	}
	if !r.Clean() {
		return &hinted{fmt.Errorf("%d problems, %d repaired", r.Total(), r.Repaired), "the report says which", exitDamaged}
	}
	return nil
}

func printReport(w io.Writer, r *check.Report) {
	for _, p := range r.Problems {
		what := p.Kind
		if p.Ino != 0 {
			what += fmt.Sprintf(" inode %d", p.Ino)
		}
		if p.Known {
			what = "known to be lost: " + what
		}
		fmt.Fprintf(w, "%s: %s\n", what, oneLine(p.Message))
		if p.Repair != "" {
			fmt.Fprintf(w, "   repaired: %s\n", oneLine(p.Repair))
		}
		if p.Record != "" {
			fmt.Fprintf(w, "   written down: %s\n", oneLine(p.Record))
		}
	}
	table(w, func(row func(...string)) {
		row("inodes:", fmt.Sprintf("%d (%d directories, %d files)", r.Inodes, r.Directories, r.Files))
		row("entries:", fmt.Sprint(r.Entries))
		row("extents:", fmt.Sprintf("%d, and %d in rows", r.Extents, r.Inline))
		if s := r.Space; s != nil {
			row("stored:", fmt.Sprintf("%d bytes, %d of them unreferenced (kmsfs gc)", s.Stored, s.Unreferenced))
		}
		if d := r.Data; d != nil {
			row("data:", fmt.Sprintf("%d bytes read, %d of %d extents bad", d.Bytes, d.Bad, d.Extents))
			row("authenticated:", fmt.Sprintf("%d bytes in %d extents", d.AuthenticBytes, d.Authentic))
			row("checksum only:", fmt.Sprintf("%d bytes in %d extents; %d files whose KMS key is gone", d.SumBytes, d.Sums, d.SumFiles))
		}
		if q := r.Quotas; q != (check.Quotas{}) {
			row("quotas:", fmt.Sprintf("%d buckets checked, %d in use at the time", q.Checked, q.Busy))
		}
		for _, k := range r.KeysGone {
			row("key gone:", fmt.Sprintf("%s (%s): nobody can open %d files, the first of them inode %d", k.ARN, oneLine(k.Why), k.Files, k.Inodes[0]))
		}
		for _, kind := range slices.Sorted(maps.Keys(r.Counts)) {
			row(kind+":", fmt.Sprint(r.Counts[kind]))
		}
		switch {
		case r.Total() == 0:
			row("result:", "clean")
		case r.Clean() && r.Known == 0:
			row("result:", "everything was repaired")
		case r.Clean():
			row("result:", fmt.Sprintf("clean, but for %d losses that are known, as %s of their buckets says; %d problems repaired", r.Known, check.LostFound, r.Repaired))
		default:
			row("result:", fmt.Sprintf("%d problems, %d repaired, %d written down as lost, %d known", r.Total(), r.Repaired, r.Recorded, r.Known))
		}
	})
}

func cmdGC() *cli.Command {
	return &cli.Command{
		Name: "gc", Category: catStore, Usage: "free what nothing refers to",
		Description: `What deletions leave is freed in the background anyway; this does it now, and also finds
bytes that a crash left behind and merges the tables of rows, which gives back the room of
deleted ones. It needs no key and disturbs no one.

Example:
   kmsfs gc`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0); err != nil {
				return err
			}
			var r collected
			if err := call(c, host.CmdGC, host.NoArgs{}, &r); err != nil {
				return err
			}
			return show(c, r, func(w io.Writer) {
				fmt.Fprintf(w, "freed %d bytes of removed and replaced content, %d bytes that nothing referred to\n", r.Dead, r.Bytes)
			})
		},
	}
}

// collected is what gc did.
type collected struct {
	Dead   uint64 `json:"deadBytes"`     // of removed and replaced extents
	Inodes uint64 `json:"removedInodes"` // whose rows went
	gc.Unreferenced
}

// keeper looks after a store's volume.
type keeper struct{ s *store }

// dataKeys opens data keys for the checker.
type dataKeys struct{ keys *keystore.Service }

// Standing implements check.Keys.
func (d dataKeys) Standing(arn string) error { return keyGone(d.keys.Standing(arn)) }

// Open implements check.Keys.
func (d dataKeys) Open(wrapped crypto.WrappedKey, ctx crypto.Context) (*crypto.DataKey, error) {
	dk, err := d.keys.Inspect(wrapped, ctx)
	return dk, keyGone(err)
}

// keyGone tells the checker's kind of error from the keystore's.
func keyGone(err error) error {
	switch keystore.Code(err) {
	case keystore.CodeNotFound:
		return fmt.Errorf("%w: it was deleted", check.ErrKeyGone)
	case keystore.CodeInvalidState:
		return fmt.Errorf("%w: it waits for its material to be imported", check.ErrKeyGone)
	}
	return err
}

// Held implements host.Keeper.
func (k keeper) Held(ctx context.Context) (host.Held, error) {
	m, err := gc.Measure(ctx, k.s.volume, k.s.extents)
	if err != nil {
		return host.Held{}, err
	}
	h := host.Held{Live: m.Live, Dead: m.Dead}
	for _, dir := range []string{dirRows, dirRedo} {
		n, err := onDisk(filepath.Join(k.s.dir, dir))
		if err != nil {
			return host.Held{}, err
		}
		h.Metadata += n
	}
	return h, nil
}

// onDisk is how many bytes the files of a directory occupy.
func onDisk(dir string) (n int64, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, f.Name()), &st); errors.Is(err, os.ErrNotExist) {
			continue // replaced meanwhile
		} else if err != nil {
			return 0, fmt.Errorf("stat %s: %w", f.Name(), err)
		}
		n += st.Blocks * 512
	}
	return n, nil
}

// Fsck implements host.Keeper.
func (k keeper) Fsck(ctx context.Context, a host.FsckArgs, progress func(any) error) (json.RawMessage, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r, err := check.Run(ctx, k.s.volume, k.s.extents, check.Options{
		Data: a.Data, Repair: a.Repair, Now: time.Now().UnixNano(), Workers: max(runtime.GOMAXPROCS(0), 4),
		Keys: dataKeys{k.s.keystore}, StoreID: k.s.info.Store,
		Progress: func(p check.Progress) {
			if err := progress(p); err != nil {
				stop(err)
			}
		},
	})
	if a.Repair {
		k.s.volume.DropCaches() // of rows as they were before
	}
	if err != nil {
		return nil, errors.Join(err, context.Cause(ctx))
	}
	return json.Marshal(r)
}

// Collect implements host.Keeper.
func (k keeper) Collect(ctx context.Context) (json.RawMessage, error) {
	if err := k.s.volume.CloseEpoch(); err != nil {
		return nil, err
	}
	before := k.s.reaper.Stats()
	if err := k.s.reaper.Run(ctx); err != nil {
		return nil, err
	}
	after := k.s.reaper.Stats()
	if _, _, err := k.s.volume.Rows().SweepKeyUses(ctx); err != nil {
		return nil, err
	}
	u, err := gc.Collect(ctx, k.s.volume, k.s.extents, false)
	if err != nil {
		return nil, err
	}
	err = k.s.engine.Compact(ctx)
	if errors.Is(err, kv.ErrNoSpace) {
		k.s.log.Warn("the space of deleted rows is given back when there is more room", "err", err)
	} else if err != nil {
		return nil, err
	}
	return json.Marshal(collected{Dead: after.Bytes - before.Bytes, Inodes: after.Inodes - before.Inodes, Unreferenced: u})
}
