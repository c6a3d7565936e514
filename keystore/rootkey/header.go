package rootkey

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kmsfs/kmsfs/crypto"
)

const (
	magic         = "kmsfs store"
	formatVersion = 1
	macInfo       = "kmsfs/rootkey/header-mac/v1"
)

// knownIncompatible are the incompatible feature flags this version handles:
// none yet. A store with any other must not be opened. Compatible flags that
// are unknown are kept and ignored.
var knownIncompatible = []string{}

var (
	accountPattern = regexp.MustCompile(`^[0-9]{12}$`)
	regionPattern  = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$`)
	flagPattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
)

// header is kmsfs.json. The order of the fields is the order of the bytes
// that the MAC covers.
type header struct {
	Magic        string   `json:"magic"`
	Version      int      `json:"version"`
	Incompatible []string `json:"incompatible"`
	Compatible   []string `json:"compatible"`
	Store        string   `json:"store"`
	Account      string   `json:"account"`
	Region       string   `json:"region"`
	Created      string   `json:"created"`
	Slots        []slot   `json:"slots"`
	MAC          []byte   `json:"mac,omitempty"`
}

// slot is one wrapping of the root key.
type slot struct {
	ID      string  `json:"id"`
	Kind    Kind    `json:"kind"`
	Name    string  `json:"name,omitempty"`
	Created string  `json:"created"`
	Salt    []byte  `json:"salt"`
	Argon2  *Argon2 `json:"argon2id,omitempty"`
	Wrapped []byte  `json:"wrapped"`
}

// parse reads a header and checks everything that can be checked without the
// root key. The version is looked at before the shape, so that a newer format
// is reported as newer and not as damaged.
func parse(b []byte) (*header, error) {
	if len(b) > MaxHeaderSize {
		return nil, fmt.Errorf("%w: %d bytes are more than %d", ErrDamaged, len(b), MaxHeaderSize)
	}
	var first struct {
		Magic        string   `json:"magic"`
		Version      int      `json:"version"`
		Incompatible []string `json:"incompatible"`
	}
	if err := json.Unmarshal(b, &first); err != nil {
		return nil, fmt.Errorf("%w: not JSON: %w", ErrDamaged, err)
	}
	if first.Magic != magic {
		return nil, fmt.Errorf("%w: the magic %q is missing", ErrDamaged, magic)
	}
	if first.Version != formatVersion {
		return nil, fmt.Errorf("%w: its format version is %d, this program knows %d", ErrUnsupported, first.Version, formatVersion)
	}
	if unknown := unknownFlags(first.Incompatible); len(unknown) > 0 {
		return nil, fmt.Errorf("%w: it uses %s, which this program does not know", ErrUnsupported, strings.Join(unknown, ", "))
	}
	h := new(header)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(h); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: bytes after its end", ErrDamaged)
	}
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return h, nil
}

func unknownFlags(flags []string) []string {
	var unknown []string
	for _, f := range flags {
		if !slices.Contains(knownIncompatible, f) {
			unknown = append(unknown, fmt.Sprintf("%.64q", f))
		}
	}
	return unknown
}

func (h *header) check() error {
	if len(h.MAC) != sha256.Size {
		return fmt.Errorf("a MAC of %d bytes", len(h.MAC))
	}
	if len(h.Compatible) > 64 {
		return errors.New("too many flags")
	}
	for _, f := range h.Compatible {
		if !flagPattern.MatchString(f) {
			return fmt.Errorf("the flag %.64q is malformed", f)
		}
	}
	if err := checkUUID(h.Store); err != nil {
		return fmt.Errorf("store id: %w", err)
	}
	if err := CheckPlace(h.Account, h.Region); err != nil {
		return err
	}
	if _, err := time.Parse(time.RFC3339, h.Created); err != nil {
		return errors.New("the creation time is malformed")
	}
	if len(h.Slots) == 0 || len(h.Slots) > MaxSlots {
		return fmt.Errorf("%d unlock slots are outside 1..%d", len(h.Slots), MaxSlots)
	}
	seen := map[string]bool{}
	for i := range h.Slots {
		s := &h.Slots[i]
		if err := s.check(); err != nil {
			return fmt.Errorf("slot %d: %w", i, err)
		}
		if seen[s.ID] {
			return fmt.Errorf("slot %d: its id appears twice", i)
		}
		seen[s.ID] = true
	}
	return nil
}

func (s *slot) check() error {
	if err := checkUUID(s.ID); err != nil {
		return err
	}
	if len(s.Name) > MaxNameLen || strings.ContainsRune(s.Name, 0) {
		return errors.New("its name is malformed")
	}
	if _, err := time.Parse(time.RFC3339, s.Created); err != nil {
		return errors.New("its creation time is malformed")
	}
	if len(s.Salt) != saltSize || len(s.Wrapped) != wrappedSize {
		return errors.New("its salt or wrapped key has the wrong length")
	}
	switch s.Kind {
	case KindPassphrase:
		if s.Argon2 == nil {
			return errors.New("a passphrase slot without parameters")
		}
		return s.Argon2.check()
	case KindKeyFile, KindCredential:
		if s.Argon2 != nil || s.Name == "" {
			return fmt.Errorf("a malformed %s slot", s.Kind)
		}
		return nil
	default:
		return fmt.Errorf("unknown kind %.64q", string(s.Kind))
	}
}

func checkUUID(s string) error {
	u, err := uuid.Parse(s)
	if err != nil || u.String() != s {
		return errors.New("not a lower-case UUID with dashes")
	}
	return nil
}

// CheckPlace says what is wrong with an account id or a region.
func CheckPlace(account, region string) error {
	if !accountPattern.MatchString(account) {
		return fmt.Errorf("the account id %.64q is not 12 digits", account)
	}
	if !regionPattern.MatchString(region) {
		return fmt.Errorf("the region %.64q is not lower-case letters, digits and dashes", region)
	}
	return nil
}

// encode gives the file's bytes. The MAC covers the compact encoding of the
// same header without its mac field.
func (h *header) encode() ([]byte, error) {
	b, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the store's header: %w", err)
	}
	return append(b, '\n'), nil
}

func (h *header) mac(root *crypto.DataKey) ([]byte, error) {
	bare := *h
	bare.MAC = nil
	b, err := json.Marshal(&bare)
	if err != nil {
		return nil, fmt.Errorf("encode the store's header: %w", err)
	}
	key := root.Derive(nil, macInfo)
	defer key.Wipe()
	sum := key.MAC(b)
	return sum[:], nil
}

// verify proves that the header is the one a holder of the root key wrote.
func (h *header) verify(root *crypto.DataKey) error {
	want, err := h.mac(root)
	if err != nil {
		return err
	}
	if !hmac.Equal(want, h.MAC) {
		return fmt.Errorf("%w: its authentication code does not match", ErrDamaged)
	}
	return nil
}

func (h *header) info() Info {
	created, _ := time.Parse(time.RFC3339, h.Created)
	info := Info{
		Version: h.Version, Incompatible: slices.Clone(h.Incompatible), Compatible: slices.Clone(h.Compatible),
		Store: uuid.MustParse(h.Store), StoreID: h.Store, Account: h.Account, Region: h.Region, Created: created,
	}
	for i := range h.Slots {
		info.Slots = append(info.Slots, h.Slots[i].info())
	}
	return info
}

func (s *slot) info() SlotInfo {
	created, _ := time.Parse(time.RFC3339, s.Created)
	return SlotInfo{ID: s.ID, Kind: s.Kind, Name: s.Name, Created: created}
}
