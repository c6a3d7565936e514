package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdAccessKey() *cli.Command {
	return &cli.Command{
		Name:  "access-key",
		Usage: "keys with which AWS clients sign KMS calls",
		Description: `A client of the KMS endpoint (kmsfs serve --kms-listen) proves by an access key to be a principal. A principal
has at most two, so that one can replace the other.

Example:
   kmsfs principal access-key create alice`,
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make an access key and show its secret, this once", ArgsUsage: "PRINCIPAL",
				Description: `Prints what AWS clients take from the environment.

Example:
   eval "$(kmsfs principal access-key create alice)"
   aws --endpoint-url http://127.0.0.1:8480 --region us-east-1 kms list-keys`,
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 1, 1)
					if err != nil {
						return err
					}
					var k host.AccessKeyInfo
					if err := call(c, host.CmdAccessKeyCreate, host.NameArgs{Name: args[0]}, &k); err != nil {
						return err
					}
					return show(c, k, func(w io.Writer) {
						fmt.Fprintf(w, "export AWS_ACCESS_KEY_ID=%s\nexport AWS_SECRET_ACCESS_KEY=%s\n", k.ID, k.Secret)
					})
				},
			},
			{
				Name: "list", Usage: "list a principal's access keys", ArgsUsage: "PRINCIPAL",
				Description: `Example:
   kmsfs principal access-key list alice`,
				Action: accessKeyList,
			},
			accessKeyVerb("delete", "delete an access key", host.CmdAccessKeyDelete, false),
			accessKeyVerb("activate", "accept an access key again", host.CmdAccessKeyActivate, true),
			accessKeyVerb("deactivate", "refuse an access key for now", host.CmdAccessKeyActivate, false),
		},
	}
}

func accessKeyVerb(name, what, command string, active bool) *cli.Command {
	return &cli.Command{
		Name: name, Usage: what, ArgsUsage: "PRINCIPAL ID",
		Description: "It takes effect at once.\n\nExample:\n   kmsfs principal access-key " + name + " alice AKIAMZXW6YTBOI2DKNRX",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 2, 2)
			if err != nil {
				return err
			}
			return call(c, command, host.AccessKeyArgs{Name: args[0], ID: args[1], Active: active}, nil)
		},
	}
}

func accessKeyList(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	keys := []host.AccessKeyInfo{}
	if err := call(c, host.CmdAccessKeyList, host.NameArgs{Name: args[0]}, &keys); err != nil {
		return err
	}
	return show(c, keys, func(w io.Writer) {
		table(w, func(row func(...string)) {
			for _, k := range keys {
				row(k.ID, k.Status, k.Created.Format("2006-01-02T15:04:05Z07:00"))
			}
		})
	})
}
