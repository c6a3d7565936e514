package backup

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kmsfs/kmsfs/crypto"
)

// The file of a snapshot's shred keys. Entries have a fixed size and cross no sector, so that one can be overwritten in its place and
// a power cut leaves the old or the new.
const (
	keysMagic  = "KMSFSBKY"
	keysHeader = 64
	slotPlain  = 1 + 32
	slotSealed = 12 + slotPlain + tagSize
	slotSize   = 64
	maxSlots   = 1 << 20
)

// slotAD binds an entry to its snapshot, its place and its owner.
func slotAD(m *manifest, s slotRef) []byte {
	ad := append(make([]byte, 0, saltSize+20), m.salt[:]...)
	ad = binary.BigEndian.AppendUint32(ad, s.Index)
	return append(ad, s.Owner...)
}

// sealSlot seals a shred key, or that it was forgotten if secret is empty.
func sealSlot(k *keys, m *manifest, ref slotRef, secret []byte) []byte {
	var plain [slotPlain]byte
	defer clear(plain[:])
	if len(secret) > 0 {
		plain[0] = 1
		copy(plain[1:], secret)
	}
	b := make([]byte, 12, slotSize)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return k.slots.Seal(b, b, plain[:], slotAD(m, ref))[:slotSize]
}

func (d *Dir) writeSlots(k *keys, m *manifest, slots []Slot) error {
	b := append(make([]byte, 0, keysHeader+len(slots)*slotSize), keysMagic...)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint32(b, 0)[:keysHeader] // flags
	for i, s := range slots {
		b = append(b, sealSlot(k, m, m.Slots[i], s.Secret)...)
	}
	return writeFile(d.files, fileOf(m.Number, keysSuffix), b)
}

// slots reads the shred keys of a snapshot: all of them, in the order of the snapshot.
func (d *Dir) slots(k *keys, m *manifest) ([]Slot, error) {
	bad := func(what string) error {
		return fmt.Errorf("%w: shred keys of snapshot %d: %s", ErrDamaged, m.Number, what)
	}
	b, err := readAll(d.files, fileOf(m.Number, keysSuffix), keysHeader+maxSlots*slotSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bad("missing")
	}
	if err != nil {
		return nil, err
	}
	if len(b) != keysHeader+len(m.Slots)*slotSize || string(b[:8]) != keysMagic {
		return nil, bad(fmt.Sprintf("%d bytes", len(b)))
	}
	if v, flags := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:]); v != version || flags != 0 {
		return nil, fmt.Errorf("%w: shred keys of version %d, flags %#x", ErrVersion, v, flags)
	}
	b = b[keysHeader:]
	out := make([]Slot, 0, len(m.Slots))
	for i, ref := range m.Slots {
		sealed := b[i*slotSize:][:slotSealed]
		plain, err := k.slots.Open(nil, sealed[:12], sealed[12:], slotAD(m, ref))
		if err != nil || len(ref.Owner) != 16 {
			return nil, bad(fmt.Sprintf("entry %d does not authenticate", i))
		}
		s := Slot{Index: ref.Index, Owner: [16]byte(ref.Owner)}
		if plain[0] == 1 {
			s.Secret = plain[1:]
		}
		out = append(out, s)
	}
	return out, nil
}

// ForgetKey overwrites the shred keys of one KMS key in all snapshots: its files in them cannot be opened any more, except with key
// material from elsewhere. It returns in how many snapshots there was one. What the medium keeps of overwritten blocks, and copies
// of the backup, are beyond it.
func (d *Dir) ForgetKey(key *crypto.DataKey, store [16]byte, owner [16]byte) (snapshots int, err error) {
	k := newKeys(key)
	defer k.wipe()
	numbers, err := d.Numbers()
	if err != nil {
		return 0, err
	}
	for _, n := range numbers {
		m, err := d.manifest(k, store, n)
		if err != nil {
			return snapshots, err
		}
		slots, err := d.slots(k, m)
		if err != nil {
			return snapshots, err
		}
		found := false
		for i, s := range slots {
			if s.Owner == owner && len(s.Secret) > 0 {
				found = true
				if err := d.overwrite(m, i, sealSlot(k, m, m.Slots[i], nil)); err != nil {
					return snapshots, err
				}
			}
			clear(s.Secret)
		}
		if found {
			snapshots++
		}
	}
	return snapshots, nil
}

func (d *Dir) overwrite(m *manifest, i int, sealed []byte) error {
	name := fileOf(m.Number, keysSuffix)
	err := d.files.WriteAt(name, sealed, keysHeader+int64(i)*slotSize)
	if err == nil {
		err = d.files.Commit(name, name)
	}
	if err != nil {
		return fmt.Errorf("backup: overwrite a shred key of snapshot %d: %w", m.Number, err)
	}
	return nil
}
