package meta

import (
	"errors"
	"slices"

	"github.com/kmsfs/kmsfs/crypto"
)

// Ino is an inode number: from a counter, never reused, and the FUSE node id as well.
type Ino uint64

// RootIno is the directory that holds the buckets.
const RootIno Ino = 1

// ExtentID numbers a sealed extent; it comes from a counter and is never reused.
type ExtentID uint64

// MaxName is the longest name of a directory entry, in bytes.
const MaxName = 255

// FileType is what an inode is. Its values are stored.
type FileType uint8

// The file types.
const (
	Regular FileType = iota + 1
	Directory
	Symlink
	FIFO
	Socket
	CharDevice
	BlockDevice
)

// Method says how a file's data key is wrapped. Its values are stored.
type Method uint8

// The encryption methods.
const (
	None   Method = iota // not a regular file
	SSES3                // under the hidden store key
	SSEKMS               // under a KMS key
)

// String gives S3's name for the method.
func (m Method) String() string {
	switch m {
	case SSES3:
		return "AES256"
	case SSEKMS:
		return "aws:kms"
	case None:
	}
	return "none"
}

// FileKey is one generation of a file's data key, wrapped.
type FileKey struct {
	Generation uint32
	Wrapped    crypto.WrappedKey
}

// Sealing says under which key a file's data keys are wrapped. A value is immutable: change a Clone.
// Keys is ordered by generation; the last one seals what is written from now on.
type Sealing struct {
	Method    Method
	KeyARN    string         // empty for SSES3
	Context   crypto.Context // the encryption context of every wrapped key
	BucketKey bool
	Explicit  bool // chosen for this file, so that it survives truncation
	Keys      []FileKey
}

// Current is the generation that seals new content, 0 if there is none.
func (s Sealing) Current() uint32 {
	if len(s.Keys) == 0 {
		return 0
	}
	return s.Keys[len(s.Keys)-1].Generation
}

// Same reports whether both hold the same generations under the same key.
func (s Sealing) Same(o Sealing) bool {
	return s.Method == o.Method && s.KeyARN == o.KeyARN && slices.EqualFunc(s.Keys, o.Keys, func(a, b FileKey) bool {
		return a.Generation == b.Generation && string(a.Wrapped) == string(b.Wrapped)
	})
}

// Link is one name of an inode: an entry in a directory.
type Link struct {
	Parent Ino
	Name   string
}

// Bucket is what a bucket's directory carries beside being a directory.
type Bucket struct {
	Name       string
	Encryption string // ServerSideEncryptionConfiguration as JSON; empty: SSE-S3
	Policy     []byte // bucket policy as JSON; empty: none
	Created    int64  // ns since 1970
	Quota      string // as written to user.s3.quota; empty: none
}

// Inode is an inode row.
type Inode struct {
	Ino     Ino
	Type    FileType
	Mode    uint32 // permission, set-id and sticky bits, 07777
	UID     uint32
	GID     uint32
	Nlink   uint32
	Rdev    uint32
	Size    uint64 // bytes; a symlink's is its target's length
	Alloc   uint64 // bytes of a file that pieces cover: what is not a hole
	Atime   int64  // ns since 1970, as the three below
	Mtime   int64
	Ctime   int64
	Btime   int64
	Bucket  Ino    // the bucket it lives in; 0 for the root, itself for a bucket
	Links   []Link // every name; a directory has one, the root none
	Target  string // of a symlink
	Default string // of a directory: the encryption of what is created beneath it, as user.s3.sse writes it

	BucketInfo *Bucket // of a bucket
	Sealing    Sealing // of a regular file
	NextKey    uint32  // the generation that the next data key gets; generations are never reused

	Rows   Set // of a directory its dentries, of a file its pieces
	Xattrs Set // its extended attributes
}

// Clone copies the row deeply enough that changing the copy's slices or pointers leaves the original alone.
func (n *Inode) Clone() *Inode {
	c := *n
	c.Links = slices.Clone(n.Links)
	if n.BucketInfo != nil {
		b := *n.BucketInfo
		c.BucketInfo = &b
	}
	return &c
}

// Dentry is a directory entry.
type Dentry struct {
	Name string
	Ino  Ino
	Type FileType
}

// Extent is a sealed run of plaintext. Its bytes are in a segment, or, if Inline, in a row beside the metadata.
type Extent struct {
	ID         ExtentID
	Plain      uint32   // plaintext bytes
	Generation uint32   // of the data key
	Salt       [16]byte // of the extent key
	Inline     bool
	Segment    uint64
	Offset     int64
	Sealed     uint32 // sealed bytes in the segment
	CRC        uint32 // CRC32C of the sealed bytes
	Epoch      uint64 // durability epoch it was committed in
}

// Piece maps a range of a file to a range of an extent.
type Piece struct {
	Off    uint64 // in the file
	Len    uint32
	Inside uint32 // offset in the extent's plaintext
	Extent *Extent
}

// End is the offset behind the piece.
func (p Piece) End() uint64 { return p.Off + uint64(p.Len) }

// Replaced remembers what a flush covered, until the epoch is closed: recovery puts it back where the new bytes did not
// reach the disk; afterwards the extent is freed if Free is set.
type Replaced struct {
	Ino     Ino
	Restore bool // Piece may be put back by recovery
	Free    bool // nothing refers to the extent any more
	Piece   Piece
}

// Super is the volume's own row.
type Super struct {
	Version    uint32
	NextIno    Ino      // every number from here on is unused
	NextExtent ExtentID // likewise
	Epoch      uint64   // the newest closed epoch
}

// ErrCorrupt says that a row is not what this package wrote.
var ErrCorrupt = errors.New("meta: corrupt row")

// ErrExists says that there is an entry of that name already.
var ErrExists = errors.New("meta: entry exists")

// ErrNotFound says that there is no such row.
var ErrNotFound = errors.New("meta: no such row")
