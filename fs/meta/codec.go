package meta

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/kmsfs/kmsfs/crypto"
)

// Every row begins with rowVersion. Integers are unsigned varints unless said otherwise, times signed varints, strings a
// varint length and the bytes. A decoder refuses what is left over, so a row has one encoding only.
const rowVersion = 1

type enc struct{ b []byte }

func newEnc(size int) *enc {
	e := &enc{make([]byte, 0, size)}
	e.b = append(e.b, rowVersion)
	return e
}
func (e *enc) u(v uint64)   { e.b = binary.AppendUvarint(e.b, v) }
func (e *enc) i(v int64)    { e.b = binary.AppendVarint(e.b, v) }
func (e *enc) byte(v byte)  { e.b = append(e.b, v) }
func (e *enc) raw(v []byte) { e.b = append(e.b, v...) }
func (e *enc) str(v string) { e.u(uint64(len(v))); e.b = append(e.b, v...) }
func (e *enc) u32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }
func (e *enc) set(s Set) {
	e.u(s.Count)
	for _, l := range s.Sum {
		e.b = binary.LittleEndian.AppendUint64(e.b, l)
	}
}

type dec struct {
	b   []byte
	bad bool
}

func newDec(b []byte) *dec {
	d := &dec{b: b}
	if d.byte() != rowVersion {
		d.bad = true
	}
	return d
}

func (d *dec) fail() { d.bad, d.b = true, nil }

func (d *dec) u() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || (n > 1 && d.b[n-1] == 0) { // not the shortest encoding
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *dec) i() int64 {
	u := d.u()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

func (d *dec) n32() uint32 {
	v := d.u()
	if v > 1<<32-1 {
		d.fail()
		return 0
	}
	return uint32(v)
}

func (d *dec) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *dec) byte() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *dec) str() string { return string(d.take(d.u())) }

func (d *dec) u32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *dec) set() (s Set) {
	s.Count = d.u()
	if v := d.take(32); v != nil {
		for i := range s.Sum {
			s.Sum[i] = binary.LittleEndian.Uint64(v[8*i:])
		}
	}
	return s
}

// fewItems is up to how many items room is made at once for, on a count that nothing has confirmed yet.
const fewItems = 16

// count reads a number of items, each of which takes at least one byte.
func (d *dec) count() int {
	n := d.u()
	if n > uint64(len(d.b)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *dec) end(what string) error {
	if d.bad || len(d.b) != 0 {
		return fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	return nil
}

// Flags of an inode row.
const (
	flagBucket = 1 << iota
	flagSealing
	flagBucketKey
	flagExplicit
	flagXattrs
	flagKnown = 1<<iota - 1
)

func encodeInode(n *Inode) []byte { return appendInode(make([]byte, 0, 512), n) }

func appendInode(dst []byte, n *Inode) []byte {
	e := &enc{append(dst, rowVersion)}
	var flags byte
	if n.BucketInfo != nil {
		flags |= flagBucket
	}
	if n.Sealing.Method != None {
		flags |= flagSealing
	}
	if n.Sealing.BucketKey {
		flags |= flagBucketKey
	}
	if n.Sealing.Explicit {
		flags |= flagExplicit
	}
	if n.Xattrs.Count != 0 {
		flags |= flagXattrs
	}
	e.byte(flags)
	e.byte(byte(n.Type))
	for _, v := range []uint64{
		uint64(n.Mode), uint64(n.UID), uint64(n.GID), uint64(n.Nlink), uint64(n.Rdev), n.Size, n.Alloc, uint64(n.Bucket), uint64(n.NextKey),
	} {
		e.u(v)
	}
	for _, t := range []int64{n.Atime, n.Mtime, n.Ctime, n.Btime} {
		e.i(t)
	}
	e.u(uint64(len(n.Links)))
	for _, l := range n.Links {
		e.u(uint64(l.Parent))
		e.str(l.Name)
	}
	e.str(n.Target)
	e.str(n.Default)
	e.set(n.Rows)
	if flags&flagXattrs != 0 {
		e.set(n.Xattrs)
	}
	if b := n.BucketInfo; b != nil {
		e.str(b.Name)
		e.str(b.Encryption)
		e.str(string(b.Policy))
		e.i(b.Created)
		e.str(b.Quota)
	}
	if s := n.Sealing; flags&flagSealing != 0 {
		e.byte(byte(s.Method))
		e.str(s.KeyARN)
		encodeContext(e, s.Context)
		e.u(uint64(len(s.Keys)))
		for _, k := range s.Keys {
			e.u(uint64(k.Generation))
			e.u(uint64(len(k.Wrapped)))
			e.raw(k.Wrapped)
		}
	}
	return e.b
}

func encodeContext(e *enc, c crypto.Context) {
	if len(c) == 1 { // as a rule: the object's ARN
		e.u(1)
		for k, v := range c {
			e.str(k)
			e.str(v)
		}
		return
	}
	names := make([]string, 0, len(c))
	for k := range c {
		names = append(names, k)
	}
	sort.Strings(names)
	e.u(uint64(len(names)))
	for _, k := range names {
		e.str(k)
		e.str(c[k])
	}
}

func decodeContext(d *dec) crypto.Context {
	n := d.count()
	if n == 0 {
		return nil
	}
	c := make(crypto.Context, n)
	last := ""
	for i := range n {
		k := d.str()
		if i > 0 && k <= last {
			d.fail()
		}
		last = k
		c[k] = d.str()
	}
	return c
}

func decodeInode(ino Ino, b []byte) (*Inode, error) {
	d := newDec(b)
	n := &Inode{Ino: ino}
	flags := d.byte()
	if flags&^flagKnown != 0 {
		d.fail()
	}
	n.Type = FileType(d.byte())
	if n.Type < Regular || n.Type > BlockDevice {
		d.fail()
	}
	n.Mode, n.UID, n.GID, n.Nlink, n.Rdev = d.n32(), d.n32(), d.n32(), d.n32(), d.n32()
	n.Size, n.Alloc, n.Bucket, n.NextKey = d.u(), d.u(), Ino(d.u()), d.n32()
	n.Atime, n.Mtime, n.Ctime, n.Btime = d.i(), d.i(), d.i(), d.i()
	for i, links := 0, d.count(); i < links; i++ {
		if i == 0 {
			n.Links = make([]Link, 0, min(links, fewItems))
		}
		n.Links = append(n.Links, Link{Ino(d.u()), d.str()})
	}
	n.Target, n.Default = d.str(), d.str()
	n.Rows = d.set()
	if flags&flagXattrs != 0 {
		n.Xattrs = d.set()
		if n.Xattrs.Count == 0 {
			d.fail()
		}
	}
	if flags&flagBucket != 0 {
		n.BucketInfo = &Bucket{Name: d.str(), Encryption: d.str(), Policy: []byte(d.str()), Created: d.i(), Quota: d.str()}
	}
	if flags&flagSealing != 0 {
		s := Sealing{Method: Method(d.byte()), KeyARN: d.str(), BucketKey: flags&flagBucketKey != 0, Explicit: flags&flagExplicit != 0}
		if s.Method != SSES3 && s.Method != SSEKMS {
			d.fail()
		}
		s.Context = decodeContext(d)
		var last uint32
		keys := d.count()
		if keys > 0 {
			s.Keys = make([]FileKey, 0, min(keys, fewItems))
			d.b = bytes.Clone(d.b) // the keys are the rest of the row, and share one copy of it
		}
		for i := range keys {
			k := FileKey{Generation: d.n32(), Wrapped: slices.Clip(d.take(d.u()))}
			if i > 0 && k.Generation <= last {
				d.fail()
			}
			last = k.Generation
			s.Keys = append(s.Keys, k)
		}
		n.Sealing = s
	} else if flags&(flagBucketKey|flagExplicit) != 0 {
		d.fail()
	}
	if err := d.endOf(ino); err != nil {
		return nil, err
	}
	return n, nil
}

// endOf is end of an inode's row.
func (d *dec) endOf(ino Ino) error {
	if d.bad || len(d.b) != 0 {
		return d.end(fmt.Sprintf("inode %d", ino))
	}
	return nil
}

// decodeUse reads from an inode's row what tells of encryption, and passes over the rest, of which it looks at the lengths alone.
// u.KeyARN is a part of b.
func decodeUse(ino Ino, b []byte) (u Use, err error) {
	d := newDec(b)
	flags := d.byte()
	if flags&^flagKnown != 0 {
		d.fail()
	}
	u.Ino, u.Type = ino, FileType(d.byte())
	for range 9 + 4 { // from the mode to the time of birth
		d.u()
	}
	for links := d.count(); links > 0 && !d.bad; links-- {
		d.u()
		d.take(d.u())
	}
	d.take(d.u())
	u.Default = d.str()
	d.set()
	if flags&flagXattrs != 0 {
		d.set()
	}
	if flags&flagBucket != 0 {
		u.Bucket = &Bucket{Name: d.str(), Encryption: d.str(), Policy: []byte(d.str()), Created: d.i(), Quota: d.str()}
	}
	if flags&flagSealing != 0 {
		u.Method, u.KeyARN = Method(d.byte()), d.take(d.u())
		for pairs := d.count(); pairs > 0 && !d.bad; pairs-- {
			d.take(d.u())
			d.take(d.u())
		}
		for keys := d.count(); keys > 0 && !d.bad; keys-- {
			d.u()
			d.take(d.u())
		}
	}
	return u, d.endOf(ino)
}

func encodeDentry(x Dentry) []byte {
	e := newEnc(16 + len(x.Name))
	e.byte(byte(x.Type))
	e.u(uint64(x.Ino))
	e.raw([]byte(x.Name))
	return e.b
}

func decodeDentry(b []byte) (Dentry, error) {
	d := newDec(b)
	x := Dentry{Type: FileType(d.byte()), Ino: Ino(d.u())}
	x.Name = string(d.take(uint64(len(d.b))))
	if x.Type < Regular || x.Type > BlockDevice || x.Ino == 0 || x.Name == "" || len(x.Name) > MaxName {
		d.fail()
	}
	return x, d.end("dentry")
}

func encodePiece(e *enc, p Piece) {
	x := p.Extent
	e.u(uint64(p.Len))
	e.u(uint64(p.Inside))
	e.u(uint64(x.ID))
	e.u(uint64(x.Plain))
	e.u(uint64(x.Generation))
	e.raw(x.Salt[:])
	if x.Inline {
		e.byte(1)
		return
	}
	e.byte(0)
	e.u(x.Segment)
	e.u(uint64(x.Offset))
	e.u(uint64(x.Sealed))
	e.u32(x.CRC)
	e.u(x.Epoch)
}

func decodePiece(d *dec, off uint64) Piece {
	x := &Extent{}
	p := Piece{Off: off, Len: d.n32(), Inside: d.n32(), Extent: x}
	x.ID, x.Plain, x.Generation = ExtentID(d.u()), d.n32(), d.n32()
	copy(x.Salt[:], d.take(16))
	switch d.byte() {
	case 1:
		x.Inline = true
	case 0:
		x.Segment, x.Offset, x.Sealed, x.CRC, x.Epoch = d.u(), int64(d.u()), d.n32(), d.u32(), d.u()
		if x.Offset < 0 {
			d.fail()
		}
	default:
		d.fail()
	}
	if p.Len == 0 || uint64(p.Inside)+uint64(p.Len) > uint64(x.Plain) || off+uint64(p.Len) < off {
		d.fail()
	}
	return p
}

func encodePieceRow(p Piece) []byte {
	e := newEnc(80)
	encodePiece(e, p)
	return e.b
}

func decodePieceRow(off uint64, b []byte) (Piece, error) {
	d := newDec(b)
	p := decodePiece(d, off)
	return p, d.end("piece")
}

func encodeReplaced(r Replaced) []byte {
	e := newEnc(96)
	var flags byte
	if r.Restore {
		flags |= 1
	}
	if r.Free {
		flags |= 2
	}
	e.byte(flags)
	e.u(r.Piece.Off)
	encodePiece(e, r.Piece)
	return e.b
}

func decodeReplaced(ino Ino, b []byte) (Replaced, error) {
	d := newDec(b)
	flags := d.byte()
	r := Replaced{Ino: ino, Restore: flags&1 != 0, Free: flags&2 != 0}
	if flags > 3 {
		d.fail()
	}
	off := d.u()
	r.Piece = decodePiece(d, off)
	return r, d.end("replaced piece")
}

func encodeSuper(s Super) []byte {
	e := newEnc(40)
	e.u(uint64(s.Version))
	e.u(uint64(s.NextIno))
	e.u(uint64(s.NextExtent))
	e.u(s.Epoch)
	return e.b
}

func decodeSuper(b []byte) (Super, error) {
	d := newDec(b)
	s := Super{Version: d.n32(), NextIno: Ino(d.u()), NextExtent: ExtentID(d.u()), Epoch: d.u()}
	return s, d.end("super")
}

func encodeXattr(name string, value []byte) []byte {
	e := newEnc(8 + len(name) + len(value))
	e.str(name)
	e.raw(value)
	return e.b
}

func decodeXattr(b []byte) (string, []byte, error) {
	d := newDec(b)
	name := d.str()
	value := append([]byte(nil), d.take(uint64(len(d.b)))...)
	if name == "" {
		d.fail()
	}
	return name, value, d.end("extended attribute")
}
