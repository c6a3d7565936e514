package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdKey() *cli.Command {
	return &cli.Command{
		Name:     "key",
		Category: catKeys,
		Usage:    "KMS keys",
		Description: `KEY is a key id, a key ARN or alias/NAME.

Example:
   KEY=$(kmsfs key create --alias my-key --admin admin --user alice)`,
		Subcommands: append([]*cli.Command{
			keyCreateCommand(),
			{
				Name: "list", Usage: "list the keys",
				Description: `Example:
   kmsfs key list`,
				Action: keyList,
			},
			{
				Name: "show", Usage: "show a key", ArgsUsage: "KEY",
				Description: `Example:
   kmsfs key show alias/my-key`,
				Action: keyShow,
			},
			keyVerb("enable", "let a key be used again", host.CmdKeyEnable, "A key whose deletion was cancelled is disabled, and enabled with this."),
			keyVerb("disable", "refuse every use of a key", host.CmdKeyDisable, "Files under it cannot be read or written until it is enabled; names, sizes and renames stay."),
			keyVerb("rotate", "make new key material", host.CmdKeyRotate, "New files use the new material, old files stay readable."),
			{
				Name: "schedule-deletion", Usage: "delete a key after a waiting period", ArgsUsage: "KEY",
				Description: `Until then the key refuses every use, and the deletion can be cancelled. Afterwards what is
encrypted under it is lost for ever: look at "kmsfs key files KEY" first. If there are files under the key, their number
is asked for on a terminal. Elsewhere it is told on stderr; with --files N nothing is done unless N is right.

Examples:
   kmsfs key schedule-deletion alias/old --days 7
   kmsfs key schedule-deletion alias/old --files 0`,
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "days", Usage: "waiting period of `N` days, 7 to 30", DefaultText: "30"},
					&cli.IntFlag{Name: "files", Usage: "only if exactly `N` files would be lost", DefaultText: "any number"},
				},
				Action: keyScheduleDeletion,
			},
			keyVerb("cancel-deletion", "keep a key after all", host.CmdKeyCancelDeletion, "The key is disabled afterwards; enable it with: kmsfs key enable KEY"),
			{
				Name: "policy", Usage: "show or set the key policy", ArgsUsage: "KEY [FILE|-]",
				Description: `Without FILE it prints the policy. A policy that would lock its author out is refused, unless
--bypass-lockout-check is given.

Examples:
   kmsfs key policy alias/my-key > policy.json
   kmsfs key policy alias/my-key policy.json`,
				Flags:  []cli.Flag{bypassFlag()},
				Action: keyPolicy,
			},
			{
				Name: "files", Usage: "list the files under a key", ArgsUsage: "KEY",
				Description: `These are the files that could not be read any more without the key, in all buckets, one name each.
Their number goes to stderr, with those that are open and have no name any more.

Example:
   kmsfs key files alias/my-key`,
				Action: keyFiles,
			},
			keyExportCommand(), keyImportCommand(),
		}, keySettingCommands()...),
	}
}

func bypassFlag() cli.Flag {
	return &cli.BoolFlag{Name: "bypass-lockout-check", Usage: "accept a policy that locks you out"}
}

func keyCreateCommand() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "make a key and print its id",
		Description: `Without --admin, --user and --policy the key has the default policy: identity policies of the
account decide. Administrators may manage the key, users may use it. Both may be given more than once.

Example:
   KEY=$(kmsfs key create --alias my-key --admin admin --user alice)`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "alias", Usage: "give it the alias `NAME`"},
			&cli.StringFlag{Name: "description", Usage: "describe it with `TEXT`"},
			&cli.StringSliceFlag{Name: "admin", Usage: "`PRINCIPAL` who may manage it"},
			&cli.StringSliceFlag{Name: "user", Usage: "`PRINCIPAL` who may use it"},
			&cli.StringFlag{Name: "policy", Usage: "key policy from `FILE`, - for standard input"},
			&cli.BoolFlag{Name: "external", Usage: "without material: kmsfs key import-material brings it"},
			&cli.StringSliceFlag{Name: "tag", Usage: "a tag `NAME=VALUE`; may be given more than once"},
			bypassFlag(),
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0); err != nil {
				return err
			}
			a := host.KeyCreateArgs{
				Alias: c.String("alias"), Description: c.String("description"),
				Admins: c.StringSlice("admin"), Users: c.StringSlice("user"), Bypass: c.Bool("bypass-lockout-check"),
			}
			a.External = c.Bool("external")
			tags, err := pairs(c.StringSlice("tag"))
			if err != nil {
				return err
			}
			a.Tags = tags
			if file := c.String("policy"); file != "" {
				if len(a.Admins)+len(a.Users) > 0 {
					return usage("--policy excludes --admin and --user: the policy names them itself")
				}
				if a.Policy, err = document(c, file); err != nil {
					return err
				}
			}
			var k host.KeyInfo
			if err := call(c, host.CmdKeyCreate, a, &k); err != nil {
				return err
			}
			return show(c, k, func(w io.Writer) { fmt.Fprintln(w, k.KeyID) })
		},
	}
}

// keyVerb is a command that does one thing to one key and prints nothing.
func keyVerb(name, what, command, about string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: what, ArgsUsage: "KEY",
		Description: about + "\n\nExample:\n   kmsfs key " + name + " alias/my-key",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 1)
			if err != nil {
				return err
			}
			var k host.KeyInfo
			if err := call(c, command, host.KeyArgs{Key: args[0]}, &k); err != nil {
				return err
			}
			return show(c, k, func(io.Writer) {})
		},
	}
}

func keyList(c *cli.Context) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	keys := []host.KeyInfo{}
	if err := call(c, host.CmdKeyList, host.NoArgs{}, &keys); err != nil {
		return err
	}
	return show(c, keys, func(w io.Writer) {
		table(w, func(row func(...string)) {
			for _, k := range keys {
				row(k.KeyID, k.State, k.Manager, strings.Join(k.Aliases, " "), oneLine(k.Description))
			}
		})
	})
}

func keyShow(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	var k host.KeyInfo
	if err := call(c, host.CmdKeyShow, host.KeyArgs{Key: args[0]}, &k); err != nil {
		return err
	}
	return show(c, k, func(w io.Writer) {
		table(w, func(row func(...string)) {
			row("id:", k.KeyID)
			row("arn:", k.ARN)
			row("aliases:", strings.Join(k.Aliases, " "))
			row("state:", k.State)
			row("manager:", k.Manager)
			row("description:", oneLine(k.Description))
			if k.Created != nil {
				row("created:", k.Created.Format(time.RFC3339))
			}
			if k.DeletionDate != nil {
				row("deletion:", k.DeletionDate.Format(time.RFC3339))
			}
			if k.Origin == "EXTERNAL" {
				row("origin:", k.Origin)
			}
			if k.Expires != nil {
				row("expires:", k.Expires.Format(time.RFC3339))
			}
			row("material:", k.MaterialID)
			row("rotations:", strconv.Itoa(k.Rotations))
		})
	})
}

func keyScheduleDeletion(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	a := host.KeyDeletionArgs{Key: args[0], Days: c.Int("days")}
	if c.IsSet("days") && (a.Days < 7 || a.Days > 30) {
		return usage("--days must be 7 to 30")
	}
	if c.IsSet("files") {
		n := c.Int("files")
		if n < 0 {
			return usage("--files must not be negative")
		}
		a.Files = &n
	} else if err := confirmLoss(c, &a); err != nil {
		return err
	}
	var k host.KeyInfo
	if err := call(c, host.CmdKeyScheduleDeletion, a, &k); err != nil {
		return err
	}
	if k.DeletionDate != nil {
		note(c, "the key will be deleted on %s", k.DeletionDate.Format(time.RFC3339))
	}
	return show(c, k, func(io.Writer) {})
}

// confirmLoss tells how many files go with the key. On a terminal it asks for
// that number, and the deletion is then bound to it.
func confirmLoss(c *cli.Context, a *host.KeyDeletionArgs) error {
	var use host.KeyUse
	if err := call(c, host.CmdKeyFiles, host.KeyFilesArgs{Key: a.Key, Count: true}, &use); err != nil {
		var answered *control.Error
		if errors.As(err, &answered) && answered.Code == "AccessDeniedException" {
			note(c, "you may not see how many files will be lost with the key")
			return nil // who may delete a key need not be one who may look at it
		}
		return err
	}
	n := use.Total()
	if n == 0 {
		return nil
	}
	note(c, "%d files are under the key and will be lost with it: kmsfs key files %s", n, a.Key)
	if !onTerminal(c) {
		note(c, "kmsfs key cancel-deletion %s saves them until then; with --files N nothing happens unless N is their number", a.Key)
		return nil
	}
	typed, err := askLine(c, "type the number of files to go on: ")
	if err != nil {
		return fmt.Errorf("%w: nothing was done", err)
	}
	if got, err := strconv.Atoi(strings.TrimSpace(typed)); err != nil || got != n {
		return &hinted{errors.New("that is not the number of files: nothing was done"), "kmsfs rekey --from KEY --to OTHER saves them", exitFailed}
	}
	a.Files = &n
	return nil
}

func keyPolicy(c *cli.Context) error {
	args, err := arguments(c, 1, 2)
	if err != nil {
		return err
	}
	a := host.KeyPolicyArgs{Key: args[0], Bypass: c.Bool("bypass-lockout-check")}
	if len(args) == 2 {
		if a.Policy, err = document(c, args[1]); err != nil {
			return err
		}
	}
	var doc host.Document
	if err := call(c, host.CmdKeyPolicy, a, &doc); err != nil {
		return err
	}
	if a.Policy.Set {
		return nil
	}
	fmt.Fprintln(c.App.Writer, prettyJSON([]byte(doc.Text)))
	return nil
}

func keyFiles(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	var use host.KeyUse
	err = stream(c, host.CmdKeyFiles, host.KeyFilesArgs{Key: args[0]}, &use, func(raw json.RawMessage) error {
		if c.Bool("json") {
			return printLine(c.App.Writer, raw)
		}
		var f host.KeyFile
		if err := json.Unmarshal(raw, &f); err != nil {
			return err
		}
		if f.Path == "" {
			if f.Hidden > 0 {
				note(c, "and %d whose names you may not see", f.Hidden)
			}
			if f.Nameless > 0 {
				note(c, "and %d that are open and have no name", f.Nameless)
			}
			return nil
		}
		fmt.Fprintln(c.App.Writer, quotePath(f.Path))
		return nil
	})
	if err == nil {
		note(c, "%d files", use.Total())
	}
	return err
}

// oneLine keeps tables in shape.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// quotePath shows a name that could disturb a terminal or a line-wise reader
// in Go's quotes, any other as it is.
func quotePath(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }) {
		return strconv.Quote(s)
	}
	return s
}
