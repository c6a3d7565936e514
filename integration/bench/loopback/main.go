// Command loopback mounts a directory on another through go-fuse and does
// nothing else: no encryption, no policy, no metadata of its own. It is the
// peer that shows what FUSE itself costs.
//
//	loopback MOUNTPOINT BACKING
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
	if len(args) != 2 {
		return fmt.Errorf("usage: loopback MOUNTPOINT BACKING")
	}
	root, err := fs.NewLoopbackRoot(args[1])
	if err != nil {
		return fmt.Errorf("open %s: %w", args[1], err)
	}
	second := time.Second
	server, err := fs.Mount(args[0], root, &fs.Options{
		EntryTimeout: &second,
		AttrTimeout:  &second,
		MountOptions: fuse.MountOptions{Name: "loopback", FsName: args[1], MaxWrite: 1 << 20, DirectMount: true},
	})
	if err != nil {
		return fmt.Errorf("mount %s: %w", args[0], err)
	}
	server.Wait()
	return nil
}
