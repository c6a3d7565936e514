package backup

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
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

func (p packRef) name() string { return hex.EncodeToString(p.ID) + packSuffix }

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
	dir    string
	id     [16]byte
	f      *os.File
	w      *bufio.Writer
	header []byte
	index  []byte
	at     int64
}

func newPack(dir string, k *keys, store [16]byte) (*packWriter, error) {
	p := &packWriter{keys: k, dir: dir}
	_, _ = rand.Read(p.id[:]) // never fails: crypto/rand ends the process instead
	p.header = append(make([]byte, 0, packHeader), packMagic...)
	p.header = binary.BigEndian.AppendUint32(p.header, version)
	p.header = binary.BigEndian.AppendUint32(p.header, 0) // flags
	p.header = append(append(p.header, store[:]...), p.id[:]...)[:packHeader]
	f, err := os.OpenFile(p.path()+tempSuffix, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	p.f, p.w = f, bufio.NewWriterSize(f, 1<<20)
	if _, err := p.w.Write(p.header); err != nil {
		return nil, errors.Join(fmt.Errorf("backup: write %s: %w", f.Name(), err), p.abandon())
	}
	p.at = packHeader
	return p, nil
}

func (p *packWriter) path() string {
	return filepath.Join(p.dir, hex.EncodeToString(p.id[:])+packSuffix)
}

func (p *packWriter) add(kd kind, name, mac id, b []byte) error {
	if _, err := p.w.Write(b); err != nil {
		return fmt.Errorf("backup: write %s: %w", p.f.Name(), err)
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
	_, err := p.w.Write(p.index)
	if err == nil {
		_, err = p.w.Write(end)
	}
	if err == nil {
		err = p.w.Flush()
	}
	if err == nil {
		err = p.f.Sync()
	}
	err = errors.Join(err, p.f.Close())
	if err == nil {
		err = os.Rename(p.path()+tempSuffix, p.path())
	}
	if err != nil {
		_ = os.Remove(p.path() + tempSuffix)
		return packRef{}, fmt.Errorf("backup: write a pack: %w", err)
	}
	return packRef{ID: p.id[:], Size: p.at + int64(len(p.index)) + packTrailer, Index: mac[:]}, nil
}

// abandon removes a pack that is not finished.
func (p *packWriter) abandon() error {
	return errors.Join(p.f.Close(), os.Remove(p.path()+tempSuffix))
}

// pack is a finished one, open for reading.
type pack struct {
	ref   packRef
	f     *os.File
	index []entry
}

// openPack opens a pack and authenticates its index: ErrDamaged if it is not the one that ref says.
func openPack(dir string, k *keys, store [16]byte, ref packRef) (p *pack, err error) {
	f, err := os.OpenFile(filepath.Join(dir, ref.name()), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: pack %s is missing", ErrDamaged, ref.name())
	}
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			p = nil
		}
	}()
	bad := func(what string) error { return fmt.Errorf("%w: pack %s: %s", ErrDamaged, ref.name(), what) }
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if st.Size() != ref.Size || st.Size() < packHeader+packTrailer || len(ref.ID) != 16 {
		return nil, bad(fmt.Sprintf("%d bytes, %d are expected", st.Size(), ref.Size))
	}
	head, end := make([]byte, packHeader), make([]byte, packTrailer)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("backup: read %s: %w", ref.name(), err)
	}
	if _, err := f.ReadAt(end, ref.Size-packTrailer); err != nil {
		return nil, fmt.Errorf("backup: read %s: %w", ref.name(), err)
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
	if _, err := io.ReadFull(io.NewSectionReader(f, int64(at), int64(len(raw))), raw); err != nil {
		return nil, fmt.Errorf("backup: read %s: %w", ref.name(), err)
	}
	mac := k.sum('i', head, end[:24], raw)
	if !hmac.Equal(mac[:], end[24:56]) || !hmac.Equal(mac[:], ref.Index) {
		return nil, bad("its index does not authenticate")
	}
	p = &pack{ref: ref, f: f, index: make([]entry, 0, count)}
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
	if _, err := p.f.ReadAt(b, e.offset); err != nil {
		return nil, fmt.Errorf("backup: read %s: %w", p.ref.name(), err)
	}
	mac := k.blobMAC(e.kind, e.name, b)
	if !hmac.Equal(mac[:], e.mac[:]) {
		return nil, fmt.Errorf("%w: pack %s: %d bytes at %d do not authenticate", ErrDamaged, p.ref.name(), e.length, e.offset)
	}
	return b, nil
}

func (p *pack) close() { _ = p.f.Close() } // read-only
