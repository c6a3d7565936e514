package fusefs

import (
	"errors"
	"strconv"
	"syscall"
	"unsafe"
)

func errnoOf(err error) (syscall.Errno, bool) {
	var errno syscall.Errno
	ok := errors.As(err, &errno)
	return errno, ok
}

func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

func itoa(fd uintptr) string { return strconv.Itoa(int(fd)) }
