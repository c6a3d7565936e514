package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/fs/check"
	"github.com/kmsfs/kmsfs/keystore/audit"
)

// TestFsckDataOpensEveryKindOfKey: all content of a real store is authenticated, under the store key, a KMS key, a bucket key and a
// disabled key, without an event; when a key was deleted, its files are named, are no damage, and are compared by checksum.
func TestFsckDataOpensEveryKindOfKey(t *testing.T) {
	dir := cleanEnv(t)
	must := func(args ...string) string {
		t.Helper()
		code, out, stderr := kmsfs(t, args...)
		if code != exitOK {
			t.Fatal(args, stderr)
		}
		return out
	}
	must("init", "--admin", "admin")
	for _, name := range []string{"kept", "doomed"} {
		must("key", "create", "--alias", name)
	}
	work := func(fn func(*store, *hand)) {
		t.Helper()
		s, err := openStore(dir, openOptions{Log: slog.New(slog.DiscardHandler)})
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
	work(func(_ *store, u *hand) {
		for bucket, sse := range map[string]string{
			"plain": "AES256", "kept": "aws:kms:alias/kept", "shared": "aws:kms:alias/kept;bucket-key=true", "gone": "aws:kms:alias/doomed",
		} {
			u.mkdir(bucket)
			u.set(bucket, "user.s3.sse", sse)
			u.write(bucket+"/small", 100)
			u.write(bucket+"/large", 1_300_000)
		}
	})
	must("key", "disable", "alias/kept")
	events := func() (n int) {
		t.Helper()
		work(func(s *store, _ *hand) {
			if err := s.audit.Query(audit.Filter{Name: "Decrypt"}, func(audit.Event) error { n++; return nil }); err != nil {
				t.Fatal(err)
			}
		})
		return n
	}
	before := events()
	report := func() (r check.Report) {
		t.Helper()
		if err := json.Unmarshal([]byte(must("--json", "fsck", "--data")), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := report()
	if d := r.Data; !r.Clean() || r.Total() != 0 || d.Authentic != d.Extents || d.AuthenticBytes < 4*1_300_100 || d.Sums != 0 || len(r.KeysGone) != 0 {
		t.Fatalf("%+v %+v", r, r.Data)
	}
	if after := events(); after != before {
		t.Errorf("fsck wrote %d events", after-before)
	}

	must("key", "schedule-deletion", "--days", "7", "--files", "2", "alias/doomed")
	if d := report().Data; d.Sums != 0 { // it can still be cancelled
		t.Fatalf("%+v", d)
	}
	passWeek(t, dir)
	r = report()
	if d := r.Data; r.Total() != 0 || d.SumFiles != 2 || d.SumBytes < 1_300_100 || d.AuthenticBytes < 3*1_300_100 || d.Bad != 0 {
		t.Fatalf("%+v %+v", r, r.Data)
	}
	if k := r.KeysGone; len(k) != 1 || k[0].Files != 2 || !strings.Contains(k[0].Why, "deleted") {
		t.Fatalf("%+v", k)
	}
	if out := must("fsck"); !strings.Contains(out, "nobody can open 2 files") || !strings.Contains(out, "clean") {
		t.Fatal(out)
	}
}

// TestFsckMissesASegment: a segment file that is gone or was cut short is noticed by a check that reads no content, with the files that lie
// in it; a repair writes down what is lost, after which the check is clean and calls it known.
func TestFsckMissesASegment(t *testing.T) {
	for name, damage := range map[string]func(string) error{
		"gone": os.Remove,
		"cut":  func(f string) error { return os.Truncate(f, 4096+8192) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := cleanEnv(t)
			if code, _, stderr := kmsfs(t, "init", "--admin", "admin"); code != exitOK {
				t.Fatal(stderr)
			}
			withStore(t, dir, io.Discard, func(_ *store, u *hand) {
				u.mkdir("bkt")
				u.write("bkt/small", 100)
				u.write("bkt/large", 300_000)
				u.write("bkt/later", 300_000)
			})
			segments, err := filepath.Glob(filepath.Join(dir, dirSegments, "*.seg"))
			if err != nil || len(segments) != 1 {
				t.Fatal(segments, err)
			}
			if err := damage(segments[0]); err != nil {
				t.Fatal(err)
			}
			fsck := func(want int, args ...string) (r check.Report, text string) {
				t.Helper()
				code, out, stderr := kmsfs(t, append([]string{"--json", "fsck"}, args...)...)
				if err := json.Unmarshal([]byte(out), &r); err != nil || code != want {
					t.Fatal(code, err, out, stderr)
				}
				return r, out
			}
			r, out := fsck(exitDamaged)
			if r.Counts[check.MissingData] != 2 || r.Total() != 2 || !strings.Contains(out, `\"large\" in directory`) || !strings.Contains(out, `\"later\" in directory`) {
				t.Fatal(out)
			}
			if whole := strings.Contains(out, "segment 1, of which nothing is there"); whole != (name == "gone") {
				t.Error(out)
			}
			if r, out = fsck(exitDamaged, "--data"); r.Total() != 2 || r.Data.Bad != 2 {
				t.Fatal(out)
			}
			if r, out = fsck(exitDamaged, "--repair"); r.Recorded != 2 {
				t.Fatal(out)
			}
			for _, args := range [][]string{nil, {"--data"}} {
				if r, out = fsck(exitOK, args...); r.Known != 2 || r.Recorded != 0 {
					t.Fatal(out)
				}
			}
			if _, out, _ := kmsfs(t, "fsck"); !strings.Contains(out, "clean, but for 2 losses that are known") || !strings.Contains(out, "known to be lost: missing-data inode") {
				t.Error(out)
			}
			withStore(t, dir, io.Discard, func(_ *store, u *hand) {
				u.read("bkt/small")
				u.remove("bkt", "large")
				u.remove("bkt", "later")
			})
			if r, out = fsck(exitOK); r.Total() != 0 {
				t.Fatal(out)
			}
		})
	}
}
