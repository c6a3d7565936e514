package mount

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/principals"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// Notifier tells one mount's kernel what it must not believe any more. Its methods may be called concurrently. The first two return
// a function that waits until the kernel knows, or nil if there is nothing to wait for; they themselves never block.
type Notifier interface {
	// InodeChanged: the content from off on, n bytes (0: to the end), has changed, and the attributes; off < 0: only those.
	InodeChanged(ino Ino, off, n int64) (wait func())
	// EntryChanged: a name in a directory means something else now.
	EntryChanged(parent Ino, name string) (wait func())
	// Keys lists the KMS keys (ARNs; empty: none) under which cached content may be.
	Keys() []string
	// DropData drops cached content of all inodes that affected says, and returns when the kernel has. key is what the content was
	// read or written under.
	DropData(affected func(ino Ino, key string) bool)
	// DropAll drops everything the kernel believes, and returns when it has.
	DropAll()
}

// HubConfig is what the sessions share.
type HubConfig struct {
	Volume     *fs.Volume
	Keystore   *keystore.Service
	Principals *principals.Store
	Log        *slog.Logger
}

// Hub joins the sessions over one volume: it tells each what the others changed, knows who has what open, and makes all of them look
// at their rights again when policies or keys changed. Make one per volume.
type Hub struct {
	cfg HubConfig
	log *slog.Logger

	// epoch grows with every change that may end a right of an open handle; the others say what kind of change it was.
	epoch       atomic.Uint64
	policyEpoch atomic.Uint64 // identities and bucket policies
	nameEpoch   atomic.Uint64 // renames and removed names
	sealEpoch   atomic.Uint64 // a file's key
	keysChanged atomic.Uint64 // KMS keys, all together; keyEpochs has each

	// beneath is held for reading by whatever makes a name, and for writing while a directory's descendants are judged one by one.
	beneath sync.RWMutex

	mu        sync.Mutex
	keyEpochs map[string]uint64        // by key ARN
	keyNames  map[string]*string       // one copy of each ARN
	opened    map[string]*atomic.Int64 // files that each principal has open
	keysNew   []string                 // changed since the last round of looking again
	namesNew  []string                 // likewise principals
	everyone  bool                     // likewise: a bucket's policy changed
	ended     bool                     // Close was called: nobody looks again
	buckets   map[Ino]*bucketInfo

	sessions atomic.Pointer[[]*Session]
	opens    [64]openShard // who writes what

	// growing is held for reading, by inode, from before content changes until the notifications about it are on their way: see Settled
	// and Handle.Show.
	growing [64]sync.RWMutex
	locks   lockTable
	waiting atomic.Int32 // operations that wait until other kernels have heard of entries

	wake   chan struct{}
	closed chan struct{}
	done   sync.WaitGroup

	lookers sync.WaitGroup // see Session.revalidateSoon
}

// closeGrace is how long Close waits for sessions that look at their rights again.
const closeGrace = 5 * time.Second

// bucketInfo is a bucket's configuration, parsed. It is immutable.
type bucketInfo struct {
	ino    Ino
	name   string
	arn    string
	policy *policy.Document
	broken error  // the stored policy does not parse: everything is refused
	def    choice // default encryption
	defErr error
}

// writers is who has an inode open for writing, and how often.
type writers map[*Session]int

type openShard struct {
	mu sync.Mutex
	m  map[Ino]writers
}

// NewHub makes the hub of a volume and listens to the keystore and the principals.
func NewHub(cfg HubConfig) *Hub {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &Hub{
		cfg: cfg, log: cfg.Log, keyEpochs: map[string]uint64{}, keyNames: map[string]*string{}, opened: map[string]*atomic.Int64{}, buckets: map[Ino]*bucketInfo{},
		wake: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	for i := range h.opens {
		h.opens[i].m = map[Ino]writers{}
	}
	h.locks.init()
	h.sessions.Store(&[]*Session{})
	h.epoch.Store(1)
	h.policyEpoch.Store(1)
	cfg.Keystore.OnChange(h.keyChanged)
	cfg.Principals.OnChange(h.principalChanged)
	h.done.Add(1)
	go h.lookAround()
	h.done.Add(1)
	go h.watchTime()
	return h
}

// Close stops the hub. Sessions may still be used, but nothing is revoked any more.
func (h *Hub) Close() {
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	close(h.closed)
	h.done.Wait()
	// A kernel that does not take what it is told is not waited for.
	over := make(chan struct{})
	go func() {
		defer close(over)
		h.lookers.Wait()
	}()
	t := time.NewTimer(closeGrace)
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
		h.log.Warn("a kernel does not take its notifications")
	}
}

func (h *Hub) keyChanged(keyARN string) {
	h.mu.Lock()
	h.keyEpochs[keyARN]++
	h.keysChanged.Add(1)
	h.keysNew = append(h.keysNew, keyARN)
	h.mu.Unlock()
	h.bump()
}

func (h *Hub) principalChanged(name string) {
	h.mu.Lock()
	h.namesNew = append(h.namesNew, name)
	h.mu.Unlock()
	h.policyEpoch.Add(1)
	h.bump()
}

// BucketChanged must be called after a bucket's configuration was changed other than through a session.
func (h *Hub) BucketChanged(bucket Ino) {
	h.mu.Lock()
	delete(h.buckets, bucket)
	h.everyone = true
	h.mu.Unlock()
	h.policyEpoch.Add(1)
	h.bump()
}

// Resealed must be called after a file's key was changed other than through a session.
func (h *Hub) Resealed() {
	h.sealEpoch.Add(1)
	h.bump()
}

// renamed ends the trust in decisions that rest on names. Sessions whose rights in the bucket depend on names look again at once, and
// do not keep content of the file that moved (of all files, if a directory did: what lies beneath has new names too); for all others
// it changes nothing.
func (h *Hub) renamed(b *bucketView, moved Attr) {
	h.nameEpoch.Add(1)
	h.epoch.Add(1)
	for _, s := range *h.sessions.Load() {
		v := s.rights.Load()
		if v == nil {
			continue
		}
		o, ok := v.buckets.Load(b.ino)
		if !ok || v.constant(o.(*bucketView), actGet) != depends && v.look(o.(*bucketView)) != depends {
			continue
		}
		s.revalidateSoon(due{moved: moved.Ino, tree: moved.Type == Directory})
	}
}

// bump ends the trust of open handles in what they decided, and makes the sessions look again soon.
func (h *Hub) bump() {
	h.epoch.Add(1)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *Hub) keyEpoch(arn string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keyEpochs[arn]
}

// intern gives the one copy of an ARN.
func (h *Hub) intern(arn string) *string {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.keyNames[arn]
	if p == nil {
		p = &arn
		h.keyNames[arn] = p
	}
	return p
}

// lookAround makes the sessions decide anew after changes.
func (h *Hub) lookAround() {
	defer h.done.Done()
	for {
		select {
		case <-h.closed:
			return
		case <-h.wake:
		}
		h.mu.Lock()
		keys, names, everyone := h.keysNew, h.namesNew, h.everyone
		h.keysNew, h.namesNew, h.everyone = nil, nil, false
		h.mu.Unlock()
		for _, s := range *h.sessions.Load() {
			s.revalidateSoon(due{keys: keys, rights: everyone || slices.Contains(names, s.cfg.Principal) || slices.Contains(names, "")})
		}
	}
}

// bucket gives a bucket's parsed configuration.
func (h *Hub) bucket(ino Ino) (*bucketInfo, error) {
	h.mu.Lock()
	info := h.buckets[ino]
	h.mu.Unlock()
	if info != nil {
		return info, nil
	}
	epoch := h.policyEpoch.Load()
	b, err := h.cfg.Volume.Bucket(ino)
	if err != nil {
		return nil, err
	}
	info = &bucketInfo{ino: ino, name: b.Name, arn: bucketARN(b.Name)}
	if len(bytes.TrimSpace(b.Policy)) > 0 {
		if info.policy, info.broken = policy.Parse(policy.BucketPolicy, b.Policy); info.broken != nil {
			return nil, fmt.Errorf("policy of bucket %s: %w: %w", b.Name, ErrCorrupt, info.broken)
		}
	}
	info.def, info.defErr = parseEncryption(b.Encryption)
	h.mu.Lock()
	if h.policyEpoch.Load() == epoch {
		h.buckets[ino] = info
	}
	h.mu.Unlock()
	return info, nil
}

// openedBy is the count of the files that a principal has open.
func (h *Hub) openedBy(principal string) *atomic.Int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.opened[principal]
	if n == nil {
		n = new(atomic.Int64)
		h.opened[principal] = n
	}
	return n
}

func (h *Hub) join(s *Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := append(slices.Clone(*h.sessions.Load()), s)
	h.sessions.Store(&list)
}

func (h *Hub) leave(s *Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(*h.sessions.Load()), func(o *Session) bool { return o == s })
	h.sessions.Store(&list)
}

// writing counts handles that may write.
func (h *Hub) writing(ino Ino, s *Session, by int) {
	sh := &h.opens[ino%Ino(len(h.opens))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	w := sh.m[ino]
	if w == nil {
		w = writers{}
		sh.m[ino] = w
	}
	if w[s] += by; w[s] == 0 {
		delete(w, s)
	}
	if len(w) == 0 {
		delete(sh.m, ino)
	}
}

// writtenElsewhere reports whether another session has the inode open for writing.
func (h *Hub) writtenElsewhere(ino Ino, s *Session) bool {
	sh := &h.opens[ino%Ino(len(h.opens))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	w := sh.m[ino]
	return len(w) > 1 || len(w) == 1 && w[s] == 0
}

func (h *Hub) growth(ino Ino) *sync.RWMutex { return &h.growing[ino%Ino(len(h.growing))] }

// Settled returns when every change of content that GetAttr may have shown was posted to the notifiers. A kernel that heard of a new
// size before it drops its last page would show the zeros behind the old end.
func (s *Session) Settled(ino Ino) {
	g := s.hub.growth(ino)
	g.Lock()
	g.Unlock() //nolint:staticcheck // SA2001: waiting is all that is wanted
}

// telling collects what the other kernels must hear about one operation. Its zero value tells nobody.
type telling struct {
	hub   *Hub
	from  *Session
	waits []func()
	names bool // some of them are about entries
}

// tell begins; from may be nil, for a change that no session made.
func (h *Hub) tell(from *Session) telling { return telling{hub: h, from: from} }

// inode: content from off on, n bytes, has changed (off < 0: only attributes).
func (t *telling) inode(ino Ino, off, n int64) {
	for _, s := range *t.hub.sessions.Load() {
		if o := s.notifier.Load(); o != nil && s != t.from {
			t.wait((*o).InodeChanged(ino, off, n))
		}
	}
}

func (t *telling) wait(w func()) {
	if w != nil {
		t.waits = append(t.waits, w)
	}
}

func (t *telling) attrs(inos ...Ino) {
	for _, ino := range inos {
		if ino != 0 {
			t.inode(ino, -1, 0)
		}
	}
}

func (t *telling) entry(parent Ino, name string) {
	for _, s := range *t.hub.sessions.Load() {
		if o := s.notifier.Load(); o != nil && s != t.from {
			if w := (*o).EntryChanged(parent, name); w != nil {
				t.names = true
				t.wait(w)
			}
		}
	}
}

// done waits until they have heard.
func (t *telling) done() {
	if len(t.waits) == 0 {
		return
	}
	if t.names {
		t.hub.waiting.Add(1)
		defer t.hub.waiting.Add(-1)
	}
	for _, w := range t.waits {
		w()
	}
}

// InodeChanged tells all kernels but from's that content (off >= 0) or attributes of an inode changed.
func (h *Hub) InodeChanged(from *Session, ino Ino, off, n int64) {
	t := h.tell(from)
	t.inode(ino, off, n)
	t.done()
}

// EntryChanged tells all kernels but from's that a name means something else.
func (h *Hub) EntryChanged(from *Session, parent Ino, name string) {
	t := h.tell(from)
	t.entry(parent, name)
	t.done()
}
