package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/mount/control"
	"github.com/kmsfs/kmsfs/mount/host"
)

// BenchmarkRekey re-wraps the files of a store on disk, as kmsfs rekey --from --to does: from one key to the other and back.
// KMSFS_BENCH_FILES says how many files there are. Each round leaves the files one data key more to wrap, so -benchtime 1x is what a
// store sees.
func BenchmarkRekey(b *testing.B) {
	files := 50000
	if n, err := strconv.Atoi(os.Getenv("KMSFS_BENCH_FILES")); err == nil {
		files = n
	}
	b.Setenv("KMSFS_STORE", b.TempDir()+"/store")
	if code := run(context.Background(), []string{"kmsfs", "init"}, streams{os.Stdin, io.Discard, io.Discard}); code != 0 {
		b.Fatal("init: ", code)
	}
	s, err := openStore(os.Getenv("KMSFS_STORE"), openOptions{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}()
	d, err := s.Host(nil, false, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = d.Shutdown(context.Background()) }()
	do := func(command string, args, result any) {
		b.Helper()
		raw, err := json.Marshal(args)
		if err != nil {
			b.Fatal(err)
		}
		r := d.Dispatch(context.Background(), self(), control.Request{Command: command, Args: raw}, func(any) error { return nil })
		if r.Error != nil {
			b.Fatal(command, ": ", r.Error)
		}
		if result != nil {
			if err := json.Unmarshal(r.Result, result); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, alias := range []string{"a", "b"} {
		do(host.CmdKeyCreate, host.KeyCreateArgs{Alias: alias}, nil)
	}
	do(host.CmdBucketCreate, host.BucketCreateArgs{Name: "bucket", SSE: "aws:kms:alias/a"}, nil)
	makeFiles(b, s, files)
	keys := [2]string{"alias/a", "alias/b"}
	var took time.Duration
	tuneRuntime() // as the daemon does
	before := cpuTime(b)
	b.ResetTimer()
	for i := range b.N {
		var sum host.RekeyResult
		began := time.Now()
		do(host.CmdRekey, host.RekeyArgs{From: keys[i%2], To: keys[1-i%2]}, &sum)
		took += time.Since(began)
		if sum.Changed != files || sum.Left == nil || sum.Left.Total() != 0 {
			b.Fatalf("%+v", sum)
		}
	}
	b.StopTimer()
	done := float64(files) * float64(b.N)
	b.ReportMetric(done/took.Seconds(), "files/s")
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/done, "cpu-µs/file") // of all cores, garbage collection and the engine included
}

// cpuTime is what this process has used. Unlike the time it took it says something on a busy machine, too.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// makeFiles makes small files, a thousand in a directory.
func makeFiles(b *testing.B, s *store, n int) {
	b.Helper()
	hub := mount.NewHub(mount.HubConfig{Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Log: s.log})
	defer hub.Close()
	admin, err := mount.NewSession(mount.SessionConfig{
		Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Principal: "admin", Hub: hub, Clock: time.Now, Log: s.log,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	bucket, err := admin.Lookup(mount.Caller{}, mount.RootIno, "bucket")
	if err != nil {
		b.Fatal(err)
	}
	var dir mount.Attr
	for i := range n {
		if i%1000 == 0 {
			if dir, err = admin.Mkdir(mount.Caller{}, bucket.Ino, fmt.Sprintf("dir%d", i/1000), 0o755); err != nil {
				b.Fatal(err)
			}
		}
		_, h, err := admin.Create(mount.Caller{}, dir.Ino, fmt.Sprintf("file%d", i), 0o644, mount.OpenFlags{Write: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := h.WriteAt([]byte("some content"), 0, false); err != nil {
			b.Fatal(err)
		}
		if err := h.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
