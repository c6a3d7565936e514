package model

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// judge compares an answer with what it had to be; "" is agreement.
func judge(w want, r *reply) string {
	switch {
	case w.orEmpty && r.Errno == 0 && r.N == 0:
		return ""
	case w.bus != r.Bus:
		return fmt.Sprintf("SIGBUS: %v, want %v", r.Bus, w.bus)
	case w.errno != r.Errno:
		return fmt.Sprintf("answered %s, want %s", errText(r.Errno), errText(w.errno))
	case w.errno != 0 || w.bus:
		return ""
	case w.n != r.N:
		return fmt.Sprintf("answered %d, want %d", r.N, w.n)
	case w.isData && !bytes.Equal(w.data, r.Data):
		return differ(r.Data, w.data)
	}
	return ""
}

func errText(e syscall.Errno) string {
	if e == 0 {
		return "success"
	}
	return fmt.Sprintf("%s (%d)", unix.ErrnoName(e), int(e))
}

// differ says where two contents part.
func differ(got, want []byte) string {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	part := func(b []byte) string {
		const about = 34
		from := max(at-at%16, 0)
		if from >= len(b) {
			return "(end)"
		}
		return fmt.Sprintf("%q", b[from:min(from+about, len(b))])
	}
	last := min(len(got), len(want)) - 1
	for last > at && got[last] == want[last] {
		last--
	}
	return fmt.Sprintf("%d bytes, want %d; differs from %d to %d: %s, want %s", len(got), len(want), at, last, part(got), part(want))
}

// lookAt compares what a mount shows of a path with the model. Where the program refuses by permission, the model must agree.
func (t *tree) compare(m int, l *look, v *view) string {
	w := users[m]
	n, errno := t.find(w, l.Path, false)
	if l.H != 0 {
		h := t.handles[l.H]
		if v.Missing {
			return "the child has lost the handle"
		}
		n, errno = h.n, 0
	}
	if v.Errno != errno {
		return fmt.Sprintf("stat answered %s, want %s", errText(v.Errno), errText(errno))
	}
	if errno != 0 {
		return ""
	}
	if s := n.compareStat(&v.St); s != "" {
		return s
	}
	if n.kind == 'l' {
		if v.Link != n.target || v.ReadErr != 0 {
			return fmt.Sprintf("readlink: %q %v, want %q", v.Link, v.ReadErr, n.target)
		}
		return ""
	}
	if s := t.compareInside(w, n, l, v); s != "" || l.H != 0 {
		return s
	}
	return compareXattrs(w, n, v)
}

func (n *node) compareStat(st *unix.Stat_t) string {
	kinds := map[byte]uint32{'d': unix.S_IFDIR, 'f': unix.S_IFREG, 'l': unix.S_IFLNK}
	if n.ino == 0 {
		n.ino = st.Ino
	}
	switch {
	case st.Ino != n.ino:
		return fmt.Sprintf("inode %d, was %d", st.Ino, n.ino)
	case st.Mode != kinds[n.kind]|n.mode:
		return fmt.Sprintf("mode %o, want %o", st.Mode, kinds[n.kind]|n.mode)
	case uint32(st.Nlink) != n.nlink:
		return fmt.Sprintf("nlink %d, want %d", st.Nlink, n.nlink)
	case st.Uid != n.uid || st.Gid != n.gid:
		return fmt.Sprintf("owner %d:%d, want %d:%d", st.Uid, st.Gid, n.uid, n.gid)
	case n.kind == 'f' && st.Size != int64(len(n.data)):
		return fmt.Sprintf("size %d, want %d", st.Size, len(n.data))
	case n.kind == 'l' && st.Size != int64(len(n.target)):
		return fmt.Sprintf("size %d of a link to %q", st.Size, n.target)
	}
	for _, x := range []struct {
		name string
		m    *moment
		t    unix.Timespec
	}{{"atime", &n.atime, st.Atim}, {"mtime", &n.mtime, st.Mtim}, {"ctime", &n.ctime, st.Ctim}} {
		if was := *x.m; !x.m.see(x.t.Nano()) {
			return fmt.Sprintf("%s %d, want %s", x.name, x.t.Nano(), was)
		}
	}
	return ""
}

func (m moment) String() string {
	s := "?"
	if m.known {
		s = fmt.Sprint(m.exact)
	}
	if m.open {
		s += fmt.Sprintf(" or %d to %d", m.lo, m.hi)
	}
	return s
}

func (t *tree) compareInside(w who, n *node, l *look, v *view) string {
	if n.kind == 'd' {
		errno := syscall.Errno(0)
		if !w.may(n, mayRead) {
			errno = syscall.EACCES
		}
		if v.DirErr != errno {
			return fmt.Sprintf("listing answered %s, want %s", errText(v.DirErr), errText(errno))
		}
		if errno != 0 {
			return ""
		}
		return n.compareList(v.Entries)
	}
	if l.NoData {
		return ""
	}
	errno := syscall.Errno(0)
	if l.H != 0 && !t.handles[l.H].read {
		errno = syscall.EBADF
	} else if l.H == 0 && !w.may(n, mayRead) || w.denied(n.sse) && (l.H == 0 || len(n.data) > 0 || v.ReadErr != 0) {
		errno = syscall.EACCES
	}
	switch {
	case v.ReadErr != errno:
		return fmt.Sprintf("reading answered %s, want %s", errText(v.ReadErr), errText(errno))
	case errno != 0:
		return ""
	case v.Len != int64(len(n.data)) || v.Sum != sha256.Sum256(n.data):
		if l.Raw {
			return "content: " + differ(v.Data, n.data)
		}
		return fmt.Sprintf("content of %d bytes, want %d, or other bytes", v.Len, len(n.data))
	case v.ReadsBeyond:
		return "reading goes on behind the size that fstat gave"
	}
	return v.Holes
}

func (n *node) compareList(got []entry) string {
	types := map[byte]uint8{'d': unix.DT_DIR, 'f': unix.DT_REG, 'l': unix.DT_LNK}
	seen := map[string]bool{}
	for _, e := range got {
		c := n.entries[e.Name]
		switch {
		case c == nil:
			return fmt.Sprintf("listing has %q, which should not be there", clip(e.Name))
		case seen[e.Name]:
			return fmt.Sprintf("listing has %q twice", clip(e.Name))
		case c.ino != 0 && e.Ino != c.ino:
			return fmt.Sprintf("listing: %q is inode %d, want %d", clip(e.Name), e.Ino, c.ino)
		case e.Type != types[c.kind]:
			return fmt.Sprintf("listing: %q has type %d", clip(e.Name), e.Type)
		}
		seen[e.Name] = true
	}
	for name := range n.entries {
		if !seen[name] {
			return fmt.Sprintf("listing lacks %q", clip(name))
		}
	}
	return ""
}

func compareXattrs(w who, n *node, v *view) string {
	errno, sseErrno := syscall.Errno(0), syscall.Errno(0)
	sse, has := shownSSE(n)
	if !has {
		sseErrno = syscall.ENODATA
	}
	if !w.may(n, mayRead) {
		sseErrno = syscall.EACCES
		if len(n.xattrs) > 0 {
			errno = syscall.EACCES
		}
	}
	if v.XattrErr != errno || v.SSEErr != sseErrno {
		return fmt.Sprintf("attributes answered %s and %s, want %s and %s", errText(v.XattrErr), errText(v.SSEErr), errText(errno), errText(sseErrno))
	}
	if sseErrno == 0 && v.SSE != sse {
		return fmt.Sprintf("%s is %q, want %q", sseName, v.SSE, sse)
	}
	if errno != 0 {
		return ""
	}
	var names []string
	for name := range v.Xattrs {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) != len(n.xattrs) {
		return fmt.Sprintf("attributes %q, want %d", names, len(n.xattrs))
	}
	for name, value := range n.xattrs {
		if v.Xattrs[name] != value {
			return fmt.Sprintf("%s is %q, want %q", name, clip(v.Xattrs[name]), clip(value))
		}
	}
	return ""
}
