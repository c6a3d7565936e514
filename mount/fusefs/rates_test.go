package fusefs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRates prints what a mount over memory does per second, also while a second mount has the
// same tree cached.
func TestRates(t *testing.T) {
	w := newWorld(t)
	w.user("alice", "AmazonS3FullAccess")
	w.bucket("bucket")
	a, b := w.mount("admin", Options{}), w.mount("alice", Options{})
	out, err := child(t, "rates", nil, filepath.Join(a, "bucket"), filepath.Join(b, "bucket")).CombinedOutput()
	must(t, err)
	t.Logf("%s", out)
}

func ratesChild(t *testing.T, dirs []string) {
	files := scale(300, 3000)
	buf := make([]byte, 4096)
	name := func(d, i int) string { return filepath.Join(dirs[d], fmt.Sprintf("d%d", i%10), fmt.Sprintf("f%d", i)) }
	for i := range 10 {
		must(t, os.Mkdir(filepath.Dir(name(0, i)), 0o755))
	}
	rate := func(what string, fn func(i int) error) {
		began := time.Now()
		for i := range files {
			must(t, fn(i))
		}
		t.Logf("%-28s %8.0f/s", what, float64(files)/time.Since(began).Seconds())
	}
	rate("create+write+close", func(i int) error { return os.WriteFile(name(0, i), buf, 0o644) })
	rate("stat, warm", func(i int) error { _, err := os.Stat(name(0, i)); return err })
	rate("open+read+close, warm", func(i int) error { _, err := os.ReadFile(name(0, i)); return err })
	rate("stat, cold", func(i int) error { _, err := os.Stat(name(1, i)); return err })
	rate("open+read+close, cold", func(i int) error { _, err := os.ReadFile(name(1, i)); return err })
	rate("overwrite, cached elsewhere", func(i int) error { return os.WriteFile(name(0, i), buf, 0o644) })
	rate("overwrite, not cached", func(i int) error { return os.WriteFile(name(0, i), buf, 0o644) })
	for i := range 10 {
		_, err := os.ReadDir(filepath.Dir(name(1, i)))
		must(t, err)
	}
	rate("unlink, half cached elsewhere", func(i int) error { return os.Remove(name(0, i)) })
	big := filepath.Join(dirs[0], "big")
	f, err := os.Create(big)
	must(t, err)
	began, mib := time.Now(), scale(32, 256)
	chunk := make([]byte, 1<<20)
	for range mib {
		_, err := f.Write(chunk)
		must(t, err)
	}
	must(t, f.Close())
	t.Logf("%-28s %8.0f MiB/s", "write", float64(mib)/time.Since(began).Seconds())
	began = time.Now()
	f, err = os.Open(filepath.Join(dirs[1], "big"))
	must(t, err)
	for range mib {
		_, err := f.Read(chunk)
		must(t, err)
	}
	must(t, f.Close())
	t.Logf("%-28s %8.0f MiB/s", "read, cold", float64(mib)/time.Since(began).Seconds())
}
