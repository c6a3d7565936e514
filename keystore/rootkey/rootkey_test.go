package rootkey

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kmsfs/kmsfs/crypto"
)

var (
	cheap = Argon2{MemoryKiB: 64, Passes: 1, Lanes: 1}
	now   = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
)

func initStore(t *testing.T) (string, *crypto.DataKey) {
	t.Helper()
	dir := t.TempDir()
	secret, err := NewKeyFile(dir, DefaultKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	_, root, err := Init(dir, InitOptions{Secret: secret, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return dir, root
}

func phrase(t *testing.T, s string) Secret {
	t.Helper()
	secret, err := Passphrase([]byte(s), cheap)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func say(s string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(s), nil } }

func same(a, b *crypto.DataKey) bool { return bytes.Equal(a.Expose(), b.Expose()) }

func TestKeyFileStore(t *testing.T) {
	dir, root := initStore(t)
	for _, name := range []string{HeaderFile, DefaultKeyFile} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, st.Mode(), err)
		}
	}
	info, again, err := Open(dir, Unlocker{})
	if err != nil || !same(root, again) {
		t.Fatalf("open: %v", err)
	}
	if info.Account != DefaultAccount || info.Region != DefaultRegion || !info.Created.Equal(now) || len(info.Slots) != 1 || info.Slots[0].Kind != KindKeyFile {
		t.Errorf("info %+v", info)
	}
	if _, _, err := Init(dir, InitOptions{Secret: phrase(t, "x"), Now: now}); !errors.Is(err, ErrExists) {
		t.Errorf("second init: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, DefaultKeyFile), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, Unlocker{}); !errors.Is(err, ErrLocked) || !errors.Is(err, ErrExposed) {
		t.Errorf("exposed key file: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, DefaultKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, Unlocker{}); !errors.Is(err, ErrLocked) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing key file: %v", err)
	}
}

func TestEverySlotOpensTheSameKey(t *testing.T) {
	dir, root := initStore(t)
	creds := t.TempDir()
	if err := os.WriteFile(filepath.Join(creds, "kmsfs"), bytes.Repeat([]byte("k"), 40), 0o400); err != nil {
		t.Fatal(err)
	}
	cred, err := Credential(creds, "kmsfs")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Secret{phrase(t, "correct horse"), phrase(t, "battery"), cred} {
		if _, err := AddSlot(dir, root, s, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, DefaultKeyFile)); err != nil {
		t.Fatal(err)
	}
	for name, u := range map[string]Unlocker{
		"first phrase":  {Passphrase: say("correct horse")},
		"second phrase": {Passphrase: say("battery")},
		"credential":    {CredentialDir: creds},
	} {
		if _, got, err := Open(dir, u); err != nil || !same(got, root) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := Open(dir, Unlocker{Passphrase: say("wrong")}); !errors.Is(err, ErrWrongPassphrase) || !errors.Is(err, ErrLocked) {
		t.Errorf("wrong phrase: %v", err)
	}
	if need, err := NeedsPassphrase(dir, Unlocker{}); !need || err != nil {
		t.Errorf("needs a phrase: %v %v", need, err)
	}
	if need, err := NeedsPassphrase(dir, Unlocker{CredentialDir: creds}); need || err != nil {
		t.Errorf("needs no phrase: %v %v", need, err)
	}
}

func TestRemoveSlot(t *testing.T) {
	dir, root := initStore(t)
	info, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	first := info.Slots[0].ID
	if _, err := RemoveSlot(dir, root, first); !errors.Is(err, ErrLastSlot) {
		t.Errorf("last slot: %v", err)
	}
	if _, err := AddSlot(dir, root, phrase(t, "p"), now); err != nil {
		t.Fatal(err)
	}
	if _, err := RemoveSlot(dir, root, "ffffffff-no"); !errors.Is(err, ErrNoSlot) {
		t.Errorf("unknown slot: %v", err)
	}
	if _, err := RemoveSlot(dir, root, first[:8]); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, Unlocker{}); !errors.Is(err, ErrLocked) {
		t.Errorf("the removed slot still opens: %v", err)
	}
	if _, got, err := Open(dir, Unlocker{Passphrase: say("p")}); err != nil || !same(got, root) {
		t.Errorf("the other slot: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, HeaderFile+".new-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v %v", left, err)
	}
}

func TestSlotLimit(t *testing.T) {
	dir, root := initStore(t)
	for i := 1; i < MaxSlots; i++ {
		if _, err := AddSlot(dir, root, phrase(t, fmt.Sprint("p", i)), now); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := AddSlot(dir, root, phrase(t, "one too many"), now); !errors.Is(err, ErrInvalid) {
		t.Errorf("too many: %v", err)
	}
}

// TestChangedHeaderIsNoticed edits every field of a header in turn.
func TestChangedHeaderIsNoticed(t *testing.T) {
	dir, _ := initStore(t)
	path := filepath.Join(dir, HeaderFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(m map[string]any)
		want   error
	}{
		"account":           {func(m map[string]any) { m["account"] = "111122223333" }, ErrDamaged},
		"bad account":       {func(m map[string]any) { m["account"] = "1" }, ErrDamaged},
		"region":            {func(m map[string]any) { m["region"] = "eu-west-1" }, ErrDamaged},
		"created":           {func(m map[string]any) { m["created"] = "2020-01-01T00:00:00Z" }, ErrDamaged},
		"compatible flag":   {func(m map[string]any) { m["compatible"] = []string{"x"} }, ErrDamaged},
		"unknown field":     {func(m map[string]any) { m["zeal"] = 1 }, ErrDamaged},
		"no mac":            {func(m map[string]any) { delete(m, "mac") }, ErrDamaged},
		"no slots":          {func(m map[string]any) { m["slots"] = []any{} }, ErrDamaged},
		"magic":             {func(m map[string]any) { m["magic"] = "x" }, ErrDamaged},
		"newer version":     {func(m map[string]any) { m["version"] = 2; m["shape"] = "new" }, ErrUnsupported},
		"incompatible flag": {func(m map[string]any) { m["incompatible"] = []string{"striping"} }, ErrUnsupported},
		"store id":          {func(m map[string]any) { m["store"] = "11111111-2222-4333-8444-555555555555" }, ErrLocked},
	} {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		c.change(m)
		bad, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(dir, Unlocker{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The same content in another layout is the same header.
	var compact bytes.Buffer
	if err := json.Compact(&compact, good); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, compact.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, Unlocker{}); err != nil {
		t.Errorf("compacted: %v", err)
	}
}

func TestBoundsOnRead(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Init(dir, InitOptions{Secret: phrase(t, "p"), Now: now}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, HeaderFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, edit := range [][2]string{
		{`"memory_kib": 64`, `"memory_kib": 4294967295`},
		{`"memory_kib": 64`, `"memory_kib": 1`},
		{`"passes": 1`, `"passes": 100000`},
		{`"lanes": 1`, `"lanes": 0`},
	} {
		bad := strings.Replace(string(good), edit[0], edit[1], 1)
		if bad == string(good) {
			t.Fatalf("%s is not in the header", edit[0])
		}
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(dir, Unlocker{Passphrase: say("p")}); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", edit[1], err)
		}
	}
}

func TestInvalidInput(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, ErrNoStore) {
		t.Errorf("read: %v", err)
	}
	for _, o := range []InitOptions{{Account: "12"}, {Account: "00000000000x"}, {Region: "US East"}, {Region: "-x"}} {
		o.Secret, o.Now = phrase(t, "p"), now
		if _, _, err := Init(dir, o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for _, p := range []string{"", strings.Repeat("x", MaxPassphrase+1)} {
		if _, err := Passphrase([]byte(p), cheap); !errors.Is(err, ErrInvalid) {
			t.Errorf("passphrase of %d bytes: %v", len(p), err)
		}
	}
	for _, n := range []string{"", ".", "..", "a/b", "/"} {
		if _, err := Credential(dir, n); !errors.Is(err, ErrInvalid) {
			t.Errorf("credential %q: %v", n, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "short"), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := KeyFile(dir, "short"); !errors.Is(err, ErrInvalid) {
		t.Errorf("short key file: %v", err)
	}
	if _, err := NewKeyFile(dir, "short"); !errors.Is(err, os.ErrExist) {
		t.Errorf("key file over an existing file: %v", err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	s := phrase(t, "hunter2")
	for _, out := range []string{fmt.Sprint(s), fmt.Sprintf("%+v", s), fmt.Sprintf("%#v", s)} {
		if strings.Contains(out, "hunter2") || strings.Contains(out, "104 117") {
			t.Errorf("a secret prints as %s", out)
		}
	}
}

// TestVector opens a store written by the first version of the format.
func TestVector(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{HeaderFile, DefaultKeyFile} {
		b, err := os.ReadFile(filepath.Join("testdata", "v1", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(filepath.Join("testdata", "v1", "root-key.hex"))
	if err != nil {
		t.Fatal(err)
	}
	if _, root, err := Open(dir, Unlocker{}); err != nil || fmt.Sprintf("%x\n", root.Expose()) != string(want) {
		t.Errorf("key file: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, DefaultKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, root, err := Open(dir, Unlocker{Passphrase: say("kmsfs vector")}); err != nil || fmt.Sprintf("%x\n", root.Expose()) != string(want) {
		t.Errorf("passphrase: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile(filepath.Join("testdata", "v1", HeaderFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"magic":"kmsfs store","version":1}`))
	f.Add([]byte(`{"magic":"kmsfs store","version":2}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parse(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("an untyped error: %v", err)
			}
			return
		}
		_ = h.info()
		out, err := h.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(out)
		if err != nil {
			t.Fatalf("a header that was read cannot be read again: %v", err)
		}
		x, _ := json.Marshal(h)
		y, _ := json.Marshal(again)
		if !bytes.Equal(x, y) {
			t.Fatal("a header changed by being written")
		}
	})
}
