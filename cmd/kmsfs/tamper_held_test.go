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

// tamperWithHeld does what can be done to a segment under a store that is open, and returns the rest: what is about the whole file or its
// header, and some of what is not, for the sake of what opening does.
func tamperWithHeld(t *testing.T, dir string, im image, name string, all []tampering) (rest []tampering) {
	t.Helper()
	if err := im.put(dir); err != nil {
		t.Fatal(err)
	}
	look := newLooker(t)
	defer look.end()
	want, err := look.look(holdOrder + dir)
	if err != nil || want.Refused != "" || len(want.Failed)+len(want.Wrong) > 0 || len(want.Seen) < 3 {
		t.Fatalf("a store that is held: %v, %+v", err, want)
	}
	t.Logf("in the segments: %v", slices.Sorted(maps.Keys(want.Seen)))
	file := filepath.Join(dir, name)
	failed, unseen := 0, 0
	for i, x := range all {
		if x.off < page || x.off%(4*page) == 0 {
			rest = append(rest, x)
			continue
		}
		now := maps.Clone(im)
		x.do(now)
		if err := now[name].replace(file, im[name]); err != nil {
			t.Fatal(err)
		}
		got, err := look.look(againOrder)
		if err != nil {
			t.Fatalf("%s: %v", x.what, err)
		}
		if w := got.wrongs(&want, false); len(w) > 0 {
			t.Errorf("%s:\n   %s", x.what, strings.Join(w, "\n   "))
		}
		if len(got.Failed) > 0 {
			failed++
		} else {
			unseen++
		}
		if err := im[name].replace(file, now[name]); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 || i == len(all)-1 {
			if got, err := look.look(againOrder); err != nil || len(got.Failed)+len(got.Wrong) > 0 || !maps.Equal(got.Seen, want.Seen) {
				t.Fatalf("after %d cases, with everything as it was: %v, %+v", i, err, got)
			}
		}
		if testing.Verbose() && i%20_000 == 19_999 {
			t.Logf("%d of %d", i+1, len(all))
		}
	}
	t.Logf("%s: %d cases while the store is open: %d with reads that failed, %d without effect", name, failed+unseen, failed, unseen)
	if failed < unseen {
		t.Error("most of it should be noticed")
	}
	return rest
}
