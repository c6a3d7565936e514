package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// Files is where a backup is kept: the files of a directory, by names like "packs/…" and "snapshots/…". A process that may open no files
// outside its store has another do it. Nothing is used by two goroutines at once.
type Files interface {
	// List gives the names in "packs" or "snapshots", and their sizes in bytes.
	List(dir string) (map[string]int64, error)
	// ReadAt fills p from a file: an error wrapping fs.ErrNotExist if it is not there, io.ErrUnexpectedEOF if it ends before.
	ReadAt(name string, p []byte, off int64) error
	// WriteAt writes to a file. One whose name ends in ".tmp" is made by writing at offset 0; any other must be there. An error
	// may be kept until Commit.
	WriteAt(name string, p []byte, off int64) error
	// Commit makes what was written to a file durable, and then, if to is another name, gives it that, durably.
	Commit(name, to string) error
	// Remove removes a file, durably; one that is not there is no error.
	Remove(name string) error
}

// The names that there are. Whoever serves a confined process looks at them, so that it gets at nothing else.
var names = regexp.MustCompile(`^(packs/[0-9a-f]{32}\.pack|snapshots/[0-9]{16}\.(snap|keys))(\.tmp)?$`)

// errName is no message for people: only a broken caller sees it.
var errName = errors.New("backup: not a name in a backup")

// local keeps a backup in a directory of this machine.
type local struct {
	path string
	lock *os.File // nil: for reading only

	name string // of the file that is open
	f    *os.File
}

func (l *local) full(name string) (string, error) {
	if !names.MatchString(name) {
		return "", fmt.Errorf("%w: %.100q", errName, name)
	}
	return filepath.Join(l.path, name), nil
}

// open opens a file, or gives the one that is open.
func (l *local) open(name string, flags int) (*os.File, error) {
	if l.name == name && flags&os.O_CREATE == 0 {
		return l.f, nil
	}
	path, err := l.full(name)
	if err != nil {
		return nil, err
	}
	if err := l.close(); err != nil {
		return nil, err
	}
	if l.lock == nil {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	l.name, l.f = name, f
	return f, nil
}

func (l *local) close() error {
	if l.f == nil {
		return nil
	}
	f := l.f
	l.name, l.f = "", nil
	return f.Close()
}

// List implements Files.
func (l *local) List(dir string) (map[string]int64, error) {
	if dir != dirPacks && dir != dirSnapshots {
		return nil, errName
	}
	entries, err := os.ReadDir(filepath.Join(l.path, dir))
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for _, e := range entries {
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[e.Name()] = st.Size()
	}
	return out, nil
}

// ReadAt implements Files.
func (l *local) ReadAt(name string, p []byte, off int64) error {
	f, err := l.open(name, os.O_RDWR)
	if err != nil {
		return err
	}
	_, err = f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// WriteAt implements Files.
func (l *local) WriteAt(name string, p []byte, off int64) error {
	flags := os.O_RDWR
	if off == 0 && filepath.Ext(name) == tempSuffix {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := l.open(name, flags)
	if err == nil {
		_, err = f.WriteAt(p, off)
	}
	return err
}

// Commit implements Files.
func (l *local) Commit(name, to string) error {
	f, err := l.open(name, os.O_RDWR)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, l.close()); err != nil || name == to {
		return err
	}
	from, err := l.full(name)
	if err != nil {
		return err
	}
	path, err := l.full(to)
	if err != nil {
		return err
	}
	if err := os.Rename(from, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Remove implements Files.
func (l *local) Remove(name string) error {
	path, err := l.full(name)
	if err != nil {
		return err
	}
	if l.name == name {
		_ = l.close() // it goes
	}
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read-only
	return f.Sync()
}

// OpenFiles opens a backup directory of this machine for reading: ErrForeign if it is none.
func OpenFiles(path string) (Files, func(), error) {
	l := &local{path: path}
	if st, err := os.Stat(filepath.Join(path, dirSnapshots)); err != nil || !st.IsDir() {
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %s", ErrForeign, path)
		}
		return nil, nil, err
	}
	return l, func() { _ = l.close() }, nil
}

// OpenFilesForWriting also keeps others from writing it (ErrBusy), until the returned function is called. With create it makes one where
// there is nothing, or an empty directory.
func OpenFilesForWriting(path string, create bool) (Files, func(), error) {
	_, done, err := OpenFiles(path)
	switch {
	case err == nil:
		done()
	case create && errors.Is(err, ErrForeign):
		if err := makeDir(path); err != nil {
			return nil, nil, err
		}
	default:
		return nil, nil, err
	}
	f, err := os.OpenFile(filepath.Join(path, fileLock), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("backup: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil, fmt.Errorf("%w: %s", ErrBusy, path)
		}
		return nil, nil, fmt.Errorf("backup: lock: %w", err)
	}
	l := &local{path: path, lock: f}
	return l, func() {
		_ = l.close() // what counts was committed
		_ = f.Close()
	}, nil
}

// makeDir makes an empty backup directory.
func makeDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	for _, e := range entries {
		if e.Name() != fileLock && e.Name() != dirPacks { // a maker died
			return fmt.Errorf("%w: %s holds %s", ErrForeign, path, e.Name())
		}
	}
	if err := os.Mkdir(filepath.Join(path, dirPacks), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("backup: %w", err)
	}
	if err := os.Mkdir(filepath.Join(path, dirSnapshots), 0o700); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return errors.Join(syncDir(path), syncDir(filepath.Dir(path)))
}

// readAll reads a whole file of at most limit bytes: fs.ErrNotExist, ErrDamaged.
func readAll(f Files, name string, limit int64) ([]byte, error) {
	sizes, err := f.List(filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	size, ok := sizes[filepath.Base(name)]
	switch {
	case !ok:
		return nil, fmt.Errorf("backup: %s: %w", name, fs.ErrNotExist)
	case size > limit:
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, name, size)
	}
	b := make([]byte, size)
	for at := int64(0); at < size; at += ioSize {
		if err := f.ReadAt(name, b[at:min(at+ioSize, size)], at); err != nil {
			return nil, fmt.Errorf("backup: read %s: %w", name, err)
		}
	}
	return b, nil
}

// ioSize is how much is read or written at once, in bytes.
const ioSize = 1 << 20

// writeFile makes a file durable before it has its name.
func writeFile(f Files, name string, b []byte) error {
	err := error(nil)
	for at := 0; err == nil && (at < len(b) || at == 0); at += ioSize {
		err = f.WriteAt(name+tempSuffix, b[at:min(at+ioSize, len(b))], int64(at))
	}
	if err == nil {
		err = f.Commit(name+tempSuffix, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("backup: write %s: %w", name, err), f.Remove(name+tempSuffix))
	}
	return nil
}
