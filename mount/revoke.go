package mount

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kmsfs/kmsfs/fs"
	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/principals/policy"
)

// What happens when a right may have ended, in this order:
//
//  1. The hub's epoch grows. From then on no handle is used before it has decided anew, and every open decides anyway: both are
//     refused at once.
//  2. Each session, in a goroutine of its own so that none waits for another's kernel, lets all its handles decide. One that lost its
//     right gives up its open file, and the kernel is told to drop what it cached through it.
//  3. What was written through those handles is sealed and committed, and the data keys are wiped with the last handle of a file.
//  4. What the kernel caches of files that are not open is dropped where the principal may not read it any more; names and attributes
//     too where he may not see them. Nobody can get at that in the meantime without an open or a lookup; but it is in memory.

// due is what a session has to look at again.
type due struct {
	keys   []string // KMS keys that changed
	rights bool     // the principal's policies or a bucket's changed
	moved  Ino      // a file or directory has another name; 0: none
	tree   bool     // it is a directory, or there are several
}

func (d *due) add(o due) {
	d.keys = append(d.keys, o.keys...)
	d.rights = d.rights || o.rights
	d.tree = d.tree || o.tree || d.moved != 0 && o.moved != 0 && d.moved != o.moved
	d.moved = max(d.moved, o.moved)
}

// looker is a session's goroutine that looks again; there is one while something is due.
type looker struct {
	mu     sync.Mutex // a leaf, but for Hub.mu
	due    due
	wanted bool
	runs   bool
}

// revalidateSoon makes the session look again, once for all that comes while it does so.
func (s *Session) revalidateSoon(d due) {
	l := &s.looker
	l.mu.Lock()
	defer l.mu.Unlock()
	l.due.add(d)
	l.wanted = true
	if l.runs || !s.hub.goes() {
		return
	}
	l.runs = true
	go s.keepLooking()
}

// goes counts a goroutine, unless the hub was closed.
func (h *Hub) goes() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.lookers.Add(1)
	return true
}

func (s *Session) keepLooking() {
	defer s.hub.lookers.Done()
	l := &s.looker
	for {
		l.mu.Lock()
		if !l.wanted {
			l.runs = false
			l.mu.Unlock()
			return
		}
		d := l.due
		l.due, l.wanted = due{}, false
		l.mu.Unlock()
		Urgently(func() { s.revalidate(d) })
	}
}

// revalidate makes the handles decide now, and drops from the kernel what its principal may not read or see any more.
func (s *Session) revalidate(d due) {
	slices.Sort(d.keys)
	d.keys = slices.Compact(d.keys)
	s.kept.prune(s)
	lost := s.lookAll()
	n := s.notifier.Load()
	var dropping sync.WaitGroup
	defer dropping.Wait()
	if n != nil && len(lost) > 0 {
		dropping.Go(func() { dropLost(*n, lost) })
	}
	inParallel(lost, func(part func()) { part() }, func(e lostFile) {
		if err := e.finish(); err != nil {
			s.log.Error("what was written before the right was lost is not committed yet", "inode", e.ino, "err", err)
		}
	})
	if n == nil {
		return
	}
	if d.rights && !s.sameSight() || d.tree {
		(*n).DropAll()
		return
	}
	if d.moved != 0 {
		(*n).InodeChanged(d.moved, 0, 0)
	}
	if dead := s.deadKeys((*n).Keys(), d); dead != nil {
		(*n).DropData(dead)
	}
}

type lostFile struct {
	*ending
	ino Ino
}

// lookAll lets all handles decide and returns those that lost their right just now.
func (s *Session) lookAll() []lostFile {
	s.mu.Lock()
	open := slices.Collect(maps.Keys(s.handles))
	s.mu.Unlock()
	var mu sync.Mutex
	var lost []lostFile
	inParallel(open, Urgently, func(h *Handle) {
		if e := h.look(); e != nil {
			mu.Lock()
			lost = append(lost, lostFile{e, h.ino})
			mu.Unlock()
		}
	})
	return lost
}

// dropLost drops what a kernel has through handles that lost their right, at once, and then their attributes.
func dropLost(n Notifier, lost []lostFile) {
	inos := make(map[Ino]bool, len(lost))
	for _, e := range lost {
		inos[e.ino] = true
	}
	n.DropData(func(ino Ino, _ string) bool { return inos[ino] })
	for ino := range inos {
		n.InodeChanged(ino, 0, 0)
	}
}

// inParallel calls fn for everything in a list, on all cores, and returns when all are done. how calls the goroutines' work.
func inParallel[T any](list []T, how func(func()), fn func(T)) {
	var wait sync.WaitGroup
	defer wait.Wait()
	each := max(1, (len(list)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for part := range slices.Chunk(list, each) {
		wait.Go(func() {
			how(func() {
				for _, x := range part {
					fn(x)
				}
			})
		})
	}
}

// askAtMost is how many files are asked about one by one. To ask costs several times what it costs to drop a file and to read it again, and the
// last one has to be dropped in time; so of those that are left then all under the key are dropped.
var askAtMost int64 = 1 << 12

// deadKeys says which cached content may not be decrypted any more; nil if all of it may. Nothing is decrypted for that, and no event
// written. cached are the keys that there is content under.
func (s *Session) deadKeys(cached []string, d due) func(Ino, string) bool {
	v := s.view()
	verdicts := map[string]bool{} // true: all is lost; false: each file has to be asked about
	for _, arn := range cached {
		if arn == "" || !d.rights && !slices.Contains(d.keys, arn) {
			continue
		}
		if v.who == nil {
			verdicts[arn] = true
			continue
		}
		alike, err := s.cfg.Keystore.CheckAll(s.decrypting(v), "kms:Decrypt", arn)
		if !alike || err != nil {
			verdicts[arn] = alike
		}
	}
	if len(verdicts) == 0 {
		return nil
	}
	var asked atomic.Int64
	return func(ino Ino, arn string) bool {
		all, concerned := verdicts[arn]
		if !concerned || all {
			return all
		}
		if asked.Add(1) > askAtMost {
			return true
		}
		sealing, err := s.vol.Sealing(ino)
		if err != nil || sealing.Method != fs.SSEKMS {
			return err != nil
		}
		_, err = s.cfg.Keystore.Check(s.decrypting(v), "kms:Decrypt", sealing.KeyARN, sealing.Context)
		return err != nil
	}
}

func (s *Session) decrypting(v *view) *keystore.Call { return &keystore.Call{Who: v.who, ViaS3: true} }

// sight is what a session could once see and read of a bucket as a whole.
type sight struct{ get, list, look answer }

func (v *view) sight(b *bucketView) sight {
	return sight{v.constant(b, actGet), v.constant(b, actList), v.look(b)}
}

// look answers whether names in a bucket may be seen: some right on them is enough.
func (v *view) look(b *bucketView) answer {
	some := never
	for _, a := range lookingActions {
		switch v.constant(b, a) {
		case always:
			return always
		case depends:
			some = depends
		case unknown, never:
		}
	}
	return some
}

// still reports whether all that could be done may be done.
func (now answer) still(was answer) bool { return was == never || now == always }

// sees remembers what the session may do in a bucket, for comparison when policies change.
func (s *Session) sees(v *view, b *bucketView) {
	now := v.sight(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seen[b.ino]; !ok {
		s.seen[b.ino] = now
	}
}

// sameSight reports whether the session may still see and read all that it could, as far as buckets as a whole decide it, and
// remembers what it may now.
func (s *Session) sameSight() bool {
	s.mu.Lock()
	before := maps.Clone(s.seen)
	s.mu.Unlock()
	v := s.view()
	same := true
	for ino, was := range before {
		b, err := s.bucketView(v, ino)
		if err != nil {
			same = false
			s.mu.Lock()
			delete(s.seen, ino)
			s.mu.Unlock()
			continue
		}
		now := v.sight(b)
		same = same && now.get.still(was.get) && now.list.still(was.list) && now.look.still(was.look)
		s.mu.Lock()
		s.seen[ino] = now
		s.mu.Unlock()
	}
	return same
}

// errNotBound and errOther say why a session has no rights at all.
var (
	errNotBound = errors.New("the principal is not bound to the mount's uid any more")
	errOther    = errors.New("the principal was deleted; another has its name now")
)

// identity is the principal as of now: the one that the session was made for, not another of the same name, and only while the OS user
// whose session it is may act as him.
func (s *Session) identity() (*policy.Identity, error) {
	who, err := s.cfg.Principals.Identity(s.cfg.Principal)
	switch {
	case err != nil:
		return nil, err
	case s.id != "" && who.ID != s.id:
		return nil, errOther
	case s.cfg.Bound && !slices.Contains(s.cfg.Principals.ByUID(s.cfg.UID), s.cfg.Principal):
		return nil, errNotBound
	}
	return who, nil
}
