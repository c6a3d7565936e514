package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kmsfs/kmsfs/fs/meta"
)

// POSIX access control lists. They are stored in the bytes of the kernel's extended attributes (version 2) in rows of their own, beside
// the extended attributes but never listed among them. The owner, group (or mask) and other entries of an access ACL are the inode's
// mode: setting one sets the other. An access ACL that says no more than a mode is not stored.

// ACLKind tells an inode's two lists apart.
type ACLKind uint8

// The kinds of ACLs.
const (
	ACLAccess  ACLKind = iota // who may do what
	ACLDefault                // of a directory: what is made in it begins with
)

// MaxACL is the most bytes that an ACL takes: what a kernel asks for.
const MaxACL = 4096

const hiddenPrefix = "system." // of names that are rows of attributes and never listed

func (k ACLKind) row() string {
	if k == ACLDefault {
		return hiddenPrefix + "posix_acl_default"
	}
	return hiddenPrefix + "posix_acl_access"
}

func hidden(name string) bool { return strings.HasPrefix(name, hiddenPrefix) }

const (
	aclVersion  = 2
	aclHeader   = 4
	aclEntryLen = 8

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclNoID = 1<<32 - 1
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

type acl []aclEntry

// parseACL reads an ACL; one without entries is nil.
func parseACL(b []byte) (acl, error) {
	bad := func(why string) (acl, error) { return nil, fmt.Errorf("access control list: %s: %w", why, ErrInvalid) }
	switch {
	case len(b) > MaxACL:
		return nil, ErrTooBig
	case len(b) < aclHeader || (len(b)-aclHeader)%aclEntryLen != 0:
		return bad("length")
	case binary.LittleEndian.Uint32(b) != aclVersion:
		return bad("version")
	}
	var list acl
	for b = b[aclHeader:]; len(b) > 0; b = b[aclEntryLen:] {
		e := aclEntry{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])}
		if e.tag != aclUser && e.tag != aclGroup {
			e.id = aclNoID
		} else if e.id == aclNoID {
			return bad("no id")
		}
		if e.perm > 7 {
			return bad("permissions")
		}
		list = append(list, e)
	}
	if list != nil && !list.ordered() {
		return bad("entries")
	}
	return list, nil
}

// ordered reports whether the entries are complete and in their order: owner, users, group, groups, mask, others; a mask where
// users or groups are named.
func (l acl) ordered() bool {
	var seen [aclOther + 1]int
	last := uint16(0)
	for _, e := range l {
		switch e.tag {
		case aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther:
		default:
			return false
		}
		if e.tag < last {
			return false
		}
		last = e.tag
		seen[e.tag]++
	}
	named := seen[aclUser]+seen[aclGroup] > 0
	return seen[aclUserObj] == 1 && seen[aclGroupObj] == 1 && seen[aclOther] == 1 && seen[aclMask] <= 1 && (!named || seen[aclMask] == 1)
}

func (l acl) encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, aclHeader+len(l)*aclEntryLen), aclVersion)
	for _, e := range l {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// find gives the one entry with a tag, nil if there is none.
func (l acl) find(tag uint16) *aclEntry {
	for i := range l {
		if l[i].tag == tag {
			return &l[i]
		}
	}
	return nil
}

// groupClass is the entry that the group bits of a mode stand for.
func (l acl) groupClass() *aclEntry {
	if m := l.find(aclMask); m != nil {
		return m
	}
	return l.find(aclGroupObj)
}

// mode gives the permission bits that the list shows as, and whether they say all of it.
func (l acl) mode() (bits uint32, all bool) {
	return uint32(l.find(aclUserObj).perm)<<6 | uint32(l.groupClass().perm)<<3 | uint32(l.find(aclOther).perm), len(l) == 3
}

// chmod makes the list show as a mode.
func (l acl) chmod(mode uint32) {
	l.find(aclUserObj).perm = uint16(mode >> 6 & 7)
	l.groupClass().perm = uint16(mode >> 3 & 7)
	l.find(aclOther).perm = uint16(mode & 7)
}

// restrict takes from the list what a creation's mode does not give.
func (l acl) restrict(mode uint32) {
	l.find(aclUserObj).perm &= uint16(mode >> 6 & 7)
	l.groupClass().perm &= uint16(mode >> 3 & 7)
	l.find(aclOther).perm &= uint16(mode & 7)
}

// readACL gives a list of an inode; nil if it has none.
func readACL(r *meta.Reader, row *meta.Inode, kind ACLKind) (acl, error) {
	if row.Xattrs.Count == 0 {
		return nil, nil
	}
	raw, err := r.Xattr(row.Ino, kind.row())
	if errors.Is(err, meta.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l, err := parseACL(raw)
	if err != nil || l == nil {
		return nil, fmt.Errorf("%w: access control list of inode %d: %w", ErrCorrupt, row.Ino, err)
	}
	return l, nil
}

// putACL stores or removes a list of an inode.
func putACL(t *meta.Tx, row *meta.Inode, kind ACLKind, l acl) (err error) {
	if l == nil {
		_, err = t.RemoveXattr(row, kind.row())
	} else {
		_, err = t.SetXattr(row, kind.row(), l.encode())
	}
	return err
}

// chmodACL brings an access ACL into line with a mode that was just set.
func chmodACL(t *meta.Tx, row *meta.Inode) error {
	l, err := readACL(&t.Reader, row, ACLAccess)
	if err != nil || l == nil {
		return err
	}
	l.chmod(row.Mode)
	return putACL(t, row, ACLAccess, l)
}

// begin gives a new inode the mode and the ACLs that it begins with: from its directory's default ACL if there is one, else from
// the mode asked for without the umask. It may run more than once on a row.
func begin(t *meta.Tx, dir, row *meta.Inode, spec *New) error {
	row.Mode, row.Xattrs = spec.Mode&0o7777, meta.Set{}
	if spec.Type == Symlink {
		return nil
	}
	l, err := readACL(&t.Reader, dir, ACLDefault)
	if err != nil {
		return err
	}
	if l == nil {
		row.Mode &^= spec.Umask & 0o777
		return nil
	}
	if row.Type == Directory {
		if err := putACL(t, row, ACLDefault, l); err != nil {
			return err
		}
	}
	l = slices.Clone(l)
	l.restrict(row.Mode)
	bits, all := l.mode()
	row.Mode = row.Mode&^0o777 | bits
	if all {
		return nil
	}
	return putACL(t, row, ACLAccess, l)
}

// ACL gives an access control list in the bytes of its extended attribute; ErrNoAttr if the inode has none.
func (v *Volume) ACL(ino Ino, kind ACLKind) ([]byte, error) { return v.GetXattr(ino, kind.row()) }

// SetACL sets an access control list from the bytes of its extended attribute, or removes it (nil, or a list without entries). The
// permission bits follow an access ACL. killSetGID clears the set-group-id bit as well, as chmod by somebody outside the group does.
func (v *Volume) SetACL(ino Ino, kind ACLKind, value []byte, killSetGID bool) error {
	var l acl
	if value != nil {
		var err error
		if l, err = parseACL(value); err != nil {
			return err
		}
	}
	return v.changeXattrs(ino, func(t *meta.Tx, row *meta.Inode) error {
		switch {
		case row.Type == Symlink:
			return ErrInvalid
		case kind == ACLDefault && row.Type != Directory:
			if l == nil {
				return nil
			}
			return ErrNotDir
		case kind == ACLDefault || l == nil:
			return putACL(t, row, kind, l)
		}
		bits, all := l.mode()
		row.Mode = row.Mode&^0o777 | bits
		if killSetGID {
			row.Mode &^= setGID
		}
		if all {
			return putACL(t, row, kind, nil)
		}
		return putACL(t, row, kind, l)
	})
}
