package model

import (
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// want is what an operation has to answer.
type want struct {
	errno  syscall.Errno
	bus    bool
	n      int64
	data   []byte
	isData bool

	orEmpty bool // or success with nothing
}

func refuse(e syscall.Errno) want { return want{errno: e} }

// valid reports whether an operation makes sense on this tree; histories that are being shrunk lose handles and files.
func (t *tree) valid(o *op) bool {
	if o.Kind >= opRemount {
		return true
	}
	if !needsHandle(o.Kind) {
		return o.Kind != opOpen || t.handles[o.ID] == nil
	}
	h := t.handles[o.H]
	if h == nil || h.mount != o.Mount {
		return false
	}
	switch o.Kind {
	case opMap:
		return h.read && o.N > 0 && (o.Flags == 0 || h.write)
	case opMapRead, opMapWrite:
		if o.Kind == opMapWrite && !h.mapWrite {
			return false
		}
		return o.N > 0 && o.Off+o.N <= min(h.mapped, int64(len(h.n.data)))
	case opCopy:
		to := t.handles[o.H2]
		return to != nil && to.mount == o.Mount && (to.n != h.n || o.Off+o.N <= o.Off2 || o.Off2+o.N <= o.Off)
	case opSeekEnd:
		return true
	default:
		return true
	}
}

// tolerated lists answers that are allowed besides the model's and leave everything as it was.
func (t *tree) tolerated(o *op, errno syscall.Errno) bool {
	switch o.Kind {
	case opFallocate:
		return errno == syscall.EOPNOTSUPP
	case opMap:
		// A handle that appends, or a file that another mount was writing when it was opened, is not cached: no shared mapping.
		h := t.handles[o.H]
		others := h.append
		for m, w := range h.n.writers {
			others = others || w && m != h.mount
		}
		return errno == syscall.ENODEV && others
	default:
		return false
	}
}

// apply does an operation to the model and says what it has to answer.
func (t *tree) apply(o *op, s span) want {
	w := users[o.Mount]
	if needsHandle(o.Kind) {
		return t.applyHandle(o, s)
	}
	switch o.Kind {
	case opMkdir:
		return t.mkdir(w, o, s)
	case opRmdir, opUnlink:
		return t.remove(w, o, s)
	case opOpen:
		return t.open(w, o, s)
	case opTruncate:
		return t.truncatePath(w, o, s)
	case opRename:
		return t.rename(w, o, s)
	case opLink:
		return t.link(w, o, s)
	case opSymlink:
		return t.symlink(w, o, s)
	case opReadlink:
		n, errno := t.find(w, o.Path, false)
		if errno == 0 && n.kind != 'l' {
			errno = syscall.EINVAL
		}
		if errno != 0 {
			return refuse(errno)
		}
		return want{data: []byte(n.target), isData: true}
	case opChmod, opChown, opUtimens:
		return t.attributes(w, o, s)
	case opSetxattr:
		return t.setxattr(w, o, s)
	case opGetxattr:
		return t.getxattr(w, o)
	case opRemovexattr:
		return t.removexattr(w, o, s)
	default:
		return want{}
	}
}

// vacant walks to a name that is to be made.
func (t *tree) vacant(w who, path string) (place, syscall.Errno) {
	p, errno := t.walk(w, path, false)
	switch {
	case errno != 0:
	case p.n != nil:
		errno = syscall.EEXIST
	}
	return p, errno
}

func (t *tree) mkdir(w who, o *op, s span) want {
	p, errno := t.vacant(w, o.Path)
	if errno == 0 && !w.may(p.dir, mayWrite|mayExec) {
		errno = syscall.EACCES
	}
	if errno != 0 {
		return refuse(errno)
	}
	n := t.fresh(w, 'd', o.Mode, s)
	if p.dir != t.root {
		n.sse = p.dir.sse
	}
	t.add(p.dir, p.name, n, s)
	return want{}
}

func (t *tree) symlink(w who, o *op, s span) want {
	p, errno := t.vacant(w, o.Path)
	if errno == 0 && !w.may(p.dir, mayWrite|mayExec) {
		errno = syscall.EACCES
	}
	if errno != 0 {
		return refuse(errno)
	}
	n := t.fresh(w, 'l', 0o777, s)
	n.target = o.Path2
	t.add(p.dir, p.name, n, s)
	return want{}
}

func (t *tree) link(w who, o *op, s span) want {
	n, errno := t.find(w, o.Path, false)
	if errno != 0 {
		return refuse(errno)
	}
	p, errno := t.vacant(w, o.Path2)
	switch {
	case errno != 0:
	case t.hard && !w.owns(n) && (n.kind != 'f' || n.mode&0o4000 != 0 || !w.may(n, mayRead|mayWrite)):
		errno = syscall.EPERM
	case !w.may(p.dir, mayWrite|mayExec):
		errno = syscall.EACCES
	case n.kind == 'd':
		errno = syscall.EPERM
	}
	if errno != 0 {
		return refuse(errno)
	}
	t.add(p.dir, p.name, n, s)
	n.nlink++
	n.ctime.must(s)
	return want{}
}

// removable judges taking a name away; isDir says what kind of thing is expected there.
func (t *tree) removable(w who, dir, n *node, isDir bool) syscall.Errno {
	switch {
	case !w.may(dir, mayWrite|mayExec):
		return syscall.EACCES
	case isDir && n.kind != 'd':
		return syscall.ENOTDIR
	case !isDir && n.kind == 'd':
		return syscall.EISDIR
	}
	return 0
}

func (t *tree) remove(w who, o *op, s span) want {
	p, errno := t.walk(w, o.Path, false)
	if errno == 0 && p.n == nil {
		errno = syscall.ENOENT
	}
	if errno == 0 {
		errno = t.removable(w, p.dir, p.n, o.Kind == opRmdir)
	}
	if errno == 0 && len(p.n.entries) > 0 {
		errno = syscall.ENOTEMPTY
	}
	if errno != 0 {
		return refuse(errno)
	}
	t.drop(p.dir, p.name, s)
	return want{}
}

func (t *tree) rename(w who, o *op, s span) want {
	from, to, errno := t.ends(w, o)
	if errno == 0 && from.n == to.n {
		return want{} // two names of one file, or the same name: nothing happens
	}
	if errno == 0 {
		errno = t.mayRename(w, o, from, to)
	}
	if errno != 0 {
		return refuse(errno)
	}
	n, old := from.n, to.n
	if o.Flags == unix.RENAME_EXCHANGE {
		t.move(old, to, from)
		t.move(n, from, to)
		from.dir.entries[from.name], to.dir.entries[to.name] = old, n
		old.ctime.must(s)
	} else {
		if old != nil {
			t.drop(to.dir, to.name, s)
		}
		t.move(n, from, to)
		delete(from.dir.entries, from.name)
		to.dir.entries[to.name] = n
	}
	n.ctime.must(s)
	for _, d := range []*node{from.dir, to.dir} {
		d.mtime.must(s)
		d.ctime.must(s)
	}
	return want{}
}

// ends finds what a rename is about, and refuses what the names alone rule out.
func (t *tree) ends(w who, o *op) (from, to place, errno syscall.Errno) {
	parent := func(path string) syscall.Errno { // both directories come before both names
		_, errno := t.walk(w, path, false)
		if errno == syscall.ENAMETOOLONG && len(path[lastSlash(path)+1:]) > maxName {
			return 0
		}
		return errno
	}
	if errno = parent(o.Path); errno != 0 {
		return
	}
	if errno = parent(o.Path2); errno != 0 {
		return
	}
	if from, errno = t.walk(w, o.Path, false); errno != 0 {
		return
	}
	if from.n == nil {
		return from, to, syscall.ENOENT
	}
	if to, errno = t.walk(w, o.Path2, false); errno != 0 {
		return
	}
	exchange := o.Flags == unix.RENAME_EXCHANGE
	switch {
	case o.Flags == unix.RENAME_NOREPLACE && to.n != nil:
		errno = syscall.EEXIST
	case exchange && to.n == nil:
		errno = syscall.ENOENT
	case from.n.kind == 'd' && within(to.dir, from.n):
		errno = syscall.EINVAL
	case to.n != nil && to.n.kind == 'd' && within(from.dir, to.n):
		errno = syscall.ENOTEMPTY
		if exchange {
			errno = syscall.EINVAL
		}
	}
	return from, to, errno
}

func lastSlash(path string) int {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return i
		}
	}
	return -1
}

func (t *tree) mayRename(w who, o *op, from, to place) syscall.Errno {
	exchange := o.Flags == unix.RENAME_EXCHANGE
	isDir := from.n.kind == 'd'
	if !w.may(from.dir, mayWrite|mayExec) || !w.may(to.dir, mayWrite|mayExec) {
		return syscall.EACCES
	}
	if to.n != nil && !exchange {
		if errno := t.removable(w, to.dir, to.n, isDir); errno != 0 {
			return errno
		}
	}
	if from.dir != to.dir {
		if isDir && !w.may(from.n, mayWrite) || exchange && to.n.kind == 'd' && !w.may(to.n, mayWrite) {
			return syscall.EACCES
		}
	}
	if to.n != nil && !exchange && len(to.n.entries) > 0 {
		return syscall.ENOTEMPTY
	}
	return 0
}

// move changes what a node knows of its place.
func (t *tree) move(n *node, from, to place) {
	if n.kind == 'd' {
		n.parent = to.dir
		from.dir.nlink--
		to.dir.nlink++
		return
	}
	if i := slices.Index(n.links, link{from.dir, from.name}); i >= 0 {
		n.links[i] = link{to.dir, to.name}
	}
}

func (t *tree) attributes(w who, o *op, s span) want {
	n, errno := t.find(w, o.Path, o.Kind != opChown)
	if errno == 0 && (!w.owns(n) || o.Kind == opChown && w.perms && uint32(o.N) != w.uid) {
		errno = syscall.EPERM
	}
	if errno != 0 {
		return refuse(errno)
	}
	switch o.Kind {
	case opChmod:
		n.mode = o.Mode
	case opChown:
		n.uid, n.gid = uint32(o.N), uint32(o.N)
		if n.kind != 'd' {
			n.mode &^= 0o4000
		}
	default:
		n.atime, n.mtime = exactly(o.Mtime), exactly(o.Mtime)
	}
	n.ctime.must(s)
	return want{}
}

// xattrTarget finds what an attribute is on.
func (t *tree) xattrTarget(w who, o *op, mask uint32, wrongKind syscall.Errno) (*node, syscall.Errno) {
	n, errno := t.find(w, o.Path, true)
	switch {
	case errno != 0:
	case n.kind == 'l':
		errno = wrongKind
	case !w.may(n, mask):
		errno = syscall.EACCES
	}
	return n, errno
}

func (t *tree) setxattr(w who, o *op, s span) want {
	n, errno := t.xattrTarget(w, o, mayWrite, syscall.EPERM)
	if errno != 0 {
		return refuse(errno)
	}
	if o.Name == sseName {
		return t.setSSE(w, n, o, s)
	}
	_, there := n.xattrs[o.Name]
	switch {
	case o.Flags == unix.XATTR_CREATE && there:
		return refuse(syscall.EEXIST)
	case o.Flags == unix.XATTR_REPLACE && !there:
		return refuse(syscall.ENODATA)
	}
	if n.xattrs == nil {
		n.xattrs = map[string]string{}
	}
	n.xattrs[o.Name] = o.Value
	n.ctime.must(s)
	return want{}
}

// wrongSSE are values of the attribute that are refused.
var wrongSSE = map[string]syscall.Errno{"rot13": syscall.EINVAL, "": syscall.EINVAL, "aws:kms:dsse": syscall.EOPNOTSUPP}

func (t *tree) setSSE(w who, n *node, o *op, s span) want {
	if errno := wrongSSE[o.Value]; errno != 0 && !(o.Flags == unix.XATTR_CREATE && (n.kind == 'f' || n == t.root)) {
		return refuse(errno)
	}
	if o.Flags == unix.XATTR_CREATE && (n.kind == 'f' || n == t.root) {
		return refuse(syscall.EEXIST)
	}
	switch {
	case n.kind == 'd':
		n.sse = o.Value
	case n.sse == o.Value:
		n.explicit = true
	case len(n.data) == 0:
		if w.denied(o.Value) {
			return refuse(syscall.EACCES)
		}
		n.sse, n.explicit = o.Value, true
	default:
		if w.denied(n.sse) || w.denied(o.Value) {
			return refuse(syscall.EACCES)
		}
		n.sse, n.explicit = o.Value, true
	}
	n.ctime.may(s)
	return want{}
}

func (t *tree) getxattr(w who, o *op) want {
	n, errno := t.xattrTarget(w, o, mayRead, syscall.ENODATA)
	if errno != 0 {
		return refuse(errno)
	}
	value, there := n.xattrs[o.Name]
	if o.Name == sseName {
		value, there = shownSSE(n)
	}
	if !there {
		return refuse(syscall.ENODATA)
	}
	return want{data: []byte(value), isData: true}
}

// shownSSE is what the attribute reads as.
func shownSSE(n *node) (string, bool) {
	switch {
	case n.kind == 'l':
		return "", false
	case n.kind == 'f' && n.sse == keyAlias:
		return "aws:kms", true
	}
	return n.sse, n.sse != ""
}

func (t *tree) removexattr(w who, o *op, s span) want {
	n, errno := t.xattrTarget(w, o, mayWrite, syscall.EPERM)
	if errno != 0 {
		return refuse(errno)
	}
	if o.Name != sseName {
		if _, there := n.xattrs[o.Name]; !there {
			return refuse(syscall.ENODATA)
		}
		delete(n.xattrs, o.Name)
		n.ctime.must(s)
		return want{}
	}
	switch {
	case n == t.root:
		n.sse = "AES256"
	case n.kind == 'd':
		n.sse = ""
	case n.explicit:
		if len(n.data) == 0 {
			n.explicit = false
			to := t.reorder(n)
			if to != n.sse && w.denied(to) {
				n.explicit = true
				return refuse(syscall.EACCES)
			}
			n.sse = to
		}
		n.explicit = false
	}
	n.ctime.may(s)
	return want{}
}
