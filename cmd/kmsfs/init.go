package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/host"
)

const (
	headerFile    = rootkey.HeaderFile
	administrator = "AdministratorAccess"
)

func cmdInit() *cli.Command {
	return &cli.Command{
		Name: "init", Category: catStore, Usage: "make a store",
		Description: `The store gets a random root key, wrapped under a key file in the store (root.key) unless another
way to unlock it is named; an account id and a region, fixed for ever; and one administrator, bound to your uid.

Examples:
   kmsfs init
   kmsfs --store /srv/kmsfs init --passphrase-file secret.txt --admin carol`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "account", Usage: "12-digit account `ID` in ARNs", DefaultText: rootkey.DefaultAccount},
			&cli.StringFlag{Name: "region", Usage: "region `R` in ARNs", DefaultText: rootkey.DefaultRegion},
			&cli.StringFlag{Name: "admin", Value: "admin", Usage: "`NAME` of the administrator"},
			&cli.StringFlag{Name: "passphrase-file", Usage: "unlock with the passphrase in `FILE` instead of a key file"},
			&cli.BoolFlag{Name: "passphrase", Usage: "unlock with a passphrase asked for on the terminal"},
			&cli.StringFlag{Name: "key-file", Usage: "keep the key file at `PATH` (made unless it exists)"},
			&cli.StringFlag{Name: "systemd-credential", Usage: "unlock with the systemd credential `NAME`"},
		},
		Action: initStore,
	}
}

// initialised is what init says it made.
type initialised struct {
	Store     string `json:"store"`
	StoreID   string `json:"storeId"`
	Account   string `json:"account"`
	Region    string `json:"region"`
	Unlock    string `json:"unlock"`
	Admin     string `json:"admin"`
	AdminUIDs string `json:"adminUid"`
}

func initStore(c *cli.Context) (err error) {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	dir, err := storeDir(c)
	if err != nil {
		return err
	}
	if err := rootkey.CheckPlace(orDefault(c.String("account"), rootkey.DefaultAccount), orDefault(c.String("region"), rootkey.DefaultRegion)); err != nil {
		return usage("%v", err)
	}
	if err := host.Harden(); err != nil {
		return err
	}
	if err := noStore(dir); err != nil {
		return err
	}
	done, err := claimStoreDir(dir)
	if err != nil {
		return err
	}
	defer func() { done(err) }()
	secret, err := initSecret(c, dir)
	if err != nil {
		return err
	}
	defer secret.Wipe()
	info, root, err := rootkey.Init(dir, rootkey.InitOptions{Account: c.String("account"), Region: c.String("region"), Secret: secret, Now: time.Now()})
	if err != nil {
		return err
	}
	s, err := assemble(dir, info, root, openOptions{Log: slog.New(slog.DiscardHandler), AuditStrict: true})
	if err != nil {
		return err
	}
	uid := uint32(os.Getuid())
	_, err = s.principals.Create(c.String("admin"), []uint32{uid}, []string{administrator})
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return announce(c, initialised{
		Store: dir, StoreID: info.StoreID, Account: info.Account, Region: info.Region,
		Unlock: secret.String(), Admin: c.String("admin"), AdminUIDs: strconv.Itoa(int(uid)),
	})
}

// initSecret makes what opens the first slot. Without any choice that is a new
// key file in the store.
func initSecret(c *cli.Context, dir string) (rootkey.Secret, error) {
	// The global flag is the same wish, given before the command.
	file := c.String("passphrase-file")
	if file == "" && len(c.Lineage()) > 1 {
		file = c.Lineage()[1].String("passphrase-file")
	}
	chosen := 0
	for _, is := range []bool{file != "", c.Bool("passphrase"), c.String("key-file") != "", c.String("systemd-credential") != ""} {
		if is {
			chosen++
		}
	}
	if chosen > 1 {
		return rootkey.Secret{}, &usageError{msg: "more than one way to unlock the store", hint: "add others later: kmsfs unlock add"}
	}
	switch {
	case file != "" || c.Bool("passphrase"):
		phrase, err := newPassphrase(c, "--passphrase-file", file)
		if err != nil {
			return rootkey.Secret{}, err
		}
		defer clear(phrase)
		return rootkey.Passphrase(phrase, rootkey.Argon2{})
	case c.String("systemd-credential") != "":
		return rootkey.Credential(os.Getenv("CREDENTIALS_DIRECTORY"), c.String("systemd-credential"))
	case c.String("key-file") != "":
		path, err := filepath.Abs(c.String("key-file"))
		if err != nil {
			return rootkey.Secret{}, err
		}
		if _, err := os.Lstat(path); err == nil {
			return rootkey.KeyFile(dir, path)
		}
		return rootkey.NewKeyFile(dir, path)
	}
	return rootkey.NewKeyFile(dir, rootkey.DefaultKeyFile)
}

// noStore refuses a directory that is a store.
func noStore(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, headerFile)); err == nil {
		return fmt.Errorf("%w: %s", rootkey.ErrExists, dir)
	}
	return nil
}

// claimStoreDir makes and locks the directory of a store to come. done gives
// the lock back; with an error it first takes away all that was made.
func claimStoreDir(dir string) (done func(error), err error) {
	made, err := makeStoreDir(dir)
	if err != nil {
		return nil, err
	}
	lock, err := host.TryLock(dir, "command")
	if err != nil {
		return nil, err
	}
	return func(err error) {
		if err != nil {
			unmakeStoreDir(dir, made)
		}
		lock.Release()
	}, nil
}

// makeStoreDir makes the directory if it is missing. It must be empty, so
// that init never mixes a store with somebody's files. Root's store is open to
// pass through, because other users reach the daemon's socket in it; what lies
// inside is closed to them one by one.
func makeStoreDir(dir string) (made bool, err error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return false, fmt.Errorf("make the store: %w", err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return false, fmt.Errorf("make the store: %w", err)
		}
		made = true
	}
	st, err := os.Stat(dir)
	if err != nil {
		return false, fmt.Errorf("make the store: %w", err)
	}
	owner, err := ownerOf(st)
	if err != nil {
		return false, err
	}
	if int(owner) != os.Geteuid() {
		return false, &hinted{fmt.Errorf("%s belongs to uid %d", dir, owner), "who owns the directory could replace what lies in it: make one of your own", exitFailed}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("make the store: %w", err)
	}
	for _, e := range entries {
		if e.Name() != host.LockFile {
			return false, &hinted{fmt.Errorf("%s is not empty", dir), "give the store a directory of its own: --store DIR", exitFailed}
		}
	}
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	if err := os.Chmod(dir, mode); err != nil {
		return false, fmt.Errorf("make the store: %w", err)
	}
	return made, nil
}

// unmakeStoreDir removes a half-made store: everything in a directory that was
// empty, and the directory if it was made.
func unmakeStoreDir(dir string, made bool) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		_ = os.RemoveAll(filepath.Join(dir, e.Name()))
	}
	if made {
		_ = os.Remove(dir)
	}
}

func announce(c *cli.Context, made initialised) error {
	who := made.AdminUIDs
	if u, err := user.LookupId(who); err == nil {
		who += " (" + u.Username + ")"
	}
	say := func(format string, a ...any) { fmt.Fprintf(c.App.ErrWriter, format+"\n", a...) }
	say("kmsfs: made the store %s", made.Store)
	say("   account %s, region %s", made.Account, made.Region)
	say("   administrator %s, bound to uid %s", made.Admin, who)
	say("   unlocked by: %s", made.Unlock)
	if made.Unlock == string(rootkey.KindKeyFile)+" "+rootkey.DefaultKeyFile {
		say("   whoever can read %s can read everything: keep a copy, and see kmsfs unlock --help", filepath.Join(made.Store, rootkey.DefaultKeyFile))
	}
	prefix := "kmsfs "
	if c.IsSet("store") && os.Getenv("KMSFS_STORE") != made.Store {
		prefix += "--store " + made.Store + " "
	}
	say("next:")
	say("   %skey create --alias my-key", prefix)
	say("   mkdir -p ~/s3 && %smount ~/s3", prefix)
	return show(c, made, func(io.Writer) {})
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}
