package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	volume "github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/fs/backup"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/host"
)

// usageError is a wrong call of the program.
type usageError struct{ msg, hint string }

func (e *usageError) Error() string { return e.msg }

func usage(format string, a ...any) error { return &usageError{msg: fmt.Sprintf(format, a...)} }

// hinted gives an error advice and an exit status of its own.
type hinted struct {
	err  error
	hint string
	exit int
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

// report prints an error as "kmsfs: …", with a hint where there is one, and
// returns the exit status.
func report(ctx context.Context, w io.Writer, err error) int {
	hint, code := advice(err)
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || code == exitHungUp) {
		return exitInterrupted
	}
	if msg := strings.TrimRight(err.Error(), "\n"); msg != "" {
		fmt.Fprintf(w, "kmsfs: %s\n", lowerFirst(msg))
	}
	if hint != "" {
		fmt.Fprintf(w, "hint: %s\n", hint)
	}
	return code
}

// advice is the one place that turns typed errors into hints and statuses.
func advice(err error) (hint string, code int) {
	var use *usageError
	var own *hinted
	var answered *control.Error
	switch {
	case errors.As(err, &use):
		return use.hint, exitUsage
	case errors.As(err, &own):
		return own.hint, own.exit
	case errors.As(err, &answered):
		return answered.Hint, max(answered.Exit, exitFailed)
	case errors.Is(err, rootkey.ErrNoStore):
		return "make one with: kmsfs init (or name it: --store DIR, KMSFS_STORE)", exitFailed
	case errors.Is(err, rootkey.ErrExists):
		return "choose another directory with --store DIR", exitFailed
	case errors.Is(err, rootkey.ErrUnsupported), errors.Is(err, volume.ErrVersion):
		return "open it with the version of kmsfs that made it, or a newer one", exitUnsupported
	case errors.Is(err, rootkey.ErrDamaged):
		return "restore " + rootkey.HeaderFile + " from a backup", exitDamaged
	case errors.Is(err, rootkey.ErrWrongPassphrase):
		return "give it with --passphrase-file FILE, KMSFS_PASSPHRASE_FILE, or on the terminal", exitLocked
	case errors.Is(err, rootkey.ErrExposed):
		return "chmod 600 the key file", exitLocked
	case errors.Is(err, rootkey.ErrLocked):
		return "put back what opens it (see kmsfs unlock list); a passphrase can be given with --passphrase-file FILE", exitLocked
	case errors.Is(err, volume.ErrOlder):
		return "if you put an older copy of the store in place yourself: kmsfs restore --accept STORE; otherwise someone else did", exitDamaged
	case errors.Is(err, keystore.ErrCorrupt), errors.Is(err, volume.ErrCorrupt), errors.Is(err, kv.ErrCorrupt):
		return "restore a backup (kmsfs restore); if you put older files in place yourself: kmsfs restore --accept STORE", exitDamaged
	case errors.Is(err, backup.ErrDamaged):
		return "restore another snapshot (--snapshot N), or another copy of the backup", exitDamaged
	case errors.Is(err, backup.ErrVersion):
		return "use the version of kmsfs that made it, or a newer one", exitUnsupported
	case errors.Is(err, backup.ErrBusy):
		return "wait until it is done", exitBusy
	case errors.Is(err, backup.ErrForeign):
		return "give the backups of each store a directory of their own", exitFailed
	case errors.Is(err, host.ErrBusy):
		return "see what runs: kmsfs status", exitBusy
	case errors.Is(err, host.ErrServed):
		return "use it as it is, or end it first: kmsfs stop", exitBusy
	case errors.Is(err, control.ErrHungUp):
		return "look at daemon.log in the store, and whether the command took effect", exitHungUp
	case errors.Is(err, fs.ErrPermission):
		return "a store belongs to the user who made it; others need his daemon: kmsfs serve", exitFailed
	case errors.Is(err, syscall.ENOSPC):
		return "make room on the file system that holds the store", exitFailed
	}
	return "", exitFailed
}

// lowerFirst follows the manner of messages: lower case, unless the first
// word is a name such as AWS error codes or ARNs are.
func lowerFirst(s string) string {
	if len(s) < 2 || s[0] < 'A' || s[0] > 'Z' || s[1] >= 'A' && s[1] <= 'Z' {
		return s
	}
	word, _, _ := strings.Cut(s, " ")
	if strings.ContainsAny(word[1:], "ABCDEFGHIJKLMNOPQRSTUVWXYZ:") {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
