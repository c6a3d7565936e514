package redo

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The end of the log in memory. It has two purposes.
//
// A record that is appended deferred waits here for the Sync that its owner is about to call, which then writes it and makes it durable
// with one write(2) past the page cache: less work than a write into the page cache and a sync that has to find it there, by a third of the
// time. That write takes whole blocks, so the bytes before the record in its first block have to be at hand, and they are written
// again as they are. The file has the same bytes as if everything had been appended at once.
//
// And the page cache does not have the block that such a write has gone past: a small write into it would read it from the disk first.
// So a write that enters a block which may not be in the page cache begins and ends with a block, from what is here; behind the end of
// the log it has zeros.
//
// A write past the page cache and one into it must not meet in one block: while a Sync writes, records are taken only if they are deferred,
// and go into the other buffer. An append that is not deferred waits. To make nobody wait often, a log that is appended to in both
// ways is synced by fdatasync.
type tail struct {
	at      int64     // where buf begins in the current segment, a multiple of block
	buf     []byte    // what the segment has from there to the end of the log
	written int       // how much of buf the kernel has: the rest was deferred
	cached  int64     // from at to here, a multiple of block, the page cache has the segment's blocks
	buffers [2][]byte // buf is a part of the first
	busy    bool      // a Sync is writing from the second buffer
	mixed   int       // so many syncs go by fdatasync, since there was an append that was not deferred
}

const (
	block     = 4096
	tailRoom  = 64 << 10 // of deferred records; what does not fit is appended as if it were not deferred
	mixedMemo = 4        // syncs
)

func blockDown(n int64) int64 { return n &^ (block - 1) }
func blockUp(n int64) int64   { return blockDown(n + block - 1) }

func newTail() (t tail) {
	for i := range t.buffers {
		b := make([]byte, tailRoom+2*block)
		skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (block - 1))
		t.buffers[i] = b[skip:][: 0 : tailRoom+block]
	}
	t.begin(headerBlock)
	return t
}

// begin moves the tail to the begin of an empty block.
func (t *tail) begin(at int64) {
	t.at, t.cached, t.buf, t.written = at, at, t.buffers[0][:0], 0
}

func (t *tail) end() int64     { return t.at + int64(len(t.buf)) }
func (t *tail) deferred() bool { return t.written < len(t.buf) }
func (t *tail) fits(n int) bool {
	return len(t.buf)+n <= tailRoom
}

// blocks is buf from an offset in the segment on, filled up with zeros to the end of a block.
func (t *tail) blocks(from int64) []byte {
	n := int(blockUp(t.end()) - t.at)
	b := t.buf[:n]
	clear(b[len(t.buf):])
	return b[from-t.at:]
}

// advance lets go of the blocks that are complete; all of buf is with the kernel.
func (t *tail) advance() {
	whole := len(t.buf) &^ (block - 1)
	t.buf = t.buffers[0][:copy(t.buffers[0][:block], t.buf[whole:])]
	t.at += int64(whole)
	t.written = len(t.buf)
}

// swap gives away buf as whole blocks, and goes on in the other buffer with a copy of the last, incomplete one.
func (t *tail) swap() (p []byte, at int64) {
	p, at = t.blocks(t.at), t.at
	rest := t.buf[len(t.buf)&^(block-1):]
	t.buffers[0], t.buffers[1] = t.buffers[1], t.buffers[0]
	t.at = blockDown(t.end())
	t.buf = append(t.buffers[0][:0], rest...)
	t.written, t.cached = len(t.buf), t.at
	return p, at
}

// canDefer reports whether a record of that length can wait in memory for the next Sync. mu is held.
func (l *Log) canDefer(n int) bool {
	return l.current != nil && l.current.direct != nil && !l.closed && l.tail.fits(n) && l.tail.end()+int64(n) <= l.current.size
}

// put writes a record behind the end of the log; what was deferred goes first. If it fails, the record is not there. mu is held, and no
// Sync is writing.
func (l *Log) put(record []byte) error {
	t := &l.tail
	t.mixed = mixedMemo
	if !t.fits(len(record)) {
		if err := l.writeTail(); err != nil {
			return err
		}
	}
	if t.fits(len(record)) {
		t.buf = append(t.buf, record...)
		err := l.writeTail()
		if err != nil {
			t.buf = t.buf[:len(t.buf)-len(record)]
		}
		return err
	}
	end := t.end() + int64(len(record))
	if err := l.write(record, t.end()); err != nil {
		return err
	}
	t.at, t.cached = blockDown(end), blockUp(end)
	t.buf = append(t.buffers[0][:0], record[len(record)-int(end-t.at):]...) // it is longer than a block
	t.written = len(t.buf)
	return nil
}

// writeTail gives the kernel what it does not have yet. mu is held, and no Sync is writing.
func (l *Log) writeTail() error {
	t := &l.tail
	if !t.deferred() {
		return nil
	}
	from := t.at + int64(t.written)
	if from >= t.cached {
		from = blockDown(from)
	}
	p := t.buf[from-t.at:]
	if t.end() > t.cached {
		p = t.blocks(from)
	}
	if err := l.write(p, from); err != nil {
		return err
	}
	t.cached = blockUp(t.end())
	t.advance()
	return nil
}

func (l *Log) write(p []byte, off int64) error {
	l.current.dirty = true
	_, err := l.files.WriteAt(l.current.file, p, off)
	return err
}

// syncTail writes what was deferred past the page cache, durably, if that is all that is to be made durable. mu is held, and given up
// meanwhile. If the filesystem refuses, there are no such writes any more, and what was to be written is in the page cache.
func (l *Log) syncTail() (done bool, err error) {
	t := &l.tail
	for _, s := range l.segments {
		if s.dirty {
			return false, nil
		}
	}
	if !t.deferred() {
		return false, nil
	}
	if t.mixed > 0 {
		t.mixed--
		return false, nil
	}
	seg := l.current
	p, at := t.swap()
	t.busy = true
	l.mu.Unlock()
	_, err = l.files.WriteSync(seg.direct, p, at)
	l.mu.Lock()
	t.busy = false
	l.idle.Broadcast()
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
		return true, err
	}
	for _, s := range l.segments {
		if s.direct != nil {
			_ = s.direct.Close()
			s.direct = nil
		}
	}
	l.direct.Store(false)
	return false, l.write(p, at)
}

// openDirect opens a segment for writes past the page cache that are durable when they return; nil if its filesystem has none, or is not
// known to write in place: there a Sync might find no space for a record that was taken.
func (l *Log) openDirect(path string) *os.File {
	if !l.direct.Load() || !inPlace(l.dir) {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT|unix.O_DSYNC, 0)
	if err != nil {
		return nil
	}
	var st unix.Statx_t
	err = unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && (st.Dio_offset_align == 0 || block%st.Dio_offset_align != 0 || block%st.Dio_mem_align != 0) {
		_ = f.Close()
		return nil
	}
	return f
}

// inPlace reports whether a filesystem is one of those that write where room was set aside.
func inPlace(dir string) bool {
	// ext2, 3 and 4 have one number.
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && (st.Type == unix.EXT4_SUPER_MAGIC || st.Type == unix.XFS_SUPER_MAGIC)
}

func writeSync(f *os.File, p []byte, off int64) (int, error) {
	n, err := f.WriteAt(p, off)
	if err != nil {
		return n, fmt.Errorf("write past the page cache: %w", err)
	}
	return n, nil
}
