// Package integration holds the tests that look at the project as a whole:
// shell tests against real mounts (run.sh) and this one, which walks the
// import graph.
package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/kmsfs/kmsfs/"

// room is one directory of the project and what its production code may
// import of the project. Imports run downward only: the floor of whatever is
// imported is lower, or equal where the room is named.
type room struct {
	path  string // directory, or with a trailing "/*" every one below it that has no row of its own
	floor int
	may   []string
}

// The vocabulary of floor 0 that the neighbours of a room need to speak with
// it: policy documents and decisions, audit events, control messages.
var vocabulary = []string{"crypto", "principals/policy", "keystore/audit"}

var rooms = []room{
	{"crypto", 0, nil},
	{"fs/kv", 0, nil},
	{"fs/extent", 0, nil},
	{"principals/policy", 0, nil},
	{"keystore/audit", 0, nil},
	{"mount/control", 0, nil},

	{"crypto/*", 1, []string{"crypto"}},
	{"fs/kv/*", 1, []string{"fs/kv", "crypto"}},
	{"fs/kv/badgerkv", 1, []string{"fs/kv", "fs/kv/badgerkv/redo"}},
	{"fs/extent/*", 1, []string{"fs/extent", "crypto"}},

	{"fs/meta", 2, []string{"fs/kv", "crypto", "crypto/wrap", "fs/extent"}},
	{"keystore", 2, []string{"fs/kv", "fs/kv/ledger", "crypto", "crypto/wrap", "principals/policy", "keystore/audit"}},
	{"keystore/rootkey", 2, []string{"crypto", "crypto/wrap"}},
	{"keystore/escrow", 2, []string{"keystore"}},
	{"principals", 2, []string{"fs/kv", "fs/kv/ledger", "crypto", "principals/policy"}},

	{"fs", 3, []string{"fs/meta", "fs/kv", "fs/extent", "crypto", "crypto/block"}},
	{"fs/check", 3, []string{"fs/meta", "fs/kv", "fs/extent", "crypto", "crypto/block"}},
	{"fs/backup", 3, []string{"fs/meta", "fs/kv", "fs/extent", "crypto"}},
	{"fs/gc", 3, []string{"fs/meta", "fs/kv", "fs/extent", "crypto", "crypto/block"}},

	{"mount", 4, append([]string{"fs", "keystore", "principals"}, vocabulary...)},
	{"mount/fusefs", 4, []string{"mount"}},

	{"mount/host", 5, append([]string{"mount", "mount/fusefs", "mount/control", "keystore", "keystore/rootkey", "keystore/escrow", "principals", "fs"}, vocabulary...)},
	{"keystore/kmsapi", 5, append([]string{"keystore", "principals"}, vocabulary...)},

	{"cmd/*", 6, []string{"*"}},
	{"integration", 6, nil},
	{"integration/*", 6, nil},
}

// Modules that have one home each.
var homes = map[string][]string{
	"github.com/hanwen/go-fuse": {"mount/fusefs", "integration/bench/loopback"},
	"github.com/dgraph-io":      {"fs/kv/badgerkv"},
	"github.com/urfave/cli":     {"cmd/kmsfs"},
	"filippo.io/age":            {"keystore/escrow"},
	"github.com/aws":            {"keystore/kmsapi"}, // its tests: the protocol is spoken to an unmodified client
	"github.com/Azure":          nil,
	"cloud.google.com":          nil,
}

func roomOf(path string) *room {
	for i := range rooms {
		if rooms[i].path == path {
			return &rooms[i]
		}
	}
	for i := range rooms {
		if above, ok := strings.CutSuffix(rooms[i].path, "*"); ok && strings.HasPrefix(path, above) {
			return &rooms[i]
		}
	}
	return nil
}

type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	Error                              *struct{ Err string }
}

// list asks the go tool for the packages of the module. It looks at every
// source file first, so that a cached result of this test is not used after
// one has changed: the go tool does not see what a child process reads.
func list(t *testing.T) []listed {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir() && (d.Name() == ".git" || d.Name() == "demo"):
			return fs.SkipDir
		case strings.HasSuffix(path, ".go"):
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports,Error", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

// TestFloors fails on an import that the table does not allow. Tests may
// import what lies at or below their own floor: conformance suites, engines
// in memory.
func TestFloors(t *testing.T) {
	for _, p := range list(t) {
		path, ok := strings.CutPrefix(p.ImportPath, module)
		if !ok {
			continue
		}
		from := roomOf(path)
		if from == nil {
			t.Errorf("%s has no row in the table of floors", path)
			continue
		}
		for _, imp := range p.Imports {
			if to, ok := strings.CutPrefix(imp, module); ok && !from.mayImport(to) {
				t.Errorf("%s (floor %d) must not import %s", path, from.floor, to)
			}
		}
		for _, imp := range append(p.TestImports, p.XTestImports...) {
			to, ok := strings.CutPrefix(imp, module)
			if !ok {
				continue
			}
			if r := roomOf(to); r == nil || r.floor > from.floor {
				t.Errorf("a test of %s (floor %d) must not import %s, which is higher up", path, from.floor, to)
			}
		}
		for _, imp := range append(append(p.Imports, p.TestImports...), p.XTestImports...) {
			checkHome(t, path, imp)
		}
	}
}

func (r *room) mayImport(path string) bool {
	to := roomOf(path)
	if to == nil || to.floor > r.floor {
		return false
	}
	for _, m := range r.may {
		if m == path || m == "*" {
			return true
		}
	}
	return false
}

func checkHome(t *testing.T, path, imp string) {
	t.Helper()
	for foreign, allowed := range homes {
		if imp != foreign && !strings.HasPrefix(imp, foreign+"/") {
			continue
		}
		at := false
		for _, a := range allowed {
			at = at || a == path
		}
		if !at {
			t.Errorf("%s imports %s, whose place is %v", path, imp, allowed)
		}
	}
}

// TestTableItself keeps the table honest: what a row allows exists as a row,
// and is not above it.
func TestTableItself(t *testing.T) {
	for _, r := range rooms {
		for _, m := range r.may {
			if m == "*" {
				continue
			}
			to := roomOf(m)
			if to == nil {
				t.Errorf("%s may import %s, which is no room", r.path, m)
			} else if to.floor > r.floor {
				t.Errorf("%s (floor %d) may import %s (floor %d): imports run downward", r.path, r.floor, m, to.floor)
			}
		}
	}
}
