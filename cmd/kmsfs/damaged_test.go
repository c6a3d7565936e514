package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/fs/check"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/badgerkv"
)

// TestDamagedRows damages one row of a store in turn. Where the rest can be used without it, or the row can be computed anew, the store
// opens and says what is damaged; where not, the refusal says which row it is and what it means.
func TestDamagedRows(t *testing.T) {
	dir := cleanEnv(t)
	if code, _, stderr := kmsfs(t, "init", "--admin", "admin"); code != exitOK {
		t.Fatal(stderr)
	}
	var limited, other uint64
	withStore(t, dir, io.Discard, func(s *store, u *hand) {
		for _, b := range []string{"limited", "other"} {
			u.mkdir(b)
			u.write(b+"/small", 100)
			u.write(b+"/large", 100_000)
		}
		u.set("limited", "user.s3.quota", "bytes=1000000")
		all, err := s.volume.Buckets()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			a, err := s.volume.Lookup(1, b.Name)
			if err != nil {
				t.Fatal(err)
			}
			if b.Name == "limited" {
				limited = uint64(a.Ino)
			} else {
				other = uint64(a.Ino)
			}
		}
	})
	good, crashed := t.TempDir(), t.TempDir()
	copyStore := func(from, to string) {
		t.Helper()
		if out, err := exec.Command("cp", "-a", "--sparse=always", from+"/.", to).CombinedOutput(); err != nil {
			t.Fatal(string(out))
		}
	}
	copyStore(dir, good)
	withStore(t, dir, io.Discard, func(s *store, u *hand) { // as a crash leaves it, with an epoch that is not closed
		u.write("other/late", 100_000)
		u.ok(s.kv.Sync())
		copyStore(dir, crashed)
	})
	ino := func(kind byte, n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{kind}, n) }
	for _, c := range []struct {
		name    string
		row     []byte // the begin of its key
		refused string // what the refusal says; "": the store opens
		log     string
		clean   bool // fsck finds nothing any more
		reads   []string
	}{
		{"counters of a quota", ino('q', limited), "", "counters of a bucket's quota are damaged: it is counted anew", true, []string{"limited", "other"}},
		{"entry of a bucket", ino('d', 1), "", "list of buckets is damaged", false, nil},
		{"inode of a bucket with a quota", ino('i', limited), "", "a bucket cannot be read", false, []string{"other"}},
		{"inode of another bucket", ino('i', other), "", "a bucket cannot be read", false, []string{"limited"}},
		{"super row", []byte{'s'}, "super row", "", false, nil},
		{"mark of an epoch", []byte{'u'}, "look for unclosed epochs", "", false, nil},
		{"root of the ledger", []byte{'L', 0}, "identities, policies, keys or grants", "", false, nil},
		{"document of the ledger", []byte{'L', 'k'}, "identities, policies, keys or grants", "", false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, e := range []string{"db", "redo", "segments", "audit", "epoch"} {
				if err := os.RemoveAll(dir + "/" + e); err != nil {
					t.Fatal(err)
				}
			}
			from := good
			if c.row[0] == 'u' {
				from = crashed
			}
			copyStore(from, dir)
			damageRow(t, dir, c.row)
			if c.refused != "" {
				code, _, stderr := kmsfs(t, "bucket", "list")
				if code != exitDamaged || !strings.Contains(stderr, c.refused) || !strings.Contains(stderr, "hint: restore a backup") {
					t.Errorf("exit %d: %s", code, stderr)
				}
				return
			}
			var log bytes.Buffer
			withStore(t, dir, &log, func(_ *store, u *hand) {
				for _, b := range c.reads {
					for _, f := range []string{"small", "large"} {
						u.read(b + "/" + f)
					}
				}
			})
			if !strings.Contains(log.String(), c.log) {
				t.Errorf("the log does not say %q: %s", c.log, log.String())
			}
			code, out, stderr := kmsfs(t, "--json", "fsck", "--data")
			var r check.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err, out, stderr)
			}
			if c.clean != (code == exitOK) || c.clean && r.Quotas.Checked != 1 {
				t.Errorf("fsck ends with %d: %s", code, out)
			}
		})
	}
}

// withStore opens a store, logging to w, and does something on it.
func withStore(t *testing.T, dir string, w io.Writer, fn func(*store, *hand)) {
	t.Helper()
	s, err := openStore(dir, openOptions{Log: slog.New(slog.NewTextHandler(w, nil))})
	if err != nil {
		t.Fatal(err)
	}
	u := newHand(t, s)
	fn(s, u)
	u.end()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// damageRow flips a bit of the first row whose key begins so.
func damageRow(t *testing.T, dir string, begin []byte) {
	t.Helper()
	e, err := badgerkv.Open(dir, badgerkv.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	err = e.Update(func(tx kv.Txn) error {
		return tx.Scan(begin, kv.PrefixEnd(begin), func(k, v []byte) (bool, error) {
			b := bytes.Clone(v)
			b[len(b)/2] ^= 1
			tx.Set(k, b)
			found = true
			return false, nil
		})
	})
	if err != nil || !found {
		t.Fatal("no row ", begin, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}
