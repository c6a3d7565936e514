package crash

import (
	"encoding/binary"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// op is one operation of a worker, as the journal has it.
type op struct {
	N     int    `json:"n"`
	Kind  string `json:"k"`
	Mount int    `json:"m"`           // through which of the mounts
	Path  string `json:"p,omitempty"` // relative to the worker's directory
	To    string `json:"t,omitempty"`
	H     int    `json:"h,omitempty"` // handle
	Off   int64  `json:"o,omitempty"`
	Len   int64  `json:"l,omitempty"`
	ID    uint64 `json:"i,omitempty"` // of a write, unique in the store
	Name  string `json:"a,omitempty"` // of an attribute
	Value string `json:"v,omitempty"`
	Flags string `json:"f,omitempty"` // of open: t truncate, a append, r read-only
}

// The kinds of operations.
const (
	opMkdir    = "mkdir"
	opRmdir    = "rmdir"
	opCreate   = "create" // O_CREAT|O_EXCL, handle H
	opOpen     = "open"
	opWrite    = "write"  // at Off
	opAppend   = "append" // through an O_APPEND handle; Off is where the model has the end
	opResize   = "resize" // ftruncate through H to Len
	opTruncate = "truncate"
	opFsync    = "fsync"
	opClose    = "close"
	opRename   = "rename" // over whatever is there
	opLink     = "link"
	opUnlink   = "unlink"
	opSetattr  = "setxattr"
	opRemattr  = "rmxattr"
	opRekey    = "rekey" // user.s3.sse
	opRead     = "read"  // all of it, and compare
	opSyncdir  = "fsyncdir"
)

// fill writes the content that write id puts at offset off of a file.
func fill(p []byte, id uint64, off int64) {
	var word [8]byte
	for i := range p {
		at := off + int64(i)
		if i == 0 || at%8 == 0 {
			binary.LittleEndian.PutUint64(word[:], id<<24|uint64(at/8)&(1<<24-1))
		}
		p[i] = word[at%8]
	}
}

// describe says which write a byte of a file seems to come from.
func describe(b []byte, at int) string {
	from := at &^ 7
	if from+8 > len(b) {
		return fmt.Sprintf("%x", b[from:])
	}
	w := binary.LittleEndian.Uint64(b[from:])
	if w == 0 {
		return "zeros"
	}
	return fmt.Sprintf("write %d, place %d (%x)", w>>24, (w&(1<<24-1))*8, b[from:from+8])
}

// inode is a file in the model.
type inode struct {
	id      int
	content []byte // as the next read shows it
	base    []byte // as it was when it was last sure to be there
	pending []op   // since then
	sure    int    // the operation that base dates from
	made    int    // the operation that created it
	ended   bool   // closed or synced at least once, or its name changed
	attrs   map[string]string
	writers int // open handles that write
}

type handle struct {
	n      *inode
	append bool
	read   bool
}

// model is what a worker's directory should be.
type model struct {
	dirs    map[string]bool
	files   map[string]*inode
	handles map[int]*handle
	nextID  int
	synced  int  // the last operation that a sync vouches for
	power   bool // only fsync makes sure
}

func newModel(power bool) *model {
	return &model{dirs: map[string]bool{"": true}, files: map[string]*inode{}, handles: map[int]*handle{}, synced: -1, power: power}
}

// apply does an operation that succeeded.
func (m *model) apply(o op) {
	switch o.Kind {
	case opMkdir:
		m.dirs[o.Path] = true
	case opRmdir:
		delete(m.dirs, o.Path)
	case opCreate:
		n := &inode{id: m.nextID, attrs: map[string]string{sseAttr: "AES256"}, sure: o.N, made: o.N}
		m.nextID++
		m.files[o.Path] = n
		m.handles[o.H] = &handle{n: n}
		n.writers++
	case opOpen:
		n := m.files[o.Path]
		h := &handle{n: n, append: strings.Contains(o.Flags, "a"), read: strings.Contains(o.Flags, "r")}
		m.handles[o.H] = h
		if !h.read {
			n.writers++
		}
		if strings.Contains(o.Flags, "t") {
			n.change(o)
		}
	case opWrite, opAppend, opResize:
		m.handles[o.H].n.change(o)
	case opTruncate:
		m.files[o.Path].change(o)
	case opFsync:
		m.handles[o.H].n.settle(o.N)
		m.synced = o.N
	case opSyncdir:
		m.synced = o.N
	case opClose:
		h := m.handles[o.H]
		delete(m.handles, o.H)
		h.n.ended = true
		if !h.read {
			h.n.writers--
		}
		if !m.power && !h.read { // what others wrote is theirs to close
			h.n.settle(o.N)
		}
	case opRename:
		m.rename(o)
	case opLink:
		m.files[o.To] = m.files[o.Path]
		m.files[o.Path].ended = true
	case opUnlink:
		delete(m.files, o.Path)
	case opSetattr, opRekey:
		m.files[o.Path].attrs[o.Name] = o.Value
	case opRemattr:
		delete(m.files[o.Path].attrs, o.Name)
	}
}

func (m *model) rename(o op) {
	if m.dirs[o.Path] {
		m.moveDir(o.Path, o.To)
		return
	}
	n := m.files[o.Path]
	if over := m.files[o.To]; over == n {
		return // two names of one file: nothing happens
	} else if over != nil && n.writers == 0 {
		n.settle(o.N) // written, closed, renamed over another: complete wherever the new name is
	}
	n.ended = true
	delete(m.files, o.Path)
	m.files[o.To] = n
}

func (m *model) moveDir(from, to string) {
	moved := func(p string) (string, bool) {
		if p == from {
			return to, true
		}
		tail, ok := strings.CutPrefix(p, from+"/")
		return path.Join(to, tail), ok
	}
	for _, p := range slices.Collect(maps.Keys(m.dirs)) {
		if q, ok := moved(p); ok {
			delete(m.dirs, p)
			m.dirs[q] = true
		}
	}
	for _, p := range slices.Collect(maps.Keys(m.files)) {
		if q, ok := moved(p); ok {
			m.files[q] = m.files[p]
			delete(m.files, p)
		}
	}
}

// change records a change of content.
func (n *inode) change(o op) {
	n.pending = append(n.pending, o)
	n.content = changed(n.content, o)
}

// settle makes what was written sure to be there from operation at on.
func (n *inode) settle(at int) {
	n.base = slices.Clone(n.content)
	n.pending = nil
	n.sure = at
	n.ended = true
}

// changed gives the content after an operation; the old slice may be reused.
func changed(b []byte, o op) []byte {
	resize := func(size int64) {
		if size <= int64(len(b)) {
			b = b[:size]
			return
		}
		old := len(b)
		b = slices.Grow(b, int(size)-old)[:size]
		clear(b[old:])
	}
	switch o.Kind {
	case opOpen: // with truncation
		resize(0)
	case opResize, opTruncate:
		resize(o.Len)
	case opWrite, opAppend:
		if end := o.Off + o.Len; end > int64(len(b)) {
			resize(end)
		}
		fill(b[o.Off:o.Off+o.Len], o.ID, o.Off)
	}
	return b
}

// tree is the canonical text of the model's names and attributes.
func (m *model) tree() map[string]string {
	out := map[string]string{}
	for p := range m.dirs {
		if p != "" {
			out[p] = "dir"
		}
	}
	names := map[*inode][]string{}
	for p, n := range m.files {
		names[n] = append(names[n], p)
	}
	for p, n := range m.files {
		slices.Sort(names[n])
		out[p] = fileLine(names[n], n.attrs)
	}
	return out
}

func fileLine(names []string, attrs map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "file %q", names)
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		fmt.Fprintf(&b, " %s=%q", k, attrs[k])
	}
	return b.String()
}
