package host

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestMountsOfOthers(t *testing.T) {
	r := newRig(t, true)
	dir := t.TempDir()
	var m MountInfo
	r.must(uidAlice, CmdMount, MountArgs{Dir: dir, Options: []string{"ro", "noexec"}}, &m)
	if m.Principal != "alice" || m.UID != uidAlice || m.By != uidAlice {
		t.Errorf("mounted %+v", m)
	}
	o := r.server(dir).opts
	if o.UID != uidAlice || o.GID != uidAlice || !o.ReadOnly || o.AllowOther || o.Source != SourceOf(r.d.cfg.Info.StoreID) {
		t.Errorf("options %+v", o)
	}
	for name, c := range map[string]struct {
		uid  uint32
		as   string
		args MountArgs
		want string
	}{
		"there already":            {uidAlice, "", MountArgs{Dir: dir}, "Failed"},
		"another's principal":      {uidAlice, "", MountArgs{Dir: "/x", Principal: "admin"}, denied},
		"another's principal, as":  {uidAlice, "bob", MountArgs{Dir: "/x"}, denied},
		"allow_other":              {uidAlice, "", MountArgs{Dir: "/x", Options: []string{"allow_other"}}, "InvalidArgument"},
		"dev":                      {uidAlice, "", MountArgs{Dir: "/x", Options: []string{"dev"}}, "InvalidArgument"},
		"nonsense encryption":      {uidAlice, "", MountArgs{Dir: "/x", Options: []string{"sse=rot13"}}, "InvalidArgument"},
		"bound to nobody":          {uidNobody, "", MountArgs{Dir: "/x"}, denied},
		"which of two":             {uidTwins, "", MountArgs{Dir: "/x"}, "AmbiguousPrincipal"},
		"root, no such directory":  {uidRoot, "alice", MountArgs{Dir: "/no/such/dir"}, "Failed"},
		"root, not alice's own":    {uidRoot, "alice", MountArgs{Dir: "/etc"}, denied},
		"the kernel says no":       {uidAlice, "", MountArgs{Dir: "/x/broken"}, "Failed"},
		"root, but a plain file":   {uidRoot, "alice", MountArgs{Dir: "/etc/passwd"}, "Failed"},
		"the top of the tree":      {uidRoot, "admin", MountArgs{Dir: "/"}, "InvalidArgument"},
		"an unknown principal":     {uidRoot, "", MountArgs{Dir: "/x", Principal: "nobody-here"}, "NoSuchEntity"},
		"root is nobody by itself": {uidRoot, "", MountArgs{Dir: "/x"}, denied},
	} {
		if _, resp := r.do(c.uid, c.as, CmdMount, c.args); resp.Error == nil || resp.Error.Code != c.want {
			t.Errorf("%s: %+v, want %s", name, resp.Error, c.want)
		}
	}

	var s Status
	r.must(uidBob, CmdStatus, NoArgs{}, &s)
	if len(s.Mounts) != 0 {
		t.Errorf("bob sees %+v", s.Mounts)
	}
	r.must(uidAlice, CmdStatus, NoArgs{}, &s)
	if len(s.Mounts) != 1 || !s.Running {
		t.Errorf("alice sees %+v", s)
	}
	if s.Space == nil || s.Space.Held != nil {
		t.Errorf("alice sees %+v", s.Space)
	}
	r.must(uidOwner, CmdStatus, NoArgs{}, &s)
	if s.Space.Held == nil || *s.Space.Held != (Held{Live: 3, Dead: 2, Metadata: 1}) {
		t.Errorf("the owner sees %+v", s.Space)
	}
	if _, resp := r.do(uidBob, "", CmdUmount, UmountArgs{Dir: dir}); resp.Error == nil || resp.Error.Code != denied {
		t.Errorf("bob unmounts: %+v", resp.Error)
	}
	if _, resp := r.do(uidAlice, "", CmdUmount, UmountArgs{Dir: "/elsewhere"}); resp.Error == nil || resp.Error.Code != "NotMounted" {
		t.Errorf("no mount: %+v", resp.Error)
	}
	if _, resp := r.do(uidAlice, "", CmdStop, NoArgs{}); resp.Error == nil || resp.Error.Code != denied {
		t.Errorf("alice stops: %+v", resp.Error)
	}

	// Paths on a mount are understood, by those who can see the file.
	var infos []StatInfo
	r.must(uidAlice, CmdStat, StatArgs{Paths: []Path{{Typed: "f", Absolute: dir + "/box/f"}}}, &infos)
	if infos[0].Path != "box/f" || infos[0].Error != "" {
		t.Errorf("stat on a mount: %+v", infos)
	}
	_ = r.server(dir).Abort()
}

// TestMountsOfOneUser: nobody but root and the owner has more than his share of mounts; others still get theirs.
func TestMountsOfOneUser(t *testing.T) {
	r := newRig(t, true)
	top := t.TempDir()
	dir := func(i int) string { return filepath.Join(top, fmt.Sprint(i)) }
	for i := range maxMounts {
		r.must(uidAlice, CmdMount, MountArgs{Dir: dir(i)}, nil)
	}
	if _, resp := r.do(uidAlice, "", CmdMount, MountArgs{Dir: dir(maxMounts)}); resp.Error == nil || resp.Error.Code != "LimitExceeded" {
		t.Errorf("one more: %+v", resp.Error)
	}
	r.must(uidBob, CmdMount, MountArgs{Dir: dir(maxMounts)}, nil)
	m := r.d.at(dir(0))
	_ = r.server(dir(0)).Abort()
	<-m.gone
	r.must(uidAlice, CmdMount, MountArgs{Dir: dir(maxMounts + 1)}, nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.servers {
		_ = s.Abort()
	}
}

// TestEndsWithTheLastMount: a daemon that was started for a mount goes with it.
func TestEndsWithTheLastMount(t *testing.T) {
	r := newRig(t, false)
	first, second := t.TempDir(), t.TempDir()
	r.must(uidAlice, CmdMount, MountArgs{Dir: first}, nil)
	r.must(uidBob, CmdMount, MountArgs{Dir: second}, nil)
	m := r.d.at(first)
	_ = r.server(first).Abort()
	<-m.gone
	select {
	case <-r.d.Done():
		t.Fatal("it ended with a mount left")
	default:
	}
	_ = r.server(second).Abort()
	<-r.d.Done()
	if _, resp := r.do(uidAlice, "", CmdMount, MountArgs{Dir: first}); resp.Error == nil || resp.Error.Code != CodeEnding {
		t.Errorf("a mount that came too late: %+v", resp.Error)
	}
}

func TestFailedFirstMountEndsTheDaemon(t *testing.T) {
	r := newRig(t, false)
	if _, resp := r.do(uidAlice, "", CmdMount, MountArgs{Dir: "/x/broken"}); resp.Error == nil {
		t.Fatal("it worked")
	}
	<-r.d.Done()
}

func TestStop(t *testing.T) {
	r := newRig(t, true)
	r.must(uidOwner, CmdStop, NoArgs{}, nil)
	<-r.d.Done()
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l, err := TryLock(dir, "command")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(dir, "command"); err == nil || !strings.Contains(err.Error(), ErrBusy.Error()) {
		t.Errorf("second: %v", err)
	}
	l.Release()
	if l, err = TryLock(dir, "daemon"); err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(dir, "command"); err == nil || !strings.Contains(err.Error(), ErrServed.Error()) {
		t.Errorf("behind a daemon: %v", err)
	}
	l.Release()
}

// TestGoodbyeWaits: a daemon that leaves waits until its supervisor has let go of the store.
func TestGoodbyeWaits(t *testing.T) {
	var ends [4]*os.File
	for i := range 2 {
		var err error
		if ends[2*i], ends[2*i+1], err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ends[2*i].Close() }()
	}
	pipe, said, parted, parting := ends[1], ends[0], ends[2], ends[3]
	var let atomic.Bool
	go func() {
		if words, err := io.ReadAll(said); err != nil || string(words) != goodbye {
			t.Errorf("%q, %v", words, err)
		}
		let.Store(true)
		_ = parting.Close()
	}()
	Goodbye(pipe, parted)
	if !let.Load() {
		t.Error("the daemon has left before its supervisor let go")
	}
}

func TestSuperviseAfterGoodbye(t *testing.T) {
	for store, said := range map[string]string{"id": goodbye, "no-such-store": ""} { // the second died, and its store has no mount left
		d, theirs, err := DeputyPair()
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		daemon := exec.Command("sleep", "600")
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { // it ends in its own time after what it says
			_ = daemon.Process.Kill()
			_ = daemon.Wait()
		}()
		dir := t.TempDir()
		if err := Supervise(t.Context(), daemon.Process.Pid, strings.NewReader(said), theirs, dir, store, func() {}); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 { // the store is being removed
			t.Errorf("it left %v: %v", left, err)
		}
	}
}
