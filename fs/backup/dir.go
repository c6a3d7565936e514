package backup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kmsfs/kmsfs/crypto"
)

const (
	dirPacks     = "packs"
	dirSnapshots = "snapshots"
	fileLock     = "lock"
	snapSuffix   = ".snap"
	keysSuffix   = ".keys"
)

// Dir is a backup directory.
type Dir struct {
	files Files
	done  func()
}

// Open opens a backup directory of this machine for reading. ErrForeign if it is none.
func Open(path string) (*Dir, error) {
	f, done, err := OpenFiles(path)
	if err != nil {
		return nil, err
	}
	return &Dir{f, done}, nil
}

// OpenForWriting opens a backup directory of this machine and keeps others from writing it (ErrBusy). With create it makes one where
// there is nothing or an empty directory. What a writer that died left is removed.
func OpenForWriting(path string, create bool) (*Dir, error) {
	f, done, err := OpenFilesForWriting(path, create)
	if err != nil {
		return nil, err
	}
	d := &Dir{f, done}
	if err := d.sweep(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Over is a backup directory behind somebody else's files. If it is to be written, what a writer that died left is removed.
func Over(f Files, write bool) (*Dir, error) {
	d := &Dir{f, func() {}}
	if write {
		if err := d.sweep(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Close lets others write.
func (d *Dir) Close() { d.done() }

func fileOf(number uint64, suffix string) string {
	return fmt.Sprintf("%s/%016d%s", dirSnapshots, number, suffix)
}

// Numbers lists the snapshots, the oldest first.
func (d *Dir) Numbers() ([]uint64, error) { return d.numbers(snapSuffix) }

func (d *Dir) numbers(suffix string) ([]uint64, error) {
	there, err := d.files.List(dirSnapshots)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	var all []uint64
	for name := range there {
		digits, ok := strings.CutSuffix(name, suffix)
		n, err := strconv.ParseUint(digits, 10, 64)
		if ok && err == nil && n > 0 && fileOf(n, suffix) == dirSnapshots+"/"+name {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// sweep removes what a writer that died left: unfinished files, and keys without their snapshot. Packs without a snapshot are
// removed by Forget and Take, who know which are needed.
func (d *Dir) sweep() error {
	for _, dir := range []string{dirPacks, dirSnapshots} {
		there, err := d.files.List(dir)
		if err != nil {
			return fmt.Errorf("backup: %w", err)
		}
		for name := range there {
			if strings.HasSuffix(name, tempSuffix) && names.MatchString(dir+"/"+name) {
				if err := d.files.Remove(dir + "/" + name); err != nil {
					return fmt.Errorf("backup: %w", err)
				}
			}
		}
	}
	whole, err := d.numbers(snapSuffix)
	if err != nil {
		return err
	}
	keys, err := d.numbers(keysSuffix)
	if err != nil {
		return err
	}
	for _, n := range keys {
		if !slices.Contains(whole, n) {
			if err := d.files.Remove(fileOf(n, keysSuffix)); err != nil {
				return fmt.Errorf("backup: %w", err)
			}
		}
	}
	return nil
}

// sweepPacks removes the packs that none of the snapshots needs.
func (d *Dir) sweepPacks(k *keys, store [16]byte) (bytes int64, err error) {
	needed := map[string]bool{}
	numbers, err := d.Numbers()
	if err != nil {
		return 0, err
	}
	for _, n := range numbers {
		m, err := d.manifest(k, store, n)
		if err != nil {
			return 0, err // what it needs is not known
		}
		for _, p := range m.Packs {
			needed[p.name()] = true
		}
	}
	there, err := d.files.List(dirPacks)
	if err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	for name, size := range there {
		name = dirPacks + "/" + name
		if needed[name] || !names.MatchString(name) {
			continue
		}
		if err := d.files.Remove(name); err != nil {
			return bytes, fmt.Errorf("backup: %w", err)
		}
		bytes += size
	}
	return bytes, nil
}

// Forget removes all snapshots but the newest keep, and the packs that no other needs. It returns the numbers of those removed and
// the bytes of the packs.
func (d *Dir) Forget(key *crypto.DataKey, store [16]byte, keep int) (gone []uint64, bytes int64, err error) {
	k := newKeys(key)
	defer k.wipe()
	numbers, err := d.Numbers()
	if err != nil {
		return nil, 0, err
	}
	if keep < 1 {
		return nil, 0, fmt.Errorf("backup: keep %d: at least one stays", keep)
	}
	for len(numbers) > keep {
		n := numbers[0]
		numbers = numbers[1:]
		for _, suffix := range []string{snapSuffix, keysSuffix} {
			if err := d.files.Remove(fileOf(n, suffix)); err != nil {
				return gone, 0, fmt.Errorf("backup: %w", err)
			}
		}
		gone = append(gone, n)
	}
	bytes, err = d.sweepPacks(k, store)
	return gone, bytes, err
}
