package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
	"github.com/kmsfs/kmsfs/principals/policy"
)

func cmdPolicy() *cli.Command {
	return &cli.Command{
		Name:     "policy",
		Category: catPeople,
		Usage:    "try, check and compare policies",
		Description: `Example:
   kmsfs policy check key-policy.json`,
		Subcommands: []*cli.Command{
			{
				Name: "simulate", Usage: "evaluate policy vectors from a file",
				Description: `The file holds identity policies, key policies and requests with the expected answers. No store is
needed. Every request gives a line: its id, the expected answer, the one it got, ok or WRONG, and the reason.
The exit status is 1 if an answer differs.

Example:
   kmsfs policy simulate --file vectors.json`,
				Flags:  []cli.Flag{&cli.StringFlag{Name: "file", Usage: "vectors in `FILE`, - for standard input"}},
				Action: policySimulate,
			},
			{
				Name: "check", Usage: "find mistakes in a policy before it is put", ArgsUsage: "FILE|-",
				Description: `It finds what is malformed, actions that do not exist, statements that can have no effect, principals
that do not exist, and a key policy by which its author, or everybody, could not change it again. The exit status is 1
if something was found. The kind is guessed unless it is given: a policy with a Principal is a key policy or, when it
speaks of s3 actions alone, a bucket policy. Without a store principals are not looked up.

Examples:
   kmsfs policy check policy.json --kind key
   kmsfs policy check key-policy.json --key alias/my-key`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "kind", Usage: "`KIND` of policy: identity, key or bucket", DefaultText: "guessed"},
					&cli.StringFlag{Name: "key", Usage: "the `KEY` that the key policy is for"},
				},
				Action: policyCheck,
			},
			{
				Name: "diff", Usage: "show who gains and who loses by a new key policy", ArgsUsage: "KEY FILE|-",
				Description: `For every principal of the store: which key operations the new policy would allow that the present
one does not, and the reverse, and how many of the files under the key he could read then and cannot now, and the
reverse, by all policies and grants that there are. Nothing is changed.

Example:
   kmsfs policy diff alias/my-key new-policy.json`,
				Action: policyDiff,
			},
		},
	}
}

func policyCheck(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	text, err := readDocument(c, args[0])
	if err != nil {
		return err
	}
	name := c.String("kind")
	switch {
	case c.String("key") != "" && name != "" && name != "key":
		return usage("--key goes with a key policy, not with one of kind %s", name)
	case c.String("key") != "":
		name = "key"
	case name == "":
		name = guessKind(text)
	}
	kind, ok := host.PolicyKinds()[name]
	if !ok {
		return usage("unknown kind of policy %q: identity, key or bucket", name)
	}
	found, err := policy.Check(kind, []byte(text))
	if err != nil {
		return fmt.Errorf("%s: malformed %s policy: %w", args[0], name, err)
	}
	r := host.PolicyCheckResult{OK: len(found) == 0, Kind: name, Findings: append([]policy.Finding{}, found...)}
	if err := call(c, host.CmdPolicyCheck, host.PolicyCheckArgs{Kind: name, Text: text, Key: c.String("key")}, &r); err != nil {
		if c.Err() != nil {
			return err
		}
		note(c, "the principals that it names were not looked up: %s", err)
	}
	if err := show(c, r, func(w io.Writer) {
		for _, f := range r.Findings {
			at := args[0]
			if f.Statement > 0 {
				at += fmt.Sprintf(", statement %d", f.Statement)
			}
			if f.Sid != "" {
				at += " " + strconv.Quote(f.Sid)
			}
			fmt.Fprintf(w, "%s: %s: %s\n", at, f.Level, oneLine(f.Problem))
		}
		if r.OK {
			fmt.Fprintf(w, "%s: a well-formed %s policy\n", args[0], name)
		}
	}); err != nil {
		return err
	}
	if !r.OK {
		return fmt.Errorf("%d findings in %s", len(r.Findings), args[0])
	}
	return nil
}

func guessKind(text string) string {
	var doc struct {
		Statement json.RawMessage
	}
	if json.Unmarshal([]byte(text), &doc) != nil {
		return "identity"
	}
	s := string(doc.Statement)
	switch {
	case !strings.Contains(s, `"Principal"`) && !strings.Contains(s, `"NotPrincipal"`):
		return "identity"
	case strings.Contains(s, `"s3:`) && !strings.Contains(s, `"kms:`): // S3 takes no action of another service, KMS does
		return "bucket"
	}
	return "key"
}

func policyDiff(c *cli.Context) error {
	args, err := arguments(c, 2, 2)
	if err != nil {
		return err
	}
	doc, err := document(c, args[1])
	if err != nil {
		return err
	}
	var d host.PolicyDiff
	if err := call(c, host.CmdPolicyDiff, host.PolicyDiffArgs{Key: args[0], Text: doc.Text}, &d); err != nil {
		return err
	}
	return show(c, d, func(w io.Writer) {
		if len(d.Changes)+len(d.Access) == 0 {
			fmt.Fprintln(w, "nobody gains or loses a right")
		}
		for _, ch := range d.Changes {
			sign := "-"
			if ch.Now {
				sign = "+"
			}
			fmt.Fprintf(w, "%s %s %s\n", sign, ch.Principal, ch.Action)
		}
		for _, a := range d.Access {
			if a.Gained > 0 {
				fmt.Fprintf(w, "+ %s can read %d of %d files more\n", a.Principal, a.Gained, d.Files)
			}
			if a.Lost > 0 {
				fmt.Fprintf(w, "- %s cannot read %d of %d files any more\n", a.Principal, a.Lost, d.Files)
			}
		}
	})
}

func policySimulate(c *cli.Context) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	if c.String("file") == "" {
		return usage("policy simulate needs --file VECTORS.json")
	}
	text, err := readDocument(c, c.String("file"))
	if err != nil {
		return err
	}
	results, err := policy.RunVectors(strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("%s: %w", c.String("file"), err)
	}
	wrong := 0
	for _, r := range results {
		if !r.OK {
			wrong++
		}
	}
	if err := show(c, results, func(w io.Writer) {
		table(w, func(row func(...string)) {
			for _, r := range results {
				verdict := "ok"
				if !r.OK {
					verdict = "WRONG"
				}
				row(r.ID, r.Expect, r.Got, verdict, oneLine(r.Reason))
			}
		})
	}); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d answers differ from what was expected", wrong, len(results))
	}
	return nil
}
