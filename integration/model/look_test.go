package model

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const sseName = "user.s3.sse"

// look sees all that an object shows.
func (c *child) look(l *look) view {
	if l.H != 0 {
		return c.lookHandle(l)
	}
	var v view
	path := c.path(l.Path)
	if err := unix.Lstat(path, &v.St); err != nil {
		v.Errno = errnoOf(err)
		return v
	}
	switch v.St.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlink(path, buf)
		v.Link, v.ReadErr = string(buf[:max(n, 0)]), errnoOf(err)
		return v
	case unix.S_IFDIR:
		v.Entries, v.DirErr = list(path)
	default:
		c.lookFile(l, path, &v)
	}
	v.Xattrs, v.XattrErr = xattrs(path)
	sse, err := getxattr(path, sseName)
	v.SSE, v.SSEErr = string(sse), errnoOf(err)
	return v
}

func (c *child) lookFile(l *look, path string, v *view) {
	if l.NoData {
		return
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		v.ReadErr = errnoOf(err)
		return
	}
	defer unix.Close(fd)
	content(fd, l, v)
}

func (c *child) lookHandle(l *look) view {
	var v view
	h := c.fds[l.H]
	if h == nil {
		v.Missing = true
		return v
	}
	if err := unix.Fstat(h.fd, &v.St); err != nil {
		v.Errno = errnoOf(err)
		return v
	}
	if !l.NoData {
		content(h.fd, l, &v)
	}
	return v
}

// content reads a file from its start to what answers 0, and compares its holes with it.
func content(fd int, l *look, v *view) {
	buf := make([]byte, v.St.Size+1)
	var n int
	for {
		k, err := unix.Pread(fd, buf[n:], int64(n))
		if err != nil {
			v.ReadErr = errnoOf(err)
			return
		}
		if k == 0 {
			break
		}
		if n += k; n == len(buf) {
			v.ReadsBeyond = true
			buf = append(buf, make([]byte, 1<<16)...)
		}
	}
	buf = buf[:n]
	v.Len, v.Sum = int64(n), sha256.Sum256(buf)
	if l.Raw {
		v.Data = buf
	}
	v.Holes = holes(fd, buf)
}

// holes says what is wrong with the map of holes of a file with this content: holes are zeros, and data and holes take turns to the end.
func holes(fd int, content []byte) string {
	size := int64(len(content))
	if was, err := unix.Seek(fd, 0, unix.SEEK_CUR); err == nil {
		defer func() { _, _ = unix.Seek(fd, was, unix.SEEK_SET) }()
	}
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			data = size
		case errors.Is(err, unix.EACCES):
			return ""
		case err != nil:
			return fmt.Sprintf("SEEK_DATA %d: %v", at, err)
		}
		if data < at || data > size {
			return fmt.Sprintf("SEEK_DATA %d: %d", at, data)
		}
		for i := at; i < data; i++ {
			if content[i] != 0 {
				return fmt.Sprintf("hole %d to %d holds %q at %d", at, data, content[i], i)
			}
		}
		if data == size {
			return ""
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil || hole <= data || hole > size {
			return fmt.Sprintf("SEEK_HOLE %d (data, size %d): %d %v", data, size, hole, err)
		}
		at = hole
	}
	if at, err := unix.Seek(fd, size, unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.EACCES) {
		return fmt.Sprintf("SEEK_DATA at the end: %d %v", at, err)
	}
	return ""
}

func list(path string) ([]entry, syscall.Errno) {
	d, err := os.Open(path)
	if err != nil {
		return nil, errnoOf(err)
	}
	defer d.Close()
	var all []entry
	buf := make([]byte, 1<<14)
	for {
		n, err := unix.ReadDirent(int(d.Fd()), buf)
		if err != nil {
			return nil, errnoOf(err)
		}
		if n == 0 {
			return all, 0
		}
		all = append(all, parseDirents(buf[:n])...)
	}
}

// parseDirents reads what getdents64(2) gives: inode, offset, length, type, name.
func parseDirents(b []byte) (all []entry) {
	const header = 19
	for len(b) > header {
		var ino uint64
		for i := range 8 {
			ino |= uint64(b[i]) << (8 * i)
		}
		size := int(b[16]) | int(b[17])<<8
		name, _, _ := strings.Cut(string(b[header:size]), "\x00")
		if name != "." && name != ".." {
			all = append(all, entry{Name: name, Ino: ino, Type: b[18]})
		}
		b = b[size:]
	}
	return all
}

func xattrs(path string) (map[string]string, syscall.Errno) {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, errnoOf(err)
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" {
			continue
		}
		value, err := getxattr(path, name)
		if err != nil {
			return all, errnoOf(err)
		}
		all[name] = string(value)
	}
	return all, 0
}
