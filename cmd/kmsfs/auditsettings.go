package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kmsfs/kmsfs/mount/host"
)

func cmdAuditKeep() *cli.Command {
	return &cli.Command{
		Name: "keep", Usage: "show or set how the log is kept",
		Description: `The log is a row of files. A file ends at --file-size or, with the next event, at --file-age.
The oldest files are removed when all together exceed --size, or when their youngest event is
older than --age; nothing is removed unless one of the two is set. An event in the log tells
what was removed, and verify goes on from there. With --strict on, each event is on disk
before a key is handed out.

Sizes are like 64MiB or 10GiB, ages like 90m, 12h or 400d; "off" takes a limit away.
Changing anything needs cloudtrail:UpdateTrail.

Examples:
   kmsfs audit keep
   kmsfs audit keep --file-age 1d --age 400d --size 20GiB
   kmsfs audit keep --strict on`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "strict", Usage: "`ON` or off"},
			&cli.StringFlag{Name: "file-size", Usage: "a file ends at `SIZE`"},
			&cli.StringFlag{Name: "file-age", Usage: "a file ends when its first event has this `AGE`"},
			&cli.StringFlag{Name: "size", Usage: "keep at most `SIZE` in all"},
			&cli.StringFlag{Name: "age", Usage: "keep events up to `AGE`"},
		},
		Action: auditKeep,
	}
}

func auditKeep(c *cli.Context) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	var a host.AuditKeepArgs
	if c.IsSet("strict") {
		on := c.String("strict") == "on"
		if !on && c.String("strict") != "off" {
			return usage("--strict is on or off, not %q", c.String("strict"))
		}
		a.Strict = &on
	}
	for _, f := range []struct {
		name  string
		to    **int64
		parse func(string) (int64, bool)
	}{
		{"file-size", &a.MaxFileSize, parseSize},
		{"size", &a.KeepSize, parseSize},
		{"file-age", &a.MaxFileAge, parseAge},
		{"age", &a.KeepAge, parseAge},
	} {
		if !c.IsSet(f.name) {
			continue
		}
		n, ok := f.parse(c.String(f.name))
		if !ok {
			return usage("--%s: %q is neither like 64MiB or 400d, nor off", f.name, c.String(f.name))
		}
		*f.to = &n
	}
	var k host.AuditKeep
	if err := call(c, host.CmdAuditKeep, a, &k); err != nil {
		return err
	}
	return show(c, k, func(w io.Writer) {
		table(w, func(row func(...string)) {
			strict := "off"
			if k.Strict {
				strict = "on"
			}
			row("strict:", strict)
			row("file size:", sizeText(k.MaxFileSize))
			row("file age:", ageText(k.MaxFileAge))
			row("keep size:", sizeText(k.KeepSize))
			row("keep age:", ageText(k.KeepAge))
		})
	})
}

// The units of sizes, in bytes, the largest first.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// parseSize reads "64MiB", "4096" or "off", which is 0.
func parseSize(s string) (int64, bool) {
	if s == "off" {
		return 0, true
	}
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok && u.bytes > 1 {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		return n * u.bytes, err == nil && n > 0 && n <= math.MaxInt64/u.bytes
	}
	return 0, false
}

const secondsOfDay = 24 * 60 * 60

// parseAge reads "400d", what time.ParseDuration reads, or "off", which is 0. The result is in seconds.
func parseAge(s string) (int64, bool) {
	if s == "off" {
		return 0, true
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 64)
		return n * secondsOfDay, err == nil && n > 0 && n <= math.MaxInt64/secondsOfDay
	}
	d, err := time.ParseDuration(s)
	return int64(d / time.Second), err == nil && d >= time.Second
}

func sizeText(n int64) string {
	if n == 0 {
		return "no limit"
	}
	for _, u := range sizeUnits {
		if n%u.bytes == 0 {
			return fmt.Sprintf("%d %s", n/u.bytes, u.name)
		}
	}
	return strconv.FormatInt(n, 10)
}

func ageText(seconds int64) string {
	switch {
	case seconds == 0:
		return "no limit"
	case seconds%secondsOfDay == 0:
		return fmt.Sprintf("%d d", seconds/secondsOfDay)
	}
	return (time.Duration(seconds) * time.Second).String()
}
