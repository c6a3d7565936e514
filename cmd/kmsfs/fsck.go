package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/fs/check"
	"github.com/kmsfs/kmsfs/fs/gc"
	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdFsck() *cli.Command {
	return &cli.Command{
		Name: "fsck", Category: catStore, Usage: "check the store, while it is in use or not",
		Description: `Rows are checked against one another and against what is stored; with --data every
sealed byte is read and compared with its checksum, which needs no key. --repair needs
everything unmounted. It corrects link counts and the index of files by key, drops entries
whose inode is gone, and moves inodes without a name to lost+found in their bucket;
nothing else.

The exit status is 5 if something is wrong and was not repaired.

Examples:
   kmsfs fsck
   kmsfs fsck --data
   kmsfs --json fsck --repair`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "data", Usage: "read all content and compare checksums"},
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
		fmt.Fprintf(w, "%s: %s\n", what, oneLine(p.Message))
		if p.Repair != "" {
			fmt.Fprintf(w, "   repaired: %s\n", oneLine(p.Repair))
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
		}
		for _, kind := range slices.Sorted(maps.Keys(r.Counts)) {
			row(kind+":", fmt.Sprint(r.Counts[kind]))
		}
		switch {
		case r.Total() == 0:
			row("result:", "clean")
		case r.Clean():
			row("result:", "everything was repaired")
		default:
			row("result:", fmt.Sprintf("%d problems, %d repaired", r.Total(), r.Repaired))
		}
	})
}

func cmdGC() *cli.Command {
	return &cli.Command{
		Name: "gc", Category: catStore, Usage: "free what nothing refers to",
		Description: `What deletions leave is freed in the background anyway; this does it now, and also finds
bytes that a crash left behind. It needs no key and disturbs no one.

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

// Fsck implements host.Keeper.
func (k keeper) Fsck(ctx context.Context, a host.FsckArgs, progress func(any) error) (json.RawMessage, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r, err := check.Run(ctx, k.s.volume, k.s.extents, check.Options{
		Data: a.Data, Repair: a.Repair, Now: time.Now().UnixNano(),
		Progress: func(p check.Progress) {
			if err := progress(p); err != nil {
				stop(err)
			}
		},
	})
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
	u, err := gc.Collect(ctx, k.s.volume, k.s.extents, false)
	if err != nil {
		return nil, err
	}
	return json.Marshal(collected{Dead: after.Bytes - before.Bytes, Inodes: after.Inodes - before.Inodes, Unreferenced: u})
}
