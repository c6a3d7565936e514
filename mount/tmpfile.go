package mount

import (
	"github.com/kmsfs/kmsfs/fs"
)

// noName is the last part of the object key by which policies judge a file that has no name: no entry can be called so.
const noName = "."

// Tmpfile makes a regular file without a name, as O_TMPFILE does, and opens it. Policies judge it as the object "." of its directory, and
// that is its ARN in the encryption context. Unless f.Exclusive is set, Link by the same session gives it a name.
func (s *Session) Tmpfile(c Caller, parent Ino, mode uint32, f OpenFlags) (Attr, *Handle, error) {
	if err := s.writable(); err != nil {
		return Attr{}, nil, err
	}
	if err := s.roomToOpen(); err != nil {
		return Attr{}, nil, err
	}
	at := s.hub.stamp()
	v := s.view()
	b, err := s.bucketOf(v, parent)
	if err != nil {
		return Attr{}, nil, err
	}
	ch, err := s.order(b, parent)
	if err != nil {
		return Attr{}, nil, err
	}
	key, err := s.childKey(parent, noName)
	if err != nil {
		return Attr{}, nil, err
	}
	if err := v.object(b, actPut, oneKey(key), allNames, putRequest{s, ch}); err != nil {
		return Attr{}, nil, err
	}
	sealing, dk, err := s.birth(v, c, "create", b, ch, oneKey(key), 0)
	if err != nil {
		return Attr{}, nil, err
	}
	defer dk.Wipe()
	n := fs.New{Type: Regular, Mode: mode, Sealing: sealing}
	if err := s.owner(c, parent, &n); err != nil {
		return Attr{}, nil, err
	}
	a, err := s.vol.MakeTemp(parent, n, !f.Exclusive)
	if err != nil {
		return Attr{}, nil, err
	}
	file, err := s.vol.OpenFile(a.Ino, fs.Keys{sealing.Keys[0].Generation: dk}, nil)
	if err != nil {
		s.vol.Forget(a.Ino, 0)
		return Attr{}, nil, err
	}
	h := s.newHandle(v, at, c, b, a.Ino, f, file, sealing, true)
	h.mu.Lock()
	h.keys = []string{key}
	h.mu.Unlock()
	return a, h, nil
}

// mine reports whether this session has an inode open.
func (s *Session) mine(ino Ino) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h := range s.handles {
		if h.ino == ino {
			return true
		}
	}
	return false
}
