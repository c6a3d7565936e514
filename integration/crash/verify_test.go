package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// found is what a verifier saw in a worker's directory.
type found struct {
	tree    map[string]string // as model.tree
	content map[string]string // path -> file to read it from; one name of each inode
}

// look walks the worker's directory through one of the mounts.
func look(root string, plain bool) (*found, error) {
	f := &found{tree: map[string]string{}, content: map[string]string{}}
	names := map[uint64][]string{}
	links := map[uint64]uint64{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil || rel == "." {
			return err
		}
		if d.IsDir() {
			f.tree[rel] = "dir"
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return fmt.Errorf("stat %s: %w", rel, err)
		}
		names[st.Ino] = append(names[st.Ino], rel)
		links[st.Ino] = uint64(st.Nlink)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for ino, all := range names {
		if links[ino] != uint64(len(all)) {
			return nil, fmt.Errorf("%s has %d links and %d names", all[0], links[ino], len(all))
		}
		slices.Sort(all)
		attrs, err := attributes(filepath.Join(root, all[0]), plain)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", all[0], err)
		}
		for _, p := range all {
			f.tree[p] = fileLine(all, attrs)
		}
		f.content[all[0]] = filepath.Join(root, all[0])
	}
	return f, nil
}

func attributes(p string, plain bool) (map[string]string, error) {
	out := map[string]string{}
	get := func(name string) (string, error) {
		buf := make([]byte, 70<<10)
		n, err := unix.Getxattr(p, name, buf)
		if err != nil {
			return "", fmt.Errorf("attribute %s: %w", name, err)
		}
		return string(buf[:n]), nil
	}
	for i := range 3 {
		name := fmt.Sprintf("user.a%d", i)
		v, err := get(name)
		if errors.Is(err, unix.ENODATA) {
			continue
		} else if err != nil {
			return nil, err
		}
		out[name] = shortValue([]byte(v))
	}
	sse, err := get(sseAttr)
	if plain && errors.Is(err, unix.ENODATA) {
		sse, err = "AES256", nil
	}
	if err != nil {
		return nil, err
	}
	if sse == "aws:kms" {
		arn, err := get("user.s3.sse-kms-key-id")
		if err != nil {
			return nil, err
		}
		sse += ":" + path.Base(arn)
	}
	out[sseAttr] = sse
	return out, nil
}

// verify compares a worker's directory with its journal.
func verify(t task) (problems []string, err error) {
	done, underWay, wrong, _, err := readJournal(t.Journal)
	if err != nil {
		return nil, err
	}
	if wrong != "" {
		problems = append(problems, "before the crash: "+wrong)
	}
	f, err := look(filepath.Join(t.Mounts[0], t.Dir), t.Plain)
	if err != nil {
		return append(problems, err.Error()), nil
	}
	all := done
	if underWay != nil {
		all = append(slices.Clone(done), *underWay)
	}
	v := verifier{task: t, f: f, all: all, acked: len(done)}
	return append(problems, v.run()...), nil
}

type verifier struct {
	task
	f     *found
	all   []op // what was begun
	acked int  // so many of it ended well
}

// at gives the model after the first k operations.
func (v *verifier) at(k int) *model {
	m := newModel(v.Power)
	for i, o := range v.all[:k] {
		if i == v.acked && (o.Kind == opClose || o.Kind == opFsync || o.Kind == opSyncdir) {
			break // it vouches for nothing before it returned
		}
		m.apply(o)
	}
	return m
}

// run finds a moment of the history that explains what is there.
func (v *verifier) run() []string {
	first := v.acked
	if v.Power {
		first = v.at(v.acked).synced + 1
	}
	var nearest []string
	moments := 0
	matched := false
	for k := len(v.all); k >= first; k-- {
		if k < len(v.all) && v.sameTree(k) && matched {
			continue // nothing but content changed: explained by the later moment
		}
		m := v.at(k)
		diff := v.compareTree(m)
		if len(diff) == 0 {
			matched = true
			diff = v.compareContent(m, k)
		} else {
			matched = false
		}
		if len(diff) == 0 {
			return nil
		}
		text := append([]string{fmt.Sprintf("moment %d:", k)}, diff[:min(len(diff), 6)]...)
		if moments++; matched {
			nearest = append(text, nearest...) // the more telling
		} else if moments <= 2 {
			nearest = append(nearest, text...)
		}
		if v.acked-k > 3000 {
			break
		}
	}
	return append([]string{fmt.Sprintf("no moment between operations %d and %d explains what is there", first, len(v.all))}, nearest...)
}

// sameTree reports whether operation k leaves names and attributes alone, so that moments k and k+1 show the same tree.
func (v *verifier) sameTree(k int) bool {
	switch v.all[k].Kind {
	case opOpen, opWrite, opAppend, opResize, opTruncate, opFsync, opClose, opRead, opSyncdir:
		return true
	}
	return false
}

func (v *verifier) compareTree(m *model) (diff []string) {
	want := m.tree()
	for p, n := range m.files {
		if _, there := v.f.tree[p]; !there && !n.ended && (!v.Power || n.made > m.synced) {
			delete(want, p) // created and never closed, and nothing was synced since
		}
	}
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if got := v.f.tree[p]; got != want[p] {
			diff = append(diff, fmt.Sprintf("%s is %q, want %q", p, got, want[p]))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(v.f.tree)) {
		if want[p] == "" {
			diff = append(diff, fmt.Sprintf("%s is there (%q) and should not be", p, v.f.tree[p]))
		}
	}
	return diff
}

func (v *verifier) compareContent(m *model, k int) (diff []string) {
	for p, from := range v.f.content {
		got, err := os.ReadFile(from)
		if err != nil {
			diff = append(diff, fmt.Sprintf("read %s: %v", p, err))
			continue
		}
		n := m.files[p]
		why := ""
		if v.Power {
			why = mixOf(got, n)
		} else {
			why = oneOf(got, n, v.acked)
		}
		if why != "" {
			diff = append(diff, fmt.Sprintf("content of %s at moment %d: %s", p, k, why))
		}
	}
	return diff
}

// inOneRequest says that the kernel asks for a write in one request: a request ends where a page that is not in its cache was written
// in part. Of any other write a part may have come through, or been flushed in the background, before the rest.
func inOneRequest(o op) bool { return o.Off>>12 == (o.Off+o.Len-1)>>12 }

// oneOf wants the content to be one of the versions since the file was last sure, the newest write of it perhaps in part.
func oneOf(got []byte, n *inode, acked int) string {
	b := slices.Clone(n.base)
	why := differs(got, b)
	for _, o := range n.pending {
		if why == "" {
			return ""
		}
		if (o.N == acked || !inOneRequest(o)) && (o.Kind == opWrite || o.Kind == opAppend) {
			part := o
			part.Len = 0
			for want := make([]byte, o.Len); part.Len < o.Len && o.Off+part.Len < int64(len(got)); part.Len++ {
				if part.Len == 0 {
					fill(want, o.ID, o.Off)
				}
				if got[o.Off+part.Len] != want[part.Len] {
					break
				}
			}
			if part.Len > 0 && differs(got, changed(slices.Clone(b), part)) == "" {
				return ""
			}
		}
		b = changed(b, o)
		if d := differs(got, b); d == "" {
			return ""
		} else if o.N == n.pending[len(n.pending)-1].N {
			why = fmt.Sprintf("none of %d versions since operation %d; from the first: %s; from the last: %s", len(n.pending)+1, n.sure, why, d)
		}
	}
	return why
}

// mixOf wants each byte to be one of those that were there since the file was last sure, and the length no less than the shortest.
func mixOf(got []byte, n *inode) string {
	b := slices.Clone(n.base)
	shortest, longest := len(b), len(b)
	good := make([]bool, len(got))
	mark := func() {
		for i := range min(len(b), len(got)) {
			good[i] = good[i] || b[i] == got[i]
		}
	}
	mark()
	for _, o := range n.pending {
		b = changed(b, o)
		shortest, longest = min(shortest, len(b)), max(longest, len(b))
		mark()
	}
	if len(got) < shortest || len(got) > longest {
		return fmt.Sprintf("%d bytes, was never below %d nor above %d since operation %d", len(got), shortest, longest, n.sure)
	}
	if i := slices.Index(good, false); i >= 0 {
		return fmt.Sprintf("byte %d of %d: %s, which was never there since operation %d (last: %s)", i, len(got), describe(got, i), n.sure, describe(b, min(i, max(len(b)-1, 0))))
	}
	return ""
}

func runVerify(t task) error {
	problems, err := verify(t)
	if err != nil {
		return err
	}
	if len(problems) > 12 {
		problems = append(problems[:12], fmt.Sprintf("… %d more", len(problems)-12))
	}
	if problems == nil {
		problems = []string{}
	}
	return json.NewEncoder(os.Stdout).Encode(problems)
}
