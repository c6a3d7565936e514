package fusefs

import (
	"context"
	"errors"
	"log/slog"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/kmsfs/kmsfs/mount"
)

// errnos is the one table from errors to errno. The first that matches counts.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{mount.ErrAccess, syscall.EACCES},
	{mount.ErrKeyRevoked, syscall.EKEYREVOKED},
	{mount.ErrNoKey, syscall.ENOKEY},
	{mount.ErrUnsupported, syscall.EOPNOTSUPP},
	{mount.ErrReadOnly, syscall.EROFS},
	{mount.ErrBadHandle, syscall.EBADF},
	{mount.ErrCorrupt, syscall.EIO}, // before ErrNotFound and the like: corruption may wrap them
	{mount.ErrIntegrity, syscall.EIO},
	{mount.ErrNotFound, syscall.ENOENT},
	{mount.ErrExists, syscall.EEXIST},
	{mount.ErrNotEmpty, syscall.ENOTEMPTY},
	{mount.ErrNotDir, syscall.ENOTDIR},
	{mount.ErrIsDir, syscall.EISDIR},
	{mount.ErrNameTooLong, syscall.ENAMETOOLONG},
	{mount.ErrCrossBucket, syscall.EXDEV},
	{mount.ErrInvalid, syscall.EINVAL},
	{mount.ErrTooManyLinks, syscall.EMLINK},
	{mount.ErrNoSpace, syscall.ENOSPC},
	{mount.ErrQuota, syscall.EDQUOT},
	{mount.ErrNoAttr, syscall.ENODATA},
	{mount.ErrTooBig, syscall.E2BIG},
	{mount.ErrFileTooBig, syscall.EFBIG},
	{mount.ErrPermitted, syscall.EPERM},
	{mount.ErrStale, syscall.ESTALE},
	{mount.ErrLocked, syscall.EAGAIN},
	{mount.ErrInterrupted, syscall.EINTR},
	{mount.ErrNoLocks, syscall.ENOLCK},
	{mount.ErrTooMany, syscall.ENFILE},
	{mount.ErrDeadlock, syscall.EDEADLK},
}

// Errno is the errno of an error. posix folds the two errnos that speak of keys into EACCES.
func Errno(err error, posix bool) syscall.Errno {
	if err == nil {
		return 0
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			if posix && (e.errno == syscall.EKEYREVOKED || e.errno == syscall.ENOKEY) {
				return syscall.EACCES
			}
			return e.errno
		}
	}
	return syscall.EIO
}

// status answers a request. What becomes EIO is logged; so are refusals, but quietly.
func (m *rawFS) status(op string, ino uint64, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	errno := Errno(err, m.opts.PosixErrno)
	switch errno {
	case syscall.EIO:
		m.log.Error("i/o error", "op", op, "inode", ino, "err", err)
	case syscall.EACCES, syscall.EKEYREVOKED, syscall.ENOKEY:
		if m.log.Enabled(context.Background(), slog.LevelDebug) {
			m.log.Debug("refused", "op", op, "inode", ino, "err", err)
		}
	default:
	}
	return fuse.Status(errno)
}

// nodeStatus is status for operations on an inode and not on a name: if it is gone, the kernel shall look its name up again.
func (m *rawFS) nodeStatus(op string, ino uint64, err error) fuse.Status {
	s := m.status(op, ino, err)
	if s == fuse.ENOENT {
		return fuse.Status(syscall.ESTALE)
	}
	return s
}
