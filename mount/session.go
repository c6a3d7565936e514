package mount

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/principals"
)

// SessionConfig is what a session is made of.
type SessionConfig struct {
	Volume     *fs.Volume
	Keystore   *keystore.Service
	Principals *principals.Store
	Principal  string // name of the principal that every call acts as
	Bound      bool   // the session is that of an OS user and ends to have rights when the principal is not bound to UID any more
	UID        uint32
	Options    Options
	Hub        *Hub
	Log        *slog.Logger
	Clock      func() time.Time
}

// Session is one principal's view of a volume. Its methods are safe for concurrent use.
type Session struct {
	cfg      SessionConfig
	hub      *Hub
	vol      *fs.Volume
	log      *slog.Logger
	id       string // the principal's unique id: who is made again under its name is somebody else
	override choice // of Options.SSE; method None: none

	rights   atomic.Pointer[view]
	notifier atomic.Pointer[Notifier]
	locking  atomic.Bool   // somebody has locked a file
	ended    chan struct{} // closed by Leave: nobody waits for a lock any more
	leave    sync.Once

	maxHandles int
	opened     *atomic.Int64 // files that the principal has open, through all his mounts

	mu      sync.Mutex
	handles map[*Handle]struct{}
	seen    map[Ino]sight // by bucket

	kept   keptKeys
	looker looker
}

// NewSession opens the door for a principal. It fails if the principal does not exist or an option makes no sense.
func NewSession(cfg SessionConfig) (*Session, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		return nil, errors.New("session needs a clock")
	}
	s := &Session{cfg: cfg, hub: cfg.Hub, vol: cfg.Volume, log: cfg.Log.With("principal", cfg.Principal), maxHandles: maxHandles, handles: map[*Handle]struct{}{}, ended: make(chan struct{}), seen: map[Ino]sight{}}
	if cfg.Options.SSE != "" {
		c, err := parseSSE(cfg.Options.SSE)
		if err != nil {
			return nil, fmt.Errorf("mount option: %w", err)
		}
		c.header = true
		s.override = c
	}
	who, err := s.identity()
	if err != nil {
		return nil, fmt.Errorf("principal %s: %w", cfg.Principal, err)
	}
	s.id = who.ID
	s.opened = s.hub.openedBy(cfg.Principal)
	s.hub.join(s)
	return s, nil
}

// maxHandles is how many files one principal may have open at a time, so that nobody fills the memory of all.
const maxHandles = 1 << 16

// roomToOpen is asked before a file is opened.
func (s *Session) roomToOpen() error {
	if s.opened.Load() >= int64(s.maxHandles) {
		return ErrTooMany
	}
	return nil
}

// Leave gives up every lock and every wait for one. The mount is going, or is gone.
func (s *Session) Leave() {
	s.leave.Do(func() { close(s.ended) })
	s.hub.locks.leave(s)
}

// Close closes what handles are left and leaves the hub.
func (s *Session) Close() error {
	s.Leave()
	s.hub.leave(s)
	defer s.kept.wipe()
	s.mu.Lock()
	left := make([]*Handle, 0, len(s.handles))
	for h := range s.handles {
		left = append(left, h)
	}
	s.mu.Unlock()
	var err error
	for _, h := range left {
		err = errors.Join(err, h.Close())
	}
	return err
}

// Principal is the name of the principal.
func (s *Session) Principal() string { return s.cfg.Principal }

// Options are those the session was made with.
func (s *Session) Options() Options { return s.cfg.Options }

// Clock tells the time as the session sees it.
func (s *Session) Clock() func() time.Time { return s.cfg.Clock }

// Log is where the session logs.
func (s *Session) Log() *slog.Logger { return s.log }

// SetNotifier registers who tells the kernel behind this session of changes.
func (s *Session) SetNotifier(n Notifier) { s.notifier.Store(&n) }

// Waiting says how many operations of all sessions wait at this moment for a Notifier's wait functions about entries.
func (s *Session) Waiting() int { return int(s.hub.waiting.Load()) }

// Acquire counts that the kernel was told of an inode n times; Forget takes that back.
func (s *Session) Acquire(ino Ino, n uint64) { s.vol.Acquire(ino, n) }

// Forget takes back what Acquire counted.
func (s *Session) Forget(ino Ino, n uint64) { s.vol.Forget(ino, n) }

// now in ns since 1970.
func (s *Session) now() int64 { return s.cfg.Clock().UnixNano() }

func (s *Session) writable() error {
	if s.cfg.Options.ReadOnly {
		return ErrReadOnly
	}
	return nil
}

// call describes a request to the keystore for decision and audit.
func (s *Session) call(v *view, c Caller, op string, b *bucketView, key string, ino Ino) (*keystore.Call, error) {
	if v.who == nil {
		return nil, s.noRights()
	}
	return &keystore.Call{
		Who: v.who, ViaS3: true, Op: op, Path: b.name + "/" + EncodeKey(key), Mount: s.cfg.Options.Mount,
		UID: c.UID, PID: c.PID, Inode: uint64(ino),
	}, nil
}

// noRights is the refusal of everything to a session whose principal is gone, or is another user's now.
func (s *Session) noRights() error {
	return fmt.Errorf("principal %s is gone, or not this user's any more: %w", s.cfg.Principal, ErrAccess)
}

// Lookup finds a name. A name that must not be seen is refused, whether it exists or not.
func (s *Session) Lookup(_ Caller, parent Ino, name string) (Attr, error) {
	v := s.view()
	if v.who == nil {
		return Attr{}, s.noRights()
	}
	if parent == RootIno {
		return s.vol.Lookup(parent, name) // names of buckets can be used without listing them
	}
	b, err := s.bucketOf(v, parent)
	if err != nil {
		return Attr{}, err
	}
	a, err := s.vol.Lookup(parent, name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Attr{}, err
	}
	found := err == nil
	isDir := found && a.Type == Directory
	names := func() ([]string, error) {
		key, err := s.childKey(parent, name)
		if isDir {
			key += "/"
		}
		return []string{key}, err
	}
	if refused := v.visible(b, names, !found || isDir); refused != nil {
		return Attr{}, refused
	}
	return a, err
}

// GetAttr gives an inode's attributes.
func (s *Session) GetAttr(_ Caller, ino Ino) (Attr, error) {
	a, err := s.vol.Attr(ino)
	if err != nil || ino == RootIno {
		return a, err
	}
	v := s.view()
	if v.who == nil {
		return Attr{}, s.noRights()
	}
	b, err := s.bucketOf(v, ino)
	if err != nil {
		return Attr{}, err
	}
	if b.ino == ino {
		return a, nil
	}
	return a, s.mayLook(v, b, ino, a.Type)
}

// Attr gives an inode's attributes to who was shown them just before.
func (s *Session) Attr(ino Ino) (Attr, error) { return s.vol.Attr(ino) }

func (s *Session) mayLook(v *view, b *bucketView, ino Ino, t FileType) error {
	err := v.visible(b, func() ([]string, error) {
		keys, err := s.keysOf(ino)()
		if err == nil && len(keys) == 0 {
			err = errNameless
		}
		return keys, err
	}, t == Directory)
	if errors.Is(err, errNameless) {
		return nil
	}
	return err
}

// errNameless says that an inode has no name: whoever reaches it has it open, and opening was judged.
var errNameless = errors.New("no name left")

// SetAttr changes attributes, and the size through h, or without a handle (h nil) as truncate(2) does.
func (s *Session) SetAttr(c Caller, ino Ino, h *Handle, ch Change) (Attr, error) {
	if err := s.writable(); err != nil {
		return Attr{}, err
	}
	if ch.Size != nil {
		if err := s.truncate(c, ino, h, *ch.Size, ch.KillPriv); err != nil {
			return Attr{}, err
		}
		ch.Size = nil
		if ch.Mode == nil && ch.UID == nil && ch.GID == nil && ch.Atime == nil && ch.Mtime == nil {
			return s.vol.Attr(ino)
		}
	}
	v := s.view()
	b, err := s.bucketOf(v, ino)
	if err != nil {
		return Attr{}, err
	}
	if err := v.object(b, actPut, s.keysOf(ino), allNames, nil); err != nil {
		return Attr{}, err
	}
	if ch.UID != nil || ch.GID != nil { // chown clears set-id bits of files, whoever calls
		a, err := s.vol.Attr(ino)
		if err != nil {
			return Attr{}, err
		}
		if !c.mayGive(&a, ch) {
			return Attr{}, fmt.Errorf("a file is given away by root alone: %w", ErrPermitted)
		}
		ch.KillPriv = ch.KillPriv || a.Type != Directory && ch.Mode == nil
	}
	a, err := s.vol.SetAttr(ino, fs.Change{
		Mode: ch.Mode, UID: ch.UID, GID: ch.GID, Atime: s.time(ch.Atime), Mtime: s.time(ch.Mtime), KillPriv: ch.KillPriv,
	})
	if err != nil {
		return Attr{}, err
	}
	s.hub.InodeChanged(s, ino, -1, 0)
	return a, nil
}

// mayGive reports whether the caller may make owner and group what they shall be: as everywhere, only root gives a file to another user
// or to a group that is not the caller's own.
func (c *Caller) mayGive(a *Attr, ch Change) bool {
	if c.UID == 0 {
		return true
	}
	if ch.UID != nil && *ch.UID != a.UID {
		return false
	}
	return ch.GID == nil || *ch.GID == a.GID || *ch.GID == c.GID || slices.Contains(c.Groups, *ch.GID)
}

func (s *Session) time(t *int64) *int64 {
	if t != nil && *t == Now {
		now := s.now()
		return &now
	}
	return t
}

// Access answers access(2): mask is made of 4 (read), 2 (write) and 1 (execute or search). Keys are not asked for.
func (s *Session) Access(_ Caller, ino Ino, mask uint32) error {
	if mask&2 != 0 {
		if err := s.writable(); err != nil {
			return err
		}
	}
	if ino == RootIno {
		return nil
	}
	a, err := s.vol.Attr(ino)
	if err != nil {
		return err
	}
	v := s.view()
	b, err := s.bucketOf(v, ino)
	if err != nil {
		return err
	}
	if a.Type != Directory {
		if mask&1 != 0 && a.Mode&0o111 == 0 {
			return ErrAccess
		}
		if mask&5 != 0 {
			if err := v.object(b, actGet, s.keysOf(ino), anyName, nil); err != nil {
				return err
			}
		}
		if mask&2 != 0 {
			return v.object(b, actPut, s.keysOf(ino), allNames, nil)
		}
		return nil
	}
	keys, err := s.keysOf(ino)()
	if err != nil || len(keys) == 0 {
		return err
	}
	if mask&4 != 0 {
		if err := s.mayList(v, b, keys[0]); err != nil {
			return err
		}
	}
	if mask&2 != 0 && v.subtree(b, actPut, keys[0]) == never && v.subtree(b, actDelete, keys[0]) == never {
		return v.refusal(actPut, ObjectARN(b.name, keys[0]+"*"), v.decide(b, actPut, keys[0]+"*", nil))
	}
	return nil
}

// StatFS measures the volume as the bucket of an inode may use it.
func (s *Session) StatFS(ino Ino) (StatFS, error) { return s.vol.StatFSOf(ino) }

// SyncDir makes every name durable that was made, moved or removed before: what fsync of a directory asks for.
func (s *Session) SyncDir() error { return s.vol.SyncDir() }
