package main

import (
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdGroup() *cli.Command {
	return &cli.Command{
		Name:     "group",
		Category: catPeople,
		Usage:    "policies for several principals",
		Description: `The policies of a group count for each of its members as if they were his own. A group is no principal:
a key policy or a bucket policy cannot name it.

Example:
   kmsfs group create auditors --policy AmazonS3ReadOnlyAccess
   kmsfs group add auditors alice`,
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a group", ArgsUsage: "NAME",
				Description: `Example:
   kmsfs group create auditors --policy AmazonS3ReadOnlyAccess --policy ./extra.json`,
				Flags:  []cli.Flag{&cli.StringSliceFlag{Name: "policy", Usage: "policy to attach, `NAME|FILE`"}},
				Action: groupCreate,
			},
			{
				Name: "list", Usage: "list the groups",
				Description: `Example:
   kmsfs group list`,
				Action: groupList,
			},
			{
				Name: "show", Usage: "show a group", ArgsUsage: "NAME",
				Description: `Example:
   kmsfs group show auditors`,
				Action: groupShow,
			},
			{
				Name: "delete", Usage: "delete a group that has no members and no policies", ArgsUsage: "NAME",
				Description: `Example:
   kmsfs group delete auditors`,
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 1, 1)
					if err != nil {
						return err
					}
					return call(c, host.CmdGroupDelete, host.NameArgs{Name: args[0]}, nil)
				},
			},
			groupMember("add", "put a principal into a group", host.CmdGroupAdd),
			groupMember("remove", "take a principal out of a group", host.CmdGroupRemove),
			groupPolicy("attach", "attach a policy", host.CmdGroupAttach, "NAME|FILE"),
			groupPolicy("detach", "detach a policy", host.CmdGroupDetach, "NAME"),
		},
	}
}

func groupMember(name, what, command string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: what, ArgsUsage: "GROUP PRINCIPAL",
		Description: "It takes effect at once, on open files too.\n\nExample:\n   kmsfs group " + name + " auditors alice",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 2, 2)
			if err != nil {
				return err
			}
			var g host.GroupInfo
			if err := call(c, command, host.GroupMemberArgs{Name: args[0], Principal: args[1]}, &g); err != nil {
				return err
			}
			return show(c, g, func(io.Writer) {})
		},
	}
}

func groupPolicy(name, what, command, arg string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: what, ArgsUsage: "GROUP " + arg,
		Description: "It takes effect for all members at once.\n\nExample:\n   kmsfs group " + name + " auditors AmazonS3ReadOnlyAccess",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 2, 2)
			if err != nil {
				return err
			}
			a := host.GroupPolicyArgs{Name: args[0], Policy: host.PolicyArg{Name: policyName(args[1])}}
			if command == host.CmdGroupAttach {
				if a.Policy, err = policyArg(c, args[1]); err != nil {
					return err
				}
			}
			var g host.GroupInfo
			if err := call(c, command, a, &g); err != nil {
				return err
			}
			return show(c, g, func(io.Writer) {})
		},
	}
}

func groupCreate(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	a := host.GroupCreateArgs{Name: args[0]}
	for _, s := range c.StringSlice("policy") {
		p, err := policyArg(c, s)
		if err != nil {
			return err
		}
		a.Policies = append(a.Policies, p)
	}
	var g host.GroupInfo
	if err := call(c, host.CmdGroupCreate, a, &g); err != nil {
		return err
	}
	return show(c, g, func(io.Writer) {})
}

func groupList(c *cli.Context) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	all := []host.GroupInfo{}
	if err := call(c, host.CmdGroupList, host.NoArgs{}, &all); err != nil {
		return err
	}
	return show(c, all, func(w io.Writer) {
		table(w, func(row func(...string)) {
			for _, g := range all {
				row(g.Name, strings.Join(g.Members, ","), strings.Join(g.Policies, ","))
			}
		})
	})
}

func groupShow(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	var g host.GroupInfo
	if err := call(c, host.CmdGroupShow, host.NameArgs{Name: args[0]}, &g); err != nil {
		return err
	}
	return show(c, g, func(w io.Writer) {
		table(w, func(row func(...string)) {
			row("name:", g.Name)
			row("arn:", g.ARN)
			row("id:", g.ID)
			row("created:", g.Created.Format("2006-01-02T15:04:05Z07:00"))
			row("members:", strings.Join(g.Members, ", "))
			row("policies:", strings.Join(g.Policies, ", "))
		})
	})
}

func cmdBoundary() *cli.Command {
	return &cli.Command{
		Name: "boundary", Usage: "limit what a principal's policies can allow", ArgsUsage: "PRINCIPAL NAME|FILE",
		Description: `A permissions boundary is a policy. What it does not allow, no policy of the principal or of his groups
allows; by itself it allows nothing.

Example:
   kmsfs principal boundary alice ./only-reports.json
   kmsfs principal boundary --remove alice`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "remove", Usage: "take the boundary away"}},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 2)
			if err != nil {
				return err
			}
			a := host.BoundaryArgs{Name: args[0], Remove: c.Bool("remove")}
			if a.Remove != (len(args) == 1) {
				return &usageError{msg: "a boundary is set by a policy, or removed by --remove", hint: "kmsfs principal boundary --help"}
			}
			if !a.Remove {
				if a.Policy, err = policyArg(c, args[1]); err != nil {
					return err
				}
			}
			var p host.PrincipalInfo
			if err := call(c, host.CmdPrincipalBoundary, a, &p); err != nil {
				return err
			}
			return show(c, p, func(io.Writer) {})
		},
	}
}
