package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdGrant() *cli.Command {
	return &cli.Command{
		Name:     "grant",
		Category: catKeys,
		Usage:    "rights on a key for one principal",
		Description: `A grant lets a principal do some operations with a key, beside the key policy.

Example:
   kmsfs grant create alias/my-key --grantee bob --operations Decrypt,GenerateDataKey`,
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a grant and print its id", ArgsUsage: "KEY",
				Description: `PRINCIPAL is a name or an ARN. A constraint limits the grant to an encryption context.

Example:
   kmsfs grant create alias/my-key --grantee bob --operations Decrypt \
      --context-subset aws:s3:arn=arn:aws:s3:::reports/q1.csv`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "grantee", Usage: "`PRINCIPAL` who gets the rights"},
					&cli.StringSliceFlag{Name: "operations", Usage: "`NAMES` separated by commas: Decrypt, GenerateDataKey, …"},
					&cli.StringFlag{Name: "retiring", Usage: "`PRINCIPAL` who may retire it"},
					&cli.StringFlag{Name: "name", Usage: "`NAME` that makes repeating the call harmless"},
					&cli.StringSliceFlag{Name: "context-subset", Usage: "`KEY=VALUE` that the context must contain"},
					&cli.StringSliceFlag{Name: "context-equals", Usage: "`KEY=VALUE` that the context must be"},
				},
				Action: grantCreate,
			},
			{
				Name: "list", Usage: "list the grants of a key", ArgsUsage: "KEY",
				Description: `Example:
   kmsfs grant list alias/my-key`,
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 1, 1)
					if err != nil {
						return err
					}
					grants := []host.GrantInfo{}
					if err := call(c, host.CmdGrantList, host.KeyArgs{Key: args[0]}, &grants); err != nil {
						return err
					}
					return show(c, grants, func(w io.Writer) {
						table(w, func(row func(...string)) {
							for _, g := range grants {
								row(g.ID, g.Grantee, strings.Join(g.Operations, ","), constraint(g), g.Name)
							}
						})
					})
				},
			},
			grantRetireCommand(),
			{
				Name: "revoke", Usage: "take a grant back", ArgsUsage: "KEY GRANT",
				Description: `Example:
   kmsfs grant revoke alias/my-key 0c237476b39f8bc44e45212e08498fbe3151305030726c0590dd8d3e9f3d6a60`,
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 2, 2)
					if err != nil {
						return err
					}
					return call(c, host.CmdGrantRevoke, host.GrantRevokeArgs{Key: args[0], Grant: args[1]}, nil)
				},
			},
		},
	}
}

func grantCreate(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	a := host.GrantArgs{Key: args[0], Grantee: c.String("grantee"), Retiring: c.String("retiring"), Name: c.String("name")}
	for _, op := range c.StringSlice("operations") {
		if op = strings.TrimPrefix(strings.TrimSpace(op), "kms:"); op != "" {
			a.Operations = append(a.Operations, op)
		}
	}
	if a.Grantee == "" || len(a.Operations) == 0 {
		return usage("grant create needs --grantee and --operations")
	}
	if a.Subset, err = pairs(c.StringSlice("context-subset")); err != nil {
		return err
	}
	if a.Equals, err = pairs(c.StringSlice("context-equals")); err != nil {
		return err
	}
	var g host.GrantInfo
	if err := call(c, host.CmdGrantCreate, a, &g); err != nil {
		return err
	}
	return show(c, g, func(w io.Writer) { fmt.Fprintln(w, g.ID) })
}

// constraint shows what the encryption context has to be, as the flags of grant create give it.
func constraint(g host.GrantInfo) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(g.Subset)) {
		out = append(out, "subset:"+oneLine(k+"="+g.Subset[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(g.Equals)) {
		out = append(out, "equals:"+oneLine(k+"="+g.Equals[k]))
	}
	return strings.Join(out, ",")
}

func pairs(list []string) (map[string]string, error) {
	var m map[string]string
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usage("%q is not KEY=VALUE", s)
		}
		if m == nil {
			m = map[string]string{}
		}
		m[k] = v
	}
	return m, nil
}
