package backup

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/extent"
)

const (
	snapMagic   = "KMSFSBSN"
	saltSize    = 32
	snapPrefix  = 8 + 4 + 4 + 8 + saltSize + 4 // up to the header
	maxHeader   = 64 << 10
	maxSnapshot = 1 << 30
	tagSize     = 16
)

// manifest is the sealed part of a snapshot.
type manifest struct {
	Store   []byte    `json:"store"`
	Number  uint64    `json:"number"`
	Created time.Time `json:"created"`
	Epoch   uint64    `json:"epoch"`
	Segment uint64    `json:"segment"` // the position: no address before it may be given out again
	Offset  int64     `json:"offset"`
	Packs   []packRef `json:"packs"`
	Rows    []rowRef  `json:"rows"`
	Files   []fileRef `json:"files"`
	Slots   []slotRef `json:"slots"`
	Lost    []Lost    `json:"lost,omitempty"`

	CountRows    int64 `json:"countRows"`
	CountExtents int64 `json:"countExtents"`
	Bytes        int64 `json:"bytes"`
	Added        int64 `json:"added"`

	salt   [saltSize]byte
	header []byte
}

// rowRef is a chunk of rows: its name and its first key.
type rowRef struct {
	Name  []byte `json:"n"`
	First []byte `json:"k"`
}

type fileRef struct {
	Name   string   `json:"name"`
	Size   int64    `json:"size"`
	Chunks [][]byte `json:"chunks"`
}

type slotRef struct {
	Index uint32 `json:"index"`
	Owner []byte `json:"owner"`
}

func (m *manifest) position() extent.Position {
	return extent.Position{Segment: m.Segment, Offset: m.Offset}
}

func (m *manifest) info() Info {
	return Info{
		Number: m.Number, Created: m.Created, Epoch: m.Epoch, Rows: m.CountRows, Extents: m.CountExtents, Bytes: m.Bytes,
		Added: m.Added, Packs: len(m.Packs), Keys: len(m.Slots), Lost: m.Lost,
	}
}

// encode gives a snapshot's bytes: what stands before the sealed part is authenticated with it.
func (m *manifest) encode(k *keys) ([]byte, error) {
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("backup: encode: %w", err)
	}
	b := append(make([]byte, 0, snapPrefix+len(m.header)+len(plain)+tagSize), snapMagic...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint32(b, 0) // flags
	b = binary.BigEndian.AppendUint64(b, m.Number)
	b = append(b, m.salt[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.header)))
	b = append(b, m.header...)
	key := k.snap.Derive(m.salt[:], snapInfo)
	defer key.Wipe()
	return key.Seal(b, make([]byte, 12), plain, b), nil // the salt makes the key fresh, so one nonce will do
}

// outside reads what is not sealed in a snapshot: number, salt, the store's header, and the sealed rest.
func outside(b []byte) (m *manifest, sealed []byte, err error) {
	if len(b) < snapPrefix || string(b[:8]) != snapMagic {
		return nil, nil, fmt.Errorf("%w: not a snapshot", ErrDamaged)
	}
	if v, flags := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:]); v != version || flags != 0 {
		return nil, nil, fmt.Errorf("%w: snapshot version %d, flags %#x", ErrVersion, v, flags)
	}
	m = &manifest{Number: binary.BigEndian.Uint64(b[16:]), salt: [saltSize]byte(b[24:])}
	n := binary.BigEndian.Uint32(b[24+saltSize:])
	if n > maxHeader || int(n) > len(b)-snapPrefix-tagSize {
		return nil, nil, fmt.Errorf("%w: snapshot cut short", ErrDamaged)
	}
	m.header = b[snapPrefix : snapPrefix+n]
	return m, b[snapPrefix+n:], nil
}

// decode opens a snapshot's bytes.
func decode(k *keys, b []byte) (*manifest, error) {
	out, sealed, err := outside(b)
	if err != nil {
		return nil, err
	}
	key := k.snap.Derive(out.salt[:], snapInfo)
	defer key.Wipe()
	plain, err := key.Open(nil, make([]byte, 12), sealed, b[:len(b)-len(sealed)])
	if err != nil {
		return nil, fmt.Errorf("%w: the snapshot does not authenticate", ErrDamaged)
	}
	m := new(manifest)
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if m.Number != out.Number {
		return nil, fmt.Errorf("%w: it holds snapshot %d", ErrDamaged, m.Number)
	}
	m.salt, m.header = out.salt, out.header
	return m, nil
}

// load reads a snapshot's file.
func (d *Dir) load(number uint64) ([]byte, error) {
	b, err := readAll(d.files, fileOf(number, snapSuffix), maxSnapshot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: snapshot %d", ErrNone, number)
	}
	return b, err
}

// Header returns the store's header that a snapshot carries, unauthenticated: it is what unlocks the root key, and authenticates under
// that.
func (d *Dir) Header(number uint64) ([]byte, error) {
	b, err := d.load(number)
	if err != nil {
		return nil, err
	}
	m, _, err := outside(b)
	if err != nil {
		return nil, fmt.Errorf("snapshot %d: %w", number, err)
	}
	return m.header, nil
}

// manifest reads and authenticates a snapshot of that store.
func (d *Dir) manifest(k *keys, store [16]byte, number uint64) (*manifest, error) {
	b, err := d.load(number)
	if err != nil {
		return nil, err
	}
	m, err := decode(k, b)
	if err != nil {
		return nil, fmt.Errorf("snapshot %d: %w", number, err)
	}
	if m.Number != number || !bytes.Equal(m.Store, store[:]) {
		return nil, fmt.Errorf("snapshot %d: %w", number, ErrForeign)
	}
	return m, nil
}

// List describes the snapshots, the oldest first.
func (d *Dir) List(key *crypto.DataKey, store [16]byte) ([]Info, error) {
	k := newKeys(key)
	defer k.wipe()
	numbers, err := d.Numbers()
	if err != nil {
		return nil, err
	}
	out := []Info{}
	for _, n := range numbers {
		m, err := d.manifest(k, store, n)
		if err != nil {
			return nil, err
		}
		i := m.info()
		slots, err := d.slots(k, m)
		if err != nil {
			return nil, err
		}
		for _, s := range slots {
			if len(s.Secret) == 0 {
				i.Gone++
			}
		}
		out = append(out, i)
	}
	return out, nil
}

func newSalt() (s [saltSize]byte) {
	_, _ = rand.Read(s[:]) // never fails: crypto/rand ends the process instead
	return s
}
