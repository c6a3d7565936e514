package fusefs

import (
	"os"
	"strconv"
)

// Kernel is what a mount asks of the operating system with rights that serving it does not need. Direct asks with this process's own
// rights; a daemon that has given them up asks through another process.
type Kernel interface {
	// Attach opens a FUSE connection and mounts it on a directory. It returns the descriptor and the directory's absolute path.
	Attach(dir string, o Options) (fd int, abs string, err error)
	// Unmount unmounts a directory; the flags are umount2(2)'s.
	Unmount(dir string, flags int) error
	// Abort ends the connection of the mount with this device number (if dev is not empty) by force, and takes the mount away.
	Abort(dir, dev string) error
	// ReadAhead sets how far the kernel reads ahead, in KiB, on the mount with this device number.
	ReadAhead(dev string, kib int) error
}

// Direct is the Kernel as this process may ask it.
type Direct struct{}

// Attach implements Kernel: as root for o.UID, through a descriptor of the directory; otherwise by fusermount3.
func (Direct) Attach(dir string, o Options) (fd int, abs string, err error) { return attach(dir, o) }

// Unmount implements Kernel.
func (Direct) Unmount(dir string, flags int) error { return unmount(dir, flags) }

// Abort implements Kernel.
func (Direct) Abort(dir, dev string) error { return abort(dir, dev) }

// ReadAhead implements Kernel.
func (Direct) ReadAhead(dev string, kib int) error {
	return os.WriteFile("/sys/class/bdi/"+dev+"/read_ahead_kb", []byte(strconv.Itoa(kib)), 0)
}

func (o Options) kernel() Kernel {
	if o.Kernel == nil {
		return Direct{}
	}
	return o.Kernel
}
