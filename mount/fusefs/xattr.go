package fusefs

import (
	"syscall"

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

// aclKind recognises the attributes by which the kernel asks for access control lists.
func aclKind(attr string) (mount.ACLKind, bool) {
	switch attr {
	case "system.posix_acl_access":
		return mount.ACLAccess, true
	case "system.posix_acl_default":
		return mount.ACLDefault, true
	}
	return 0, false
}

// setACL sets or removes an access control list, on mounts where the kernel enforces them.
func (m *rawFS) setACL(h *fuse.InHeader, kind mount.ACLKind, value []byte, killSetGID bool) fuse.Status {
	if !m.opts.DefaultPermissions {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return m.nodeStatus("setxattr", h.NodeId, m.sess.SetACL(caller(h), mount.Ino(h.NodeId), kind, value, killSetGID))
}

// GetXAttr gives an extended attribute.
func (m *rawFS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	var v []byte
	var err error
	if kind, ok := aclKind(attr); !ok {
		v, err = m.sess.GetXattr(caller(h), mount.Ino(h.NodeId), attr)
	} else if m.opts.DefaultPermissions {
		m.interest.attrs(mount.Ino(h.NodeId)) // the kernel keeps it with the attributes
		v, err = m.sess.GetACL(caller(h), mount.Ino(h.NodeId), kind)
	} else {
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	}
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
	if kind, ok := aclKind(attr); ok {
		kill := in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0
		return m.setACL(&in.InHeader, kind, value, kill)
	}
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
	if kind, ok := aclKind(attr); ok {
		return m.setACL(h, kind, nil, false)
	}
	return m.nodeStatus("removexattr", h.NodeId, m.sess.RemoveXattr(caller(h), mount.Ino(h.NodeId), attr))
}
