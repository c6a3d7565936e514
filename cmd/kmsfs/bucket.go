package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdBucket() *cli.Command {
	return &cli.Command{
		Name:     "bucket",
		Category: catBuckets,
		Usage:    "buckets: the top-level directories",
		Description: `The same as mkdir, ls, getfattr, setfattr and rmdir in the top directory of a mount,
under the same rights.

Example:
   kmsfs bucket create reports --sse aws:kms:alias/my-key`,
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "make a bucket", ArgsUsage: "NAME",
				Description: `Names follow S3: 3 to 63 lower-case letters, digits, dots and dashes.

Example:
   kmsfs bucket create reports --sse aws:kms:alias/my-key`,
				Flags:  []cli.Flag{&cli.StringFlag{Name: "sse", Usage: "default encryption `VALUE`: AES256, aws:kms or aws:kms:KEY"}},
				Action: bucketCreate,
			},
			{
				Name: "list", Usage: "list the buckets",
				Description: `Example:
   kmsfs bucket list`,
				Action: bucketList,
			},
			{
				Name: "show", Usage: "show a bucket's settings", ArgsUsage: "NAME",
				Description: `Example:
   kmsfs bucket show reports`,
				Action: bucketShow,
			},
			{
				Name: "delete", Usage: "delete an empty bucket", ArgsUsage: "NAME",
				Description: `Example:
   kmsfs bucket delete reports`,
				Action: func(c *cli.Context) error {
					args, err := arguments(c, 1, 1)
					if err != nil {
						return err
					}
					return call(c, host.CmdBucketDelete, host.NameArgs{Name: args[0]}, nil)
				},
			},
			{
				Name: "encryption", Usage: "show or set the default encryption", ArgsUsage: "NAME [VALUE]",
				Description: `VALUE is AES256, aws:kms or aws:kms:KEY, or S3's own JSON configuration. It concerns what is
written from now on; files that are there keep their keys (see kmsfs rekey).

Example:
   kmsfs bucket encryption reports aws:kms:alias/my-key`,
				Action: bucketEncryption,
			},
			{
				Name: "policy", Usage: "show, set or delete the bucket policy", ArgsUsage: "NAME [FILE|-]",
				Description: `Without FILE it prints the policy.

Examples:
   kmsfs bucket policy reports > policy.json
   kmsfs bucket policy reports policy.json
   kmsfs bucket policy reports --delete`,
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "delete", Usage: "delete the policy"}},
				Action: bucketPolicy,
			},
		},
	}
}

func bucketCreate(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	var b host.BucketInfo
	if err := call(c, host.CmdBucketCreate, host.BucketCreateArgs{Name: args[0], SSE: c.String("sse")}, &b); err != nil {
		return err
	}
	return show(c, b, func(io.Writer) {})
}

func bucketList(c *cli.Context) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	buckets := []host.BucketInfo{}
	if err := call(c, host.CmdBucketList, host.NoArgs{}, &buckets); err != nil {
		return err
	}
	return show(c, buckets, func(w io.Writer) {
		for _, b := range buckets {
			fmt.Fprintln(w, b.Name)
		}
	})
}

func bucketShow(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	var b host.BucketInfo
	if err := call(c, host.CmdBucketShow, host.NameArgs{Name: args[0]}, &b); err != nil {
		return err
	}
	return show(c, b, func(w io.Writer) {
		table(w, func(row func(...string)) {
			row("name:", b.Name)
			if b.Created != nil {
				row("created:", b.Created.Format(time.RFC3339))
			}
			row("encryption:", b.SSE)
			if b.Quota != "" {
				row("quota:", b.Quota)
			}
			if len(b.Policy) == 0 {
				row("policy:", "none")
			}
		})
		if len(b.Policy) > 0 {
			fmt.Fprintf(w, "policy:\n%s\n", prettyJSON(b.Policy))
		}
	})
}

func bucketEncryption(c *cli.Context) error {
	args, err := arguments(c, 1, 2)
	if err != nil {
		return err
	}
	a := host.BucketEncryptionArgs{Name: args[0]}
	if len(args) == 2 {
		a.Value = args[1]
	}
	var b host.BucketInfo
	if err := call(c, host.CmdBucketEncryption, a, &b); err != nil {
		return err
	}
	return show(c, b, func(w io.Writer) {
		if a.Value == "" {
			fmt.Fprintln(w, b.SSE)
		}
	})
}

func bucketPolicy(c *cli.Context) error {
	args, err := arguments(c, 1, 2)
	if err != nil {
		return err
	}
	a := host.BucketPolicyArgs{Name: args[0]}
	switch {
	case c.Bool("delete") && len(args) == 2:
		return usage("either --delete or a file")
	case c.Bool("delete"):
		a.Policy.Set = true
	case len(args) == 2:
		if a.Policy, err = document(c, args[1]); err != nil {
			return err
		}
	}
	var b host.BucketInfo
	if err := call(c, host.CmdBucketPolicy, a, &b); err != nil {
		return err
	}
	return show(c, b, func(w io.Writer) {
		if !a.Policy.Set {
			fmt.Fprintln(w, prettyJSON(b.Policy))
		}
	})
}

// document reads a policy that must not be empty.
func document(c *cli.Context, name string) (host.Document, error) {
	text, err := readDocument(c, name)
	if err != nil {
		return host.Document{}, err
	}
	if text == "" {
		return host.Document{}, fmt.Errorf("%s is empty", name)
	}
	return host.Document{Set: true, Text: text}, nil
}
