package mount

import (
	"os"
	"testing"
)

func allow(resource string, actions string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":` + actions + `,"Resource":"` + resource + `"}]}`
}

// TestPrefixes gives a principal a prefix deep in a bucket: the way there is visible, its neighbours are not.
func TestPrefixes(t *testing.T) {
	w := tableWorld(t)
	admin := w.as("admin")
	for _, d := range []string{"pub/p", "pub/p/q", "pub/other"} {
		w.ok(admin.mkdir(d))
	}
	w.ok(admin.cp("pub/p/q/f", "mine"))
	w.ok(admin.cp("pub/p/g", "not mine"))
	w.user("deep", allow("arn:aws:s3:::pub/p/q/*", `["s3:GetObject","s3:PutObject","s3:DeleteObject"]`))
	deep := w.as("deep")
	reads(t, "his", deep, "pub/p/q/f", "mine")
	want(t, "make", deep.cp("pub/p/q/new", "x"), nil)
	refused(t, "neighbour", deep, "pub/p/g", ErrAccess)
	refused(t, "top", deep, "pub/f", ErrAccess)
	_, err := deep.walk("pub/other")
	want(t, "another directory", err, ErrAccess)
	_, err = deep.walk("pub/absent")
	want(t, "an absent name", err, ErrAccess)
	_, err = deep.walk("pub/p/q/absent")
	want(t, "an absent name of his", err, ErrNotFound)
	_, err = deep.ls("pub/p/q")
	want(t, "list", err, ErrAccess)
	want(t, "move within", deep.mv("pub/p/q/new", "pub/p/q/newer"), nil)
	want(t, "move out", deep.mv("pub/p/q/newer", "pub/p/newer"), ErrAccess)
	want(t, "move in", deep.mv("pub/p/g", "pub/p/q/g"), ErrAccess)

	w.user("lister", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::pub",
		"Condition":{"StringEquals":{"s3:prefix":["p/"],"s3:delimiter":"/"}}}]}`)
	lister := w.as("lister")
	if names, err := lister.ls("pub/p"); err != nil || len(names) != 2 {
		t.Errorf("list a prefix: %v %v", names, err)
	}
	_, err = lister.ls("pub")
	want(t, "list the bucket", err, ErrAccess)
}

// TestDirectoryRename judges everything beneath a directory.
func TestDirectoryRename(t *testing.T) {
	w := tableWorld(t)
	admin := w.as("admin")
	for _, d := range []string{"pub/d", "pub/d/e"} {
		w.ok(admin.mkdir(d))
	}
	w.ok(admin.cp("pub/d/e/secret", "x"))
	w.user("most", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"},
		{"Effect":"Deny","Action":"s3:GetObject","Resource":"arn:aws:s3:::pub/*/secret"}]}`)
	most := w.as("most")
	want(t, "with a secret beneath", most.mv("pub/d", "pub/x"), ErrAccess)
	w.ok(admin.mv("pub/d/e/secret", "pub/d/e/public"))
	want(t, "without", most.mv("pub/d", "pub/x"), nil)
	reads(t, "moved", most, "pub/x/e/public", "x")
}

// TestRenameUnderDeny moves an open file to where its reader may not read.
func TestRenameUnderDeny(t *testing.T) {
	w := tableWorld(t)
	admin := w.as("admin")
	w.ok(admin.mkdir("pub/closed"))
	w.user("some", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"},
		{"Effect":"Deny","Action":"s3:GetObject","Resource":"arn:aws:s3:::pub/closed/*"}]}`)
	some := w.as("some")
	h, err := some.open("pub/f", os.O_RDONLY)
	w.ok(err)
	if _, err := read(h); err != nil {
		t.Fatal(err)
	}
	w.ok(admin.mv("pub/f", "pub/closed/f"))
	_, err = read(h)
	want(t, "moved away", err, ErrAccess)
	w.ok(admin.mv("pub/closed/f", "pub/f"))
	if got, err := read(h); err != nil || got != "content of pub/f" {
		t.Errorf("and back: %q %v", got, err)
	}
	// A name more under the deny is enough to lose the right; a file without any name keeps who could say so by name.
	w.ok(admin.link("pub/f", "pub/closed/l"))
	_, err = read(h)
	want(t, "a denied name", err, ErrAccess)
	w.ok(admin.rm("pub/closed/l"))
	if got, err := read(h); err != nil || got != "content of pub/f" {
		t.Errorf("without it: %q %v", got, err)
	}
	w.ok(admin.rm("pub/f"))
	if got, err := read(h); err != nil || got != "content of pub/f" {
		t.Errorf("unlinked: %q %v", got, err)
	}
	want(t, "close", h.Close(), nil)
}

// TestHandles loses rights while files are open for writing.
func TestHandles(t *testing.T) {
	w := tableWorld(t)
	alice, drop := w.as("alice"), w.as("drop")
	a, err := alice.open("pay/f", os.O_RDWR)
	w.ok(err)
	_, err = a.WriteAt([]byte("ANSWERED"), 0, false)
	w.ok(err)
	d, err := drop.open("pay/d", os.O_WRONLY|os.O_CREATE)
	w.ok(err)
	_, err = d.WriteAt([]byte("answered"), 0, false)
	w.ok(err)
	w.ok(w.keys.PutKeyPolicy(w.call("admin"), w.key, []byte(keyPolicy("ro")), false))
	_, err = a.WriteAt([]byte("late"), 0, false)
	want(t, "write after the right went", err, ErrAccess)
	_, err = d.WriteAt([]byte("ANSWERED"), 0, false)
	want(t, "drop's right is still there", err, nil)
	want(t, "flush", a.Flush(), nil)
	want(t, "close", a.Close(), nil)
	w.ok(w.keys.DisableKey(w.call("admin"), w.key))
	_, err = d.WriteAt([]byte("too late"), 0, false)
	want(t, "key disabled", err, ErrKeyRevoked)
	want(t, "close", d.Close(), nil)
	w.ok(w.keys.EnableKey(w.call("admin"), w.key))
	reads(t, "what was answered is there", w.as("admin"), "pay/f", "ANSWERED"+"content of pay/f"[8:])
	reads(t, "what was answered is there", w.as("admin"), "pay/d", "ANSWERED")
}

// TestNoNeedlessEvents: a change of another principal, or of another key, does not make an open handle ask for its key again.
func TestNoNeedlessEvents(t *testing.T) {
	w := tableWorld(t)
	h, err := w.as("alice").open("pay/f", os.O_RDONLY)
	w.ok(err)
	n := w.events()
	w.ok(w.principals.Attach("none", "AmazonS3FullAccess"))
	w.ok(w.as("admin").mv("pub/f", "pub/g"))
	if got, err := read(h); err != nil || got != "content of pay/f" {
		t.Errorf("%q %v", got, err)
	}
	if got := w.events(); got != n {
		t.Errorf("%d events", got-n)
	}
	w.ok(w.principals.Detach("alice", "AmazonS3FullAccess"))
	_, err = read(h)
	want(t, "rights lost", err, ErrAccess)
	w.ok(h.Close())
}

func TestReadOnly(t *testing.T) {
	w := tableWorld(t)
	ro := w.as("admin", Options{ReadOnly: true})
	reads(t, "read", ro, "pub/f", "content of pub/f")
	want(t, "write", ro.cp("pub/f", "x"), ErrReadOnly)
	want(t, "create", ro.touch("pub/g"), ErrReadOnly)
	want(t, "remove", ro.rm("pub/f"), ErrReadOnly)
	want(t, "rename", ro.mv("pub/f", "pub/g"), ErrReadOnly)
	want(t, "attribute", ro.setx("pub/f", "user.x", "y"), ErrReadOnly)
	want(t, "mode", ro.chmod("pub/f", 0o600), ErrReadOnly)
	want(t, "mkdir", ro.mkdir("pub/d"), ErrReadOnly)
}

func TestPrincipalGoes(t *testing.T) {
	w := tableWorld(t)
	w.user("gone", "AdministratorAccess")
	gone := w.as("gone")
	h, err := gone.open("pay/f", os.O_RDONLY)
	w.ok(err)
	w.ok(w.principals.Delete("gone"))
	_, err = read(h)
	want(t, "read", err, ErrAccess)
	refused(t, "open", gone, "pub/f", ErrAccess)
	_, err = gone.ls("")
	want(t, "list", err, ErrAccess)
	if _, err := NewSession(gone.s.cfg); err == nil {
		t.Error("a session for a principal that is gone")
	}
}
