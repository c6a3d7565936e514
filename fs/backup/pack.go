package backup

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
)

// The sizes of FORMAT.md.
const (
	packMagic    = "KMSFSBPK"
	packEnd      = "KMSFSBPE"
	version      = 1
	packHeader   = 64
	packTrailer  = 64
	entrySize    = 1 + 16 + 16 + 8 + 4
	maxBlob      = 64 << 20
	packLimit    = 512 << 20 // bytes of blobs after which the next pack begins
	packSuffix   = ".pack"
	tempSuffix   = ".tmp"
	maxIndexSize = 1 << 30
)

// packRef is a pack as a snapshot names it.
type packRef struct {
	ID    []byte `json:"id"`
	Size  int64  `json:"size"`  // bytes of the file
	Index []byte `json:"index"` // its index's MAC
}

func (p packRef) name() string { return dirPacks + "/" + hex.EncodeToString(p.ID) + packSuffix }

// entry is a blob in a pack.
type entry struct {
	kind   kind
	name   id
	mac    id
	offset int64
	length uint32
}

func (e entry) append(b []byte) []byte {
	b = append(b, byte(e.kind))
	b = append(b, e.name[:]...)
	b = append(b, e.mac[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.offset))
	return binary.BigEndian.AppendUint32(b, e.length)
}

func parseEntry(b []byte) entry {
	return entry{
		kind: kind(b[0]), name: id(b[1:17]), mac: id(b[17:33]),
		offset: int64(binary.BigEndian.Uint64(b[33:])), length: binary.BigEndian.Uint32(b[41:]),
	}
}

// packWriter writes one pack.
type packWriter struct {
	keys   *keys
	files  Files
	name   string
	id     [16]byte
	buf    []byte // not yet written
	out    int64  // bytes written
	header []byte
	index  []byte
	at     int64
}

func newPack(f Files, k *keys, store [16]byte) *packWriter {
	p := &packWriter{keys: k, files: f, buf: make([]byte, 0, 2*ioSize)}
	_, _ = rand.Read(p.id[:]) // never fails: crypto/rand ends the process instead
	p.name = packRef{ID: p.id[:]}.name()
	p.header = append(make([]byte, 0, packHeader), packMagic...)
	p.header = binary.BigEndian.AppendUint32(p.header, version)
	p.header = binary.BigEndian.AppendUint32(p.header, 0) // flags
	p.header = append(append(p.header, store[:]...), p.id[:]...)[:packHeader]
	p.buf, p.at = append(p.buf, p.header...), packHeader
	return p
}

func (p *packWriter) write(b []byte, all bool) error {
	p.buf = append(p.buf, b...)
	for len(p.buf) >= ioSize || all && len(p.buf) > 0 {
		n := min(len(p.buf), ioSize)
		if err := p.files.WriteAt(p.name+tempSuffix, p.buf[:n], p.out); err != nil {
			return fmt.Errorf("backup: write a pack: %w", err)
		}
		p.out += int64(n)
		p.buf = p.buf[:copy(p.buf, p.buf[n:])]
	}
	return nil
}

func (p *packWriter) add(kd kind, name, mac id, b []byte) error {
	if err := p.write(b, false); err != nil {
		return err
	}
	p.index = entry{kd, name, mac, p.at, uint32(len(b))}.append(p.index)
	p.at += int64(len(b))
	return nil
}

// finish makes the pack durable under its name.
func (p *packWriter) finish() (packRef, error) {
	end := append(make([]byte, 0, packTrailer), packEnd...)
	end = binary.BigEndian.AppendUint64(end, uint64(len(p.index)/entrySize))
	end = binary.BigEndian.AppendUint64(end, uint64(p.at))
	mac := p.keys.sum('i', p.header, end, p.index)
	end = append(end, mac[:]...)[:packTrailer]
	err := p.write(p.index, false)
	if err == nil {
		err = p.write(end, true)
	}
	if err == nil {
		err = p.files.Commit(p.name+tempSuffix, p.name)
	}
	if err != nil {
		return packRef{}, errors.Join(fmt.Errorf("backup: write a pack: %w", err), p.abandon())
	}
	return packRef{ID: p.id[:], Size: p.at + int64(len(p.index)) + packTrailer, Index: mac[:]}, nil
}

// abandon removes a pack that is not finished.
func (p *packWriter) abandon() error { return p.files.Remove(p.name + tempSuffix) }

// pack is a finished one, open for reading.
type pack struct {
	ref   packRef
	files Files
	index []entry
}

// openPack opens a pack and authenticates its index: ErrDamaged if it is not the one that ref says.
func openPack(f Files, sizes map[string]int64, k *keys, store [16]byte, ref packRef) (*pack, error) {
	bad := func(what string) error { return fmt.Errorf("%w: pack %s: %s", ErrDamaged, ref.name(), what) }
	size, ok := sizes[path.Base(ref.name())]
	switch {
	case len(ref.ID) != 16:
		return nil, bad("not an id")
	case !ok:
		return nil, fmt.Errorf("%w: pack %s is missing", ErrDamaged, ref.name())
	case size != ref.Size || size < packHeader+packTrailer:
		return nil, bad(fmt.Sprintf("%d bytes, %d are expected", size, ref.Size))
	}
	read := func(b []byte, at int64) error {
		for len(b) > 0 {
			n := min(len(b), ioSize)
			if err := f.ReadAt(ref.name(), b[:n], at); err != nil {
				return fmt.Errorf("backup: read %s: %w", ref.name(), err)
			}
			b, at = b[n:], at+int64(n)
		}
		return nil
	}
	head, end := make([]byte, packHeader), make([]byte, packTrailer)
	if err := errors.Join(read(head, 0), read(end, ref.Size-packTrailer)); err != nil {
		return nil, err
	}
	if string(head[:8]) != packMagic || !bytes.Equal(head[16:32], store[:]) || !bytes.Equal(head[32:48], ref.ID) || string(end[:8]) != packEnd {
		return nil, bad("not the pack of that name")
	}
	if v, flags := binary.BigEndian.Uint32(head[8:]), binary.BigEndian.Uint32(head[12:]); v != version || flags != 0 {
		return nil, fmt.Errorf("%w: pack version %d, flags %#x", ErrVersion, v, flags)
	}
	count, at := binary.BigEndian.Uint64(end[8:]), binary.BigEndian.Uint64(end[16:])
	if count > maxIndexSize/entrySize || at > uint64(ref.Size) || int64(at)+int64(count)*entrySize+packTrailer != ref.Size {
		return nil, bad("its index does not fit")
	}
	raw := make([]byte, count*entrySize)
	if err := read(raw, int64(at)); err != nil {
		return nil, err
	}
	mac := k.sum('i', head, end[:24], raw)
	if !hmac.Equal(mac[:], end[24:56]) || !hmac.Equal(mac[:], ref.Index) {
		return nil, bad("its index does not authenticate")
	}
	p := &pack{ref: ref, files: f, index: make([]entry, 0, count)}
	for ; len(raw) > 0; raw = raw[entrySize:] {
		e := parseEntry(raw)
		if e.offset < packHeader || e.length > maxBlob || e.offset+int64(e.length) > int64(at) {
			return nil, bad("an entry that cannot be")
		}
		p.index = append(p.index, e)
	}
	return p, nil
}

// read reads and authenticates one blob.
func (p *pack) read(k *keys, e entry) ([]byte, error) {
	b := make([]byte, e.length)
	for at := 0; at < len(b); at += ioSize {
		if err := p.files.ReadAt(p.ref.name(), b[at:min(at+ioSize, len(b))], e.offset+int64(at)); err != nil {
			return nil, fmt.Errorf("backup: read %s: %w", p.ref.name(), err)
		}
	}
	mac := k.blobMAC(e.kind, e.name, b)
	if !hmac.Equal(mac[:], e.mac[:]) {
		return nil, fmt.Errorf("%w: pack %s: %d bytes at %d do not authenticate", ErrDamaged, p.ref.name(), e.length, e.offset)
	}
	return b, nil
}
