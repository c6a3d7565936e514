// Command kmsfs is directories with the encryption model of Amazon S3 and KMS.
//
// One file per noun: each has a function cmdX that returns the command, turns
// flags into one of mount/host's argument structs, and prints the result.
// What a command does is written once, in mount/host, and runs either in the
// daemon or, when none serves the store, right here (conn.go). The concrete
// rooms of a store are put together in one function, openStore (wire.go).
//
// stdout carries data and nothing else; messages, hints and questions go to
// stderr. With --json every command prints JSON. The exit statuses are in
// exit.go, the advice that goes with errors in errors.go.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	app := newApp(streams{os.Stdin, os.Stdout, os.Stderr})
	app.Metadata[isProgram] = true
	code := runApp(ctx, app, os.Args)
	stop()
	os.Exit(code)
}

// streams are where a run reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// isProgram is an app's metadata that says: this process is the program itself, and no test of it.
const isProgram = "program"

// metaBetween is an app's metadata that sets openOptions.Rows and Extents of a daemon, which only a test does.
const metaBetween = "between"

// run is the whole program: it returns the exit status.
func run(ctx context.Context, args []string, s streams) int { return runApp(ctx, newApp(s), args) }

func runApp(ctx context.Context, app *cli.App, args []string) int {
	args, err := reorder(app, args)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	if err == nil {
		err = app.Metadata[metaOutput].(*output).finish()
	}
	if err == nil {
		return exitOK
	}
	return report(ctx, app.ErrWriter, err)
}

// metaOutput is where an app keeps its output.
const metaOutput = "output"

// output is standard output that knows whether anything was written. A command
// that has nothing to say says {} with --json, so that its output is JSON; one
// that prints a line for each of many things prints none.
type output struct {
	io.Writer
	json, lines, wrote bool
}

func (o *output) Write(p []byte) (int, error) {
	o.wrote = o.wrote || len(p) > 0
	return o.Writer.Write(p)
}

func (o *output) finish() error {
	if !o.json || o.lines || o.wrote {
		return nil
	}
	return printLine(o, struct{}{})
}
