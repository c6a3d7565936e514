package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// reorder lets flags stand anywhere, as the documented usage has them
// ("grant create KEY --grantee P"), although the flag package wants them
// first: within the command that is called, flags go before arguments, and
// global flags before the command. Nothing behind "--" moves.
func reorder(app *cli.App, args []string) ([]string, error) {
	if len(args) < 2 || slices.Contains(args, "--generate-bash-completion") {
		return args, nil
	}
	global := flagKinds(app.Flags)
	var front, path, flags, rest []string
	commands := app.Commands
	local := map[string]bool{}
	descending := true
	for i := 1; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			rest = append(rest, args[i+1:]...)
			i = len(args)
		case len(arg) > 1 && arg[0] == '-':
			name := strings.TrimLeft(arg, "-")
			name, _, hasValue := strings.Cut(name, "=")
			to := &flags
			takes, known := local[name]
			if !known {
				if takes, known = global[name]; known || len(path) == 0 {
					to = &front
				}
			}
			*to = append(*to, arg)
			if known && takes && !hasValue {
				if i+1 == len(args) {
					return nil, usage("the flag %s needs a value", arg)
				}
				i++
				*to = append(*to, args[i])
			}
		case descending:
			c := find(commands, arg)
			if c == nil {
				descending = false
				rest = append(rest, arg)
				continue
			}
			path = append(path, arg)
			commands, local = c.Subcommands, flagKinds(c.Flags)
			descending = len(commands) > 0
		default:
			rest = append(rest, arg)
		}
	}
	out := slices.Concat(args[:1], front, path, flags)
	if len(rest) > 0 {
		out = append(append(out, "--"), rest...)
	}
	return out, nil
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// flagKinds maps each flag's names to whether it takes a value.
func flagKinds(flags []cli.Flag) map[string]bool {
	kinds := map[string]bool{"help": false, "h": false}
	for _, f := range flags {
		_, isBool := f.(*cli.BoolFlag)
		for _, name := range f.Names() {
			kinds[name] = !isBool
		}
	}
	return kinds
}
