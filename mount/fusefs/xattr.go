package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/kmsfs/kmsfs/mount"
)

// give copies an attribute or a list into the caller's buffer. An empty buffer asks for the size.
func give(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) > 0 && len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	if len(dest) > 0 {
		copy(dest, value)
	}
	return uint32(len(value)), fuse.OK
}

// GetXAttr gives an extended attribute.
func (m *rawFS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	v, err := m.sess.GetXattr(caller(h), mount.Ino(h.NodeId), attr)
	if err != nil {
		return 0, m.nodeStatus("getxattr", h.NodeId, err)
	}
	return give(dest, v)
}

// ListXAttr names the extended attributes, each ended by a zero byte.
func (m *rawFS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	names, err := m.sess.ListXattr(caller(h), mount.Ino(h.NodeId))
	if err != nil {
		return 0, m.nodeStatus("listxattr", h.NodeId, err)
	}
	var list []byte
	for _, n := range names {
		list = append(append(list, n...), 0)
	}
	return give(dest, list)
}

// SetXAttr sets an extended attribute.
func (m *rawFS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, value []byte) fuse.Status {
	mode := mount.XattrEither
	switch in.Flags {
	case 0:
	case unix.XATTR_CREATE:
		mode = mount.XattrCreate
	case unix.XATTR_REPLACE:
		mode = mount.XattrReplace
	default:
		return fuse.EINVAL
	}
	err := m.sess.SetXattr(caller(&in.InHeader), mount.Ino(in.NodeId), attr, value, mode)
	return m.nodeStatus("setxattr", in.NodeId, err)
}

// RemoveXAttr removes an extended attribute.
func (m *rawFS) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	return m.nodeStatus("removexattr", h.NodeId, m.sess.RemoveXattr(caller(h), mount.Ino(h.NodeId), attr))
}
