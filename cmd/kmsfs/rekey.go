package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdRekey() *cli.Command {
	return &cli.Command{
		Name: "rekey", Category: catBuckets, Usage: "give files another key", ArgsUsage: "[PATH...]",
		Description: `The data key of each file is wrapped anew, in constant time per file; what is written later gets a
fresh data key. PATH is bucket/key or a path on a mount; directories are taken with all beneath them. With --from
alone every file under that key is taken. KEY may also be AES256.

Examples:
   kmsfs rekey --to alias/new reports
   kmsfs rekey --from alias/old --to alias/new --dry-run`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "only files under `KEY`"},
			&cli.StringFlag{Name: "to", Usage: "the new `KEY`"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only show what would change"},
		},
		Action: rekey,
	}
}

func rekey(c *cli.Context) error {
	paths, err := arguments(c, 0, -1)
	if err != nil {
		return err
	}
	a := host.RekeyArgs{From: c.String("from"), To: c.String("to"), DryRun: c.Bool("dry-run")}
	if a.To == "" {
		return usage("rekey needs --to KEY")
	}
	if a.From == "" && len(paths) == 0 {
		return usage("rekey needs --from KEY, or paths")
	}
	if a.Paths, err = pathArgs(paths); err != nil {
		return err
	}
	var sum host.RekeyResult
	err = stream(c, host.CmdRekey, a, &sum, func(raw json.RawMessage) error {
		if c.Bool("json") {
			return printLine(c.App.Writer, raw)
		}
		var f host.RekeyItem
		if err := json.Unmarshal(raw, &f); err != nil {
			return err
		}
		if f.Error != "" {
			note(c, "%s: %s", quotePath(f.Path), f.Error)
			return nil
		}
		fmt.Fprintf(c.App.Writer, "%s: %s -> %s\n", quotePath(f.Path), f.From, f.To)
		return nil
	})
	if err != nil {
		return err
	}
	verb := "re-keyed"
	if a.DryRun {
		verb = "to re-key"
	}
	note(c, "%d %s, %d had the key already", sum.Changed, verb, sum.Same)
	if sum.Failed > 0 {
		return fmt.Errorf("%d files could not be re-keyed", sum.Failed)
	}
	return nil
}

// pathArgs keeps each path as typed and as the working directory makes it.
func pathArgs(typed []string) ([]host.Path, error) {
	paths := make([]host.Path, 0, len(typed))
	for _, t := range typed {
		abs, err := filepath.Abs(t)
		if err != nil {
			return nil, err
		}
		// The directory part is resolved so that a mount below a symbolic link is found.
		if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
			abs = filepath.Join(dir, filepath.Base(abs))
		}
		paths = append(paths, host.Path{Typed: t, Absolute: abs})
	}
	return paths, nil
}

func cmdStat() *cli.Command {
	return &cli.Command{
		Name: "stat", Category: catBuckets, Usage: "show files and how they are encrypted", ArgsUsage: "PATH...",
		Description: `PATH is bucket/key or a path on a mount. No key is needed.

Example:
   kmsfs stat reports/q1.csv`,
		Action: func(c *cli.Context) error {
			typed, err := arguments(c, 1, -1)
			if err != nil {
				return err
			}
			paths, err := pathArgs(typed)
			if err != nil {
				return err
			}
			infos := []host.StatInfo{}
			if err := call(c, host.CmdStat, host.StatArgs{Paths: paths}, &infos); err != nil {
				return err
			}
			failed := 0
			for _, s := range infos {
				if s.Error != "" {
					failed++
					note(c, "%s: %s", quotePath(s.Path), s.Error)
				}
			}
			if err := show(c, infos, func(w io.Writer) { printStat(w, infos) }); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d paths could not be shown", failed, len(infos))
			}
			return nil
		},
	}
}

func printStat(w io.Writer, infos []host.StatInfo) {
	first := true
	for _, s := range infos {
		if s.Error != "" {
			continue
		}
		if !first {
			fmt.Fprintln(w)
		}
		first = false
		table(w, func(row func(...string)) {
			row("path:", quotePath(s.Path))
			row("type:", s.Type)
			row("size:", fmt.Sprint(s.Size))
			row("mode:", fmt.Sprintf("%s uid %d gid %d", s.Mode, s.UID, s.GID))
			row("modified:", s.Modified.Format("2006-01-02T15:04:05.000Z07:00"))
			row("inode:", fmt.Sprintf("%d, %d links", s.Inode, s.Links))
			if s.SSE != "" {
				row("encryption:", s.SSE)
			}
			if s.KeyARN != "" {
				row("key:", s.KeyARN)
				row("material:", s.MaterialID)
				row("bucket key:", s.BucketKey)
			}
			if len(s.Context) > 0 {
				b, _ := json.Marshal(s.Context)
				row("context:", string(b))
			}
			for _, n := range s.Names {
				row("name:", quotePath(n))
			}
		})
	}
}
