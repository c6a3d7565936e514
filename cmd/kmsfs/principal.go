package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdPrincipal() *cli.Command {
	return &cli.Command{
		Name:     "principal",
		Category: catPeople,
		Usage:    "the users of the store",
		Description: `A principal is bound to OS uids, whose users may act as him, and has policies attached.
Built in are AdministratorAccess, AmazonS3FullAccess, AmazonS3ReadOnlyAccess and AWSKeyManagementServicePowerUser.

Example:
   kmsfs principal create alice --uid 1000 --policy AmazonS3FullAccess`,
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a principal", ArgsUsage: "NAME",
				Description: `A policy is named, or read from a JSON file and then stored under the file's name.

Example:
   kmsfs principal create alice --uid 1000 --policy AmazonS3FullAccess --policy ./extra.json`,
				Flags: []cli.Flag{
					&cli.StringSliceFlag{Name: "uid", Usage: "OS user who may act as him, `N` or a login name"},
					&cli.StringSliceFlag{Name: "policy", Usage: "policy to attach, `NAME|FILE`"},
				},
				Action: principalCreate,
			},
			{
				Name: "list", Usage: "list the principals",
				Description: `Example:
   kmsfs principal list`,
				Action: principalList,
			},
			{
				Name: "show", Usage: "show a principal and his policies", ArgsUsage: "NAME",
				Description: `Example:
   kmsfs principal show alice`,
				Action: principalShow,
			},
			{
				Name: "delete", Usage: "delete a principal", ArgsUsage: "NAME",
				Description: `His mounts refuse everything from then on. What he wrote stays.

Example:
   kmsfs principal delete alice`,
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 1, 1)
					if err != nil {
						return err
					}
					return call(c, host.CmdPrincipalDelete, host.NameArgs{Name: args[0]}, nil)
				},
			},
			policyVerb("attach", "attach a policy", host.CmdPrincipalAttach, "NAME|FILE"),
			policyVerb("detach", "detach a policy", host.CmdPrincipalDetach, "NAME"),
			cmdBoundary(), cmdAccessKey(),
		},
	}
}

func policyVerb(name, what, command, arg string) *cli.Command {
	return &cli.Command{
		Name: name, Usage: what, ArgsUsage: "PRINCIPAL " + arg,
		Description: "It takes effect at once, on open files too.\n\nExample:\n   kmsfs principal " + name + " alice AmazonS3ReadOnlyAccess",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 2, 2)
			if err != nil {
				return err
			}
			a := host.PrincipalPolicyArgs{Name: args[0], Policy: host.PolicyArg{Name: policyName(args[1])}}
			if command == host.CmdPrincipalAttach {
				if a.Policy, err = policyArg(c, args[1]); err != nil {
					return err
				}
			}
			var p host.PrincipalInfo
			if err := call(c, command, a, &p); err != nil {
				return err
			}
			return show(c, p, func(io.Writer) {})
		},
	}
}

// managedPrefix is how AWS writes the ARNs of its own policies.
const managedPrefix = "arn:aws:iam::aws:policy/"

func policyName(s string) string { return strings.TrimPrefix(s, managedPrefix) }

// policyArg is NAME or FILE: what looks like a path or is an existing .json
// file is read, and stored under its base name.
func policyArg(c *cli.Context, s string) (host.PolicyArg, error) {
	looksLikePath := strings.ContainsRune(s, filepath.Separator) && !strings.HasPrefix(s, managedPrefix)
	if !looksLikePath && !strings.HasSuffix(s, ".json") {
		if st, err := os.Stat(s); err != nil || !st.Mode().IsRegular() {
			return host.PolicyArg{Name: policyName(s)}, nil //nolint:nilerr // no such file: it is a name
		}
	}
	doc, err := document(c, s)
	if errors.Is(err, fs.ErrNotExist) && !looksLikePath {
		return host.PolicyArg{}, fmt.Errorf("neither a policy nor a file is named %s", s)
	}
	return host.PolicyArg{Name: strings.TrimSuffix(filepath.Base(s), ".json"), Text: doc}, err
}

func principalCreate(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	a := host.PrincipalCreateArgs{Name: args[0]}
	for _, s := range c.StringSlice("uid") {
		uid, err := parseUID(s)
		if err != nil {
			return err
		}
		a.UIDs = append(a.UIDs, uid)
	}
	for _, s := range c.StringSlice("policy") {
		p, err := policyArg(c, s)
		if err != nil {
			return err
		}
		a.Policies = append(a.Policies, p)
	}
	var p host.PrincipalInfo
	if err := call(c, host.CmdPrincipalCreate, a, &p); err != nil {
		return err
	}
	return show(c, p, func(io.Writer) {})
}

func principalList(c *cli.Context) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	all := []host.PrincipalInfo{}
	if err := call(c, host.CmdPrincipalList, host.NoArgs{}, &all); err != nil {
		return err
	}
	return show(c, all, func(w io.Writer) {
		table(w, func(row func(...string)) {
			for _, p := range all {
				row(p.Name, "uid "+uids(p.UIDs), strings.Join(p.Policies, ","))
			}
		})
	})
}

func principalShow(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	var p host.PrincipalInfo
	if err := call(c, host.CmdPrincipalShow, host.NameArgs{Name: args[0]}, &p); err != nil {
		return err
	}
	return show(c, p, func(w io.Writer) {
		table(w, func(row func(...string)) {
			row("name:", p.Name)
			row("arn:", p.ARN)
			row("id:", p.ID)
			row("uids:", uids(p.UIDs))
			row("created:", p.Created.Format("2006-01-02T15:04:05Z07:00"))
			row("policies:", strings.Join(p.Policies, ", "))
			if p.Boundary != "" {
				row("boundary:", p.Boundary)
			}
			if len(p.Groups) > 0 {
				row("groups:", strings.Join(p.Groups, ", "))
			}
		})
		for _, name := range p.Policies {
			if doc, ok := p.Documents[name]; ok {
				fmt.Fprintf(w, "%s:\n%s\n", name, prettyJSON(doc))
			}
		}
	})
}

func uids(list []uint32) string {
	if len(list) == 0 {
		return "none"
	}
	s := make([]string, len(list))
	for i, u := range list {
		s[i] = strconv.FormatUint(uint64(u), 10)
	}
	return strings.Join(s, ",")
}
