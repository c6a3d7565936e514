package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/keystore/kmsapi"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/host"
)

const kmsPatience = 5 * time.Second // for calls under way when the daemon ends

// kmsFlags are serve's flags about the KMS endpoint.
func kmsFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kms-listen", Usage: "take signed KMS calls of AWS clients on `ADDRESS:PORT`, unencrypted"},
		&cli.BoolFlag{Name: "kms-listen-anywhere", Usage: "allow addresses other than loopback for it"},
	}
}

// kmsArgs are the same flags for a daemon in the background.
func kmsArgs(c *cli.Context) []string {
	var args []string
	if a := c.String("kms-listen"); a != "" {
		args = append(args, "--kms-listen", a)
	}
	if c.Bool("kms-listen-anywhere") {
		args = append(args, "--kms-listen-anywhere")
	}
	return args
}

// startKMS speaks the KMS wire protocol on the store's Unix socket, and on TCP
// if that was asked for, until the returned function is called.
func startKMS(c *cli.Context, dir string, s *store, d *host.Daemon, log *slog.Logger) (stop func(), err error) {
	server := kmsapi.New(kmsapi.Config{
		Keystore: s.keystore, Principals: s.principals, PrincipalFor: d.PrincipalFor, Clock: time.Now, Log: log, Handed: d.Handed,
	})
	var tcp net.Listener
	if address := c.String("kms-listen"); address != "" {
		if tcp, err = kmsapi.Listen(c.Context, address, c.Bool("kms-listen-anywhere")); err != nil {
			return nil, err
		}
	}
	socket := filepath.Join(dir, host.KMSSocketFile)
	local, err := control.Listen(socket)
	if err != nil {
		if tcp != nil {
			_ = tcp.Close()
		}
		return nil, fmt.Errorf("the KMS socket: %w", err)
	}
	var running sync.WaitGroup
	run := func(serve func() error) {
		running.Go(func() {
			if err := serve(); err != nil {
				log.Error("kms endpoint", "err", err)
			}
		})
	}
	run(func() error { return server.ServeUnix(local) })
	if tcp != nil {
		d.ServesKMS(tcp.Addr().String())
		log.Info("kms endpoint", "address", tcp.Addr().String())
		run(func() error { return server.ServeTCP(tcp) })
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), kmsPatience)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			log.Warn("kms endpoint", "err", err)
		}
		running.Wait()
		_ = os.Remove(socket)
	}, nil
}
