package mount

import "testing"

// TestAskedAtMost: where each file has to be asked about, a file that may be read stays, and one that may not goes; beyond askAtMost files
// all go, but none under another key.
func TestAskedAtMost(t *testing.T) {
	w := tableWorld(t)
	admin, alice := w.as("admin"), w.as("alice")
	for _, f := range []string{"mine", "other"} {
		w.ok(admin.cp("pay/"+f, "text"))
	}
	w.ok(w.keys.PutKeyPolicy(w.call("admin"), w.key, []byte(`{"Version":"2012-10-17","Statement":[
 {"Effect":"Allow","Principal":{"AWS":"`+userARN("admin")+`"},"Action":"kms:*","Resource":"*"},
 {"Effect":"Allow","Principal":{"AWS":"`+userARN("alice")+`"},"Action":"kms:Decrypt","Resource":"*",
  "Condition":{"StringEquals":{"kms:EncryptionContext:aws:s3:arn":"arn:aws:s3:::pay/mine"}}}]}`), false))
	ino := func(p string) Ino {
		a, err := admin.walk(p)
		w.ok(err)
		return a.Ino
	}
	mine, other := ino("pay/mine"), ino("pay/other")
	old := askAtMost
	defer func() { askAtMost = old }()
	askAtMost = 4
	dead := alice.s.deadKeys([]string{w.key}, due{keys: []string{w.key}})
	if dead == nil {
		t.Fatal("nothing is to be dropped")
	}
	for n := range 2 * askAtMost {
		in, f, want := mine, "mine", n >= askAtMost
		if n%2 == 1 {
			in, f, want = other, "other", true
		}
		if got := dead(in, w.key); got != want {
			t.Errorf("file %d, %s: dropped %v, want %v", n, f, got, want)
		}
		if dead(in, "arn of another key") {
			t.Errorf("%d: content under another key is dropped", n)
		}
	}
	w.ok(w.keys.DisableKey(w.call("admin"), w.key))
	dead = alice.s.deadKeys([]string{w.key}, due{keys: []string{w.key}})
	for n := range 2 * askAtMost {
		if !dead(mine, w.key) {
			t.Errorf("%d: kept under a disabled key", n)
		}
	}
}
