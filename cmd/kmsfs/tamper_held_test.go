package main

import (
	"bytes"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/mount"
)

// Nine tenths of a store are its segments, of which opening it reads nothing but the first block (and, after a crash, the extents of epochs that
// were not closed). Nothing of their content stays in memory. So a child opens the store once, and all that is in the segments
// is read again each time something was done to them under it.

const (
	holdOrder  = "hold "  // and a directory
	againOrder = "again!" // reads what is in the segments of the store that is held
	inRows     = 16 << 10 // files that are not longer have no extent in the segments
)

type holder struct {
	ses   *mount.Session
	files map[string]mount.Attr
}

func hold(dir string) (h *holder, l sight) {
	log := slog.New(slog.DiscardHandler)
	s, err := openStore(dir, openOptions{Log: log})
	if err != nil {
		return nil, sight{Refused: err.Error()}
	}
	hub := mount.NewHub(mount.HubConfig{Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Log: log})
	ses, err := mount.NewSession(mount.SessionConfig{
		Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Principal: "admin", Hub: hub, Clock: time.Now, Log: log,
	})
	if err != nil {
		return nil, sight{Refused: err.Error()}
	}
	h = &holder{ses, map[string]mount.Attr{}}
	if err := h.find("", mount.RootIno); err != nil {
		return nil, sight{Refused: err.Error()}
	}
	return h, l
}

// find notes the files that have something in the segments.
func (h *holder) find(path string, dir mount.Ino) error {
	d, err := h.ses.OpenDir(mount.Caller{}, dir)
	if err != nil {
		return err
	}
	var names []string
	if err := d.Read(0, func(e mount.Dirent) bool { names = append(names, e.Name); return true }); err != nil {
		return err
	}
	for _, name := range names {
		a, err := h.ses.Lookup(mount.Caller{}, dir, name)
		if err != nil {
			return err
		}
		p := path + "/" + name
		if a.Type == mount.Directory {
			err = h.find(p, a.Ino)
		} else if a.Type == mount.Regular && a.Size > inRows && a.Nlink == 1 || strings.HasSuffix(p, "/large") {
			h.files[p] = a
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *holder) contents() sight {
	l := sight{Seen: map[string]string{}, Failed: map[string]string{}, Wrong: map[string]string{}}
	for p, a := range h.files {
		sum, err := content(h.ses, a)
		l.saw("data "+p, sum, err)
	}
	return l
}

// replace makes a file what f is, in place, where it was from.
func (f *blob) replace(name string, from *blob) error {
	out, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	first, end := 0, len(f.b)
	for first+fine <= min(end, len(from.b)) && bytes.Equal(f.b[first:first+fine], from.b[first:first+fine]) {
		first += fine
	}
	if len(f.b) == len(from.b) {
		for end-fine >= first && bytes.Equal(f.b[end-fine:end], from.b[end-fine:end]) {
			end -= fine
		}
	} else {
		err = out.Truncate(int64(len(f.b)))
	}
	if err == nil {
		_, err = out.WriteAt(f.b[first:end], int64(first))
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// held is a store that a child has open.
type held struct {
	t    *testing.T
	dir  string
	im   image
	look *looker
	want sight
}

// begin opens the store as it is.
func (h *held) begin() {
	h.t.Helper()
	if err := h.im.put(h.dir); err != nil {
		h.t.Fatal(err)
	}
	h.look = newLooker(h.t)
	want, err := h.look.look(holdOrder + h.dir)
	if err != nil || want.Refused != "" || len(want.Failed)+len(want.Wrong) > 0 || len(want.Seen) < 3 {
		h.t.Fatalf("a store that is held: %v, %+v", err, want)
	}
	h.want = want
}

// try damages a segment, looks, and puts it back. It reports whether reads failed.
func (h *held) try(name string, x tampering) (failed bool) {
	h.t.Helper()
	file := filepath.Join(h.dir, name)
	now := maps.Clone(h.im)
	x.do(now)
	if err := now[name].replace(file, h.im[name]); err != nil {
		h.t.Fatal(err)
	}
	got, err := h.look.look(againOrder)
	if err != nil {
		h.t.Errorf("case %d, %s: %v", x.n, x.what, err)
		h.look.end()
		h.begin()
		return true
	}
	if w := got.wrongs(&h.want, false); len(w) > 0 {
		h.t.Errorf("case %d, %s:\n   %s", x.n, x.what, strings.Join(w, "\n   "))
	}
	if err := h.im[name].replace(file, now[name]); err != nil {
		h.t.Fatal(err)
	}
	return len(got.Failed) > 0
}

// tamperWithHeld does what can be done to a segment under a store that is open, and returns the rest: what is about the whole file or its
// header, and some of what is not, for the sake of what opening does. whole says that all are all there are.
func tamperWithHeld(t *testing.T, dir string, im image, name string, all []tampering, whole bool) (rest []tampering) {
	t.Helper()
	h := held{t: t, dir: dir, im: im}
	h.begin()
	defer func() { h.look.end() }()
	t.Logf("in the segments: %v", slices.Sorted(maps.Keys(h.want.Seen)))
	failed, unseen := 0, 0
	for i, x := range all {
		if x.off < page || x.off%(4*page) == 0 {
			rest = append(rest, x)
			continue
		}
		if h.try(name, x) {
			failed++
		} else {
			unseen++
		}
		if i%1000 == 0 || i == len(all)-1 {
			if got, err := h.look.look(againOrder); err != nil || len(got.Failed)+len(got.Wrong) > 0 || !maps.Equal(got.Seen, h.want.Seen) {
				t.Fatalf("after case %d, with everything as it was: %v, %+v", x.n, err, got)
			}
		}
		if testing.Verbose() && i%5000 == 4999 {
			t.Logf("%d of %d", i+1, len(all))
		}
	}
	t.Logf("%s: %d cases while the store is open: %d with reads that failed, %d without effect", name, failed+unseen, failed, unseen)
	if whole && failed < unseen {
		t.Error("most of it should be noticed")
	}
	return rest
}
