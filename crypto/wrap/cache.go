package wrap

import (
	"crypto/rand"
	"sync"

	"github.com/kmsfs/kmsfs/crypto"
)

const (
	// sealsPerKey is how many blobs of version 2 one wrapping key seals. FORMAT.md says what that means for the nonces.
	sealsPerKey = 4096
	// maxCached is how many wrapping keys a Cache holds; each takes a place of 768 bytes of locked memory.
	maxCached = 256
)

// Cache keeps wrapping keys of version 2: for each material the one that seals, and those that opened something lately. Blobs that
// were made one after the other share one, so that who opens many finds it here as a rule. Methods may be called concurrently, but
// not with Forget of the same material: whoever takes a material away sees to it that nobody uses it any more.
type Cache struct {
	mu      sync.Mutex // a leaf
	bySalt  map[[saltSize]byte]*cached
	sealing map[sealer]*cached // all of them in bySalt
}

// sealer is what a wrapping key for sealing is kept by.
type sealer struct {
	material [materialSize]byte
	keyARN   string
}

type cached struct {
	*derived
	of   sealer
	left int // blobs that it may still seal; Cache.mu
}

// NewCache makes an empty one.
func NewCache() *Cache {
	return &Cache{bySalt: map[[saltSize]byte]*cached{}, sealing: map[sealer]*cached{}}
}

// Wrap seals 1 to MaxPlaintext bytes, in version 2. keyARN and ctx must be given again to Unwrap. The material is that which h names.
func (c *Cache) Wrap(material *crypto.DataKey, h Header, keyARN string, ctx crypto.Context, plaintext []byte) (crypto.WrappedKey, error) {
	of := sealer{h.Material, keyARN}
	k := c.sealer(of)
	if k == nil {
		var salt [saltSize]byte
		_, _ = rand.Read(salt[:]) // never fails
		k = c.put(&cached{derive(material, salt, keyARN, infoPrefix2), of, sealsPerKey - 1}, true)
	}
	defer k.aead.Wipe()
	var nonce [NonceSize]byte
	_, _ = rand.Read(nonce[:])
	return k.seal(h, &nonce, keyARN, ctx, plaintext)
}

// Unwrap is the package's Unwrap. The material is that which the blob's header names.
func (c *Cache) Unwrap(material *crypto.DataKey, keyARN string, ctx crypto.Context, blob []byte) ([]byte, error) {
	h, size, err := parse(blob)
	if err != nil || size == HeaderSize {
		return Unwrap(material, keyARN, ctx, blob)
	}
	of, salt := sealer{h.Material, keyARN}, [saltSize]byte(blob[offSalt:offCommit])
	k := c.opener(of, salt)
	if k == nil {
		k = &cached{derive(material, salt, keyARN, infoPrefix2), of, 0}
		plaintext, err := k.open(size, keyARN, ctx, blob)
		if err != nil { // what somebody made up takes the place of nothing
			k.aead.Wipe()
			return nil, err
		}
		c.put(k, false).aead.Wipe()
		return plaintext, nil
	}
	defer k.aead.Wipe()
	return k.open(size, keyARN, ctx, blob)
}

// Forget wipes the wrapping keys of a material.
func (c *Cache) Forget(material [32]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.bySalt {
		if k.of.material == material {
			c.drop(k)
		}
	}
}

// sealer gives the wrapping key that seals, held for the caller and for one blob; nil if there is none.
func (c *Cache) sealer(of sealer) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.sealing[of]
	if k == nil || k.left == 0 || !k.aead.Hold() {
		return nil
	}
	k.left--
	return k
}

// opener gives a wrapping key, held for the caller; nil if it is not here.
func (c *Cache) opener(of sealer, salt [saltSize]byte) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.bySalt[salt]
	if k == nil || k.of != of || !k.aead.Hold() {
		return nil
	}
	return k
}

// put keeps a wrapping key, which is returned, held for the caller. If there are too many, any other one goes.
func (c *Cache) put(k *cached, seals bool) *cached {
	k.aead.Hold()
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.bySalt[k.salt]; old != nil {
		c.drop(old)
	}
	for _, other := range c.bySalt {
		if len(c.bySalt) < maxCached {
			break
		}
		c.drop(other)
	}
	c.bySalt[k.salt] = k
	if seals {
		c.sealing[k.of] = k
	}
	return k
}

// drop ends the cache's hold; mu is held.
func (c *Cache) drop(k *cached) {
	delete(c.bySalt, k.salt)
	if c.sealing[k.of] == k {
		delete(c.sealing, k.of)
	}
	k.aead.Wipe()
}
