// Package rootkey keeps a store's header, kmsfs.json: what the store is, which
// format it has, and the root key, wrapped once per unlock slot.
//
// The root key is 32 random bytes made at Init and never changed. Everything
// sealed in a store hangs from it, through keys derived by name. A slot wraps
// it under a secret of one kind: a key file, a passphrase (argon2id) or a
// systemd credential. Slots are added and removed without touching data; the
// last one cannot be removed.
//
// The header is small, public in shape and authenticated as a whole: an
// HMAC-SHA256 under a key derived from the root key covers every field, so an
// edited account, flag or slot is noticed as soon as the store is unlocked.
// Writes are atomic (temporary file, fsync, rename, fsync of the directory).
// Callers that change a header hold the store's lock; this package takes none.
//
// What it is not: it does not defend against an attacker who puts back a
// whole older header together with a secret he still knows (removing a slot
// does not change the root key), and it keeps no per-user secrets.
//
// FORMAT.md has the layout, the limits and a worked example.
package rootkey

import (
	"errors"
	"fmt"
	"time"
)

// The names of the files this package writes inside a store.
const (
	HeaderFile     = "kmsfs.json" // the header
	DefaultKeyFile = "root.key"   // the key file of the first slot, unless another is named
)

// Limits of a header. A file that exceeds one is refused before it is used.
const (
	MaxHeaderSize  = 64 << 10 // bytes of kmsfs.json
	MaxSlots       = 16
	MaxNameLen     = 1024 // bytes of a slot's name (a path or a credential's name)
	MaxPassphrase  = 4096 // bytes
	MinSecretBytes = 32   // bytes of a key file or credential
	MaxSecretBytes = 4096

	maxMemoryKiB = 2 << 20 // argon2id memory, 2 GiB
	minMemoryKiB = 8
	maxPasses    = 64
	maxLanes     = 64
)

// Kind says what opens a slot.
type Kind string

// The kinds of slot.
const (
	KindKeyFile    Kind = "key-file"
	KindPassphrase Kind = "passphrase"
	KindCredential Kind = "systemd-credential"
)

// Errors that callers tell apart.
var (
	ErrNoStore         = errors.New("no kmsfs store here")
	ErrExists          = errors.New("a kmsfs store exists here already")
	ErrUnsupported     = errors.New("the store needs another version of kmsfs")
	ErrDamaged         = errors.New("the store's header is damaged or was changed")
	ErrWrongSecret     = errors.New("the secret does not open the slot")
	ErrWrongPassphrase = fmt.Errorf("wrong passphrase: %w", ErrWrongSecret)
	ErrLocked          = errors.New("no unlock slot could be opened")
	ErrLastSlot        = errors.New("the last unlock slot cannot be removed")
	ErrNoSlot          = errors.New("no such unlock slot")
	ErrExposed         = errors.New("the key file is accessible to other users")
	ErrInvalid         = errors.New("invalid value")
)

// Argon2 are the parameters of the passphrase hash, stored with each slot.
type Argon2 struct {
	MemoryKiB uint32 `json:"memory_kib"`
	Passes    uint32 `json:"passes"`
	Lanes     uint8  `json:"lanes"`
}

// DefaultArgon2 is the second recommended option of RFC 9106: 64 MiB, about a
// fifth of a second on one core.
var DefaultArgon2 = Argon2{MemoryKiB: 64 << 10, Passes: 3, Lanes: 4}

func (a Argon2) check() error {
	switch {
	case a.MemoryKiB < minMemoryKiB || a.MemoryKiB > maxMemoryKiB:
		return fmt.Errorf("argon2id memory of %d KiB is outside %d..%d", a.MemoryKiB, minMemoryKiB, maxMemoryKiB)
	case a.Passes < 1 || a.Passes > maxPasses:
		return fmt.Errorf("argon2id passes %d are outside 1..%d", a.Passes, maxPasses)
	case a.Lanes < 1 || a.Lanes > maxLanes:
		return fmt.Errorf("argon2id lanes %d are outside 1..%d", a.Lanes, maxLanes)
	case a.MemoryKiB < 8*uint32(a.Lanes):
		return fmt.Errorf("argon2id memory of %d KiB is too small for %d lanes", a.MemoryKiB, a.Lanes)
	}
	return nil
}

// SlotInfo describes one slot without its secret parts.
type SlotInfo struct {
	ID      string    `json:"id"`
	Kind    Kind      `json:"kind"`
	Name    string    `json:"name,omitempty"` // key file path (relative to the store) or credential name
	Created time.Time `json:"created"`
}

// Info describes a store: what its header says once it has been read.
type Info struct {
	Version      int        `json:"version"`
	Incompatible []string   `json:"incompatible"`
	Compatible   []string   `json:"compatible"`
	Store        [16]byte   `json:"-"`
	StoreID      string     `json:"store"`
	Account      string     `json:"account"`
	Region       string     `json:"region"`
	Created      time.Time  `json:"created"`
	Slots        []SlotInfo `json:"slots"`
}
