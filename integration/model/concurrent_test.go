package model

import (
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	longest = 20 * time.Second // of the work itself
	grace   = 60 * time.Second // for a worker to end
	logs    = 2
	boxes   = 3
	phases  = 3 // of the workers' start: everybody maps all boxes; each box is mapped for writing by one; all work
)

// result is what a worker reports when it ends.
type result struct {
	Appended [logs]uint32 // records that were answered, by file
	Done     map[string]int
	Err      string
}

// TestConcurrent has a worker on every mount do all of this at once, to the same files: append to logs and read them; write, truncate,
// punch, map and read files of self-describing records; replace a file by rename. There is no model of that, but: no append that
// was answered is lost or doubled, no byte is seen that nobody wrote, a file that is replaced is whole, nobody hangs, and in the end
// all mounts show the same.
func TestConcurrent(t *testing.T) {
	seed, limit := seedOf(t), min(duration(t)*2/3, longest)
	r := newRig(t)
	rep, err := r.ask(mountA, bucket, &op{Kind: opMkdir, Mode: 0o777})
	if err != nil || rep.Errno != 0 {
		t.Fatalf("bucket: %v %v", err, rep)
	}
	for i := range boxes {
		made, err := r.ask(mountA, bucket, &op{ID: i + 1, Kind: opOpen, Path: boxName(i), Flags: unix.O_WRONLY | unix.O_CREAT, Mode: 0o666})
		if err == nil && made.Errno == 0 {
			made, err = r.ask(mountA, bucket, &op{Kind: opFtruncate, H: i + 1, N: recordSize * boxRecords})
		}
		if err != nil || made.Errno != 0 {
			t.Fatalf("%s: %v %v", boxName(i), err, made)
		}
	}
	for m := range mounts {
		r.kids[m].end()
		r.kids[m] = r.startKid(m, fmt.Sprintf("%d %d %d", m, seed, limit.Milliseconds()))
	}
	for range phases {
		for m, k := range r.kids {
			var ready result
			if err := k.dec.Decode(&ready); err != nil || ready.Err != "" {
				t.Fatalf("worker on mount %s: %v %s", mountNames[m], err, ready.Err)
			}
		}
		for _, k := range r.kids {
			_, err := k.in.Write([]byte{1})
			r.must(err)
		}
	}
	results := make([]result, mounts)
	hang := time.NewTimer(limit + grace)
	defer hang.Stop()
	for m, k := range r.kids {
		go func() {
			err := k.dec.Decode(&results[m])
			k.got <- answer{err: err}
		}()
	}
	for m, k := range r.kids {
		select {
		case a := <-k.got:
			if a.err != nil {
				t.Errorf("worker on mount %s: %v", mountNames[m], a.err)
			}
		case <-hang.C:
			t.Errorf("the worker on mount %s hangs\n%s", mountNames[m], r.stacks())
			r.dump()
			return
		}
		if e := results[m].Err; e != "" {
			t.Errorf("mount %s: %s", mountNames[m], e)
		}
		t.Logf("mount %s: %v, appended %v", mountNames[m], results[m].Done, results[m].Appended)
	}
	for m := range mounts {
		r.kids[m].end()
		r.kids[m] = r.startKid(m, "")
	}
	compareEnds(r, results)
}

// compareEnds compares what the mounts show when all is quiet.
func compareEnds(r *rig, results []result) {
	r.t.Helper()
	var files []string
	for i := range logs {
		files = append(files, logName(i))
	}
	for i := range boxes {
		files = append(files, boxName(i))
	}
	for i, file := range append(files, whole) {
		var first *view
		for m := range mounts {
			rep, err := r.ask(m, bucket, &op{Kind: opLook, Looks: []look{{Path: file, Raw: true}}})
			if err != nil {
				r.t.Fatal(err)
			}
			v := &rep.Views[0]
			if v.Errno != 0 || v.ReadErr != 0 || v.Holes != "" {
				r.t.Errorf("%s on mount %s: %v %v %s", file, mountNames[m], v.Errno, v.ReadErr, v.Holes)
				continue
			}
			if v.St.Size != v.Len {
				r.t.Errorf("%s: mount %s says %d bytes and shows %d", file, mountNames[m], v.St.Size, v.Len)
			}
			if first == nil {
				first = v
				if text := checkEnd(i, v.Data, results); text != "" {
					r.t.Errorf("%s: %s", file, text)
				}
			} else if v.Sum != first.Sum || v.St.Mtim != first.St.Mtim {
				r.t.Errorf("%s: mount %s shows something else: %s; mtime %v, %v", file, mountNames[m], differ(v.Data, first.Data), v.St.Mtim, first.St.Mtim)
			}
		}
	}
}

func checkEnd(file int, data []byte, results []result) string {
	if file >= logs+boxes {
		return checkWhole(data)
	}
	for at := 0; at+recordSize <= len(data); at += recordSize {
		if text := checkRecord(data[at:at+recordSize], file, int64(at)); text != "" {
			return text
		}
	}
	if len(data)%recordSize != 0 {
		return fmt.Sprintf("%d bytes, not a multiple of %d", len(data), recordSize)
	}
	if file >= logs {
		return ""
	}
	var next [mounts]uint32
	for at := 0; at < len(data); at += recordSize {
		rec := parseRecord(data[at:])
		if rec.seq != next[rec.worker] {
			return fmt.Sprintf("at %d: append %d of mount %s, want %d", at, rec.seq, mountNames[rec.worker], next[rec.worker])
		}
		next[rec.worker]++
	}
	for m := range mounts {
		if next[m] != results[m].Appended[file] {
			return fmt.Sprintf("%d appends of mount %s, %d were answered", next[m], mountNames[m], results[m].Appended[file])
		}
	}
	return ""
}

// worker is the body of a child that works by itself.
func worker(role, dir string) int {
	var m, seed, millis int64
	if _, err := fmt.Sscan(role, &m, &seed, &millis); err != nil {
		return 2
	}
	w := &hand{id: uint8(m), dir: dir, seed: uint64(seed), until: time.Now().Add(time.Hour)}
	enc := gob.NewEncoder(os.Stdout)
	for phase := range phases {
		ready, err := result{}, w.prepare(phase)
		if err != nil {
			ready.Err = err.Error()
		}
		if err := enc.Encode(&ready); err != nil {
			return 1
		}
		if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
			return 1
		}
	}
	w.until = time.Now().Add(time.Duration(millis) * time.Millisecond)
	res := w.work()
	if err := enc.Encode(&res); err != nil {
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func logName(i int) string { return fmt.Sprintf("log%d", i) }
func boxName(i int) string { return fmt.Sprintf("box%d", i) }

const whole = "whole"

// openFile opens a file that other workers may be making or replacing.
func openFile(dir, name string, flags int) (int, error) {
	fd, err := unix.Open(filepath.Join(dir, name), flags|unix.O_CLOEXEC, 0o666)
	if err != nil {
		err = fmt.Errorf("open %s %s: %w", name, openFlagText(flags), err)
	}
	return fd, err
}

// checkWhole looks at a file that is only ever replaced: all its records are of one making.
func checkWhole(data []byte) string {
	if len(data) == 0 || len(data)%recordSize != 0 {
		return fmt.Sprintf("%d bytes of a file that is replaced as a whole", len(data))
	}
	first := parseRecord(data)
	for at := 0; at < len(data); at += recordSize {
		rec := parseRecord(data[at:])
		if text := checkRecord(data[at:at+recordSize], wholeFile, int64(at)); text != "" {
			return text
		}
		if rec.seq != first.seq || rec.worker != first.worker {
			return fmt.Sprintf("parts of two makings: %v and, at %d, %v", first, at, rec)
		}
	}
	if want := wholeSize(first.seq); len(data) != want {
		return fmt.Sprintf("%d bytes, want %d", len(data), want)
	}
	return ""
}

func wholeSize(seq uint32) int { return recordSize * (1 + int(seq*2654435761>>16)%3000) }

func isZero(b []byte) bool { return strings.Trim(string(b), "\x00") == "" }
