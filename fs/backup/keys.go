package backup

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/meta"
)

const (
	macInfo  = "kmsfs backup blobs v1"
	snapInfo = "kmsfs backup snapshots v1"
	slotInfo = "kmsfs backup shred keys v1"
)

// id names a blob: for a chunk it is its MAC, for an extent a keyed hash of what the row says of it.
type id [16]byte

// kind is what a blob is. Its values are stored.
type kind uint8

const (
	rowChunk   kind = 1
	extentBlob kind = 2
	fileChunk  kind = 3
)

// keys are derived from the store's root key by the caller, and split here by purpose.
type keys struct {
	mac, snap, slots *crypto.DataKey
}

func newKeys(key *crypto.DataKey) *keys {
	return &keys{mac: key.Derive(nil, macInfo), snap: key.Derive(nil, snapInfo), slots: key.Derive(nil, slotInfo)}
}

func (k *keys) wipe() {
	k.mac.Wipe()
	k.snap.Wipe()
	k.slots.Wipe()
}

// sum is the MAC of labelled parts. The label settles how many parts there are and which of them have a fixed length.
func (k *keys) sum(label byte, parts ...[]byte) (out [sha256.Size]byte) {
	return k.mac.MAC(slices.Concat([][]byte{{label}}, parts)...)
}

// chunk is the name and MAC of a chunk.
func (k *keys) chunk(kd kind, b []byte) id {
	s := k.sum('c', []byte{byte(kd)}, b)
	return id(s[:16])
}

// extentID names an extent: where it is, and the random salt that it was sealed with.
func (k *keys) extentID(ino meta.Ino, x *meta.Extent) id {
	b := make([]byte, 0, 64)
	for _, n := range []uint64{uint64(ino), uint64(x.ID), x.Segment, uint64(x.Offset), uint64(x.Sealed), uint64(x.CRC)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	s := k.sum('x', append(b, x.Salt[:]...))
	return id(s[:16])
}

// blobMAC is what authenticates a blob's bytes.
func (k *keys) blobMAC(kd kind, name id, b []byte) id {
	if kd != extentBlob {
		return k.chunk(kd, b)
	}
	s := k.sum('e', name[:], b)
	return id(s[:16])
}
