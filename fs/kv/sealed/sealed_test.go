package sealed

import (
	"bytes"
	"crypto/sha3"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
	"github.com/kmsfs/kmsfs/fs/kv"
	"github.com/kmsfs/kmsfs/fs/kv/memkv"
)

// seal appends the sealed plaintext (its length plus tagSize) to dst.
func (x *xaes) seal(dst, nonce, plaintext, additional []byte) ([]byte, error) {
	d := x.derive([prefixSize]byte(nonce))
	defer d.aead.Wipe()
	return d.aead.Seal(dst, nonce[prefixSize:], plaintext, additional), nil
}

// open appends the plaintext to dst.
func (x *xaes) open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	d := x.derive([prefixSize]byte(nonce))
	defer d.aead.Wipe()
	return d.aead.Open(dst, nonce[prefixSize:], ciphertext, additional)
}

// TestXAESVectors runs the vectors of c2sp.org/XAES-256-GCM.
func TestXAESVectors(t *testing.T) {
	for _, v := range []struct {
		key            byte
		additional, ct string
	}{
		{0x01, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{0x03, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		x, err := newXAES(bytes.Repeat([]byte{v.key}, 32))
		if err != nil {
			t.Fatal(err)
		}
		nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
		ct, err := x.seal(nil, nonce, []byte("XAES-256-GCM"), []byte(v.additional))
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(ct); got != v.ct {
			t.Errorf("key %02x: sealed %s, want %s", v.key, got, v.ct)
		}
		plain, err := x.open(nil, nonce, ct, []byte(v.additional))
		if err != nil || string(plain) != "XAES-256-GCM" {
			t.Errorf("key %02x: opened %q, %v", v.key, plain, err)
		}
	}
}

// TestXAESAccumulated runs the accumulated vector of c2sp.org/XAES-256-GCM: 10,000 random keys, nonces, texts and additional data.
func TestXAESAccumulated(t *testing.T) {
	const want = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"
	s, d := sha3.NewSHAKE128(), sha3.NewSHAKE128()
	read := func(n int) []byte {
		b := make([]byte, n)
		_, _ = s.Read(b)
		return b
	}
	for range 10_000 {
		key, nonce := read(32), read(nonceSize)
		plain := read(int(read(1)[0]))
		additional := read(int(read(1)[0]))
		x, err := newXAES(key)
		if err != nil {
			t.Fatal(err)
		}
		ct, err := x.seal(nil, nonce, plain, additional)
		if err != nil {
			t.Fatal(err)
		}
		back, err := x.open(nil, nonce, ct, additional)
		if err != nil || !bytes.Equal(back, plain) {
			t.Fatalf("opened %x, %v; want %x", back, err, plain)
		}
		_, _ = d.Write(ct)
	}
	sum := make([]byte, 32)
	_, _ = d.Read(sum)
	if got := hex.EncodeToString(sum); got != want {
		t.Errorf("accumulated %s, want %s", got, want)
	}
}

func testKey(t testing.TB, fill byte) *crypto.DataKey {
	t.Helper()
	k, err := crypto.DataKeyFromBytes(bytes.Repeat([]byte{fill}, crypto.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func set(t *testing.T, s kv.Store, key, value string) {
	t.Helper()
	if err := s.Update(func(tx kv.Txn) error { tx.Set([]byte(key), []byte(value)); return nil }); err != nil {
		t.Fatal(err)
	}
}

func get(s kv.Store, key string) (value []byte, err error) {
	err = s.View(func(r kv.Reader) error {
		value, err = r.Get([]byte(key))
		return err
	})
	return value, err
}

// TestTampering changes what lies in the inner store in every way that must be noticed.
func TestTampering(t *testing.T) {
	inner := memkv.New()
	s := New(inner, testKey(t, 1))
	set(t, s, "one", "the secret value")
	set(t, s, "two", "another value")
	raw, err := get(inner, "one")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("secret")) {
		t.Fatal("the value is stored in clear")
	}
	check := func(what, key string) {
		t.Helper()
		if _, err := get(s, key); !errors.Is(err, kv.ErrCorrupt) {
			t.Fatalf("%s: Get returned %v", what, err)
		} else if !strings.Contains(err.Error(), hex.EncodeToString([]byte(key))) {
			t.Fatalf("%s: the error does not name the row: %v", what, err)
		}
		err := s.View(func(r kv.Reader) error {
			return r.Scan([]byte(key), nil, func(_, _ []byte) (bool, error) { return true, nil })
		})
		if !errors.Is(err, kv.ErrCorrupt) {
			t.Fatalf("%s: Scan returned %v", what, err)
		}
	}
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		set(t, inner, "one", string(changed))
		check("changed byte", "one")
	}
	for n := range raw {
		set(t, inner, "one", string(raw[:n]))
		check("truncated", "one")
	}
	set(t, inner, "one", string(raw)+"x")
	check("extended", "one")
	set(t, inner, "two", string(raw))
	check("moved", "two")
	set(t, inner, "one", string(raw))
	if v, err := get(s, "one"); err != nil || string(v) != "the secret value" {
		t.Fatalf("restored row: %q, %v", v, err)
	}
	other := New(inner, testKey(t, 2))
	if _, err := get(other, "one"); !errors.Is(err, kv.ErrCorrupt) {
		t.Fatalf("foreign key: %v", err)
	}
}

// TestNoncesDiffer seals the same row many times, from several goroutines and over several prefixes, and never sees a nonce twice nor a
// prefix for longer than it may be used.
func TestNoncesDiffer(t *testing.T) {
	x, err := newXAES(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	b := newBox(x)
	const sealers, each = 4, prefixRows
	nonces := make([][]string, sealers)
	var g sync.WaitGroup
	for i := range nonces {
		g.Go(func() {
			for range each {
				s := b.seal(nil, []byte("k"), nil)
				nonces[i] = append(nonces[i], string(s[1:1+nonceSize]))
			}
		})
	}
	g.Wait()
	seen := make(map[string]bool, sealers*each)
	rows := map[string]int{}
	for _, n := range slices.Concat(nonces...) {
		if seen[n] {
			t.Fatal("nonce used twice")
		}
		seen[n] = true
		if rows[n[:prefixSize]]++; rows[n[:prefixSize]] > prefixRows {
			t.Fatal("prefix used for too many rows")
		}
	}
	if len(rows) < sealers {
		t.Fatalf("%d prefixes", len(rows))
	}
}

// TestKeysAreWiped seals and opens rows from several goroutines, over more prefixes than are kept, while their keys take each other's
// places: what is open is held, and when the store is closed no key is left.
func TestKeysAreWiped(t *testing.T) {
	key := testKey(t, 1)
	defer key.Wipe()
	before := crypto.LiveKeys()
	x, err := newXAES(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := &store{Store: memkv.New(), box: newBox(x)}
	const workers, prefixes = 4, 3 * knownKeys
	var g sync.WaitGroup
	for i := range workers {
		g.Go(func() {
			for n := range prefixes {
				row := fmt.Appendf(nil, "%d/%d", i, n)
				sealed := s.box.seal(nil, row, []byte("value"))
				if value, err := s.box.open(row, sealed, make([]byte, 0, 16)); err != nil || string(value) != "value" {
					t.Errorf("row %s: %q, %v", row, value, err)
				}
				s.box.turn.Load().left.Store(0) // the next row gets another prefix
			}
		})
	}
	g.Wait()
	if n := crypto.LiveKeys() - before; n < 2 || n > 2+knownKeys { // that of the store and that of the turn, which may be a known one
		t.Errorf("%d keys are kept", n)
	}
	for range 2 {
		_ = s.Close()
	}
	if n := crypto.LiveKeys(); n != before {
		t.Errorf("%d keys are left of a closed store", n-before)
	}
}

// FuzzOpen opens arbitrary rows: no panic, and nothing that was not sealed is accepted.
func FuzzOpen(f *testing.F) {
	x, err := newXAES(make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	b := newBox(x)
	// A fixed nonce: the fuzzer's workers are other processes, and must know the same row.
	nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
	good, err := x.seal(append([]byte{Version}, nonce...), nonce, []byte("value"), []byte("row"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("row"), good)
	f.Add([]byte("row"), good[:Overhead])
	f.Add([]byte("row"), []byte{})
	f.Fuzz(func(t *testing.T, key, sealed []byte) {
		value, err := b.open(key, sealed, make([]byte, 0, 8))
		if err == nil && (string(key) != "row" || !bytes.Equal(sealed, good)) {
			t.Fatalf("accepted row %x with value %x", key, value)
		}
		if err != nil && !errors.Is(err, kv.ErrCorrupt) {
			t.Fatalf("wrong error: %v", err)
		}
	})
}

func BenchmarkSeal200(b *testing.B) {
	x, _ := newXAES(make([]byte, 32))
	bx := newBox(x)
	value, key := make([]byte, 200), []byte("i12345678")
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = bx.seal(dst[:0], key, value)
	}
}

func BenchmarkOpen200(b *testing.B) {
	x, _ := newXAES(make([]byte, 32))
	bx := newBox(x)
	value, key := make([]byte, 200), []byte("i12345678")
	s := bx.seal(nil, key, value)
	dst := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bx.open(key, s, dst); err != nil {
			b.Fatal(err)
		}
	}
}
