package model

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maker draws operations that are likely to mean something to a tree.
type maker struct {
	r    *rand.Rand
	t    *tree
	next int
}

var names = []string{"a", "b", "c", "d", "é \xff\xfe%*\n", longName}

var longName = strings.Repeat("n", maxName)

const (
	maxDepth   = 3
	maxSize    = 1 << 20
	maxHandles = 10
	maxNodes   = 40
)

func (g *maker) one(of ...string) string { return of[g.r.IntN(len(of))] }

// path draws a path: mostly of something that is there, of any or of a given kind.
func (g *maker) path(k byte) string {
	var all []string
	each(g.t.root, "", func(p string, n *node) {
		if k == 0 || n.kind == k {
			all = append(all, p)
		}
	})
	if len(all) > 0 && g.r.IntN(10) < 7 {
		return all[g.r.IntN(len(all))]
	}
	return g.spot()
}

// spot draws a name in a directory, there or not.
func (g *maker) spot() string {
	if g.r.IntN(100) == 0 {
		return g.one("a/", "") + strings.Repeat("x", maxName+1)
	}
	var dirs []string
	each(g.t.root, "", func(p string, n *node) {
		if n.kind == 'd' && strings.Count(p, "/") < maxDepth-1 {
			dirs = append(dirs, p+"/")
		}
	})
	dirs = append(dirs, "", "")
	if g.r.IntN(20) == 0 {
		dirs = append(dirs, "a/b/", "c/") // through links, files and nothing
	}
	return dirs[g.r.IntN(len(dirs))] + g.one(names...)
}

// handle draws an open file.
func (g *maker) handle(ok func(*handle) bool) *handle {
	var all []*handle
	for id := range g.next {
		if h := g.t.handles[id]; h != nil && (ok == nil || ok(h)) {
			all = append(all, h)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[g.r.IntN(len(all))]
}

// size draws a length in bytes: small ones, pages and their neighbours, and large ones.
func (g *maker) size(limit int64) int64 {
	var n int64
	switch g.r.IntN(8) {
	case 0:
		n = g.r.Int64N(20)
	case 1, 2:
		n = g.r.Int64N(5000)
	case 3, 4:
		n = 4096*g.r.Int64N(20) + g.r.Int64N(3) - 1
	case 5, 6:
		n = g.r.Int64N(70000)
	default:
		n = g.r.Int64N(maxSize)
	}
	return min(max(n, 0), limit)
}

// draw makes the next operation. It numbers it in any case.
func (g *maker) draw() *op {
	g.next++
	o := &op{ID: g.next, Mount: g.r.IntN(mounts)}
	count := 0
	each(g.t.root, "", func(string, *node) { count++ })
	x := g.r.IntN(1000)
	switch {
	case x < 360:
		g.onHandle(o)
	case x < 450:
		g.opens(o)
	case x < 720:
		g.names(o, count)
	case x < 775:
		o.Kind, o.Path, o.N = opTruncate, g.path('f'), g.size(maxSize)
		if g.r.IntN(30) == 0 {
			o.N = -1
		}
	case x < 990:
		g.attrs(o)
	case x < 997:
		o.Kind = opStatfs
	default:
		o.Kind = opRemount
	}
	return o
}

func (g *maker) opens(o *op) {
	if len(g.t.handles) >= maxHandles {
		o.Kind, o.H = opClose, g.handle(nil).id
		o.Mount = g.t.handles[o.H].mount
		return
	}
	o.Kind, o.Path, o.Mode = opOpen, g.path('f'), g.fileMode()
	o.Flags = []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR}[g.r.IntN(4)]
	for _, f := range []struct{ bit, in int }{{unix.O_CREAT, 2}, {unix.O_EXCL, 8}, {unix.O_TRUNC, 6}, {unix.O_APPEND, 5}, {unix.O_DIRECT, 6}, {unix.O_NOFOLLOW, 3}} {
		if g.r.IntN(f.in) == 0 && (f.bit != unix.O_EXCL || o.Flags&unix.O_CREAT != 0) {
			o.Flags |= f.bit
		}
	}
}

func (g *maker) fileMode() uint32 {
	return []uint32{0o644, 0o666, 0o666, 0o600, 0o400, 0, 0o4755, 0o777}[g.r.IntN(8)]
}

func (g *maker) dirMode() uint32 {
	return []uint32{0o777, 0o777, 0o777, 0o755, 0o700, 0o711, 0o744}[g.r.IntN(7)]
}

func (g *maker) names(o *op, count int) {
	o.Path = g.path(0)
	switch x := g.r.IntN(20); {
	case count > maxNodes && x < 10: // by who may
		o.Kind, o.Path, o.Mount = opUnlink, g.path('f'), g.r.IntN(mountD)
	case x < 4:
		o.Kind, o.Path, o.Mode = opMkdir, g.spot(), g.dirMode()
	case x < 5:
		o.Kind, o.Path = opRmdir, g.path('d')
	case x < 8:
		o.Kind = opUnlink
	case x < 10:
		o.Kind, o.Path, o.Path2 = opLink, g.path('f'), g.spot()
	case x < 12:
		o.Kind, o.Path, o.Path2 = opSymlink, g.spot(), g.one("a", "b", "c", "d", "a/../b", "a/b", "x") // never out of the bucket
	case x < 13:
		o.Kind, o.Path = opReadlink, g.path('l')
	default:
		o.Kind, o.Path2 = opRename, g.spot()
		if g.r.IntN(2) == 0 {
			o.Path2 = g.path(0)
		}
		o.Flags = []int{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[g.r.IntN(4)]
	}
}

func (g *maker) attrs(o *op) {
	o.Path = g.path(0)
	switch x := g.r.IntN(16); {
	case x < 3:
		o.Kind, o.Mode = opChmod, g.fileMode()
		if n, errno := g.t.find(who{}, o.Path, true); errno == 0 && n.kind == 'd' {
			o.Mode = g.dirMode()
		}
	case x < 4:
		o.Kind, o.N = opChown, int64(g.r.IntN(2))*aliceUID
	case x < 6:
		o.Kind, o.Mtime = opUtimens, g.r.Int64N(4e18)-1e18
	case x < 9:
		o.Kind, o.Path, o.Name, o.Value = opSetxattr, g.path('f'), sseName, g.one("AES256", "aws:kms", keyAlias, "AES256", keyAlias, "rot13", "aws:kms:dsse")
		if g.r.IntN(4) == 0 {
			if o.Path = g.path('d'); g.r.IntN(3) == 0 {
				o.Path = ""
			}
		}
		o.Flags = []int{0, 0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[g.r.IntN(5)]
	case x < 10:
		o.Kind, o.Name = opRemovexattr, sseName
		if g.r.IntN(4) == 0 {
			o.Path = ""
		}
	case x < 13:
		o.Kind, o.Name, o.Value = opSetxattr, g.one("user.x", "user.y", "user.é"), strings.Repeat("v", int(g.size(3000)))
		o.Flags = []int{0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[g.r.IntN(4)]
	case x < 14:
		o.Kind, o.Name = opRemovexattr, g.one("user.x", "user.y")
	default:
		o.Kind, o.Name = opGetxattr, g.one("user.x", "user.y", sseName)
	}
}

func (g *maker) onHandle(o *op) {
	h := g.handle(nil)
	if h == nil {
		g.opens(o)
		return
	}
	x := g.r.IntN(40)
	if x >= 30 && x < 38 {
		g.onMapping(o)
		if o.H != 0 {
			return
		}
	}
	size := int64(len(h.n.data))
	o.H, o.Mount = h.id, h.mount
	o.Off, o.N = g.size(maxSize-1), g.size(maxSize)
	if g.r.IntN(3) > 0 {
		o.Off = g.r.Int64N(size + 1)
	}
	o.N = max(min(o.N, maxSize-o.Off), 0)
	switch {
	case x < 8:
		o.Kind, o.N = opPread, o.N+1
	case x < 18:
		o.Kind, o.N = opPwrite, max(o.N, 1)
	case x < 22:
		o.Kind, o.N = opWrite, max(min(o.N, maxSize-max(size, h.pos)), 1)
	case x < 24:
		o.Kind = opFtruncate
	case x < 26:
		o.Kind, o.Flags = opFsync, g.r.IntN(2)
	case x < 28:
		o.Kind, o.N = opFallocate, max(o.N, 1)
		o.Flags = []int{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}[g.r.IntN(5)]
	case x < 29:
		o.Kind = opSeekEnd
	case x < 39:
		to := g.handle(func(x *handle) bool { return x.mount == h.mount })
		o.Kind, o.H2, o.Off2, o.N = opCopy, to.id, g.size(maxSize/2), max(min(o.N, maxSize/2), 1)
	default:
		o.Kind = opClose
	}
}

// onMapping draws something with a mapping, or leaves the operation without a handle.
func (g *maker) onMapping(o *op) {
	mapped := g.handle(func(h *handle) bool { return min(h.mapped, int64(len(h.n.data))) > 0 })
	if mapped == nil || g.r.IntN(4) == 0 {
		h := g.handle(func(h *handle) bool { return h.read && !h.append && len(h.n.data) > 0 })
		if h == nil {
			return
		}
		o.Kind, o.H, o.Mount, o.N = opMap, h.id, h.mount, int64(len(h.n.data))
		if h.write {
			o.Flags = g.r.IntN(3)
		}
		return
	}
	end := min(mapped.mapped, int64(len(mapped.n.data)))
	o.H, o.Mount, o.Off = mapped.id, mapped.mount, g.r.Int64N(end)
	o.N = min(max(g.size(maxSize), 1), end-o.Off)
	o.Kind = opMapRead
	if mapped.mapWrite && g.r.IntN(2) == 0 {
		o.Kind = opMapWrite
	}
}

// kindsOf says which errors an operation met, for the statistics.
type tally map[string]int

func (c tally) count(o *op, e syscall.Errno) {
	k := o.Kind.String()
	if e != 0 {
		k += " " + unix.ErrnoName(e)
	}
	c[k]++
}

func (c tally) String() string {
	var ok, refused []string
	for k := range kinds {
		if n := c[k.String()]; n > 0 {
			ok = append(ok, fmt.Sprintf("%s %d", k, n))
		}
		sum := 0
		for name, n := range c {
			if strings.HasPrefix(name, k.String()+" ") {
				sum += n
			}
		}
		if sum > 0 {
			refused = append(refused, fmt.Sprintf("%s %d", k, sum))
		}
	}
	return "done: " + strings.Join(ok, ", ") + "; refused: " + strings.Join(refused, ", ")
}
