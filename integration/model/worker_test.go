package model

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A record says of itself where it belongs and who wrote it:
//
//	0   4  "kmod"
//	4   1  worker
//	5   1  file
//	6   2  zero
//	8   4  sequence number, big-endian
//	12  8  offset in the file, or all ones for an append
//	20 40  filler made of the sequence number
//	60  4  CRC32 of all that
const (
	recordSize = 64
	appended   = 1<<63 - 1
	wholeFile  = logs + boxes
)

type record struct {
	worker, file uint8
	seq          uint32
	off          int64
}

func (r record) put(b []byte) {
	copy(b, "kmod")
	b[4], b[5], b[6], b[7] = r.worker, r.file, 0, 0
	binary.BigEndian.PutUint32(b[8:], r.seq)
	binary.BigEndian.PutUint64(b[12:], uint64(r.off))
	for i := 20; i < 60; i++ {
		b[i] = byte(r.seq) + byte(i)*r.worker
	}
	binary.BigEndian.PutUint32(b[60:], crc32.ChecksumIEEE(b[:60]))
}

func parseRecord(b []byte) record {
	return record{b[4], b[5], binary.BigEndian.Uint32(b[8:]), int64(binary.BigEndian.Uint64(b[12:]))}
}

// checkRecord says what is wrong with 64 bytes of a file. Files that are truncated and punched may hold zeros.
func checkRecord(b []byte, file int, off int64) string {
	if file >= logs && file < logs+boxes && isZero(b) {
		return ""
	}
	r := parseRecord(b)
	switch {
	case string(b[:4]) != "kmod" || crc32.ChecksumIEEE(b[:60]) != binary.BigEndian.Uint32(b[60:]):
		return fmt.Sprintf("at %d: bytes that nobody wrote: %q", off, b)
	case int(r.file) != file || int(r.worker) >= mounts:
		return fmt.Sprintf("at %d: bytes of another file: %v", off, r)
	case file < logs && r.off != appended || file >= logs && r.off != off:
		return fmt.Sprintf("at %d: bytes of another place: %v", off, r)
	}
	return ""
}

// hand is a worker.
type hand struct {
	id    uint8
	dir   string
	seed  uint64
	until time.Time
	early []*box // opened and mapped before anybody wrote, so that the kernel caches them

	mu  sync.Mutex
	res result
}

// prepare opens and maps files while nobody writes: later, another mount's writing would make them direct, and mappings impossible.
func (w *hand) prepare(phase int) error {
	flags, prot := unix.O_RDONLY, unix.PROT_READ
	for i := range boxes {
		switch {
		case phase == 0:
		case phase == 1 && i == int(w.id):
			flags, prot = unix.O_RDWR, unix.PROT_READ|unix.PROT_WRITE
		default:
			continue
		}
		fd, err := openFile(w.dir, boxName(i), flags)
		if err != nil {
			return err
		}
		b := &box{file: i, fd: fd, readOnly: flags == unix.O_RDONLY, mapWrites: flags != unix.O_RDONLY}
		if b.m, err = unix.Mmap(fd, 0, recordSize*boxRecords, prot, unix.MAP_SHARED); err != nil {
			return fmt.Errorf("map %s: %w", boxName(i), err)
		}
		w.early = append(w.early, b)
	}
	return nil
}

func (w *hand) did(what string) {
	w.mu.Lock()
	w.res.Done[what]++
	w.mu.Unlock()
}

func (w *hand) work() result {
	w.res.Done = map[string]int{}
	var all sync.WaitGroup
	for i, fn := range []func(*rand.Rand) error{w.appends, w.shapes, w.replaces} {
		all.Go(func() {
			r := rand.New(rand.NewPCG(w.seed+uint64(w.id), uint64(i)))
			if err := fn(r); err != nil {
				w.mu.Lock()
				w.res.Err += err.Error() + "\n"
				w.until = time.Time{}
				w.mu.Unlock()
			}
		})
	}
	all.Wait()
	w.res.Done = maps.Clone(w.res.Done)
	return w.res
}

func (w *hand) going() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Before(w.until)
}

const logLimit = 24 << 20

// appends writes records to the ends of the logs and reads on where it stopped reading: every record of its own must be there, in order.
func (w *hand) appends(r *rand.Rand) error {
	var fds, readers [logs]int
	var seen [logs]int64
	var found [logs]uint32
	for i := range logs {
		var err error
		if fds[i], err = openFile(w.dir, logName(i), unix.O_RDWR|unix.O_APPEND|unix.O_CREAT); err != nil {
			return err
		}
		defer unix.Close(fds[i])
		if readers[i], err = openFile(w.dir, logName(i), unix.O_RDONLY); err != nil {
			return err
		}
		defer unix.Close(readers[i])
	}
	for w.going() {
		i := r.IntN(logs)
		if seen[i] < logLimit {
			n := 1 + r.IntN([]int{1, 4, 200, 3000}[r.IntN(4)])
			buf := make([]byte, n*recordSize)
			for j := range n {
				record{w.id, uint8(i), w.res.Appended[i] + uint32(j), appended}.put(buf[j*recordSize:])
			}
			k, err := unix.Write(fds[i], buf)
			if err != nil || k != len(buf) {
				return fmt.Errorf("append of %d bytes: %d %w", len(buf), k, err)
			}
			w.res.Appended[i] += uint32(n)
			w.did("append")
		}
		if r.IntN(20) == 0 {
			if err := unix.Fsync(fds[i]); err != nil {
				return fmt.Errorf("fsync: %w", err)
			}
		}
		fd, tries := readers[i], cachedTries
		if r.IntN(3) == 0 {
			fd, tries = fds[i], 1
		}
		if err := w.readOn(fd, i, tries, &seen[i], &found[i]); err != nil {
			return err
		}
	}
	return nil
}

// cachedTries is how often a log's end is looked at through a handle that the kernel caches, while others append. The kernel drops the
// size that it asked for if it is told at that very moment that the file has changed again, and takes the size of before for the end.
// A handle that appends is not cached and has no such excuse.
const cachedTries = 100

// readOn reads a log from where it was read to before. What is there does not change any more.
func (w *hand) readOn(fd, file, tries int, seen *int64, found *uint32) error {
	buf := make([]byte, 1<<19)
	for {
		n, err := unix.Pread(fd, buf, *seen)
		if err != nil {
			return fmt.Errorf("read of a log: %w", err)
		}
		if n == 0 {
			if tries--; tries > 0 && *found != w.res.Appended[file] {
				w.did("read short of the end")
				continue
			}
			break
		}
		n -= n % recordSize
		for at := 0; at < n; at += recordSize {
			b := buf[at : at+recordSize]
			if text := checkRecord(b, file, *seen+int64(at)); text != "" {
				return fmt.Errorf("%s %s", logName(file), text)
			}
			if rec := parseRecord(b); rec.worker == w.id {
				if rec.seq != *found {
					return fmt.Errorf("%s at %d: my append %d, want %d", logName(file), *seen+int64(at), rec.seq, *found)
				}
				*found++
			}
		}
		*seen += int64(n)
		w.did("read log")
	}
	if *found != w.res.Appended[file] {
		return fmt.Errorf("%s: read to the end at %d and found %d of my %d appends", logName(file), *seen, *found, w.res.Appended[file])
	}
	return nil
}

const (
	boxRecords = 1 << 13 // of one file: 512 KiB
	boxOpen    = 6
)

type box struct {
	file, fd  int
	m         []byte
	readOnly  bool // opened for reading
	mapWrites bool // m may be written
}

func (b *box) close() {
	if b.m != nil {
		_ = unix.Munmap(b.m)
	}
	_ = unix.Close(b.fd)
}

// shapes writes, reads, maps, truncates and punches files.
func (w *hand) shapes(r *rand.Rand) error {
	var open []*box
	defer func() {
		for _, b := range append(open, w.early...) {
			b.close()
		}
	}()
	for seq := uint32(0); w.going(); seq++ {
		if r.IntN(3) == 0 {
			if err := w.shape(r, w.early[r.IntN(len(w.early))], seq); err != nil {
				return err
			}
			continue
		}
		if len(open) < 1+r.IntN(boxOpen) {
			file := r.IntN(boxes)
			flags := unix.O_RDWR | unix.O_CREAT
			if r.IntN(5) == 0 {
				flags |= unix.O_DIRECT
			}
			fd, err := openFile(w.dir, boxName(file), flags)
			if err != nil {
				return err
			}
			open = append(open, &box{file: file, fd: fd})
			continue
		}
		i := r.IntN(len(open))
		if r.IntN(8) == 0 {
			open[i].close()
			open = slices.Delete(open, i, i+1)
			continue
		}
		if err := w.shape(r, open[i], seq); err != nil {
			return err
		}
	}
	return nil
}

func (w *hand) fill(b []byte, file int, off int64, seq uint32) []byte {
	for at := 0; at < len(b); at += recordSize {
		record{w.id, uint8(logs + file), seq, off + int64(at)}.put(b[at:])
	}
	return b
}

func (w *hand) shape(r *rand.Rand, b *box, seq uint32) error {
	off := recordSize * int64(r.IntN(boxRecords))
	n := recordSize * (1 + r.IntN([]int{1, 64, 1000}[r.IntN(3)]))
	n = min(n, int(recordSize*boxRecords-off))
	x := r.IntN(20)
	if b.readOnly {
		x = []int{10, 19}[r.IntN(2)] // read, map read
	}
	switch {
	case x < 7:
		w.did("write")
		k, err := unix.Pwrite(b.fd, w.fill(make([]byte, n), b.file, off, seq), off)
		if err == nil && k != n {
			err = fmt.Errorf("wrote %d of %d", k, n)
		}
		return err
	case x < 12:
		return w.readBox(b, off, n)
	case x < 14:
		w.did("truncate")
		return unix.Ftruncate(b.fd, off)
	case x < 15:
		w.did("punch")
		err := unix.Fallocate(b.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, int64(n))
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = nil
		}
		return err
	case x < 16:
		w.did("fsync")
		return unix.Fsync(b.fd)
	case b.m == nil:
		prot := unix.PROT_READ
		if b.mapWrites = b.file == int(w.id); b.mapWrites {
			prot |= unix.PROT_WRITE
		}
		m, err := unix.Mmap(b.fd, 0, recordSize*boxRecords, prot, unix.MAP_SHARED)
		if errors.Is(err, unix.ENODEV) {
			w.did("map refused")
			return nil
		}
		b.m = m
		w.did("map")
		return err
	default:
		return w.mapped(r, b, off, n, seq)
	}
}

// patience is how long a record may be seen torn. Stores to a mapping are bytes, not records: what is written through one is torn while
// it is being written, and stays so if its page is truncated, punched or written by another mount under the writer's hand. The
// writer then mends it (mapWrite), so that for good only whole records remain. There is one such writer for a file: two of them would
// write pages back with each other's torn records in them.
const patience = 20 * time.Second

// readBox reads records. What looks wrong is looked at again.
func (w *hand) readBox(b *box, off int64, n int) error {
	buf := make([]byte, n)
	return w.untilWhole("read", b, func() (string, error) {
		k, err := unix.Pread(b.fd, buf, off)
		if err != nil {
			return "", fmt.Errorf("read: %w", err)
		}
		return checkRecords(buf[:k-k%recordSize], logs+b.file, off), nil
	})
}

// untilWhole looks until there is nothing to say, or patience is at its end.
func (w *hand) untilWhole(what string, b *box, lookAt func() (string, error)) error {
	for start := time.Now(); ; {
		text, err := lookAt()
		if err != nil {
			return err
		}
		w.did(what)
		if text == "" {
			return nil
		}
		w.did(what + " torn")
		if time.Since(start) > patience {
			return fmt.Errorf("%s %s: %s", what, boxName(b.file), text)
		}
	}
}

func checkRecords(b []byte, file int, off int64) string {
	for at := 0; at < len(b); at += recordSize {
		if text := checkRecord(b[at:at+recordSize], file, off+int64(at)); text != "" {
			return text
		}
	}
	return ""
}

// mapped reads or writes through a mapping.
func (w *hand) mapped(r *rand.Rand, b *box, off int64, n int, seq uint32) error {
	part := b.m[off : off+int64(n)]
	if !b.mapWrites || r.IntN(2) == 0 {
		return w.untilWhole("map read", b, func() (text string, err error) {
			w.touching(func() { text = checkRecords(slices.Clone(part), logs+b.file, off) })
			return text, nil
		})
	}
	w.did("map write")
	w.touching(func() { w.fill(part, b.file, off, seq) })
	if err := w.mend(b, off, n, seq); err != nil {
		return err
	}
	const page = 4096
	if r.IntN(3) > 0 {
		return unix.Msync(b.m[off/page*page:off+int64(n)], unix.MS_SYNC)
	}
	return nil
}

// touching does something to a mapping; SIGBUS says that the file is shorter now.
func (w *hand) touching(do func()) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			w.did("map beyond the end")
		}
	}()
	do()
}

// mend writes again, by a call, the records that were torn while they were written through the mapping. Its handle reads the pages that
// the mapping shows.
func (w *hand) mend(b *box, off int64, n int, seq uint32) error {
	buf := make([]byte, n)
	return w.untilWhole("mend", b, func() (string, error) {
		k, err := unix.Pread(b.fd, buf, off)
		if err != nil {
			return "", fmt.Errorf("read what was written: %w", err)
		}
		torn := ""
		for at := 0; at+recordSize <= k; at += recordSize {
			rec := buf[at : at+recordSize]
			if text := checkRecord(rec, logs+b.file, off+int64(at)); text != "" {
				torn = text
				if _, err := unix.Pwrite(b.fd, w.fill(rec, b.file, off+int64(at), seq), off+int64(at)); err != nil {
					return "", fmt.Errorf("write over a torn record: %w", err)
				}
			}
		}
		return torn, nil
	})
}

// replaces makes new contents beside a file and renames them over it; who opens the file sees one of them.
func (w *hand) replaces(r *rand.Rand) error {
	tmp := fmt.Sprintf("%s.%d", whole, w.id)
	for seq := uint32(0); w.going(); seq++ {
		fd, err := openFile(w.dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
		if err != nil {
			return err
		}
		buf := make([]byte, wholeSize(seq))
		for at := 0; at < len(buf); at += recordSize {
			record{w.id, wholeFile, seq, int64(at)}.put(buf[at:])
		}
		n, err := unix.Write(fd, buf)
		if err == nil && r.IntN(4) == 0 {
			err = unix.Fsync(fd)
		}
		if err = errors.Join(err, unix.Close(fd)); err != nil || n != len(buf) {
			return fmt.Errorf("write of %d: %d %w", len(buf), n, err)
		}
		if err := unix.Rename(filepath.Join(w.dir, tmp), filepath.Join(w.dir, whole)); err != nil {
			return fmt.Errorf("rename: %w", err)
		}
		w.did("replace")
		if err := w.touch(r); err != nil {
			return err
		}
		if err := w.readWhole(); err != nil {
			return err
		}
	}
	return nil
}

// touch changes attributes of files that others write, and looks at them in the ways that let a kernel keep what it saw. What it keeps
// shows in the end.
func (w *hand) touch(r *rand.Rand) error {
	for range 20 {
		path := filepath.Join(w.dir, logName(r.IntN(logs)))
		if r.IntN(2) == 0 {
			path = filepath.Join(w.dir, boxName(r.IntN(boxes)))
		}
		var err error
		switch r.IntN(4) {
		case 0:
			err = unix.Fchmodat(unix.AT_FDCWD, path, 0o666, 0)
		case 1:
			var st unix.Stat_t
			err = unix.Stat(path, &st)
		case 2:
			if err = unix.Link(path, fmt.Sprintf("%s.%d", path, w.id)); err == nil {
				err = unix.Unlink(fmt.Sprintf("%s.%d", path, w.id))
			}
		default:
			_, errno := list(w.dir)
			if errno != 0 {
				err = errno
			}
		}
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOENT) { // of another user; not made yet
			return fmt.Errorf("touch %s: %w", path, err)
		}
		w.did("touch")
	}
	return nil
}

func (w *hand) readWhole() error {
	fd, err := openFile(w.dir, whole, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, wholeSize(0)+recordSize*4000)
	at := 0
	for {
		n, err := unix.Pread(fd, buf[at:], int64(at))
		if err != nil {
			return fmt.Errorf("read %s: %w", whole, err)
		}
		if n == 0 {
			break
		}
		at += n
	}
	w.did("read whole")
	if text := checkWhole(buf[:at]); text != "" {
		return fmt.Errorf("%s: %s", whole, text)
	}
	return nil
}
