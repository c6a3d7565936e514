package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdMount() *cli.Command {
	return &cli.Command{
		Name: "mount", Category: catMounts, Usage: "mount the store for one principal", ArgsUsage: "DIR",
		Description: `It returns when the mount is usable. DIR must be a directory of the user whom the principal is bound
to; only he enters it. A daemon is started in the background when none runs, and goes with its last mount.

Options for -o: ro, allow_other (root only), default_permissions (owner and mode count as well), sse=VALUE (encryption
of all new files), errno=posix (EACCES instead of key errors), noexec, noatime, sync, dirsync. Mounts are always nosuid
and nodev.

Examples:
   kmsfs mount ~/s3
   kmsfs mount --principal alice -o ro,sse=aws:kms:alias/my-key /home/alice/s3`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "principal", Usage: "act as `NAME`"},
			&cli.StringSliceFlag{Name: "o", Usage: "mount `OPTIONS`, separated by commas"},
			&cli.BoolFlag{Name: "foreground", Usage: "stay until the mount ends"},
			&cli.BoolFlag{Name: "debug", Usage: "log more, if this starts the daemon"},
			&cli.BoolFlag{Name: "no-sandbox", Usage: "the same flag of serve, if this starts the daemon"},
		},
		Action: mountDir,
	}
}

func mountDir(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	dir, err := storeDir(c)
	if err != nil {
		return err
	}
	paths, err := pathArgs(args)
	if err != nil {
		return err
	}
	a := host.MountArgs{Dir: paths[0].Absolute, Principal: c.String("principal"), Wait: c.Bool("foreground")}
	for _, o := range c.StringSlice("o") {
		if o != "" && !slices.Contains(a.Options, o) {
			a.Options = append(a.Options, o)
		}
	}
	req, err := request(c, host.CmdMount, a)
	if err != nil {
		return err
	}
	mounted := func(raw json.RawMessage) error { return showMount(c, raw) }
	var out json.RawMessage
	err = await(c, func() (bool, error) {
		out, err = ask(c.Context, dir, req, mounted)
		if !notThere(err) {
			return true, err
		}
		if err := mayOpen(dir); err != nil {
			return true, err
		}
		if a.Wait {
			return true, mountInFront(c, dir, req, mounted)
		}
		err := spawn(c, dir, false)
		var answered *control.Error
		if errors.As(err, &answered) && answered.Code == codeServed {
			err = nil // somebody else was faster: ask him
		}
		return err != nil, err
	})
	if a.Wait && c.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // Ctrl-C is how a mount in front ends
	}
	if err != nil || a.Wait {
		return err
	}
	return showMount(c, out)
}

// notThere says that nobody took the call.
func notThere(err error) bool {
	var answered *control.Error
	return errors.Is(err, control.ErrNoDaemon) || errors.Is(err, control.ErrNotTaken) ||
		errors.As(err, &answered) && answered.Code == host.CodeEnding
}

func showMount(c *cli.Context, raw json.RawMessage) error {
	var m host.MountInfo
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("read the result of mount: %w", err)
	}
	if m.AllowOther {
		note(c, "allow_other: every user and program of this machine enters %s as the principal %s, with all rights that it has", m.Dir, m.Principal)
	}
	return show(c, m, func(io.Writer) {})
}

// mountInFront is a daemon in this process that begins with one mount and
// goes with its last.
func mountInFront(c *cli.Context, dir string, req control.Request, mounted func(json.RawMessage) error) error {
	first := req
	var a host.MountArgs
	if err := json.Unmarshal(req.Args, &a); err != nil {
		return err
	}
	a.Wait = false // this process is what waits
	var err error
	if first.Args, err = json.Marshal(a); err != nil {
		return err
	}
	return runDaemon(c, dir, daemonOptions{log: c.App.ErrWriter, then: func(d *host.Daemon) error {
		resp := d.Dispatch(c.Context, self(), first, func(any) error { return nil })
		if resp.Error != nil {
			return resp.Error
		}
		return mounted(resp.Result)
	}})
}

func self() control.Peer {
	return control.Peer{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), PID: int32(os.Getpid())}
}

func cmdUmount() *cli.Command {
	return &cli.Command{
		Name: "umount", Aliases: []string{"unmount"}, Category: catMounts, Usage: "end a mount", ArgsUsage: "DIR",
		Description: `Everything written is in the store when it returns.

Example:
   kmsfs umount ~/s3`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "lazy", Aliases: []string{"l"}, Usage: "detach it now even if it is in use"},
		},
		Action: umountDir,
	}
}

func umountDir(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	dir, err := storeDir(c)
	if err != nil {
		return err
	}
	paths, err := pathArgs(args)
	if err != nil {
		return err
	}
	req, err := request(c, host.CmdUmount, host.UmountArgs{Dir: paths[0].Absolute, Lazy: c.Bool("lazy")})
	if err != nil {
		return err
	}
	_, err = ask(c.Context, dir, req, nil)
	if !notThere(err) {
		return err
	}
	// Without a daemon a mount of this store can only be a dead one.
	info, rerr := rootkey.Read(dir)
	if rerr != nil {
		return rerr
	}
	left, lerr := host.StoreMounts(info.StoreID)
	if lerr != nil {
		return lerr
	}
	if !slices.Contains(left, paths[0].Absolute) {
		return fmt.Errorf("%s is not a mount of this store", paths[0].Absolute)
	}
	return host.Detach(c.Context, paths[0].Absolute, host.Firmly)
}
