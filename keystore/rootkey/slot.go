package rootkey

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/kmsfs/kmsfs/crypto"
)

const (
	saltSize    = 32
	wrappedSize = chacha20poly1305.NonceSizeX + crypto.KeySize + chacha20poly1305.Overhead
	kekInfo     = "kmsfs/rootkey/slot/v1"
)

// Secret is what opens a slot. It is made by NewKeyFile, KeyFile, Passphrase
// or Credential, and never printed.
type Secret struct {
	kind  Kind
	name  string
	bytes []byte
	cost  Argon2
}

// String names the secret without showing it.
func (s Secret) String() string { return strings.TrimSpace(string(s.kind) + " " + s.name) }

// GoString is String: a secret has no other shape.
func (s Secret) GoString() string { return s.String() }

// Wipe overwrites the secret's bytes.
func (s Secret) Wipe() { clear(s.bytes) }

// Passphrase is a secret typed or read from a file. cost is used when a slot
// is made; the zero value means DefaultArgon2. It copies phrase.
func Passphrase(phrase []byte, cost Argon2) (Secret, error) {
	if len(phrase) == 0 {
		return Secret{}, fmt.Errorf("%w: an empty passphrase", ErrInvalid)
	}
	if len(phrase) > MaxPassphrase {
		return Secret{}, fmt.Errorf("%w: a passphrase of more than %d bytes", ErrInvalid, MaxPassphrase)
	}
	if cost == (Argon2{}) {
		cost = DefaultArgon2
	}
	if err := cost.check(); err != nil {
		return Secret{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return Secret{kind: KindPassphrase, bytes: append([]byte(nil), phrase...), cost: cost}, nil
}

// NewKeyFile writes a key file of 32 random bytes, mode 0600, that must not
// exist yet, and makes it durable. A relative path is taken from the store's
// directory, where the slot will look for it.
func NewKeyFile(dir, path string) (Secret, error) {
	full := resolve(dir, path)
	key := make([]byte, MinSecretBytes)
	_, _ = rand.Read(key) // never fails
	f, err := os.OpenFile(full, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Secret{}, fmt.Errorf("make the key file: %w", err)
	}
	_, err = f.Write(key)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = syncDir(filepath.Dir(full))
	}
	if err != nil {
		_ = os.Remove(full)
		return Secret{}, fmt.Errorf("make the key file: %w", err)
	}
	return Secret{kind: KindKeyFile, name: path, bytes: key}, nil
}

// KeyFile reads an existing key file: 32 to 4096 bytes that nobody but the
// owner may access. A relative path is taken from the store's directory.
func KeyFile(dir, path string) (Secret, error) {
	full := resolve(dir, path)
	st, err := os.Stat(full)
	if err != nil {
		return Secret{}, fmt.Errorf("read the key file: %w", err)
	}
	if st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		return Secret{}, fmt.Errorf("%w: %s has mode %#o", ErrExposed, full, st.Mode().Perm())
	}
	b, err := readSecret(full)
	if err != nil {
		return Secret{}, fmt.Errorf("read the key file: %w", err)
	}
	return Secret{kind: KindKeyFile, name: path, bytes: b}, nil
}

// Credential reads the systemd credential name from its directory, which a
// service finds in $CREDENTIALS_DIRECTORY.
func Credential(dir, name string) (Secret, error) {
	if !isCredential(name) {
		return Secret{}, fmt.Errorf("%w: the credential name %q", ErrInvalid, name)
	}
	if dir == "" {
		return Secret{}, fmt.Errorf("read the credential %s: %w", name, fs.ErrNotExist)
	}
	b, err := readSecret(filepath.Join(dir, name))
	if err != nil {
		return Secret{}, fmt.Errorf("read the credential: %w", err)
	}
	return Secret{kind: KindCredential, name: name, bytes: b}, nil
}

// Parts takes a secret apart, to hand it to the process that has the store.
// The bytes are the secret's own: Wipe clears them.
func (s Secret) Parts() (kind Kind, name string, secret []byte) { return s.kind, s.name, s.bytes }

// SecretOf puts the parts of a secret together. It copies the bytes.
func SecretOf(kind Kind, name string, secret []byte) (Secret, error) {
	switch kind {
	case KindPassphrase:
		return Passphrase(secret, Argon2{})
	case KindKeyFile:
		if name == "" {
			return Secret{}, fmt.Errorf("%w: no path of the key file", ErrInvalid)
		}
	case KindCredential:
		if !isCredential(name) {
			return Secret{}, fmt.Errorf("%w: the credential name %q", ErrInvalid, name)
		}
	default:
		return Secret{}, fmt.Errorf("%w: unknown kind of slot %.64q", ErrInvalid, kind)
	}
	if len(secret) < MinSecretBytes || len(secret) > MaxSecretBytes {
		return Secret{}, fmt.Errorf("%w: a secret of %d bytes, wanted are %d to %d", ErrInvalid, len(secret), MinSecretBytes, MaxSecretBytes)
	}
	return Secret{kind: kind, name: name, bytes: bytes.Clone(secret)}, nil
}

func isCredential(name string) bool {
	return name != "" && name == filepath.Base(name) && name != "." && name != ".." && name != string(filepath.Separator)
}

func resolve(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, MaxSecretBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) < MinSecretBytes || len(b) > MaxSecretBytes {
		clear(b)
		return nil, fmt.Errorf("%w: %s has %d bytes, wanted are %d to %d", ErrInvalid, path, len(b), MinSecretBytes, MaxSecretBytes)
	}
	return b, nil
}

// kek turns a slot's secret into the key that wraps the root key. Every slot
// has its own random salt, so no two slots share one.
func (s *slot) kek(secret Secret) (*crypto.DataKey, error) {
	ikm := secret.bytes
	if s.Kind == KindPassphrase {
		ikm = argon2.IDKey(secret.bytes, s.Salt, s.Argon2.Passes, s.Argon2.MemoryKiB, s.Argon2.Lanes, crypto.KeySize)
		defer clear(ikm)
	}
	// DataKey takes exactly 32 bytes; longer key files are condensed by the
	// same HKDF that every derivation in kmsfs uses.
	base, err := condense(ikm)
	if err != nil {
		return nil, err
	}
	defer base.Wipe()
	return base.Derive(s.Salt, kekInfo), nil
}

// ad binds a wrapping to its store and slot, so that none can be moved.
func (s *slot) ad(store string) []byte {
	return []byte("kmsfs slot\x00" + store + "\x00" + s.ID + "\x00" + string(s.Kind) + "\x00" + s.Name)
}

func (s *slot) aead(secret Secret) (cipher.AEAD, error) {
	kek, err := s.kek(secret)
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	return chacha20poly1305.NewX(kek.Expose())
}

// newSlot wraps root under secret.
func newSlot(store string, root *crypto.DataKey, secret Secret, now time.Time) (slot, error) {
	s := slot{ID: uuid.NewString(), Kind: secret.kind, Name: secret.name, Created: stamp(now), Salt: make([]byte, saltSize)}
	_, _ = rand.Read(s.Salt)
	if s.Kind == KindPassphrase {
		cost := secret.cost
		s.Argon2 = &cost
	}
	aead, err := s.aead(secret)
	if err != nil {
		return slot{}, fmt.Errorf("wrap the root key: %w", err)
	}
	nonce := make([]byte, aead.NonceSize(), wrappedSize)
	_, _ = rand.Read(nonce)
	s.Wrapped = aead.Seal(nonce, nonce, root.Expose(), s.ad(store))
	return s, s.check()
}

// open unwraps the root key, or says ErrWrongSecret.
func (s *slot) open(store string, secret Secret) (*crypto.DataKey, error) {
	aead, err := s.aead(secret)
	if err != nil {
		return nil, err
	}
	n := aead.NonceSize()
	plain, err := aead.Open(nil, s.Wrapped[:n], s.Wrapped[n:], s.ad(store))
	if err != nil {
		if s.Kind == KindPassphrase {
			return nil, ErrWrongPassphrase
		}
		return nil, fmt.Errorf("%s: %w", secret, ErrWrongSecret)
	}
	return crypto.DataKeyFromBytes(plain)
}

var errShort = errors.New("a secret of fewer than 32 bytes")
