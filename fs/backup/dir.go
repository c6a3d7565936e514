package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

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
	path string
	lock *os.File // nil: for reading only
}

// Open opens a backup directory for reading. ErrForeign if it is none.
func Open(path string) (*Dir, error) {
	d := &Dir{path: path}
	if st, err := os.Stat(d.snapshots()); err != nil || !st.IsDir() {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %s", ErrForeign, path)
		}
		return nil, err
	}
	return d, nil
}

// OpenForWriting opens a backup directory and keeps others from writing it (ErrBusy). With create it makes one where there is nothing
// or an empty directory. What a writer that died left is removed.
func OpenForWriting(path string, create bool) (*Dir, error) {
	d, err := Open(path)
	if err != nil && create && errors.Is(err, ErrForeign) {
		d, err = makeDir(path)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(path, fileLock), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrBusy, path)
		}
		return nil, fmt.Errorf("backup: lock: %w", err)
	}
	d.lock = f
	if err := d.sweep(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// makeDir makes an empty backup directory.
func makeDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	for _, e := range entries {
		if e.Name() != fileLock && e.Name() != dirPacks { // a maker died
			return nil, fmt.Errorf("%w: %s holds %s", ErrForeign, path, e.Name())
		}
	}
	d := &Dir{path: path}
	if err := os.Mkdir(d.packs(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if err := os.Mkdir(d.snapshots(), 0o700); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return d, errors.Join(syncDir(path), syncDir(filepath.Dir(path)))
}

// Close lets others write.
func (d *Dir) Close() {
	if d.lock != nil {
		_ = d.lock.Close() // nothing was written to it
	}
}

func (d *Dir) packs() string     { return filepath.Join(d.path, dirPacks) }
func (d *Dir) snapshots() string { return filepath.Join(d.path, dirSnapshots) }

func (d *Dir) file(number uint64, suffix string) string {
	return filepath.Join(d.snapshots(), fmt.Sprintf("%016d%s", number, suffix))
}

// Numbers lists the snapshots, the oldest first.
func (d *Dir) Numbers() ([]uint64, error) { return d.numbers(snapSuffix) }

func (d *Dir) numbers(suffix string) ([]uint64, error) {
	entries, err := os.ReadDir(d.snapshots())
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	var all []uint64
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), suffix)
		n, err := strconv.ParseUint(digits, 10, 64)
		if ok && err == nil && n > 0 && d.file(n, suffix) == filepath.Join(d.snapshots(), e.Name()) {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// sweep removes what a writer that died left: unfinished files, and keys without their snapshot. Packs without a snapshot are
// removed by Forget and Make, who know which are needed.
func (d *Dir) sweep() error {
	for _, dir := range []string{d.packs(), d.snapshots()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("backup: %w", err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), tempSuffix) {
				if err := removeFile(filepath.Join(dir, e.Name())); err != nil {
					return err
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
			if err := removeFile(d.file(n, keysSuffix)); err != nil {
				return err
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
	entries, err := os.ReadDir(d.packs())
	if err != nil {
		return 0, fmt.Errorf("backup: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), packSuffix) || needed[e.Name()] {
			continue
		}
		if st, err := e.Info(); err == nil {
			bytes += st.Size()
		}
		if err := removeFile(filepath.Join(d.packs(), e.Name())); err != nil {
			return bytes, err
		}
	}
	return bytes, syncDir(d.packs())
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("backup: sync %s: %w", dir, err)
	}
	return nil
}

// writeFile makes a file durable before it has its name.
func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path+tempSuffix, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(path+tempSuffix, path)
	}
	if err != nil {
		_ = os.Remove(path + tempSuffix)
		return fmt.Errorf("backup: write %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
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
		if err := removeFile(d.file(n, snapSuffix)); err != nil {
			return gone, 0, err
		}
		gone = append(gone, n)
		if err := syncDir(d.snapshots()); err != nil {
			return gone, 0, err
		}
		if err := removeFile(d.file(n, keysSuffix)); err != nil {
			return gone, 0, err
		}
	}
	bytes, err = d.sweepPacks(k, store)
	return gone, bytes, err
}
