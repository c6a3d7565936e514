package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

// keySettingCommands are the commands for what a key has beside its policy and its state.
func keySettingCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "rotation", Usage: "show or set the schedule of automatic rotation", ArgsUsage: "KEY",
			Description: `Without flags it shows the schedule and all material that the key ever had. A rotation makes new
material; the old stays and opens what is under it. It happens at the time that is shown, or at the first use after it.

Examples:
   kmsfs key rotation alias/my-key
   kmsfs key rotation alias/my-key --enable --period 180
   kmsfs key rotation alias/my-key --disable`,
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "enable", Usage: "rotate it from now on"},
				&cli.BoolFlag{Name: "disable", Usage: "rotate it no more"},
				&cli.IntFlag{Name: "period", Usage: "with --enable, every `N` days, 90 to 2560", DefaultText: "as before, or 365"},
			},
			Action: keyRotation,
		},
		{
			Name: "describe", Usage: "change the description of a key", ArgsUsage: "KEY TEXT",
			Description: `Example:
   kmsfs key describe alias/my-key "payroll, see the wiki"`,
			Action: func(c *cli.Context) error {
				args, err := arguments(c, 2, 2)
				if err != nil {
					return err
				}
				var k host.KeyInfo
				if err := call(c, host.CmdKeyDescribe, host.KeyDescribeArgs{Key: args[0], Description: args[1]}, &k); err != nil {
					return err
				}
				return show(c, k, func(io.Writer) {})
			},
		},
		{
			Name: "tag", Usage: "show or set the tags of a key", ArgsUsage: "KEY [NAME=VALUE...]",
			Description: `Policies see them as aws:ResourceTag/NAME.

Examples:
   kmsfs key tag alias/my-key
   kmsfs key tag alias/my-key team=payroll
   kmsfs key tag alias/my-key --remove team`,
			Flags:  []cli.Flag{&cli.StringSliceFlag{Name: "remove", Usage: "remove the tag `NAME`"}},
			Action: keyTag,
		},
		{
			Name: "import-material", Usage: "bring the material of a key made with --external", ArgsUsage: "KEY FILE|-",
			Description: `The material is 32 bytes, as they are. They are encrypted for the keystore (RSAES_OAEP_SHA_256) before they leave this
command. Material that expired or was deleted comes back only as the same bytes: keep them.

Examples:
   KEY=$(kmsfs key create --external --alias mine)
   openssl rand -out material.bin 32
   kmsfs key import-material $KEY material.bin --expires 2030-01-01T00:00:00Z`,
			Flags:  []cli.Flag{&cli.StringFlag{Name: "expires", Usage: "until `TIME` (RFC 3339), at most 365 days ahead", DefaultText: "never"}},
			Action: keyImportMaterial,
		},
		keyVerb("delete-material", "take imported material away", host.CmdKeyDeleteMaterial,
			"The key refuses every use until the same material is imported again."),
	}
}

func keyRotation(c *cli.Context) error {
	args, err := arguments(c, 1, 1)
	if err != nil {
		return err
	}
	a := host.KeyRotationArgs{Key: args[0], Enable: c.Bool("enable"), Disable: c.Bool("disable"), Days: c.Int("period")}
	switch {
	case a.Enable && a.Disable:
		return usage("--enable and --disable exclude each other")
	case c.IsSet("period") && !a.Enable:
		return usage("--period goes with --enable")
	}
	var r host.KeyRotation
	if err := call(c, host.CmdKeyRotation, a, &r); err != nil {
		return err
	}
	return show(c, r, func(w io.Writer) {
		table(w, func(row func(...string)) {
			row("automatic:", strconv.FormatBool(r.Enabled))
			if r.Enabled {
				row("period:", fmt.Sprintf("%d days", r.Days))
			}
			if r.Next != nil {
				row("next:", r.Next.Format(time.RFC3339))
			}
		})
		table(w, func(row func(...string)) {
			for _, m := range r.Materials {
				date := ""
				if m.Date != nil {
					date = m.Date.Format(time.RFC3339)
				}
				row(m.ID, m.State, m.Type, date)
			}
		})
	})
}

func keyTag(c *cli.Context) error {
	args, err := arguments(c, 1, -1)
	if err != nil {
		return err
	}
	a := host.KeyTagsArgs{Key: args[0], Remove: c.StringSlice("remove")}
	if a.Set, err = pairs(args[1:]); err != nil {
		return err
	}
	tags := []host.KeyTag{}
	if err := call(c, host.CmdKeyTags, a, &tags); err != nil {
		return err
	}
	if len(a.Set)+len(a.Remove) > 0 {
		return nil
	}
	return show(c, tags, func(w io.Writer) {
		for _, t := range tags {
			fmt.Fprintf(w, "%s=%s\n", oneLine(t.Key), oneLine(t.Value))
		}
	})
}

// materialSize is the length of a symmetric key's material in bytes.
const materialSize = 32

func keyImportMaterial(c *cli.Context) error {
	args, err := arguments(c, 2, 2)
	if err != nil {
		return err
	}
	a := host.KeyImportMaterialArgs{Key: args[0]}
	if c.IsSet("expires") {
		at, err := time.Parse(time.RFC3339, c.String("expires"))
		if err != nil {
			return usage("--expires takes a time like 2030-01-01T00:00:00Z")
		}
		a.Expires = &at
	}
	material, err := readMaterial(c, args[1])
	if err != nil {
		return err
	}
	defer clear(material)
	var p host.KeyImportParameters
	if err := call(c, host.CmdKeyImportParameters, host.KeyArgs{Key: args[0]}, &p); err != nil {
		return err
	}
	key, err := x509.ParsePKIXPublicKey(p.PublicKey)
	if err != nil {
		return fmt.Errorf("the keystore's import key: %w", err)
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok {
		return errors.New("the keystore's import key is not an RSA key")
	}
	if a.Encrypted, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, public, material, nil); err != nil {
		return fmt.Errorf("encrypt the material: %w", err)
	}
	a.Token = p.Token
	var k host.KeyInfo
	if err := call(c, host.CmdKeyImportMaterial, a, &k); err != nil {
		return err
	}
	return show(c, k, func(io.Writer) {})
}

// readMaterial reads exactly the bytes of a material.
func readMaterial(c *cli.Context, name string) ([]byte, error) {
	in := c.App.Reader
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, materialSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(b) != materialSize {
		clear(b)
		return nil, &usageError{msg: name + " does not hold 32 bytes", hint: "openssl rand -out FILE 32"}
	}
	return b, nil
}

func grantRetireCommand() *cli.Command {
	return &cli.Command{
		Name: "retire", Usage: "end a grant, by who may retire it", ArgsUsage: "KEY GRANT | --token TOKEN",
		Description: `The retiring principal of a grant, a grantee whose grant lists RetireGrant, and the account's root user may; no
policy allows it.

Examples:
   kmsfs --as alice grant retire alias/my-key 0c237476b39f8bc44e45212e08498fbe3151305030726c0590dd8d3e9f3d6a60
   kmsfs --as alice grant retire --token "$TOKEN"`,
		Flags: []cli.Flag{&cli.StringFlag{Name: "token", Usage: "the grant's `TOKEN`, which grant create --json shows"}},
		Action: func(c *cli.Context) error {
			a := host.GrantRetireArgs{Token: strings.TrimSpace(c.String("token"))}
			if c.IsSet("token") {
				if _, err := arguments(c, 0, 0); err != nil {
					return err
				}
				if a.Token == "" {
					return usage("the token is empty")
				}
			} else {
				args, err := arguments(c, 2, 2)
				if err != nil {
					return err
				}
				a.Key, a.Grant = args[0], args[1]
			}
			return call(c, host.CmdGrantRetire, a, nil)
		},
	}
}
