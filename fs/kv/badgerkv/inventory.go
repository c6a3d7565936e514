package badgerkv

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/kmsfs/kmsfs/fs/kv"
)

// Badger takes what it finds: a manifest that was cut off or put back from earlier names fewer tables, and Badger removes the others; a
// log of a memory table that is gone or ends early holds fewer rows. Rows would be missing that the redo log no longer has, or older
// ones would appear in their place. So before the redo log is cut, what Badger has is written down: how long the manifest is and each
// log of a memory table, and the checksum of that much. Both kinds of file only grow, so at Open they must begin with it. A log may be
// gone: that of the table that was active, if the manifest has gained a table of the first level since; one of those before it in any
// case, for its table may already have been in the manifest. Badger writes the manifest anew after many removals; a new one begins with
// tables, of which some have higher numbers than any before.
//
// This is against damage and exchange of single files. Whoever can compute checksums can also change the inventory; he finds sealed rows.
//
// The file has two slots, written in turn: the length of a JSON text, its CRC32C, both in four bytes, little-endian, and the text.

const (
	inventoryName = "INVENTORY"
	inventorySlot = 1 << 20 // of which little is used: the rest is a hole
	logHeader     = 20      // bytes that Badger begins a log with
)

// inventory is what Badger's files held when the redo log was cut.
type inventory struct {
	Number   uint64             `json:"number"` // of inventories
	Manifest stretch            `json:"manifest"`
	Logs     map[string]stretch `json:"logs"`             // of memory tables
	Active   string             `json:"active,omitempty"` // the log of the newest one
	MaxTable uint64             `json:"maxTable"`         // highest number of a table
	Tables   []byte             `json:"tables,omitempty"` // of each its number and its mark, four bytes each, little-endian
}

// stretch is the beginning of a file.
type stretch struct {
	Length int64  `json:"length"` // bytes
	CRC    uint32 `json:"crc32c"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mark tells one table from another: the checksum of the end of its file, where the checksum of its index is.
func mark(name string) (uint32, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := make([]byte, min(st.Size(), 32))
	_, err = f.ReadAt(end, st.Size()-int64(len(end)))
	return crc32.Checksum(end, castagnoli), err
}

// marks gives the tables of an inventory.
func (inv inventory) marks() map[uint64]uint32 {
	out := make(map[uint64]uint32, len(inv.Tables)/8)
	for t := range slices.Chunk(inv.Tables, 8) {
		if len(t) == 8 {
			out[uint64(binary.LittleEndian.Uint32(t))] = binary.LittleEndian.Uint32(t[4:])
		}
	}
	return out
}

// takeInventory looks at Badger's files. No rows may be moved meanwhile; Badger may flush and compact. known has the marks of tables,
// which never change, and gets those of new ones.
func takeInventory(dir string, known map[uint64]uint32) (inventory, error) {
	inv := inventory{Logs: map[string]stretch{}}
	names, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return inv, err
	}
	for _, name := range names {
		s, err := written(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return inv, err
		}
		if s.Length > logHeader {
			inv.Active = filepath.Base(name) // names are numbers, in ascending order
			inv.Logs[inv.Active] = s
		}
	}
	// Badger may be about to append to the manifest: what is whole counts.
	manifest, err := os.ReadFile(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return inv, err
	}
	inv.Manifest.Length = manifestHeader
	live := map[uint64]bool{}
	for end, changes := range manifestChanges(manifest, manifestHeader) {
		inv.Manifest.Length = end
		for _, c := range changes {
			delete(live, c.Id)
			if c.Op == pb.ManifestChange_CREATE {
				inv.MaxTable = max(inv.MaxTable, c.Id)
				live[c.Id] = true
			}
		}
	}
	for id := range known {
		if !live[id] {
			delete(known, id)
		}
	}
	for id := range live {
		m, ok := known[id]
		if !ok {
			if m, err = mark(table.NewFilename(id, dir)); errors.Is(err, fs.ErrNotExist) {
				continue // compacted away since
			} else if err != nil {
				return inv, err
			}
			known[id] = m
		}
		inv.Tables = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(inv.Tables, uint32(id)), m)
	}
	if int64(len(manifest)) < inv.Manifest.Length {
		return inv, fmt.Errorf("the manifest has %d bytes: %w", len(manifest), kv.ErrCorrupt)
	}
	inv.Manifest.CRC = crc32.Checksum(manifest[:inv.Manifest.Length], castagnoli)
	return inv, nil
}

// written is the beginning of a file up to its last byte that is not zero. Of a log's file, most is a hole.
func written(name string) (s stretch, err error) {
	f, err := os.Open(name)
	if err != nil {
		return s, err
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	all := uint32(0)
	for at := int64(0); ; {
		if _, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			return s, nil
		} else if err != nil {
			return s, err
		}
		n, err := f.ReadAt(buf, at)
		if used := bytes.TrimRight(buf[:n], "\x00"); len(used) > 0 {
			s = stretch{at + int64(len(used)), crc32.Update(all, castagnoli, used)}
		}
		all = crc32.Update(all, castagnoli, buf[:n])
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return s, nil
		} else if err != nil {
			return s, err
		}
	}
}

// checksum reads the first n bytes.
func checksum(f *os.File, n int64) (uint32, error) {
	sum := crc32.New(castagnoli)
	_, err := io.Copy(sum, io.NewSectionReader(f, 0, n))
	return sum.Sum32(), err
}

// begins reports whether a file begins with a stretch.
func (s stretch) begins(name string) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() < s.Length || s.Length < 0 {
		return false, err
	}
	sum, err := checksum(f, s.Length)
	return err == nil && sum == s.CRC, err
}

// settleBadger makes what was moved durable, and writes down what there is then.
func (s *Store) settleBadger() error {
	inv, err := takeInventory(s.badgerDir, s.marks) // of before the sync, so that nothing in it may be lost
	if err != nil {
		return fmt.Errorf("badgerkv: inventory: %w", err)
	}
	if err := s.syncBadger(); err != nil {
		return err
	}
	s.inventories++
	inv.Number = s.inventories
	name := filepath.Join(s.badgerDir, inventoryName)
	if err = inv.write(name); err == nil {
		err = s.syncPath(name)
	}
	if err != nil {
		return fmt.Errorf("badgerkv: inventory: %w", err)
	}
	return nil
}

// write writes the slot whose turn it is.
func (inv inventory) write(name string) error {
	text, err := json.Marshal(inv)
	if err != nil {
		return err
	}
	b := make([]byte, 8, 8+len(text))
	binary.LittleEndian.PutUint32(b, uint32(len(text)))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(text, castagnoli))
	if b = append(b, text...); len(b) > inventorySlot {
		return fmt.Errorf("%d logs and %d tables are too many", len(inv.Logs), len(inv.Tables)/8)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, int64(inv.Number%2)*inventorySlot)
	return errors.Join(err, f.Close())
}

// readInventory returns the newer slot, or the zero inventory if there is none that can be believed: then nothing can be compared.
func readInventory(dir string, log *slog.Logger) (inv inventory, err error) {
	b, err := os.ReadFile(filepath.Join(dir, inventoryName))
	if errors.Is(err, fs.ErrNotExist) {
		return inv, nil
	} else if err != nil {
		return inv, fmt.Errorf("badgerkv: %w", err)
	}
	for slot := range slices.Chunk(b, inventorySlot) {
		var one inventory
		if len(slot) < 8 {
			continue
		}
		n, sum := int64(binary.LittleEndian.Uint32(slot)), binary.LittleEndian.Uint32(slot[4:])
		if n > int64(len(slot)-8) || crc32.Checksum(slot[8:8+n], castagnoli) != sum || json.Unmarshal(slot[8:8+n], &one) != nil {
			continue
		}
		if one.Number > inv.Number {
			inv = one
		}
	}
	if inv.Number == 0 {
		log.Error("the inventory of the rows is damaged, so the rows cannot be compared with it; it will be made anew")
	}
	return inv, nil
}

// checkInventory compares Badger's files with the inventory, before Badger opens and changes them.
func checkInventory(dir string, inv inventory) error {
	if inv.Number == 0 {
		return nil
	}
	created, rewritten, err := inv.grown(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return err
	}
	for name, s := range inv.Logs {
		same, err := s.begins(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist) && (name != inv.Active || created > 0 || rewritten):
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("badgerkv: %s is gone, and no table came in its place: %w", name, kv.ErrCorrupt)
		case err != nil:
			return fmt.Errorf("badgerkv: %s: %w", name, err)
		case !same:
			return fmt.Errorf("badgerkv: %s is not what it was when the store was last in use: %w", name, kv.ErrCorrupt)
		}
	}
	return nil
}

// grown checks the manifest. It returns how many tables of the first level came since the inventory, or that the manifest was written
// anew since.
func (inv inventory) grown(name string) (created int, rewritten bool, err error) {
	older := fmt.Errorf("badgerkv: the manifest is not the one that was there when the store was last in use: %w", kv.ErrCorrupt)
	same, err := inv.Manifest.begins(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, older
	} else if err != nil {
		return 0, false, fmt.Errorf("badgerkv: manifest: %w", err)
	}
	from := inv.Manifest.Length
	if !same {
		from = manifestHeader
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, false, fmt.Errorf("badgerkv: manifest: %w", err)
	}
	first, highest := -1, uint64(0)
	for _, changes := range manifestChanges(b, from) {
		if first < 0 {
			first = len(changes)
		}
		for _, c := range changes {
			if c.Op == pb.ManifestChange_CREATE {
				highest = max(highest, c.Id)
				if c.Level == 0 {
					created++
				}
			}
		}
	}
	if same {
		return created, false, nil
	}
	if first > 0 && highest > inv.MaxTable {
		return 0, true, nil
	}
	return 0, false, older
}

const manifestHeader = 8 // magic and version

// manifestChanges yields the sets of changes from an offset on, up to the first that is not whole, and where each ends.
func manifestChanges(b []byte, from int64) iter.Seq2[int64, []*pb.ManifestChange] {
	return func(yield func(int64, []*pb.ManifestChange) bool) {
		at := min(from, int64(len(b)))
		for int64(len(b))-at >= 8 {
			n, sum := int64(binary.BigEndian.Uint32(b[at:])), binary.BigEndian.Uint32(b[at+4:])
			at += 8
			if n > int64(len(b))-at || crc32.Checksum(b[at:at+n], castagnoli) != sum {
				return
			}
			var set pb.ManifestChangeSet
			if proto.Unmarshal(b[at:at+n], &set) != nil {
				return
			}
			at += n
			if !yield(at, set.Changes) {
				return
			}
		}
	}
}
