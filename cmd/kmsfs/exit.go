package main

import (
	"fmt"
	"strings"
)

// The exit statuses are an interface: scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitBusy        = 3
	exitLocked      = 4
	exitDamaged     = 5
	exitUnsupported = 6
	exitHungUp      = 7
	exitInterrupted = 130
)

// exitTable is what the help shows.
var exitTable = []struct {
	code int
	text string
}{
	{exitOK, "done"},
	{exitFailed, "refused or failed"},
	{exitUsage, "wrong usage"},
	{exitBusy, "another process holds the store"},
	{exitLocked, "the store cannot be unlocked (wrong passphrase, missing key file)"},
	{exitDamaged, "the store is damaged or was tampered with"},
	{exitUnsupported, "the store needs another version of kmsfs"},
	{exitHungUp, "the daemon went away before it answered"},
	{exitInterrupted, "interrupted"},
}

func exitHelp() string {
	var b strings.Builder
	for _, e := range exitTable {
		fmt.Fprintf(&b, "   %3d  %s\n", e.code, e.text)
	}
	return b.String()
}
