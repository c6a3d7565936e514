package fs

import (
	"errors"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/meta"
)

// The nouns that a volume shares with its metadata.
type (
	Ino      = meta.Ino
	FileType = meta.FileType
	Method   = meta.Method
	FileKey  = meta.FileKey
	Sealing  = meta.Sealing
	Bucket   = meta.Bucket
)

// The values of the shared nouns.
const (
	RootIno = meta.RootIno

	Regular     = meta.Regular
	Directory   = meta.Directory
	Symlink     = meta.Symlink
	FIFO        = meta.FIFO
	Socket      = meta.Socket
	CharDevice  = meta.CharDevice
	BlockDevice = meta.BlockDevice

	None   = meta.None
	SSES3  = meta.SSES3
	SSEKMS = meta.SSEKMS
)

// Limits of the volume.
const (
	MaxName   = meta.MaxName // bytes in a directory entry's name
	MaxLinks  = 4096         // names of one inode: they are listed in its row
	MaxTarget = 4095         // bytes in a symbolic link's target
	MaxXattr  = 65536        // bytes in an extended attribute's value, and in the list of all names
	MaxSize   = 1<<63 - 1    // bytes in a file
)

// What can go wrong. Errors wrap one of these; what wraps none is a fault of the store below.
var (
	ErrNotFound     = errors.New("no such file or directory")
	ErrExists       = errors.New("exists already")
	ErrNotEmpty     = errors.New("directory not empty")
	ErrNotDir       = errors.New("not a directory")
	ErrIsDir        = errors.New("is a directory")
	ErrNameTooLong  = errors.New("name too long")
	ErrCrossBucket  = errors.New("in another bucket")
	ErrInvalid      = errors.New("invalid argument")
	ErrTooManyLinks = errors.New("too many links")
	ErrNoSpace      = errors.New("no space left")
	ErrCorrupt      = errors.New("corrupt")
	ErrStale        = errors.New("changed meanwhile")
	ErrNoAttr       = errors.New("no such attribute")
	ErrTooBig       = errors.New("attribute too big")
	ErrFileTooBig   = errors.New("file too big")
	ErrPermitted    = errors.New("operation not permitted")
	ErrNoKey        = errors.New("data key not at hand")
	ErrClosed       = errors.New("volume closed")
)

// Attr is what stat(2) shows. Times are nanoseconds since 1970.
type Attr struct {
	Ino    Ino
	Type   FileType
	Mode   uint32 // 07777
	Nlink  uint32
	UID    uint32
	GID    uint32
	Rdev   uint32
	Size   uint64 // bytes
	Blocks uint64 // of 512 bytes
	Atime  int64
	Mtime  int64
	Ctime  int64
	Btime  int64
}

// Name is one object name of an inode: its bucket and its key, without a leading slash. A directory's key ends in a slash; the
// bucket's own is empty. Both are bytes as the file system has them.
type Name struct {
	Bucket string
	Key    string
}

// Keys are plaintext data keys by generation. The volume takes clones of what it needs.
type Keys map[uint32]*crypto.DataKey

// Wipe wipes all keys.
func (k Keys) Wipe() {
	for _, d := range k {
		d.Wipe()
	}
}

// Default is the encryption of what is created beneath a directory, as user.s3.sse writes it; empty: none.
type Default struct{ Value string }

// Change is what SetAttr changes; nil fields stay.
type Change struct {
	Mode         *uint32
	UID, GID     *uint32
	Atime, Mtime *int64
	KillPriv     bool // clear set-id bits as a write or chown by an ordinary user does
}

// New describes an inode to make.
type New struct {
	Type     FileType
	Mode     uint32
	Umask    uint32 // bits that Mode loses unless the directory has a default ACL
	UID, GID uint32
	Rdev     uint32
	Target   string  // of a symbolic link
	Sealing  Sealing // of a regular file; its one key has generation 1
	Default  Default // of a directory
	Bucket   *Bucket // of a directory in the root
	Later    bool    // a regular file that is opened for writing at once: its rows may come with its first flush
}

// Dirent is an entry of a listing.
type Dirent struct {
	Name   string
	Ino    Ino
	Type   FileType
	Cookie uint64 // where a listing resumes behind this entry; above 2, below 2^63
}

// RenameFlags are those of renameat2(2).
type RenameFlags uint8

// The flags of Rename.
const (
	RenameNoReplace RenameFlags = 1 << iota
	RenameExchange
)

// RenameResult says what a rename touched. Replaced.Ino is 0 if nothing was there.
type RenameResult struct{ Moved, Replaced Attr }

// XattrMode says whether SetXattr may create or replace.
type XattrMode uint8

// The modes of SetXattr.
const (
	XattrEither XattrMode = iota
	XattrCreate
	XattrReplace
)

// Truncation makes OpenFile empty the file and give it a fresh data key, atomically.
type Truncation struct {
	Sealing Sealing // Method, KeyARN, Context, flags, and Keys holding one wrapped key; its generation is set by the volume
	Key     *crypto.DataKey
}

// StatFS is what statfs(2) shows.
type StatFS struct {
	BlockSize                       uint32
	Blocks, BlocksFree, BlocksAvail uint64
	Files, FilesFree                uint64
}
