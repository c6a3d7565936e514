package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// filled is what a filler reports.
type filled struct {
	Files  []filledFile   `json:"files"`  // whose close said that all is well
	Failed map[string]int `json:"failed"` // ENOSPC, by call
	Other  string         `json:"other"`  // an error that should not be
}

type filledFile struct {
	Name string `json:"name"`
	ID   uint64 `json:"id"`
	Size int64  `json:"size"`
	Attr int64  `json:"attr"` // bytes of an extended attribute
}

const (
	largeAttr = 16 << 10 // fills rows a hundred times faster than names do
	smallFile = 700      // bytes, which are kept in the rows
)

// runFill writes files until nothing goes any more: ever smaller ones, some synced, then empty ones with large attributes, then small
// ones that live in the rows, then names alone.
func runFill(t task) error {
	out := filled{Failed: map[string]int{}}
	dir := filepath.Join(t.Mounts[0], t.Dir)
	size, attr, refused := t.Max, t.Attr, 0
	for i := 0; out.Other == "" && (t.Ops == 0 || i < t.Ops); i++ {
		f := filledFile{Name: fmt.Sprintf("%s%d", t.Note, i), ID: t.Seed<<16 | uint64(i), Size: size, Attr: attr}
		sync := i%3 == 0 && size >= 1<<16 || i%40 == 0 // of small files each would take most of the time
		call, err := writeFile(filepath.Join(dir, f.Name), f, sync)
		switch {
		case err == nil:
			out.Files = append(out.Files, f)
			continue
		case errors.Is(err, unix.ENOSPC):
			out.Failed[call]++
		default:
			out.Other = fmt.Sprintf("%s of %s: %v", call, f.Name, err)
		}
		_ = os.Remove(filepath.Join(dir, f.Name)) // a file that could not be written whole
		if refused++; refused < 4 {
			continue
		}
		refused = 0
		switch {
		case size > 16<<10:
			size /= 8
		case size > smallFile:
			size, attr = 0, largeAttr
		case attr > 0:
			size, attr = smallFile, 0
		case size > 0:
			size = 0
		default:
			return json.NewEncoder(os.Stdout).Encode(out)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// writeFile says which call failed.
func writeFile(name string, w filledFile, sync bool) (call string, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "create", err
	}
	buf := make([]byte, w.Size)
	fill(buf, w.ID, 0)
	call = "write"
	if len(buf) > 0 {
		_, err = f.Write(buf)
	}
	if err == nil && w.Attr > 0 {
		call = "setxattr"
		err = unix.Fsetxattr(int(f.Fd()), "user.fill", make([]byte, w.Attr), 0)
	}
	if err == nil && sync {
		call = "fsync"
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()
		return call, err
	}
	return "close", f.Close()
}

// filledFiles are the files that a child is to read or remove.
func filledFiles(t task) (files []filledFile, err error) {
	b, err := os.ReadFile(t.Journal)
	if err == nil {
		err = json.Unmarshal(b, &files)
	}
	return files, err
}

func runReadFilled(t task) error {
	files, err := filledFiles(t)
	if err != nil {
		return err
	}
	for _, f := range files {
		got, err := os.ReadFile(filepath.Join(t.Mounts[0], t.Dir, f.Name))
		if err != nil {
			return err
		}
		want := make([]byte, f.Size)
		fill(want, f.ID, 0)
		if d := differs(got, want); d != "" {
			return fmt.Errorf("%s: %s", f.Name, d)
		}
		if n, err := unix.Getxattr(filepath.Join(t.Mounts[0], t.Dir, f.Name), "user.fill", nil); int64(n) != f.Attr && !(f.Attr == 0 && errors.Is(err, unix.ENODATA)) {
			return fmt.Errorf("%s: attribute of %d bytes (%w), want %d", f.Name, n, err, f.Attr)
		}
	}
	return nil
}

func runRemoveFilled(t task) error {
	files, err := filledFiles(t)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Remove(filepath.Join(t.Mounts[0], t.Dir, f.Name)); err != nil {
			return err
		}
	}
	return nil
}

// tinyFile is what a file has at most of which the rows count.
const tinyFile = 40_000

// runReplaceFilled removes files from a full disk, some at a time, and writes half as many right after each removal, which must be taken: a
// quarter of those that live in the rows, where what is new needs room in a log and in a table. Of these, and of small ones, which may have filled
// the disk with as many rows, one may still be refused, for the room of rows comes back late (docs/reliability.md, Limits); then it ends. It
// prints what it wrote.
func runReplaceFilled(t task) error {
	files, err := filledFiles(t)
	if err != nil {
		return err
	}
	var made []filledFile
	for some := range slices.Chunk(files, 2*t.Ops) {
		for _, f := range some {
			if err := os.Remove(filepath.Join(t.Mounts[0], t.Dir, f.Name)); err != nil {
				return err
			}
		}
		part := 2
		if some[0].Attr > 0 {
			part = 4
		}
		for _, f := range some[:len(some)/part] {
			f.Name = fmt.Sprintf("again%d-%d", t.Seed, len(made))
			f.ID = t.Seed<<16 | uint64(len(made))
			if call, err := writeFile(filepath.Join(t.Mounts[0], t.Dir, f.Name), f, len(made)%5 == 0); err != nil {
				if (f.Attr > 0 || f.Size <= tinyFile) && errors.Is(err, unix.ENOSPC) {
					return json.NewEncoder(os.Stdout).Encode(made)
				}
				return fmt.Errorf("%s of %s (%d bytes, attribute of %d), right after %d files as large were removed: %w", call, f.Name, f.Size, f.Attr, len(some), err)
			}
			made = append(made, f)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(made)
}

// give gives files to a child through its journal, and returns what it printed.
func (r *rig) give(files []filledFile, t task, limit time.Duration) string {
	r.t.Helper()
	name := filepath.Join(r.dir, "files.json")
	b, err := json.Marshal(files)
	if err == nil {
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	t.Dir, t.Journal = "bucket", name
	return r.wait(r.spawn(t), t.Role, limit)
}

// hand has a child look at files, or remove them.
func (r *rig) hand(role string, files []filledFile) {
	r.t.Helper()
	r.give(files, task{Role: role}, 2*deadline)
}

// replace has files replaced, 2n at a time, by fewer.
func (r *rig) replace(seed uint64, files []filledFile, n int) (made []filledFile) {
	r.t.Helper()
	out := r.give(files, task{Role: "replacefilled", Seed: seed, Ops: n}, 4*deadline)
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		r.fatal(err, ": ", out)
	}
	return made
}

func (r *rig) fill(seed uint64, size int64, ops int) filled {
	r.t.Helper()
	f := r.tryFill(seed, size, ops)
	if f.Other != "" {
		r.fatal("on a full disk: ", f.Other)
	}
	return f
}

// tryFill fills until something fails.
func (r *rig) tryFill(seed uint64, size int64, ops int) (f filled) {
	r.t.Helper()
	out := r.wait(r.spawn(task{Role: "fill", Dir: "bucket", Seed: seed, Max: size, Ops: ops, Note: fmt.Sprintf("s%d-", seed)}), "fill", 4*deadline)
	if err := json.Unmarshal([]byte(out), &f); err != nil {
		r.fatal(err, ": ", out)
	}
	return f
}

// TestFullDisk fills a small file system through a mount: with large files, then again with small ones. The error must reach write,
// fsync or close; what was acknowledged stays; files can be removed from the full disk; and then writing goes on at once with the same
// daemon, as it does after a kill on the full disk. The stories: s3fs 2120 and 2621, JuiceFS
// 5038.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	d := newDisk(t, "ext4", 384<<20)
	r := newRig(t, filepath.Join(d.dir, "store"))
	r.start()
	var kept []filledFile
	for i, size := range []int64{3 << 20, tinyFile} {
		seed := uint64(10 * (i + 1))
		f := r.fill(seed, size, 0)
		t.Logf("%d files of up to %d bytes, refused: %v, %s", len(f.Files), size, f.Failed, d.free())
		if len(f.Failed) == 0 || len(f.Files) < 20 {
			r.fatal("the disk did not fill")
		}
		r.hand("readfilled", append(kept, f.Files...))
		if i == 1 { // the store opens on the full disk, and closes
			r.kill()
			r.unmounted()
			r.start()
			r.stop()
			r.start()
			r.hand("readfilled", append(kept, f.Files...))
		}
		// Every second one goes, so that what is left is not all of some segment.
		var gone []filledFile
		for j, x := range f.Files {
			if j%8 == 0 {
				kept = append(kept, x)
			} else {
				gone = append(gone, x)
			}
		}
		// Some of them are replaced, one by one, on the full disk; most go, and writing goes on.
		for _, x := range []struct {
			n  int
			of func(filledFile) bool
		}{
			{1, func(f filledFile) bool { return f.Size > 1<<20 }},
			{10, func(f filledFile) bool { return f.Size > 16<<10 && f.Size <= 1<<20 }},
			{500, func(f filledFile) bool { return f.Attr > 0 }},
		} {
			n := x.n
			some := slices.DeleteFunc(slices.Clone(gone), func(f filledFile) bool { return !x.of(f) })
			some = some[:min(len(some), 8*n)]
			gone = slices.DeleteFunc(gone, func(f filledFile) bool { return slices.Contains(some, f) })
			made := r.replace(seed+uint64(n)<<20, some, n)
			t.Logf("%d files replaced by %d of them, %d at once, %s", len(some), len(made), 2*n, d.free())
			kept = append(kept, made...)
		}
		r.hand("removefilled", gone)
		kept = append(kept, r.again(seed+1)...)
		r.hand("readfilled", kept)
	}
	r.fsck("after the disk was full")
	r.kill()
	r.unmounted()
	r.start()
	r.hand("readfilled", kept)
	r.finish()
}

// again wants writing to go on with the same daemon, at once.
func (r *rig) again(seed uint64) []filledFile {
	r.t.Helper()
	f := r.fill(seed, 1<<20, 20)
	if len(f.Failed) > 0 {
		r.fatal("still full after removing: ", f.Failed)
	}
	return f.Files
}

func (d *disk) free() string {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d MiB free", int64(st.Bavail)*st.Bsize>>20)
}
