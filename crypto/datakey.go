package crypto

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync/atomic"
)

// KeySize is the length of a data key in bytes.
const KeySize = 32

const redacted = "[redacted]"

// ErrSecret is what every attempt to marshal or unmarshal a DataKey returns.
var ErrSecret = errors.New("crypto: a data key is never marshalled")

// WrappedKey is a data key sealed under key material (see crypto/wrap). It is
// not secret.
type WrappedKey []byte

// DataKey is a secret of KeySize bytes. The zero value is a wiped key. Methods
// may be called concurrently, with one exception that no lock could mend:
// whoever calls Wipe must know that nobody still uses what Expose returned,
// for another key may have its place from then on. Holders with a life of their own therefore take a Clone.
type DataKey struct {
	// The secret sits in a closure. In an unexported field of somebody's struct
	// fmt calls no methods and, given a verb that does not fit, follows
	// pointers; it sees nothing of a function but its address. Nor does == or
	// reflect.DeepEqual compare functions.
	open func() *secret
}

type secret struct {
	wiped  atomic.Bool
	b      *[KeySize]byte // in the arena
	inside bool
}

func newKey() (*DataKey, *secret) {
	s := new(secret)
	s.b, s.inside = keys.take()
	return &DataKey{open: func() *secret { return s }}, s
}

// NewDataKey draws a random key from the operating system.
func NewDataKey() *DataKey {
	k, s := newKey()
	_, _ = rand.Read(s.b[:]) // never fails: crypto/rand ends the process instead
	return k
}

// DataKeyFromBytes takes over KeySize bytes: it copies them and wipes b, also
// when it refuses b for its length.
func DataKeyFromBytes(b []byte) (*DataKey, error) {
	defer wipe(b)
	if len(b) != KeySize {
		return nil, fmt.Errorf("crypto: data key of %d bytes, want %d", len(b), KeySize)
	}
	k, s := newKey()
	copy(s.b[:], b)
	return k, nil
}

// Expose returns the key's own bytes, in locked memory, valid until Wipe. The caller neither
// keeps, prints, copies nor changes them. It panics if the key is wiped.
func (k *DataKey) Expose() []byte {
	if k == nil || k.open == nil {
		panic("crypto: use of an empty data key")
	}
	s := k.open()
	if s.wiped.Load() {
		panic("crypto: use of a wiped data key")
	}
	return s.b[:]
}

// Clone returns an independent copy, which lives until its own Wipe.
func (k *DataKey) Clone() *DataKey {
	c, s := newKey()
	copy(s.b[:], k.Expose())
	return c
}

// Wipe overwrites the key. Wiping a nil or wiped key does nothing.
func (k *DataKey) Wipe() {
	if k == nil || k.open == nil {
		return
	}
	if s := k.open(); !s.wiped.Swap(true) {
		wipe(s.b[:])
		keys.give(s.b, s.inside)
	}
}

// Wiped reports whether Expose would panic.
func (k *DataKey) Wiped() bool { return k == nil || k.open == nil || k.open().wiped.Load() }

// Equal compares two live keys in constant time.
func (k *DataKey) Equal(o *DataKey) bool {
	return subtle.ConstantTimeCompare(k.Expose(), o.Expose()) == 1
}

// Derive returns HKDF-SHA256(secret = k, salt, info), KeySize bytes. Distinct
// (salt, info) give independent keys.
func (k *DataKey) Derive(salt []byte, info string) *DataKey {
	d, s := newKey()
	HKDF(s.b[:], k.Expose(), salt, info)
	return d
}

// Format prints "[redacted]" whatever the verb and flags.
func (DataKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String returns "[redacted]".
func (DataKey) String() string { return redacted }

// GoString returns "[redacted]".
func (DataKey) GoString() string { return redacted }

// LogValue makes slog print "[redacted]".
func (DataKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON fails with ErrSecret, and so do the other marshallers.
func (DataKey) MarshalJSON() ([]byte, error) { return nil, ErrSecret }

// MarshalText fails with ErrSecret.
func (DataKey) MarshalText() ([]byte, error) { return nil, ErrSecret }

// MarshalBinary fails with ErrSecret.
func (DataKey) MarshalBinary() ([]byte, error) { return nil, ErrSecret }

// GobEncode fails with ErrSecret.
func (DataKey) GobEncode() ([]byte, error) { return nil, ErrSecret }

// UnmarshalJSON fails with ErrSecret.
func (*DataKey) UnmarshalJSON([]byte) error { return ErrSecret }

// UnmarshalText fails with ErrSecret.
func (*DataKey) UnmarshalText([]byte) error { return ErrSecret }

// UnmarshalBinary fails with ErrSecret.
func (*DataKey) UnmarshalBinary([]byte) error { return ErrSecret }

// GobDecode fails with ErrSecret.
func (*DataKey) GobDecode([]byte) error { return ErrSecret }

func wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(b)
}
