package meta

import "encoding/binary"

// The key table. Every row of the volume has one of these keys; integers are big-endian. Names, paths and ARNs appear only as
// keyed hashes. The ledger of identities and keys owns the first byte 'L'.
//
//	's'                                         Super
//	'i' ino:8                                   Inode
//	'd' parent:8 hash:8 tie:1                   Dentry        hash: 63 bits of a keyed hash of the name; tie: 0, 1, … without gaps
//	'e' ino:8 offset:8                          Piece
//	'b' ino:8 extent:8                          sealed bytes of an inline extent
//	'x' ino:8 hash:16                           extended attribute
//	't' ino:8                                   tombstone: the inode is gone; its 'e', 'b' and 'x' rows are swept when nobody has it open
//	'f' epoch:8 ino:8 seq:8                     Replaced
//	'u' epoch:8 ino:8                           the inode got extents in this epoch; value: its size before
//	'q' bucket:8                                Usage of a bucket with a quota
//	'K' hash:16 block:8                         some inodes of the block (numbers shifted right by 8) may be files under the KMS key whose ARN has
//	                                            this hash (uses.go)
//	'k' hash:16 ino:8                           the same in volumes of version 1, a row for each file; left to be deleted
const (
	kindSuper    = 's'
	kindInode    = 'i'
	kindDentry   = 'd'
	kindPiece    = 'e'
	kindInline   = 'b'
	kindXattr    = 'x'
	kindTomb     = 't'
	kindReplaced = 'f'
	kindTouched  = 'u'
	kindKeyUse   = 'K'
	kindFileUse  = 'k'
	kindUsage    = 'q'
)

func key1(kind byte, a uint64) []byte {
	k := make([]byte, 9)
	k[0] = kind
	binary.BigEndian.PutUint64(k[1:], a)
	return k
}

func key2(kind byte, a, b uint64) []byte {
	k := make([]byte, 17)
	k[0] = kind
	binary.BigEndian.PutUint64(k[1:], a)
	binary.BigEndian.PutUint64(k[9:], b)
	return k
}

func key3(kind byte, a, b, c uint64) []byte {
	k := make([]byte, 25)
	k[0] = kind
	binary.BigEndian.PutUint64(k[1:], a)
	binary.BigEndian.PutUint64(k[9:], b)
	binary.BigEndian.PutUint64(k[17:], c)
	return k
}

func superKey() []byte                      { return []byte{kindSuper} }
func inodeKey(i Ino) []byte                 { return key1(kindInode, uint64(i)) }
func pieceKey(i Ino, off uint64) []byte     { return key2(kindPiece, uint64(i), off) }
func inlineKey(i Ino, e ExtentID) []byte    { return key2(kindInline, uint64(i), uint64(e)) }
func usageKey(bucket Ino) []byte            { return key1(kindUsage, uint64(bucket)) }
func tombKey(i Ino) []byte                  { return key1(kindTomb, uint64(i)) }
func touchedKey(epoch uint64, i Ino) []byte { return key2(kindTouched, epoch, uint64(i)) }

func replacedKey(epoch uint64, i Ino, seq uint64) []byte {
	return key3(kindReplaced, epoch, uint64(i), seq)
}

func dentryKey(parent Ino, hash uint64, tie byte) []byte {
	return append(key2(kindDentry, uint64(parent), hash), tie)
}

func xattrKey(i Ino, hash [32]byte) []byte { return append(key1(kindXattr, uint64(i)), hash[:16]...) }

func keyUseKey(key KeyHash, block uint64) []byte {
	k := append(make([]byte, 0, 25), kindKeyUse)
	k = append(k, key[:]...)
	return binary.BigEndian.AppendUint64(k, block)
}

func u64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }
