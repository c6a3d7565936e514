package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdUnlock() *cli.Command {
	return &cli.Command{
		Name:     "unlock",
		Category: catStore,
		Usage:    "the ways to unlock the store",
		Description: `The store's root key is wrapped once per slot: under a key file, a passphrase or a
systemd credential. Any one slot opens the store; slots come and go without touching data.

Example:
   kmsfs unlock add passphrase`,
		Subcommands: []*cli.Command{
			{
				Name:      "add",
				Usage:     "add a slot",
				ArgsUsage: "key-file FILE | passphrase | systemd-credential NAME",
				Description: `A key file that does not exist is made. A passphrase is asked for on the terminal, or read
with --new-passphrase-file. A credential is read from $CREDENTIALS_DIRECTORY.

Examples:
   kmsfs unlock add key-file /media/usb/kmsfs.key
   kmsfs unlock add passphrase --new-passphrase-file new.txt`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "new-passphrase-file", Usage: "read the new passphrase from `FILE`"},
				},
				Action: unlockAdd,
			},
			{
				Name:      "remove",
				Usage:     "remove a slot",
				ArgsUsage: "SLOT",
				Description: `SLOT is the id that "unlock list" shows, or its beginning. The last slot stays.

Example:
   kmsfs unlock remove 3f2a91c4`,
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 1, 1)
					if err != nil {
						return err
					}
					var gone rootkey.SlotInfo
					if err := call(c, host.CmdUnlockRemove, host.UnlockRemoveArgs{ID: args[0]}, &gone); err != nil {
						return err
					}
					if gone.Kind == rootkey.KindKeyFile {
						note(c, "the key file %s is still there and opens nothing now", gone.Name)
					}
					return show(c, gone, func(io.Writer) {})
				},
			},
			{
				Name:  "list",
				Usage: "list the slots",
				Description: `Example:
   kmsfs unlock list`,
				Action: func(c *cli.Context) error {
					if _, err := arguments(c, 0, 0); err != nil {
						return err
					}
					dir, err := storeDir(c)
					if err != nil {
						return err
					}
					info, err := rootkey.Read(dir) // its owner may read it without unlocking anything
					if err != nil {
						return err
					}
					slots := info.Slots
					return show(c, slots, func(w io.Writer) {
						table(w, func(row func(...string)) {
							for _, s := range slots {
								row(s.ID, string(s.Kind), s.Created.Format("2006-01-02"), s.Name)
							}
						})
					})
				},
			},
		},
	}
}

func unlockAdd(c *cli.Context) error {
	args, err := arguments(c, 1, 2)
	if err != nil {
		return err
	}
	kind := rootkey.Kind(args[0])
	if wantsName := kind != rootkey.KindPassphrase; wantsName != (len(args) == 2) {
		return usage("a key file and a credential have one name, a passphrase has none")
	}
	dir, err := storeDir(c)
	if err != nil {
		return err
	}
	// Files are read here: the daemon opens nothing outside its store.
	var secret rootkey.Secret
	var made string
	switch kind {
	case rootkey.KindKeyFile:
		path, perr := filepath.Abs(args[1])
		if perr != nil {
			return perr
		}
		if _, serr := os.Lstat(path); errors.Is(serr, os.ErrNotExist) {
			made = path
			secret, err = rootkey.NewKeyFile(dir, path)
		} else {
			secret, err = rootkey.KeyFile(dir, path)
		}
	case rootkey.KindPassphrase:
		var phrase []byte
		if phrase, err = newPassphrase(c, "--new-passphrase-file", c.String("new-passphrase-file")); err != nil {
			return err
		}
		secret, err = rootkey.Passphrase(phrase, rootkey.Argon2{})
		clear(phrase)
	case rootkey.KindCredential:
		secret, err = rootkey.Credential(os.Getenv("CREDENTIALS_DIRECTORY"), args[1])
	default:
		return usage("unknown kind of slot %q: key-file, passphrase or systemd-credential", args[0])
	}
	if err != nil {
		return err
	}
	defer secret.Wipe()
	var added rootkey.SlotInfo
	_, name, b := secret.Parts()
	if err := call(c, host.CmdUnlockAdd, host.UnlockAddArgs{Kind: args[0], Name: name, Secret: b}, &added); err != nil {
		if info, rerr := rootkey.Read(dir); made != "" && rerr == nil && !slices.ContainsFunc(info.Slots, func(s rootkey.SlotInfo) bool {
			return s.Kind == kind && s.Name == name
		}) {
			_ = os.Remove(made) // it opens nothing
		}
		return err
	}
	return show(c, added, func(w io.Writer) { fmt.Fprintln(w, added.ID) })
}

// unlocker is where this run may find secrets that open the store.
func unlocker(c *cli.Context) rootkey.Unlocker {
	u := rootkey.Unlocker{CredentialDir: os.Getenv("CREDENTIALS_DIRECTORY")}
	switch file := storePassphrase(c); {
	case file != "":
		u.Passphrase = func() ([]byte, error) { return passphraseFile(c, file) }
	case onTerminal(c):
		u.Passphrase = func() ([]byte, error) { return prompt(c, "passphrase of the store: ") }
	}
	return u
}

// newPassphrase reads a passphrase for a new slot: from a file, or twice from
// the terminal.
func newPassphrase(c *cli.Context, flag, file string) ([]byte, error) {
	if file != "" {
		return passphraseFile(c, file)
	}
	if !onTerminal(c) {
		return nil, &usageError{msg: "no terminal to ask for the passphrase on", hint: "give it in a file: " + flag + " FILE"}
	}
	first, err := prompt(c, "new passphrase: ")
	if err != nil {
		return nil, err
	}
	second, err := prompt(c, "again: ")
	if err != nil {
		return nil, err
	}
	defer clear(second)
	if !bytes.Equal(first, second) {
		return nil, errors.New("the two passphrases differ")
	}
	return first, nil
}

// passphraseFile reads the first line of a file, "-" being standard input.
func passphraseFile(c *cli.Context, name string) ([]byte, error) {
	r := c.App.Reader
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read the passphrase: %w", err)
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, rootkey.MaxPassphrase+2))
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, fmt.Errorf("the passphrase file %s is empty", name)
	}
	return line, nil
}

// storePassphrase is the file of the global flag, which commands with a passphrase of their own have under the same name.
func storePassphrase(c *cli.Context) string {
	for _, up := range slices.Backward(c.Lineage()) {
		if up.App != nil {
			return up.String("passphrase-file") // the outermost
		}
	}
	return ""
}

func onTerminal(c *cli.Context) bool {
	f, ok := c.App.Reader.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// stderrIsTerminal says whether somebody watches what goes to stderr.
func stderrIsTerminal(c *cli.Context) bool {
	f, ok := c.App.ErrWriter.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// askLine asks on the terminal for a line; Ctrl-C ends the wait.
func askLine(c *cli.Context, question string) (string, error) {
	fmt.Fprint(c.App.ErrWriter, question)
	type typed struct {
		line string
		err  error
	}
	done := make(chan typed, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(c.App.Reader, 1000)).ReadString('\n')
		done <- typed{line, err}
	}()
	select {
	case t := <-done:
		if t.err != nil {
			return "", fmt.Errorf("read the answer: %w", t.err)
		}
		return t.line, nil
	case <-c.Done():
		return "", c.Err()
	}
}

// prompt asks on the terminal without echo; Ctrl-C leaves the terminal as it was.
func prompt(c *cli.Context, question string) ([]byte, error) {
	f, ok := c.App.Reader.(*os.File)
	if !ok {
		return nil, errors.New("no terminal")
	}
	state, err := term.GetState(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	type typed struct {
		line []byte
		err  error
	}
	done := make(chan typed, 1)
	fmt.Fprint(c.App.ErrWriter, question)
	go func() {
		line, err := term.ReadPassword(int(f.Fd()))
		done <- typed{line, err}
	}()
	defer fmt.Fprintln(c.App.ErrWriter)
	select {
	case t := <-done:
		if t.err != nil {
			return nil, fmt.Errorf("read the passphrase: %w", t.err)
		}
		return t.line, nil
	case <-c.Done():
		_ = term.Restore(int(f.Fd()), state)
		return nil, c.Err()
	}
}
