package audit

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written is a closed log of 40 events in several files, and the offsets of its records.
func written(t testing.TB) (dir string, head Head) {
	t.Helper()
	dir = t.TempDir()
	l := mustOpen(t, dir, Options{Settings: Settings{MaxFileSize: 8192}})
	appendN(t, l, 1, 40)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	head = l.Head()
	closeLog(t, l)
	return dir, head
}

// offsets are the starts of a file's records, and its end.
func offsets(t testing.TB, b []byte) []int {
	t.Helper()
	var out []int
	at := headerSize
	for at < len(b) {
		out = append(out, at)
		n, err := recordSize(b[at:])
		if err != nil {
			t.Fatal(err)
		}
		at += n
	}
	return append(out, at)
}

func edit(t testing.TB, dir string, index uint64, fn func(b []byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, fileName(index))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fn(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func verifyDir(t testing.TB, dir string, anchors ...Head) (Report, error) {
	t.Helper()
	ks, err := newKeys(testKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := (&reader{dir: dir, keys: ks}).verify(position{}, anchors)
	if err != nil {
		return rep, err
	}
	return rep, rep.err()
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 0x40; return b }
}

func TestTampering(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(t *testing.T, dir string)
		first uint64 // the record that the first break must name; 0 = none
		file  uint64 // and the file
		what  string
	}{
		"length":      {at(2, 2, 3), 0, 2, "changed"},
		"sequence":    {at(2, 2, 11), 0, 2, ""},
		"nonce":       {at(2, 2, 20), 0, 2, "changed"},
		"ciphertext":  {at(2, 2, 100), 0, 2, "changed"},
		"tag":         {at(2, 2, -macSize-1), 0, 2, "changed"},
		"link":        {at(2, 2, -1), 0, 2, "chain"},
		"file header": {func(t *testing.T, dir string) { edit(t, dir, 2, flip(40)) }, 0, 2, "header"},
		"record deleted": {func(t *testing.T, dir string) {
			edit(t, dir, 2, func(b []byte) []byte { o := offsets(t, b); return append(b[:o[2]:o[2]], b[o[3]:]...) })
		}, 0, 2, "missing"},
		"first record of a file deleted": {func(t *testing.T, dir string) {
			edit(t, dir, 2, func(b []byte) []byte { o := offsets(t, b); return append(b[:o[0]:o[0]], b[o[1]:]...) })
		}, 0, 2, "missing"},
		"records swapped": {func(t *testing.T, dir string) {
			edit(t, dir, 2, func(b []byte) []byte {
				o := offsets(t, b)
				out := append([]byte{}, b[:o[1]]...)
				out = append(out, b[o[2]:o[3]]...)
				out = append(out, b[o[1]:o[2]]...)
				return append(out, b[o[3]:]...)
			})
		}, 0, 2, "missing"},
		"record repeated": {func(t *testing.T, dir string) {
			edit(t, dir, 2, func(b []byte) []byte {
				o := offsets(t, b)
				out := append([]byte{}, b[:o[2]]...)
				out = append(out, b[o[1]:o[2]]...)
				return append(out, b[o[2]:]...)
			})
		}, 0, 2, "twice"},
		"bytes inserted": {func(t *testing.T, dir string) {
			edit(t, dir, 2, func(b []byte) []byte {
				o := offsets(t, b)
				out := append([]byte{}, b[:o[2]]...)
				out = append(out, "hello"...)
				return append(out, b[o[2]:]...)
			})
		}, 0, 2, "foreign"},
		"file cut between records": {func(t *testing.T, dir string) {
			edit(t, dir, 2, func(b []byte) []byte { o := offsets(t, b); return b[:o[len(o)-2]] })
		}, 0, 2, "cut short"},
		"file cut inside a record": {func(t *testing.T, dir string) {
			edit(t, dir, 2, func(b []byte) []byte { return b[:len(b)-10] })
		}, 0, 2, "cut short"},
		"file emptied": {func(t *testing.T, dir string) {
			edit(t, dir, 2, func(b []byte) []byte { return nil })
		}, 0, 2, ""},
		"file deleted": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, fileName(2))); err != nil {
				t.Fatal(err)
			}
		}, 0, 3, "missing"},
		"first file deleted": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, fileName(1))); err != nil {
				t.Fatal(err)
			}
		}, 1, 2, "missing"},
		"files swapped": {func(t *testing.T, dir string) {
			a, b, c := filepath.Join(dir, fileName(2)), filepath.Join(dir, fileName(3)), filepath.Join(dir, "x")
			for _, r := range [][2]string{{a, c}, {b, a}, {c, b}} {
				if err := os.Rename(r[0], r[1]); err != nil {
					t.Fatal(err)
				}
			}
		}, 0, 2, "holds file 3"},
		"record from another log": {func(t *testing.T, dir string) {
			other, _ := written(t)
			from, err := os.ReadFile(filepath.Join(other, fileName(2)))
			if err != nil {
				t.Fatal(err)
			}
			edit(t, dir, 2, func(b []byte) []byte {
				o := offsets(t, b)
				return append(append(append([]byte{}, b[:o[1]]...), from[o[1]:o[2]]...), b[o[2]:]...)
			})
		}, 0, 2, "changed"},
		"file from another log": {func(t *testing.T, dir string) {
			other, _ := written(t)
			from, err := os.ReadFile(filepath.Join(other, fileName(2)))
			if err != nil {
				t.Fatal(err)
			}
			edit(t, dir, 2, func([]byte) []byte { return from })
		}, 0, 2, "another log"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, head := written(t)
			if rep, err := verifyDir(t, dir, head); err != nil || rep.Records != 40 || len(rep.Torn) != 0 {
				t.Fatalf("untouched: %+v, %v", rep, err)
			}
			c.do(t, dir)
			rep, err := verifyDir(t, dir, head)
			if !errors.Is(err, ErrBroken) || len(rep.Breaks) == 0 {
				t.Fatalf("not found: %+v, %v", rep, err)
			}
			b := rep.Breaks[0]
			if b.File != fileName(c.file) || !strings.Contains(b.What, c.what) || c.first != 0 && b.First != c.first {
				t.Errorf("located at %v", rep.Breaks)
			}
			if rep.Head.Sequence != 40 || rep.Records < 20 {
				t.Errorf("the walk did not go on behind the break: %+v", rep)
			}
			// The log can be opened and goes on; the break stays visible.
			l := mustOpen(t, dir, Options{})
			appendN(t, l, 41, 45)
			if _, err := l.Verify(); !errors.Is(err, ErrBroken) {
				t.Errorf("healed by reopening: %v", err)
			}
			closeLog(t, l)
		})
	}
}

// at flips a bit of a record: of its end if off is negative.
func at(index uint64, n, off int) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		edit(t, dir, index, func(b []byte) []byte {
			o := offsets(t, b)
			if off < 0 {
				return flip(o[n+1] + off)(b)
			}
			return flip(o[n] + off)(b)
		})
	}
}

func TestBreakIsLocatedExactly(t *testing.T) {
	dir, _ := written(t)
	b, err := os.ReadFile(filepath.Join(dir, fileName(3)))
	if err != nil {
		t.Fatal(err)
	}
	o := offsets(t, b)
	seq := binary.BigEndian.Uint64(b[o[1]+4:])
	edit(t, dir, 3, flip(o[1]+60))
	rep, err := verifyDir(t, dir)
	if !errors.Is(err, ErrBroken) || len(rep.Breaks) != 1 {
		t.Fatalf("%v, %v", rep.Breaks, err)
	}
	if got := rep.Breaks[0]; got.First != seq || got.Last != seq || got.Offset != int64(o[1]) {
		t.Fatalf("record %d at %d located as %v", seq, o[1], got)
	}
}

func TestEveryByteCounts(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	appendN(t, l, 1, 3)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	head := l.Head()
	closeLog(t, l)
	path := filepath.Join(dir, fileName(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		b := append([]byte{}, whole...)
		b[i] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verifyDir(t, dir, head); err == nil {
			t.Fatalf("a change of byte %d was not found", i)
		}
	}
}

func TestCutEndNeedsAnAnchor(t *testing.T) {
	dir, head := written(t)
	files, _ := (&reader{dir: dir}).indexes()
	last := files[len(files)-1]
	edit(t, dir, last, func(b []byte) []byte { o := offsets(t, b); return b[:o[len(o)-2]] })
	if _, err := verifyDir(t, dir); err != nil {
		t.Fatalf("without an anchor: %v", err)
	}
	if _, err := verifyDir(t, dir, head); !errors.Is(err, ErrBroken) {
		t.Fatalf("with an anchor: %v", err)
	}
}

func TestCutEndOfAnOpenLog(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	defer l.Close()
	appendN(t, l, 1, 10)
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(filepath.Join(dir, fileName(1)))
	o := offsets(t, b)
	if err := os.Truncate(filepath.Join(dir, fileName(1)), int64(o[8])); err != nil {
		t.Fatal(err)
	}
	if rep, err := l.Verify(); !errors.Is(err, ErrBroken) {
		t.Fatalf("%+v, %v", rep, err)
	}
}

func TestTornTail(t *testing.T) {
	for name, tear := range map[string]func(b []byte, o []int) []byte{
		"half a record":   func(b []byte, o []int) []byte { return b[:o[len(o)-1]-20] },
		"half a length":   func(b []byte, o []int) []byte { return b[:o[len(o)-2]+2] },
		"zeros":           func(b []byte, _ []int) []byte { return append(b, make([]byte, 5000)...) },
		"rubbish":         func(b []byte, _ []int) []byte { return append(b, strings.Repeat("rubbish", 500)...) },
		"last block lost": func(b []byte, o []int) []byte { clear(b[o[len(o)-2]+8:]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, Options{})
			appendN(t, l, 1, 20)
			closeLog(t, l)
			edit(t, dir, 1, func(b []byte) []byte { return tear(b, offsets(t, b)) })
			rep, err := verifyDir(t, dir)
			if err != nil || len(rep.Torn) != 1 || rep.Records < 19 {
				t.Fatalf("%+v, %v", rep, err)
			}
			for range 2 { // the second time the torn file is not the last one any more
				l = mustOpen(t, dir, Options{})
				appendN(t, l, 21, 25)
				rep, err = l.Verify()
				if err != nil || len(rep.Torn) != 1 || rep.Files != 2 {
					t.Fatalf("reopened: %+v, %v", rep, err)
				}
				closeLog(t, l)
			}
			if rep.Records < 29 {
				t.Fatalf("%d records", rep.Records)
			}
		})
	}
}
