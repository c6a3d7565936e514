package mount

import (
	"errors"
	"fmt"

	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/principals/policy"
)

const (
	modeSetGID = 0o2000
	maxBatch   = 512 // entries copied out of one listing at a time
)

// owner gives what a new inode in a directory is owned by and, in a set-group-id directory, inherits.
func (s *Session) owner(c Caller, parent Ino, n *fs.New) error {
	n.UID, n.GID, n.Umask = c.UID, c.GID, c.Umask
	dir, err := s.vol.Attr(parent)
	if err != nil {
		return err
	}
	if dir.Mode&modeSetGID != 0 {
		n.GID = dir.GID
		if n.Type == Directory {
			n.Mode |= modeSetGID
		}
	}
	return nil
}

// make puts a new inode into a directory and tells the other kernels.
func (s *Session) make(c Caller, parent Ino, name string, n fs.New) (Attr, error) {
	if err := s.owner(c, parent, &n); err != nil {
		return Attr{}, err
	}
	s.hub.beneath.RLock()
	a, err := s.vol.Make(parent, name, n)
	s.hub.beneath.RUnlock()
	if err != nil {
		return Attr{}, err
	}
	t := s.hub.tell(s)
	t.entry(parent, name)
	t.attrs(parent)
	t.done()
	return a, nil
}

// Mkdir makes a directory; in the root it makes a bucket, whose name must be one that S3 would take.
func (s *Session) Mkdir(c Caller, parent Ino, name string, mode uint32) (Attr, error) {
	if err := s.writable(); err != nil {
		return Attr{}, err
	}
	v := s.view()
	if parent == RootIno {
		return s.makeBucket(c, v, name, mode)
	}
	b, err := s.bucketOf(v, parent)
	if err != nil {
		return Attr{}, err
	}
	if err := v.object(b, actPut, s.childKeys(parent, name+"/"), allNames, nil); err != nil {
		return Attr{}, err
	}
	var d fs.Default
	if parent != b.ino { // a bucket's default is the bucket's encryption and is not copied
		if d, err = s.vol.Default(parent); err != nil {
			return Attr{}, err
		}
	}
	return s.make(c, parent, name, fs.New{Type: Directory, Mode: mode, Default: d})
}

func (s *Session) makeBucket(c Caller, v *view, name string, mode uint32) (Attr, error) {
	if !ValidBucketName(name) {
		return Attr{}, fmt.Errorf("bucket name %q: %w", clip(name), ErrInvalid)
	}
	b := &bucketView{bucketInfo: &bucketInfo{name: name, arn: bucketARN(name)}}
	if err := v.bucket(b, actCreateBucket, nil); err != nil {
		return Attr{}, err
	}
	return s.make(c, RootIno, name, fs.New{Type: Directory, Mode: mode, Bucket: &fs.Bucket{Name: name, Created: s.now()}})
}

// Mknod makes a file of any type but Directory and Symlink. Device nodes are for uid 0 alone. A regular file gets a data key.
func (s *Session) Mknod(c Caller, parent Ino, name string, t FileType, mode, rdev uint32) (Attr, error) {
	if t == Regular {
		a, _, err := s.create(c, parent, name, mode, nil)
		return a, err
	}
	if (t == CharDevice || t == BlockDevice) && c.UID != 0 {
		return Attr{}, ErrPermitted
	}
	return s.special(c, parent, name, fs.New{Type: t, Mode: mode, Rdev: rdev})
}

// Symlink makes a symbolic link. Its target is metadata, as an object's key is.
func (s *Session) Symlink(c Caller, parent Ino, name, target string) (Attr, error) {
	return s.special(c, parent, name, fs.New{Type: Symlink, Mode: 0o777, Target: target})
}

func (s *Session) special(c Caller, parent Ino, name string, n fs.New) (Attr, error) {
	if err := s.writable(); err != nil {
		return Attr{}, err
	}
	v := s.view()
	b, err := s.bucketOf(v, parent)
	if err != nil {
		return Attr{}, err
	}
	if err := v.object(b, actPut, s.childKeys(parent, name), allNames, nil); err != nil {
		return Attr{}, err
	}
	return s.make(c, parent, name, n)
}

// Readlink gives a symbolic link's target.
func (s *Session) Readlink(_ Caller, ino Ino) (string, error) {
	v := s.view()
	b, err := s.bucketOf(v, ino)
	if err != nil {
		return "", err
	}
	if err := v.object(b, actGet, s.keysOf(ino), anyName, nil); err != nil {
		return "", err
	}
	return s.vol.Readlink(ino)
}

// Link gives an inode another name in its bucket. The old names must be readable and writable, the new one writable.
func (s *Session) Link(_ Caller, ino, parent Ino, name string) (Attr, error) {
	if err := s.writable(); err != nil {
		return Attr{}, err
	}
	v := s.view()
	b, err := s.sameBucket(v, ino, parent)
	if err != nil {
		return Attr{}, err
	}
	err = v.object(b, actGet, s.keysOf(ino), anyName, nil)
	if err == nil {
		err = v.object(b, actPut, s.keysOf(ino), allNames, nil)
	}
	if err == nil {
		err = v.object(b, actPut, s.childKeys(parent, name), allNames, nil)
	}
	if err != nil {
		return Attr{}, err
	}
	if _, err := s.vol.Names(ino); errors.Is(err, ErrNotFound) && !s.mine(ino) {
		return Attr{}, err // a file without a name belongs to who made it
	}
	s.hub.beneath.RLock()
	a, err := s.vol.Link(ino, parent, name)
	s.hub.beneath.RUnlock()
	if err != nil {
		return Attr{}, err
	}
	s.hub.renamed(b, a)
	t := s.hub.tell(s)
	t.entry(parent, name)
	t.attrs(parent, ino)
	t.done()
	return a, nil
}

// sameBucket gives the bucket that holds both inodes; ErrCrossBucket if there are two, ErrPermitted for the root.
func (s *Session) sameBucket(v *view, one, other Ino) (*bucketView, error) {
	b1, err := s.vol.BucketOf(one)
	if err != nil {
		return nil, err
	}
	b2, err := s.vol.BucketOf(other)
	if err != nil {
		return nil, err
	}
	if b1 == 0 && b2 == 0 {
		return nil, fmt.Errorf("buckets have fixed names: %w", ErrPermitted)
	}
	if b1 != b2 {
		return nil, ErrCrossBucket
	}
	return s.bucketView(v, b1)
}

// Unlink removes a name of something that is no directory.
func (s *Session) Unlink(_ Caller, parent Ino, name string) error {
	if err := s.writable(); err != nil {
		return err
	}
	v := s.view()
	b, err := s.bucketOf(v, parent)
	if err != nil {
		return err
	}
	if err := v.object(b, actDelete, s.childKeys(parent, name), allNames, nil); err != nil {
		return err
	}
	a, err := s.vol.Unlink(parent, name)
	if err != nil {
		return err
	}
	if a.Nlink > 0 {
		s.hub.renamed(b, a)
	}
	t := s.hub.tell(s)
	t.entry(parent, name)
	t.attrs(parent, a.Ino)
	t.done()
	return nil
}

// Rmdir removes an empty directory, or an empty bucket from the root.
func (s *Session) Rmdir(_ Caller, parent Ino, name string) error {
	if err := s.writable(); err != nil {
		return err
	}
	v := s.view()
	var err error
	if parent == RootIno {
		err = s.mayDeleteBucket(v, name)
	} else {
		var b *bucketView
		if b, err = s.bucketOf(v, parent); err == nil {
			err = v.object(b, actDelete, s.childKeys(parent, name+"/"), allNames, nil)
		}
	}
	if err != nil {
		return err
	}
	a, err := s.vol.Rmdir(parent, name)
	if err != nil {
		return err
	}
	if parent == RootIno {
		s.hub.BucketChanged(a.Ino)
	}
	t := s.hub.tell(s)
	t.entry(parent, name)
	t.attrs(parent, a.Ino)
	t.done()
	return nil
}

func (s *Session) mayDeleteBucket(v *view, name string) error {
	a, err := s.vol.Lookup(RootIno, name)
	if err != nil {
		return err
	}
	b, err := s.bucketView(v, a.Ino)
	if err != nil {
		return err
	}
	return v.bucket(b, actDeleteBucket, nil)
}

// Rename moves a name inside its bucket. Keys are not asked for: the file keeps its own. A directory moves only if everything beneath
// it may move.
func (s *Session) Rename(_ Caller, parent Ino, name string, newParent Ino, newName string, flags RenameFlags) (RenameResult, error) {
	if err := s.writable(); err != nil {
		return RenameResult{}, err
	}
	v := s.view()
	b, err := s.sameBucket(v, parent, newParent)
	if err != nil {
		return RenameResult{}, err
	}
	s.hub.beneath.RLock()
	res, err := s.rename(v, b, parent, name, newParent, newName, flags, false)
	s.hub.beneath.RUnlock()
	if errors.Is(err, errDescendants) {
		s.hub.beneath.Lock()
		res, err = s.rename(v, b, parent, name, newParent, newName, flags, true)
		s.hub.beneath.Unlock()
	}
	if err != nil {
		return RenameResult{}, err
	}
	s.hub.renamed(b, res.Moved)
	if flags&RenameExchange != 0 {
		s.hub.renamed(b, res.Replaced)
	}
	t := s.hub.tell(s)
	t.entry(parent, name)
	t.entry(newParent, newName)
	t.attrs(parent, newParent, res.Moved.Ino, res.Replaced.Ino)
	t.done()
	return res, nil
}

// errDescendants says that a directory's rename needs each name beneath it judged, for which creation is locked out.
var errDescendants = errors.New("descendants have to be judged")

func (s *Session) rename(v *view, b *bucketView, parent Ino, name string, newParent Ino, newName string, flags RenameFlags, walk bool) (RenameResult, error) {
	if v.constant(b, actGet) != always || v.constant(b, actPut) != always || v.constant(b, actDelete) != always {
		if err := s.mayMove(v, b, parent, name, newParent, newName, walk); err != nil {
			return RenameResult{}, err
		}
		if flags&RenameExchange != 0 {
			if err := s.mayMove(v, b, newParent, newName, parent, name, walk); err != nil {
				return RenameResult{}, err
			}
		}
	}
	return s.vol.Rename(parent, name, newParent, newName, flags)
}

// mayMove asks for s3:GetObject and s3:DeleteObject on the old name and s3:PutObject on the new.
func (s *Session) mayMove(v *view, b *bucketView, parent Ino, name string, newParent Ino, newName string, walk bool) error {
	from, err := s.childKey(parent, name)
	if err != nil {
		return err
	}
	to, err := s.childKey(newParent, newName)
	if err != nil {
		return err
	}
	a, err := s.vol.Lookup(parent, name)
	if err != nil {
		if refused := v.visible(b, oneKey(from), true); refused != nil {
			return refused
		}
		return err
	}
	if a.Type != Directory {
		return s.mayMoveKey(v, b, from, to)
	}
	return s.mayMoveTree(v, b, a.Ino, from+"/", to+"/", walk)
}

func (s *Session) mayMoveKey(v *view, b *bucketView, from, to string) error {
	for _, a := range [...]action{actGet, actDelete} {
		if d := v.decide(b, a, from, nil); !d.Allowed() {
			return v.refusal(a, ObjectARN(b.name, from), d)
		}
	}
	if d := v.decide(b, actPut, to, nil); !d.Allowed() {
		return v.refusal(actPut, ObjectARN(b.name, to), d)
	}
	return nil
}

func (s *Session) mayMoveTree(v *view, b *bucketView, dir Ino, from, to string, walk bool) error {
	if err := s.mayMoveKey(v, b, from, to); err != nil {
		return err
	}
	if v.subtree(b, actGet, from) == always && v.subtree(b, actDelete, from) == always && v.subtree(b, actPut, to) == always {
		return nil
	}
	if !walk {
		return errDescendants
	}
	return s.eachEntry(dir, func(d Dirent) error {
		if d.Type == Directory {
			return s.mayMoveTree(v, b, d.Ino, from+d.Name+"/", to+d.Name+"/", true)
		}
		return s.mayMoveKey(v, b, from+d.Name, to+d.Name)
	})
}

// eachEntry calls fn for every entry, outside of the volume's own listing, so that fn may use the volume.
func (s *Session) eachEntry(dir Ino, fn func(Dirent) error) error {
	var batch []Dirent
	for after := uint64(0); ; after = batch[len(batch)-1].Cookie {
		batch = batch[:0]
		err := s.vol.ReadDir(dir, after, func(d Dirent) bool {
			batch = append(batch, d)
			return len(batch) < maxBatch
		})
		if err != nil {
			return err
		}
		for _, d := range batch {
			if err := fn(d); err != nil {
				return err
			}
		}
		if len(batch) < maxBatch {
			return nil
		}
	}
}

// mayList asks for s3:ListBucket on what a directory holds.
func (s *Session) mayList(v *view, b *bucketView, dir string) error {
	if v.constant(b, actList) == always {
		return nil
	}
	return v.bucket(b, actList, listKeys{prefix: dir, delimiter: true})
}

// DirHandle is an open directory.
type DirHandle struct {
	s   *Session
	ino Ino
}

// Ino is the directory.
func (d *DirHandle) Ino() Ino { return d.ino }

// OpenDir opens a directory for listing.
func (s *Session) OpenDir(_ Caller, ino Ino) (*DirHandle, error) {
	d := &DirHandle{s: s, ino: ino}
	return d, d.may()
}

func (d *DirHandle) may() error {
	v := d.s.view()
	if d.ino == RootIno {
		if v.who == nil {
			return ErrAccess
		}
		req := &policy.Request{Action: actListBuckets.String(), Resource: "*", Clock: v.clock}
		if got := policy.DecideIdentity(v.who, req); !got.Allowed() {
			return v.refusal(actListBuckets, "*", got)
		}
		return nil
	}
	b, err := d.s.bucketOf(v, d.ino)
	if err != nil {
		return err
	}
	if v.constant(b, actList) == always {
		return nil
	}
	keys, err := d.s.keysOf(d.ino)()
	if err != nil || len(keys) == 0 {
		return err
	}
	return d.s.mayList(v, b, keys[0])
}

// Read lists the directory from behind the cookie after (0: from the start) until fn returns false. The right is asked for anew: it
// costs nothing where policies decide the bucket. fn may not use the volume.
func (d *DirHandle) Read(after uint64, fn func(Dirent) bool) error {
	if err := d.may(); err != nil {
		return err
	}
	return d.s.vol.ReadDir(d.ino, after, fn)
}

// Attrs gives the attributes of listed entries, into got; the listing was allowed, so nothing more is asked. Ino is 0 where an entry
// is gone meanwhile or cannot be read.
func (d *DirHandle) Attrs(inos []Ino, got []Attr) { d.s.vol.AttrsIn(d.ino, inos, got) }

// Parent gives the directory above.
func (d *DirHandle) Parent() (Ino, error) { return d.s.vol.ParentOf(d.ino) }
