package mount

import (
	"github.com/kmsfs/kmsfs/fs"
)

// The nouns of the volume, for those above who need not know it.
type (
	Ino          = fs.Ino
	Attr         = fs.Attr
	FileType     = fs.FileType
	Dirent       = fs.Dirent
	StatFS       = fs.StatFS
	RenameFlags  = fs.RenameFlags
	RenameResult = fs.RenameResult
	XattrMode    = fs.XattrMode
)

// The values of those nouns.
const (
	RootIno = fs.RootIno

	Regular     = fs.Regular
	Directory   = fs.Directory
	Symlink     = fs.Symlink
	FIFO        = fs.FIFO
	Socket      = fs.Socket
	CharDevice  = fs.CharDevice
	BlockDevice = fs.BlockDevice

	RenameNoReplace = fs.RenameNoReplace
	RenameExchange  = fs.RenameExchange

	XattrEither  = fs.XattrEither
	XattrCreate  = fs.XattrCreate
	XattrReplace = fs.XattrReplace

	MaxName = fs.MaxName
)

// Caller is the process behind a call, for ownership of what it makes and for the audit log.
type Caller struct {
	UID, GID, PID uint32
	Groups        []uint32 // beside GID, of a call that changes a group
	Umask         uint32   // of a call that makes something: bits that its mode loses, unless the directory has a default ACL
}

// Change is what SetAttr changes; nil fields stay.
type Change struct {
	Mode         *uint32
	UID, GID     *uint32
	Size         *int64
	Atime, Mtime *int64 // ns since 1970; Now means the session's clock
	KillPriv     bool   // clear set-id bits, as a truncation by an ordinary user does
}

// Now as a time in a Change stands for the moment of the call.
const Now int64 = -1 << 63

// OpenFlags say what a handle is for.
type OpenFlags struct {
	Read, Write bool
	Append      bool
	Truncate    bool
	Exclusive   bool // Create: fail if the name exists
	KillPriv    bool // Truncate: clear set-id bits
}

// Options of a session. The zero value is an ordinary mount.
type Options struct {
	ReadOnly bool
	SSE      string // user.s3.sse of every new file, as if each upload had carried the header; empty: none
	Mount    string // where it is mounted, for the audit log
}
