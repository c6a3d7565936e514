// Command loopback mounts a directory on another through go-fuse and does
// nothing else: no encryption, no policy, no metadata of its own. It is the
// peer that shows what FUSE itself costs. Where go-fuse may, it has the kernel
// pass reads of an open file through to the file below, which then shows what
// the disk costs instead; -passthrough allows that.
//
//	loopback [-passthrough] MOUNTPOINT BACKING
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "loopback:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	depth := -1 // of stacked file systems: none that the kernel allows, so that it passes nothing through
	if len(args) > 0 && args[0] == "-passthrough" {
		depth, args = 1, args[1:]
	}
	if len(args) != 2 {
		return fmt.Errorf("usage: loopback [-passthrough] MOUNTPOINT BACKING")
	}
	root, err := fs.NewLoopbackRoot(args[1])
	if err != nil {
		return fmt.Errorf("open %s: %w", args[1], err)
	}
	second := time.Second
	server, err := fs.Mount(args[0], root, &fs.Options{
		EntryTimeout: &second,
		AttrTimeout:  &second,
		MountOptions: fuse.MountOptions{Name: "loopback", FsName: args[1], MaxWrite: 1 << 20, DirectMount: true, MaxStackDepth: depth},
	})
	if err != nil {
		return fmt.Errorf("mount %s: %w", args[0], err)
	}
	server.Wait()
	return nil
}
