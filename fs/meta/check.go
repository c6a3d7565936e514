package meta

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// Read-only scans of all rows of a kind, for the checker and the collector, and what the checker may write. A row that is not authentic,
// or cannot be decoded, goes to fn with its error and with what its key says, and does not end the scan.

// EachInode calls fn for every inode row, in order of number.
func (r *Reader) EachInode(fn func(ino Ino, n *Inode, err error) error) error {
	return r.each(kindInode, 9, func(k, v []byte, err error) error {
		ino := Ino(u64(k[1:]))
		if err != nil {
			return fn(ino, nil, err)
		}
		n, err := decodeInode(ino, v)
		return fn(ino, n, err)
	})
}

// Use is how an inode's row says that it is encrypted.
type Use struct {
	Ino     Ino
	Type    FileType
	Method  Method
	KeyARN  []byte // valid until the next row
	Default string
	Bucket  *Bucket
}

// EachUse calls fn for every inode row, in order of number, as EachInode does for less than half the price.
func (r *Reader) EachUse(fn func(u Use, err error) error) error {
	return r.each(kindInode, 9, func(k, v []byte, err error) error {
		if err != nil {
			return fn(Use{Ino: Ino(u64(k[1:]))}, err)
		}
		return fn(decodeUse(Ino(u64(k[1:])), v))
	})
}

// RawDentry is an entry with what its row says beside it.
type RawDentry struct {
	Parent Ino
	Dentry
	Placed bool    // its key is the one that its name has
	place  [9]byte // in its directory: hash and tie-break
	print  [32]byte
}

// EachDentry calls fn for every directory entry, by directory.
func (r *Reader) EachDentry(fn func(d RawDentry, err error) error) error {
	return r.each(kindDentry, 18, func(k, v []byte, err error) error {
		raw := RawDentry{Parent: Ino(u64(k[1:9])), place: [9]byte(k[9:])}
		if err != nil {
			return fn(raw, err)
		}
		raw.print = r.db.sets.sum(k, v)
		raw.Dentry, err = decodeDentry(v)
		raw.Placed = err == nil && u64(k[9:17]) == r.db.nameHash(raw.Name)
		return fn(raw, err)
	})
}

// RawPiece is a piece with what its row says beside it.
type RawPiece struct {
	Ino Ino
	Piece
	print [32]byte
}

// EachPiece calls fn for every piece of every extent map, by inode and offset.
func (r *Reader) EachPiece(fn func(p RawPiece, err error) error) error {
	return r.each(kindPiece, 17, func(k, v []byte, err error) error {
		if err != nil {
			return fn(RawPiece{Ino: Ino(u64(k[1:9]))}, err)
		}
		p, err := decodePieceRow(u64(k[9:17]), v)
		return fn(RawPiece{Ino: Ino(u64(k[1:9])), Piece: p, print: r.db.sets.sum(k, v)}, err)
	})
}

// RawXattr is an extended attribute with what its row says beside it.
type RawXattr struct {
	Ino   Ino
	Name  string
	print [32]byte
}

// EachXattr calls fn for every extended attribute, by inode.
func (r *Reader) EachXattr(fn func(x RawXattr, err error) error) error {
	return r.each(kindXattr, 25, func(k, v []byte, err error) error {
		if err != nil {
			return fn(RawXattr{Ino: Ino(u64(k[1:9]))}, err)
		}
		name, _, err := decodeXattr(v)
		return fn(RawXattr{Ino: Ino(u64(k[1:9])), Name: name, print: r.db.sets.sum(k, v)}, err)
	})
}

// Add accounts for a row, to be compared with what the inode's row says.
func (s *Set) Add(row interface{ fingerprint() [32]byte }) { s.add(row.fingerprint()) }

func (d RawDentry) fingerprint() [32]byte { return d.print }
func (p RawPiece) fingerprint() [32]byte  { return p.print }
func (x RawXattr) fingerprint() [32]byte  { return x.print }

// EachInline calls fn for every inline extent with the length of its sealed bytes, by inode.
func (r *Reader) EachInline(fn func(ino Ino, id ExtentID, sealed int, err error) error) error {
	return r.each(kindInline, 17, func(k, v []byte, err error) error {
		return fn(Ino(u64(k[1:9])), ExtentID(u64(k[9:17])), len(v), err)
	})
}

// KeyHash stands for a KMS key in the index of files by key.
type KeyHash [16]byte

// EachTomb calls fn for every tombstone.
func (r *Reader) EachTomb(fn func(Tomb, error) error) error {
	return r.each(kindTomb, 9, func(k, v []byte, err error) error {
		if err != nil {
			return fn(Tomb{Ino: Ino(u64(k[1:]))}, err)
		}
		d := newDec(v)
		t := Tomb{Ino(u64(k[1:])), d.u()}
		return fn(t, d.end("tombstone"))
	})
}

// RawReplaced is a remembered piece with what its key says.
type RawReplaced struct {
	Epoch, Seq uint64
	Replaced
}

// EachReplaced calls fn for every remembered piece, whatever its epoch.
func (r *Reader) EachReplaced(fn func(RawReplaced, error) error) error {
	return r.each(kindReplaced, 25, func(k, v []byte, err error) error {
		raw := RawReplaced{Epoch: u64(k[1:9]), Seq: u64(k[17:25]), Replaced: Replaced{Ino: Ino(u64(k[9:17]))}}
		if err != nil {
			return fn(raw, err)
		}
		x, err := decodeReplaced(raw.Ino, v)
		x.Ino = raw.Ino
		raw.Replaced = x
		return fn(raw, err)
	})
}

// EachTouched calls fn for every mark of an inode that got extents in an epoch.
func (r *Reader) EachTouched(fn func(epoch uint64, ino Ino, err error) error) error {
	return r.each(kindTouched, 17, func(k, v []byte, err error) error {
		if err == nil {
			d := newDec(v)
			d.u()
			err = d.end("touched inode")
		}
		return fn(u64(k[1:9]), Ino(u64(k[9:17])), err)
	})
}

func (r *Reader) each(kind byte, keyLen int, fn func(k, v []byte, damage error) error) error {
	err := kv.ScanDamaged(r.r, []byte{kind}, []byte{kind + 1}, func(k, v []byte, damage error) (bool, error) {
		if len(k) != keyLen {
			return false, fmt.Errorf("%w: key of %d bytes among the '%c' rows", ErrCorrupt, len(k), kind)
		}
		return true, fn(k, v, damage)
	})
	if err != nil {
		return fmt.Errorf("scan of the '%c' rows: %w", kind, err)
	}
	return nil
}

// EachExtent calls fn for every reference to an extent in the segments: by the maps, by those of removed inodes, and by pieces that
// are remembered until their epoch is closed. An extent may come several times. A row that cannot be decoded is an error: without it
// nobody can tell what is unreferenced.
func (r *Reader) EachExtent(fn func(ino Ino, x *Extent) error) error {
	err := r.EachPiece(func(p RawPiece, err error) error {
		if err != nil || p.Extent.Inline {
			return err
		}
		return fn(p.Ino, p.Extent)
	})
	if err != nil {
		return err
	}
	return r.EachReplaced(func(x RawReplaced, err error) error {
		if err != nil || x.Piece.Extent.Inline {
			return err
		}
		return fn(x.Ino, x.Piece.Extent)
	})
}

// DropEntry removes an entry whose inode is not there.
func (t *Tx) DropEntry(parent Ino, name string) error {
	dir, err := t.Inode(parent)
	if err != nil {
		return err
	}
	if err := t.RemoveDentry(dir, name); err != nil {
		return err
	}
	t.PutInode(dir)
	return nil
}

// DropStray removes an entry of a directory whose own row cannot be read or is not there, and so accounts for nothing.
func (t *Tx) DropStray(d RawDentry) error {
	if _, err := t.Inode(d.Parent); err == nil {
		return fmt.Errorf("directory %d can be read", d.Parent)
	}
	key := append(key1(kindDentry, uint64(d.Parent)), d.place[:]...)
	v, err := t.get(key)
	if err != nil {
		return err
	}
	if now, err := decodeDentry(v); err != nil || now != d.Dentry {
		return fmt.Errorf("entry %q of directory %d is another one now (%w)", d.Name, d.Parent, err)
	}
	t.t.Delete(key)
	return nil
}

// RenewTomb writes the tombstone of an inode that has no row, as one of an epoch.
func (t *Tx) RenewTomb(ino Ino, epoch uint64) error {
	if _, err := t.Inode(ino); !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("inode %d is there (%w)", ino, err)
	}
	e := newEnc(16)
	e.u(epoch)
	t.t.Set(tombKey(ino), e.b)
	return nil
}

// SetLinks writes the names and the link count of an inode.
func (t *Tx) SetLinks(ino Ino, links []Link, nlink uint32) error {
	n, err := t.Inode(ino)
	if err != nil {
		return err
	}
	n.Links, n.Nlink = slices.Clone(links), nlink
	t.PutInode(n)
	return nil
}

// Adopt gives an inode that has no name one in a directory, as its only one.
func (t *Tx) Adopt(ino, parent Ino, name string) error {
	n, err := t.Inode(ino)
	if err != nil {
		return err
	}
	dir, err := t.Inode(parent)
	if err != nil {
		return err
	}
	if dir.Type != Directory {
		return fmt.Errorf("inode %d is not a directory", parent)
	}
	if err := t.AddDentry(dir, Dentry{Name: name, Ino: ino, Type: n.Type}); err != nil {
		return err
	}
	n.Links, n.Bucket = []Link{{Parent: parent, Name: name}}, dir.Bucket
	if n.Type == Directory {
		dir.Nlink++
	} else {
		n.Nlink = 1
	}
	t.PutInode(n)
	t.PutInode(dir)
	return nil
}

// IsCorrupt reports whether an error speaks of rows that are not what was written.
func IsCorrupt(err error) bool { return errors.Is(err, ErrCorrupt) }
