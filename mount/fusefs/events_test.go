package fusefs

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/keystore"
	"github.com/kmsfs/kmsfs/mount"
)

const (
	arnAlice = "arn:aws:iam::" + account + ":user/alice"
	arnCarol = "arn:aws:iam::" + account + ":user/carol"
	uidAlice = 4242
)

// keyPolicy is a key policy under which the account's policies count, with more statements.
func keyPolicy(more ...string) []byte {
	all := append([]string{`{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"}`}, more...)
	return []byte(`{"Version":"2012-10-17","Statement":[` + strings.Join(all, ",") + `]}`)
}

// mayUse is a statement that lets a user use the key; extra may hold a condition.
func mayUse(user, extra string) string {
	return `{"Effect":"Allow","Principal":{"AWS":"` + user + `"},"Action":["kms:Decrypt","kms:GenerateDataKey"],"Resource":"*"` + extra + `}`
}

const s3All = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`

// revocation is a store with a bucket under a KMS key, and three principals: alice will lose her right, carol keeps hers, and the
// administrator does it to them.
type revocation struct {
	*world
	key, other string // ARNs; alice may not use the other
	imported   string // another, whose material comes from outside
	bucketIno  mount.Ino
	session    *mount.Session // the administrator's
	alice      *teller
	carol      *teller
	mountOf    map[*teller]*Server
	slowest    map[string]time.Duration // by consequence
}

func newRevocation(t *testing.T) *revocation {
	w := newWorld(t)
	r := &revocation{world: w, mountOf: map[*teller]*Server{}, slowest: map[string]time.Duration{}}
	w.bound = map[string]uint32{"alice": uidAlice}
	w.user("alice", "AmazonS3FullAccess")
	w.ok(w.principals.BindUID("alice", uidAlice))
	w.user("carol", "AmazonS3FullAccess")
	key, err := w.keys.CreateKey(w.call("admin"), keystore.CreateKeyInput{Alias: "alias/k", Policy: keyPolicy(mayUse(arnAlice, ""), mayUse(arnCarol, ""))})
	w.ok(err)
	other, err := w.keys.CreateKey(w.call("admin"), keystore.CreateKeyInput{Alias: "alias/other", Policy: keyPolicy(mayUse(arnCarol, ""))})
	w.ok(err)
	imported, err := w.keys.CreateKey(w.call("admin"), keystore.CreateKeyInput{Origin: "EXTERNAL", Policy: keyPolicy(mayUse(arnAlice, ""), mayUse(arnCarol, ""))})
	w.ok(err)
	r.key, r.other, r.imported = key.ARN, other.ARN, imported.ARN
	w.bucket("secret")
	r.session = w.session("admin", mount.Options{})
	b, err := r.session.Lookup(mount.Caller{}, mount.RootIno, "secret")
	w.ok(err)
	r.bucketIno = b.Ino
	r.encrypt(b.Ino, "aws:kms:alias/k")
	r.alice = r.enter(t, "alice")
	r.carol = r.enter(t, "carol")
	return r
}

func (r *revocation) enter(t *testing.T, name string) *teller {
	srv := r.mountAt(name, t.TempDir(), Options{})
	u := tell(t, nil, srv.Dir())
	r.mountOf[u] = srv
	return u
}

func (r *revocation) encrypt(ino mount.Ino, value string) {
	r.t.Helper()
	r.ok(r.session.SetXattr(mount.Caller{}, ino, "user.s3.sse", []byte(value), mount.XattrEither))
}

// bucketPolicy sets the bucket's policy to one statement, or removes it.
func (r *revocation) bucketPolicy(statement string) {
	r.t.Helper()
	if statement == "" {
		r.ok(r.session.RemoveXattr(mount.Caller{}, r.bucketIno, "user.s3.policy"))
		return
	}
	text := `{"Version":"2012-10-17","Statement":[` + statement + `]}`
	r.ok(r.session.SetXattr(mount.Caller{}, r.bucketIno, "user.s3.policy", []byte(text), mount.XattrEither))
}

// importFor gives the imported key its material, for so long from now on, or for ever if that is 0. It returns when that ends.
func (r *revocation) importFor(d time.Duration) (until time.Time) {
	r.t.Helper()
	p, err := r.keys.GetParametersForImport(r.call("admin"), r.imported, "RSAES_OAEP_SHA_256", "RSA_2048")
	r.ok(err)
	public, err := x509.ParsePKIXPublicKey(p.PublicKey)
	r.ok(err)
	encrypted, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), bytes.Repeat([]byte{7}, 32), nil)
	r.ok(err)
	if d > 0 {
		until = r.now().Add(d) // now that the RSA key, which may take its time, is made
	}
	_, _, err = r.keys.ImportKeyMaterial(r.call("admin"), r.imported, p.Token, encrypted, until)
	r.ok(err)
	return until
}

func (r *revocation) ino(name string) mount.Ino {
	r.t.Helper()
	a, err := r.session.Lookup(mount.Caller{}, r.bucketIno, name)
	r.ok(err)
	return a.Ino
}

// content reads a file as the administrator, without a kernel.
func (r *revocation) content(name string) string {
	r.t.Helper()
	h, err := r.session.Open(mount.Caller{}, r.ino(name), mount.OpenFlags{Read: true})
	r.ok(err)
	defer func() { r.ok(h.Close()) }()
	buf := make([]byte, 100)
	n, err := h.ReadAt(buf, 0)
	r.ok(err)
	return string(buf[:n])
}

// event is one way to lose a right. Its functions get the names of the file that alice reads and of the one she writes.
type event struct {
	name    string
	prepare func(f, w string) // rights that are to be lost, if they are not those of all events
	do      func(f, w string)
	undo    func(f, w string)
	errno   string // of opening and reading
	hides   bool   // names and attributes are not to be seen any more
	all     bool   // carol loses as well
	onlyF   bool   // the file that is written is not concerned
	moves   string // where f is afterwards; %s is f
}

func (r *revocation) events() []event {
	admin := func() *keystore.Call { return r.call("admin") }
	var grant string
	byGrant := func(string, string) {
		r.ok(r.keys.PutKeyPolicy(admin(), r.key, keyPolicy(mayUse(arnCarol, "")), false))
		var err error
		grant, _, err = r.keys.CreateGrant(admin(), r.key, keystore.CreateGrantInput{
			Grantee: arnAlice, Retiring: arnAlice, Operations: []string{"Decrypt", "GenerateDataKey"},
		})
		r.ok(err)
	}
	restore := func(string, string) {
		r.ok(r.keys.PutKeyPolicy(admin(), r.key, keyPolicy(mayUse(arnAlice, ""), mayUse(arnCarol, "")), false))
	}
	attach := func(string, string) { r.ok(r.principals.Attach("alice", "AmazonS3FullAccess")) }
	byGroup := func(string, string) {
		_, err := r.principals.CreateGroup("staff", []string{"AmazonS3FullAccess"})
		r.ok(err)
		r.ok(r.principals.AddMember("staff", "alice"))
		r.ok(r.principals.Detach("alice", "AmazonS3FullAccess"))
	}
	noGroup := func(string, string) {
		r.ok(r.principals.Attach("alice", "AmazonS3FullAccess"))
		_ = r.principals.RemoveMember("staff", "alice") // it may be done
		_ = r.principals.DetachGroup("staff", "AmazonS3FullAccess")
		r.ok(r.principals.DeleteGroup("staff"))
	}
	byImport := func(d time.Duration) func(string, string) {
		return func(string, string) {
			r.importFor(d)
			r.encrypt(r.bucketIno, "aws:kms:"+r.imported)
		}
	}
	importAgain := func(string, string) {
		r.importFor(0)
		r.encrypt(r.bucketIno, "aws:kms:alias/k")
	}
	byItself := func(f string) { // before anybody uses the key, which would notice
		r.shows(r.alice, "cached pages are gone when time is over", "incore secret/"+f, "0")
	}
	byAlias := `,"Condition":{"ForAnyValue:StringEquals":{"kms:ResourceAliases":"alias/team"}}`
	return []event{
		{
			name: "key policy without alice", errno: "EACCES", undo: restore,
			do: func(string, string) {
				r.ok(r.keys.PutKeyPolicy(admin(), r.key, keyPolicy(mayUse(arnCarol, "")), false))
			},
		},
		{
			name: "key disabled", errno: "EKEYREVOKED", all: true,
			do:   func(string, string) { r.ok(r.keys.DisableKey(admin(), r.key)) },
			undo: func(string, string) { r.ok(r.keys.EnableKey(admin(), r.key)) },
		},
		{
			name: "key scheduled for deletion", errno: "EKEYREVOKED", all: true,
			do: func(string, string) { _, err := r.keys.ScheduleKeyDeletion(admin(), r.key, 7); r.ok(err) },
			undo: func(string, string) {
				r.ok(r.keys.CancelKeyDeletion(admin(), r.key))
				r.ok(r.keys.EnableKey(admin(), r.key))
			},
		},
		{
			name: "grant revoked", errno: "EACCES", prepare: byGrant, undo: restore,
			do: func(string, string) { r.ok(r.keys.RevokeGrant(admin(), r.key, grant)) },
		},
		{
			name: "grant retired", errno: "EACCES", prepare: byGrant, undo: restore,
			do: func(string, string) { r.ok(r.keys.RetireGrant(r.call("alice"), "", r.key, grant)) },
		},
		{
			name: "alias moved away", errno: "EACCES",
			prepare: func(string, string) {
				r.ok(r.keys.CreateAlias(admin(), "alias/team", r.key))
				r.ok(r.keys.PutKeyPolicy(admin(), r.key, keyPolicy(mayUse(arnAlice, byAlias), mayUse(arnCarol, "")), false))
			},
			do: func(string, string) { r.ok(r.keys.UpdateAlias(admin(), "alias/team", r.other)) },
			undo: func(string, string) {
				r.ok(r.keys.DeleteAlias(admin(), "alias/team"))
				restore("", "")
			},
		},
		{
			name: "imported material deleted", errno: "ENOKEY", all: true, prepare: byImport(0), undo: importAgain,
			do: func(string, string) {
				_, _, err := r.keys.DeleteImportedKeyMaterial(admin(), r.imported)
				r.ok(err)
			},
		},
		{
			name: "imported material expired", errno: "ENOKEY", all: true, undo: importAgain,
			prepare: byImport(240 * time.Hour),
			do: func(f, _ string) {
				<-time.After(r.importFor(2 * time.Second).Sub(r.now()))
				byItself(f)
			},
		},
		{
			name: "imported material expired while the machine slept", errno: "ENOKEY", all: true, undo: importAgain,
			prepare: byImport(240 * time.Hour),
			do: func(f, _ string) {
				r.ahead.Add(int64(241 * time.Hour))
				byItself(f)
			},
		},
		{
			name: "bucket policy denies reading and writing", errno: "EACCES",
			do: func(string, string) {
				r.bucketPolicy(`{"Effect":"Deny","Principal":{"AWS":"` + arnAlice + `"},"Action":["s3:GetObject","s3:PutObject"],"Resource":"arn:aws:s3:::secret/*"}`)
			},
			undo: func(string, string) { r.bucketPolicy("") },
		},
		{
			name: "policy detached from the user", errno: "EACCES", hides: true, undo: attach,
			do: func(string, string) { r.ok(r.principals.Detach("alice", "AmazonS3FullAccess")) },
		},
		{
			name: "attached policy edited", errno: "EACCES", hides: true,
			prepare: func(string, string) {
				r.ok(r.principals.PutPolicy("hers", []byte(s3All)))
				r.ok(r.principals.Attach("alice", "hers"))
				r.ok(r.principals.Detach("alice", "AmazonS3FullAccess"))
			},
			do: func(string, string) {
				r.ok(r.principals.PutPolicy("hers", []byte(strings.Replace(s3All, `"Resource":"*"`, `"Resource":"arn:aws:s3:::elsewhere*"`, 1))))
			},
			undo: func(f, w string) {
				attach(f, w)
				r.ok(r.principals.Detach("alice", "hers"))
			},
		},
		{
			name: "taken out of the group", errno: "EACCES", hides: true, prepare: byGroup, undo: noGroup,
			do: func(string, string) { r.ok(r.principals.RemoveMember("staff", "alice")) },
		},
		{
			name: "policy detached from the group", errno: "EACCES", hides: true, prepare: byGroup, undo: noGroup,
			do: func(string, string) { r.ok(r.principals.DetachGroup("staff", "AmazonS3FullAccess")) },
		},
		{
			name: "permissions boundary set", errno: "EACCES", hides: true,
			do:   func(string, string) { r.ok(r.principals.SetBoundary("alice", "AWSKeyManagementServicePowerUser")) },
			undo: func(string, string) { r.ok(r.principals.RemoveBoundary("alice")) },
		},
		{
			name: "uid unbound", errno: "EACCES", hides: true,
			do:   func(string, string) { r.ok(r.principals.UnbindUID("alice", uidAlice)) },
			undo: func(string, string) { r.ok(r.principals.BindUID("alice", uidAlice)) },
		},
		{
			name: "file re-keyed", errno: "EACCES", onlyF: true,
			do:   func(f, _ string) { r.encrypt(r.ino(f), "aws:kms:"+r.other) },
			undo: func(f, _ string) { r.encrypt(r.ino(f), "aws:kms:alias/k") },
		},
		{
			name: "file truncated under another key", errno: "EACCES", onlyF: true,
			do: func(f, _ string) {
				r.encrypt(r.bucketIno, "aws:kms:"+r.other)
				h, err := r.session.Open(mount.Caller{}, r.ino(f), mount.OpenFlags{Write: true, Truncate: true})
				r.ok(err)
				_, err = h.WriteAt([]byte("one"), 0, false)
				r.ok(err)
				r.ok(h.Close())
				r.encrypt(r.bucketIno, "aws:kms:alias/k")
			},
			undo: func(f, _ string) { r.encrypt(r.ino(f), "aws:kms:alias/k") },
		},
		{
			name: "renamed under a denied prefix", errno: "EACCES", onlyF: true, moves: "denied-%s",
			prepare: func(string, string) {
				r.bucketPolicy(`{"Effect":"Deny","Principal":{"AWS":"` + arnAlice + `"},"Action":"s3:GetObject","Resource":"arn:aws:s3:::secret/denied-*"}`)
			},
			do: func(f, _ string) {
				_, err := r.session.Rename(mount.Caller{}, r.bucketIno, f, r.bucketIno, "denied-"+f, 0)
				r.ok(err)
			},
			undo: func(f, _ string) {
				_, err := r.session.Rename(mount.Caller{}, r.bucketIno, "denied-"+f, r.bucketIno, f, 0)
				r.ok(err)
				r.bucketPolicy("")
			},
		},
		{
			name: "user deleted", errno: "EACCES", hides: true, // the last: she does not come back
			do: func(string, string) { r.ok(r.principals.Delete("alice")) },
		},
	}
}

// TestRevocation takes rights away in every way there is while files are open, cached, mapped and half written, and measures how long
// each consequence takes to show. Carol, who keeps her rights, keeps her caches too: no READ of hers reaches the daemon.
func TestRevocation(t *testing.T) {
	r := newRevocation(t)
	for i, e := range r.events() {
		t.Logf("--- %s", e.name)
		r.try(t, e, fmt.Sprintf("f%d", i), fmt.Sprintf("w%d", i))
		if t.Failed() {
			t.Fatalf("at: %s", e.name)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(r.slowest)) {
		t.Logf("slowest: %-44s %v", what, r.slowest[what].Round(10*time.Microsecond))
	}

	t.Log("--- another user of that name does not get her mount")
	r.user("alice", "AmazonS3FullAccess")
	r.ok(r.principals.BindUID("alice", uidAlice))
	last := fmt.Sprintf("secret/f%d", len(r.events())-1) // still open
	r.alice.want("cat "+last, "EACCES")
	r.alice.want("read "+last, "EACCES")
	r.alice.want("stat "+last, "EACCES")
}

// shows waits until a line has its answer, at most a second, and keeps the slowest time of each consequence.
func (r *revocation) shows(u *teller, what, line, answer string) {
	r.t.Helper()
	d := u.within(time.Second, line, answer)
	r.slowest[what] = max(r.slowest[what], d)
}

// quiet reads a file until its pages stay: while an answer may be on its way to the kernel, what "put" changed is told to it again, and
// its pages go again.
func (r *revocation) quiet(u *teller, path string) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		before := r.mountOf[u].Reads()
		<-time.After(2 * time.Duration(straggle))
		u.want("read "+path, "one")
		if r.mountOf[u].Reads() == before {
			return
		}
	}
	r.t.Fatal("the pages of a file that nobody changes do not stay in the cache")
}

// cached has a mapped page in the cache, although what "put" changed may be told once more meanwhile.
func (r *revocation) cached(u *teller, path string) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		u.want("touch "+path, "o")
		if u.do("incore "+path) == "1" {
			return
		}
	}
	r.t.Fatalf("%s: a page that was just read is not in the cache", path)
}

func (r *revocation) try(t *testing.T, e event, f, w string) {
	a, c := r.alice, r.carol
	fPath, wPath, gPath := "secret/"+f, "secret/"+w, "secret/"+f+"-grip"
	if e.prepare != nil {
		e.prepare(f, w)
	}
	a.want("put "+fPath+" one", "ok")
	a.want("put "+wPath+" one", "ok")
	a.want("edit "+wPath, "ok")
	a.want("write "+wPath+" two", "ok")
	for _, u := range []*teller{a, c} {
		u.want("open "+fPath, "ok")
		u.want("read "+fPath, "one")
		u.want("map "+fPath, "ok")
		u.want("touch "+fPath, "o")
		u.want("stat "+fPath, "ok")
		r.cached(u, fPath)
	}
	// Of a third file they know attributes alone: there is no name to look up, nor content to be dropped, when those are asked for again.
	a.want("put "+gPath+" one", "ok")
	a.want("grip "+gPath, "ok")
	a.want("fstat "+gPath, "ok")
	r.quiet(c, fPath)
	aReads, cReads := r.mountOf[a].Reads(), r.mountOf[c].Reads()

	e.do(f, w)
	now := fPath
	if e.moves != "" {
		now = "secret/" + fmt.Sprintf(e.moves, f)
	}
	a.want("cat "+now, e.errno) // new opens: at once
	r.shows(a, "read through an open handle fails", "read "+fPath, e.errno)
	r.shows(a, "cached pages are gone", "incore "+fPath, "0")
	r.shows(a, "a fault in a mapping is SIGBUS", "touch "+fPath, "SIGBUS")
	if e.hides {
		r.shows(a, "attributes are gone", "stat "+fPath, "EACCES")
		r.shows(a, "attributes of what was found before are gone", "fstat "+gPath, "EACCES")
		r.shows(a, "listings are refused", "ls secret", "EACCES")
	} else {
		a.want("stat "+now, "ok")
		a.want("fstat "+gPath, "ok")
	}
	a.want("let "+gPath, "ok")
	if !e.onlyF {
		a.want("write "+wPath+" six", e.errno)
		r.wiped(w)
		a.want("close "+wPath, "ok") // what was answered is committed
	} else {
		a.want("write "+wPath+" two", "ok")
		a.want("close "+wPath, "ok")
	}
	if e.all {
		c.want("cat "+fPath, e.errno)
		r.shows(c, "cached pages are gone", "incore "+fPath, "0")
		r.wiped(f)
	} else {
		c.want("read "+fPath, "one")
		c.want("touch "+fPath, "o")
		if !e.onlyF { // else the file itself changed
			c.want("incore "+fPath, "1")
			if got := r.mountOf[c].Reads(); got != cReads {
				t.Errorf("%d READs of carol reached the daemon", got-cReads)
			}
		}
		c.want("cat "+wPath, "two")
	}
	if e.undo == nil {
		return
	}
	e.undo(f, w)
	r.shows(a, "a right that is back counts", "read "+fPath, "one")
	if r.mountOf[a].Reads() == aReads {
		t.Error("alice read pages that were to be dropped: no READ reached the daemon")
	}
	if got := r.content(w); got != "two" {
		t.Errorf("what was written before: %q", got)
	}
	for _, u := range []*teller{a, c} {
		u.want("close "+fPath, "ok")
	}
}

// wiped waits until no data key of a file is in memory.
func (r *revocation) wiped(name string) {
	r.t.Helper()
	ino := r.ino(name)
	began := time.Now()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Microsecond)
	defer tick.Stop()
	for {
		unlocked, err := r.vol.Unlocked(ino)
		r.ok(err)
		if !unlocked {
			r.slowest["data keys are wiped"] = max(r.slowest["data keys are wiped"], time.Since(began))
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.t.Errorf("the data key of %s is still in memory", name)
			return
		}
	}
}
