package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdAudit() *cli.Command {
	return &cli.Command{
		Name:     "audit",
		Category: catLook,
		Usage:    "the log of every key decision",
		Description: `Reading it needs cloudtrail:LookupEvents. With --json events are printed as CloudTrail has them,
one a line.

Example:
   kmsfs audit query --denied --principal bob`,
		Subcommands: []*cli.Command{
			{
				Name: "tail", Usage: "show the latest events",
				Description: `Example:
   kmsfs audit tail -f`,
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on as events come"},
					&cli.IntFlag{Name: "lines", Aliases: []string{"n"}, Value: 10, Usage: "begin with the last `N`"},
				},
				Action: func(c *cli.Context) error {
					if _, err := arguments(c, 0, 0); err != nil {
						return err
					}
					if c.Int("lines") < 0 || c.Int("lines") > host.MaxTail {
						return usage("--lines must be 0 to %d", host.MaxTail)
					}
					return printEvents(c, host.CmdAuditTail, host.AuditArgs{Follow: c.Bool("follow"), Last: c.Int("lines")})
				},
			},
			{
				Name: "query", Usage: "search the log",
				Description: `Example:
   kmsfs audit query --key alias/my-key --denied`,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "key", Usage: "events about `KEY`"},
					&cli.StringFlag{Name: "principal", Usage: "events by `PRINCIPAL`"},
					&cli.BoolFlag{Name: "denied", Usage: "only refusals"},
				},
				Action: func(c *cli.Context) error {
					if _, err := arguments(c, 0, 0); err != nil {
						return err
					}
					return printEvents(c, host.CmdAuditQuery, host.AuditArgs{
						Key: c.String("key"), Principal: c.String("principal"), Denied: c.Bool("denied"),
					})
				},
			},
			{
				Name: "verify", Usage: "check that no event was changed or removed",
				Description: `Example:
   kmsfs audit verify`,
				Action: auditVerify,
			},
			cmdAuditKeep(),
		},
	}
}

func printEvents(c *cli.Context, command string, args host.AuditArgs) error {
	return stream(c, command, args, nil, func(raw json.RawMessage) error {
		if c.Bool("json") {
			return printLine(c.App.Writer, raw)
		}
		e, err := audit.ParseEvent(raw)
		if err != nil {
			return err
		}
		_, err = io.WriteString(c.App.Writer, eventLine(&e)+"\n")
		return err
	})
}

// eventLine is an event on one line: when, who, what, on which key, outcome.
func eventLine(e *audit.Event) string {
	who := e.UserIdentity.UserName
	if who == "" {
		who = e.UserIdentity.ARN
	}
	if who == "" {
		who = e.UserIdentity.InvokedBy
	}
	outcome := "allowed"
	if e.ErrorCode != "" {
		outcome = e.ErrorCode
		if e.ErrorMessage != "" {
			outcome += ": " + e.ErrorMessage
		}
	}
	var on []string
	for _, r := range e.Resources {
		on = append(on, r.ARN)
	}
	line := fmt.Sprintf("%s %s %s %s %s", e.EventTime.UTC().Format("2006-01-02T15:04:05Z"), dash(who), e.EventName, dash(strings.Join(on, ",")), outcome)
	if o := e.AdditionalEventData; o != nil && o.Kmsfs != nil && o.Kmsfs.Path != "" {
		line += " (" + o.Kmsfs.Op + " " + o.Kmsfs.Path + ")"
	}
	return oneLine(line)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func auditVerify(c *cli.Context) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	var r host.AuditReport
	if err := call(c, host.CmdAuditVerify, host.NoArgs{}, &r); err != nil {
		return err
	}
	if err := show(c, r, func(w io.Writer) {
		if len(r.Breaks) == 0 {
			fmt.Fprintf(w, "%d events, none changed or missing\n", r.Events)
		}
		if r.First > 1 {
			fmt.Fprintf(w, "the log begins with event %d: older ones were removed as its settings say\n", r.First)
		}
		for _, b := range r.Breaks {
			fmt.Fprintln(w, oneLine(b))
		}
	}); err != nil {
		return err
	}
	if len(r.Breaks) > 0 {
		places := "one place"
		if n := len(r.Breaks); n > 1 {
			places = fmt.Sprint(n, " places")
		}
		return &hinted{fmt.Errorf("the audit log is broken in %s", places), "the events that are named were removed or changed; compare the log with a backup of the store", exitDamaged}
	}
	return nil
}
