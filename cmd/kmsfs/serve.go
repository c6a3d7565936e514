package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/fusefs"
	"github.com/kmsfs/kmsfs/mount/host"
)

// noSpin is the option by which the daemon does not wait for requests awake.
const noSpin = "no-spin"

func cmdServe() *cli.Command {
	return &cli.Command{
		Name: "serve", Category: catStore, Usage: "run the daemon",
		Description: `The daemon keeps the store open and hosts its mounts. "kmsfs mount" starts one by itself, which
goes with the last mount; this one stays until "kmsfs stop". Its messages are in daemon.log in the store.

It speaks the KMS protocol on the socket kms.sock in the store, where the caller is the principal bound to his
uid, and with --kms-listen on TCP, where calls are signed: kmsfs principal access-key create PRINCIPAL.

Example:
   kmsfs serve --kms-listen 127.0.0.1:8480`,
		Flags: append(kmsFlags(),
			&cli.BoolFlag{Name: "foreground", Usage: "stay in front and log to standard error"},
			&cli.BoolFlag{Name: "debug", Usage: "log more"},
			&cli.BoolFlag{Name: "no-sandbox", Usage: "keep the rights that serving does not take (see docs/security.md)"},
			&cli.BoolFlag{Name: "audit-strict", Usage: "write each audit event to disk before the key is handed out"},
			&cli.BoolFlag{Name: noSpin, EnvVars: []string{"KMSFS_NO_SPIN"}, Usage: "let processors sleep between requests: slower with small files, and easier on batteries"},
			&cli.IntFlag{Name: "ready-fd", Hidden: true},
			&cli.IntFlag{Name: "passphrase-fd", Hidden: true},
			&cli.BoolFlag{Name: "until-unused", Hidden: true},
		),
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0); err != nil {
				return err
			}
			dir, err := storeDir(c)
			if err != nil {
				return err
			}
			if c.Int("ready-fd") > 0 {
				return serveChild(c, dir)
			}
			if err := mayOpen(dir); err != nil {
				return err
			}
			if answers(c, dir) {
				return host.ErrServed
			}
			if c.Bool("foreground") {
				return runDaemon(c, dir, daemonOptions{persistent: true, log: os.Stderr})
			}
			return spawn(c, dir, true)
		},
	}
}

func answers(c *cli.Context, dir string) bool {
	client, err := control.Dial(c.Context, filepath.Join(dir, host.SocketFile))
	if err != nil {
		return false
	}
	_ = client.Close()
	return true
}

func cmdStatus() *cli.Command {
	return &cli.Command{
		Name: "status", Category: catStore, Usage: "show the daemon, its mounts and the store's space",
		Description: `Root and the store's owner also see what the store's files hold: content that is live, content
that was removed or replaced and is not freed yet (kmsfs gc), and metadata.

Example:
   kmsfs status`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0); err != nil {
				return err
			}
			s, err := status(c)
			if err != nil {
				return err
			}
			return show(c, s, func(w io.Writer) { printStatus(w, s) })
		},
	}
}

// status asks the daemon; without one the header says what there is to say,
// and nothing is unlocked for it.
func status(c *cli.Context) (host.Status, error) {
	dir, err := storeDir(c)
	if err != nil {
		return host.Status{}, err
	}
	if answers(c, dir) {
		var s host.Status
		return s, call(c, host.CmdStatus, host.NoArgs{}, &s)
	}
	if err := mayOpen(dir); err != nil {
		return host.Status{}, err
	}
	info, err := rootkey.Read(dir)
	if err != nil {
		return host.Status{}, err
	}
	return host.Status{Store: dir, StoreID: info.StoreID, Account: info.Account, Region: info.Region, Mounts: []host.MountInfo{}}, nil
}

func printStatus(w io.Writer, s host.Status) {
	table(w, func(row func(...string)) {
		row("store:", s.Store)
		row("account:", s.Account+", region "+s.Region)
		switch {
		case !s.Running:
			row("daemon:", "not running")
		case s.Persistent:
			row("daemon:", fmt.Sprintf("running, process %d, until stopped", s.PID))
		default:
			row("daemon:", fmt.Sprintf("running, process %d, until its last mount goes", s.PID))
		}
		if s.Since != nil {
			row("since:", s.Since.Format(time.RFC3339))
		}
		if s.KMS != "" {
			row("kms:", "http://"+s.KMS)
		}
		if s.Space != nil {
			row("space:", fmt.Sprintf("%d of %d MiB free, %d inode numbers handed out", s.Space.Free>>20, s.Space.Total>>20, s.Space.Inodes))
			if h := s.Space.Held; h != nil {
				row("held:", fmt.Sprintf("%.1f MiB live, %.1f MiB dead, %.1f MiB metadata", mib(h.Live), mib(h.Dead), mib(h.Metadata)))
			}
		}
		if s.Running && !s.KeysLocked {
			row("keys:", "not all in locked memory, so they may be swapped out (ulimit -l)")
		}
		if s.Running {
			row("mounts:", fmt.Sprint(len(s.Mounts)))
		}
	})
	table(w, func(row func(...string)) {
		for _, m := range s.Mounts {
			row("  "+quotePath(m.Dir), m.Principal, fmt.Sprintf("uid %d", m.UID), joined(m.Options))
		}
	})
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func cmdStop() *cli.Command {
	return &cli.Command{
		Name: "stop", Category: catStore, Usage: "end the daemon and its mounts",
		Description: `Everything is written out first. A mount that is still in use is detached after a few seconds.

Example:
   kmsfs stop`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0); err != nil {
				return err
			}
			dir, err := storeDir(c)
			if err != nil {
				return err
			}
			if !answers(c, dir) {
				if err := mayOpen(dir); err != nil {
					return err
				}
				note(c, "no daemon runs")
				return nil
			}
			if err := call(c, host.CmdStop, host.NoArgs{}, nil); err != nil {
				return err
			}
			// It holds the lock until the last byte is written.
			return await(c, func() (bool, error) {
				lock, err := host.TryLock(dir, "command")
				if err != nil {
					return !isHeld(err), err
				}
				lock.Release()
				return true, nil
			})
		},
	}
}

func cmdSupervise() *cli.Command {
	return &cli.Command{
		Name: "supervise", Hidden: true, Usage: "mount for the daemon, and end a dead one's mounts (started by the daemon itself)", ArgsUsage: "STORE-ID",
		Description: `Example:
   kmsfs supervise STORE-ID`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "daemon", Usage: "the process that it is started by"},
			&cli.BoolFlag{Name: "awake", Usage: "descriptor 5 is memory by which the daemon tells of requests"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 1)
			if err != nil {
				return err
			}
			dir, err := storeDir(c)
			if err != nil {
				return err
			}
			if err := host.Harden(); err != nil {
				return err
			}
			if err := host.ConfineSupervisor(); err != nil {
				return err
			}
			if c.Bool("awake") {
				go func() { // without it all goes on, only slower
					slog.New(slog.NewTextHandler(c.App.ErrWriter, nil)).Warn("the supervisor keeps no processor awake", "err", fusefs.KeepAwake(os.NewFile(5, "awake")))
				}()
			}
			daemon := c.Int("daemon")
			if os.Getppid() != daemon {
				daemon = 0 // it has ended already, and its number may be another's
			}
			return host.Supervise(ignoreSignals(), daemon, c.App.Reader, os.NewFile(3, "deputy"), dir, args[0], letGo)
		},
	}
}

// letGo gives up the daemon's log, which is in the store: who stops a daemon may want to unmount what that is on. Then it tells the daemon, which waits
// for that.
func letGo() {
	defer func() { _ = os.NewFile(4, "parting").Close() }()
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	for _, fd := range []int{unix.Stdout, unix.Stderr} {
		_ = unix.Dup3(null, fd, 0)
	}
	_ = unix.Close(null)
}
