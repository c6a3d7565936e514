package mount

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/kmsfs/kmsfs/keystore"
)

const (
	keyUserActions = `"kms:Encrypt","kms:Decrypt","kms:ReEncrypt*","kms:GenerateDataKey*","kms:DescribeKey"`
	s3PutOnly      = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:PutObject","Resource":"*"}]}`
)

// keyPolicy is the console's policy with alice, ro and putonly as key users, drop with GenerateDataKey and rdr with Decrypt.
func keyPolicy(users ...string) string {
	arns := make([]string, len(users))
	for i, u := range users {
		arns[i] = `"` + userARN(u) + `"`
	}
	return `{"Version":"2012-10-17","Statement":[
 {"Sid":"root","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::` + account + `:root"},"Action":"kms:*","Resource":"*"},
 {"Sid":"users","Effect":"Allow","Principal":{"AWS":[` + strings.Join(arns, ",") + `]},"Action":[` + keyUserActions + `],"Resource":"*"},
 {"Sid":"drop","Effect":"Allow","Principal":{"AWS":"` + userARN("drop") + `"},"Action":"kms:GenerateDataKey*","Resource":"*"},
 {"Sid":"rdr","Effect":"Allow","Principal":{"AWS":"` + userARN("rdr") + `"},"Action":"kms:Decrypt","Resource":"*"}]}`
}

// tableWorld is the setting of the truth table of file system operations.
func tableWorld(t testing.TB) *world {
	w := newWorld(t)
	w.user("admin", "AdministratorAccess")
	for _, u := range []string{"alice", "bob", "drop", "rdr"} {
		w.user(u, "AmazonS3FullAccess")
	}
	w.user("ro", "AmazonS3ReadOnlyAccess")
	w.user("putonly", s3PutOnly)
	w.user("none")
	m, err := w.keys.CreateKey(w.call("admin"), keystore.CreateKeyInput{Alias: "alias/my-key", Policy: []byte(keyPolicy("alice", "ro", "putonly"))})
	w.ok(err)
	w.key = m.ARN
	admin := w.as("admin")
	for _, b := range []string{"pub", "aws", "pay"} {
		w.ok(admin.mkdir(b))
	}
	w.ok(admin.setx("aws", "user.s3.encryption", "aws:kms"))
	w.ok(admin.setx("pay", "user.s3.encryption",
		`{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"aws:kms","KMSMasterKeyID":"alias/my-key"},"BucketKeyEnabled":false}]}`))
	for _, f := range []string{"pub/f", "aws/f", "pay/f"} {
		w.ok(admin.cp(f, "content of "+f))
	}
	return w
}

func want(t *testing.T, id string, got, target error) {
	t.Helper()
	if target == nil && got != nil || target != nil && !errors.Is(got, target) {
		t.Errorf("%s: got %v, want %v", id, got, target)
	}
}

func reads(t *testing.T, id string, u *user, p, text string) {
	t.Helper()
	got, err := u.cat(p)
	if err != nil || got != text {
		t.Errorf("%s: cat %s: %q, %v", id, p, got, err)
	}
}

func refused(t *testing.T, id string, u *user, p string, target error) {
	t.Helper()
	_, err := u.cat(p)
	want(t, id, err, target)
}

func TestTableReadWrite(t *testing.T) {
	w := tableWorld(t)
	admin, alice, bob, ro, none := w.as("admin"), w.as("alice"), w.as("bob"), w.as("ro"), w.as("none")
	reads(t, "F01", bob, "pub/f", "content of pub/f")
	reads(t, "F02", bob, "aws/f", "content of aws/f")
	refused(t, "F03", bob, "pay/f", ErrAccess)
	reads(t, "F04", alice, "pay/f", "content of pay/f")
	reads(t, "F05", admin, "pay/f", "content of pay/f")
	_, err := none.walk("pub/f")
	want(t, "F06", err, ErrAccess)
	a, err := bob.walk("pay/f")
	if err != nil || a.Size != uint64(len("content of pay/f")) {
		t.Errorf("F07: %v %v", a, err)
	}
	if names, err := bob.ls("pay"); err != nil || len(names) != 1 {
		t.Errorf("F07: %v %v", names, err)
	}
	id, err := bob.getx("pay/f", attrKeyID)
	if err != nil || id != w.key {
		t.Errorf("F08: %q %v", id, err)
	}
	want(t, "F09", bob.mv("pay/f", "pay/g"), nil)
	reads(t, "F10", alice, "pay/g", "content of pay/f")
	want(t, "F11", bob.rm("pay/g"), nil)
	want(t, "F12", bob.cp("pay/new", "x"), ErrAccess)
	want(t, "F13", bob.touch("pay/new"), ErrAccess)
	want(t, "F14", bob.cp("aws/new", "x"), nil)
	want(t, "F14", bob.cp("pub/new", "x"), nil)
	w.ok(admin.cp("pay/f", "content of pay/f"))
	reads(t, "F15", ro, "pay/f", "content of pay/f")
	want(t, "F16", ro.cp("pay/new", "x"), ErrAccess)
	want(t, "F16", ro.rm("pay/f"), ErrAccess)
}

func TestTableDropBox(t *testing.T) {
	w := tableWorld(t)
	drop, rdr, put := w.as("drop"), w.as("rdr"), w.as("putonly")
	want(t, "F17", drop.cp("pay/new", "x"), nil)
	refused(t, "F18", drop, "pay/new", ErrAccess)
	want(t, "F19", drop.write("pay/new", "y", os.O_WRONLY|os.O_APPEND), ErrAccess)
	want(t, "F20", drop.write("pay/new", "y", os.O_WRONLY|os.O_TRUNC), nil)
	h, err := drop.open("pay/new2", os.O_RDWR|os.O_CREATE|os.O_EXCL)
	want(t, "F21", err, nil)
	_, err = h.WriteAt([]byte("mine"), 0, false)
	want(t, "F21", err, nil)
	if got, err := read(h); err != nil || got != "mine" {
		t.Errorf("F21: %q %v", got, err)
	}
	want(t, "F21", h.Close(), nil)
	want(t, "F22", drop.truncate("pay/new", 10), ErrAccess)
	want(t, "F23", drop.truncate("pay/new", 0), nil)
	want(t, "drop-box fills an empty file", drop.write("pay/new", "full", os.O_WRONLY), nil)
	reads(t, "drop-box fills an empty file", w.as("alice"), "pay/new", "full")
	want(t, "drop-box changes a full file", drop.write("pay/new", "y", os.O_WRONLY), ErrAccess)
	want(t, "F24", drop.mv("pay/new", "pay/z"), nil)
	want(t, "F24", drop.rm("pay/z"), nil)
	reads(t, "F25", rdr, "pay/f", "content of pay/f")
	want(t, "F26", rdr.cp("pay/new", "x"), ErrAccess)
	want(t, "F26", rdr.write("pay/f", "", os.O_WRONLY|os.O_TRUNC), ErrAccess)
	reads(t, "F26 denied is harmless", rdr, "pay/f", "content of pay/f")
	want(t, "F27", rdr.write("pay/f", "y", os.O_WRONLY|os.O_APPEND), nil)
	want(t, "F28", put.cp("pay/p", "x"), nil)
	refused(t, "F29", put, "pay/p", ErrAccess)
	_, err = put.ls("pay")
	want(t, "F30", err, ErrAccess)
}

func TestTableBuckets(t *testing.T) {
	w := tableWorld(t)
	alice, bob, ro := w.as("alice"), w.as("bob"), w.as("ro")
	want(t, "F31", bob.mv("pub/f", "pay/f2"), ErrCrossBucket)
	want(t, "F31, by who may not write in the one", ro.mv("pub/f", "pay/f2"), ErrCrossBucket) // not judged by the wrong bucket's policy
	want(t, "F31", bob.cp("pay/f2", "x"), ErrAccess)
	refused(t, "F32", bob, "pay/f", ErrAccess)
	want(t, "F33", alice.setx("pay", "user.s3.encryption", "aws:kms:alias/other"), nil)
	reads(t, "F34", alice, "pay/f", "content of pay/f")
	want(t, "F35", alice.cp("pay/n2", "x"), ErrNoKey)
	want(t, "F36", ro.setx("pay", "user.s3.encryption", "AES256"), ErrAccess)
	before, err := alice.walk("pub/f")
	w.ok(err)
	want(t, "F37", alice.setx("pub/f", "user.s3.sse", "aws:kms:alias/my-key"), nil)
	after, err := alice.walk("pub/f")
	w.ok(err)
	if before.Mtime != after.Mtime || before.Size != after.Size {
		t.Errorf("F37: mtime or size changed: %v %v", before, after)
	}
	reads(t, "F37", alice, "pub/f", "content of pub/f")
	refused(t, "F38", bob, "pub/f", ErrAccess)
	want(t, "F39", bob.setx("pay/f", "user.s3.sse", "AES256"), ErrAccess)
	want(t, "F40", bob.setx("pay/f", "user.note", "x"), nil)
	want(t, "F40", bob.chmod("pay/f", 0o600), nil)
}

func TestTableKeyStates(t *testing.T) {
	w := tableWorld(t)
	alice, admin := w.as("alice"), w.call("admin")
	open, err := alice.open("pay/f", os.O_RDONLY)
	w.ok(err)
	w.ok(w.keys.DisableKey(admin, w.key))
	refused(t, "F41", alice, "pay/f", ErrKeyRevoked)
	want(t, "F42", alice.mv("pay/f", "pay/g"), nil)
	want(t, "F42", alice.mv("pay/g", "pay/f"), nil)
	_, err = alice.walk("pay/f")
	want(t, "F42", err, nil)
	_, err = read(open)
	want(t, "F43", err, ErrKeyRevoked)
	w.ok(w.keys.EnableKey(admin, w.key))
	if got, err := read(open); err != nil || got != "content of pay/f" {
		t.Errorf("F43, enabled again: %q %v", got, err)
	}
	w.ok(open.Close())
	_, err = w.keys.ScheduleKeyDeletion(admin, w.key, 7)
	w.ok(err)
	refused(t, "F44", alice, "pay/f", ErrKeyRevoked)
	w.ok(w.keys.CancelKeyDeletion(admin, w.key))
	refused(t, "F44", alice, "pay/f", ErrKeyRevoked)
	w.ok(w.keys.EnableKey(admin, w.key))
	reads(t, "F44", alice, "pay/f", "content of pay/f")
	w.ok(w.keys.PutKeyPolicy(admin, w.key, []byte(keyPolicy("ro")), false))
	refused(t, "F45", alice, "pay/f", ErrAccess)
	w.ok(w.keys.PutKeyPolicy(admin, w.key, []byte(keyPolicy("alice")), false))
	was, err := alice.getx("pay/f", attrMaterial)
	w.ok(err)
	w.ok(w.keys.RotateKeyOnDemand(admin, w.key))
	reads(t, "F46", alice, "pay/f", "content of pay/f")
	want(t, "F46", alice.cp("pay/n3", "x"), nil)
	now, err := alice.getx("pay/n3", attrMaterial)
	if err != nil || now == was {
		t.Errorf("F46: material %q, was %q: %v", now, was, err)
	}
}

func TestTablePolicyAndCopies(t *testing.T) {
	w := tableWorld(t)
	alice := w.as("alice")
	w.ok(w.as("admin").setx("pay", "user.s3.policy", `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:PutObject",
		"Resource":"arn:aws:s3:::pay/*","Condition":{"StringNotEquals":{"s3:x-amz-server-side-encryption":"aws:kms"}}}]}`))
	want(t, "F47", alice.cp("pay/n4", "x"), ErrAccess)
	want(t, "F47", w.as("alice", Options{SSE: "aws:kms:alias/my-key"}).cp("pay/n4", "x"), nil)
	w.ok(w.as("admin").rmx("pay", "user.s3.policy"))
	names, err := alice.s.ListXattr(alice.c, mustWalk(t, alice, "pay/f").Ino)
	if err != nil || len(names) != 0 {
		t.Errorf("F48, F49: %v %v", names, err)
	}
	want(t, "F48", alice.cp("pub/copy", "x"), nil)
	if got, err := alice.getx("pub/copy", attrSSE); err != nil || got != "AES256" {
		t.Errorf("F48: %q %v", got, err)
	}
	want(t, "F50", alice.link("pay/f", "pay/l"), nil)
	reads(t, "F50", alice, "pay/l", "content of pay/f")
	want(t, "F50 across buckets", alice.link("pay/f", "pub/l"), ErrCrossBucket)
	want(t, "F50 across buckets, by who may not write in the one", w.as("ro").link("pay/f", "pub/l"), ErrCrossBucket)
}

func mustWalk(t testing.TB, u *user, p string) Attr {
	t.Helper()
	a, err := u.walk(p)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
