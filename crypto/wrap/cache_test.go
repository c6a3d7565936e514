package wrap

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/kmsfs/kmsfs/crypto"
)

func (c *Cache) mustWrap(t *testing.T, m *crypto.DataKey, h Header) crypto.WrappedKey {
	t.Helper()
	blob, err := c.Wrap(m, h, "arn", nil, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// forgetAll forgets every material.
func (c *Cache) forgetAll() {
	materials := map[[32]byte]bool{}
	c.mu.Lock()
	for _, k := range c.bySalt {
		materials[k.of.material] = true
	}
	c.mu.Unlock()
	for m := range materials {
		c.Forget(m)
	}
}

// TestCacheSharesKeys: a wrapping key seals as many blobs as it may and no more, none with the nonce of another one, and the keys of two materials
// or ARNs are apart.
func TestCacheSharesKeys(t *testing.T) {
	c, m, h := NewCache(), crypto.NewDataKey(), Header{Material: [32]byte{1}}
	defer c.forgetAll()
	salts, nonces := map[string]int{}, map[string]bool{}
	for range 2*sealsPerKey + 1 {
		blob := c.mustWrap(t, m, h)
		salts[string(blob[offSalt:offCommit])]++
		nonces[string(blob[offNonce:offNonce+NonceSize])] = true
	}
	if len(salts) != 3 || len(nonces) != 2*sealsPerKey+1 {
		t.Errorf("%d wrapping keys and %d nonces for %d blobs", len(salts), len(nonces), 2*sealsPerKey+1)
	}
	for _, n := range salts {
		if n > sealsPerKey {
			t.Errorf("a wrapping key sealed %d blobs", n)
		}
	}
	other := c.mustWrap(t, crypto.NewDataKey(), Header{Material: [32]byte{2}})
	elsewhere, err := c.Wrap(m, h, "arn2", nil, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range [][]byte{other, elsewhere} {
		if salts[string(blob[offSalt:offCommit])] != 0 {
			t.Error("another material or ARN has the same wrapping key")
		}
	}
}

// TestCacheForgets: what is forgotten is wiped, also that which opened; and what is made up is not kept at all.
func TestCacheForgets(t *testing.T) {
	m, h := crypto.NewDataKey(), Header{Material: [32]byte{1}}
	m2, h2 := crypto.NewDataKey(), Header{Material: [32]byte{2}}
	before := crypto.LiveKeys()
	writer, c := NewCache(), NewCache()
	blob := writer.mustWrap(t, m, h)
	if writer.forgetAll(); crypto.LiveKeys() != before {
		t.Fatalf("%d keys, before %d", crypto.LiveKeys(), before)
	}
	c.mustWrap(t, m2, h2)
	for range 3 {
		if p, err := c.Unwrap(m, "arn", nil, blob); err != nil || string(p) != "secret" {
			t.Fatalf("%q, %v", p, err)
		}
	}
	if n := crypto.LiveKeys() - before; n != 2 {
		t.Errorf("%d wrapping keys, not 2", n)
	}
	forged := bytes.Clone(blob)
	forged[offSalt] ^= 1
	if _, err := c.Unwrap(m, "arn", nil, forged); !errors.Is(err, ErrInvalidCiphertext) {
		t.Error(err)
	}
	if n := crypto.LiveKeys() - before; n != 2 {
		t.Errorf("%d wrapping keys after one was made up, not 2", n)
	}
	if c.Forget(h.Material); crypto.LiveKeys() != before+1 || len(c.bySalt) != 1 || len(c.sealing) != 1 {
		t.Errorf("%d keys and %d, %d entries after one of two materials was forgotten", crypto.LiveKeys()-before, len(c.bySalt), len(c.sealing))
	}
	if c.forgetAll(); crypto.LiveKeys() != before || len(c.bySalt) != 0 || len(c.sealing) != 0 {
		t.Errorf("%d keys and %d, %d entries after all was forgotten", crypto.LiveKeys()-before, len(c.bySalt), len(c.sealing))
	}
}

// TestCacheIsBounded, and what had to go is made anew.
func TestCacheIsBounded(t *testing.T) {
	before, c := crypto.LiveKeys(), NewCache()
	var blobs [maxCached + 50]crypto.WrappedKey
	m := crypto.NewDataKey()
	defer m.Wipe()
	for i := range blobs {
		blobs[i] = c.mustWrap(t, m, Header{Material: [32]byte{byte(i), byte(i >> 8)}})
	}
	if len(c.bySalt) != maxCached || len(c.sealing) != maxCached || crypto.LiveKeys()-before != maxCached+1 {
		t.Errorf("%d and %d entries, %d keys", len(c.bySalt), len(c.sealing), crypto.LiveKeys()-before)
	}
	for _, blob := range blobs {
		if p, err := c.Unwrap(m, "arn", nil, blob); err != nil || string(p) != "secret" {
			t.Fatalf("%q, %v", p, err)
		}
	}
	if c.forgetAll(); crypto.LiveKeys()-before != 1 {
		t.Errorf("%d keys", crypto.LiveKeys()-before)
	}
}

// TestCacheAtOnce: many callers, of more materials than there is room for; nobody meets a wiped key, and none stays.
func TestCacheAtOnce(t *testing.T) {
	before, c := crypto.LiveKeys(), NewCache()
	m := crypto.NewDataKey()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2 * maxCached {
				h := Header{Material: [32]byte{byte(i), byte(i >> 8)}}
				want := fmt.Appendf(nil, "%d of %d", i, g)
				blob, err := c.Wrap(m, h, "arn", nil, want)
				if err != nil {
					t.Error(err)
					return
				}
				if i%7 == 0 {
					c.Forget(h.Material)
				}
				if p, err := c.Unwrap(m, "arn", nil, blob); err != nil || !bytes.Equal(p, want) {
					t.Errorf("%q, %v", p, err)
				}
			}
		})
	}
	wg.Wait()
	c.forgetAll()
	if m.Wipe(); crypto.LiveKeys() != before {
		t.Errorf("%d keys, before %d", crypto.LiveKeys(), before)
	}
}
