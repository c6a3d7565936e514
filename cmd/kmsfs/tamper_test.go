package main

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The tamper tests damage a whole store, file by file and region by region, and open and read it in a child process, which is this test
// binary started again: whatever happens there, a panic or an exit in a goroutine of a library included, is seen here. What the child
// reads must be what was written, or fail as EIO does; or the store is refused. Environment:
//
//	KMSFS_TAMPER_CASES=n  cases (by default a few hundred); a negative number: every region of every file (see tamperings)
//	KMSFS_TAMPER_SEED=n   replays the choice of cases
//	KMSFS_TAMPER_FILE=s   only files whose names contain s
//	KMSFS_TAMPER_STORE=s  only the store that was closed in order (clean), or the one that crashed (crashed)
//	KMSFS_TAMPER_FROM=n   of each file the cases from number n on, and
//	KMSFS_TAMPER_UNTIL=n  those before number n: all of them take many hours, and can be run in parts

const tamperEnv = "KMSFS_TAMPER_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(faultyEnv) != "" {
		os.Exit(faultyProgram())
	}
	if os.Getenv(tamperEnv) != "" {
		if err := tamperChild(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// tampering is one way to damage a store. It changes a copy.
type tampering struct {
	what string
	do   func(im image)
	off  int // in the file; -1: it is about the whole file
	n    int // its number among those of the file
}

// regions are the sizes of those that are zeroed, swapped, cut out, doubled or put back.
var regions = []int{16, 512, page}

const fine = 64

// tamperings are the ways to damage one file. In what is not zeros there are at every 64 bytes a flipped bit, an inverted byte, a cut and, in
// turn, one of the ways to damage 16 bytes; at every 512 bytes all ways to damage 512, and at every page all ways to damage a page.
func tamperings(im, older image, name string) (out []tampering) {
	good := im[name].b
	add := func(what string, change func(b []byte) []byte) {
		out = append(out, tampering{name + ": " + what, func(im image) { im[name] = newBlob(change(bytes.Clone(good))) }, -1, 0})
	}
	at := func(what string, step, first int, change func(b []byte, at int) []byte) {
		for _, p := range im[name].pages {
			for o := p + first; o < min(p+page, len(good)); o += step {
				add(fmt.Sprintf("%s at %d of %d", what, o, len(good)), func(b []byte) []byte { return change(b, o) })
				out[len(out)-1].off = o
			}
		}
	}
	// The whole file.
	out = append(out, tampering{name + ": removed", func(im image) { delete(im, name) }, -1, 0})
	add("emptied", func([]byte) []byte { return nil })
	add("zeroed", func(b []byte) []byte { clear(b); return b })
	add("longer by a page", func(b []byte) []byte { return append(b, make([]byte, page)...) })
	add("longer by itself", func(b []byte) []byte { return append(b, b[:min(len(b), 1<<20)]...) })
	if len(good) > 0 {
		add("shorter by one", func(b []byte) []byte { return b[:len(b)-1] })
	}
	if old := older[name]; old != nil && !bytes.Equal(old.b, good) {
		add("as it once was", func([]byte) []byte { return bytes.Clone(old.b) })
	}
	for other, f := range im {
		if other > name && filepath.Ext(other) == filepath.Ext(name) && filepath.Dir(other) == filepath.Dir(name) {
			out = append(out, tampering{name + ": swapped with " + other, func(im image) { im[name], im[other] = im[other], im[name] }, -1, 0},
				tampering{name + ": replaced by " + other, func(im image) { im[name] = f }, -1, 0})
		}
	}
	// Places in it.
	at("a flipped bit", fine, 0, func(b []byte, o int) []byte { b[o] ^= 1 << (o / fine % 8); return b })
	at("an inverted byte", fine, 0, func(b []byte, o int) []byte { b[min(o+fine/2, len(b)-1)] ^= 0xff; return b })
	at("cut", fine, 0, func(b []byte, o int) []byte { return b[:o] })
	for _, n := range regions {
		turn := 0
		at := func(what string, change func(b []byte, at int) []byte) {
			if n >= fine {
				at(what, n, 0, change)
				return
			}
			at(what, 5*fine, turn*fine, change)
			turn++
		}
		at(fmt.Sprintf("%d bytes zeroed", n), func(b []byte, o int) []byte { clear(b[o:min(o+n, len(b))]); return b })
		at(fmt.Sprintf("%d bytes cut out", n), func(b []byte, o int) []byte { return slices.Delete(b, o, min(o+n, len(b))) })
		at(fmt.Sprintf("%d bytes doubled", n), func(b []byte, o int) []byte {
			return slices.Insert(b, o, bytes.Clone(b[o:min(o+n, len(b))])...)
		})
		at(fmt.Sprintf("%d bytes swapped with the next", n), func(b []byte, o int) []byte {
			if o+2*n <= len(b) {
				first := bytes.Clone(b[o : o+n])
				copy(b[o:], b[o+n:o+2*n])
				copy(b[o+n:], first)
			}
			return b
		})
		if old := older[name]; old != nil {
			at(fmt.Sprintf("%d bytes as they once were", n), func(b []byte, o int) []byte {
				if o < len(old.b) {
					copy(b[o:min(o+n, len(b))], old.b[o:])
				}
				return b
			})
		}
	}
	return out
}

// tamperNumber reads a number from the environment.
func tamperNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, s)
	}
	return n
}

// part says which of the ways to damage a file are tried.
type part struct {
	cases       int // about as many of the whole store, which rnd chooses; negative: all of each file from from on, before until
	from, until int
	rnd         *rand.Rand
}

// whole reports whether it is all of each file.
func (p part) whole() bool { return p.cases < 0 && p.from == 0 && p.until == math.MaxInt }

func (p part) of(im, older image, name string) []tampering {
	all := tamperings(im, older, name)
	for i := range all {
		all[i].n = i
	}
	if p.cases < 0 {
		from := min(p.from, len(all))
		return all[from:max(from, min(p.until, len(all)))]
	}
	// Of each file about as many, the whole-file ones first.
	p.rnd.Shuffle(len(all)-3, func(i, j int) { all[i+3], all[j+3] = all[j+3], all[i+3] })
	return all[:min(len(all), max(p.cases/len(im)/2, 4))]
}

// tampered is how the cases of a store ended.
type tampered struct {
	cases, refused, failed, unseen int
}

// tamper damages a store in dir in each way, and looks at it.
func tamper(t *testing.T, dir string, good image, all []tampering, want *sight, crashed bool) (n tampered) {
	look := newLooker(t)
	defer func() { look.end() }()
	for i, x := range all {
		im := maps.Clone(good)
		x.do(im)
		if err := im.put(dir); err != nil {
			t.Fatal(err)
		}
		n.cases++
		got, err := look.look(dir)
		if err != nil {
			t.Errorf("case %d, %s: %v", x.n, x.what, err)
			look.end()
			look = newLooker(t)
			continue
		}
		if w := got.wrongs(want, crashed); len(w) > 0 {
			t.Errorf("case %d, %s:\n   %s", x.n, x.what, strings.Join(w[:min(len(w), 8)], "\n   "))
		}
		switch {
		case got.Refused != "":
			n.refused++
		case len(got.Failed) > 0 || got.Broken != "":
			n.failed++
		default:
			n.unseen++
		}
		if testing.Verbose() && i%5000 == 4999 {
			t.Logf("%d of %d", i+1, len(all))
		}
	}
	return n
}

// TestTamperedStore damages a store in every way it can think of. The stories behind it: gocryptfs 804 (files that can be swapped),
// CryFS 155 (what an unclean stop left is refused or lost), JuiceFS 5038 (zeros in place of data), SeaweedFS 7499 (content changed
// silently).
func TestTamperedStore(t *testing.T) {
	clean, older, crashed := buildTampered(t)
	where, err := os.MkdirTemp("/dev/shm", "kmsfs-tamper-") // where it can be: a great many small syncs
	if err != nil {
		where, err = os.MkdirTemp("", "kmsfs-tamper-")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(where) })
	dir := filepath.Join(where, "store")

	seed := tamperNumber(t, "KMSFS_TAMPER_SEED", int(time.Now().UnixNano()/1000%1e9))
	p := part{
		cases: tamperNumber(t, "KMSFS_TAMPER_CASES", 160), from: tamperNumber(t, "KMSFS_TAMPER_FROM", 0),
		until: tamperNumber(t, "KMSFS_TAMPER_UNTIL", math.MaxInt), rnd: rand.New(rand.NewPCG(uint64(seed), 5)),
	}
	t.Logf("seed %d", seed)
	for _, c := range []struct {
		name string
		im   image
	}{{"clean", clean}, {"crashed", crashed}} {
		if only := os.Getenv("KMSFS_TAMPER_STORE"); only != "" && only != c.name {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			if err := c.im.put(dir); err != nil {
				t.Fatal(err)
			}
			first := newLooker(t)
			want, err := first.look(dir)
			first.end()
			if err != nil || want.Refused != "" || len(want.Failed) > 0 || len(want.Wrong) > 0 || want.Broken != "" || len(want.Seen) < 150 {
				t.Fatalf("the store as it is: %v, %+v", err, want)
			}
			files, all := 0, []tampering(nil)
			for _, name := range slices.Sorted(maps.Keys(c.im)) {
				if !strings.Contains(name, os.Getenv("KMSFS_TAMPER_FILE")) {
					continue
				}
				some := p.of(c.im, older, name)
				if testing.Verbose() && p.cases < 0 && len(some) > 0 {
					t.Logf("%s: cases %d to %d", name, some[0].n, some[len(some)-1].n)
				}
				if p.cases < 0 && strings.HasPrefix(name, "segments/") && len(some) > 0 {
					some = tamperWithHeld(t, dir, c.im, name, some, p.whole())
				}
				files++
				all = append(all, some...)
			}
			n := tamper(t, dir, c.im, all, &want, c.name == "crashed")
			t.Logf("%d files, %d cases: %d refused, %d with reads that failed, %d without effect", files, n.cases, n.refused, n.failed, n.unseen)
		})
	}
}
