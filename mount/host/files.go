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

// rekeying is one rekey command under way.
type rekeying struct {
	c      *call
	s      *mount.Session
	from   string // key ARN, AES256, or "" for any
	to     string // key ARN or AES256
	value  string // as user.s3.sse takes it
	dryRun bool
	sum    RekeyResult
}

// rekey sets user.s3.sse on each file, so it needs exactly the rights that
// setfattr on a mount needs, and takes as long: a constant time per file.
func (c *call) rekey(a RekeyArgs) (any, error) {
	s, done, err := c.session()
	if err != nil {
		return nil, err
	}
	defer done()
	r := &rekeying{c: c, s: s, dryRun: a.DryRun}
	if r.from, err = c.keyOrNone(a.From); err != nil {
		return nil, err
	}
	if r.to, err = c.keyOrNone(a.To); err != nil {
		return nil, err
	}
	switch r.to {
	case "":
		return nil, fmt.Errorf("%w: no key to change to", errArguments)
	case sseS3:
		r.value = sseS3
	default:
		r.value = "aws:kms:" + r.to
	}
	if len(a.Paths) == 0 {
		err = r.wholeKey()
	} else {
		err = r.paths(a.Paths)
	}
	return r.sum, err
}

const sseS3 = "AES256"

// keyOrNone resolves a key; AES256 and nothing stand for themselves.
func (c *call) keyOrNone(ref string) (string, error) {
	if ref == "" || ref == sseS3 {
		return ref, nil
	}
	if ref == "aws:kms" {
		return c.d.cfg.Keystore.ManagedS3Key()
	}
	return c.d.cfg.Keystore.Resolve(strings.TrimPrefix(ref, "aws:kms:"))
}

// wholeKey takes every file under one key.
func (r *rekeying) wholeKey() error {
	if r.from == "" || r.from == sseS3 {
		return fmt.Errorf("%w: paths are needed unless --from names a key", errArguments)
	}
	inodes, err := r.c.d.filesUnder(r.from)
	if err != nil {
		return err
	}
	for _, ino := range inodes {
		path, err := r.c.pathOf(r.s, ino)
		switch {
		case errors.Is(err, mount.ErrNotFound):
			continue
		case errors.Is(err, mount.ErrAccess):
			r.sum.Hidden++
			r.sum.Failed++
			continue
		case err != nil:
			return err
		}
		if err := r.file(path, ino); err != nil {
			return err
		}
	}
	return nil
}

func (r *rekeying) paths(paths []Path) error {
	for _, p := range paths {
		path, err := r.c.d.bucketPath(p)
		var o object
		if err == nil {
			o, err = r.c.find(r.s, path)
		}
		if err == nil && !o.found {
			err = mount.ErrNotFound
		}
		if err != nil {
			if err := r.failed(RekeyItem{Path: p.Typed, To: r.to}, err); err != nil {
				return err
			}
			continue
		}
		if err := r.tree(o.path, o.attr.Ino, o.attr.Type); err != nil {
			return err
		}
	}
	return nil
}

// tree takes a file, or a directory with all beneath it.
func (r *rekeying) tree(path string, ino mount.Ino, t mount.FileType) error {
	switch t {
	case mount.Regular:
		return r.file(path, ino)
	case mount.Directory:
	default:
		return nil
	}
	if err := r.c.ctx.Err(); err != nil {
		return err
	}
	var entries []mount.Dirent
	dir, err := r.s.OpenDir(r.c.caller(), ino)
	if err == nil {
		err = dir.Read(0, func(e mount.Dirent) bool {
			entries = append(entries, e)
			return true
		})
	}
	if err != nil {
		return r.failed(RekeyItem{Path: path + "/", To: r.to}, err)
	}
	for _, e := range entries {
		if err := r.tree(path+"/"+e.Name, e.Ino, e.Type); err != nil {
			return err
		}
	}
	return nil
}

func (r *rekeying) file(path string, ino mount.Ino) error {
	if err := r.c.ctx.Err(); err != nil {
		return err
	}
	item := RekeyItem{Path: path, To: r.to}
	now, err := r.now(ino)
	if err != nil {
		return r.failed(item, err)
	}
	item.From = now
	if r.from != "" && now != r.from {
		return nil
	}
	if now == r.to {
		r.sum.Same++
		return nil
	}
	if !r.dryRun {
		if err := r.s.SetXattr(r.c.caller(), ino, attrSSE, []byte(r.value), mount.XattrEither); err != nil {
			return r.failed(item, err)
		}
	}
	r.sum.Changed++
	return r.c.emit(item)
}

// now is a file's key, seen with the rights of the principal.
func (r *rekeying) now(ino mount.Ino) (string, error) {
	sse, err := r.s.GetXattr(r.c.caller(), ino, attrSSE)
	if err != nil || string(sse) == sseS3 {
		return string(sse), err
	}
	arn, err := r.s.GetXattr(r.c.caller(), ino, attrKeyID)
	return string(arn), err
}

func (r *rekeying) failed(item RekeyItem, err error) error {
	r.sum.Failed++
	item.Error = answer(err).Message
	return r.c.emit(item)
}
