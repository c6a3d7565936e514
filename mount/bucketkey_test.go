package mount

import (
	"fmt"
	"os"
	"testing"

	"github.com/kmsfs/kmsfs/keystore/audit"
)

// calls counts the successful calls of an operation under the key so far.
func (w *world) calls(name string) (n int) {
	w.t.Helper()
	w.ok(w.audit.Flush())
	w.ok(w.audit.Query(audit.Filter{Key: w.key, Name: name}, func(e audit.Event) error {
		if e.ErrorCode == "" {
			n++
		}
		return nil
	}))
	return n
}

func TestBucketKeys(t *testing.T) {
	const files = 20
	w := tableWorld(t)
	admin, alice, ro := w.as("admin"), w.as("alice"), w.as("ro")
	w.ok(alice.setx("pay", attrSSE, "aws:kms:alias/my-key;bucket-key=true"))
	generated := w.calls("GenerateDataKey")
	for i := range files {
		w.ok(alice.cp(fmt.Sprintf("pay/f%d", i), fmt.Sprint("text ", i)))
	}
	if got := w.calls("GenerateDataKey") - generated; got != 1 {
		t.Errorf("%d files asked for %d data keys", files, got)
	}
	decrypted := w.calls("Decrypt")
	for i := range files {
		reads(t, "other session", ro, fmt.Sprintf("pay/f%d", i), fmt.Sprint("text ", i))
	}
	if got := w.calls("Decrypt") - decrypted; got != 1 {
		t.Errorf("%d files were decrypted by %d calls", files, got)
	}
	if got, err := alice.getx("pay/f1", attrBucketKey); got != "true" || err != nil {
		t.Errorf("bucket key: %q %v", got, err)
	}
	if got, err := alice.getx("pay/f1", attrMaterial); got == "" || err != nil {
		t.Errorf("key material: %q %v", got, err)
	}

	// Each way to another key, and back.
	for _, sse := range []string{"AES256", "aws:kms:alias/my-key", "aws:kms:alias/my-key;bucket-key=true", "aws:kms:alias/my-key", "AES256", "aws:kms:alias/my-key;bucket-key=true"} {
		w.ok(admin.setx("pay/f2", attrSSE, sse))
		reads(t, sse, admin, "pay/f2", "text 2")
		w.ok(admin.write("pay/f2", "text 2", os.O_WRONLY))
	}
	w.ok(w.keys.PutKeyPolicy(w.call("admin"), w.key, []byte(keyPolicy("alice")), false))
	refused(t, "right lost", ro, "pay/f1", ErrAccess) // at once, whatever was kept
	reads(t, "right kept", alice, "pay/f1", "text 1")
	w.ok(w.keys.DisableKey(w.call("admin"), w.key))
	refused(t, "disabled", alice, "pay/f1", ErrKeyRevoked)
	want(t, "disabled, new file", alice.touch("pay/new"), ErrKeyRevoked)
	w.ok(w.keys.EnableKey(w.call("admin"), w.key))
	reads(t, "enabled again", alice, "pay/f1", "text 1")
	for _, u := range []*user{admin, alice, ro} {
		w.ok(u.s.Close())
		if len(u.s.kept.m) != 0 {
			t.Error("a bucket key outlives its session")
		}
	}
}
