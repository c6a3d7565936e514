package fusefs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

func childFunc(name string) func(*testing.T, []string) {
	if p, ok := strings.CutPrefix(name, "posix/"); ok {
		fn := posixtest.All[p]
		return func(t *testing.T, dirs []string) { fn(t, dirs[0]) }
	}
	return childBodies()[name]
}

// TestPosix runs go-fuse's conformance tests in a bucket of a real mount.
func TestPosix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.bucket("posix")
	dir := w.mount("admin", Options{})
	for name := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "FcntlFlockLocksFile" {
				t.Skip("expects POSIX locks of one process to exclude each other, which they never do; go-fuse leaves it out too")
			}
			sub := filepath.Join(dir, "posix", name)
			inChild(t, "mkdir", sub)
			inChild(t, "posix/"+name, sub)
		})
	}
}

// mkdir is a child of its own, so that the parent never touches the mount.
func mkdirChild(t *testing.T, dirs []string) {
	for _, d := range dirs {
		must(t, os.MkdirAll(d, 0o777))
	}
}
