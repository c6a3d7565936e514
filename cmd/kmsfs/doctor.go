package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/keystore/rootkey"
	"github.com/kmsfs/kmsfs/mount/host"
)

// finding is one thing that doctor looked at.
type finding struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	Note string `json:"note,omitempty"` // what was found, or what to do
}

func cmdDoctor() *cli.Command {
	return &cli.Command{
		Name: "doctor", Category: catLook, Usage: "check this machine and the store's surroundings",
		Description: `It looks, changes nothing, and unlocks nothing. The exit status is 1 if something is wrong.

Example:
   kmsfs doctor`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0); err != nil {
				return err
			}
			dir, err := storeDir(c)
			if err != nil {
				return err
			}
			found := append(examineMachine(), examineStore(c, dir)...)
			bad := 0
			for _, f := range found {
				if !f.OK {
					bad++
				}
			}
			if err := show(c, found, func(w io.Writer) {
				table(w, func(row func(...string)) {
					for _, f := range found {
						mark := "ok"
						if !f.OK {
							mark = "WRONG"
						}
						row(mark, f.What, f.Note)
					}
				})
			}); err != nil {
				return err
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d checks found something wrong", bad, len(found))
			}
			return nil
		},
	}
}

func examineMachine() []finding {
	var out []finding
	add := func(what string, ok bool, format string, a ...any) {
		out = append(out, finding{what, ok, fmt.Sprintf(format, a...)})
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		add("kernel", true, "%s", unix.ByteSliceToString(uts.Release[:]))
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		_ = f.Close()
		add("/dev/fuse", true, "can be opened")
	} else {
		add("/dev/fuse", false, "%v: load the module (modprobe fuse), or give the container the device", err)
	}
	if os.Geteuid() != 0 {
		path, err := exec.LookPath("fusermount3")
		if err != nil {
			add("fusermount3", false, "not found: install the package fuse3, through which users mount")
		} else {
			add("fusermount3", true, "%s", path)
		}
	}
	swaps, _ := os.ReadFile("/proc/swaps")
	if n := strings.Count(string(swaps), "\n") - 1; n > 0 {
		add("swap", true, "%d in use: keys in memory may be written there; encrypt it", n)
	} else {
		add("swap", true, "none")
	}
	return out
}

func examineStore(c *cli.Context, dir string) []finding {
	var out []finding
	add := func(what string, ok bool, format string, a ...any) {
		out = append(out, finding{what, ok, fmt.Sprintf(format, a...)})
	}
	info, err := rootkey.Read(dir)
	if err != nil {
		add("store", false, "%v", err)
		return out
	}
	add("store", true, "%s, format %d, account %s, region %s", dir, info.Version, info.Account, info.Region)
	for _, name := range []string{rootkey.HeaderFile, rootkey.DefaultKeyFile, fileShred, fileEpoch, dirSegments, dirAudit} {
		st, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if mode := st.Mode().Perm(); mode&0o077 != 0 {
			add("mode of "+name, false, "%#o lets other users in: chmod go= %s", mode, filepath.Join(dir, name))
		}
	}
	if who, err := couldReplace(dir, uint32(os.Geteuid())); err != nil {
		add("directories above", false, "%v", err)
	} else if who != "" {
		add("directories above", false, "%s: who may write there can put another store in this one's place", who)
	}
	kinds := []string{}
	for _, s := range info.Slots {
		kinds = append(kinds, string(s.Kind))
	}
	add("unlock slots", true, "%s", strings.Join(kinds, ", "))
	var fsinfo unix.Statfs_t
	if err := unix.Statfs(dir, &fsinfo); err == nil {
		free := fsinfo.Bavail * uint64(fsinfo.Bsize) >> 20
		add("free space", free >= 256, "%d MiB where the store is", free)
	}
	if answers(c, dir) {
		add("daemon", true, "runs")
	} else {
		add("daemon", true, "does not run")
	}
	left, err := host.StoreMounts(info.StoreID)
	switch {
	case err != nil:
		add("mounts", false, "%v", err)
	case len(left) > 0 && !answers(c, dir):
		add("mounts", false, "left by a dead daemon: %s; kmsfs umount DIR", strings.Join(left, ", "))
	default:
		add("mounts", true, "%d", len(left))
	}
	return out
}

// couldReplace looks for a directory above a store, on the way to it as it is written and as it is without links, in which somebody other than
// root and the owner may give names: "" if there is none.
func couldReplace(dir string, owner uint32) (what string, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	for _, at := range []string{dir, real} {
		for at != "/" {
			at = filepath.Dir(at)
			st, err := os.Stat(at)
			if err != nil {
				return "", err
			}
			uid, err := ownerOf(st)
			if err != nil {
				return "", err
			}
			switch {
			case uid != 0 && uid != owner:
				return fmt.Sprintf("%s belongs to uid %d", at, uid), nil
			case st.Mode()&(0o002|os.ModeSticky) == 0o002:
				return at + " may be written by everybody", nil
			}
		}
	}
	return "", nil
}
