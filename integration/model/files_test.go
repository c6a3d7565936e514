package model

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// killPriv is what a write by an ordinary user does to set-id bits.
func (w who) killPriv(n *node, s span) {
	if w.perms && w.uid != 0 && n.mode&0o4000 != 0 {
		n.mode &^= 0o4000
		n.ctime.must(s)
	}
}

func (n *node) written(s span) {
	n.mtime.must(s)
	n.ctime.must(s)
}

func (n *node) resize(size int64) {
	if size <= int64(len(n.data)) {
		n.data = n.data[:size:size]
		return
	}
	n.data = append(n.data, make([]byte, size-int64(len(n.data)))...)
}

func (n *node) store(p []byte, off int64) {
	if end := off + int64(len(p)); end > int64(len(n.data)) {
		n.resize(end)
	}
	copy(n.data[off:], p)
}

func (t *tree) open(w who, o *op, s span) want {
	acc := o.Flags & unix.O_ACCMODE
	create, excl, trunc := o.Flags&unix.O_CREAT != 0, o.Flags&unix.O_EXCL != 0, o.Flags&unix.O_TRUNC != 0
	h := &handle{id: o.ID, mount: o.Mount, read: acc != unix.O_WRONLY, write: acc != unix.O_RDONLY, append: o.Flags&unix.O_APPEND != 0}
	p, errno := t.walk(w, o.Path, o.Flags&unix.O_NOFOLLOW == 0 && !(create && excl))
	switch {
	case errno != 0:
		return refuse(errno)
	case p.n == nil && !create:
		return refuse(syscall.ENOENT)
	case p.n == nil:
		return t.create(w, o, p, h, s)
	case create && excl:
		return refuse(syscall.EEXIST)
	case p.n.kind == 'l':
		return refuse(syscall.ELOOP)
	case p.n.kind == 'd' && (create || h.write || trunc):
		return refuse(syscall.EISDIR)
	}
	n, mask := p.n, uint32(0)
	if h.read {
		mask |= mayRead
	}
	if h.write || trunc {
		mask |= mayWrite
	}
	if !w.may(n, mask) {
		return refuse(syscall.EACCES)
	}
	if n.kind == 'd' {
		if o.Flags&unix.O_DIRECT != 0 {
			return refuse(syscall.EINVAL)
		}
		return want{n: 1}
	}
	if errno := t.gate(w, n, h, trunc, s); errno != 0 {
		return refuse(errno)
	}
	if h.write || trunc {
		n.writers[o.Mount] = true
	}
	h.n = n
	t.handles[o.ID] = h
	return want{}
}

func (t *tree) create(w who, o *op, p place, h *handle, s span) want {
	sse := t.order(p.dir)
	if !w.may(p.dir, mayWrite|mayExec) || w.denied(sse) {
		return refuse(syscall.EACCES)
	}
	n := t.fresh(w, 'f', o.Mode, s)
	n.sse = sse
	t.add(p.dir, p.name, n, s)
	n.writers[o.Mount] = n.writers[o.Mount] || h.write
	h.n = n
	t.handles[o.ID] = h
	return want{}
}

// gate opens a file that is there, as policies have it: emptying a file, or filling one that is empty, gives it a new key.
func (t *tree) gate(w who, n *node, h *handle, trunc bool, s span) syscall.Errno {
	fill := h.write && !h.read && !h.append && len(n.data) == 0 && n.sse != "AES256"
	if !trunc && !fill {
		if w.denied(n.sse) {
			return syscall.EACCES
		}
		return 0
	}
	sse := t.reorder(n)
	if w.denied(sse) {
		return syscall.EACCES
	}
	n.sse = sse
	if trunc {
		n.resize(0)
		n.written(s)
		w.killPriv(n, s)
	} else {
		n.ctime.may(s)
	}
	return 0
}

func (t *tree) truncatePath(w who, o *op, s span) want {
	if o.N < 0 {
		return refuse(syscall.EINVAL)
	}
	n, errno := t.find(w, o.Path, true)
	switch {
	case errno != 0:
	case n.kind == 'd':
		errno = syscall.EISDIR
	case !w.may(n, mayWrite):
		errno = syscall.EACCES
	case o.N == 0:
		errno = t.gate(w, n, &handle{write: true}, true, s)
	case w.denied(n.sse):
		errno = syscall.EACCES
	}
	if errno != 0 {
		return refuse(errno)
	}
	t.setSize(w, n, o.N, s)
	return want{}
}

func (t *tree) setSize(w who, n *node, size int64, s span) {
	if size != int64(len(n.data)) {
		n.written(s)
	} else {
		n.mtime.may(s)
		n.ctime.may(s)
	}
	n.resize(size)
	w.killPriv(n, s)
}

func (t *tree) applyHandle(o *op, s span) want {
	h := t.handles[o.H]
	w, n := users[o.Mount], h.n
	denied := w.denied(n.sse)
	switch o.Kind {
	case opClose:
		delete(t.handles, o.H)
		return want{}
	case opFsync:
		return want{}
	case opSeekEnd:
		h.pos = int64(len(n.data))
		return want{n: h.pos}
	case opPread:
		return h.pread(o, denied)
	case opPwrite, opWrite:
		return h.pwrite(w, o, denied, s)
	case opFtruncate:
		switch {
		case !h.write:
			return refuse(syscall.EINVAL)
		case denied:
			return refuse(syscall.EACCES)
		}
		t.setSize(w, n, o.N, s)
	case opFallocate:
		return t.fallocate(w, h, o, denied, s)
	case opCopy:
		return t.copyRange(h, t.handles[o.H2], o, s)
	case opMap:
		h.mapped, h.mapWrite = o.N, o.Flags != 0
	case opMapRead:
		if denied {
			return want{bus: true}
		}
		return want{data: n.data[o.Off : o.Off+o.N], isData: true}
	case opMapWrite:
		if denied {
			return want{bus: true}
		}
		n.store(o.data(), o.Off)
		n.written(s)
	default:
	}
	return want{}
}

func (h *handle) pread(o *op, denied bool) want {
	switch {
	case !h.read:
		return refuse(syscall.EBADF)
	case denied && o.Off >= int64(len(h.n.data)):
		return want{errno: syscall.EACCES, orEmpty: true} // the kernel may know that there is nothing
	case denied:
		return refuse(syscall.EACCES)
	}
	size := int64(len(h.n.data))
	data := h.n.data[min(o.Off, size):min(o.Off+o.N, size)]
	return want{n: int64(len(data)), data: data, isData: true}
}

func (h *handle) pwrite(w who, o *op, denied bool, s span) want {
	switch {
	case !h.write:
		return refuse(syscall.EBADF)
	case denied:
		return refuse(syscall.EACCES)
	}
	off := o.Off
	if o.Kind == opWrite {
		off = h.pos
	}
	if h.append {
		off = int64(len(h.n.data))
	}
	h.n.store(o.data(), off)
	h.n.written(s)
	w.killPriv(h.n, s)
	if o.Kind == opWrite && !h.append { // behind an append the position is the kernel's idea of the end
		h.pos = off + o.N
	}
	return want{n: o.N}
}

func (t *tree) fallocate(w who, h *handle, o *op, denied bool, s span) want {
	keep := o.Flags&unix.FALLOC_FL_KEEP_SIZE != 0
	zero := o.Flags&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0
	end := o.Off + o.N
	switch {
	case !h.write:
		return refuse(syscall.EBADF)
	case denied && (zero || !keep && end > int64(len(h.n.data))):
		return refuse(syscall.EACCES)
	}
	size := int64(len(h.n.data))
	if zero {
		clear(h.n.data[min(o.Off, size):min(end, size)])
	}
	h.n.mtime.may(s)
	h.n.ctime.may(s)
	if !keep && end > size {
		h.n.resize(end)
		h.n.written(s)
	}
	if zero || !keep && end > size {
		w.killPriv(h.n, s)
	}
	return want{}
}

func (t *tree) copyRange(from, to *handle, o *op, s span) want {
	w := users[o.Mount]
	switch {
	case !from.read || !to.write || to.append:
		return refuse(syscall.EBADF)
	}
	size := int64(len(from.n.data))
	data := from.n.data[min(o.Off, size):min(o.Off+o.N, size)]
	if len(data) == 0 {
		return want{}
	}
	if w.denied(from.n.sse) || w.denied(to.n.sse) {
		return refuse(syscall.EACCES)
	}
	to.n.store(append([]byte(nil), data...), o.Off2)
	to.n.written(s)
	w.killPriv(to.n, s)
	return want{n: int64(len(data))}
}
