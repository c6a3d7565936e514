package host

import (
	"os"
	"path/filepath"
	"strings"
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

func TestMountPoints(t *testing.T) {
	table := strings.Join([]string{
		`25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw`,
		`40 25 0:50 / /home/al\040ice/s3 rw,nosuid,nodev - fuse.kmsfs kmsfs:1234 rw,user_id=1`,
		`41 40 0:51 / /home/al\040ice/s3/box/in\134ner rw shared:2 master:1 - fuse.kmsfs kmsfs:1234 rw`,
		`42 25 0:52 / /other rw - fuse.kmsfs kmsfs:9999 rw`,
		`43 25 0:53 / /fake rw - fuse.other kmsfs:1234 rw`,
		`broken line`,
	}, "\n")
	got, err := mountPoints(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []mountPoint{
		{"/other", "0:52", "kmsfs:9999"},
		{`/home/al ice/s3/box/in\ner`, "0:51", "kmsfs:1234"},
		{"/home/al ice/s3", "0:50", "kmsfs:1234"},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%d: %+v, want %+v", i, got[i], want[i])
		}
	}
}

func FuzzMountPoints(f *testing.F) {
	f.Add(`40 25 0:50 / /home/al\040ice rw - fuse.kmsfs kmsfs:1234 rw`)
	f.Add(`40 25 0:50 / /\9 rw - fuse.kmsfs \ `)
	f.Fuzz(func(_ *testing.T, table string) { _, _ = mountPoints(strings.NewReader(table)) })
}

// TestUnmountFollowsNoLink: a user who controls a directory above his mount
// cannot send root elsewhere.
func TestUnmountFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unmountAt(filepath.Join(dir, "link", "proc"), 0); err == nil || !strings.Contains(err.Error(), "symbolic links") {
		t.Errorf("through a link: %v", err)
	}
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

func TestSuperviseAfterGoodbye(t *testing.T) {
	for store, said := range map[string]string{"id": goodbye, "no-such-store": ""} { // the second died, and its store has no mount left
		d, theirs, err := DeputyPair()
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Supervise(t.Context(), strings.NewReader(said), theirs, t.TempDir(), store); err != nil {
			t.Error(err)
		}
	}
}
