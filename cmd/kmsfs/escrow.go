package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/kmsfs/kmsfs/keystore/escrow"
	"github.com/kmsfs/kmsfs/mount/host"
)

func keyExportCommand() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "put a key's material into escrow", ArgsUsage: "KEY --recipient age1... | --passphrase-file FILE",
		Description: `All material of the key, rotated material too, is written in the format of age, sealed for
recipients or under a passphrase. Whoever opens it reads what lies under the key for ever,
whatever policies say: an identity policy has to allow kms:ExportKeyMaterial, and the key
policy as well. The audit log tells of it.

Examples:
   kmsfs key export alias/my-key --recipient age1... --output my-key.age
   kmsfs key export alias/my-key --passphrase-file secret.txt > my-key.age`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "recipient", Usage: "seal it for `RECIPIENT` of age; may be given more than once"},
			&cli.StringFlag{Name: "passphrase-file", Usage: "seal it under the passphrase in `FILE`"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write it to `FILE`, which must not exist"},
		},
		Action: keyExport,
	}
}

func keyImportCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "take a key back from escrow", ArgsUsage: "FILE|- [--identity FILE | --passphrase-file FILE]",
		Description: `A key that is there gets the material it lacks. One that is not there, or was deleted, is made
again with the id and the policy that it had, or the one in --policy. Account and region have to
be those of the key. An identity policy has to allow kms:ImportKeyMaterial, and kms:CreateKey
for a key that is not there.

Examples:
   kmsfs key import my-key.age --identity key.txt
   kmsfs key import my-key.age --passphrase-file secret.txt --policy policy.json`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "identity", Usage: "open it with the age identity in `FILE`"},
			&cli.StringFlag{Name: "passphrase-file", Usage: "open it with the passphrase in `FILE`"},
			&cli.StringFlag{Name: "policy", Usage: "key policy from `FILE` for a key that is made again"},
		},
		Action: keyImport,
	}
}

func keyExport(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	a := host.KeyExportArgs{Key: args[0], Recipients: c.StringSlice("recipient")}
	file, output := c.String("passphrase-file"), c.String("output")
	if !c.IsSet("passphrase-file") {
		file = "" // the global flag of this name unlocks the store
	}
	switch {
	case (len(a.Recipients) > 0) == (file != ""):
		return &usageError{msg: "a key is exported for recipients or under a passphrase", hint: "--recipient age1... or --passphrase-file FILE"}
	case output == "" && onScreen(c):
		return &usageError{msg: "a key in escrow is not for a terminal", hint: "redirect it, or: --output FILE"}
	}
	if file != "" {
		if a.Passphrase, err = passphraseFile(c, file); err != nil {
			return err
		}
		defer clear(a.Passphrase)
	}
	var keep func([]byte) error
	if output != "" { // before the key is let out
		var drop func()
		if keep, drop, err = newFile(output); err != nil {
			return err
		}
		defer drop()
	}
	var e host.KeyEscrow
	if err := call(c, host.CmdKeyExport, a, &e); err != nil {
		return err
	}
	if output != "" {
		if err := keep([]byte(e.File)); err != nil {
			return err
		}
		note(c, "%s with %d materials is in %s", e.ARN, e.Materials, output)
		e.File = ""
	}
	return show(c, e, func(w io.Writer) { fmt.Fprint(w, e.File) })
}

// onScreen says whether the output goes to a terminal.
func onScreen(c *cli.Context) bool {
	w := c.App.Writer
	if o, ok := w.(*output); ok {
		w = o.Writer
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// newFile makes a file that nobody else can read. It is taken away again unless keep is called, which writes it durably.
func newFile(path string) (keep func([]byte) error, drop func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, nil, &usageError{msg: path + " is there already", hint: "name a file that is not"}
	}
	if err != nil {
		return nil, nil, err
	}
	kept := false
	drop = func() {
		if !kept {
			_ = errors.Join(f.Close(), os.Remove(path)) // the error that matters has been returned
		}
	}
	return func(b []byte) error {
		_, err := f.Write(b)
		if err == nil {
			err = f.Sync()
		}
		if err == nil {
			kept = true
			err = f.Close()
		}
		return err
	}, drop, nil
}

func keyImport(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	var a host.KeyImportArgs
	file, identity := c.String("passphrase-file"), c.String("identity")
	if !c.IsSet("passphrase-file") {
		file = ""
	}
	if (identity != "") == (file != "") {
		return &usageError{msg: "a key in escrow is opened with an identity or a passphrase", hint: "--identity FILE or --passphrase-file FILE"}
	}
	if a.File, err = readAtMost(c, args[0], escrow.MaxSize); err != nil {
		return err
	}
	if identity != "" {
		b, err := readAtMost(c, identity, maxDocument)
		if err != nil {
			return err
		}
		a.Identities = string(b)
		clear(b)
	} else if a.Passphrase, err = passphraseFile(c, file); err != nil {
		return err
	}
	defer clear(a.Passphrase)
	if p := c.String("policy"); p != "" {
		if a.Policy, err = document(c, p); err != nil {
			return err
		}
	}
	var k host.KeyImported
	if err := call(c, host.CmdKeyImport, a, &k); err != nil {
		return err
	}
	switch {
	case k.Made:
		note(c, "made %s again, with %d materials", k.ARN, k.Added)
	case k.Added > 0:
		note(c, "added %d materials to %s", k.Added, k.ARN)
	default:
		note(c, "%s has all of it already", k.ARN)
	}
	return show(c, k, func(w io.Writer) { fmt.Fprintln(w, k.KeyID) })
}

// readAtMost reads a file, or standard input for "-".
func readAtMost(c *cli.Context, name string, limit int64) ([]byte, error) {
	r := c.App.Reader
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // read-only
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return b, nil
}
