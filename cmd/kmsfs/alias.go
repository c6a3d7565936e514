package main

import (
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdAlias() *cli.Command {
	verb := func(name, what, command string, least int) *cli.Command {
		usageText, example := "NAME KEY", "kmsfs alias "+name+" my-key 1234abcd-12ab-34cd-56ef-1234567890ab"
		if least == 1 {
			usageText, example = "NAME", "kmsfs alias "+name+" my-key"
		}
		return &cli.Command{
			Name: name, Usage: what, ArgsUsage: usageText,
			Description: "NAME is with or without \"alias/\".\n\nExample:\n   " + example,
			Action: func(c *cli.Context) error {
				args, err := arguments(c, least, least)
				if err != nil {
					return err
				}
				a := host.AliasArgs{Name: aliasName(args[0])}
				if least == 2 {
					a.Key = args[1]
				}
				return call(c, command, a, nil)
			},
		}
	}
	return &cli.Command{
		Name:     "alias",
		Category: catKeys,
		Usage:    "names of keys",
		Description: `An alias can be pointed at another key; what is encrypted already stays under its key.

Example:
   kmsfs alias create my-key 1234abcd-12ab-34cd-56ef-1234567890ab`,
		Subcommands: []*cli.Command{
			verb("create", "name a key", host.CmdAliasCreate, 2),
			verb("update", "point an alias at another key", host.CmdAliasUpdate, 2),
			verb("delete", "forget an alias", host.CmdAliasDelete, 1),
			{
				Name: "list", Usage: "list the aliases",
				Description: `Example:
   kmsfs alias list`,
				Action: func(c *cli.Context) error {
					if _, err := arguments(c, 0, 0); err != nil {
						return err
					}
					aliases := []host.AliasInfo{}
					if err := call(c, host.CmdAliasList, host.NoArgs{}, &aliases); err != nil {
						return err
					}
					return show(c, aliases, func(w io.Writer) {
						table(w, func(row func(...string)) {
							for _, a := range aliases {
								row(a.Name, a.Key)
							}
						})
					})
				},
			},
		},
	}
}

func aliasName(name string) string {
	if strings.HasPrefix(name, "alias/") {
		return name
	}
	return "alias/" + name
}
