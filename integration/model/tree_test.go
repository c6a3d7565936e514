package model

import (
	"slices"
	"strings"
	"syscall"
)

// node is an inode of the model.
type node struct {
	kind     byte // 'd', 'f' or 'l'
	mode     uint32
	uid, gid uint32
	nlink    uint32
	data     []byte
	entries  map[string]*node
	parent   *node  // of a directory
	links    []link // every name of what is no directory, oldest first
	target   string
	xattrs   map[string]string
	sse      string // of a file: its encryption; of a directory: its default, "" if none
	explicit bool

	ino                 uint64 // as the program numbers it; 0: not seen yet
	atime, mtime, ctime moment
	writers             [mounts]bool // who ever had it open for writing
}

type link struct {
	dir  *node
	name string
}

// moment is what is known of a timestamp: an exact value that was seen or set, or an interval in which it was taken, or either.
type moment struct {
	exact  int64
	known  bool
	lo, hi int64
	open   bool
}

func exactly(t int64) moment { return moment{exact: t, known: true} }

// span is when an operation was under way.
type span struct{ lo, hi int64 }

func (m *moment) must(s span) { *m = moment{lo: s.lo, hi: s.hi, open: true} }

// may says that an operation is free to move the timestamp.
func (m *moment) may(s span) {
	if !m.open {
		m.lo = s.lo
	}
	m.hi, m.open = s.hi, true
}

// see compares with what stat shows, and pins it: nothing but an operation may move it again.
func (m *moment) see(t int64) bool {
	ok := m.known && t == m.exact || m.open && t >= m.lo && t <= m.hi
	*m = exactly(t)
	return ok
}

// handle is an open file.
type handle struct {
	id          int
	mount       int
	n           *node
	read, write bool
	append      bool
	pos         int64
	mapped      int64 // length of the mapping, 0 if there is none
	mapWrite    bool
}

// tree is the model of one bucket.
type tree struct {
	root    *node
	handles map[int]*handle
	hard    bool // fs.protected_hardlinks
}

func newTree() *tree {
	root := &node{kind: 'd', mode: 0o777, nlink: 2, entries: map[string]*node{}, sse: "AES256"}
	for _, m := range []*moment{&root.atime, &root.mtime, &root.ctime} {
		*m = moment{lo: 0, hi: 1<<63 - 1, open: true}
	}
	return &tree{root: root, handles: map[int]*handle{}}
}

// who is the caller behind a mount.
type who struct {
	uid     uint32
	perms   bool // owner and mode count
	limited bool // no right on the customer key
}

var users = [mounts]who{{}, {}, {limited: true}, {uid: aliceUID, perms: true}}

const (
	mayRead  = 4
	mayWrite = 2
	mayExec  = 1
)

func (w who) may(n *node, mask uint32) bool {
	if !w.perms || w.uid == 0 {
		return true
	}
	bits := n.mode
	switch {
	case n.uid == w.uid:
		bits >>= 6
	case n.gid == w.uid:
		bits >>= 3
	}
	return bits&mask == mask
}

func (w who) owns(n *node) bool { return !w.perms || w.uid == 0 || n.uid == w.uid }

// denied reports whether policies keep the caller from files under this encryption.
func (w who) denied(sse string) bool { return w.limited && sse == keyAlias }

const (
	maxName   = 255
	maxFollow = 40
)

// place is where a path leads: a name in a directory, and what is there, if anything. The name of the bucket itself is "".
type place struct {
	dir  *node
	name string
	n    *node
}

// walk follows a path; the last component only if follow is set.
func (t *tree) walk(w who, path string, follow bool) (place, syscall.Errno) {
	depth := 0
	return t.walkFrom(w, t.root, path, follow, &depth)
}

func (t *tree) walkFrom(w who, dir *node, path string, follow bool, depth *int) (place, syscall.Errno) {
	at := place{n: dir}
	if path == "" {
		return at, 0
	}
	parts := strings.Split(path, "/")
	for i, name := range parts {
		last := i == len(parts)-1
		if at.n == nil {
			return place{}, syscall.ENOENT
		}
		dir := at.n
		if dir.kind != 'd' {
			return place{}, syscall.ENOTDIR
		}
		if !w.may(dir, mayExec) {
			return place{}, syscall.EACCES
		}
		if name == ".." {
			up := dir.parent
			if up == nil {
				up = dir // the generator never leaves the bucket
			}
			at = place{n: up}
			continue
		}
		if len(name) > maxName {
			return place{}, syscall.ENAMETOOLONG
		}
		at = place{dir, name, dir.entries[name]}
		if at.n != nil && at.n.kind == 'l' && (!last || follow) {
			if *depth++; *depth > maxFollow {
				return place{}, syscall.ELOOP
			}
			var errno syscall.Errno
			if at, errno = t.walkFrom(w, dir, at.n.target, true, depth); errno != 0 {
				return place{}, errno
			}
		}
	}
	return at, 0
}

// find is walk to something that exists.
func (t *tree) find(w who, path string, follow bool) (*node, syscall.Errno) {
	p, errno := t.walk(w, path, follow)
	if errno == 0 && p.n == nil {
		errno = syscall.ENOENT
	}
	return p.n, errno
}

// add gives a node a name.
func (t *tree) add(dir *node, name string, n *node, s span) {
	dir.entries[name] = n
	if n.kind == 'd' {
		n.parent = dir
		dir.nlink++
	} else {
		n.links = append(n.links, link{dir, name})
	}
	dir.mtime.must(s)
	dir.ctime.must(s)
}

// drop takes a name away.
func (t *tree) drop(dir *node, name string, s span) {
	n := dir.entries[name]
	delete(dir.entries, name)
	if n.kind == 'd' {
		n.nlink = 0
		dir.nlink--
	} else {
		n.links = slices.DeleteFunc(n.links, func(l link) bool { return l == link{dir, name} })
		n.nlink--
	}
	n.ctime.must(s)
	dir.mtime.must(s)
	dir.ctime.must(s)
}

func (t *tree) fresh(w who, k byte, mode uint32, s span) *node {
	n := &node{kind: k, mode: mode, uid: w.uid, gid: w.uid, nlink: 1, xattrs: map[string]string{}}
	if k == 'd' {
		n.nlink, n.entries = 2, map[string]*node{}
	}
	n.atime.must(s)
	n.mtime.must(s)
	n.ctime.must(s)
	return n
}

// order is the encryption of a new file in a directory.
func (t *tree) order(dir *node) string {
	if dir != nil && dir != t.root && dir.sse != "" {
		return dir.sse
	}
	return t.root.sse
}

// reorder is the encryption of a file that is emptied.
func (t *tree) reorder(n *node) string {
	if n.explicit {
		return n.sse
	}
	if len(n.links) == 0 {
		return t.order(nil)
	}
	return t.order(n.links[0].dir)
}

// within reports whether n is top or lies beneath it.
func within(n, top *node) bool {
	for ; n != nil; n = n.parent {
		if n == top {
			return true
		}
	}
	return false
}

// each visits everything beneath a directory in a stable order.
func each(dir *node, path string, fn func(path string, n *node)) {
	names := make([]string, 0, len(dir.entries))
	for name := range dir.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p := name
		if path != "" {
			p = path + "/" + name
		}
		n := dir.entries[name]
		fn(p, n)
		if n.kind == 'd' {
			each(n, p, fn)
		}
	}
}
