package mount

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/keystore/audit"
)

// events counts audit events so far.
func (w *world) events() int {
	w.t.Helper()
	w.ok(w.audit.Flush())
	n := 0
	w.ok(w.audit.Query(audit.Filter{}, func(audit.Event) error {
		n++
		return nil
	}))
	return n
}

func (u *user) wantx(t *testing.T, p, name, value string) {
	t.Helper()
	if got, err := u.getx(p, name); err != nil || got != value {
		t.Errorf("%s of %s: %q, %v; want %q", name, p, got, err, value)
	}
}

func TestFileAttributes(t *testing.T) {
	w := tableWorld(t)
	alice := w.as("alice")
	alice.wantx(t, "pub/f", attrSSE, "AES256")
	_, err := alice.getx("pub/f", attrKeyID)
	want(t, "key of an AES256 file", err, ErrNoAttr)
	alice.wantx(t, "pub/f", attrContext, "{}")
	alice.wantx(t, "pay/f", attrSSE, "aws:kms")
	alice.wantx(t, "pay/f", attrKeyID, w.key)
	alice.wantx(t, "pay/f", attrBucketKey, "false")
	alice.wantx(t, "pay/f", attrContext, `{"aws:s3:arn":"arn:aws:s3:::pay/f"}`)
	for _, name := range []string{attrKeyID, attrBucketKey, attrContext, attrMaterial} {
		want(t, "set "+name, alice.setx("pay/f", name, "x"), ErrPermitted)
		want(t, "remove "+name, alice.rmx("pay/f", name), ErrPermitted)
	}
	for _, bad := range []string{"", "aes256", "AES256;bucket-key=true", "aws:kms:", "aws:kms;x=y", "aws:kms;bucket-key=yes", "aws:kms:a b", "aws:kms;context=!"} {
		want(t, bad, alice.setx("pub/f", attrSSE, bad), ErrInvalid)
	}
	want(t, "dsse", alice.setx("pub/f", attrSSE, "aws:kms:dsse"), ErrUnsupported)
	want(t, "unknown", alice.setx("pub/f", "user.s3.nonsense", "x"), ErrInvalid)
	want(t, "bucket's own", alice.setx("pub/f", attrEncryption, "AES256"), ErrInvalid)
	for name, target := range map[string]error{
		"security.capability": ErrUnsupported, "system.posix_acl_access": ErrUnsupported, "trusted.x": ErrPermitted, "user.": ErrInvalid,
	} {
		want(t, name, alice.setx("pub/f", name, "x"), target)
	}

	ctx := base64.StdEncoding.EncodeToString([]byte(`{"team":"blue"}`))
	want(t, "with context", alice.setx("pub/f", attrSSE, "aws:kms:alias/my-key;bucket-key=true;context="+ctx), nil)
	alice.wantx(t, "pub/f", attrBucketKey, "true")
	alice.wantx(t, "pub/f", attrContext, `{"aws:s3:arn":"arn:aws:s3:::pub","team":"blue"}`)
	reads(t, "with context", alice, "pub/f", "content of pub/f")
	foreign := base64.StdEncoding.EncodeToString([]byte(`{"aws:s3:arn":"arn:aws:s3:::x"}`))
	want(t, "another's ARN", alice.setx("pub/f", attrSSE, "aws:kms;context="+foreign), ErrInvalid)
}

func TestRekey(t *testing.T) {
	w := tableWorld(t)
	alice, bob := w.as("alice"), w.as("bob")
	n := w.events()
	want(t, "equal state", alice.setx("pay/f", attrSSE, "aws:kms:alias/my-key"), nil)
	want(t, "equal state", alice.setx("pub/f", attrSSE, "AES256"), nil)
	if got := w.events(); got != n {
		t.Errorf("equal state: %d events", got-n)
	}

	// A handle that is open over a re-key goes on, and what it writes is under the new generation.
	h, err := alice.open("pay/f", os.O_RDWR)
	w.ok(err)
	want(t, "KMS to S3", alice.setx("pay/f", attrSSE, "AES256"), nil)
	reads(t, "KMS to S3", bob, "pay/f", "content of pay/f")
	_, err = h.WriteAt([]byte("CONTENT"), 0, false)
	want(t, "write after a re-key", err, nil)
	w.ok(h.Close())
	reads(t, "write after a re-key", bob, "pay/f", "CONTENT of pay/f")
	want(t, "S3 to KMS again", alice.setx("pay/f", attrSSE, "aws:kms:alias/my-key"), nil)
	refused(t, "S3 to KMS again", bob, "pay/f", ErrAccess)
	reads(t, "S3 to KMS again", alice, "pay/f", "CONTENT of pay/f")

	// An explicit choice survives truncation, and goes when it is removed.
	want(t, "choose", alice.setx("pub/f", attrSSE, "aws:kms:alias/my-key"), nil)
	want(t, "truncate", alice.cp("pub/f", "new"), nil)
	alice.wantx(t, "pub/f", attrSSE, "aws:kms")
	reads(t, "truncate", alice, "pub/f", "new")
	want(t, "take back", alice.rmx("pub/f", attrSSE), nil)
	alice.wantx(t, "pub/f", attrSSE, "aws:kms")
	want(t, "truncate", alice.cp("pub/f", "newer"), nil)
	alice.wantx(t, "pub/f", attrSSE, "AES256")
	reads(t, "take back", bob, "pub/f", "newer")

	// Empty files: a new key, recorded as chosen; taking it back gives the default's.
	w.ok(alice.touch("pub/empty"))
	want(t, "choose for an empty file", alice.setx("pub/empty", attrSSE, "aws:kms:alias/my-key"), nil)
	want(t, "fill it", alice.write("pub/empty", "full", os.O_WRONLY), nil)
	refused(t, "fill it", bob, "pub/empty", ErrAccess)
	w.ok(alice.touch("pub/empty2"))
	want(t, "choose", alice.setx("pub/empty2", attrSSE, "aws:kms:alias/my-key"), nil)
	want(t, "take back", alice.rmx("pub/empty2", attrSSE), nil)
	alice.wantx(t, "pub/empty2", attrSSE, "AES256")
	want(t, "no such key", alice.setx("pub/f", attrSSE, "aws:kms:alias/none"), ErrNoKey)
	want(t, "not allowed", bob.setx("pub/f", attrSSE, "aws:kms:alias/my-key"), ErrAccess)
	reads(t, "not allowed", bob, "pub/f", "newer")

	// A handle that wrote to an empty file before it was re-keyed.
	h, err = alice.open("pub/late", os.O_RDWR|os.O_CREATE)
	w.ok(err)
	_, err = h.WriteAt([]byte("early"), 0, false)
	w.ok(err)
	want(t, "re-key a dirty file", alice.setx("pub/late", attrSSE, "aws:kms:alias/my-key"), nil)
	w.ok(h.Close())
	reads(t, "re-key a dirty file", alice, "pub/late", "early")
}

func TestBucketAttributes(t *testing.T) {
	w := tableWorld(t)
	alice, ro := w.as("alice"), w.as("ro")
	alice.wantx(t, "pub", attrSSE, "AES256")
	alice.wantx(t, "pub", attrEncryption, `{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"},"BucketKeyEnabled":false}]}`)
	alice.wantx(t, "pay", attrSSE, "aws:kms:alias/my-key")
	w.ok(alice.setx("pub", attrSSE, "aws:kms:alias/x;bucket-key=true"))
	alice.wantx(t, "pub", attrEncryption,
		`{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"aws:kms","KMSMasterKeyID":"alias/x"},"BucketKeyEnabled":true}]}`)
	w.ok(alice.rmx("pub", attrEncryption))
	alice.wantx(t, "pub", attrSSE, "AES256")
	for _, bad := range []string{
		`{"Rules":[]}`, `{"Rules":[{}]}`, `{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256","KMSMasterKeyID":"x"}}]}`,
		`{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"rot13"}}]}`, `{"Rules":1}`, `{`, ``, `AES256x`,
	} {
		want(t, bad, alice.setx("pub", attrEncryption, bad), ErrInvalid)
	}
	want(t, "bad policy", alice.setx("pub", attrPolicy, `{"Statement":1}`), ErrInvalid)
	_, err := alice.getx("pub", attrPolicy)
	want(t, "no policy", err, ErrNoAttr)
	const p = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:DeleteObject","Resource":"arn:aws:s3:::pub/*"}]}`
	w.ok(alice.setx("pub", attrPolicy, p))
	alice.wantx(t, "pub", attrPolicy, p)
	want(t, "denied by it", alice.rm("pub/f"), ErrAccess)
	want(t, "not by who may only read", ro.rmx("pub", attrPolicy), ErrAccess)
	w.ok(alice.rmx("pub", attrPolicy))
	want(t, "allowed again", alice.rm("pub/f"), nil)

	w.ok(alice.setx("pub", attrQuota, "bytes=1000,inodes=10"))
	alice.wantx(t, "pub", attrQuota, "bytes=1000,inodes=10")
	for _, bad := range []string{"bytes", "bytes=1,bytes=2", "x=1", "bytes=-1"} {
		want(t, bad, alice.setx("pub", attrQuota, bad), ErrInvalid)
	}
}

func TestDirectoryDefault(t *testing.T) {
	w := tableWorld(t)
	alice := w.as("alice")
	w.ok(alice.mkdir("pub/d"))
	_, err := alice.getx("pub/d", attrSSE)
	want(t, "none", err, ErrNoAttr)
	w.ok(alice.setx("pub/d", attrSSE, "aws:kms:alias/my-key"))
	alice.wantx(t, "pub/d", attrSSE, "aws:kms:alias/my-key")
	w.ok(alice.mkdir("pub/d/e"))
	alice.wantx(t, "pub/d/e", attrSSE, "aws:kms:alias/my-key")
	w.ok(alice.cp("pub/d/e/f", "x"))
	alice.wantx(t, "pub/d/e/f", attrKeyID, w.key)
	w.ok(alice.cp("pub/d/e/f", "y"))
	alice.wantx(t, "pub/d/e/f", attrKeyID, w.key)
	mounted := w.as("alice", Options{SSE: "AES256"})
	w.ok(mounted.cp("pub/d/g", "x"))
	mounted.wantx(t, "pub/d/g", attrSSE, "AES256")
	w.ok(alice.rmx("pub/d", attrSSE))
	w.ok(alice.cp("pub/d/h", "x"))
	alice.wantx(t, "pub/d/h", attrSSE, "AES256")
}

func TestBucketNames(t *testing.T) {
	w := tableWorld(t)
	admin := w.as("admin")
	for name, ok := range map[string]bool{
		"abc": true, "a-b.c": true, "0abc": true, strings.Repeat("a", 63): true,
		"ab": false, strings.Repeat("a", 64): false, "Abc": false, "a_b": false, "-ab": false, "ab-": false, "a..b": false, "1.2.3.4": false,
		"1.2.3.400": false, "xn--abc": false, "abc-s3alias": false, "a b": false, "ä": false,
	} {
		var target error
		if !ok {
			target = ErrInvalid
		}
		want(t, name, admin.mkdir(name), target)
	}
	want(t, "again", admin.mkdir("abc"), ErrExists)
	_, err := admin.open("file", syscall.O_WRONLY|syscall.O_CREAT)
	want(t, "file in /", err, ErrPermitted)
	want(t, "rename", admin.mv("abc", "abd"), ErrPermitted)
	want(t, "not empty", admin.s.Rmdir(admin.c, RootIno, "pub"), ErrNotEmpty)
	want(t, "empty", admin.s.Rmdir(admin.c, RootIno, "abc"), nil)
	want(t, "gone", admin.s.Rmdir(admin.c, RootIno, "abc"), ErrNotFound)
	want(t, "by bob", w.as("none").mkdir("none"), ErrAccess)
}

func TestEncodeKey(t *testing.T) {
	for in, out := range map[string]string{"a/b c": "a/b c", "100%": "100%25", "\xff\xfe": "%FF%FE", "ä": "ä", "ä\xc3": "ä%C3", "�": "�"} {
		if got := EncodeKey(in); got != out {
			t.Errorf("%q: %q, want %q", in, got, out)
		}
	}
}

func FuzzSSE(f *testing.F) {
	for _, s := range []string{"AES256", "aws:kms", "aws:kms:alias/x;bucket-key=true;context=e30=", `{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"aws:kms"}}]}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := parseSSE(s); err == nil {
			again, err := parseSSE(c.short())
			if err != nil || again.short() != c.short() {
				t.Errorf("%q: %q: %v", s, c.short(), err)
			}
		}
		if c, err := parseEncryption(s); err == nil {
			doc := encryptionJSON(c)
			again, err := parseEncryption(doc)
			if err != nil || encryptionJSON(again) != doc || !json.Valid([]byte(doc)) {
				t.Errorf("%q: %s: %v", s, doc, err)
			}
		}
		_ = checkQuota(s)
	})
}

func FuzzEncodeKey(f *testing.F) {
	f.Add("a%b", "a%25b")
	f.Fuzz(func(t *testing.T, a, b string) {
		if a != b && EncodeKey(a) == EncodeKey(b) {
			t.Errorf("%q and %q look the same", a, b)
		}
	})
}

// Policies mean users and not names: whoever is made again under the name of a deleted user is somebody else, for a bucket's policy, a
// key's policy, a grant, and for a mount that was made for the one before.
func TestDeletedUsersDoNotComeBack(t *testing.T) {
	w := tableWorld(t)
	admin := w.as("admin")
	w.user("guest")
	const allow = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"%s"},"Action":"s3:*","Resource":["arn:aws:s3:::pub","arn:aws:s3:::pub/*"]}]}`
	put := fmt.Sprintf(allow, userARN("guest"))
	old, err := w.principals.Get("guest")
	w.ok(err)

	want(t, "names nobody", admin.setx("pub", attrPolicy, fmt.Sprintf(allow, userARN("ghost"))), ErrInvalid)
	_, err = admin.getx("pub", attrPolicy)
	want(t, "nothing was put", err, ErrNoAttr)
	w.ok(admin.setx("pub", attrPolicy, put))
	admin.wantx(t, "pub", attrPolicy, put)
	first := w.as("guest")
	reads(t, "the bucket's policy names him", first, "pub/f", "content of pub/f")
	h, err := first.open("pub/f", os.O_RDONLY)
	w.ok(err)
	defer h.Close()

	w.ok(w.principals.Delete("guest"))
	kept := fmt.Sprintf(allow, old.ID)
	admin.wantx(t, "pub", attrPolicy, kept)
	refused(t, "he is deleted", first, "pub/f", ErrAccess)
	w.user("guest")
	again := w.as("guest")
	admin.wantx(t, "pub", attrPolicy, kept)
	refused(t, "another guest", again, "pub/f", ErrAccess)
	want(t, "the id means nobody now", admin.setx("pub", attrPolicy, kept), ErrInvalid)
	w.ok(w.principals.Attach("guest", "AmazonS3FullAccess"))
	reads(t, "his own rights", again, "pub/f", "content of pub/f")
	refused(t, "the old guest's mount has none of them", first, "pub/f", ErrAccess)
	_, err = read(h)
	want(t, "nor what was open on it", err, ErrAccess)

	w.ok(w.principals.Detach("guest", "AmazonS3FullAccess"))
	w.ok(admin.setx("pub", attrPolicy, put))
	reads(t, "put again, it means the new guest", again, "pub/f", "content of pub/f")
	want(t, "who may not put a policy does not learn who exists", w.as("ro").setx("pub", attrPolicy, fmt.Sprintf(allow, userARN("ghost"))), ErrAccess)
}

// A right that ends at a certain time ends for what is open, too, by whichever policy it was given.
func TestRightsEndWithTime(t *testing.T) {
	w := tableWorld(t)
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	until := now.Add(time.Hour).UTC().Format(time.RFC3339)
	const allow = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow",%s"Action":%s,"Resource":"*","Condition":{"DateLessThan":{"aws:CurrentTime":"` + "%s" + `"}}}]}`
	w.user("temp", fmt.Sprintf(allow, "", `["s3:*","kms:*"]`, until))
	w.user("guest")
	bucketPolicy := strings.Replace(fmt.Sprintf(allow, `"Principal":{"AWS":"`+userARN("guest")+`"},`, `"s3:*"`, until),
		`"Resource":"*"`, `"Resource":["arn:aws:s3:::pub","arn:aws:s3:::pub/*"]`, 1)
	w.ok(w.as("admin").setx("pub", attrPolicy, bucketPolicy))
	open := func(name, path string) *Handle {
		t.Helper()
		s, err := NewSession(SessionConfig{
			Volume: w.vol, Keystore: w.keys, Principals: w.principals, Principal: name, Hub: w.hub, Clock: clock, Log: slog.New(slog.DiscardHandler),
		})
		w.ok(err)
		t.Cleanup(func() { w.ok(s.Close()) })
		h, err := (&user{w: w, s: s}).open(path, os.O_RDONLY)
		w.ok(err)
		return h
	}
	handles := map[string]*Handle{"identity policy": open("temp", "pub/f"), "bucket policy": open("guest", "pub/f")}
	for name, h := range handles {
		w.hub.lapse()
		_, err := read(h)
		want(t, name+" before its time", err, nil)
	}
	mu.Lock()
	now = now.Add(2 * time.Hour)
	mu.Unlock()
	w.hub.lapse()
	for name, h := range handles {
		_, err := read(h)
		want(t, name+" after its time", err, ErrAccess)
	}
}
