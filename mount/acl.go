package mount

import (
	"fmt"

	"github.com/kmsfs/kmsfs/fs"
)

// POSIX access control lists: metadata like the mode, so they ask for the rights that stat and chmod ask for. They are for mounts on
// which the kernel enforces owner and mode; it enforces them too.

// ACLKind tells an inode's two lists apart.
type ACLKind = fs.ACLKind

// The kinds of ACLs.
const (
	ACLAccess  = fs.ACLAccess
	ACLDefault = fs.ACLDefault
)

// GetACL gives an access control list in the bytes of its extended attribute; ErrNoAttr if there is none.
func (s *Session) GetACL(c Caller, ino Ino, kind ACLKind) ([]byte, error) {
	if ino == RootIno {
		return nil, ErrNoAttr
	}
	if _, err := s.GetAttr(c, ino); err != nil {
		return nil, err
	}
	return s.vol.ACL(ino, kind)
}

// SetACL sets an access control list, or removes it (value nil); the permission bits follow. killSetGID clears the set-group-id bit too.
func (s *Session) SetACL(_ Caller, ino Ino, kind ACLKind, value []byte, killSetGID bool) error {
	if err := s.writable(); err != nil {
		return err
	}
	if ino == RootIno {
		return ErrPermitted
	}
	v := s.view()
	b, err := s.bucketOf(v, ino)
	if err != nil {
		return err
	}
	if err := v.object(b, actPut, s.keysOf(ino), allNames, nil); err != nil {
		return err
	}
	if kind == ACLDefault && value != nil {
		if a, err := s.vol.Attr(ino); err != nil {
			return err
		} else if a.Type != Directory {
			return fmt.Errorf("only a directory has a default access control list: %w", ErrAccess)
		}
	}
	if err := s.vol.SetACL(ino, kind, value, killSetGID); err != nil {
		return err
	}
	s.hub.InodeChanged(s, ino, -1, 0)
	return nil
}
