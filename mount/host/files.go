package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/kmsfs/kmsfs/mount"
)

// object is a path that was found: bucket/key and the inode behind it.
type object struct {
	path   string // bucket/key, without slashes at the ends
	parent mount.Ino
	name   string
	attr   mount.Attr
	found  bool // otherwise only the parent exists
}

// bucketPath turns a path as it was typed into bucket/key. A path on one of
// the daemon's mounts counts as such; anything else is bucket/key already.
func (d *Daemon) bucketPath(p Path) (string, error) {
	if rest, ok := d.below(p.Absolute); ok {
		return rest, nil
	}
	clean := strings.Trim(filepath.Clean("/"+p.Typed), "/")
	if strings.HasPrefix(p.Typed, "/") {
		return "", &hintedError{
			err:  fmt.Errorf("%s is not on a mount of this store: %w", p.Typed, mount.ErrNotFound),
			hint: "name it bucket/path, without a leading slash",
		}
	}
	if clean == "" {
		return "", fmt.Errorf("%w: an empty path", errArguments)
	}
	return clean, nil
}

// find walks a path as the principal does. The last part may be missing, if
// its directory exists.
func (c *call) find(s *mount.Session, path string) (object, error) {
	o := object{path: path, parent: mount.RootIno, attr: mount.Attr{Ino: mount.RootIno, Type: mount.Directory}, found: true}
	if path == "" {
		return o, nil
	}
	parts := strings.Split(path, "/")
	for i, part := range parts {
		a, err := s.Lookup(c.caller(), o.attr.Ino, part)
		o.parent, o.name = o.attr.Ino, part
		if errors.Is(err, mount.ErrNotFound) && i == len(parts)-1 {
			o.attr, o.found = mount.Attr{}, false
			return o, nil
		}
		if err != nil {
			return object{}, err
		}
		o.attr = a
	}
	return o, nil
}

func typeName(t mount.FileType) string {
	switch t {
	case mount.Regular:
		return "file"
	case mount.Directory:
		return "directory"
	case mount.Symlink:
		return "symbolic link"
	case mount.FIFO:
		return "fifo"
	case mount.Socket:
		return "socket"
	case mount.CharDevice, mount.BlockDevice:
		return "device"
	}
	return "unknown"
}

func (c *call) stat(a StatArgs) (any, error) {
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	out := make([]StatInfo, 0, len(a.Paths))
	for _, p := range a.Paths {
		info, err := c.statOne(s, p)
		if err != nil {
			info = StatInfo{Path: p.Typed, Error: answer(err).Message}
		}
		out = append(out, info)
	}
	return out, nil
}

func (c *call) statOne(s *mount.Session, p Path) (StatInfo, error) {
	path, err := c.d.bucketPath(p)
	if err != nil {
		return StatInfo{}, err
	}
	o, err := c.find(s, path)
	if err != nil {
		return StatInfo{}, err
	}
	if !o.found {
		return StatInfo{}, mount.ErrNotFound
	}
	at, err := s.GetAttr(c.caller(), o.attr.Ino)
	if err != nil {
		return StatInfo{}, err
	}
	info := StatInfo{
		Path: path, Type: typeName(at.Type), Inode: uint64(at.Ino), Size: at.Size, Mode: fmt.Sprintf("%04o", at.Mode),
		UID: at.UID, GID: at.GID, Links: at.Nlink, Modified: time.Unix(0, at.Mtime).UTC(),
	}
	if at.Type == mount.Directory && !strings.Contains(path, "/") {
		info.Type = "bucket"
	}
	if at.Type == mount.Regular && at.Nlink > 1 {
		if names, err := c.d.cfg.Volume.Names(at.Ino); err == nil {
			for _, n := range names {
				info.Names = append(info.Names, n.Bucket+"/"+n.Key)
			}
		}
	}
	get := func(name string) string {
		v, err := s.GetXattr(c.caller(), at.Ino, name)
		if err != nil {
			return ""
		}
		return string(v)
	}
	info.SSE = get(attrSSE)
	if at.Type == mount.Regular && info.SSE == "aws:kms" {
		info.KeyARN, info.MaterialID, info.BucketKey = get(attrKeyID), get(attrMaterial), get(attrBucketKey)
		_ = json.Unmarshal([]byte(get(attrContext)), &info.Context) // shown if it can be
	}
	return info, nil
}
