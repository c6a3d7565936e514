package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/keystore/audit"
	"github.com/kmsfs/kmsfs/mount"
	"github.com/kmsfs/kmsfs/mount/fusefs"
)

// The tamper tests damage a whole store, file by file and region by region, and open and read it in a child process, which is this test
// binary started again: whatever happens there, a panic or an exit in a goroutine of a library included, is seen here. What the child
// reads must be what was written, or fail as EIO does; or the store is refused. Environment:
//
//	KMSFS_TAMPER_CASES=n  cases (by default a few hundred); a negative number: every region of every file (see tamperings)
//	KMSFS_TAMPER_SEED=n   replays the choice of cases
//	KMSFS_TAMPER_FILE=s   only files whose names contain s

const tamperEnv = "KMSFS_TAMPER_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(faultyEnv) != "" {
		os.Exit(faultyProgram())
	}
	if os.Getenv(tamperEnv) != "" {
		if err := tamperChild(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// sight is all that can be seen of a store.
type sight struct {
	Refused string            // why it does not open
	Seen    map[string]string // what was read -> what it was, in short
	Failed  map[string]string // what could not be read -> an error that is EIO
	Wrong   map[string]string // -> any other error
	Events  []string          // of the audit log, before the store was looked at
	Broken  string            // what the audit log says of itself
	Log     string
}

// lockedBuffer collects a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tamperChild looks at the stores whose directories it is told.
func tamperChild(in io.Reader, out io.Writer) error {
	enc := json.NewEncoder(out)
	var h *holder
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var l sight
		if dir, ok := strings.CutPrefix(lines.Text(), holdOrder); ok {
			if h, l = hold(dir); l.Refused == "" {
				l = h.contents()
			}
		} else if lines.Text() == againOrder {
			l = h.contents()
		} else {
			l = lookAt(lines.Text())
		}
		if err := enc.Encode(l); err != nil {
			return err
		}
	}
	return nil
}

func lookAt(dir string) (l sight) {
	var said lockedBuffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	s, err := openStore(dir, openOptions{Log: log})
	if err != nil {
		l.Refused = err.Error()
		return l
	}
	l.Seen, l.Failed, l.Wrong = map[string]string{}, map[string]string{}, map[string]string{}
	err = s.audit.Query(audit.Filter{}, func(e audit.Event) error {
		l.Events = append(l.Events, fmt.Sprint(e.Sequence, e.EventName, e.EventID, e.ErrorCode))
		return nil
	})
	if _, verr := s.audit.Verify(); err != nil || verr != nil {
		l.Broken = errors.Join(err, verr).Error()
	}
	hub := mount.NewHub(mount.HubConfig{Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Log: log})
	ses, err := mount.NewSession(mount.SessionConfig{
		Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Principal: "admin", Hub: hub, Clock: time.Now, Log: log,
	})
	if err != nil {
		l.Refused = err.Error()
	} else {
		l.identities(s)
		l.tree(ses, "", mount.RootIno)
		_ = ses.Close()
	}
	hub.Close()
	if err := s.Close(); err != nil {
		log.Info("close", "err", err)
	}
	l.Log = said.String()
	return l
}

// saw notes a value, or why there is none.
func (l *sight) saw(what string, value any, err error) {
	switch {
	case err == nil:
		sum := sha256.Sum256(fmt.Appendf(nil, "%v", value))
		l.Seen[what] = hex.EncodeToString(sum[:6])
	case fusefs.Errno(err, false) == syscall.EIO:
		l.Failed[what] = err.Error()
	default:
		l.Wrong[what] = err.Error()
	}
}

// identities are what the ledger holds. It is verified as a whole when it is opened.
func (l *sight) identities(s *store) {
	for _, p := range s.principals.List() {
		l.saw("principal "+p.Name, p, nil)
	}
	for _, name := range s.principals.Policies() {
		text, ok := s.principals.Policy(name)
		l.saw("policy "+name, fmt.Sprint(string(text), ok), nil)
	}
	who, err := s.principals.Identity("admin")
	if err != nil {
		l.saw("admin", nil, err)
		return
	}
	call := &keystore.Call{Who: who}
	all, err := s.keystore.ListKeys(call)
	l.saw("keys", fmt.Sprint(all), err)
	for _, k := range all {
		text, err := s.keystore.GetKeyPolicy(call, k.KeyID)
		l.saw("key policy "+k.KeyID, string(text), err)
	}
	aliases, err := s.keystore.ListAliases(call, "")
	l.saw("aliases", fmt.Sprint(aliases), err)
}

func (l *sight) tree(s *mount.Session, path string, dir mount.Ino) {
	var c mount.Caller
	h, err := s.OpenDir(c, dir)
	var names []string
	if err == nil {
		err = h.Read(0, func(e mount.Dirent) bool {
			names = append(names, e.Name)
			return true
		})
	}
	slices.Sort(names)
	l.saw("list "+path, names, err)
	for _, name := range names {
		p := path + "/" + name
		a, err := s.Lookup(c, dir, name)
		shown := a
		shown.Atime = 0
		if p == "/bkt/append" { // still open while the store was copied: its times are those of the last commit
			shown.Mtime, shown.Ctime = 0, 0
		}
		l.saw("attr "+p, shown, err)
		if err != nil {
			continue
		}
		l.attributes(s, p, a.Ino)
		switch a.Type {
		case mount.Directory:
			l.tree(s, p, a.Ino)
		case mount.Symlink:
			to, err := s.Readlink(c, a.Ino)
			l.saw("link "+p, to, err)
		case mount.Regular:
			sum, err := content(s, a)
			l.saw("data "+p, sum, err)
		case mount.FIFO, mount.Socket, mount.CharDevice, mount.BlockDevice:
		}
	}
}

func content(s *mount.Session, a mount.Attr) (string, error) {
	h, err := s.Open(mount.Caller{}, a.Ino, mount.OpenFlags{Read: true})
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	buf := make([]byte, 100_000) // not a multiple of anything
	for off := int64(0); ; {
		n, err := h.ReadAt(buf, off)
		if err != nil {
			return "", errors.Join(err, h.Close())
		}
		sum.Write(buf[:n])
		off += int64(n)
		if n < len(buf) {
			return fmt.Sprintf("%d %x", off, sum.Sum(nil)), h.Close()
		}
	}
}

func (l *sight) attributes(s *mount.Session, p string, ino mount.Ino) {
	var c mount.Caller
	names, err := s.ListXattr(c, ino)
	l.saw("attributes "+p, names, err)
	for _, name := range append(names, "user.s3.sse", "user.s3.sse-kms-key-id", "user.s3.encryption", "user.s3.policy") {
		v, err := s.GetXattr(c, ino, name)
		if errors.Is(err, mount.ErrNoAttr) {
			v, err = []byte("none"), nil
		}
		l.saw("attribute "+name+" "+p, string(v), err)
	}
}

// wrongs compares what is seen of a damaged store with what is there.
func (l *sight) wrongs(want *sight, crashed bool) (out []string) {
	if l.Refused != "" {
		return nil
	}
	for k, e := range l.Wrong {
		if e != want.Wrong[k] {
			out = append(out, fmt.Sprintf("%s: an error that is not EIO: %s", k, e))
		}
	}
	for k, v := range l.Seen {
		if w, ok := want.Seen[k]; !ok {
			out = append(out, k+" was never there")
		} else if v != w {
			out = append(out, k+" is not what was written")
		}
	}
	// What is missing must be below something that failed.
	for k := range want.Seen {
		if l.Seen[k] == "" && l.Failed[k] == "" && l.Wrong[k] == "" && !l.below(k) {
			out = append(out, k+" is missing, and nothing failed")
		}
	}
	slices.Sort(out)
	if l.Broken == "" && !strings.Contains(l.Log, "the audit log lacks events") {
		if crashed && len(l.Events) < len(want.Events) && slices.Equal(l.Events, want.Events[:len(l.Events)]) {
			return out // the end of the log is remembered whenever the store is closed in order: what came since may be cut off
		}
		if len(l.Events) < len(want.Events) || !slices.Equal(l.Events[:len(want.Events)], want.Events) {
			out = append(out, fmt.Sprintf("the audit log has other events, and does not know: %d for %d", len(l.Events), len(want.Events)))
		}
	}
	return out
}

// below reports whether something failed that leads to what k speaks of.
func (l *sight) below(k string) bool {
	at := strings.IndexByte(k, '/')
	if at < 0 {
		return false
	}
	for p := k[at:]; ; p = p[:max(strings.LastIndexByte(p, '/'), 0)] {
		for _, kind := range []string{"list ", "attr ", "attributes "} {
			if l.Failed[kind+p] != "" {
				return true
			}
		}
		if p == "" {
			return false
		}
	}
}

// looker is a child process that looks at stores.
type looker struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

func newLooker(t *testing.T) *looker {
	t.Helper()
	l := &looker{cmd: exec.Command(os.Args[0])}
	l.cmd.Env = append(os.Environ(), tamperEnv+"=1")
	l.cmd.Stderr = &l.stderr
	in, err := l.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.in, l.out = in, bufio.NewReader(out)
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *looker) end() {
	_ = l.in.Close()
	_ = l.cmd.Process.Kill()
	_ = l.cmd.Wait()
}

// look has the child look at a store. An error says how the child died.
func (l *looker) look(dir string) (s sight, err error) {
	answer := make(chan error, 1)
	go func() {
		line, err := l.out.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &s)
		}
		answer <- err
	}()
	if _, err := fmt.Fprintln(l.in, dir); err != nil {
		return s, err
	}
	beats := time.NewTicker(time.Second) // and not one long wait, which would go on while all of this is stopped
	defer beats.Stop()
	for range 120 {
		select {
		case err = <-answer:
			if err != nil {
				_ = l.cmd.Wait()
				err = fmt.Errorf("it died: %w: %.3000s", err, l.stderr.String())
			}
			return s, err
		case <-beats.C:
		}
	}
	_ = l.cmd.Process.Signal(syscall.SIGQUIT) // shows its goroutines
	<-answer
	_ = l.cmd.Wait()
	return s, fmt.Errorf("it hangs: %.20000s", l.stderr.String())
}

// image is a store's directory in memory, without the zeros.
type image map[string]*blob

type blob struct {
	b     []byte
	pages []int // offsets of pages that are not zeros
}

const page = 4096

func newBlob(b []byte) *blob {
	f := &blob{b: b}
	zero := make([]byte, page)
	for at := 0; at < len(b); at += page {
		if p := b[at:min(at+page, len(b))]; !bytes.Equal(p, zero[:len(p)]) {
			f.pages = append(f.pages, at)
		}
	}
	return f
}

// readImage reads all files of a store. If it is open, compaction may go on while its files are read one after the other; what is read
// twice alike is what they all were in between.
func readImage(t *testing.T, dir string) image {
	t.Helper()
	var last image
	for range 1000 {
		im, err := readFiles(dir)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if maps.EqualFunc(im, last, func(a, b *blob) bool { return bytes.Equal(a.b, b.b) }) {
			return im
		}
		last = im
	}
	t.Fatal("the store's files do not come to rest")
	return nil
}

func readFiles(dir string) (image, error) {
	im := image{}
	err := filepath.WalkDir(dir, func(p string, d iofs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if rel != "lock" && rel != "daemon.log" {
			im[rel] = newBlob(b)
		}
		return err
	})
	return im, err
}

func (f *blob) write(name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = out.Truncate(int64(len(f.b)))
	for _, at := range f.pages {
		if err == nil {
			_, err = out.WriteAt(f.b[at:min(at+page, len(f.b))], int64(at))
		}
	}
	return errors.Join(err, out.Close())
}

// put writes the store into a directory of its own.
func (im image) put(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for name, f := range im {
		if err := f.write(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// tampering is one way to damage a store. It changes a copy.
type tampering struct {
	what string
	do   func(im image)
	off  int // in the file; -1: it is about the whole file
}

// regions are the sizes of those that are zeroed, swapped, cut out, doubled or put back.
var regions = []int{16, 512, page}

const fine = 64

// tamperings are the ways to damage one file. In what is not zeros there are at every 64 bytes a flipped bit, an inverted byte, a cut and, in
// turn, one of the ways to damage 16 bytes; at every 512 bytes all ways to damage 512, and at every page all ways to damage a page.
func tamperings(im, older image, name string) (out []tampering) {
	good := im[name].b
	add := func(what string, change func(b []byte) []byte) {
		out = append(out, tampering{name + ": " + what, func(im image) { im[name] = newBlob(change(bytes.Clone(good))) }, -1})
	}
	at := func(what string, step, first int, change func(b []byte, at int) []byte) {
		for _, p := range im[name].pages {
			for o := p + first; o < min(p+page, len(good)); o += step {
				add(fmt.Sprintf("%s at %d of %d", what, o, len(good)), func(b []byte) []byte { return change(b, o) })
				out[len(out)-1].off = o
			}
		}
	}
	// The whole file.
	out = append(out, tampering{name + ": removed", func(im image) { delete(im, name) }, -1})
	add("emptied", func([]byte) []byte { return nil })
	add("zeroed", func(b []byte) []byte { clear(b); return b })
	add("longer by a page", func(b []byte) []byte { return append(b, make([]byte, page)...) })
	add("longer by itself", func(b []byte) []byte { return append(b, b[:min(len(b), 1<<20)]...) })
	if len(good) > 0 {
		add("shorter by one", func(b []byte) []byte { return b[:len(b)-1] })
	}
	if old := older[name]; old != nil && !bytes.Equal(old.b, good) {
		add("as it once was", func([]byte) []byte { return bytes.Clone(old.b) })
	}
	for other, f := range im {
		if other > name && filepath.Ext(other) == filepath.Ext(name) && filepath.Dir(other) == filepath.Dir(name) {
			out = append(out, tampering{name + ": swapped with " + other, func(im image) { im[name], im[other] = im[other], im[name] }, -1},
				tampering{name + ": replaced by " + other, func(im image) { im[name] = f }, -1})
		}
	}
	// Places in it.
	at("a flipped bit", fine, 0, func(b []byte, o int) []byte { b[o] ^= 1 << (o / fine % 8); return b })
	at("an inverted byte", fine, 0, func(b []byte, o int) []byte { b[min(o+fine/2, len(b)-1)] ^= 0xff; return b })
	at("cut", fine, 0, func(b []byte, o int) []byte { return b[:o] })
	for _, n := range regions {
		turn := 0
		at := func(what string, change func(b []byte, at int) []byte) {
			if n >= fine {
				at(what, n, 0, change)
				return
			}
			at(what, 5*fine, turn*fine, change)
			turn++
		}
		at(fmt.Sprintf("%d bytes zeroed", n), func(b []byte, o int) []byte { clear(b[o:min(o+n, len(b))]); return b })
		at(fmt.Sprintf("%d bytes cut out", n), func(b []byte, o int) []byte { return slices.Delete(b, o, min(o+n, len(b))) })
		at(fmt.Sprintf("%d bytes doubled", n), func(b []byte, o int) []byte {
			return slices.Insert(b, o, bytes.Clone(b[o:min(o+n, len(b))])...)
		})
		at(fmt.Sprintf("%d bytes swapped with the next", n), func(b []byte, o int) []byte {
			if o+2*n <= len(b) {
				first := bytes.Clone(b[o : o+n])
				copy(b[o:], b[o+n:o+2*n])
				copy(b[o+n:], first)
			}
			return b
		})
		if old := older[name]; old != nil {
			at(fmt.Sprintf("%d bytes as they once were", n), func(b []byte, o int) []byte {
				if o < len(old.b) {
					copy(b[o:min(o+n, len(b))], old.b[o:])
				}
				return b
			})
		}
	}
	return out
}

// buildTampered makes a store with everything in it. older is what its files once were; crashed is the same store, copied while it was
// open, as a crash would leave it.
func buildTampered(t *testing.T) (clean, older, crashed image) {
	t.Helper()
	dir := cleanEnv(t)
	must := func(args ...string) {
		t.Helper()
		if code, _, stderr := kmsfs(t, args...); code != exitOK {
			t.Fatal(args, stderr)
		}
	}
	must("init", "--admin", "admin")
	must("principal", "create", "alice", "--uid", "1000", "--policy", "AmazonS3ReadOnlyAccess")
	must("key", "create", "--alias", "one")
	must("key", "create", "--alias", "two")
	work := func(fn func(s *store, u *hand)) image {
		s, err := openStore(dir, openOptions{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		u := newHand(t, s)
		fn(s, u)
		u.ok(s.volume.Sync())
		u.ok(s.audit.Flush())
		open := readImage(t, dir)
		u.end()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return open
	}
	work(func(_ *store, u *hand) {
		u.mkdir("bkt")
		u.mkdir("kms")
		u.set("kms", "user.s3.sse", "aws:kms:alias/one")
		u.mkdir("bkt/dir")
		u.mkdir("bkt/dir/deep")
		for i := range 30 {
			u.write(fmt.Sprintf("bkt/dir/small%d", i), i*37)
		}
		u.write("bkt/large", 1<<20+12345)
		u.write("bkt/append", 5000)
		u.write("kms/secret", 100_000)
		u.write("kms/note", 300)
		u.write("bkt/gone", 40_000)
		u.symlink("bkt/link", "dir/small1")
		u.link("bkt/large", "bkt/dir/hard")
		u.set("bkt/dir/small3", "user.color", "red")
		u.set("bkt/dir/small3", "user.long", strings.Repeat("x", 9000))
		u.fifo("bkt/fifo")
	})
	older = readImage(t, dir)
	must("key", "create", "--alias", "three")
	must("principal", "delete", "alice")
	crashed = work(func(_ *store, u *hand) {
		u.remove("bkt", "gone")
		u.set("kms/secret", "user.s3.sse", "aws:kms:alias/two")
		u.write("kms/secret", 60_000) // under the next generation of its data key
		u.write("bkt/dir/small7", 900)
		u.set("bkt/dir/small3", "user.color", "blue")
		u.rename("bkt/dir/small9", "bkt/dir/deep/moved")
		u.write("bkt/append", 9000)
		u.write("bkt/late", 250_000)
	})
	return readImage(t, dir), older, crashed
}

// hand works on a store as its administrator.
type hand struct {
	t   *testing.T
	s   *mount.Session
	hub *mount.Hub
	n   byte
}

func newHand(t *testing.T, s *store) *hand {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	hub := mount.NewHub(mount.HubConfig{Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Log: log})
	ses, err := mount.NewSession(mount.SessionConfig{
		Volume: s.volume, Keystore: s.keystore, Principals: s.principals, Principal: "admin", Hub: hub, Clock: time.Now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &hand{t: t, s: ses, hub: hub}
}

func (u *hand) end() {
	u.ok(u.s.Close())
	u.hub.Close()
}

func (u *hand) ok(err error) {
	u.t.Helper()
	if err != nil {
		u.t.Fatal(err)
	}
}

func (u *hand) at(p string) (ino mount.Ino) {
	u.t.Helper()
	ino = mount.RootIno
	for part := range strings.SplitSeq(p, "/") {
		if part == "" {
			continue
		}
		a, err := u.s.Lookup(mount.Caller{}, ino, part)
		u.ok(err)
		ino = a.Ino
	}
	return ino
}

func (u *hand) split(p string) (mount.Ino, string) {
	u.t.Helper()
	dir, name := filepath.Split(p)
	return u.at(dir), name
}

func (u *hand) mkdir(p string) {
	u.t.Helper()
	dir, name := u.split(p)
	_, err := u.s.Mkdir(mount.Caller{}, dir, name, 0o755)
	u.ok(err)
}

// write writes n bytes to a file, from its beginning, all of which differ from what any other write wrote there.
func (u *hand) write(p string, n int) {
	u.t.Helper()
	dir, name := u.split(p)
	u.n++
	var h *mount.Handle
	a, err := u.s.Lookup(mount.Caller{}, dir, name)
	if err == nil {
		h, err = u.s.Open(mount.Caller{}, a.Ino, mount.OpenFlags{Write: true})
	} else {
		_, h, err = u.s.Create(mount.Caller{}, dir, name, 0o644, mount.OpenFlags{Write: true})
	}
	u.ok(err)
	_, err = h.WriteAt(bytes.Repeat([]byte{u.n, byte(n), byte(n >> 8)}, n/3+1)[:n], 0, false)
	u.ok(err)
	u.ok(h.Flush())
	u.ok(h.Close())
}

// read reads all of a file, whatever it holds.
func (u *hand) read(p string) {
	u.t.Helper()
	h, err := u.s.Open(mount.Caller{}, u.at(p), mount.OpenFlags{Read: true})
	u.ok(err)
	_, err = h.ReadAt(make([]byte, 1<<20), 0)
	u.ok(err)
	u.ok(h.Close())
}

func (u *hand) set(p, name, value string) {
	u.t.Helper()
	u.ok(u.s.SetXattr(mount.Caller{}, u.at(p), name, []byte(value), mount.XattrEither))
}

func (u *hand) symlink(p, to string) {
	u.t.Helper()
	dir, name := u.split(p)
	_, err := u.s.Symlink(mount.Caller{}, dir, name, to)
	u.ok(err)
}

func (u *hand) fifo(p string) {
	u.t.Helper()
	dir, name := u.split(p)
	_, err := u.s.Mknod(mount.Caller{}, dir, name, mount.FIFO, 0o600, 0)
	u.ok(err)
}

func (u *hand) link(p, to string) {
	u.t.Helper()
	dir, name := u.split(to)
	_, err := u.s.Link(mount.Caller{}, u.at(p), dir, name)
	u.ok(err)
}

func (u *hand) remove(dir, name string) {
	u.t.Helper()
	u.ok(u.s.Unlink(mount.Caller{}, u.at(dir), name))
}

func (u *hand) rename(p, to string) {
	u.t.Helper()
	from, old := u.split(p)
	dir, name := u.split(to)
	_, err := u.s.Rename(mount.Caller{}, from, old, dir, name, 0)
	u.ok(err)
}

// tamperNumber reads a number from the environment.
func tamperNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, s)
	}
	return n
}

// TestTamperedStore damages a store in every way it can think of. The stories behind it: gocryptfs 804 (files that can be swapped),
// CryFS 155 (what an unclean stop left is refused or lost), JuiceFS 5038 (zeros in place of data), SeaweedFS 7499 (content changed
// silently).
func TestTamperedStore(t *testing.T) {
	clean, older, crashed := buildTampered(t)
	where, err := os.MkdirTemp("/dev/shm", "kmsfs-tamper-") // where it can be: a great many small syncs
	if err != nil {
		where, err = os.MkdirTemp("", "kmsfs-tamper-")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(where) })
	dir := filepath.Join(where, "store")

	cases := tamperNumber(t, "KMSFS_TAMPER_CASES", 160)
	seed := tamperNumber(t, "KMSFS_TAMPER_SEED", int(time.Now().UnixNano()/1000%1e9))
	rnd := rand.New(rand.NewPCG(uint64(seed), 5))
	t.Logf("seed %d", seed)
	for _, c := range []struct {
		name string
		im   image
	}{{"clean", clean}, {"crashed", crashed}} {
		t.Run(c.name, func(t *testing.T) {
			look := newLooker(t)
			defer func() { look.end() }()
			if err := c.im.put(dir); err != nil {
				t.Fatal(err)
			}
			want, err := look.look(dir)
			if err != nil || want.Refused != "" || len(want.Failed) > 0 || len(want.Wrong) > 0 || want.Broken != "" || len(want.Seen) < 150 {
				t.Fatalf("the store as it is: %v, %+v", err, want)
			}
			var all []tampering
			for _, name := range slices.Sorted(maps.Keys(c.im)) {
				if !strings.Contains(name, os.Getenv("KMSFS_TAMPER_FILE")) {
					continue
				}
				some := tamperings(c.im, older, name)
				if cases >= 0 { // of each file about as many, the whole-file ones first
					k := min(len(some), max(cases/len(c.im)/2, 4))
					rnd.Shuffle(len(some)-3, func(i, j int) { some[i+3], some[j+3] = some[j+3], some[i+3] })
					some = some[:k]
				}
				if cases < 0 && strings.HasPrefix(name, "segments/") {
					some = tamperWithHeld(t, dir, c.im, name, some)
				}
				all = append(all, some...)
			}
			refused, failed, unseen := 0, 0, 0
			for i, x := range all {
				im := maps.Clone(c.im)
				x.do(im)
				if err := im.put(dir); err != nil {
					t.Fatal(err)
				}
				got, err := look.look(dir)
				if err != nil {
					t.Errorf("%s: %v", x.what, err)
					look.end()
					look = newLooker(t)
					continue
				}
				if w := got.wrongs(&want, c.name == "crashed"); len(w) > 0 {
					t.Errorf("%s:\n   %s", x.what, strings.Join(w[:min(len(w), 8)], "\n   "))
				}
				switch {
				case got.Refused != "":
					refused++
				case len(got.Failed) > 0 || got.Broken != "":
					failed++
				default:
					unseen++
				}
				if testing.Verbose() && i%5000 == 4999 {
					t.Logf("%d of %d", i+1, len(all))
				}
			}
			t.Logf("%d files, %d cases: %d refused, %d with reads that failed, %d without effect", len(c.im), len(all), refused, failed, unseen)
		})
	}
}
