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
fresh data key. With --rewrite the content is sealed anew under the fresh one too, and the old data keys are gone; of
PATHs also those that are under the key already.
PATH is bucket/key or a path on a mount; directories are taken with all beneath them. With --from alone every file
under that key is taken, in all buckets, and at the end every inode of the store is looked at: the exit status is 1 if
a file is still under the key. KEY may also be AES256, of files under paths.

An interrupted command has done what it has done: the same command goes on from there. Progress goes to stderr if that
is a terminal, or with --progress; with --json each line on stdout is an object: files that failed, progress, and the
result last.

Examples:
   kmsfs rekey --from alias/old --to alias/new --dry-run
   kmsfs rekey --from alias/old --to alias/new
   kmsfs rekey --to alias/new --rewrite reports`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "only files under `KEY`"},
			&cli.StringFlag{Name: "to", Usage: "the new `KEY`"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only show what would change"},
			&cli.BoolFlag{Name: "rewrite", Usage: "seal the content anew, under a new data key"},
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "show every file"},
			&cli.BoolFlag{Name: "progress", Usage: "show progress on stderr, also if that is no terminal"},
		},
		Action: rekey,
	}
}

func rekey(c *cli.Context) error {
	paths, err := arguments(c, 0, -1)
	if err != nil {
		return err
	}
	tty := stderrIsTerminal(c)
	a := host.RekeyArgs{
		From: c.String("from"), To: c.String("to"), DryRun: c.Bool("dry-run"), Rewrite: c.Bool("rewrite"),
		List: c.Bool("dry-run") || c.Bool("verbose"), Progress: true,
	}
	if a.To == "" {
		return usage("rekey needs --to KEY")
	}
	if a.From == "" && len(paths) == 0 {
		return usage("rekey needs --from KEY, or paths")
	}
	if a.Paths, err = pathArgs(paths); err != nil {
		return err
	}
	show := &rekeyScreen{c: c, live: tty && !c.Bool("json"), lines: c.Bool("progress") && !tty}
	var sum host.RekeyResult
	err = stream(c, host.CmdRekey, a, &sum, show.item)
	show.clear()
	if err != nil {
		if p := show.last; p != nil && !a.DryRun {
			note(c, "stopped after %d files; the same command goes on from there", p.Done)
		}
		return err
	}
	return rekeyed(c, a, sum)
}

// rekeyScreen shows what a rekey tells while it works.
type rekeyScreen struct {
	c     *cli.Context
	live  bool // one line on a terminal, written over
	lines bool // a line for each
	last  *host.RekeyProgress
	shown bool
}

func (s *rekeyScreen) item(raw json.RawMessage) error {
	var f host.RekeyItem
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	if f.Progress != nil {
		s.last = f.Progress
		s.progress(f.Progress)
		if !s.c.Bool("json") || !s.c.Bool("progress") {
			return nil
		}
	}
	switch {
	case s.c.Bool("json"):
		return printLine(s.c.App.Writer, raw)
	case f.Error != "":
		s.clear()
		note(s.c, "%s: %s", quotePath(f.Path), f.Error)
	default:
		s.clear()
		fmt.Fprintf(s.c.App.Writer, "%s: %s -> %s\n", quotePath(f.Path), f.From, f.To)
	}
	return nil
}

func (s *rekeyScreen) progress(p *host.RekeyProgress) {
	if !s.live && !s.lines {
		return
	}
	text := fmt.Sprintf("%d files", p.Done)
	if p.Total > 0 {
		text = fmt.Sprintf("%d of %d files (%d %%)", p.Done, p.Total, 100*p.Done/p.Total)
	}
	if p.Seconds > 0 {
		text += fmt.Sprintf(", %.0f a second", float64(p.Done)/p.Seconds)
	}
	if p.Bytes > 0 {
		text += fmt.Sprintf(", %d MiB sealed anew", p.Bytes>>20)
	}
	if p.Failed > 0 {
		text += fmt.Sprintf(", %d failed", p.Failed)
	}
	if s.live {
		fmt.Fprintf(s.c.App.ErrWriter, "\r\x1b[Kkmsfs: %s", text)
		s.shown = true
		return
	}
	note(s.c, "%s", text)
}

// clear takes the line on the terminal away.
func (s *rekeyScreen) clear() {
	if s.shown {
		fmt.Fprint(s.c.App.ErrWriter, "\r\x1b[K")
		s.shown = false
	}
}

// rekeyed tells the result, and fails if files are left.
func rekeyed(c *cli.Context, a host.RekeyArgs, sum host.RekeyResult) error {
	if c.Bool("json") {
		if err := printLine(c.App.Writer, struct {
			Result host.RekeyResult `json:"result"`
		}{sum}); err != nil {
			return err
		}
	}
	verb := "re-keyed"
	if a.DryRun {
		verb = "to re-key"
	}
	text := fmt.Sprintf("%d %s, %d had the key already", sum.Changed, verb, sum.Same)
	if sum.Bytes > 0 {
		text += fmt.Sprintf(", %d bytes sealed anew", sum.Bytes)
	}
	if sum.Seconds >= 1 && !a.DryRun {
		text += fmt.Sprintf(", %.0f files a second", float64(sum.Changed)/sum.Seconds)
	}
	note(c, "%s", text)
	for _, d := range sum.Defaults {
		note(c, "%s still gives the old key to new files: %s", quotePath(d.Path), d.Value)
	}
	switch {
	case sum.Left != nil && sum.Left.Total() > 0:
		return &hinted{
			fmt.Errorf("%d files are still under %s, %d could not be re-keyed", sum.Left.Total(), a.From, sum.Failed),
			"kmsfs key files KEY lists them; kmsfs why PATH --op write tells who may", exitFailed,
		}
	case sum.Failed > 0:
		return fmt.Errorf("%d files could not be re-keyed", sum.Failed)
	case sum.Left != nil:
		note(c, "every inode was looked at: no file is left under %s", a.From)
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
