package crash

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What users of such systems lost data to, each by its name and in the shape that was reported, on a real store and through real mounts.
// (mount, TestStory…, tells the same to sessions on stores that lie.)

// nonZero is content without a zero byte.
func nonZero(seed uint64, n int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(1 + rnd.IntN(255))
	}
	return b
}

// runStory is a child's part in a story.
func runStory(t task) error {
	p := func(mount int) string { return filepath.Join(t.Mounts[mount], t.Dir) }
	switch t.Step {
	case "shrink": // gocryptfs 1024
		return shrinkAgain(p(0))
	case "write": // content of t.Max bytes, in pieces
		return writePieces(p(t.Worker), nonZero(t.Seed, int(t.Max)), t.Ops)
	case "copy": // as cp does; a full disk is an answer
		err := writePieces(p(t.Worker), nonZero(t.Seed, int(t.Max)), t.Ops)
		if errors.Is(err, unix.ENOSPC) {
			fmt.Print("full")
			return os.Remove(p(t.Worker))
		}
		return err
	case "tail":
		return tail(p(t.Worker), nonZero(t.Seed, int(t.Max)))
	case "same":
		got, err := os.ReadFile(p(t.Worker))
		if err == nil && !bytes.Equal(got, nonZero(t.Seed, int(t.Max))) {
			return fmt.Errorf("%d bytes, want %d; zeros from %d on", len(got), t.Max, bytes.IndexByte(got, 0))
		}
		return err
	case "eio":
		if got, err := os.ReadFile(p(t.Worker)); !errors.Is(err, unix.EIO) {
			return fmt.Errorf("it reads as %d bytes, %w", len(got), err)
		}
		return nil
	case "refused":
		return refusedOverwrites(p(t.Worker))
	case "churn": // entries come, go and move until the daemon dies
		for i := 0; i < 1_000_000; i++ {
			f := fmt.Sprintf("%s/n%d", p(0), i)
			err := os.WriteFile(f, nonZero(uint64(i), 500), 0o644)
			if err == nil && i%3 == 0 {
				err = os.Rename(f, fmt.Sprintf("%s/sub/m%d", p(0), i))
			}
			if err == nil && i%5 == 0 {
				err = os.Mkdir(f+"d", 0o755)
			}
			if err != nil {
				fmt.Print(err)
				break
			}
		}
		return nil
	case "whole":
		return wholeFolder(p(1))
	}
	return fmt.Errorf("unknown part %q", t.Step)
}

func writePieces(path string, b []byte, piece int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	for len(b) > 0 && err == nil {
		n := min(piece, len(b))
		_, err = f.Write(b[:n])
		b = b[n:]
	}
	return errors.Join(err, f.Close())
}

// tail reads a file while it grows, as tail -f does, until it has all of it.
func tail(path string, want []byte) error {
	var f *os.File
	for end := time.Now().Add(deadline); f == nil; time.Sleep(time.Millisecond) { // until somebody makes it
		var err error
		if f, err = os.Open(path); err != nil && time.Now().After(end) {
			return err
		}
	}
	defer f.Close()
	buf := make([]byte, 2048)
	at := 0
	for end := time.Now().Add(deadline); at < len(want); {
		n, err := f.Read(buf)
		if i := bytes.IndexByte(buf[:n], 0); i >= 0 {
			return fmt.Errorf("a zero at %d of %d", at+i, len(want))
		}
		if !bytes.Equal(buf[:n], want[at:at+n]) {
			return fmt.Errorf("other bytes after %d", at)
		}
		at += n
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 && time.Now().After(end) {
			return fmt.Errorf("it stays at %d of %d bytes", at, len(want))
		}
	}
	return nil
}

// shrinkAgain writes a block or more, shrinks, writes, and shrinks again, through one descriptor.
func shrinkAgain(path string) error {
	for i, x := range []struct{ write, shrink, more, again int }{
		{4096, 1000, 10, 500}, {4096, 0, 1, 0}, {5000, 4095, 5000, 4097}, {100_000, 50_001, 3, 2}, {1 << 20, 4096, 4096, 4095}, {9000, 8999, 1, 100},
	} {
		f, err := os.OpenFile(fmt.Sprint(path, i), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		want := nonZero(uint64(i), x.write)
		_, err = f.WriteAt(want, 0)
		err = errors.Join(err, f.Truncate(int64(x.shrink)))
		more := nonZero(99, x.more)
		_, werr := f.WriteAt(more, int64(x.shrink))
		err = errors.Join(err, werr, f.Truncate(int64(x.again)))
		want = append(want[:x.shrink], more...)[:x.again]
		got := make([]byte, x.again+10)
		n, rerr := f.ReadAt(got, 0)
		if err = errors.Join(err, f.Close()); err != nil || !errors.Is(rerr, io.EOF) || !bytes.Equal(got[:n], want) {
			return fmt.Errorf("case %d: %d bytes, want %d: %w, %w", i, n, len(want), err, rerr)
		}
		if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("case %d, opened again: %d bytes: %w", i, len(got), err)
		}
	}
	return nil
}

// refusedOverwrites tries what a shell, an editor and cp do to a file that may only be read.
func refusedOverwrites(path string) error {
	for _, flags := range []int{os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREATE | os.O_TRUNC, os.O_WRONLY | os.O_APPEND, os.O_RDWR} {
		if f, err := os.OpenFile(path, flags, 0); !errors.Is(err, unix.EACCES) {
			return errors.Join(fmt.Errorf("open with %#x: %w", flags, err), f.Close())
		}
	}
	if err := os.Truncate(path, 0); !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("truncate: %w", err)
	}
	if err := os.Remove(path); !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// wholeFolder lists a folder, wants each entry to be there, readable and removable, and the folder to be gone then.
func wholeFolder(dir string) error {
	seen := 0
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		seen++
		got, err := os.ReadFile(p)
		var i int
		name := strings.TrimLeft(d.Name(), "nm")
		_, _ = fmt.Sscan(name, &i)
		if err == nil && len(got) != 0 && !bytes.Equal(got, nonZero(uint64(i), 500)) { // the one that was being written may be empty
			err = fmt.Errorf("%s has %d other bytes", d.Name(), len(got))
		}
		return err
	})
	if err == nil && seen < 10 {
		err = fmt.Errorf("only %d files", seen)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

func (r *rig) story(t task, part string) string {
	r.t.Helper()
	return r.wait(r.tell(t, part), part, 2*deadline)
}

func (r *rig) tell(t task, part string) *proc {
	r.t.Helper()
	t.Role, t.Step = "story", part
	if t.Ops == 0 {
		t.Ops = 128 << 10
	}
	return r.spawn(t)
}

// TestStories tells them one after the other to one daemon.
func TestStories(t *testing.T) {
	t.Parallel()
	needs(t)
	r := newRig(t, "")
	r.start()
	run := func(name string, fn func(t *testing.T)) {
		if !t.Failed() {
			t.Run(name, fn)
		}
	}
	run("gocryptfs 1024: shrink, write, shrink", func(*testing.T) { r.story(task{Dir: "bucket/shrink"}, "shrink") })
	run("JuiceFS 5038: zeros for who reads what another mount appends", func(*testing.T) {
		for i, piece := range []int{777, 4096, 100_001} {
			x := task{Dir: fmt.Sprint("bucket/grows", i), Seed: 5038, Max: 8 << 20, Ops: piece}
			x.Worker = 1
			reader := r.tell(x, "tail")
			x.Worker = 0
			r.story(x, "write")
			r.wait(reader, "tail", 2*deadline)
		}
	})
	run("SeaweedFS 7499: one large object under a KMS key", func(*testing.T) {
		r.run("bucket", "create", "kms", "--sse", r.keys[1])
		x := task{Dir: "kms/test.webm", Seed: 7499, Max: 34_420_000}
		r.story(x, "write")
		x.Worker = 1
		r.story(x, "same")
		r.stop()
		r.start()
		r.story(x, "same")
	})
	run("s3fs 2120: an overwrite that is refused", func(t *testing.T) {
		r.run("principal", "create", "reader", "--uid", "0", "--policy", "AmazonS3ReadOnlyAccess")
		third := filepath.Join(r.dir, "m3")
		if err := os.Mkdir(third, 0o755); err != nil {
			t.Fatal(err)
		}
		r.run("mount", "--principal", "reader", third)
		x := task{Dir: "bucket/kept", Seed: 2120, Max: 300_000}
		r.story(x, "write")
		y := x
		y.Mounts, y.Worker = append(append([]string{}, r.mounts...), third), 2
		r.story(y, "same")
		r.story(y, "refused")
		r.story(y, "same")
		r.story(x, "same")
		r.run("umount", third)
	})
	run("CryFS 155: killed while a folder is written", func(*testing.T) {
		for i := range 2 {
			x := task{Dir: fmt.Sprint("bucket/folder", i)}
			r.wait(r.spawn(task{Role: "mkdir", Dir: x.Dir + "/sub"}), "mkdir", deadline)
			churn := r.tell(x, "churn")
			time.Sleep(time.Duration(150+70*i) * time.Millisecond) // not synchronisation: anywhere in the work
			r.kill()
			r.wait(churn, "churn", deadline)
			r.unmounted()
			r.start()
			r.story(x, "whole")
		}
		r.fsck("after both")
	})
	r.finish()
}

// TestStoryOfMallory is gocryptfs 804: who can write where things are stored, and may read some of them, exchanges two files, and copies
// what he may not read over what he may. He knows where the content of both is.
func TestStoryOfMallory(t *testing.T) {
	t.Parallel()
	needs(t)
	r := newRig(t, "")
	r.start()
	const size = 100_000
	stored := int64(size + 16*((size+4095)/4096))
	secret, mine := task{Dir: "bucket/secret", Seed: 1, Max: size}, task{Dir: "bucket/mine", Seed: 2, Max: size}
	r.story(secret, "write")
	r.story(mine, "write")
	r.stop()
	f, err := os.OpenFile(filepath.Join(r.store, "segments", "0000000000000001.seg"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const at1 = 4096 // behind the header: the store is new
	at2 := at1 + (stored+4095)&^4095
	a, b := make([]byte, stored), make([]byte, stored)
	if _, err := f.ReadAt(a, at1); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(b, at2); err != nil {
		t.Fatal(err)
	}
	put := func(first, second []byte) {
		t.Helper()
		if _, err := f.WriteAt(first, at1); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(second, at2); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		what          string
		first, second []byte
		secret, mine  string
	}{
		{"exchanged", b, a, "eio", "eio"},
		{"copied", a, a, "same", "eio"},
		{"as it was", a, b, "same", "same"},
	} {
		put(c.first, c.second)
		r.start()
		t.Log(c.what)
		r.story(secret, c.secret)
		r.story(mine, c.mine)
		r.stop()
	}
	r.finish()
}

// TestStoryOfTwoCopies is s3fs 2621: two large files are copied at once, through two mounts, to where there is room for one. What cp
// was told has been copied is whole, and nothing is zeros.
func TestStoryOfTwoCopies(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "ext4", 300<<20)
	r := newRig(t, filepath.Join(d.dir, "store"))
	r.start()
	for i := range uint64(2) {
		copies := []task{
			{Dir: fmt.Sprintf("bucket/one%d", i), Seed: 2 * i, Max: 130 << 20, Ops: 1 << 20},
			{Dir: fmt.Sprintf("bucket/two%d", i), Seed: 2*i + 1, Max: 130 << 20, Ops: 1 << 20, Worker: 1},
		}
		var all []*proc
		for _, x := range copies {
			all = append(all, r.tell(x, "copy"))
		}
		full := 0
		for k, p := range all {
			if r.wait(p, "copy", 4*deadline) == "full" {
				full++
				continue
			}
			copies[k].Worker = 1 - copies[k].Worker // seen by the other
			r.story(copies[k], "same")
		}
		t.Logf("%d of 2 copies were told that the disk is full", full)
		if full == 0 {
			t.Error("260 MiB fit into a disk of 300 MiB beside its reserves")
		}
		for _, x := range copies {
			r.wait(r.spawn(task{Role: "remove", Dir: x.Dir}), "remove", deadline)
		}
	}
	r.finish()
}
