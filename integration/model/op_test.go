// Package model holds the program against a model of what it should do.
//
// A random sequence of file operations runs over several real mounts of one daemon; after each of them a small model in memory says
// what the call had to answer and what every mount has to show now, and a mount other than the one that did it is asked. That is
// the promise of coherence: what a returned call did is what the next call on any mount sees, with the kernels' caches on. Afterwards
// everything is compared again behind a remount and behind a restart of the daemon.
//
//	KMSFS_SEED=n        replays a run
//	KMSFS_MODEL_TIME=d  how long TestModel works (default 1m); TestConcurrent takes two thirds of it, at most 20s
//	KMSFS_BIN=path      the program; it is built otherwise
//
// A process that uses a mount it serves can deadlock, and a hang must not be one of the test's: the mounts are driven by child
// processes, one per mount, and each command has a deadline. A command that misses it fails the test, after the daemon was made to
// write its goroutines to its log.
//
// The model (tree_test.go, apply_test.go, files_test.go) knows nothing of the program's code. What it leaves open: access times that reading
// moves, sizes of directories, how many blocks a file takes, and where exactly holes are.
package model

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// kind is what an operation does.
type kind uint8

const (
	opMkdir kind = iota
	opRmdir
	opOpen
	opClose
	opPread
	opPwrite
	opWrite // at the handle's own position, or at the end
	opFtruncate
	opTruncate
	opRename
	opLink
	opSymlink
	opReadlink
	opUnlink
	opChmod
	opChown
	opUtimens
	opSetxattr
	opGetxattr
	opRemovexattr
	opFsync
	opFallocate
	opSeekEnd
	opCopy
	opMap
	opMapRead
	opMapWrite
	opStatfs
	opLook // not part of a history: what the checks ask
	opRemount
	opRestart
	kinds
)

var kindNames = [kinds]string{
	"mkdir", "rmdir", "open", "close", "pread", "pwrite", "write", "ftruncate", "truncate", "rename", "link", "symlink", "readlink",
	"unlink", "chmod", "chown", "utimens", "setxattr", "getxattr", "removexattr", "fsync", "fallocate", "seekend", "copy", "mmap", "mapread",
	"mapwrite", "statfs", "look", "remount", "restart",
}

func (k kind) String() string { return kindNames[k] }

// op is one operation, with everything that it needs: a history of them can be replayed. Fields that a kind does not use are zero.
type op struct {
	ID          int // its number in the history; written into what it writes
	Kind        kind
	Mount       int
	Path, Path2 string // below the bucket; "" is the bucket
	H, H2       int    // handles: numbers of the operations that opened them
	Off, Off2   int64
	N           int64
	Flags       int
	Mode        uint32
	Name, Value string
	Mtime       int64
	Looks       []look
}

// look asks for all that one object shows: by path, or by handle if Path is "" and H is not 0.
type look struct {
	Path   string
	H      int
	NoData bool // content cannot be read, or need not
	Raw    bool // the content itself and not only its hash
}

// reply is what a call answered.
type reply struct {
	Errno syscall.Errno
	Bus   bool // a mapping gave SIGBUS
	Again bool // a rename met ESTALE and was tried again
	N     int64
	Data  []byte
	Views []view
}

// view is what a look saw.
type view struct {
	Errno           syscall.Errno
	St              unix.Stat_t
	Link            string
	Entries         []entry
	DirErr, ReadErr syscall.Errno
	Sum             [32]byte
	Data            []byte
	Len             int64
	Xattrs          map[string]string
	XattrErr        syscall.Errno
	SSE             string
	SSEErr          syscall.Errno
	Holes           string // what is wrong with SEEK_HOLE and SEEK_DATA
	Missing         bool   // the child has no such handle
	ReadsBeyond     bool   // reading goes on behind the size that fstat gave
}

// entry is a name in a listing.
type entry struct {
	Name string
	Ino  uint64
	Type uint8
}

// data is what an operation writes: every 16 bytes say which operation that was and where in its buffer.
func (o *op) data() []byte {
	const record = 16
	b := make([]byte, 0, o.N+record)
	for int64(len(b)) < o.N {
		b = fmt.Appendf(b, "%07d:%07x|", o.ID%1e7, len(b)&0xfffffff)
	}
	return b[:o.N]
}

func openFlagText(f int) string {
	s := []string{[]string{"RDONLY", "WRONLY", "RDWR", "3"}[f&unix.O_ACCMODE]}
	for _, x := range []struct {
		bit  int
		name string
	}{{unix.O_CREAT, "CREAT"}, {unix.O_EXCL, "EXCL"}, {unix.O_TRUNC, "TRUNC"}, {unix.O_APPEND, "APPEND"}, {unix.O_DIRECT, "DIRECT"}, {unix.O_NOFOLLOW, "NOFOLLOW"}} {
		if f&x.bit != 0 {
			s = append(s, x.name)
		}
	}
	return strings.Join(s, "|")
}

func clip(s string) string {
	s = strings.ReplaceAll(s, longName, "N255")
	if len(s) > 40 {
		return fmt.Sprintf("%s…(%d)", s[:20], len(s))
	}
	return s
}

// String shows an operation as a line of a history.
func (o *op) String() string {
	p := func(s string) string { return fmt.Sprintf("%q", clip(s)) }
	var s string
	switch o.Kind {
	case opOpen:
		s = fmt.Sprintf("%s %s %o", p(o.Path), openFlagText(o.Flags), o.Mode)
	case opPread, opMapRead, opPwrite, opMapWrite:
		s = fmt.Sprintf("h%d off=%d n=%d", o.H, o.Off, o.N)
	case opWrite, opFtruncate, opMap:
		s = fmt.Sprintf("h%d n=%d", o.H, o.N)
	case opFallocate:
		s = fmt.Sprintf("h%d mode=%#x off=%d n=%d", o.H, o.Flags, o.Off, o.N)
	case opCopy:
		s = fmt.Sprintf("h%d off=%d -> h%d off=%d n=%d", o.H, o.Off, o.H2, o.Off2, o.N)
	case opClose, opFsync, opSeekEnd:
		s = fmt.Sprintf("h%d", o.H)
	case opRename:
		s = fmt.Sprintf("%s %s flags=%d", p(o.Path), p(o.Path2), o.Flags)
	case opLink, opSymlink:
		s = p(o.Path) + " " + p(o.Path2)
	case opChmod, opMkdir:
		s = fmt.Sprintf("%s %o", p(o.Path), o.Mode)
	case opChown:
		s = fmt.Sprintf("%s uid=%d", p(o.Path), o.N)
	case opTruncate:
		s = fmt.Sprintf("%s n=%d", p(o.Path), o.N)
	case opUtimens:
		s = fmt.Sprintf("%s mtime=%d", p(o.Path), o.Mtime)
	case opSetxattr:
		s = fmt.Sprintf("%s %s=%s flags=%d", p(o.Path), o.Name, p(o.Value), o.Flags)
	case opGetxattr, opRemovexattr:
		s = p(o.Path) + " " + o.Name
	default:
		s = p(o.Path)
	}
	return fmt.Sprintf("%6d  %s  %-11s %s", o.ID, mountNames[o.Mount], o.Kind, s)
}

// The mounts, and who uses them.
const (
	mountA = iota // the administrator
	mountB        // again
	mountC        // bob: every right on S3, none on the customer key
	mountD        // alice, an administrator bound to another uid, with default_permissions: modes and owners count
	mounts
)

var mountNames = [mounts]string{"A", "B", "C", "D"}

const (
	aliceUID = 1234
	bucket   = "model"
	keyAlias = "aws:kms:alias/k1"
)
