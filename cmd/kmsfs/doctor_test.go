package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCouldReplace: a store below a directory in which others may give names is not safe from being replaced, whichever way leads there.
func TestCouldReplace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give directories away")
	}
	const root, alice, bob = 0, 4242, 4343
	top := t.TempDir()
	mk := func(name string, uid int, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(top, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mk("roots", root, 0o755)
	mk("roots/store", root, 0o755)
	mk("alices", alice, 0o755)
	mk("alices/roots", root, 0o755)
	mk("alices/store", alice, 0o755)
	mk("open", root, 0o777)
	mk("open/store", root, 0o755)
	mk("sticky", root, 0o777|os.ModeSticky)
	mk("sticky/store", root, 0o755)
	if err := os.Symlink(filepath.Join(top, "roots"), filepath.Join(top, "alices", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(top, "alices"), filepath.Join(top, "to-alices")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir   string
		owner uint32
		want  string
	}{
		{"roots/store", root, ""},
		{"roots/store", alice, ""},
		{"alices/roots", root, "belongs to uid 4242"},
		{"alices/store", alice, ""},
		{"alices/store", bob, "belongs to uid 4242"},
		{"alices/link/store", root, "belongs to uid 4242"}, // she may point the link elsewhere
		{"to-alices/roots", root, "belongs to uid 4242"},
		{"open/store", root, "written by everybody"},
		{"sticky/store", root, ""},
	} {
		got, err := couldReplace(filepath.Join(top, c.dir), c.owner)
		if err != nil || !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s for uid %d: %q %v, want %q", c.dir, c.owner, got, err, c.want)
		}
	}
}
