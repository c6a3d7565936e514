package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

// Categories of the help.
const (
	catStore   = "Store and daemon"
	catMounts  = "Mounts"
	catBuckets = "Buckets and files"
	catKeys    = "Keys"
	catPeople  = "Principals and policies"
	catLook    = "Looking"
)

const appDescription = `Each mount acts as one principal. Every file has its own data key, wrapped by a
KMS key; who may read is decided by key policies, bucket policies and identity
policies. Listing, renaming and deleting never need the key.

Begin with:
   kmsfs init
   kmsfs key create --alias my-key
   mkdir /tmp/m && kmsfs mount /tmp/m
   mkdir /tmp/m/reports && setfattr -n user.s3.sse -v aws:kms:alias/my-key /tmp/m/reports`

func newApp(s streams) *cli.App {
	out := &output{Writer: s.out}
	app := &cli.App{
		Name:                   "kmsfs",
		Usage:                  "directories with the encryption model of Amazon S3 and KMS",
		Description:            appDescription,
		HideVersion:            true,
		EnableBashCompletion:   true,
		HideHelpCommand:        false,
		UseShortOptionHandling: false,
		Reader:                 s.in,
		Writer:                 out,
		Metadata:               map[string]any{metaOutput: out},
		Before:                 func(c *cli.Context) error { out.json = c.Bool("json"); return nil },
		ErrWriter:              s.err,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "store", EnvVars: []string{"KMSFS_STORE"}, Usage: "the store's `DIR`", DefaultText: "$XDG_DATA_HOME/kmsfs, as root /var/lib/kmsfs"},
			&cli.StringFlag{Name: "as", EnvVars: []string{"KMSFS_PRINCIPAL"}, Usage: "act as `PRINCIPAL`", DefaultText: "the one bound to your uid"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON"},
			&cli.StringFlag{Name: "passphrase-file", EnvVars: []string{"KMSFS_PASSPHRASE_FILE"}, Usage: "read the store's passphrase from `FILE`"},
			&cli.BoolFlag{Name: "version", Usage: "print the version"},
		},
		Commands: []*cli.Command{
			cmdInit(), cmdUnlock(), cmdServe(), cmdStatus(), cmdStop(), cmdSupervise(), cmdFsck(), cmdGC(), cmdBackup(), cmdRestore(),
			cmdMount(), cmdUmount(),
			cmdBucket(), cmdRekey(), cmdStat(),
			cmdKey(), cmdAlias(), cmdGrant(),
			cmdPrincipal(), cmdGroup(), cmdPolicy(),
			cmdWhy(), cmdAudit(), cmdDoctor(), cmdVersion(),
		},
		OnUsageError:   onUsageError,
		ExitErrHandler: func(*cli.Context, error) {},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknown("command", c.Args().First(), c.App.Commands)
			}
			if c.Bool("version") {
				return printVersion(c)
			}
			return cli.ShowAppHelp(c)
		},
		CustomAppHelpTemplate: cli.AppHelpTemplate + "\nEXIT STATUS:\n" + exitHelp(),
	}
	plain(app.Flags)
	for _, c := range app.Commands {
		finish(c)
	}
	return app
}

// plain leaves "(default: false)" out of the help.
func plain(flags []cli.Flag) {
	for _, f := range flags {
		if b, ok := f.(*cli.BoolFlag); ok {
			b.DisableDefaultText = true
		}
	}
}

// finish gives every command the same manners about wrong usage.
func finish(c *cli.Command) {
	c.OnUsageError = onUsageError
	c.HideHelpCommand = true
	plain(c.Flags)
	if len(c.Subcommands) == 0 {
		return
	}
	subs := c.Subcommands
	if c.Action == nil {
		c.Action = func(ctx *cli.Context) error {
			if ctx.Args().Present() {
				return unknown(c.Name+" command", ctx.Args().First(), subs)
			}
			return &usageError{msg: c.Name + " needs a subcommand: " + names(subs), hint: "kmsfs " + c.Name + " --help"}
		}
	}
	for _, sub := range subs {
		finish(sub)
	}
}

func onUsageError(c *cli.Context, err error, _ bool) error {
	hint := "kmsfs --help"
	if c != nil && c.Command != nil && c.Command.Name != "" && c.Command.Name != "kmsfs" {
		hint = "kmsfs " + strings.TrimPrefix(c.Command.HelpName, "kmsfs ") + " --help"
	}
	return &usageError{msg: err.Error(), hint: hint}
}

func unknown(what, name string, commands []*cli.Command) error {
	return &usageError{msg: fmt.Sprintf("unknown %s %q", what, name), hint: "there are: " + names(commands)}
}

func names(commands []*cli.Command) string {
	var all []string
	for _, c := range commands {
		if !c.Hidden {
			all = append(all, c.Name)
		}
	}
	return strings.Join(all, ", ")
}

// defaultStore is $XDG_DATA_HOME/kmsfs, for root /var/lib/kmsfs.
func defaultStore() string {
	if os.Geteuid() == 0 {
		return "/var/lib/kmsfs"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "kmsfs")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".local", "share", "kmsfs")
}

// storeDir is the store's directory, absolute.
func storeDir(c *cli.Context) (string, error) {
	dir := c.String("store")
	if dir == "" {
		dir = defaultStore()
	}
	if dir == "" {
		return "", usage("no store: name it with --store DIR or KMSFS_STORE")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the store: %w", err)
	}
	return abs, nil
}

// arguments checks how many there are; most < 0 means any number.
func arguments(c *cli.Context, least, most int) ([]string, error) {
	args := c.Args().Slice()
	hint := "kmsfs " + strings.TrimPrefix(c.Command.HelpName, "kmsfs ") + " " + c.Command.ArgsUsage
	switch {
	case len(args) < least:
		return nil, &usageError{msg: "an argument is missing", hint: "usage: " + hint}
	case most >= 0 && len(args) > most:
		return nil, &usageError{msg: fmt.Sprintf("unexpected argument %q", args[most]), hint: "usage: " + hint}
	}
	for i, a := range args {
		if a == "" {
			return nil, &usageError{msg: fmt.Sprintf("argument %d is empty", i+1), hint: "usage: " + hint}
		}
	}
	return args, nil
}

// show prints a result: as JSON with --json, otherwise as human writes it.
func show(c *cli.Context, v any, human func(w io.Writer)) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, v)
	}
	human(c.App.Writer)
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printLine prints one value as one line of JSON.
func printLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// note tells something on stderr.
func note(c *cli.Context, format string, a ...any) {
	fmt.Fprintf(c.App.ErrWriter, "kmsfs: "+format+"\n", a...)
}

// table writes aligned columns; cells must not hold tabs.
func table(w io.Writer, rows func(row func(cells ...string))) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows(func(cells ...string) { fmt.Fprintln(tw, strings.Join(cells, "\t")) })
	_ = tw.Flush()
}

const maxDocument = 1 << 20

// readDocument reads FILE, or standard input for "-".
func readDocument(c *cli.Context, name string) (string, error) {
	r := c.App.Reader
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if len(b) > maxDocument {
		return "", fmt.Errorf("%s is larger than %d bytes", name, maxDocument)
	}
	return string(b), nil
}

// prettyJSON indents a document that is JSON and leaves any other as it is.
func prettyJSON(raw []byte) string {
	var b bytes.Buffer
	if json.Indent(&b, bytes.TrimSpace(raw), "", "  ") != nil {
		return string(raw)
	}
	return b.String()
}
