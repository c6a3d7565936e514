package crash

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHarness runs a worker in this process, on an ordinary directory, and the verifier on what it left: first as it is, then with
// one thing after another spoiled, each of which the verifier must notice.
func TestHarness(t *testing.T) {
	for _, power := range []bool{false, true} {
		t.Run(fmt.Sprintf("power=%v", power), func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Setxattr(dir, "user.a0", []byte("1"), 0); err != nil {
				t.Skip("needs extended attributes: ", err)
			}
			x := task{
				Mounts: []string{dir, dir}, Dir: "work", Journal: filepath.Join(dir, "journal"), Seed: 7, Ops: 600, Max: 20_000,
				Power: power, Keys: []string{"AES256"}, Plain: true,
			}
			root := filepath.Join(dir, x.Dir)
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := runWorker(x); err != nil {
				t.Fatal(err)
			}
			look := func() string {
				problems, err := verify(x)
				if err != nil {
					t.Fatal(err)
				}
				return strings.Join(problems, "\n")
			}
			if p := look(); p != "" {
				t.Fatal("an ordinary directory keeps no promises: ", p)
			}
			m := newModel(power)
			done, _, _, _, err := readJournal(x.Journal)
			if err != nil || len(done) != x.Ops {
				t.Fatal(len(done), err)
			}
			for _, o := range done {
				m.apply(o)
			}
			// A file that was closed, or with power synced, and has some content.
			var name string
			for p, n := range m.files {
				if len(n.pending) == 0 && len(n.content) > 5000 && strings.Count(m.tree()[p], `"`) == 4 {
					name = filepath.Join(root, p)
				}
			}
			if name == "" {
				t.Fatal("the seed leaves no file to spoil")
			}
			good, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			spoil := func(what string, do, undo func() error) {
				if err := do(); err != nil {
					t.Fatal(what, err)
				}
				if look() == "" {
					t.Errorf("%s: the verifier sees nothing", what)
				}
				if err := undo(); err != nil {
					t.Fatal(what, err)
				}
				if p := look(); p != "" {
					t.Fatalf("%s, undone: %s", what, p)
				}
			}
			restore := func() error { return os.WriteFile(name, good, 0o644) }
			with := func(change func(b []byte) []byte) func() error {
				return func() error { return os.WriteFile(name, change(append([]byte(nil), good...)), 0o644) }
			}
			spoil("a flipped bit", with(func(b []byte) []byte { b[4321] ^= 1; return b }), restore)
			spoil("a hole", with(func(b []byte) []byte {
				at := bytes.IndexFunc(b, func(r rune) bool { return r != 0 })
				clear(b[at:min(at+2000, len(b))])
				return b
			}), restore)
			spoil("a lost tail", with(func(b []byte) []byte { return b[:len(b)-1] }), restore)
			spoil("a longer tail", with(func(b []byte) []byte { return append(b, 0) }), restore)
			spoil("moved bytes", with(func(b []byte) []byte {
				at := bytes.IndexFunc(b[:len(b)-900], func(r rune) bool { return r != 0 })
				copy(b[at+8:], b[at:at+800])
				return b
			}), restore)
			if !power { // with it, names are only sure up to the last fsync
				aside := filepath.Join(dir, "aside")
				spoil("a lost name", func() error { return os.Rename(name, aside) }, func() error { return os.Rename(aside, name) })
				spoil("another attribute", func() error { return unix.Setxattr(name, "user.a2", []byte("0-5000|"), 0) },
					func() error { return unix.Removexattr(name, "user.a2") })
			}
			extra := filepath.Join(root, "nobody-made-this")
			spoil("a file nobody made", func() error { return os.WriteFile(extra, nil, 0o644) }, func() error { return os.Remove(extra) })
		})
	}
}
