package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdWhy() *cli.Command {
	return &cli.Command{
		Name: "why", Category: catLook, Usage: "say why an operation is allowed or refused", ArgsUsage: "PATH",
		Description: `Every gate is shown with the policy and statement that decided and, where it refuses, what would have
to change. Asking about another principal needs iam:SimulatePrincipalPolicy. PATH is bucket/key or a path on a mount.

Example:
   kmsfs why reports/q1.csv --principal bob --op read`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "principal", Usage: "ask about `NAME` instead of yourself"},
			&cli.StringFlag{Name: "op", Value: "read", Usage: "`OPERATION`: read, write, delete, rename or list"},
		},
		Action: why,
	}
}

func why(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	switch c.String("op") {
	case "read", "write", "delete", "rename", "list":
	default:
		return usage("unknown operation %q: read, write, delete, rename or list", c.String("op"))
	}
	paths, err := pathArgs(args)
	if err != nil {
		return err
	}
	var r host.WhyResult
	a := host.WhyArgs{Path: paths[0], Principal: c.String("principal"), Op: c.String("op")}
	if err := call(c, host.CmdWhy, a, &r); err != nil {
		return err
	}
	return show(c, r, func(w io.Writer) {
		verdict := "refused"
		if r.Allowed {
			verdict = "allowed"
		}
		fmt.Fprintf(w, "%s: %s %s %s\n", verdict, r.Principal, r.Op, quotePath(r.Path))
		for _, g := range r.Gates {
			mark := "no "
			if g.Allowed {
				mark = "yes"
			}
			fmt.Fprintf(w, "  %s %s on %s\n      %s\n", mark, g.Action, oneLine(g.Resource), oneLine(g.Reason))
			switch {
			case g.Statement > 0:
				fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("      policy %s, statement %d %s", g.Policy, g.Statement, oneLine(g.Sid)), " "))
			case g.Source == "grant":
				fmt.Fprintf(w, "      grant %s\n", g.Policy)
			}
			for i, way := range g.Change {
				lead := "to change that:"
				if i > 0 {
					lead = "            or:"
				}
				fmt.Fprintf(w, "      %s %s\n", lead, oneLine(way))
			}
		}
		if r.Note != "" {
			fmt.Fprintf(w, "  %s\n", r.Note)
		}
	})
}
