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
	"log/slog"
	"os"
	"os/exec"
	"slices"
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
