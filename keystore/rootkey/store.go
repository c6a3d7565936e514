package rootkey

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/kmsfs/kmsfs/crypto"
)

// Defaults of Init.
const (
	DefaultAccount = "000000000000"
	DefaultRegion  = "us-east-1"
)

// InitOptions say what a new store is.
type InitOptions struct {
	Account string // 12 digits; "" = DefaultAccount
	Region  string // "" = DefaultRegion
	Secret  Secret // opens the first slot
	Now     time.Time
}

// Init writes the header of a new store into dir, which must exist, and
// returns the new root key. ErrExists if there is a header already.
func Init(dir string, o InitOptions) (Info, *crypto.DataKey, error) {
	if o.Account == "" {
		o.Account = DefaultAccount
	}
	if o.Region == "" {
		o.Region = DefaultRegion
	}
	if err := CheckPlace(o.Account, o.Region); err != nil {
		return Info{}, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, HeaderFile)); err == nil {
		return Info{}, nil, ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Info{}, nil, fmt.Errorf("make the store's header: %w", err)
	}
	h := &header{
		Magic: magic, Version: formatVersion, Incompatible: []string{}, Compatible: []string{},
		Store: uuid.NewString(), Account: o.Account, Region: o.Region, Created: stamp(o.Now),
	}
	root := crypto.NewDataKey()
	s, err := newSlot(h.Store, root, o.Secret, o.Now)
	if err == nil {
		h.Slots = []slot{s}
		err = write(dir, h, root)
	}
	if err != nil {
		root.Wipe()
		return Info{}, nil, err
	}
	return h.info(), root, nil
}

// Read returns what the header in dir says, without unlocking it: nothing in
// it is authenticated yet. ErrNoStore, ErrUnsupported, ErrDamaged.
func Read(dir string) (Info, error) {
	h, err := load(dir)
	if err != nil {
		return Info{}, err
	}
	return h.info(), nil
}

// Unlocker says where Open may look for secrets.
type Unlocker struct {
	// KeyFile is tried on every slot of a key file before the file that the slot names; "" = none.
	KeyFile string
	// CredentialDir is $CREDENTIALS_DIRECTORY; "" = there are none.
	CredentialDir string
	// Passphrase is asked once, and only if no other slot opens. nil = there is none.
	Passphrase func() ([]byte, error)
}

// Open unlocks the store in dir: key files first, then credentials, then the
// passphrase. It returns the authenticated header and the root key.
// ErrLocked names every slot that was tried; a wrong passphrase is
// ErrWrongPassphrase.
func Open(dir string, u Unlocker) (Info, *crypto.DataKey, error) {
	h, err := load(dir)
	if err != nil {
		return Info{}, nil, err
	}
	return h.open(dir, u)
}

// OpenCopy is Open of a header that is not in a store: that of a backup. Names of key files that are not absolute are looked for in dir.
func OpenCopy(header []byte, dir string, u Unlocker) (Info, *crypto.DataKey, error) {
	h, err := parse(header)
	if err != nil {
		return Info{}, nil, err
	}
	return h.open(dir, u)
}

// Copy returns the header in dir as it is, once it has been authenticated.
func Copy(dir string, root *crypto.DataKey) ([]byte, error) {
	h, err := loadVerified(dir, root)
	if err != nil {
		return nil, err
	}
	return h.encode()
}

// Put writes a header that Copy gave into dir, where there must be none: ErrExists.
func Put(dir string, header []byte, root *crypto.DataKey) error {
	h, err := parse(header)
	if err != nil {
		return err
	}
	if err := h.verify(root); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, HeaderFile)); err == nil {
		return ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write the store's header: %w", err)
	}
	return write(dir, h, root)
}

func (h *header) open(dir string, u Unlocker) (Info, *crypto.DataKey, error) {
	root, err := h.unlock(dir, u)
	if err != nil {
		return Info{}, nil, err
	}
	if err := h.verify(root); err != nil {
		root.Wipe()
		return Info{}, nil, err
	}
	return h.info(), root, nil
}

func (h *header) unlock(dir string, u Unlocker) (*crypto.DataKey, error) {
	var tried []error
	for i := range h.Slots {
		s := &h.Slots[i]
		var secret Secret
		var err error
		switch s.Kind {
		case KindKeyFile:
			if u.KeyFile != "" {
				root, err := s.try(h.Store, dir, u.KeyFile)
				if err == nil {
					return root, nil
				}
				tried = append(tried, err)
			}
			secret, err = KeyFile(dir, s.Name)
		case KindCredential:
			secret, err = Credential(u.CredentialDir, s.Name)
		case KindPassphrase:
			continue
		}
		if err == nil {
			var root *crypto.DataKey
			root, err = s.open(h.Store, secret)
			secret.Wipe()
			if err == nil {
				return root, nil
			}
		}
		tried = append(tried, err)
	}
	root, err := h.unlockPassphrase(u)
	if root != nil {
		return root, nil
	}
	if err != nil {
		tried = append(tried, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrLocked, errors.Join(tried...))
}

// try opens a key file's slot with another file.
func (s *slot) try(store, dir, path string) (*crypto.DataKey, error) {
	secret, err := KeyFile(dir, path)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe()
	return s.open(store, secret)
}

// SlotOf finds the slot of a header that the key file at path, which is absolute, opens; ErrNoSlot if there is none.
func SlotOf(header []byte, path string) (SlotInfo, error) {
	h, err := parse(header)
	if err != nil {
		return SlotInfo{}, err
	}
	for i := range h.Slots {
		s := &h.Slots[i]
		if s.Kind != KindKeyFile {
			continue
		}
		if root, err := s.try(h.Store, "", path); err == nil {
			root.Wipe()
			return s.info(), nil
		}
	}
	return SlotInfo{}, fmt.Errorf("%w that %s opens", ErrNoSlot, path)
}

func (h *header) unlockPassphrase(u Unlocker) (*crypto.DataKey, error) {
	if !slices.ContainsFunc(h.Slots, func(s slot) bool { return s.Kind == KindPassphrase }) {
		return nil, nil
	}
	if u.Passphrase == nil {
		return nil, errors.New("a passphrase slot, and no passphrase was given")
	}
	phrase, err := u.Passphrase()
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	secret, err := Passphrase(phrase, Argon2{})
	clear(phrase)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe()
	for i := range h.Slots {
		if h.Slots[i].Kind != KindPassphrase {
			continue
		}
		root, err := h.Slots[i].open(h.Store, secret)
		if err == nil || !errors.Is(err, ErrWrongSecret) {
			return root, err
		}
	}
	return nil, ErrWrongPassphrase
}

// NeedsPassphrase says whether the store in dir has a passphrase slot and no
// key file or credential that looks usable, so that a program can ask for the
// phrase before it starts another one.
func NeedsPassphrase(dir string, u Unlocker) (bool, error) {
	h, err := load(dir)
	if err != nil {
		return false, err
	}
	has := slices.ContainsFunc(h.Slots, func(s slot) bool { return s.Kind == KindPassphrase })
	if !has {
		return false, nil
	}
	u.Passphrase = nil
	root, err := h.unlock(dir, u)
	if err == nil {
		root.Wipe()
		return false, nil
	}
	return true, nil
}

// AddSlot wraps root under one more secret and returns the new slot.
func AddSlot(dir string, root *crypto.DataKey, secret Secret, now time.Time) (SlotInfo, error) {
	h, err := loadVerified(dir, root)
	if err != nil {
		return SlotInfo{}, err
	}
	if len(h.Slots) >= MaxSlots {
		return SlotInfo{}, fmt.Errorf("%w: a store has at most %d unlock slots", ErrInvalid, MaxSlots)
	}
	s, err := newSlot(h.Store, root, secret, now)
	if err != nil {
		return SlotInfo{}, err
	}
	h.Slots = append(h.Slots, s)
	if err := write(dir, h, root); err != nil {
		return SlotInfo{}, err
	}
	return s.info(), nil
}

// RemoveSlot forgets the slot with that id (or a unique beginning of it).
// ErrLastSlot, ErrNoSlot. A key file stays where it is.
func RemoveSlot(dir string, root *crypto.DataKey, id string) (SlotInfo, error) {
	h, err := loadVerified(dir, root)
	if err != nil {
		return SlotInfo{}, err
	}
	at := -1
	for i := range h.Slots {
		if len(id) >= 4 && len(id) <= len(h.Slots[i].ID) && h.Slots[i].ID[:len(id)] == id {
			if at >= 0 {
				return SlotInfo{}, fmt.Errorf("%w: %q names several", ErrNoSlot, id)
			}
			at = i
		}
	}
	if at < 0 {
		return SlotInfo{}, fmt.Errorf("%w: %q", ErrNoSlot, id)
	}
	if len(h.Slots) == 1 {
		return SlotInfo{}, ErrLastSlot
	}
	gone := h.Slots[at].info()
	h.Slots = slices.Delete(h.Slots, at, at+1)
	return gone, write(dir, h, root)
}

func loadVerified(dir string, root *crypto.DataKey) (*header, error) {
	h, err := load(dir)
	if err != nil {
		return nil, err
	}
	return h, h.verify(root)
}

func load(dir string) (*header, error) {
	f, err := os.Open(filepath.Join(dir, HeaderFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoStore, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read the store's header: %w", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, MaxHeaderSize+1))
	if err != nil {
		return nil, fmt.Errorf("read the store's header: %w", err)
	}
	return parse(b)
}

// write seals h with its MAC and replaces the header atomically.
func write(dir string, h *header, root *crypto.DataKey) error {
	mac, err := h.mac(root)
	if err != nil {
		return err
	}
	h.MAC = mac
	b, err := h.encode()
	if err != nil {
		return err
	}
	if err := replace(dir, b); err != nil {
		return fmt.Errorf("write the store's header: %w", err)
	}
	return nil
}

func replace(dir string, b []byte) error {
	f, err := os.CreateTemp(dir, HeaderFile+".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, HeaderFile))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// condense makes a key of a secret of at least 32 bytes.
func condense(ikm []byte) (*crypto.DataKey, error) {
	if len(ikm) < MinSecretBytes {
		return nil, errShort
	}
	sum := sha256.Sum256(ikm)
	defer clear(sum[:])
	return crypto.DataKeyFromBytes(sum[:])
}
