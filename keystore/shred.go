package keystore

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/kmsfs/kmsfs/crypto"
)

// The shred file's sizes and offsets, as FORMAT.md has them.
const (
	shredMagic   = "KMSFSHR\x00"
	shredVersion = 1
	shredHeader  = 4096
	slotSize     = 128
	slotsPerStep = 4096 / slotSize // the file grows by whole pages
	slotUsed     = 1
	slotSigned   = 56 // bytes of a slot that its MAC covers
	slotEnd      = slotSigned + sha256.Size
	headerSigned = 16

	shredInfo = "kmsfs keystore shred slots v1"
)

// shredFile holds one 32-byte shred key per KMS key, in a slot that is overwritten when the key is deleted.
type shredFile struct {
	macKey *crypto.DataKey

	mu    sync.Mutex // guards the file and slots
	f     *os.File
	slots []keyID // the zero id = free
}

// openShred opens the slot file, or makes it if it is missing and may be made. ErrVersion, or ErrCorrupt for anything that
// does not authenticate under this root key.
func openShred(path string, root *crypto.DataKey, mayMake bool) (*shredFile, error) {
	s := &shredFile{macKey: root.Derive(nil, shredInfo)}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if !mayMake {
			return nil, fmt.Errorf("%w: the shred file is missing", ErrCorrupt)
		}
		if err := s.create(path); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("keystore: shred file: %w", err)
	}
	s.f = f
	if err := s.load(); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

func (s *shredFile) mac(label string, index uint32, b []byte) []byte {
	sum := s.macKey.MAC([]byte(label), binary.BigEndian.AppendUint32(nil, index), b)
	return sum[:]
}

func (s *shredFile) create(path string) error {
	b := make([]byte, 0, shredHeader)
	b = append(b, shredMagic...)
	b = binary.BigEndian.AppendUint16(b, shredVersion)
	b = binary.BigEndian.AppendUint16(b, 0) // feature flags
	b = binary.BigEndian.AppendUint32(b, slotSize)
	b = append(b, s.mac("header", 0, b)...)
	b = b[:shredHeader]
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keystore: shred file: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("keystore: make shred file: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// load reads and checks the whole file.
func (s *shredFile) load() error {
	b, err := io.ReadAll(s.f)
	if err != nil {
		return fmt.Errorf("keystore: read shred file: %w", err)
	}
	defer clear(b)
	if len(b) < shredHeader || len(b)%4096 != 0 {
		return fmt.Errorf("%w: shred file of %d bytes", ErrCorrupt, len(b))
	}
	if string(b[:8]) != shredMagic {
		return fmt.Errorf("%w: not a shred file", ErrCorrupt)
	}
	if v, flags := binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b[10:]); v != shredVersion || flags != 0 {
		return fmt.Errorf("%w: shred file version %d, flags %#x", ErrVersion, v, flags)
	}
	if !hmac.Equal(s.mac("header", 0, b[:headerSigned]), b[headerSigned:headerSigned+sha256.Size]) ||
		binary.BigEndian.Uint32(b[12:]) != slotSize || !zero(b[headerSigned+sha256.Size:shredHeader]) {
		return fmt.Errorf("%w: shred file header", ErrCorrupt)
	}
	b = b[shredHeader:]
	for i := range uint32(len(b) / slotSize) {
		id, _, err := s.parseSlot(i, b[int(i)*slotSize:][:slotSize])
		if err != nil {
			return err
		}
		s.slots = append(s.slots, id)
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// parseSlot reads one slot: the zero id for a free one. The shred key points into b.
func (s *shredFile) parseSlot(index uint32, b []byte) (keyID, []byte, error) {
	if len(b) != slotSize {
		return keyID{}, nil, fmt.Errorf("%w: shred slot %d has %d bytes", ErrCorrupt, index, len(b))
	}
	if zero(b) {
		return keyID{}, nil, nil
	}
	if b[0] != slotUsed || !zero(b[1:8]) || !zero(b[slotEnd:]) || zero(b[8:24]) ||
		!hmac.Equal(s.mac("slot", index, b[:slotSigned]), b[slotSigned:slotEnd]) {
		return keyID{}, nil, fmt.Errorf("%w: shred slot %d", ErrCorrupt, index)
	}
	return keyID(b[8:24]), b[24:slotSigned], nil
}

func slotOffset(index uint32) int64 { return shredHeader + int64(index)*slotSize }

// add writes a new random shred key for id into a free slot; it is durable when add returns.
func (s *shredFile) add(id keyID) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return 0, ErrClosed
	}
	index := uint32(len(s.slots))
	for i, used := range s.slots {
		if used == (keyID{}) {
			index = uint32(i)
			break
		}
	}
	if int(index) == len(s.slots) {
		if err := s.f.Truncate(slotOffset(index + slotsPerStep)); err != nil {
			return 0, fmt.Errorf("keystore: grow shred file: %w", err)
		}
		s.slots = append(s.slots, make([]keyID, slotsPerStep)...)
	}
	b := make([]byte, 0, slotSize)
	b = append(b, slotUsed, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, id[:]...)
	b = b[:slotSigned]
	rand.Read(b[24:slotSigned])
	b = append(b, s.mac("slot", index, b)...)
	b = b[:slotSize]
	defer clear(b)
	if err := s.write(index, b); err != nil {
		return 0, err
	}
	s.slots[index] = id
	return index, nil
}

func (s *shredFile) write(index uint32, b []byte) error {
	if _, err := s.f.WriteAt(b, slotOffset(index)); err != nil {
		return fmt.Errorf("keystore: write shred slot %d: %w", index, err)
	}
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("keystore: sync shred file: %w", err)
	}
	return nil
}

// wrapping is the key that wraps the materials of id: derived from root and the shred key in its slot.
func (s *shredFile) wrapping(root *crypto.DataKey, index uint32, id keyID) (*crypto.DataKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return nil, ErrClosed
	}
	if int64(index) >= int64(len(s.slots)) {
		return nil, fmt.Errorf("%w: shred slot %d is not there", ErrCorrupt, index)
	}
	b := make([]byte, slotSize)
	defer clear(b)
	if _, err := s.f.ReadAt(b, slotOffset(index)); err != nil {
		return nil, fmt.Errorf("keystore: read shred slot %d: %w", index, err)
	}
	owner, salt, err := s.parseSlot(index, b)
	if err != nil {
		return nil, err
	}
	if owner != id {
		return nil, fmt.Errorf("%w: shred slot %d is not that of key %s", ErrCorrupt, index, id)
	}
	return root.Derive(salt, materialInfo+id.String()), nil
}

// destroy overwrites a slot of id; the old bytes are gone from the file when it returns.
func (s *shredFile) destroy(index uint32, id keyID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return ErrClosed
	}
	if int64(index) >= int64(len(s.slots)) || s.slots[index] != id {
		return nil // done before
	}
	if err := s.write(index, make([]byte, slotSize)); err != nil {
		return err
	}
	s.slots[index] = keyID{}
	return nil
}

// orphans are the used slots that known does not name.
func (s *shredFile) orphans(known map[uint32]keyID) map[uint32]keyID {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uint32]keyID{}
	for i, id := range s.slots {
		if id != (keyID{}) && known[uint32(i)] != id {
			out[uint32(i)] = id
		}
	}
	return out
}

func (s *shredFile) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return nil
	}
	err := s.f.Close()
	s.f = nil
	s.macKey.Wipe()
	return err
}
