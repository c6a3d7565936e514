package main

import (
	"encoding/json"
	"fmt"
	"io"
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
needed. The exit status is 1 if an answer differs.

Example:
   kmsfs policy simulate --file vectors.json`,
				Flags:  []cli.Flag{&cli.StringFlag{Name: "file", Usage: "vectors in `FILE`, - for standard input"}},
				Action: policySimulate,
			},
			{
				Name: "check", Usage: "check that a policy is well formed", ArgsUsage: "FILE|-",
				Description: `The kind is guessed unless it is given: a policy with a Principal is a key policy or, when it speaks
of s3 actions, a bucket policy.

Example:
   kmsfs policy check policy.json --kind key`,
				Flags:  []cli.Flag{&cli.StringFlag{Name: "kind", Usage: "`KIND` of policy: identity, key or bucket", DefaultText: "guessed"}},
				Action: policyCheck,
			},
			{
				Name: "diff", Usage: "show who gains and who loses by a new key policy", ArgsUsage: "KEY FILE|-",
				Description: `For every principal of the store: which key operations the new policy would allow that the present
one does not, and the reverse. Nothing is changed.

Example:
   kmsfs policy diff alias/my-key new-policy.json`,
				Action: policyDiff,
			},
		},
	}
}

var policyKinds = map[string]policy.Kind{"identity": policy.IdentityPolicy, "key": policy.KeyPolicy, "bucket": policy.BucketPolicy}

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
	if name == "" {
		name = guessKind(text)
	}
	kind, ok := policyKinds[name]
	if !ok {
		return usage("unknown kind of policy %q: identity, key or bucket", name)
	}
	if _, err := policy.Parse(kind, []byte(text)); err != nil {
		return fmt.Errorf("%s: malformed %s policy: %w", args[0], name, err)
	}
	return show(c, map[string]any{"ok": true, "kind": name}, func(w io.Writer) {
		fmt.Fprintf(w, "%s: a well-formed %s policy\n", args[0], name)
	})
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
	case strings.Contains(s, `"s3:`):
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
	changes := []host.PolicyChange{}
	if err := call(c, host.CmdPolicyDiff, host.PolicyDiffArgs{Key: args[0], Text: doc.Text}, &changes); err != nil {
		return err
	}
	return show(c, changes, func(w io.Writer) {
		if len(changes) == 0 {
			fmt.Fprintln(w, "nobody gains or loses a right")
		}
		for _, ch := range changes {
			sign := "-"
			if ch.Now {
				sign = "+"
			}
			fmt.Fprintf(w, "%s %s %s\n", sign, ch.Principal, ch.Action)
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
					verdict = "WRONG, expected " + r.Expect
				}
				row(r.ID, r.Got, verdict, oneLine(r.Reason))
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
